"""Small models for the tests of the runtime, and their derivatives by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxgrad.runtime.session import Session

Array = np.ndarray[Any, Any]
Sizes = Sequence[int | str | None]
#: Two ways to the same number in float64, which differ in the order of sums.
SAME = {"rtol": 1e-12, "atol": 1e-12}


def value(name: str, shape: Sizes | None, dtype: type = np.float64) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


class Net:
    """A tanh network ``x -> y``, as a model and by hand.

    With ``batch=None``, the sizes of both axes 0 are left open without a name.
    """

    def __init__(self, *sizes: int, batch: int | str | None = "N", dtype: type = np.float64) -> None:
        rng = np.random.default_rng(0)
        pairs = list(itertools.pairwise(sizes))
        self.weights = [(rng.normal(size=pair) / pair[0] ** 0.5).astype(dtype) for pair in pairs]
        self.biases = [rng.normal(size=b).astype(dtype) for _, b in pairs]
        nodes, tensors, at = [], {}, "x"
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors |= {f"W{i}": w, f"b{i}": b}
            nodes.append(helper.make_node("Gemm", [at, f"W{i}", f"b{i}"], [f"z{i}"]))
            at = "y" if i == len(pairs) - 1 else f"h{i}"
            nodes.append(helper.make_node("Identity" if at == "y" else "Tanh", [f"z{i}"], [at]))
        inputs, outputs = [value("x", [batch, sizes[0]], dtype)], [value("y", [batch, sizes[-1]], dtype)]
        self.proto = model(nodes, inputs, outputs, tensors)
        self.bytes = self.proto.SerializeToString()

    def __call__(self, x: Array) -> Array:
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (np.tanh(x) if i else x) @ w + b
        return x

    def jacobian(self, x: Array) -> Array:
        """Per sample: ``(N, y, x)``."""
        result = np.broadcast_to(self.weights[0].T, (len(x), *self.weights[0].T.shape))
        z = x @ self.weights[0] + self.biases[0]
        for w, b in zip(self.weights[1:], self.biases[1:], strict=True):
            result = w.T @ ((1 - np.tanh(z) ** 2)[:, :, None] * result)
            z = np.tanh(z) @ w + b
        return result


def two_by_two() -> onnx.ModelProto:
    """``s = a * sin(b)`` and ``p = a + b²`` of two inputs ``(N, 2)``."""
    nodes = [
        helper.make_node("Sin", ["b"], ["sin"]),
        helper.make_node("Mul", ["a", "sin"], ["s"]),
        helper.make_node("Mul", ["b", "b"], ["square"]),
        helper.make_node("Add", ["a", "square"], ["p"]),
    ]
    return model(nodes, [value("a", ["N", 2]), value("b", ["N", 2])], [value("s", ["N", 2]), value("p", ["N", 2])])


def diagonal(rows: Array) -> Array:
    """``(N, n)`` as ``(N, n, n)`` with the elements of each row on the diagonal."""
    return rows[:, :, None] * np.eye(rows.shape[1])


@contextmanager
def watched() -> Iterator[list[dict[str, tuple[int, ...]]]]:
    """Give a list that the shapes of what is fed to each run are added to."""
    fed: list[dict[str, tuple[int, ...]]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("run", "run_into"):
            patch.setattr(Session, name, _recorded(getattr(Session, name), fed))
        yield fed


def _recorded(run: Callable[..., Any], fed: list[dict[str, tuple[int, ...]]]) -> Callable[..., Any]:
    def recorded(self: Session, outputs: Any, feeds: Mapping[str, Any], *places: Any) -> Any:
        fed.append({name: np.shape(array) for name, array in feeds.items()})
        return run(self, outputs, feeds, *places)

    return recorded
