"""Operators that move elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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
    Case("Unsqueeze", [a(3, 2), ints(0, -1)]),
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
    sliced("int32", a(5, 4), [1], [-1], [-1], [1]),
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
    padded("axes-int32", a(2, 3), [1, 0, 0, 2], [1, -2], 0.3),
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
]

RANGE = [
    Case("Range", [np.array(0.3), np.array(2.6), np.array(0.5)], fixed=[1]),
    Case("Range", [np.array(2.3), np.array(-1.0), np.array(-0.7)], fixed=[1], label="down"),
    Case("Range", [np.array(2.3), np.array(1.0), np.array(0.7)], fixed=[1], label="nothing"),
]


@pytest.mark.parametrize(
    "case", RESHAPE + JOIN + SLICE + TRIANGLE + TILE + PAD + BLOCKS + RANGE, ids=lambda case: case.name
)
def test_rule(case: Case) -> None:
    check_rule(case)


SAMPLES = [
    (Case("Transpose", [a(2, 3, 4)], {"perm": [2, 0, 1]}), [0, 1, 2]),
    (Case("Expand", [a(2, 3), ints(2, 1, 1)]), [0, 1]),
    (Case("Expand", [a(2, 1), ints(1, 3)], label="wider"), [0]),
    (Case("Concat", [a(2, 3, 4), a(2, 1, 4)], {"axis": -2}), [0, 2]),
    (Case("Split", [a(2, 4, 3)], {"axis": 1, "num_outputs": 2}, outputs=2), [0, 2]),
    (sliced("part", a(3, 4), [0], [FAR], [1], [2]), [0]),
    (sliced("whole", a(3, 4), [0, 1], [FAR, FAR], [0, 1], [1, 1]), [0]),
    (sliced("reversed", a(3, 4), [-1], [-FAR], [0], [-1]), [1]),
    (sliced("axes-fed", a(3, 4), [0], [2], [0], fed=[3]), []),
    (sliced("steps-fed", a(3, 4), [0], [2], [0], [1], fed=[4]), []),
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
