"""Operators that move elements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model

rng = np.random.default_rng(8)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ints(*values: Any) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.int64)


FAR = 2**63 - 1

RESHAPE = [
    Case("Reshape", [a(2, 3, 4), ints(4, 6)]),
    Case("Reshape", [a(2, 3, 4), ints(0, -1)], label="zero-minus-one"),
    Case("Reshape", [a(2, 3, 4), ints([-1])], label="flat"),
    Case("Reshape", [a(2, 3, 4), ints(6, 2, 2)], fed=[1], label="fed"),
    Case("Reshape", [a(0, 3), ints(3, 0)], {"allowzero": 1}, label="allowzero"),
    Case("Reshape", [a(1), ints([])], label="scalar"),
    Case("Reshape", [a(), ints(1, 1)], label="of-scalar"),
    Case("Flatten", [a(2, 3, 4)]),
    Case("Flatten", [a(2, 3, 4)], {"axis": 0}, label="axis-0"),
    Case("Flatten", [a(2, 3, 4)], {"axis": -1}, label="negative"),
    Case("Flatten", [a(2, 3, 4)], {"axis": 3}, label="all"),
    Case("Squeeze", [a(1, 3, 1), ints(0, -1)]),
    Case("Squeeze", [a(1, 3, 1)], dynamic=False, label="all"),  # symbolic sizes leave the rank open
    Case("Squeeze", [a(1, 3, 1), ints([-1])], fed=[1], label="fed"),
    Case("Unsqueeze", [a(3, 2), ints(0, -1)]),
    Case("Unsqueeze", [a(3, 2), ints([1])], fed=[1], label="fed"),
    Case("Unsqueeze", [a(), ints([0])], label="scalar"),
    Case("Transpose", [a(2, 3, 4)]),
    Case("Transpose", [a(2, 3, 4)], {"perm": [2, 0, 1]}, label="perm"),
    Case("Transpose", [a(2, 0, 1, 3, 2)], {"perm": [4, 0, 2, 1, 3]}, label="rank-5"),
    Case("Expand", [a(3, 1), ints(2, 1, 4)]),
    Case("Expand", [a(3, 1), ints(1, 4)], label="ones"),
    Case("Expand", [a(3, 1), ints(2, 3, 4)], fed=[1], label="fed"),
    Case("Expand", [a(), ints(2, 3)], label="scalar"),
    Case("Expand", [a(1, 3), ints(0, 1)], label="empty"),
]

JOIN = [
    Case("Concat", [a(2, 3), a(1, 3), a(2, 3)], {"axis": 0}),
    Case("Concat", [a(2, 3, 1), a(2, 2, 1)], {"axis": -2}, label="negative"),
    Case("Concat", [a(2, 3)], {"axis": 1}, label="one"),
    Case("Concat", [a(2, 3), a(2, 0)], {"axis": 1}, label="empty"),
    Case("Concat", [a(2, 3), a(2, 2), a(2, 1)], {"axis": 1}, fixed=[1], label="fixed"),
    Case("Split", [a(2, 6)], {"axis": 1, "num_outputs": 3}, outputs=3),
    Case("Split", [a(7, 2)], {"num_outputs": 3}, outputs=3, label="uneven"),
    Case("Split", [a(7, 2)], {"num_outputs": 3}, outputs=3, of=[1], label="uneven-one"),
    Case("Split", [a(2, 6), ints(1, 0, 5)], {"axis": -1}, outputs=3, label="sizes"),
    Case("Split", [a(2, 6), ints(1, 2, 3)], {"axis": -1}, fed=[1], outputs=3, of=[0, 2], label="fed"),
    Case("Split", [a(2, 6)], {"axis": 1, "num_outputs": 1}, outputs=1, label="one"),
]


def sliced(label: str, x: np.ndarray, *bounds: Any, fed: Any = (), **options: Any) -> Case:
    return Case("Slice", [x, *(None if b is None else ints(b) for b in bounds)], fed=fed, label=label, **options)


SLICE = [
    sliced("begin", a(5, 4), [0], [3]),
    sliced("end", a(5, 4), [2], [FAR]),
    sliced("negative", a(5, 4), [-3], [-1], [1]),
    sliced("two-axes", a(5, 4), [1, 0], [4, -1], [-2, -1]),
    sliced("full", a(5, 4), [0], [FAR], [1]),
    sliced("clamped", a(5, 4), [-9], [9]),
    sliced("past-the-end", a(5, 4), [7], [9]),
    sliced("crossing", a(5, 4), [3], [2]),
    sliced("in-front", a(5, 4), [-9], [-7]),
    sliced("step", a(5, 4), [0], [FAR], [0], [2]),
    sliced("step-rest", a(8, 2), [1], [7], [0], [3]),
    sliced("step-beyond", a(5, 4), [1], [FAR], [0], [9]),
    sliced("step-nothing", a(5, 4), [6], [FAR], [0], [2]),
    sliced("step-two-axes", a(5, 4), [0, 1], [FAR, FAR], [0, 1], [2, 2]),
    sliced("reversed", a(5, 4), [-1], [-FAR], [1], [-1]),
    sliced("reversed-from-far", a(5, 4), [FAR], [-FAR], [1], [-1]),
    sliced("reversed-part", a(5, 4), [3], [0], [0], [-1]),
    sliced("reversed-step", a(8, 2), [-2], [0], [0], [-3]),
    sliced("reversed-step-to-front", a(8, 2), [6], [-FAR], [0], [-2]),
    sliced("reversed-nothing", a(5, 4), [0], [3], [0], [-1]),
    sliced("reversed-in-front", a(5, 4), [-9], [-FAR], [0], [-2]),
    Case("Slice", [a(5, 4), *(np.array([i], np.int32) for i in (1, -1, -1, 2))], label="int32"),
    Case("Slice", [a(5, 4), *(np.array([i], np.int32) for i in (1, -1, -1, 2))], fed=[1, 2], label="int32-fed"),
    sliced("empty-axis", a(0, 4), [1], [FAR], [0], [2]),
    sliced("bounds-fed", a(5, 4), [1, -9], [-1, 9], [0, 1], fed=[1, 2]),
    sliced("bounds-fed-step", a(5, 4), [4, -1], [-9, 0], [0, 1], [-1, -2], fed=[1, 2]),
    sliced("bounds-fed-crossing", a(5, 4), [3], [2], [0], fed=[1, 2]),
    sliced("steps-fed", a(5, 4), [1, 3], [9, -9], [0, 1], [2, -1], fed=[4]),
    sliced("axes-fed", a(5, 4), [1], [4], [1], fed=[3]),
    sliced("all-fed", a(5, 4), [1, 3], [9, -9], [-2, 1], [2, -1], fed=[1, 2, 3, 4]),
    sliced("rank-1", a(6), [1], [5], [0], [2]),
    sliced("rank-5", a(2, 1, 3, 2, 4), [0, 1], [1, 3], [2, -1], [1, 1]),
]

TRIANGLE = [
    Case("Trilu", [a(3, 4)]),
    Case("Trilu", [a(2, 4, 3), np.array(1, np.int64)], {"upper": 0}, label="lower"),
    Case("Trilu", [a(4, 3), np.array(-1, np.int64)], fed=[1], label="fed"),
    Case("Trilu", [a(4, 3), np.array(-9, np.int64)], {"upper": 0}, label="nothing"),
]

TILE = [
    Case("Tile", [a(2, 3), ints(2, 1)]),
    Case("Tile", [a(2, 3), ints(2, 3)], label="both"),
    Case("Tile", [a(2, 3), ints(1, 1)], label="once"),
    Case("Tile", [a(2, 3), ints(1, 0)], label="never"),
    Case("Tile", [a(2, 3), ints(3, 2)], fed=[1], label="fed"),
    Case("Tile", [a(2, 1, 3, 1), ints(1, 2, 1, 3)], label="rank-4"),
]


def padded(label: str, x: np.ndarray, pads: Any, axes: Any = None, value: Any = None, **options: Any) -> Case:
    attrs = {"mode": options.pop("mode")} if "mode" in options else {}
    inputs = [x, ints(pads), None if value is None else np.array(value), None if axes is None else ints(axes)]
    return Case("Pad", inputs, attrs, label=label, **options)


PAD = [
    padded("plain", a(2, 3), [1, 0, 2, 1]),
    padded("constant", a(2, 3), [1, 0, 2, 1], value=0.7),
    padded("constant-fixed", a(2, 3), [1, 0, 2, 1], value=0.7, fixed=[2]),
    padded("axes", a(2, 3, 4), [1, 2], [-1], 0.3),
    padded("axes-swapped", a(2, 3), [1, 0, 0, 2], [1, -2], 0.3),
    # constant axes of type int32 are refused by ONNX's shape inference, so by onnxruntime
    Case("Pad", [a(2, 3), ints(1, 2), None, np.array([1], np.int32)], fed=[3], label="axes-int32"),
    padded("negative", a(4, 5), [-1, 2, 1, -3], value=0.3),
    padded("crop", a(4, 5), [-1, 0, 0, -3]),
    padded("nothing", a(2, 3), [0, 0, 0, 0], value=0.3),
    padded("fed", a(2, 3), [1, 0, 2, -1], value=0.3, fed=[1]),
    padded("axes-fed", a(2, 3), [1, 2], [-1], 0.3, fed=[1, 3]),
    padded("empty", a(0, 3), [1, 0, 2, 1], value=0.3),
    *(
        case
        for mode in ("reflect", "edge", "wrap")
        for case in (
            padded(mode, a(4, 3), [2, 1, 1, 2], mode=mode),
            padded(f"{mode}-axes", a(2, 4, 3), [2, 1], [-2], mode=mode),
            padded(f"{mode}-fed", a(4, 3), [2, 0, 1, 2], mode=mode, fed=[1]),
        )
    ),
    padded("wrap-far", a(3), [4, 5], mode="wrap"),
    *(padded(f"opset-{opset}", a(2, 3), [1, 0, 2, 1], value=0.7, opset=opset) for opset in (18, 19, 21, 23, 24, 25)),
]

BLOCKS = [
    Case("DepthToSpace", [a(2, 8, 2, 3)], {"blocksize": 2}),
    Case("DepthToSpace", [a(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, label="CRD"),
    Case("SpaceToDepth", [a(2, 2, 4, 6)], {"blocksize": 2}),
    Case("SpaceToDepth", [a(1, 1, 3, 3)], {"blocksize": 3}, label="three"),
    Case("ReverseSequence", [a(4, 3), ints(4, 1, 3)], {"time_axis": 0, "batch_axis": 1}),
    Case("ReverseSequence", [a(3, 4, 2), ints(4, 1, 3)], {"time_axis": 1, "batch_axis": 0}, label="batch-first"),
    Case("ReverseSequence", [a(3, 4), ints(4, 1, 3)], {"time_axis": 1, "batch_axis": 0}, fed=[1], label="fed"),
    Case("CenterCropPad", [a(5, 4), ints(2, 7)]),
    Case("CenterCropPad", [a(4, 5), ints(7, 2)], label="odd"),
    Case("CenterCropPad", [a(2, 5, 4), ints(2, 7)], {"axes": [-1, 1]}, label="axes"),
    Case("CenterCropPad", [a(5, 4), ints(2, 7)], fed=[1], label="fed"),
    Case("Col2Im", [a(1, 4, 4), ints(3, 3), ints(2, 2)]),
    Case("Col2Im", [a(2, 6, 9), ints(3, 4), ints(2, 3)], {"pads": [1, 0, 0, 1]}, label="pads"),
    Case("Col2Im", [a(1, 4, 4), ints(5, 6), ints(2, 2)], {"strides": [2, 3], "dilations": [2, 1]}, label="strides"),
    Case("Col2Im", [a(1, 2, 4), ints([5]), ints([2])], label="one-axis"),
    Case("Col2Im", [a(1, 8, 2), ints(2, 2, 3), ints(2, 2, 2)], label="three-axes"),
    Case("Col2Im", [a(1, 4, 4), ints(3, 3), ints(2, 2)], fed=[1], label="fed"),
    Case("Col2Im", [a(2, 6, 9), ints(3, 4), ints(2, 3)], {"pads": [1, 0, 0, 1]}, fed=[2], label="fed-block"),
    Case(
        "Col2Im",
        [a(1, 4, 4), ints(5, 6), ints(2, 2)],
        {"strides": [2, 3], "dilations": [2, 1]},
        fed=[1, 2],
        label="fed-both",
    ),
]

RANGE = [
    Case("Range", [np.array(0.3), np.array(2.6), np.array(0.5)], fixed=[1]),
    Case("Range", [np.array(2.3), np.array(-1.0), np.array(-0.7)], fixed=[1], label="down"),
    Case("Range", [np.array(2.3), np.array(1.0), np.array(0.7)], fixed=[1], label="nothing"),
]

#: The newest versions of operators, for which onnxruntime has no kernels yet.
NEWEST = [
    Case("SpaceToDepth", [a(2, 2, 4, 6)], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [a(2, 2, 4, 6)], {"blocksize": 2}, label="DCR"),
    Case("DepthToSpace", [a(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    Case("ReverseSequence", [a(4, 3), ints(4, 1, 3)], {"time_axis": 0, "batch_axis": 1}),
    Case("Range", [np.array(0.3), np.array(2.6), np.array(0.5)], fixed=[1]),
    Case("Pad", [a(2, 3), ints(1, 0, 2, 1), np.array(0.7)]),
    Case("Reshape", [a(2, 3), ints(0, -1)]),
]


@pytest.mark.parametrize("case", NEWEST, ids=lambda case: f"{case.name}")
def test_newest_version(case: Case) -> None:
    check_rule(replace(case, opset=28, float32=None))


@pytest.mark.parametrize(
    "case", RESHAPE + JOIN + SLICE + TRIANGLE + TILE + PAD + BLOCKS + RANGE, ids=lambda case: case.name
)
def test_rule(case: Case) -> None:
    check_rule(case)


SAMPLES = [
    (Case("Transpose", [a(2, 3, 4)], {"perm": [2, 0, 1]}), [0, 1, 2]),
    (Case("Expand", [a(2, 3), ints(2, 1, 1)]), [0, 1]),
    (Case("Expand", [a(2, 1), ints(1, 3)], label="wider"), [0]),
    (Case("Concat", [a(2, 3, 4), a(2, 3, 4)], {"axis": -2}), [0, 1, 2]),  # on axis 1, in two blocks
    (Case("Concat", [a(2, 3), a(2, 3)], {"axis": -1}, fixed=[1], label="fixed"), [0]),
    (Case("Split", [a(2, 4, 3)], {"axis": 1, "num_outputs": 2}, outputs=2), [0, 2]),
    (sliced("part", a(3, 4), [0], [FAR], [1], [2]), [0]),
    (sliced("whole", a(3, 4), [0, 1], [FAR, FAR], [0, 1], [1, 1]), [0]),
    (sliced("reversed", a(3, 4), [-1], [-FAR], [0], [-1]), [1]),
    (sliced("axes-fed", a(3, 4), [0], [2], [0], fed=[3]), []),
    (sliced("steps-fed", a(3, 4), [0], [2], [0], [1], fed=[4]), []),
    (Case("Squeeze", [a(2, 1, 3), np.array([-2])]), [0, 1, 2]),
    (Case("Squeeze", [a(1, 2, 1, 3)], label="all"), [0, 1, 2, 3]),
    (Case("Trilu", [a(2, 3, 4)]), [0]),
    (Case("Tile", [a(2, 3, 1), ints(2, 1, 3)]), [1]),
    (Case("Tile", [a(2, 3), ints(1, 1)], fed=[1], label="fed"), []),
    (padded("samples", a(2, 3, 4), [0, 0, 1, 0, 0, 1], None, 0.3, fixed=[2]), [0, 1]),
    (padded("samples-axes", a(2, 3, 4), [1, 2], [-2]), [0, 2]),
    (padded("samples-shifted", a(2, 3), [1, 0, -1, 0]), [1]),
    (padded("samples-fed", a(2, 3, 4), [1, 2], [-2], fed=[1]), [0, 2]),
    (padded("samples-axes-fed", a(2, 3), [1, 2], [-2], fed=[3]), []),
    (Case("DepthToSpace", [a(2, 8, 2, 3)], {"blocksize": 2}), [0]),
    (Case("SpaceToDepth", [a(2, 1, 4, 2)], {"blocksize": 2}), [0]),
    (Case("ReverseSequence", [a(4, 3, 2), ints(4, 1, 3)], {"time_axis": 0, "batch_axis": 1}), [1, 2]),
    (Case("CenterCropPad", [a(2, 3, 4), ints(3, 5)], {"axes": [1, 2]}), [0, 1]),
    (Case("Col2Im", [a(2, 4, 4), ints(3, 3), ints(2, 2)]), [0]),
]


@pytest.mark.parametrize(("case", "kept"), SAMPLES, ids=lambda v: v.name if isinstance(v, Case) else None)
def test_samples(case: Case, kept: list[int]) -> None:
    check_samples(case, kept)


def test_samples_stay_in_front_when_an_axis_is_squeezed_that_is_not_known_to_have_size_1() -> None:
    """The last of L steps, as TensorFlow's recurrent layers take it: ``x[-1:]`` has the size min(1, L)."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 22]> g (double[N, L, 3] x) => (double[N, 3] y)
        <int64[1] start = {-1}, int64[1] end = {2147483647}, int64[1] axis = {0}> {
            steps = Transpose<perm = [1, 0, 2]>(x)
            last = Slice(steps, start, end, axis)
            alone = Squeeze(last, axis)
            y = Sin(alone)
        }"""
    )
    x = a(2, 4, 3)
    found = onnxgrad.load(model).jacobian(x)
    expected = np.zeros((2, 3, 4, 3))
    expected[:, range(3), -1, range(3)] = np.cos(x[:, -1])
    close(found, expected, 1e-15, "jacobian")


def test_blocks_of_samples_are_joined_and_split_again() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 22]> g (double[N, 3] x) => (double[N, 3] y) {
            twice = Add(x, x)
            both = Concat<axis = 0>(x, twice)
            curved = Sin(both)
            left, right = Split<axis = 0, num_outputs = 2>(curved)
            y = Mul(left, right)
        }"""
    )
    x = a(4, 3)
    found = Runner(onnxgrad.jacobian(model, batched=True))({"x": x})["jac_y_x"]
    expected = np.cos(x) * np.sin(2 * x) + 2 * np.sin(x) * np.cos(2 * x)
    close(found, expected[:, :, None] * np.eye(3), 1e-12, "jacobian")


def test_parts_of_a_batch_are_refused() -> None:
    model = make_model(Case("Split", [a(4, 3)], {"num_outputs": 2}, outputs=2))
    with pytest.raises(onnxgrad.MixedSamplesError, match="it splits axis 0"):
        onnxgrad.jacobian(model, "y0", "x0", batched=True)


@pytest.mark.parametrize("bounds", [(5, 9), (5, FAR), (-9, -5), (4, -4), (-9, 9), (1, -1), (-2, FAR)])
def test_a_slice_is_clamped_whatever_the_size(bounds: tuple[int, int]) -> None:
    """A size that is known only at run time may be smaller than what is cut off."""
    model = make_model(sliced("", a(7, 2), *([b] for b in bounds)), dynamic=True)
    back = Runner(onnxgrad.vjp(model, seeds="s"))
    for size in (0, 1, 2, 3, 7, 12):
        ct = a(3, *np.empty((size, 2))[slice(*bounds)].shape)
        expected = np.zeros((3, size, 2))
        expected[:, slice(*bounds)] = ct
        close(back({"x0": a(size, 2), "adj_y0": ct})["adj_x0"], expected, 1e-12, f"size {size}")


def test_a_constant_slice_costs_one_node() -> None:
    for case in (SLICE[0], SLICE[3], sliced("steps", a(2, 6), [0], [2], [1])):
        nodes = onnxgrad.vjp(make_model(case)).graph.node
        assert [node.op_type for node in nodes if node.name != "n"] == ["Pad"]


def test_split_with_an_output_that_has_no_name_is_refused() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 22]> g (double[4] x, int64[2] parts) => (double[K] y) {
            y, unused = Split(x, parts)
        }"""
    )
    model.graph.node[0].output[1] = ""
    with pytest.raises(onnxgrad.NotDifferentiableError, match="no name"):
        onnxgrad.vjp(model)


def test_the_limit_of_a_range_moves_nothing() -> None:
    model = make_model(Case("Range", [np.array(0.3), np.array(2.6), np.array(0.5)]))
    with pytest.warns(onnxgrad.DisconnectedWarning, match="how many"):
        found = Runner(onnxgrad.vjp(model, "y0", "x1"))
    assert found({"x0": 0.3, "x1": 2.6, "x2": 0.5, "adj_y0": np.ones(5)})["adj_x1"] == 0


@pytest.mark.parametrize("op", ["Shape", "Size", "ConstantOfShape", "EyeLike"])
def test_sizes_have_no_derivative(op: str) -> None:
    text = {
        "Shape": "s = Shape(x) y = Cast<to = 1>(s)",
        "Size": "s = Size(x) y = Cast<to = 1>(s)",
        "ConstantOfShape": "s = Shape(x) y = ConstantOfShape(s)",
        "EyeLike": "y = EyeLike(x)",
    }[op]
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 22]> g (float[2, 3] x) => (float y) {{{text}}}'
    )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.warns(onnxgrad.DisconnectedWarning):
        derived = onnxgrad.vjp(model)
    shape = [d.dim_value for d in derived.graph.output[0].type.tensor_type.shape.dim]
    found = Runner(derived)({"x": np.ones((2, 3), np.float32), "adj_y": np.ones(shape, np.float32)})["adj_x"]
    np.testing.assert_array_equal(found, np.zeros((2, 3)))


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_repeated_elements_in_half_precision_are_summed_in_float32(mode: str) -> None:
    """4,000 copies of a half: in float16 the sum would stop at 1024."""
    case = Case("Pad", [a(3).astype(np.float16), ints(4000, 0)], {"mode": mode})
    if mode != "edge":
        case = replace(case, inputs=[a(3).astype(np.float16), ints(2, 2)])
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, [3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, None)
    pads = onnx.numpy_helper.from_array(case.inputs[1], "pads")  # type: ignore[arg-type]
    node = onnx.helper.make_node("Pad", ["x", "pads"], ["y"], mode=mode)
    graph = onnx.helper.make_graph([node], "g", [x], [y], [pads])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    run = Runner(onnxgrad.vjp(model), only_runtime=True)
    size = 3 + int(case.inputs[1].sum())  # type: ignore[union-attr]
    found = run({"x": np.ones(3, np.float16), "adj_y": np.full(size, 0.5, np.float16)})["adj_x"]
    assert found.dtype == np.float16
    assert found.sum() == pytest.approx(size / 2, rel=1e-3)
