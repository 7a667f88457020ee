"""Older and rarer operators of onnxruntime's own domain, and those that are refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxgrad
from tests.expressions import check_derivatives, check_exact, check_expression
from tests.harness import Case, Runner, make_model

rng = np.random.default_rng(17)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ms(op: str, inputs: list[np.ndarray | None], label: str = "", **attrs: Any) -> Case:
    kinds = ("outputs", "fixed", "fed", "dynamic", "of", "domain")
    options = {name: attrs.pop(name) for name in kinds if name in attrs}
    return Case(op, inputs, attrs, **{"domain": "com.microsoft", "label": label, **options})


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


x = a(2, 3, 6)
images = a(2, 3, 5, 6)
boxes = np.array([[0.12, 0.07, 0.93, 0.88], [0.83, 0.21, 0.14, 0.91], [-0.18, 0.33, 0.62, 1.27]])
pads = np.array([1, 0, 1, 2])
CASES = [
    *(ms("ExpandDims", [x, np.array(axis, np.int32)], f"{axis}") for axis in (0, 1, -1)),
    ms("SampleOp", [x]),
    ms("GatherND", [x, np.array([[0, 1], [1, 2], [0, 1]])]),
    ms("GatherND", [x, np.array([[[1]], [[0]]], np.int32)], "int32"),
    ms("Pad", [x, np.array([0, 1, 0, 0, 0, 2])]),
    ms("Pad", [x, np.array([[0, 1, 0, 0, 0, -2]]), np.array([0.5])], "number"),
    ms("Pad", [x, np.array([0, 1, 0, 0, 0, 2])], "reflect", mode="reflect"),
    ms("Pad", [x, np.array([0, 1, 0, 0, 0, 2])], "open", mode="edge", fed=[1]),
    ms("Range", [np.array(0.5), np.array(27.5), np.array(6.0)], fixed=[1]),
    ms("Range", [np.array([0.5]), np.array([3.2])], "steps-of-1", fixed=[1]),
    ms("UnfoldTensor", [x], size=3, step=2),
    ms("UnfoldTensor", [x], "middle", dim=1, size=2),
    ms("CropAndResize", [images, boxes, i32(0, 1, 1), i32(3, 4)]),
    ms("CropAndResize", [images, boxes, i32(0, 1, 1), i32(1, 4)], "one", extrapolation_value=0.5),
    ms("CropAndResize", [images, boxes, i32(0, 1, 1), i32(3, 4)], "nearest", mode="nearest", fixed=[1]),
    ms("ConvTransposeWithDynamicPads", [a(1, 2, 3, 4), a(2, 3, 3, 2), pads, a(3)], strides=[2, 3],
       kernel_shape=[3, 2]),
    ms("ConvTransposeWithDynamicPads", [a(1, 4, 3), a(4, 3, 3), np.array([0, 2])], "groups", strides=[2], group=2,
       output_padding=[1], dilations=[2], kernel_shape=[3], fed=[2]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_expression(case: Case) -> None:
    fixed = [1] if case.op == "CropAndResize" else case.fixed  # boxes have kinks nearer than the step in float32
    check_expression(Case(**{**vars(case), "fixed": fixed}))
    if case.op != "Range" and case.label not in ("open", "groups"):  # which read sizes from the node, in float32
        check_exact(case)


def test_nearest_crops_do_not_move_with_their_box() -> None:
    case = next(c for c in CASES if c.label == "nearest")
    model = onnxgrad.vjp(make_model(Case(**{**vars(case), "fixed": ()}), np.float32), "y0", "x1")
    feeds = {"x0": images, "x1": boxes, "adj_y0": a(3, 3, 3, 4)}
    found = Runner(model, only_runtime=True)({name: value.astype(np.float32) for name, value in feeds.items()})
    assert not found["adj_x1"].any()


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_unique(dynamic: bool) -> None:
    at = np.array([2.0, 1.0, 1.5, 3.0, 0.5], np.float32)
    model = make_model(ms("Unique", [at.astype(float)], outputs=3), np.float32, dynamic=dynamic)
    check_derivatives(model, {"x0": at}, ["y0"], 1e-4, rng)


def test_unique_gives_to_the_first_of_equal_ones() -> None:
    at = np.array([2.0, 1.0, 1.0, 3.0, 2.0], np.float32)
    model = onnxgrad.jacobian(make_model(ms("Unique", [at.astype(float)], outputs=3), np.float32), "y0", "x0")
    found = Runner(model, only_runtime=True)({"x0": at})
    np.testing.assert_array_equal(found["y0"], [2, 1, 3])
    np.testing.assert_array_equal(found["jac_y0_x0"], np.eye(5)[[0, 1, 3]])


words = np.array([[1, 2, 3, 4, 0, 0, 0], [4, 3, 2, 1, 2, 3, 4], [2, 1, 0, 0, 0, 0, 0]], np.int32)


def test_words() -> None:
    case = ms("WordConvEmbedding", [words, 0.5 * a(4, 1, 3, 6), a(4), a(5, 6)], fed=[0])
    case.attrs.update(char_embedding_size=6, conv_window_size=3, embedding_size=4)
    check_expression(case, names=[], derivatives=0.05)  # in float32, the step of differences meets other maxima
    check_exact(case)


@pytest.mark.parametrize("at", [1.0, 2.0])
def test_crops_at_the_places_of_pixels(at: float) -> None:
    """There, the derivative by the box is that of neither side but 0."""
    ramp = np.arange(5.0).reshape(1, 1, 1, 5) ** 2
    case = ms("CropAndResize", [ramp, np.array([[0, at / 4, 0, at / 4]]), i32(0), i32(1, 1)])
    model = onnxgrad.jacobian(make_model(case, np.float32), "y0", "x1")
    box = np.array([[0, at / 4, 0, at / 4]], np.float32)
    found = Runner(model, only_runtime=True)({"x0": ramp.astype(np.float32), "x1": box})
    np.testing.assert_array_equal(found["y0"].ravel(), at**2)
    assert not found["jac_y0_x1"].any()


def test_no_repetition() -> None:
    """A word that would repeat loses its score, and with it its derivative."""
    ids, scores = np.array([[1, 2, 1], [0, 1, 2]]), a(2, 4).astype(np.float32)
    case = ms("NGramRepeatBlock", [ids, scores.astype(float)], ngram_size=2)
    model = onnxgrad.vjp(make_model(case, np.float32, dynamic=True), "y0", "x1", seeds="s")
    ct = a(3, 2, 4).astype(np.float32)
    found = Runner(model, only_runtime=True)({"x1": scores, "adj_y0": ct})
    assert np.isneginf(found["y0"]).sum() == 1
    np.testing.assert_array_equal(found["adj_x1"], np.where(np.isneginf(found["y0"]), 0, ct))


def test_a_path_of_positions_has_no_derivative() -> None:
    model = make_model(ms("DynamicTimeWarping", [a(3, 4)]), np.float32)
    with pytest.raises(onnxgrad.TensorTypeError, match="y0"):
        onnxgrad.vjp(model, "y0", "x0")


MASK = np.ones((1, 1, 4, 4), np.int32)
BLOCKED = "ORT_ENABLE_EXTENDED"
SPARSE = [a(1, 1, 8), a(1, 1, 8), a(1, 1, 8), a(1, 1, 16, 8), a(1, 1, 16, 8), i32(0, 1), i32(0), i32(5), i32(5)]
REFUSED = [
    (ms("SparseAttention", SPARSE, num_heads=1, kv_num_heads=1, sparse_block_size=16, outputs=3), "overwrites"),
    (ms("MaxpoolWithMask", [a(1, 1, 4, 4), MASK], kernel_shape=[2, 2]), "first masked element"),
    (ms("CropAndResize", [images, boxes, i32(0, 1, 1), i32(3, 4)], fed=[3]), "size of the crops"),
    (ms("ConvTransposeWithDynamicPads", CASES[-2].inputs, kernel_shape=[3, 2], auto_pad="VALID"), "automatic padding"),
    (ms("Conv", [a(1, 8, 4, 4), a(8, 8, 3, 3)], domain="com.microsoft.nchwc"), BLOCKED),
    (ms("ReorderInput", [a(1, 8, 4, 4)], domain="com.microsoft.nchwc"), BLOCKED),
]


def test_decoding_is_refused() -> None:
    ids, numbers = np.array([[1, 2]], np.int32), [i32(v) for v in (5, 1, 2, 1)]
    case = ms("BeamSearch", [ids, *numbers, np.array([1.0])], outputs=2, eos_token_id=0, pad_token_id=0)
    with pytest.raises(onnxgrad.NotDifferentiableError, match="chooses words") as refused:
        onnxgrad.vjp(make_model(case, np.float32), of="y1", wrt="x5")
    assert "decoder that it holds" in str(refused.value)


@pytest.mark.parametrize(("case", "match"), REFUSED, ids=lambda v: v.op if isinstance(v, Case) else v.split()[-1])
def test_refusal(case: Case, match: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=match):
        onnxgrad.vjp(make_model(case, np.float32), of="y0", wrt="x0")
