"""Regions of images that are sampled and pooled, and convolution with sampled windows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import onnxgrad
from tests.expressions import expression_model
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model
from tests.regions import DeformConv, MaxRoiPool

rng = np.random.default_rng(13)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# --- RoiAlign -------------------------------------------------------------------------------------


def positions(rois: np.ndarray, high: int, wide: int, ratio: int, scale: float, half: bool) -> np.ndarray:
    """All coordinates of samples, and numbers of samples before they are rounded up."""
    found = []
    for axis, bins in ((0, wide), (1, high)):
        start, end = rois[:, axis] * scale - 0.5 * half, rois[:, axis + 2] * scale - 0.5 * half
        extent = end - start if half else np.maximum(end - start, 1.0)
        found.append(extent / bins)
        for first, width in zip(start, extent / bins, strict=True):
            count = ratio or int(np.ceil(width))
            inside = (np.arange(count) + 0.5) / max(count, 1)
            found.append((first + (np.arange(bins)[:, None] + inside) * width).ravel())
    return np.concatenate(found)


def align(label: str, x: np.ndarray, count: int, *, high: int = 2, wide: int = 3, **options: Any) -> Case:
    """Regions of all sizes, inside and outside; no sample near a place where a pixel gives way to the next."""
    attrs = {
        "mode": options.pop("mode", "avg"),
        "coordinate_transformation_mode": options.pop("coordinates", "half_pixel"),
        "sampling_ratio": options.pop("ratio", 0),
        "spatial_scale": options.pop("scale", 1.0),
        "output_height": high,
        "output_width": wide,
    }
    half = attrs["coordinate_transformation_mode"] == "half_pixel"
    rois = np.zeros((0, 4))
    while len(rois) < count:
        size = np.array([*x.shape[:1:-1]]) / attrs["spatial_scale"]
        first = rng.uniform(-0.4, 0.6, 2) * size
        roi = np.concatenate([first, first + rng.uniform(0.2, 1.0, 2) * size])[None]
        u = positions(roi, high, wide, attrs["sampling_ratio"], attrs["spatial_scale"], half)
        if np.abs(u - np.round(u)).min() > 0.01:
            rois = np.concatenate([rois, roi])
    images = rng.integers(0, x.shape[0], count)
    fed = [2] if options.pop("feed", False) else []
    return Case("RoiAlign", [x, rois, images], attrs, label=label, fed=fed, **{"opset": 18, **options})


ALIGN = [
    *(
        align(f"{mode}-{coordinates}-{ratio}", a(2, 2, 5, 6), 4, mode=mode, coordinates=coordinates, ratio=ratio)
        for mode in ("avg", "max")
        for coordinates in ("half_pixel", "output_half_pixel")
        for ratio in (0, 2)
    ),
    align("scale", a(1, 2, 5, 6), 2, scale=0.5, ratio=2),
    align("scale-max", a(1, 2, 5, 6), 2, scale=0.25, mode="max"),
    align("one-bin", a(1, 1, 4, 4), 2, high=1, wide=1),
    align("one-pixel", a(1, 2, 1, 1), 2),
    align("one-sample", a(1, 2, 3, 4), 1, ratio=1, mode="max"),
    align("fed", a(2, 1, 4, 4), 2, feed=True),
]

# --- MaxRoiPool -----------------------------------------------------------------------------------

REGIONS = np.array(  # the last two lie outside, and run backwards
    [
        [0, 0.2, 0.4, 3.6, 4.2],
        [1, 1.5, 1.2, 2.1, 1.4],
        [1, -2.5, 3.1, 2.2, 7.6],
        [0, 7.1, 8.2, 9.0, 9.0],
        [0, 3.0, 3.0, 1.0, 1.0],
    ]
)
POOL = [
    Case("MaxRoiPool", [a(2, 2, 5, 6), REGIONS], {"pooled_shape": [2, 3]}, label="", fixed=[1], opset=18),
    Case("MaxRoiPool", [a(2, 2, 5, 6), REGIONS], {"pooled_shape": [1, 1]}, label="one-bin", fixed=[1], opset=18),
    Case(
        "MaxRoiPool",
        [a(2, 1, 5, 6), REGIONS * [1, 2, 2, 2, 2]],
        {"pooled_shape": [2, 2], "spatial_scale": 0.5},
        label="scale",
        fixed=[1],
        opset=18,
    ),
]

# --- DeformConv -----------------------------------------------------------------------------------


def shifts(*shape: int) -> np.ndarray:
    """Offsets that keep away from whole numbers."""
    return rng.integers(-2, 2, shape) + rng.uniform(0.05, 0.95, shape)


def deform(
    label: str, x: np.ndarray, w: np.ndarray, out: tuple[int, ...], bias: bool, masked: bool, **attrs: Any
) -> Case:
    sets, inside, n = attrs.get("offset_group", 1), int(np.prod(w.shape[2:])), x.ndim - 2
    options = {name: attrs.pop(name) for name in ("opset", "float32") if name in attrs}
    inputs: list[Any] = [x, w, shifts(x.shape[0], sets * inside * n, *out)]
    inputs.append(a(w.shape[0]) if bias else None)
    inputs.append(a(x.shape[0], sets * inside, *out) if masked else None)
    while inputs[-1] is None:
        inputs.pop()
    return Case("DeformConv", inputs, attrs, label=label, **options)


DEFORM = [
    deform("plain", a(2, 2, 4, 5), a(3, 2, 2, 2), (3, 4), False, False),
    deform("bias-and-mask", a(1, 2, 4, 5), a(2, 2, 2, 3), (3, 3), True, True),
    deform("mask", a(1, 2, 3, 3), a(1, 2, 2, 2), (2, 2), False, True, opset=19),
    deform("groups", a(1, 4, 3, 4), a(4, 2, 2, 2), (2, 3), True, False, group=2, offset_group=2),
    deform("offset-groups", a(1, 4, 3, 4), a(2, 4, 2, 2), (2, 3), False, True, offset_group=4),
    deform("depthwise", a(1, 2, 3, 4), a(4, 1, 2, 2), (2, 3), False, False, group=2),
    deform(
        "strides",
        a(1, 1, 5, 6),
        a(1, 1, 2, 2),
        (3, 2),
        False,
        True,
        strides=[2, 3],
        pads=[1, 0, 0, 1],
        dilations=[1, 2],
        kernel_shape=[2, 2],
    ),
    deform("one-row", a(1, 1, 1, 4), a(1, 1, 1, 2), (1, 3), False, False),
    deform("three-axes", a(1, 2, 2, 3, 3), a(2, 1, 1, 2, 2), (2, 2, 2), True, True, group=2, float32=None),
    deform("one-axis", a(2, 2, 5), a(2, 2, 2), (4,), False, True, float32=None),
]
CASES = [*ALIGN, *POOL, *DEFORM]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_expression(case: Case) -> None:
    """What is differentiated equals the operator, in float64, with fixed and with symbolic sizes."""
    feeds = {f"x{i}": x for i, x in enumerate(case.inputs) if x is not None and (x.dtype == float or i in case.fed)}
    feeds = {name: x for name, x in feeds.items() if int(name[1:]) not in case.fixed}
    for dynamic in (False, True):
        model = make_model(case, dynamic=dynamic)
        close(Runner(expression_model(model))(feeds)["y0"], Runner(model)(feeds)["y0"], 1e-12, "y0")


@pytest.mark.parametrize("case", [*POOL, *DEFORM[:-2]], ids=lambda case: case.name)
def test_reference_agrees_with_the_runtime(case: Case) -> None:
    """What stands in for the operators in these tests is what onnxruntime computes, in float32."""
    narrow = {f"x{i}": np.asarray(x, np.float32) for i, x in enumerate(case.inputs) if x is not None}
    case = dataclasses.replace(case, inputs=[None if x is None else x + 0.0 for x in case.inputs], fixed=[])
    run = Runner(make_model(case, np.float32), only_runtime=True)
    operator = {"MaxRoiPool": MaxRoiPool, "DeformConv": DeformConv}[case.op]
    inputs = [None if x is None else np.asarray(x) for x in case.inputs]
    expected = operator._run(None, *inputs, **case.attrs)[0]
    close(run(narrow)["y0"], expected, 1e-5, "y0")


@pytest.mark.parametrize(
    ("case", "kept"),
    [
        (dataclasses.replace(ALIGN[0], fixed=[1]), [1]),
        (POOL[0], [1]),
        (dataclasses.replace(DEFORM[0], fixed=[1]), [0]),
    ],
    ids=["RoiAlign", "MaxRoiPool", "DeformConv"],
)
def test_samples(case: Case, kept: list[int]) -> None:
    check_samples(case, kept)


def test_samples_of_regions() -> None:
    check_samples(dataclasses.replace(ALIGN[0], inputs=[*ALIGN[0].inputs], fixed=[0]), [0])


@pytest.mark.parametrize("op", ["RoiAlign", "MaxRoiPool"])
def test_no_regions(op: str) -> None:
    case = ALIGN[0] if op == "RoiAlign" else POOL[0]
    model = make_model(dataclasses.replace(case, fixed=[]), np.float32, dynamic=True)
    x, rois = (np.asarray(v, np.float32) for v in case.inputs[:2])
    if op == "RoiAlign":
        model = make_model(dataclasses.replace(case, fed=[2]), np.float32, dynamic=True)
        model.graph.input[2].type.tensor_type.shape.dim[0].dim_param = "count"
    feeds = {"x0": x, "x1": rois[:0]} | ({"x2": ints()} if op == "RoiAlign" else {})
    run = Runner(onnxgrad.vjp(model, wrt="x0"), only_runtime=True)
    found = run({**feeds, "adj_y0": np.zeros((0, x.shape[1], 2, 3), np.float32)})
    assert found["adj_x0"].shape == x.shape
    assert not found["adj_x0"].any()


def test_regions_of_no_extent() -> None:
    """An empty region has no samples: its mean is 0, and nothing moves it."""
    x, rois = a(1, 1, 4, 4), np.array([[2.0, 2.0, 2.0, 2.0], [3.0, 3.0, 1.0, 1.0]])
    for mode in ("avg", "max"):
        model = make_model(
            Case("RoiAlign", [x, rois, ints(0, 0)], {"mode": mode, "output_height": 2, "output_width": 2}, opset=18)
        )
        found = Runner(onnxgrad.vjp(model))({"x0": x, "x1": rois, "adj_y0": np.ones((2, 1, 2, 2))})
        assert not found["y0"].any()
        assert not found["adj_x0"].any()
        assert not found["adj_x1"].any()


def test_edges_of_bins_are_steps() -> None:
    model = make_model(dataclasses.replace(POOL[0], fixed=[]))
    with pytest.warns(onnxgrad.DisconnectedWarning, match="rounded to whole pixels"):
        added = onnxgrad.vjp(model, wrt="x1")
    found = Runner(added)({"x0": POOL[0].inputs[0], "x1": REGIONS, "adj_y0": np.ones((len(REGIONS), 2, 2, 3))})
    assert not found["adj_x1"].any()


def test_ties_in_a_bin_go_to_the_first() -> None:
    x = np.ones((1, 1, 2, 2))
    model = make_model(
        Case("MaxRoiPool", [x, np.array([[0.0, 0, 0, 1, 1]])], {"pooled_shape": [1, 1]}, fixed=[1], opset=18)
    )
    found = Runner(onnxgrad.vjp(model))({"x0": x, "adj_y0": np.ones((1, 1, 1, 1))})["adj_x0"]
    np.testing.assert_array_equal(found, [[[[1, 0], [0, 0]]]])
