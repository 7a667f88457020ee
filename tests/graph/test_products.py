"""Products in another order mean the same, and cost less."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from scipy.special import erf

import onnxgrad
from tests.harness import Runner

X = np.linspace(-3, 3, 24).reshape(4, 6)
RNG = np.random.default_rng(0)
W, V, U = RNG.normal(size=(6, 5)), RNG.normal(size=(5, 6)), RNG.normal(size=(6, 6))


def model(
    nodes: Sequence[onnx.NodeProto], dtype: int = TensorProto.DOUBLE, columns: int = 6, **weights: Any
) -> onnx.ModelProto:
    """Return the model of some nodes from ``x``, of shape ``(N, 6)``, to ``y``."""
    ports = [
        helper.make_tensor_value_info("x", dtype, ["N", 6]),
        helper.make_tensor_value_info("y", dtype, ["N", columns]),
    ]
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    initializers = [onnx.numpy_helper.from_array(np.asarray(w, numpy_type), name) for name, w in weights.items()]
    graph = helper.make_graph(list(nodes), "g", ports[:1], ports[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def added(model: onnx.ModelProto, derived: onnx.ModelProto) -> Counter[str]:
    """Return the operators that a derivative has added."""
    return Counter(n.op_type for n in derived.graph.node) - Counter(n.op_type for n in model.graph.node)


def computed(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that do not follow from weights alone."""
    known = {"x", "adj_y"}
    found = []
    for each in proto.graph.node:
        if known & set(each.input):
            known |= set(each.output)
            found.append(each)
    return found


def after_a_layer(nodes: Sequence[onnx.NodeProto], **weights: Any) -> onnx.ModelProto:
    """Return the model of some nodes from ``h`` to ``z``, between two layers."""
    layers = [node("MatMul", "x w", "h"), *nodes, node("MatMul", "z v")]
    return model(layers, w=W, v=V, **weights)


GELU = [node("Div", "h root", "u"), node("Erf", "u", "e"), node("Add", "e one", "a"), node("Mul", "a half", "p"),
        node("Mul", "h p", "z")]  # fmt: skip
#: Activations as exporters write them, and their values and derivatives by hand.
ACTIVATIONS: dict[str, tuple[Sequence[onnx.NodeProto], Mapping[str, float], Any]] = {
    "GELU": (
        GELU,
        {"root": math.sqrt(2), "one": 1, "half": 0.5},
        lambda h: (1 + erf(h / math.sqrt(2))) / 2 + h * np.exp(-h * h / 2) / math.sqrt(2 * math.pi),
    ),
    "SiLU": (
        [node("Sigmoid", "h", "s"), node("Mul", "h s", "z")],
        {},
        lambda h: (1 + h * (1 - 1 / (1 + np.exp(-h)))) / (1 + np.exp(-h)),
    ),
    "tanh-shrink": ([node("Tanh", "h", "t"), node("Sub", "h t", "z")], {}, lambda h: np.tanh(h) ** 2),
    "sin(x) cos(x)": (
        [node("Cos", "h", "c"), node("Sin", "h", "s"), node("Mul", "c s", "z")],
        {},
        lambda h: np.cos(2 * h),
    ),
    "-x cos(x)": (
        [node("Neg", "h", "n"), node("Cos", "h", "c"), node("Mul", "n c", "z")],
        {},
        lambda h: h * np.sin(h) - np.cos(h),
    ),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_cotangent_is_multiplied_with_one_derivative(name: str) -> None:
    """Whatever an activation is made of, only one product has the size of the seeds."""
    nodes, weights, slope = ACTIVATIONS[name]
    proto = after_a_layer(nodes, **weights, last=U)
    proto.graph.node[-1].output[0] = "g"
    proto.graph.node.extend([node("Tanh", "g", "second"), node("MatMul", "second last")])
    derived = onnxgrad.jacobian(proto, mode="reverse", batched=True)
    (record,) = onnxgrad.derivatives(derived)
    results = Runner(derived)({"x": X})
    found, t = results[record.output], np.linalg.solve(U.T, results["y"].T).T
    expected = np.einsum("ik,nk,km,nm,mj->nji", W, slope(X @ W), V, 1 - t**2, U)
    # terms of up to 1e2 cancel in float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    typed = onnx.shape_inference.infer_shapes(derived, data_prop=True)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in typed.graph.value_info}
    products = [n for n in computed(derived) if n.op_type in ("Mul", "Add", "Sub", "Neg")]
    assert [n.op_type for n in products if ranks[n.output[0]] > 2] == ["Mul"]


def test_a_gelu_goes_back_in_six_operators() -> None:
    proto = after_a_layer(GELU, root=math.sqrt(2), one=1, half=0.5)
    changing = Counter(n.op_type for n in computed(onnxgrad.vjp(proto))) - Counter(n.op_type for n in proto.graph.node)
    assert sum(changing.values()) == 6 + 2  # and two products with matrices


@pytest.mark.parametrize("shape", [(5,), (1, 5), ()])
def test_a_constant_scale_goes_into_the_matrix(shape: tuple[int, ...]) -> None:
    scale = RNG.normal(size=shape)
    proto = after_a_layer([node("Mul", "h scale", "z")], scale=scale)
    derived = onnxgrad.vjp(proto)
    assert [n.op_type for n in computed(derived)].count("Mul") == 1  # the model's own
    found = Runner(derived)({"x": X, "adj_y": X})["adj_x"]
    np.testing.assert_allclose(found, X @ ((W * scale) @ V).T, rtol=1e-13, atol=1e-13)


def test_a_scale_with_more_axes_gives_them_to_the_result() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Mul", "h s", "z"), node("MatMul", "z v")]
    proto = model(nodes, w=W, v=V, s=np.full((1, 1, 5), 2.0))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.DOUBLE, [1, "N", 6]))
    found = Runner(onnxgrad.jvp(proto))({"x": X, "fwd_x": X})
    np.testing.assert_allclose(found["fwd_y"], 2 * (X @ (W @ V))[None], rtol=1e-12, atol=1e-13)


def test_a_row_of_weights_goes_into_the_next_matrix() -> None:
    """The Jacobian of a network with one hidden layer takes no product with the last layer's weights."""
    proto = after_a_layer([node("Tanh", "h", "z")])
    derived = onnxgrad.jacobian(proto, mode="reverse", batched=True, keep_outputs=False)
    assert [n.op_type for n in computed(derived)][2:] == ["Mul", "Sub", "MatMul", "Transpose"]
    (found,) = Runner(derived)({"x": X}).values()
    expected = np.einsum("ik,nk,kj->nji", W, 1 - np.tanh(X @ W) ** 2, V)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_no_matrix_becomes_a_large_one_for_each_seed() -> None:
    wide = RNG.normal(size=(6, 300)), RNG.normal(size=(300, 300))
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "z"), node("MatMul", "z v")]
    proto = model(nodes, columns=300, w=wide[0], v=wide[1])
    derived = onnx.shape_inference.infer_shapes(onnxgrad.jacobian(proto, mode="reverse", batched=True))
    known = {n for each in derived.graph.node for n in each.output} - {n for e in computed(derived) for n in e.output}
    sizes = [
        np.prod([d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in derived.graph.value_info
        if v.name in known
    ]
    assert max(sizes) == 300 * 300


def test_a_scale_of_rows_stays() -> None:
    proto = model([node("MatMul", "x w", "h"), node("Mul", "h s", "z"), node("MatMul", "z v")], w=W, v=V, s=X[:, :1])
    found = Runner(onnxgrad.vjp(proto))({"x": X, "adj_y": X})["adj_x"]
    np.testing.assert_allclose(found, X[:, :1] * (X @ (W @ V).T), rtol=1e-12, atol=1e-13)


def test_a_normalization_takes_its_scale_and_mean_from_the_matrix() -> None:
    scale, bias = RNG.normal(size=(2, 5)).astype(np.float32)
    nodes = [node("MatMul", "x w", "h"), node("LayerNormalization", "h s b", "z", axis=-1), node("MatMul", "z v")]
    proto = model(nodes, TensorProto.FLOAT, w=W, v=V, s=scale, b=bias)
    derived = onnxgrad.vjp(proto)
    means = [n for n in derived.graph.node if n.op_type == "ReduceMean"]
    assert len(means) == 2  # of the matrix, and of what is projected out
    h = X @ W
    n = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    g = (X @ V.T) * scale
    g = (g - g.mean(1, keepdims=True) - n * (g * n).mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
    found = Runner(derived)({"x": X.astype(np.float32), "adj_y": X.astype(np.float32)})["adj_x"]
    np.testing.assert_allclose(found, g @ W.T, rtol=2e-5, atol=2e-5)  # float32, of numbers up to 10


def test_what_others_use_stays() -> None:
    """A product of the model's own is an output, too; a product of cotangents leads to two inputs."""
    nodes = [node("Mul", "x s", "m"), node("Sin", "m", "a"), node("Mul", "a m")]
    proto = model(nodes, s=RNG.normal(size=6))
    proto.graph.output.append(helper.make_tensor_value_info("m", TensorProto.DOUBLE, ["N", 6]))
    derived = onnxgrad.jacobian(proto, of="y", wrt=["x", "m"], batched=True)
    found = Runner(derived)({"x": X})
    m = found["m"]
    by = {str(r.wrt): r.output for r in onnxgrad.derivatives(derived)}
    slope = np.sin(m) + m * np.cos(m)
    scale = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    np.testing.assert_allclose(np.diagonal(found[by["m"]], axis1=1, axis2=2), slope, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.diagonal(found[by["x"]], axis1=1, axis2=2), slope * scale, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [2.5, -2.5, 0.0])
def test_a_number_above_0_goes_into_an_exponential(scale: float) -> None:
    """That of an error function, which has a number in its exponent: ``2/√π · exp(-x²)``."""
    proto = model([node("Erf", "x", "e"), node("Mul", "e scale")], TensorProto.FLOAT, scale=scale)
    derived = onnxgrad.vjp(proto)
    changing = Counter(n.op_type for n in computed(derived)) - Counter(n.op_type for n in proto.graph.node)
    assert changing["Mul"] == (2 if scale > 0 else 3)  # of x with itself, and of the cotangent
    x = X.astype(np.float32)
    found = Runner(derived)({"x": x, "adj_y": np.ones_like(x)})["adj_x"]
    exact = scale * 2 / math.sqrt(math.pi) * np.exp(-(x.astype(np.float64) ** 2))
    np.testing.assert_allclose(found, exact, rtol=3e-6)  # exponents of up to 9, rounded to float32


@pytest.mark.parametrize(("dtype", "constant"), [(TensorProto.FLOAT16, 0), (TensorProto.FLOAT, 2)])
def test_half_precision_keeps_its_order(dtype: int, constant: int) -> None:
    """There, a product of derivatives alone overflows too easily: 300 · 300 does."""
    nodes = [node("Mul", "x small", "a"), node("Mul", "a big", "b"), node("Mul", "b big")]
    derived = onnxgrad.vjp(model(nodes, dtype, big=300, small=1e-5))
    products = [n for n in derived.graph.node if n.op_type == "Mul"]
    assert len(products) - sum(n in products for n in computed(derived)) == constant


def test_derivatives_of_derivatives_are_right() -> None:
    proto = after_a_layer(GELU, root=math.sqrt(2), one=1, half=0.5)
    once = onnxgrad.gradient(proto, index=2, keep_outputs=False)
    twice = onnxgrad.jacobian(once, batched=True, keep_outputs=False)
    direct = onnxgrad.hessian(proto, index=2, keep_outputs=False)
    (a,), (b,) = Runner(twice)({"x": X}).values(), Runner(direct)({"x": X}).values()
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
