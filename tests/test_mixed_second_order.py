"""Second derivatives by two different tensors, where the first derivative is one of them and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxgrad
from tests.harness import Runner


def product(w: np.ndarray, constant: bool) -> onnx.ModelProto:
    """``y = Σ x w``, with w an initializer or an input."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["p"]), helper.make_node("ReduceSum", ["p"], ["y"], keepdims=0)]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [2])]
    if not constant:
        inputs.append(helper.make_tensor_value_info("w", onnx.TensorProto.DOUBLE, w.shape))
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, [])]
    initializers = [onnx.numpy_helper.from_array(w, "w")] if constant else []
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("w", [1.0, 0.0, -1.0])
def test_across_two_calls(w: float) -> None:
    """A weight that happens to be 1, 0 or -1 is still a weight, in a model that is differentiated again."""
    once = onnxgrad.gradient(product(np.array(w), True), wrt="x")
    found = Runner(onnxgrad.jacobian(once, "grad_y_x", "w"))({"x": np.array([2.0, 5.0])})
    np.testing.assert_array_equal(found["jac_grad_y_x_w"], [1.0, 1.0])


def test_an_exponent_that_was_written_into_a_formula_is_refused_later() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 20]>
        g (double[2] x) => (double[2] y) <double b = {2.0}> { y = Pow(x, b) }"""
    )
    once = onnxgrad.jacobian(model, wrt="x")
    with pytest.raises(onnxgrad.TensorTypeError, match="written for the number in 'b'"):
        onnxgrad.jacobian(once, "jac_y_x", "b")
    both = Runner(onnxgrad.jacobian(model, wrt=["x", "b"]))({"x": np.array([2.0, 3.0])})
    np.testing.assert_allclose(both["jac_y_b"], [4 * np.log(2), 9 * np.log(3)])


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("w", [1.0, 0.0, -1.0, 3.0])
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_a_gradient_that_is_the_other_factor(w: float, shape: tuple[int, ...], constant: bool) -> None:
    """The number in an initializer must not take its place, and a broadcast must be written, to be differentiated."""
    value = np.full(shape, w)
    model = product(value, constant)
    fed = {"x": np.array([2.0, 5.0])} | ({} if constant else {"w": value})
    expected = np.eye(2) if shape == (2,) else np.ones((2, *shape))
    found = Runner(onnxgrad.hessian(model, "y", ["x", "w"]))(fed)
    np.testing.assert_array_equal(found["hess_y_x_w"], expected)
    np.testing.assert_array_equal(found["hess_y_w_x"], expected.T)
    directions = {"fwd_x": np.array([1.0, -4.0]), "fwd_w": np.full(shape, 0.5)}
    found = Runner(onnxgrad.hvp(model, "y", ["x", "w"]))(fed | directions)
    np.testing.assert_array_equal(found["hvp_y_x"], [0.5, 0.5])
    np.testing.assert_array_equal(found["hvp_y_w"], [1.0, -4.0] if shape == (2,) else np.full(shape, -3.0))


def test_a_constant_that_rules_reshape() -> None:
    """The rule of a grouped convolution reshapes its kernel, which stays the tensor that is differentiated by."""
    weight = np.random.default_rng(0).normal(size=(4, 2, 3))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], group=2),
        helper.make_node("ReduceSum", ["c"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [1, 4, 5])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, [])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = Runner(onnxgrad.hessian(model, "y", ["x", "w"]))({"x": np.ones((1, 4, 5))})
    assert np.count_nonzero(found["hess_y_w_x"]) == 72
    np.testing.assert_array_equal(found["hess_y_x_w"], np.moveaxis(found["hess_y_w_x"], (0, 1, 2), (-3, -2, -1)))
