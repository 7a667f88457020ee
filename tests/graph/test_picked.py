"""A factor of what was pooled is computed from what came of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxgrad
from tests.harness import Runner

#: Values that tie in some windows of 2 × 2 and 3 × 3, inside and outside of what activations pass.
X = np.random.default_rng(5).integers(-4, 9, (2, 3, 6, 6)).astype(np.float32)


def pooled(activation: Sequence[onnx.NodeProto], image: Sequence[int] = (6, 6), **window: Any) -> onnx.ModelProto:
    """Return the model that takes ``x`` to an activation ``a``, and that to a pooling."""
    nodes = [*activation, helper.make_node("MaxPool", ["a"], ["y"], **window)]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *image]), onnx.ValueInfoProto(name="y")]
    bounds = [
        onnx.numpy_helper.from_array(np.asarray(bound, np.float32), name) for name, bound in (("low", 0), ("high", 6))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], bounds)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


ACTIVATIONS: dict[str, tuple[onnx.NodeProto, Callable[[np.ndarray], np.ndarray]]] = {
    "Relu": (helper.make_node("Relu", ["x"], ["a"]), lambda x: x > 0),
    "Clip": (helper.make_node("Clip", ["x", "low", "high"], ["a"]), lambda x: (x > 0) & (x < 6)),
    "LeakyRelu": (helper.make_node("LeakyRelu", ["x"], ["a"], alpha=0.25), lambda x: np.where(x > 0, 1, 0.25)),
    "Tanh": (helper.make_node("Tanh", ["x"], ["a"]), lambda x: 1 / np.cosh(x) ** 2),
    "Sigmoid": (helper.make_node("Sigmoid", ["x"], ["a"]), lambda x: 1 / (2 + np.exp(x) + np.exp(-x))),
}
WINDOWS: dict[str, dict[str, Any]] = {
    "tiles": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "overlapping": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "with gaps": {"kernel_shape": [2, 2], "strides": [3, 3]},
}


def expected(window: dict[str, Any], a: np.ndarray, derivative: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """Give the cotangent of each window to its first largest element, times the derivative there."""
    result, before = np.zeros_like(a, dtype=np.float64), window.get("pads", [0])[0]
    (k, _), (s, _) = window["kernel_shape"], window["strides"]
    for n, c, i, j in np.ndindex(*ct.shape):
        rows, columns = (slice(max(s * at - before, 0), s * at - before + k) for at in (i, j))
        part = a[n, c, rows, columns]
        at = np.unravel_index(part.argmax(), part.shape)
        result[n, c, rows, columns][at] += ct[n, c, i, j]
    return np.asarray(result * derivative)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_derivative_in_front_of_a_pooling(activation: str, windows: str) -> None:
    node, derivative = ACTIVATIONS[activation]
    proto = pooled([node], **WINDOWS[windows])
    derived = onnxgrad.vjp(proto)
    y = Runner(proto)({"x": X})["y"]
    ct = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    found = Runner(derived)({"x": X, "adj_y": ct})["adj_x"]
    only = onnx.utils.Extractor(proto).extract_model(["x"], ["a"])
    a = np.asarray(Runner(only)({"x": X})["a"])
    exact = expected(WINDOWS[windows], a, derivative(X.astype(np.float64)), ct.astype(np.float64))
    np.testing.assert_allclose(found, exact, atol=2e-6)  # sums of up to four products of float32


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_computed_from_what_was_picked(activation: str, windows: str) -> None:
    """No product has the size of the image."""
    derived = onnxgrad.vjp(pooled([ACTIVATIONS[activation][0]], **WINDOWS[windows]))
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in derived.graph.value_info}
    products = [n for n in derived.graph.node if n.op_type in ("Mul", "HardSigmoid", "Sub", "Max")]
    assert products
    assert all(sizes[n.output[0]][-2:] != [6, 6] for n in products)


def test_other_factors_stay_behind() -> None:
    """One that depends on x in another way is multiplied where it was."""
    nodes = [helper.make_node("Sin", ["x"], ["s"]), helper.make_node("Relu", ["s"], ["a"])]
    proto = pooled(nodes, **WINDOWS["tiles"])
    derived = onnxgrad.vjp(proto)
    kinds = Counter(n.op_type for n in derived.graph.node)
    assert kinds["Cos"] == 1
    x = X + np.float32(0.3)  # no ties
    y = Runner(proto)({"x": x})["y"]
    ct = np.ones_like(y)
    found = Runner(derived)({"x": x, "adj_y": ct})["adj_x"]
    exact = expected(WINDOWS["tiles"], np.maximum(np.sin(x), 0), np.cos(x, dtype=np.float64) * (np.sin(x) > 0), ct)
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_windows_that_may_be_empty_are_left_alone() -> None:
    """What such a window gives is no element, and no factor of it may come near a 0."""
    window = {"kernel_shape": [2], "strides": [5], "dilations": [7], "pads": [6, 6]}
    proto = pooled([ACTIVATIONS["Tanh"][0]], [6], **window)
    y = Runner(proto)({"x": X[:, :, 0]})["y"]
    assert np.isinf(y).any()
    found = Runner(onnxgrad.vjp(proto))({"x": X[:, :, 0], "adj_y": np.ones_like(y)})["adj_x"]
    assert np.isfinite(found).all()


def test_seeds_share_the_factor() -> None:
    proto = pooled([ACTIVATIONS["Relu"][0]], **WINDOWS["overlapping"])
    f = onnxgrad.load(proto)
    jacobian = f.jacobian(X[:1])
    y = Runner(proto)({"x": X[:1]})["y"]
    for place in [(0, 1, 2), (2, 0, 0)]:
        ct = np.zeros_like(y)
        ct[(0, *place)] = 1
        exact = expected(WINDOWS["overlapping"], np.maximum(X[:1], 0), X[:1] > 0, ct)
        np.testing.assert_array_equal(np.reshape(jacobian, (*y.shape[1:], *X.shape[1:]))[place], exact[0])
