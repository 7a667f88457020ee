"""Sums of products, written as an equation."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import onnxgrad
from onnxgrad.graph.equation import terms_of
from tests.harness import Case, check_rule

rng = np.random.default_rng(3)


def a(*shape: int) -> np.ndarray:
    return np.asarray(rng.normal(size=shape))


def case(equation: str, *inputs: np.ndarray, label: str = "", **options: object) -> Case:
    return Case("Einsum", inputs, {"equation": equation}, label=label or equation, **options)  # type: ignore[arg-type]


CASES = [
    case("ij,jk->ik", a(2, 3), a(3, 4)),
    case("ij,jk", a(2, 3), a(3, 4)),
    case("ij->ji", a(2, 3)),
    case("ba", a(2, 3)),
    case("ij->", a(2, 3)),
    case("ij->i", a(2, 3)),
    case("i,i->", a(3), a(3)),
    case("i,j->ij", a(2), a(3)),
    case("i,j->ji", a(2), a(3)),
    case("i,j->", a(2), a(3)),
    case("ij,ij->ij", a(2, 3), a(2, 3)),
    case(",i->i", a(), a(3)),
    case(",->", a(), a()),
    case("->", a()),
    case(" i j , j k -> i k ", a(2, 3), a(3, 4), label="spaces"),
    case("aA,AB->aB", a(2, 3), a(3, 4)),
    # diagonals
    case("ii->i", a(3, 3)),
    case("ii->", a(3, 3)),
    case("ii", a(3, 3)),
    case("iii->i", a(3, 3, 3)),
    case("iij->j", a(2, 2, 3)),
    case("iji,jk->ik", a(2, 3, 2), a(3, 4)),
    case("iijj->ij", a(2, 2, 3, 3)),
    case("ii,ij->j", a(3, 3), a(3, 2)),
    case("ii,ii->", a(3, 3), a(3, 3)),
    case("ii,jj->ij", a(3, 3), a(2, 2)),
    # letters of one operand only
    case("ijk,jl->il", a(2, 3, 2), a(3, 4)),
    case("ij,kl->il", a(2, 3), a(4, 5)),
    # more operands
    case("ij,jk,kl->il", a(2, 3), a(3, 4), a(4, 2)),
    case("i,i,i->i", a(3), a(3), a(3)),
    case("bi,ij,bj->b", a(4, 2), a(2, 3), a(4, 3)),
    case("ab,bc,cd,da->", a(2, 3), a(3, 2), a(2, 4), a(4, 2)),
    # ellipses
    case("...ij,...jk->...ik", a(2, 2, 3), a(2, 3, 4), label="batch"),
    case("...ij,...jk->...ik", a(5, 1, 2, 3), a(1, 2, 3, 4), label="batch-broadcast"),
    case("...ij,jk->...ik", a(2, 2, 3), a(3, 4), label="batch-left"),
    case("ij,...jk->...ik", a(2, 3), a(2, 2, 3, 4), label="batch-right"),
    case("i...j->...", a(2, 3, 2), label="ellipsis-middle"),
    case("i...,i...->...i", a(2, 3, 4), a(2, 1, 4), label="ellipsis-last"),
    case("...i,...i", a(2, 3), a(2, 3), label="ellipsis-implicit"),
    case("...ba", a(2, 3, 4), label="ellipsis-implicit-order"),
    case("...ii->...i", a(2, 3, 3), label="ellipsis-diagonal"),
    case("...,...->...", a(2, 3), a(2, 3), label="ellipsis-only"),
    case("...i,i->...", a(3), a(3), label="ellipsis-empty"),
    # a letter with size 1 in one operand and more in another
    case("ij,ij->j", a(1, 3), a(4, 3), label="broadcast-summed"),
    case("ij,ij->ij", a(1, 3), a(4, 1), label="broadcast-kept"),
    case("ij,j->i", a(2, 1), a(3), label="broadcast-one-side"),
    case("ii,i->i", a(1, 1), a(3), label="broadcast-diagonal"),
    case("ij,jk->ik", a(0, 3), a(3, 4), label="empty"),
    case("ij,jk->ik", a(2, 0), a(0, 4), label="empty-sum"),
    case("bqhd,bkhd->bhqk", a(1, 2, 2, 3), a(1, 4, 2, 3), label="attention"),
    case("ij,jk->ik", a(2, 3), a(3, 4), label="version-28", opset=28),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize(
    ("equation", "ranks", "expected"),
    [
        ("bA,Ac", (2, 2), (["bA", "Ac"], "bc")),
        ("Ba", (2,), (["Ba"], "Ba")),
        ("aB", (2,), (["aB"], "Ba")),  # upper case comes first in ASCII
        ("a...b,b", (4, 1), (["acdb", "b"], "cda")),
        ("...i,...i->...i", (3, 2), (["abi", "bi"], "abi")),
    ],
)
def test_terms(equation: str, ranks: tuple[int, ...], expected: tuple[list[str], str]) -> None:
    assert terms_of(equation, ranks) == expected


def make_batched(equation: str, weights: list[np.ndarray], rank: int) -> onnx.ModelProto:
    """An equation in a batch of samples ``x (N, 3, …)`` (as often as the equation takes it) and in weights."""
    count = len(equation.split("->")[0].split(",")) - len(weights)
    names = [f"w{i}" for i in range(len(weights))]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["N", *[3] * (rank - 1)])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)
    constants = [onnx.numpy_helper.from_array(w, name) for name, w in zip(names, weights, strict=True)]
    node = helper.make_node("Einsum", [*["x"] * count, *names], ["y"], equation=equation)
    graph = helper.make_graph([node], "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize(
    ("equation", "weights", "rank"),
    [
        ("ni,ij->nj", [a(3, 4)], 2),
        ("ij,ni->nj", [], 2),
        ("ni,ni->n", [], 2),
        ("ni,nj->nij", [], 2),
        ("...i,ij->...j", [a(3, 2)], 3),
        ("nij,jk,ni->nk", [a(3, 2)], 3),
    ],
)
def test_per_sample(equation: str, weights: list[np.ndarray], rank: int) -> None:
    if equation == "ij,ni->nj":  # the weight comes first, so that samples are on the second operand
        model = make_batched("ni,ij->nj", [a(3, 4)], 2)
    elif equation == "nij,jk,ni->nk":
        model = make_batched("nij,nij,jk->nk", weights, 3)
    else:
        model = make_batched(equation, weights, rank)
    with_jacobian = onnxgrad.jacobian(model, batched=True)
    full = onnxgrad.jacobian(model, batched=False)
    x = rng.normal(size=(2, *[3] * (rank - 1)))
    y, per_sample = ort.InferenceSession(with_jacobian.SerializeToString()).run(None, {"x": x})
    _, whole = ort.InferenceSession(full.SerializeToString()).run(None, {"x": x})
    for n in range(2):
        np.testing.assert_allclose(per_sample[n], np.take(whole[n], n, axis=y.ndim - 1), atol=1e-12)
