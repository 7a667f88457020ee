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
    case("bqhd,bkhd->bhqk", a(1, 2, 2, 3), a(1, 4, 2, 3), label="attention"),
    case("ij,jk->ik", a(2, 3), a(3, 4), label="version-28", opset=28),
]


EMPTY = [
    case("ij,jk->ik", a(0, 3), a(3, 4), label="empty", float32=None),
    case("ij,jk->ik", a(2, 0), a(0, 4), label="empty-sum", float32=None),
    case("bij,bjk->bik", a(0, 2, 3), a(0, 3, 2), label="empty-batch", float32=None),
    case("ii->i", a(0, 0), label="empty-diagonal", float32=None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize("case", EMPTY, ids=lambda case: case.name)
def test_empty(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # onnxruntime 1.32 divides by zero, and ends the process, where it has to transpose an empty operand of an Einsum
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(ort, "InferenceSession", refuse)
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


def make_batched(equation: str, operands: list[str], weight: np.ndarray) -> onnx.ModelProto:
    """An equation in samples ``x (N, 3)`` and ``z (N, 3, 3)``, both made from x, and in a weight w."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["N", 3])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)
    constants = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(np.array([2]), "two")]
    nodes = [
        helper.make_node("Unsqueeze", ["x", "two"], ["column"]),
        helper.make_node("Mul", ["column", "column"], ["square"]),
        helper.make_node("Expand", ["square", "shape"], ["z"]),
        helper.make_node("Einsum", operands, ["y"], name="n", equation=equation),
    ]
    constants.append(onnx.numpy_helper.from_array(np.array([1, 1, 3]), "shape"))
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize(
    ("equation", "operands"),
    [
        ("ni,ij->nj", ["x", "w"]),
        ("ij,ni->nj", ["w", "x"]),
        ("ni,ni->n", ["x", "x"]),
        ("ni,nj->nij", ["x", "x"]),
        ("...i,ij->...j", ["z", "w"]),
        ("nij,jk,ni->nk", ["z", "w", "x"]),
        ("njj->nj", ["z"]),
    ],
)
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_per_sample(equation: str, operands: list[str], mode: str) -> None:
    model = make_batched(equation, operands, rng.normal(size=(3, 3)))
    x = rng.normal(size=(2, 3))
    results = []
    for batched in (True, False):
        with_jacobian = onnxgrad.jacobian(model, batched=batched, mode=mode)  # type: ignore[arg-type]
        session = ort.InferenceSession(with_jacobian.SerializeToString())
        results.append(session.run(None, {"x": x}))
    (y, per_sample), (_, whole) = results
    assert np.abs(whole).max() > 0.1
    for n in range(2):
        np.testing.assert_allclose(per_sample[n], np.take(whole[n], n, axis=y.ndim - 1), atol=1e-12)


@pytest.mark.parametrize(("equation", "operands"), [("ni,nj->ij", ["x", "x"]), ("ni,mi->nm", ["x", "x"])])
def test_samples_mix(equation: str, operands: list[str]) -> None:
    model = make_batched(equation, operands, np.zeros((3, 3)))
    with pytest.raises(onnxgrad.MixedSamplesError, match="Einsum"):
        onnxgrad.jacobian(model, batched=True)


def test_seeds_are_not_spread_over_the_batch() -> None:
    """The seeds of a per-sample Jacobian are the same for all samples, so an equation leaves their batch axis out."""
    with_jacobian = onnxgrad.jacobian(make_batched("ni,ij->nj", ["x", "w"], np.ones((3, 3))), mode="reverse")
    equations = [a.s.decode() for node in with_jacobian.graph.node for a in node.attribute if a.name == "equation"]
    assert equations == ["ni,ij->nj", "aj,ij->ai"]
