"""The short way of small runs: the same results, and none that belongs to another call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from onnx import helper
from runtime_models import SAME, Net, model, two_by_two, value, watched

import onnxgrad

NET = Net(4, 5, 3)
X = np.random.default_rng(0).normal(size=(2, 4))
CT = np.random.default_rng(1).normal(size=(2, 3))

CALLS: dict[str, Any] = {
    "values": lambda f, x: f(x),
    "jacobian": lambda f, x: f.jacobian(x),
    "values and jacobian": lambda f, x: np.concatenate([a.ravel() for a in f.value_and_jacobian(x)]),
    "gradient": lambda f, x: f.gradient(x, index=1),
    "vjp": lambda f, x: f.vjp(x, CT),
    "jvp": lambda f, x: f.jvp(x, x),
    "hvp": lambda f, x: f.hvp(x, x, index=0),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_call_goes_the_short_way_to_the_same_result(name: str) -> None:
    call, f = CALLS[name], onnxgrad.load(NET.bytes)
    call(f, X)
    with watched() as fed:
        first = call(f, X)
        kept = first.copy()
        second = call(f, 2 * X)
    assert not fed
    np.testing.assert_array_equal(first, kept)  # its memory is its own
    np.testing.assert_allclose(second, call(onnxgrad.load(NET.bytes), 2 * X), **SAME)


@pytest.mark.parametrize(
    "first", [np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]], ids=["columns", "every second"]
)
def test_arrays_need_not_lie_in_one_piece(first: np.ndarray) -> None:
    """Not even those of the first call, from which types and shapes are taken."""
    f = onnxgrad.load(NET.bytes)
    for x in (first, 2 * X, 3 * first):
        np.testing.assert_allclose(f.jacobian(x), NET.jacobian(x), **SAME)


@pytest.mark.parametrize(
    ("x", "runs"),
    [
        (X, 0),
        (np.asfortranarray(X), 0),
        (X.tolist(), 1),
        (X.astype(np.float32), 1),
        (X[:1], 1),
        (np.repeat(X, 5, axis=0), 1),
    ],
)
def test_what_is_not_as_before_goes_the_long_way(x: Any, runs: int) -> None:
    f = onnxgrad.load(NET.bytes)
    f.jacobian(X)
    with watched() as fed:
        found = f.jacobian(x)
    assert len(fed) == runs
    np.testing.assert_allclose(found, NET.jacobian(np.asarray(x, np.float64)), **SAME)


def test_bad_input_is_refused_as_before() -> None:
    f = onnxgrad.load(NET.bytes)
    f.jacobian(X)
    for bad in (X[:, :3], X[0], X.astype(complex)):
        with pytest.raises(onnxgrad.FeedError):
            f.jacobian(bad)


def test_inputs_that_came_by_name_are_not_mixed_up() -> None:
    f, a, b = onnxgrad.load(two_by_two()), X[:, :2], X[:, 2:]
    expected = f(a, b)
    for first in (lambda g: g(b=b, a=a), lambda g: g({"b": b, "a": a})):
        g = onnxgrad.load(two_by_two())
        first(g)
        for name, found in g(a, b).items():
            np.testing.assert_array_equal(found, expected[name])


def test_other_sizes_take_over() -> None:
    f = onnxgrad.load(NET.bytes)
    f.jacobian(X)
    more = np.repeat(X, 3, axis=0)
    for _ in range(40):
        f.jacobian(more)
    with watched() as fed:
        np.testing.assert_allclose(f.jacobian(more), NET.jacobian(more), **SAME)
    assert not fed


def test_large_runs_are_not_copied() -> None:
    f, x = onnxgrad.load(NET.bytes), np.zeros((2000, 4))
    f(x)
    with watched() as fed:
        f(x)
    assert len(fed) == 1


def test_threads_do_not_meet() -> None:
    f = onnxgrad.load(NET.bytes, threads=1)
    inputs = [k * X for k in range(1, 200)]
    f.jacobian(X)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(f.jacobian, inputs))
    for x, found in zip(inputs, results, strict=True):
        np.testing.assert_allclose(found, NET.jacobian(x), **SAME)


def test_results_whose_shapes_depend_on_the_numbers_go_the_long_way() -> None:
    nodes = [helper.make_node("Greater", ["x", "zero"], ["m"]), helper.make_node("Compress", ["x", "m"], ["y"])]
    f = onnxgrad.load(model(nodes, [value("x", [6])], [value("y", ["k"])], {"zero": np.array(0.0)}))
    few, many = np.array([1.0, -1, -1, -1, 2, -1]), np.arange(-1.0, 5)
    for x in (few, many, few, many, many[::-1]):
        np.testing.assert_array_equal(f(x), x[x > 0])
        np.testing.assert_array_equal(f.jacobian(x), np.eye(6)[x > 0])
