"""Convolution and its transpose."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, check_samples, close, differences, make_model

rng = np.random.default_rng(3)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def conv(label: str, x: tuple[int, ...], w: tuple[int, ...], bias: bool = False, **attrs: object) -> Case:
    """A convolution, of which the size of the kernel is known also where all others are symbolic."""
    inputs = [a(*x), a(*w), a(w[0])] if bias else [a(*x), a(*w)]
    return Case("Conv", inputs, {"kernel_shape": list(w[2:]), **attrs}, label=label)


def transposed(label: str, x: tuple[int, ...], w: tuple[int, ...], bias: bool = False, **attrs: object) -> Case:
    inputs = [a(*x), a(*w), a(w[1] * int(attrs.get("group", 1)))] if bias else [a(*x), a(*w)]  # type: ignore[call-overload]
    return Case("ConvTranspose", inputs, {"kernel_shape": list(w[2:]), **attrs}, label=label)


CASES = [
    conv("1d", (2, 2, 5), (3, 2, 3), bias=True),
    conv("2d-pads", (2, 2, 4, 5), (3, 2, 3, 2), bias=True, pads=[1, 0, 2, 1]),
    conv("3d-strides", (1, 2, 3, 4, 3), (2, 2, 2, 2, 2), bias=True, pads=[0, 1, 0, 1, 0, 1], strides=[1, 2, 1]),
    conv("left-over", (1, 1, 9), (1, 1, 2), strides=[4]),
    conv("left-over-padding", (1, 1, 7), (2, 1, 2), strides=[3], pads=[1, 1]),
    conv("gaps", (1, 2, 8), (1, 2, 1), strides=[3]),
    conv("dilations", (1, 2, 6, 7), (2, 2, 2, 3), dilations=[3, 2], pads=[1, 2, 0, 1]),
    conv("dilations-strides", (2, 1, 8, 6), (1, 1, 3, 2), dilations=[2, 3], strides=[2, 2], pads=[1, 0, 1, 1]),
    conv("group", (2, 4, 5), (6, 2, 3), bias=True, group=2, strides=[2], pads=[1, 1]),
    conv("depthwise", (2, 3, 4, 4), (6, 1, 3, 3), bias=True, group=3, pads=[1, 1, 1, 1]),
    conv("depthwise-strides", (1, 2, 5, 4), (2, 1, 2, 3), group=2, strides=[2, 1], pads=[0, 1, 1, 2]),
    conv("pointwise", (2, 3, 2, 3), (2, 3, 1, 1), bias=True),
    conv("pointwise-group", (2, 4, 3), (2, 2, 1), group=2),
    conv("larger-padding", (1, 1, 2), (1, 1, 2), pads=[3, 2]),
    conv("one", (1, 1, 1, 1), (1, 1, 1, 1), bias=True),
    conv("no-batch", (0, 2, 4), (3, 2, 2), bias=True),
    conv("valid", (1, 2, 6), (2, 2, 3), auto_pad="VALID", strides=[2]),
    conv("same-upper", (1, 2, 5, 6), (2, 2, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    conv("same-lower", (1, 2, 5, 6), (2, 2, 3, 2), auto_pad="SAME_LOWER", strides=[2, 2]),
    conv("same-upper-dense", (1, 2, 4, 5), (2, 2, 2, 3), auto_pad="SAME_UPPER"),
    conv("same-lower-dense", (1, 2, 4, 5), (2, 2, 2, 3), auto_pad="SAME_LOWER"),
    conv("same-gaps", (1, 2, 7), (2, 2, 1), auto_pad="SAME_LOWER", strides=[3]),
    conv("same-group", (1, 4, 5), (2, 2, 2), auto_pad="SAME_LOWER", strides=[2], group=2),
    Case(
        "Conv",
        [a(2, 2, 5, 4), a(3, 2, 2, 2), a(3)],
        {"pads": [1, 0, 0, 1], "strides": [2, 1]},
        label="kernel-not-stated",
    ),
    Case("Conv", [a(1, 1, 5), a(1, 1, 2)], {"auto_pad": "SAME_UPPER"}, label="same-kernel-not-stated"),
    Case("Conv", [a(2, 2, 5), a(3, 2, 3), a(3)], fixed=[1, 2], label="constant-weights"),
    *(
        Case("Conv", [a(*x), a(*w)], attrs, fixed=[1], label=f"constant-{label}")
        for label, x, w, attrs in [
            ("2d", (1, 8, 4, 3), (9, 8, 3, 2), {"pads": [1, 0, 2, 1], "dilations": [1, 2]}),
            ("group", (2, 4, 5), (6, 2, 3), {"group": 2, "pads": [1, 1]}),
            ("depthwise", (2, 3, 4, 4), (6, 1, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
            ("pointwise", (2, 8, 2), (8, 8, 1), {}),
            ("same", (1, 8, 2, 3), (8, 8, 2, 3), {"auto_pad": "SAME_LOWER"}),
            ("strides", (2, 2, 6), (3, 2, 3), {"strides": [2]}),
            ("larger-padding", (1, 4, 2), (4, 2, 2), {"pads": [3, 2], "group": 2}),
            ("few-channels", (2, 2, 5), (3, 2, 3), {"pads": [1, 0]}),
        ]
    ),
    Case("Conv", [a(2, 2, 5), a(3, 2, 3)], fixed=[0], label="constant-data"),
    Case("Conv", [a(1, 2, 70), a(1, 2, 66)], {"strides": [2]}, label="long-kernel"),
    Case("Conv", [a(1, 2, 5), a(1, 2, 2)], opset=18, label="version-11"),
    # onnxruntime has no such padding for dilated kernels
    Case(
        "Conv",
        [a(1, 1, 6), a(2, 1, 3)],
        {"auto_pad": "SAME_UPPER", "dilations": [2]},
        float32=None,
        label="same-dilated",
    ),
    transposed("1d", (2, 2, 5), (2, 3, 3), bias=True),
    transposed("2d-pads", (2, 2, 3, 4), (2, 3, 3, 2), bias=True, pads=[1, 0, 2, 1]),
    transposed("3d-strides", (1, 2, 2, 3, 2), (2, 2, 2, 2, 2), bias=True, pads=[0, 1, 0, 1, 0, 1], strides=[1, 2, 1]),
    transposed("output-padding", (2, 2, 4), (2, 3, 3), strides=[3], pads=[1, 0], output_padding=[2]),
    transposed("gaps", (1, 2, 3), (2, 1, 1), strides=[3], output_padding=[1]),
    transposed("dilations", (1, 2, 3, 4), (2, 2, 2, 3), dilations=[3, 2], strides=[2, 1], pads=[1, 2, 0, 1]),
    transposed("group", (2, 4, 3), (4, 3, 3), bias=True, group=2, strides=[2], pads=[1, 1], output_padding=[1]),
    transposed("depthwise", (2, 3, 3, 2), (3, 1, 3, 3), bias=True, group=3, pads=[1, 1, 1, 1]),
    transposed("pointwise", (2, 3, 2, 3), (3, 2, 1, 1)),
    transposed("one", (1, 1, 1), (1, 1, 1), bias=True),
    transposed("no-batch", (0, 2, 4), (2, 3, 2), bias=True),
    transposed("valid", (1, 2, 3), (2, 2, 3), auto_pad="VALID", strides=[2]),
    transposed("same-upper", (1, 2, 3, 2), (2, 2, 3, 4), auto_pad="SAME_UPPER", strides=[2, 1]),
    transposed("same-lower", (1, 2, 3, 2), (2, 2, 3, 4), auto_pad="SAME_LOWER", strides=[2, 1]),
    transposed("same-gaps", (1, 2, 3), (2, 2, 2), auto_pad="SAME_LOWER", strides=[3]),
    transposed("output-shape", (1, 2, 3, 3), (2, 2, 3, 3), strides=[2, 2], output_shape=[6, 5]),
    transposed("output-shape-upper", (1, 2, 3), (2, 2, 3), strides=[2], output_shape=[6], auto_pad="SAME_UPPER"),
    transposed("output-shape-padding", (1, 2, 3), (2, 2, 3), strides=[2], output_shape=[5], output_padding=[1]),
    transposed("output-shape-larger", (1, 2, 3), (2, 2, 2), strides=[3], output_shape=[9]),
    transposed("output-shape-group", (1, 2, 3), (2, 2, 4), strides=[2], output_shape=[5], group=2),
    Case("ConvTranspose", [a(2, 2, 3, 2), a(2, 3, 2, 3), a(3)], {"strides": [2, 1]}, label="kernel-not-stated"),
    Case("ConvTranspose", [a(2, 4, 3), a(4, 3, 2)], {"group": 2}, fixed=[1], label="constant-weights"),
    Case("ConvTranspose", [a(2, 2, 3), a(2, 3, 2)], opset=18, label="version-11"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.float32 is not None], ids=lambda case: case.name)
def test_operators_of_the_tests_agree_with_onnxruntime(case: Case) -> None:
    feeds = {f"x{i}": x for i, x in enumerate(case.inputs) if x is not None and i not in case.fixed}
    expected = Runner(make_model(case))(feeds)
    single = {name: x.astype(np.float32) for name, x in feeds.items()}
    actual = Runner(make_model(case, np.float32), only_runtime=True)(single)
    close(actual["y0"], expected["y0"], 1e-5, "primal output")


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_samples_stay_apart_unless_they_are_in_the_weights(op: str) -> None:
    check_samples(Case(op, [a(2, 2, 2), a(2, 2, 2)], fixed=[1]), [0])
    check_samples(Case(op, [a(2, 2, 2), a(2, 2, 2)]), [])


def test_samples_stay_apart_on_axes_that_windows_leave_alone() -> None:
    """As in the sums of windows that JAX makes of images with channels last: all their axes are spatial."""
    images = [a(1, 1, 2, 3, 2), a(1, 1, 1, 2, 1)]
    check_samples(Case("Conv", images, fixed=[1]), [0, 2, 4])
    check_samples(Case("Conv", images, {"pads": [1, 0, 0, 0, 0, 0], "strides": [1, 1, 2]}, fixed=[1]), [0])
    check_samples(Case("Conv", images, {"auto_pad": "SAME_LOWER"}, fixed=[1]), [0, 2, 4])
    check_samples(Case("Conv", images), [])


def test_a_kernel_that_is_constant_and_differentiated_by() -> None:
    """The input gradient mirrors the kernel; its derivative by the kernel is as with a kernel that is fed."""
    x, w, ct, t = a(2, 4, 5), a(4, 2, 3), a(2, 4, 3), a(2, 4, 5)
    results = []
    for fixed in ([1], []):
        model = make_model(Case("Conv", [x, w], {"group": 2}, fixed=fixed))
        back = onnxgrad.vjp(model, ["y0"], ["x0"], keep_outputs=False)
        twice = onnxgrad.vjp(back, ["adj_x0"], ["x1"], keep_outputs=False)
        feeds = {"x0": x, "x1": w, "adj_y0": ct, "adj_adj_x0": t}
        names = {i.name for i in twice.graph.input}
        results.append(Runner(twice)({n: v for n, v in feeds.items() if n in names})["adj_x1"])
    close(*results, 1e-13, "derivative by the kernel")
    assert np.abs(results[0]).min() > 1e-6


#: Channels of ȳ and x̄, and the size of the image and of the kernel; and the operator that was measured to be faster, in
#: onnxruntime 1.32 and one thread, by a third at least.
FASTER = [
    (1, 32, (64, 64), (7, 7), "Conv"),
    (2, 16, (16, 16), (5, 5), "Conv"),
    (64, 64, (56, 56), (3, 3), "Conv"),
    (4, 4, (12, 12), (5, 5), "ConvTranspose"),
    (20, 10, (12, 12), (5, 5), "ConvTranspose"),
    (64, 3, (64, 64), (3, 3), "ConvTranspose"),
    (33, 8, (42, 42), (3, 3), "ConvTranspose"),
    (1, 32, (1000,), (7,), "Conv"),
    (8, 64, (256,), (3,), "Conv"),
    (64, 8, (256,), (3,), "ConvTranspose"),
    (1, 16, (16, 16, 16), (3, 3, 3), "Conv"),
    (16, 1, (16, 16, 16), (3, 3, 3), "ConvTranspose"),
]


@pytest.mark.parametrize(("made", "read", "image", "kernel", "expected"), FASTER)
def test_the_input_gradient_is_the_faster_of_two_operators(
    made: int, read: int, image: tuple[int, ...], kernel: tuple[int, ...], expected: str
) -> None:
    case = conv("", (1, read, *image), (made, read, *kernel))
    case.fixed = [1]
    derived = onnxgrad.vjp(make_model(case, np.float32), keep_outputs=False)
    found = [n.op_type for n in derived.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    assert found == [expected]


def test_auto_pad_with_output_padding_is_refused() -> None:
    attrs = {"auto_pad": "SAME_UPPER", "strides": [2], "output_padding": [1]}
    case = Case("ConvTranspose", [a(1, 1, 3), a(1, 1, 3)], attrs)
    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"auto_pad.*output_padding"):
        onnxgrad.vjp(make_model(case), ["y0"], ["x0"])


def _network(dtype: type) -> onnx.ModelProto:
    """Convolution, pooling, a dense layer; batch and both sizes of the image symbolic."""
    known = np.random.default_rng(6)
    shapes = {"w": (4, 1, 3, 3), "b": (4,), "v": (4, 2, 2, 2), "d": (4, 3)}
    weights = {name: known.normal(size=shape) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 1], group=2),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("ConvTranspose", ["t", "v"], ["u"], strides=[2, 2], group=2),
        helper.make_node("AveragePool", ["u"], ["p"], kernel_shape=[2, 2], strides=[2, 3], ceil_mode=1),
        helper.make_node("GlobalLpPool", ["p"], ["g"], p=3),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["y"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 2, "H", "W"])],
        [helper.make_tensor_value_info("y", kind, ["N", 3])],
        [onnx.numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_forward_mode_of_a_convolution_is_a_convolution() -> None:
    """The input gradient is written with the kernel mirrored; its transpose has the kernel itself again."""
    for w, attrs in ((a(3, 2, 2), {}), (a(9, 8, 2), {}), (a(4, 1, 2), {"group": 2}), (a(3, 2, 2), {"strides": [2]})):
        x = a(1, w.shape[1] * attrs.get("group", 1), 5)
        model = onnxgrad.jvp(make_model(Case("Conv", [x, w], attrs, fixed=[1])), ["y0"], ["x0"])
        assert [(n.op_type, n.input[1]) for n in model.graph.node if n.op_type != "Identity"] == [("Conv", "x1")] * 2


def test_a_jacobian_per_sample_through_a_network() -> None:
    """Batch, height and width are symbolic; each sample's part is that of the sample alone."""
    jacobian = onnxgrad.jacobian(_network(np.float64), ["y"], ["x"])
    x = a(3, 2, 5, 6)
    found = Runner(jacobian)({"x": x})["jac_y_x"]
    assert found.shape == (3, 3, 2, 5, 6)
    run = Runner(_network(np.float64))
    for sample in range(3):
        direction = a(1, 2, 5, 6)
        change = differences(run, {"x": x[sample : sample + 1]}, {"x": direction})["y"]
        close(np.einsum("ychw,chw->y", found[sample], direction[0])[None], change, 1e-9, "one sample")
    single = Runner(onnxgrad.jacobian(_network(np.float32), ["y"], ["x"]), only_runtime=True)
    close(single({"x": x.astype(np.float32)})["jac_y_x"], found, 1e-5, "in float32")
