"""Resizing by interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, make_model

rng = np.random.default_rng(4)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def scaled(x: np.ndarray, scales: list[float], label: str, **attrs: Any) -> Case:
    options = {name: attrs.pop(name) for name in ("opset", "float32", "differences") if name in attrs}
    roi = attrs.pop("roi", None)
    part = None if roi is None else np.array(roi, np.float32)
    return Case("Resize", [x, part, np.array(scales, np.float32)], attrs, label=label, smooth=False, **options)


def sized(x: np.ndarray, sizes: list[int], label: str, **attrs: Any) -> Case:
    options = {name: attrs.pop(name) for name in ("opset", "float32", "differences") if name in attrs}
    roi = attrs.pop("roi", None)
    part = None if roi is None else np.array(roi, np.float32)
    return Case("Resize", [x, part, None, np.array(sizes)], attrs, label=label, smooth=False, **options)


image = a(1, 2, 3, 4)
COORDINATES = "half_pixel half_pixel_symmetric pytorch_half_pixel align_corners asymmetric".split()

#: Coordinates for which onnxruntime and ONNX's reference differ where a size is rounded, so one cannot check the other.
APART = {c: None if c == "align_corners" else 1e-4 for c in COORDINATES}

CASES = [
    *(
        scaled(image, [1, 1, 1.7, 0.6], f"{mode}-{c}", mode=mode, coordinate_transformation_mode=c, float32=APART[c])
        for mode in ("nearest", "linear", "cubic")
        for c in COORDINATES
    ),
    *(
        sized(image, [1, 2, 5, 2], f"{mode}-{c}-sizes", mode=mode, coordinate_transformation_mode=c)
        for mode in ("nearest", "linear", "cubic")
        for c in ("half_pixel", "align_corners")
    ),
    *(
        scaled(image, [1, 1, 1.6, 0.7], f"nearest-{r}", nearest_mode=r, coordinate_transformation_mode="asymmetric")
        for r in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    # whole factors: repeated elements, or not quite
    *(
        scaled(image, [1, 1, 2, 3], f"repeat-{c}-{r}", nearest_mode=r, coordinate_transformation_mode=c)
        for c in COORDINATES
        for r in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    sized(image, [1, 2, 6, 12], "repeat-sizes", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    scaled(image, [1, 1, 2, 2], "repeat-halves", coordinate_transformation_mode="asymmetric"),
    # ranks and axes
    scaled(a(5), [1.7], "rank-1", mode="linear", float32=None),
    scaled(a(5), [2.0], "rank-1-nearest"),
    scaled(a(3, 4), [1.3, 2.2], "rank-2", mode="linear"),
    scaled(a(2, 3, 4), [1, 1, 1.7], "rank-3", mode="linear"),
    scaled(a(2, 3, 4), [1, 1, 1.7], "rank-3-cubic", mode="cubic", float32=None),
    scaled(a(1, 2, 2, 2, 3), [1, 1, 1.7, 1.3, 0.7], "rank-5", mode="linear"),
    scaled(a(1, 2, 2, 2, 3), [1, 1, 2, 1, 2], "rank-5-nearest"),
    scaled(a(2, 3, 4, 2), [1, 1.7, 1.4, 1], "channels-last", mode="linear"),
    scaled(a(2, 3), [2.0, 1.5], "batch-too", mode="nearest"),
    scaled(image, [1.5], "axes", mode="linear", axes=[3]),
    scaled(image, [2, 1.5], "axes-order", mode="cubic", axes=[3, 2]),
    sized(image, [5, 2], "axes-sizes", mode="linear", axes=[2, 3]),
    scaled(image, [2, 2], "axes-repeat", mode="nearest", axes=[2, 3]),
    scaled(a(1, 1, 1, 1), [1, 1, 3, 2], "one-element", mode="linear"),
    scaled(a(1, 1, 2, 3), [1, 1, 0.5, 0.4], "to-one-element", mode="linear"),
    sized(a(1, 1, 3, 3), [1, 1, 1, 1], "to-one-element-pytorch", coordinate_transformation_mode="pytorch_half_pixel"),
    # a scale other than 1 that changes one size, and not the other
    scaled(a(1, 1, 3, 4), [1, 1, 1.3, 1.3], "scale-without-effect", mode="linear"),
    scaled(a(1, 1, 3, 3), [1, 1, 1.3, 1.3], "scales-without-effect", mode="linear", float32=None),
    scaled(a(1, 1, 4, 4), [1, 1, 1, 1], "no-scale", mode="linear"),
    # options
    scaled(image, [1, 1, 0.5, 0.6], "antialias", mode="linear", antialias=1),
    sized(a(1, 1, 7, 6), [1, 1, 3, 2], "antialias-cubic", mode="cubic", antialias=1),
    scaled(image, [1, 1, 1.7, 0.6], "cubic-coefficient", mode="cubic", cubic_coeff_a=-0.5),
    scaled(image, [1, 1, 1.7, 0.6], "cubic-outside", mode="cubic", exclude_outside=1),
    *(
        sized(
            a(1, 1, 4, 6),
            sizes,
            f"{policy}-{mode}-{sizes[0]}",
            mode=mode,
            axes=[2, 3],
            keep_aspect_ratio_policy=policy,
        )
        for policy in ("not_larger", "not_smaller")
        for mode in ("nearest", "linear", "cubic")
        for sizes in ([7, 8], [3, 5])
    ),
    sized(image, [6], "ratio-of-one-axis", mode="linear", axes=[3], keep_aspect_ratio_policy="not_larger"),
    # crops
    *(
        scaled(
            a(1, 2, 4, 5),
            [1, 1, 1.5, 1.2],
            f"crop-{mode}",
            mode=mode,
            roi=[0, 0, 0.1, 0.3, 1, 1, 0.8, 0.9],
            coordinate_transformation_mode="tf_crop_and_resize",
        )
        for mode in ("nearest", "linear", "cubic")
    ),
    *(
        sized(
            a(1, 1, 4, 5),
            [6, 3],
            f"crop-outside-{mode}",
            mode=mode,
            axes=[2, 3],
            roi=[-0.2, 0.1, 0.7, 1.3],
            extrapolation_value=7.0,
            coordinate_transformation_mode="tf_crop_and_resize",
        )
        for mode in ("nearest", "linear", "cubic")
    ),
    sized(
        a(1, 1, 4, 5),
        [1, 1, 6, 5],
        "crop-same-size",
        mode="linear",
        roi=[0, 0, 0, 0.2, 1, 1, 1, 0.9],
        coordinate_transformation_mode="tf_crop_and_resize",
        float32=None,  # onnxruntime does not crop along an axis that keeps its size
    ),
    sized(
        a(1, 1, 4, 5),
        [7, 8],
        "crop-ratio",
        mode="linear",
        axes=[2, 3],
        roi=[0.1, 0.2, 0.7, 1.1],
        float32=None,  # onnxruntime and the reference differ as with "align_corners"
        keep_aspect_ratio_policy="not_larger",
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    scaled(image, [1, 1, 1.7, 0.6], "opset-18", mode="linear", opset=18),
]


def cropped(label: str, ends: list[float], sizes: list[int], **attrs: Any) -> Case:
    """A crop that is differentiated by, along the last two axes."""
    attrs = {"axes": [2, 3], "coordinate_transformation_mode": "tf_crop_and_resize", **attrs}
    inputs = [a(1, 2, 4, 5), np.array(ends), None, np.array(sizes)]
    options = {name: attrs.pop(name) for name in ("float32", "smooth") if name in attrs}
    return Case("Resize", inputs, attrs, label=f"ends-{label}", **options)


#: Ends of crops inside and outside of the image; no point lies on an element.
INSIDE, OUTSIDE = [0.11, 0.23, 0.82, 0.91], [-0.21, 0.13, 0.72, 1.31]
CROPS = [
    *(cropped(mode, INSIDE, [6, 3], mode=mode) for mode in ("linear", "cubic")),
    *(cropped(f"outside-{mode}", OUTSIDE, [6, 3], mode=mode, extrapolation_value=7.0) for mode in ("linear", "cubic")),
    cropped("order", INSIDE, [6, 3], mode="linear", axes=[3, 2]),
    cropped("one-element", INSIDE, [1, 3], mode="linear"),
    cropped("coefficient", INSIDE, [3, 7], mode="cubic", cubic_coeff_a=-0.5),
    cropped("exclude-outside", INSIDE, [6, 7], mode="cubic", exclude_outside=1),
    cropped("backwards", INSIDE[::-1], [6, 3], mode="linear"),
    cropped("same-size", INSIDE, [6, 5], mode="linear", float32=None),  # see "crop-same-size"
    cropped("ratio", INSIDE, [7, 8], mode="linear", keep_aspect_ratio_policy="not_larger", float32=None),
]
CASES += CROPS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


#: Interpolations that onnxruntime has no kernel for.
NO_KERNEL = ("rank-1", "rank-3-cubic")


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.label not in NO_KERNEL and not c.label.startswith("ends-")],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_adjoint_in_onnxruntime(case: Case, dynamic: bool) -> None:
    """``⟨ct, R x⟩ = ⟨Rᵀ ct, x⟩`` for the R that onnxruntime computes, which at times is not that of the reference."""
    model = make_model(case, np.float32, dynamic=dynamic)
    run = Runner(onnxgrad.vjp(model), only_runtime=True)
    x = rng.normal(size=case.inputs[0].shape).astype(np.float32)  # type: ignore[union-attr]
    plain = Runner(model, only_runtime=True)
    linear = plain({"x0": x})["y0"] - plain({"x0": np.zeros_like(x)})["y0"]
    ct = rng.normal(size=linear.shape).astype(np.float32)
    back = run({"x0": x, "adj_y0": ct})["adj_x0"]
    assert np.sum(ct * linear) == pytest.approx(np.sum(back * x), abs=1e-4)


def make_chain(inputs: dict[str, list[Any]], feeds: list[str], **attrs: Any) -> onnx.ModelProto:
    """``y = Resize(x ** 2, …)`` with scales, sizes or a crop that are fed."""
    types = {"x": onnx.TensorProto.FLOAT, "roi": onnx.TensorProto.FLOAT, "scales": onnx.TensorProto.FLOAT}
    infos = [helper.make_tensor_value_info(n, types.get(n, onnx.TensorProto.INT64), s) for n, s in inputs.items()]
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Resize", ["square", *feeds], ["y"], name="n", **attrs),
    ]
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", infos, [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


FED = {
    "scales": (["", "scales"], {"scales": np.array([1, 1, 1.7, 0.6], np.float32)}, {}),
    "scales-axes": (["", "scales"], {"scales": np.array([1.3, 1.2], np.float32)}, {"axes": [2, 3]}),
    "scales-repeat": (["", "scales"], {"scales": np.array([2, 3], np.float32)}, {"axes": [2, 3], "mode": "nearest"}),
    "sizes": (["", "", "sizes"], {"sizes": np.array([1, 2, 5, 7])}, {}),
    "sizes-ratio": (
        ["", "", "sizes"],
        {"sizes": np.array([7, 9])},
        {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"},
    ),
    "crop": (
        ["roi", "scales"],
        {"roi": np.array([0.1, 0.2, 0.8, 0.9], np.float32), "scales": np.array([1.5, 2], np.float32)},
        {"axes": [2, 3], "coordinate_transformation_mode": "tf_crop_and_resize"},
    ),
}


@pytest.mark.parametrize("label", FED)
@pytest.mark.parametrize("size", [[1, 2, 3, 3], ["N", 2, "H", "W"]], ids=["fixed", "dynamic"])
def test_fed(label: str, size: list[Any]) -> None:
    names, fed, attrs = FED[label]
    inputs = {"x": size, **{name: list(value.shape) for name, value in fed.items()}}
    model = make_chain(inputs, names, **{"mode": "linear", **attrs})
    x = rng.normal(size=(1, 2, 3, 3)).astype(np.float32)
    plain = Runner(model, only_runtime=True)
    ct = rng.normal(size=plain({"x": x, **fed})["y"].shape).astype(np.float32)
    direction = rng.normal(size=x.shape).astype(np.float32)
    change = plain({"x": x + direction, **fed})["y"] - plain({"x": x - direction, **fed})["y"]  # exact for a square
    back = Runner(onnxgrad.vjp(model, wrt="x"), only_runtime=True)({"x": x, **fed, "adj_y": ct})["adj_x"]
    assert np.sum(ct * change) / 2 == pytest.approx(np.sum(back * direction), abs=1e-4)
    if "scales" in fed and attrs.get("mode") != "nearest":
        with pytest.raises(onnxgrad.NotDifferentiableError, match="it jumps just where"):
            onnxgrad.vjp(model, wrt="scales")


@pytest.mark.parametrize(
    "attrs", [{"mode": "nearest"}, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}]
)
def test_zero_by_the_crop(attrs: dict[str, Any]) -> None:
    """Where it decides on nothing, or only on which element is the nearest."""
    case = cropped("", INSIDE, [6, 3], **attrs)
    x, roi = case.inputs[:2]
    found = Runner(onnxgrad.vjp(make_model(case)))({"x0": x, "x1": roi, "adj_y0": np.ones((1, 2, 6, 3))})
    assert not found["adj_x1"].any()
    assert found["adj_x0"].any()


def test_zero_by_scales_of_the_nearest() -> None:
    model = make_chain({"x": [1, 1, 2, 3], "scales": [4]}, ["", "scales"], mode="nearest")
    feeds = {"x": np.ones((1, 1, 2, 3), np.float32), "scales": np.array([1, 1, 2, 1.4], np.float32)}
    found = Runner(onnxgrad.vjp(model), only_runtime=True)({**feeds, "adj_y": np.ones((1, 1, 4, 4), np.float32)})
    assert not found["adj_scales"].any()


def test_crop_with_antialias_is_refused() -> None:
    case = cropped("", INSIDE, [2, 2], mode="linear", antialias=1)
    with pytest.raises(onnxgrad.NotDifferentiableError, match="antialias"):
        onnxgrad.vjp(make_model(case), wrt="x1")


@pytest.mark.parametrize("height", [1, 2], ids=["no-size-changes", "other-size-changes"])
def test_scale_without_effect(height: int) -> None:
    """Scale 1.3 leaves 3 elements; onnxruntime resizes them nevertheless, but only if some other size changes."""
    model = make_chain({"x": ["N", "C", "H", "W"]}, ["", "scales"], mode="linear")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 1.6, 1.3], np.float32), "scales"))
    x = rng.normal(size=(1, 1, height, 3)).astype(np.float32)
    plain = Runner(model, only_runtime=True)
    direction = rng.normal(size=x.shape).astype(np.float32)
    change = plain({"x": x + direction})["y"] - plain({"x": x - direction})["y"]
    assert change.shape == (1, 1, {1: 1, 2: 3}[height], 3)
    ct = rng.normal(size=change.shape).astype(np.float32)
    back = Runner(onnxgrad.vjp(model), only_runtime=True)({"x": x, "adj_y": ct})["adj_x"]
    assert np.sum(ct * change) / 2 == pytest.approx(np.sum(back * direction), abs=1e-4)


def test_rounded_size() -> None:
    """10 · 0.7 is 6 where the scale is taken exactly, as ONNX's inference does, and 7 in onnxruntime's float32."""
    model = make_chain({"x": [1, 1, 10, 10]}, ["", "scales"], mode="linear")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 1, 0.7], np.float32), "scales"))
    x = rng.normal(size=(1, 1, 10, 10)).astype(np.float32)
    plain = Runner(model, only_runtime=True)
    direction = rng.normal(size=x.shape).astype(np.float32)
    change = plain({"x": x + direction})["y"] - plain({"x": x - direction})["y"]
    assert change.shape == (1, 1, 10, 7)
    ct = rng.normal(size=change.shape).astype(np.float32)
    back = Runner(onnxgrad.vjp(model), only_runtime=True)({"x": x, "adj_y": ct})["adj_x"]
    assert np.sum(ct * change) / 2 == pytest.approx(np.sum(back * direction), abs=1e-4)


@pytest.mark.parametrize("factors", [[1, 1, 2, 2], [1, 1, 1.5, 0.6]], ids=["repeat", "matrix"])
def test_per_sample(factors: list[float]) -> None:
    model = make_chain({"x": ["N", 1, 2, 3]}, ["", "scales"], mode="nearest", nearest_mode="floor")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(factors, np.float32), "scales"))
    x = rng.normal(size=(2, 1, 2, 3)).astype(np.float32)
    per_sample, whole = (
        Runner(onnxgrad.jacobian(model, batched=batched), only_runtime=True)({"x": x})["jac_y_x"]
        for batched in (True, False)
    )
    for n in range(2):
        np.testing.assert_allclose(per_sample[n], whole[n][:, :, :, n], atol=1e-6)


def test_samples_mix() -> None:
    model = make_chain({"x": ["N", 1, 2, 3], "sizes": [4]}, ["", "", "sizes"], mode="nearest")
    with pytest.raises(onnxgrad.MixedSamplesError, match="Resize"):
        onnxgrad.jacobian(model, wrt="x")


def test_nothing_but_sums_for_repeated_elements() -> None:
    model = make_chain({"x": ["N", 3, "H", "W"]}, ["", "scales"], coordinate_transformation_mode="asymmetric")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    emitted = [node.op_type for node in onnxgrad.vjp(model).graph.node]
    assert emitted.count("Resize") == 1
    assert "MatMul" not in emitted


def test_old_coordinates() -> None:
    """Those that only models of old opsets have, and ONNX's reference has not."""
    model = make_chain({"x": ["N", 1, "H", "W"]}, ["", "scales"], coordinate_transformation_mode="tf_half_pixel_for_nn")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 2, 1.6], np.float32), "scales"))
    x, ct = (rng.normal(size=s).astype(np.float32) for s in ((1, 1, 2, 5), (1, 1, 4, 8)))
    plain = Runner(model, only_runtime=True)
    direction = rng.normal(size=x.shape).astype(np.float32)
    change = plain({"x": x + direction})["y"] - plain({"x": x - direction})["y"]
    back = Runner(onnxgrad.vjp(model), only_runtime=True)({"x": x, "adj_y": ct})["adj_x"]
    assert np.sum(ct * change) / 2 == pytest.approx(np.sum(back * direction), abs=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_no_samples(mode: str) -> None:
    model = make_chain({"x": ["N", 1, "H", "W"]}, ["", "scales"], mode=mode)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 1.5, 1.5], np.float32), "scales"))
    run = Runner(onnxgrad.vjp(model), only_runtime=True)
    x, ct = np.zeros((0, 1, 2, 4), np.float32), np.zeros((0, 1, 3, 6), np.float32)
    assert run({"x": x, "adj_y": ct})["adj_x"].shape == x.shape
