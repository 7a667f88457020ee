"""Bracketings of chains, and counted operations."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxgrad
from onnxgrad.augmentation import Augmentation
from onnxgrad.autodiff.activity import analyze
from onnxgrad.autodiff.chain import best_plan, single_value_cuts
from onnxgrad.autodiff.cost import flops
from tests.test_transforms import run


def dense(widths: list[float]) -> list[float]:
    """Operations of dense layers between the widths, for one seed."""
    return [2 * a * b for a, b in itertools.pairwise(widths)]


def test_an_autoencoder_is_cut_at_its_code() -> None:
    widths = [512.0, 64.0, 8.0, 64.0, 512.0]
    plan = best_plan(widths, dense(widths))
    assert plan.how == "product"
    assert plan.cut == 2
    encoder = 8 * (2 * 512 * 64 + 2 * 64 * 8)  # 8 rows, swept backward
    assert plan.cost == 2 * encoder + 2 * 512 * 8 * 512
    assert plan.cost * 5 < 512 * sum(dense(widths))


@given(st.lists(st.integers(1, 50), min_size=2, max_size=7))
def test_no_plan_is_dearer_than_one_sweep(sizes: list[int]) -> None:
    widths = [float(s) for s in sizes]
    costs = dense(widths)
    plan = best_plan(widths, costs)
    assert plan.cost <= min(widths[0], widths[-1]) * sum(costs)


def brute_force(widths: list[float], costs: list[float]) -> float:
    """The cheapest product of local Jacobians (each by one sweep) over all bracketings."""
    if len(widths) == 2:
        return min(widths) * costs[0]
    return min(
        brute_force(widths[: k + 1], costs[:k])
        + brute_force(widths[k:], costs[k:])
        + 2 * widths[0] * widths[k] * widths[-1]
        for k in range(1, len(widths) - 1)
    )


@given(st.lists(st.integers(1, 50), min_size=3, max_size=6))
def test_no_product_of_local_jacobians_is_cheaper(sizes: list[int]) -> None:
    widths = [float(s) for s in sizes]
    assert best_plan(widths, dense(widths)).cost <= brute_force(widths, dense(widths))


def test_cuts_are_values_that_all_paths_pass() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 20]>
        g (double[N,4] x) => (double[N,4] y) { a = Tanh(x) b = Sin(a) c = Cos(a) d = Mul(b, c) y = Add(d, d) }"""
    )
    augmentation = Augmentation(model)
    (x,), (y,) = augmentation.wrt(None), augmentation.of(None)
    activity = analyze(augmentation.op, list(augmentation.model.graph), [x.value], [y.value])
    cuts = [value.name for value, _ in single_value_cuts(activity, x.value, y.value)]
    assert cuts == ["x", "a", "d", "y"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("(float[8,3] x, float[3,5] w) => (float[8,5] y) { y = MatMul(x, w) }", 2 * 8 * 3 * 5),
        ("(float[3,8] x, float[5,3] w) => (float[8,5] y) { y = Gemm<transA = 1, transB = 1>(x, w) }", 2 * 8 * 3 * 5),
        ("(float[2,3,9] x, float[4,3,3] w) => (float[2,4,7] y) { y = Conv(x, w) }", 2 * 2 * 4 * 7 * 3 * 3),
        ("(float[2,4,7] x, float[4,3,3] w) => (float[2,3,9] y) { y = ConvTranspose(x, w) }", 2 * 2 * 4 * 7 * 3 * 3),
        ('(float[2,3] x, float[3,4] w) => (float[2,4] y) { y = Einsum<equation = "ij,jk->ik">(x, w) }', 2 * 2 * 3 * 4),
        ("(float[2,3] x) => (float[3,2] y) { y = Transpose(x) }", 6),
        ("(float[2,3] x) => (float[6] y) <int64[1] s = {6}> { y = Reshape(x, s) }", 0),
    ],
)
def test_operations_of_a_node(text: str, count: float) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 20]> g {text}')
    augmentation = Augmentation(model)
    (node,) = augmentation.model.graph
    assert flops(augmentation.op, node) == count


def test_a_cut_may_have_several_axes() -> None:
    """A waist of shape ``(N, 2, 1)`` between two reshapes."""
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(40, 2)), rng.normal(size=(2, 40))
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 20]>
        g (double[N,40] x) => (double[N,40] y) <int64[3] inner = {-1, 2, 1}, int64[2] outer = {-1, 2}>
        { a = MatMul(x, w) b = Reshape(a, inner) c = Tanh(b) d = Reshape(c, outer) e = MatMul(d, v) y = Sin(e) }"""
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, n) for w, n in ((first, "w"), (last, "v")))
    x = rng.normal(size=(3, 40))
    augmented = onnxgrad.jacobian(model)
    assert onnxgrad.derivatives(augmented)[0].mode == "mixed"
    h = np.tanh(x @ first)
    local = np.einsum("nk,ik,kj->nji", 1 - h**2, first, last)
    expected = np.cos(h @ last)[:, :, None] * local
    np.testing.assert_allclose(run(augmented, x=x)["jac_y_x"], expected, rtol=1e-11, atol=1e-12)
