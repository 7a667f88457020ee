"""Fast forms mean the same as what was emitted, and are written only where they do."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxgrad
from tests.harness import Runner

RNG = np.random.default_rng(2)
X = np.array([-2.0, -0.5, -0.0, 0.0, 1e-30, 0.5, 3.0, 7.0])


def model(nodes: Sequence[onnx.NodeProto], dtype: int = TensorProto.FLOAT, **weights: Any) -> onnx.ModelProto:
    """Return the model of some nodes from ``x`` to ``y``, both of shape ``(8,)``."""
    ports = [helper.make_tensor_value_info(name, dtype, [8]) for name in "xy"]
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    initializers = [onnx.numpy_helper.from_array(np.asarray(w, numpy_type), name) for name, w in weights.items()]
    graph = helper.make_graph(list(nodes), "g", ports[:1], ports[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in proto.graph.node)


def pulled_back(proto: onnx.ModelProto, x: np.ndarray = X) -> np.ndarray:
    """Return the product of ones with the Jacobian at `x`."""
    dtype = helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    found = Runner(proto)({"x": x.astype(dtype), "adj_y": np.ones(8, dtype)})
    return np.asarray(found["adj_x"], np.float64)


#: Operators with masks of all kinds, and their derivatives at `X`, by hand.
MASKED: dict[str, tuple[onnx.NodeProto, dict[str, Any], list[float]]] = {
    "x > 0": (node("Relu", "x"), {}, [0, 0, 0, 0, 1, 1, 1, 1]),
    "x > 0.6": (node("ThresholdedRelu", "x", alpha=0.6), {}, [0, 0, 0, 0, 0, 0, 1, 1]),
    "0 <= x <= 5": (node("Clip", "x low high"), {"low": 0, "high": 5}, [0, 0, 1, 1, 1, 1, 1, 0]),
    "0 < x < 6": (node("Clip", "x low high"), {"low": 0, "high": 6}, [0, 0, 0, 0, 1, 1, 1, 0]),
    "-3 < x < 5": (node("HardSigmoid", "x", alpha=0.125, beta=0.375), {}, [0.125] * 6 + [0.125, 0]),
    "|x| > 0.5": (node("Shrink", "x", lambd=0.5), {}, [1, 0, 0, 0, 0, 0, 1, 1]),
    "0 <= x": (node("Clip", "x low"), {"low": 0}, [0, 0, 1, 1, 1, 1, 1, 1]),
    "x <= 6": (node("Clip", "x  high"), {"high": 6}, [1, 1, 1, 1, 1, 1, 1, 0]),
    "one slope or another": (node("LeakyRelu", "x", alpha=0.25), {}, [0.25] * 4 + [1] * 4),
    "a falling slope": (node("LeakyRelu", "x", alpha=-0.25), {}, [-0.25] * 4 + [1] * 4),
}


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
@pytest.mark.parametrize("case", MASKED)
def test_masks_are_exact(case: str, dtype: int) -> None:
    made, weights, expected = MASKED[case]
    if case == "x <= 6":
        made = helper.make_node("Clip", ["x", "", "high"], ["y"])
    x = X if dtype != TensorProto.FLOAT16 else np.where(X == 1e-30, 1e-3, X)  # the former is 0 there
    found = pulled_back(onnxgrad.vjp(model([made], dtype, **weights)), x)
    np.testing.assert_array_equal(found, expected)


def test_a_mask_of_float32_is_one_operator_and_a_product() -> None:
    added = operators(onnxgrad.vjp(model([node("Relu", "x")]))) - Counter(["Relu"])
    assert added == Counter(["HardSigmoid", "Mul"])


def test_a_choice_of_the_model_may_be_by_what_is_no_number() -> None:
    """A comparison with NaN is false: the other side has the derivative, and no NaN comes into it."""
    nodes = [node("Greater", "gate bound", "mask"), node("Mul", "x three", "other"), node("Where", "mask x other")]
    proto = model(nodes, bound=2, three=3)
    proto.graph.input.append(helper.make_tensor_value_info("gate", TensorProto.FLOAT, [8]))
    derived = onnxgrad.vjp(proto, wrt="x")
    gate = np.array([np.nan, 1, 3, np.inf, -np.inf, 2, np.nan, 2.5], np.float32)
    found = Runner(derived)({"x": X.astype(np.float32), "gate": gate, "adj_y": np.ones(8, np.float32)})["adj_x"]
    np.testing.assert_array_equal(found, [3, 3, 1, 1, 3, 3, 3, 1])


def test_masks_that_must_hold_together_are_multiplied() -> None:
    """All of these operators stay in the blocked layout of convolutions."""
    added = operators(onnxgrad.vjp(model([node("Clip", "x low high")], low=0, high=6))) - Counter(["Clip"])
    assert added == Counter(["HardSigmoid", "HardSigmoid", "Mul", "Mul"])


def test_a_mask_by_a_weight_depends_on_its_number() -> None:
    """So nobody can ask for the derivative of the derivative by it."""
    derived = onnxgrad.vjp(model([node("Clip", "x low high")], low=0, high=5))
    with pytest.raises(onnxgrad.OnnxgradError, match="high"):
        onnxgrad.vjp(derived, of="adj_x", wrt="high")


def images(nodes: Sequence[onnx.NodeProto], **weights: Any) -> onnx.ModelProto:
    """Return the model of some nodes on an image with two channels."""
    proto = model(nodes, **weights)
    for port in (*proto.graph.input, *proto.graph.output):
        port.CopyFrom(helper.make_tensor_value_info(port.name, TensorProto.FLOAT, [1, 2, 2, 2]))
    return proto


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


#: Activations of images, and their derivatives.
BLOCKED: dict[str, tuple[list[onnx.NodeProto], Callable[[np.ndarray], np.ndarray]]] = {
    "Sigmoid": ([node("Sigmoid", "x")], lambda x: sigmoid(x) * sigmoid(-x)),
    "Tanh": ([node("Tanh", "x")], lambda x: 1 / np.cosh(x) ** 2),
    "SiLU": ([node("Sigmoid", "x", "s"), node("Mul", "x s")], lambda x: sigmoid(x) * (1 + x * sigmoid(-x))),
    "LeakyRelu": ([node("LeakyRelu", "x", alpha=0.1)], lambda x: np.where(x > 0, 1, np.float32(0.1))),
    "HardSwish": ([node("HardSwish", "x")], lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, x > 0)),
    "ReLU6": ([node("Clip", "x low high")], lambda x: (x > 0) & (x < 6)),
}


@pytest.mark.parametrize("case", BLOCKED)
def test_the_derivative_of_an_image_stays_in_the_blocked_layout(case: str) -> None:
    nodes, derivative = BLOCKED[case]
    proto = images(nodes, low=0, high=6)
    derived = onnxgrad.vjp(proto)
    assert set(operators(derived) - operators(proto)) <= {"HardSigmoid", "Mul", "Add", "Sigmoid"}
    x = np.array([-4.0, -3.0, -0.5, 0.25, 1.5, 3.5, 6.0, 0.0], np.float32).reshape(1, 2, 2, 2)
    found = Runner(derived)({"x": x, "adj_y": np.ones_like(x)})["adj_x"]
    # onnxruntime's tanh and sigmoid are right to about 2e-7
    np.testing.assert_allclose(found, derivative(x.astype(np.float64)), atol=1e-6)


def test_a_complement_is_one_when_read_again() -> None:
    """Where a sigmoid is 1 to all digits, ``1 - s`` still has a slope: of s + x s (1 - s) by s it is 1 + x (1 - 2s)."""
    derived = onnxgrad.vjp(images([node("Sigmoid", "x", "s"), node("Mul", "x s")]))
    twice = onnxgrad.vjp(derived, of="adj_x", wrt="s", keep_outputs=False)
    (record,) = [r for r in onnxgrad.derivatives(twice) if str(r.wrt) == "s"]
    x = np.array([30, 25, -200, 0.5, 20, -1, 2, -300], np.float32).reshape(1, 2, 2, 2)
    found = Runner(twice)({"x": x, "adj_y": np.ones_like(x), str(record.seed): np.ones_like(x)})[record.output]
    exact = 1 + x.astype(np.float64) * (1 - 2 * sigmoid(x.astype(np.float64)))
    np.testing.assert_allclose(found, exact, rtol=1e-5)  # sigmoids of float32, times up to 300


def test_another_mask_is_cast() -> None:
    added = operators(onnxgrad.vjp(model([node("Relu", "x")], TensorProto.DOUBLE))) - Counter(["Relu"])
    assert added == Counter(["Greater", "Cast", "Mul"])


def test_half_precision_chooses() -> None:
    """There, cotangents overflow too easily to multiply them by 0."""
    assert "Where" in operators(onnxgrad.vjp(model([node("Relu", "x")], TensorProto.FLOAT16)))


SINGULAR = {
    "a root": [node("Relu", "x", "r"), node("Sqrt", "r")],
    "a power": [node("Relu", "x", "r"), node("Pow", "r half")],
    "a logarithm": [node("Relu", "x", "r"), node("Log", "r")],
    "a norm": [node("Relu", "x", "r"), node("ReduceL2", "r", "n", keepdims=1), node("Div", "r n")],
    "a quotient": [node("Relu", "x", "r"), node("Add", "r zero", "s"), node("Sqrt", "s")],
}


@pytest.mark.parametrize("case", SINGULAR)
def test_no_infinity_gets_through_a_mask(case: str) -> None:
    """The derivative of the root of Relu is infinite at 0, and yet 0 below: 0 · ∞ would be NaN."""
    added = onnxgrad.vjp(model(SINGULAR[case], half=0.5, zero=0))
    assert "Where" in operators(added)
    np.testing.assert_array_equal(pulled_back(added)[:2], 0)


ONE = np.ones(1, np.float32)
HARMLESS = {
    "division by weights": [node("Relu", "x", "r"), node("Div", "r three")],
    "division by what is above 0": [node("Relu", "x", "r"), node("Mul", "r r", "s"), node("Add", "s three", "d"),
                                    node("Sqrt", "d", "n"), node("Div", "r n")],
    "a logarithm of what is above 0": [node("Relu", "x", "r"), node("Add", "r three", "s"), node("Log", "s")],
    "a whole power": [node("Relu", "x", "r"), node("Pow", "r three")],
    "a norm beside it": [node("Pow", "x two", "p"), node("ReduceSum", "p", "s", keepdims=1), node("Sqrt", "s", "n"),
                         node("Relu", "x", "r"), node("Mul", "r n")],
    "division by a choice above 0": [node("Greater", "x two", "m"), node("Where", "m two three", "d"),
                                     node("Sum", "d d d", "s"), node("Relu", "x", "r"), node("Div", "r s")],
    "division by one at least": [node("Shape", "x", "shape"),
                                 node("ConstantOfShape", "shape", "ones", value=onnx.numpy_helper.from_array(ONE)),
                                 node("Max", "x ones", "m"), node("Relu", "x", "r"), node("Div", "r m")],
}  # fmt: skip


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_finite_is_no_danger(case: str) -> None:
    proto = model(HARMLESS[case], two=2, three=3)
    added = onnxgrad.vjp(proto)
    assert "Where" not in operators(added) - operators(proto)
    assert np.isfinite(pulled_back(added)).all()


def test_a_step_that_was_written_is_a_step_when_read_again() -> None:
    """Its slope must not be taken for one: the second derivative of Relu² is 2 above 0, and 0 below."""
    nodes = [node("Relu", "x", "r"), node("Mul", "r r")]
    added = onnxgrad.vjp(model(nodes))
    assert "HardSigmoid" in operators(added)
    twice = onnxgrad.vjp(added, of="adj_x", wrt="x")
    found = Runner(twice)(
        {"x": X.astype(np.float32), "adj_y": np.ones(8, np.float32), "adj_adj_x": np.ones(8, np.float32)}
    )
    np.testing.assert_array_equal(found["adj_x_2"], [0, 0, 0, 0, 2, 2, 2, 2])


def test_an_ordinary_hard_sigmoid_stays_what_it_is() -> None:
    proto = onnxgrad.vjp(model([node("HardSigmoid", "x", alpha=0.2, beta=0.5)]))
    np.testing.assert_allclose(pulled_back(proto), np.where(np.abs(X) < 2.5, 0.2, 0), rtol=1e-7)  # 0.2 in float32


def test_pads_that_meet_are_joined() -> None:
    """The parts of a tensor that was split come back together without a sum over zeros."""
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b", "c", "d"], axis=0, num_outputs=4),
        *(node("Sin", part, f"s{part}") for part in "abcd"),
        node("Concat", "sd sb sa sc", axis=0),
    ]
    proto = onnxgrad.vjp(model(nodes))
    assert not {"Pad", "Add"} & set(operators(proto))
    np.testing.assert_allclose(pulled_back(proto), np.cos(X), rtol=1e-6)  # rounding of float32


def test_a_factor_of_channels_goes_into_the_kernel_however_deep_the_network_is() -> None:
    """Whether a factor is constant is found out without recursion."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 1, 1]) for name in ("x", "y")]
    nodes = [node("Conv", "x w", "v0")]
    nodes += [node("Tanh", f"v{i}", f"v{i + 1}") for i in range(600)]
    nodes += [node("Conv", "v600 w", "c"), node("Mul", "c s")]
    weights = {"w": np.eye(2)[:, :, None, None], "s": np.array([2.0, 3.0]).reshape(2, 1, 1)}
    initializers = [onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    added = onnxgrad.vjp(proto)
    point = {"x": np.zeros((1, 2, 1, 1), np.float32), "adj_y": np.ones((1, 2, 1, 1), np.float32)}
    np.testing.assert_array_equal(np.ravel(Runner(added)(point)["adj_x"]), [2, 3])
    # the kernel has the factor: the cotangent comes as it is
    assert any(n.op_type in ("Conv", "ConvTranspose") and n.input[0] == "adj_y" for n in added.graph.node)


def test_a_cast_to_the_type_of_an_input_is_one_of_a_constant() -> None:
    """As in the bias of zeros that PyTorch's exporter writes for a convolution."""
    nodes = [node("CastLike", "zero x", "cast"), node("Add", "x cast")]
    proto = model(nodes)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(3.0), "zero"))
    derived = onnxgrad.jvp(proto)
    (cast,) = [n for n in derived.graph.node if "Cast" in n.op_type]
    assert (cast.op_type, list(cast.input)) == ("Cast", ["zero"])
    found = Runner(derived)({"x": X.astype(np.float32), "fwd_x": np.ones(8, np.float32)})
    np.testing.assert_array_equal(found["y"], X.astype(np.float32) + 3)
    np.testing.assert_array_equal(found["fwd_y"], np.ones(8))


def picking(then: Sequence[onnx.NodeProto], dtype: int = TensorProto.FLOAT, columns: int = 8) -> onnx.ModelProto:
    """Return a model that picks columns 3, 1, 3 and -1 of ``x``, of shape ``(N, columns)``, as ``p``."""
    proto = model([node("Gather", "x index", "p", axis=1), *then], dtype)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 1, 3, -1]), "index"))
    for port, size in ((proto.graph.input[0], columns), (proto.graph.output[0], 4)):
        port.CopyFrom(helper.make_tensor_value_info(port.name, dtype, ["N", size]))
    return proto


PICKED = np.array([[0, 1, 0, 2, 0, 0, 0, 1]])


def test_sums_at_few_positions_are_a_product() -> None:
    proto = picking([node("Tanh", "p")])
    derived = onnxgrad.vjp(proto)
    assert not {"ScatterElements", "ScatterND"} & operators(derived).keys()
    found = Runner(derived)({"x": np.zeros((1, 8), np.float32), "adj_y": np.ones((1, 4), np.float32)})["adj_x"]
    np.testing.assert_array_equal(found, PICKED)


@pytest.mark.parametrize(
    "proto",
    [picking([node("Tanh", "p")], columns=65), picking([node("Tanh", "p")], TensorProto.FLOAT16)],
    ids=["of many columns", "in half precision"],
)
def test_other_sums_are_scattered(proto: onnx.ModelProto) -> None:
    assert "ScatterElements" in operators(onnxgrad.vjp(proto))


def test_no_infinity_gets_into_other_columns() -> None:
    derived = onnxgrad.vjp(picking([node("Sqrt", "p")]))
    assert "ScatterElements" in operators(derived)
    x = np.array([[4, 0, 4, 4, 4, 4, 4, 4]], np.float32)
    found = Runner(derived)({"x": x, "adj_y": np.ones((1, 4), np.float32)})["adj_x"]
    np.testing.assert_array_equal(found, [[0, np.inf, 0, 0.5, 0, 0, 0, 0.25]])


def strided(
    dtype: int, channels: int = 16, image: Sequence[int | str] = (24, 20), then: str = "Tanh", **attributes: Any
) -> onnx.ModelProto:
    """Return the model of a convolution with a kernel for each channel, and something behind it."""
    sides = attributes.pop("kernel", [3, 3])
    kernel = np.random.default_rng(7).normal(size=(channels, 1, *sides))
    nodes = [node("Conv", "x w", "c", group=channels, **attributes), node(then, "c")]
    proto = model(nodes, dtype, w=kernel)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", dtype, ["N", channels, *image]))
    proto.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="y"))
    return onnx.shape_inference.infer_shapes(proto)


STRIDED: dict[str, dict[str, Any]] = {
    "by two": {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    "of a larger kernel": {"strides": [2, 2], "pads": [2, 2, 2, 2], "kernel": [5, 5]},
    "along one axis": {"strides": [1, 2], "pads": [1, 1, 1, 1]},
    "of an odd image": {"strides": [2, 2], "pads": [1, 1, 1, 1], "image": (23, 21)},
    "with elements left out": {"strides": [2, 2], "kernel": [2, 3]},
    "padded on one side": {"strides": [2, 2], "pads": [0, 1, 2, 0]},
    "dilated": {"strides": [2, 2], "pads": [2, 2, 2, 2], "dilations": [2, 2]},
}


@pytest.mark.parametrize("case", STRIDED)
def test_strides_of_single_channels_go_back_without_strides(case: str) -> None:
    single, double = (strided(dtype, **STRIDED[case]) for dtype in (TensorProto.FLOAT, TensorProto.DOUBLE))
    derived, reference = onnxgrad.vjp(single), onnxgrad.vjp(double)
    assert "ConvTranspose" not in operators(derived)
    assert "ConvTranspose" in operators(reference)
    x = RNG.normal(size=(2, 16, *STRIDED[case].get("image", (24, 20))))
    ct = RNG.normal(size=Runner(double)({"x": x})["y"].shape)
    expected = Runner(reference)({"x": x, "adj_y": ct})["adj_x"]
    found = Runner(derived)({"x": x.astype(np.float32), "adj_y": ct.astype(np.float32)})["adj_x"]
    np.testing.assert_allclose(found, expected, atol=2e-5)  # sums of up to nine products of float32, some of 10


@pytest.mark.parametrize(
    "other",
    [{"channels": 17}, {"channels": 8}, {"image": ("H", 20)}, {"image": (8, 8)}, {"then": "Sqrt"}],
    ids=["channels that no block holds", "few channels", "an open size", "a small image", "infinite cotangents"],
)
def test_other_strides_go_back_as_they_are(other: dict[str, Any]) -> None:
    derived = onnxgrad.vjp(strided(TensorProto.FLOAT, **STRIDED["by two"] | other))
    assert "ConvTranspose" in operators(derived)


@pytest.mark.parametrize("padding", [{"auto_pad": "SAME_UPPER"}, {"output_shape": [24, 20]}, {"pads": [1, 0, 0, 1]}])
def test_a_transposed_convolution_keeps_its_padding(padding: dict[str, Any]) -> None:
    """Forward, the tangents go through an operator with the attributes of the model's own, whatever they are."""
    results = []
    x, tangent = RNG.normal(size=(2, 2, 16, 12, 10))
    for dtype in (TensorProto.FLOAT, TensorProto.DOUBLE):
        made = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=16, strides=[2, 2], **padding)
        proto = model([made], dtype, w=np.random.default_rng(7).normal(size=(16, 1, 3, 3)))
        proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", dtype, ["N", 16, 12, 10]))
        proto.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="y"))
        derived = onnxgrad.jvp(onnx.shape_inference.infer_shapes(proto))
        kind = helper.tensor_dtype_to_np_dtype(dtype)
        results.append(Runner(derived)({"x": x.astype(kind), "fwd_x": tangent.astype(kind)})["fwd_y"])
    np.testing.assert_allclose(results[0], results[1], atol=2e-5)


@pytest.mark.parametrize("padding", [{"auto_pad": "SAME_UPPER"}, {"output_shape": [24, 20]}, {"pads": [1, 0, 0, 1]}])
def test_so_does_one_in_a_loop(padding: dict[str, Any]) -> None:
    """There, the model's own operators are written anew beside their tangents."""
    made = helper.make_node("ConvTranspose", ["slice", "w"], ["c"], group=16, strides=[2, 2], **padding)
    state, element = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("s", "t"))
    image = helper.make_tensor_value_info("slice", TensorProto.FLOAT, [2, 16, 12, 10])
    body = helper.make_graph(
        [made, node("Tanh", "c", "r"), node("Identity", "s", "t")], "body", [state, image],
        [element, onnx.ValueInfoProto(name="r")],
    )  # fmt: skip
    body.output[1].CopyFrom(helper.make_tensor_value_info("r", TensorProto.FLOAT, [2, 16, None, None]))
    loop = helper.make_node("Scan", ["first", "x"], ["last", "y"], body=body, num_scan_inputs=1)
    proto = model([loop], first=[0], w=np.random.default_rng(7).normal(size=(16, 1, 3, 3)))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2, 16, 12, 10]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2, 16, None, None]))
    derived = onnxgrad.jvp(proto)
    x, tangent = RNG.normal(size=(2, 3, 2, 16, 12, 10)).astype(np.float32)
    found = Runner(derived)({"x": x, "fwd_x": tangent})["fwd_y"]
    run, step = Runner(proto), np.float32(2**-9)
    ahead, behind = (np.asarray(run({"x": x + s * step * tangent})["y"], np.float64) for s in (1, -1))
    # differences of float32: the square of the step, and rounding over the step
    np.testing.assert_allclose(found, (ahead - behind) / (2 * step), atol=0.005)


def test_an_empty_batch_goes_back() -> None:
    derived = onnxgrad.vjp(strided(TensorProto.FLOAT, **STRIDED["by two"]))
    nothing = {"x": np.zeros((0, 16, 24, 20), np.float32), "adj_y": np.zeros((0, 16, 12, 10), np.float32)}
    assert Runner(derived)(nothing)["adj_x"].shape == (0, 16, 24, 20)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_tiles_of_any_type_are_repeated(dtype: int) -> None:
    proto = model([node("AveragePool", "x", kernel_shape=[2, 3], strides=[2, 3])], dtype)
    for port, image in ((proto.graph.input[0], (4, 6)), (proto.graph.output[0], (2, 2))):
        port.CopyFrom(helper.make_tensor_value_info(port.name, dtype, ["N", 2, *image]))
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    derived = onnxgrad.vjp(proto)
    assert not {"ConvTranspose", "Resize"} & operators(derived).keys()
    ct = np.arange(16).reshape(2, 2, 2, 2).astype(kind)
    found = Runner(derived)({"x": np.zeros((2, 2, 4, 6), kind), "adj_y": ct})["adj_x"]
    np.testing.assert_allclose(found, ct.repeat(2, 2).repeat(3, 3) / 6, rtol=1e-3 if kind == np.float16 else 1e-15)


def test_means_of_tiles_are_repeated() -> None:
    nodes = [node("AveragePool", "x", kernel_shape=[2, 3], strides=[2, 3])]
    proto = model(nodes)
    for port, image in ((proto.graph.input[0], (4, 6)), (proto.graph.output[0], (2, 2))):
        port.CopyFrom(helper.make_tensor_value_info(port.name, TensorProto.FLOAT, ["N", 2, *image]))
    derived = onnxgrad.vjp(proto)
    assert "ConvTranspose" not in operators(derived)
    ct = RNG.normal(size=(3, 2, 2, 2)).astype(np.float32)
    found = Runner(derived)({"x": np.zeros((3, 2, 4, 6), np.float32), "adj_y": ct})["adj_x"]
    np.testing.assert_allclose(found, ct.repeat(2, 2).repeat(3, 3) / 6, rtol=1e-6)
    jacobian = onnxgrad.load(proto).jacobian(np.zeros((1, 2, 4, 6), np.float32))
    np.testing.assert_allclose(np.sum(jacobian, (1, 2, 3)).ravel(), np.full(48, 1 / 6), rtol=1e-6)
