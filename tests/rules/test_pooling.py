"""Pooling."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model

rng = np.random.default_rng(4)


def a(*shape: int) -> np.ndarray:
    """Distinct numbers, far enough from each other and from 0 that no small step changes order or sign."""
    return (rng.permutation(np.prod(shape)).reshape(shape) - np.prod(shape) // 2 + 0.4) * 0.1


def pools(label: str, shape: tuple[int, ...], names: str = "MaxPool AveragePool LpPool", **attrs: Any) -> list[Case]:
    return [Case(name, [a(*shape)], attrs, label=label) for name in names.split()]


CASES = [
    *pools("1d", (2, 2, 7), kernel_shape=[3]),
    *pools("strides", (2, 2, 7), kernel_shape=[2], strides=[2]),
    *pools("gaps", (1, 2, 8), kernel_shape=[2], strides=[3]),
    *pools("2d-pads", (1, 2, 4, 5), kernel_shape=[3, 2], pads=[1, 0, 2, 1]),
    *pools("3d", (1, 1, 3, 4, 3), kernel_shape=[2, 2, 2], strides=[1, 2, 1], pads=[0, 1, 0, 1, 0, 1]),
    *pools("dilations", (1, 2, 5, 6), kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 2, 0, 1]),
    *pools("ceil", (2, 2, 7), kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1),
    *pools("ceil-drops", (1, 2, 6, 7), kernel_shape=[2, 2], strides=[3, 3], pads=[0, 1, 1, 1], ceil_mode=1),
    *pools("ceil-dilations", (1, 1, 6), kernel_shape=[2], strides=[3], dilations=[2], ceil_mode=1),
    *pools("valid", (1, 2, 6), kernel_shape=[3], strides=[2], auto_pad="VALID"),
    *pools("valid-ceil", (1, 2, 6), kernel_shape=[3], strides=[2], auto_pad="VALID", ceil_mode=1),
    *pools("same-upper", (1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    *pools("same-lower", (1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    *pools("same-dense", (1, 2, 4, 5), kernel_shape=[2, 3], auto_pad="SAME_LOWER"),
    *pools("same-ceil", (1, 2, 5), kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER", ceil_mode=1),
    *pools("whole", (2, 2, 3, 2), kernel_shape=[3, 2]),
    *pools("one", (1, 1, 1), kernel_shape=[1]),
    *pools("no-batch", (0, 2, 4), kernel_shape=[2]),
    *pools("includes-padding", (1, 2, 5), "AveragePool", kernel_shape=[3], pads=[2, 1], count_include_pad=1),
    *pools(
        "includes-padding-ceil",
        (1, 1, 6, 7),
        "AveragePool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        count_include_pad=1,
        ceil_mode=1,
    ),
    *pools(
        "includes-padding-same",
        (1, 1, 5),
        "AveragePool",
        kernel_shape=[3],
        strides=[2],
        auto_pad="SAME_LOWER",
        count_include_pad=1,
    ),
    *pools("p1", (2, 2, 7), "LpPool", kernel_shape=[3], strides=[2], pads=[1, 0], p=1),
    *pools("p3", (2, 2, 7), "LpPool", kernel_shape=[3], strides=[2], pads=[1, 0], p=3),
    *pools("p4", (2, 2, 7), "LpPool", kernel_shape=[3], p=4),
    *pools("column-major", (1, 2, 3, 4), "MaxPool", kernel_shape=[2, 2], storage_order=1),
    Case("MaxPool", [a(2, 2, 3, 4)], {"kernel_shape": [2, 3], "strides": [1, 2]}, outputs=2, label="indices"),
    Case(
        "MaxPool",
        [a(1, 2, 3, 4)],
        {"kernel_shape": [2, 2], "storage_order": 1},
        outputs=2,
        label="indices-column-major",
    ),
    *(Case(name, [a(1, 2, 5)], {"kernel_shape": [2]}, opset=18, label="opset-18") for name in ("MaxPool", "LpPool")),
    *(Case("AveragePool", [a(1, 2, 5)], {"kernel_shape": [2]}, opset=v, label=f"opset-{v}") for v in (18, 19)),
    *pools("1d", (2, 3, 5), "GlobalMaxPool GlobalAveragePool"),
    *pools("2d", (2, 3, 4, 2), "GlobalMaxPool GlobalAveragePool"),
    *pools("3d", (2, 1, 2, 1, 2), "GlobalMaxPool GlobalAveragePool"),
    *pools("no-batch", (0, 3, 2), "GlobalMaxPool GlobalAveragePool"),
    *(Case(name, [a(2, 2, 3)], opset=21, label="version-1") for name in ("GlobalMaxPool", "GlobalAveragePool")),
    # onnxruntime (1.32) has version 2 of this only
    *(Case("GlobalLpPool", [a(2, 3, 4, 2)], {"p": p}, opset=21, label=f"p{p}") for p in (1, 2, 3, 4)),
    Case("GlobalLpPool", [a(2, 3, 5)], float32=None, label="version-22"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.float32 is not None], ids=lambda case: case.name)
def test_operators_of_the_tests_agree_with_onnxruntime(case: Case) -> None:
    (x,) = case.inputs
    assert x is not None
    expected = Runner(make_model(case))({"x0": x})
    actual = Runner(make_model(case, np.float32), only_runtime=True)({"x0": x.astype(np.float32)})
    close(actual["y0"], expected["y0"], 1e-5, "primal output")


@pytest.mark.parametrize(
    "op", ["MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"]
)
def test_samples_stay_apart_on_the_axes_of_batch_and_channels(op: str) -> None:
    check_samples(Case(op, [a(2, 2, 2, 3)], {} if op.startswith("Global") else {"kernel_shape": [2, 2]}), [0, 1])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(
    ("attrs", "kept"),
    [
        ({}, [0, 1, 2]),
        ({"strides": [1, 2], "pads": [0, 1, 0, 1]}, [0, 1, 2]),
        ({"strides": [1, 2], "auto_pad": "SAME_UPPER"}, [0, 1, 2]),
        ({"strides": [2, 1]}, [0, 1]),
    ],
    ids=["plain", "pads", "same", "stride"],
)
def test_samples_stay_apart_on_axes_that_windows_leave_alone(op: str, attrs: dict[str, Any], kept: list[int]) -> None:
    check_samples(Case(op, [a(2, 2, 2, 3)], {"kernel_shape": [1, 2], **attrs}), kept)


# --- MaxUnpool: linear, with indices as a second input --------------------------------------------

PLACES = np.array([[[0, 2, 5]], [[7, 9, 10]]])
UNPOOL = [
    Case("MaxUnpool", [a(2, 1, 3), PLACES], {"kernel_shape": [2], "strides": [2]}, label="1d"),
    Case("MaxUnpool", [a(2, 1, 3), PLACES], {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}, label="pads"),
    Case("MaxUnpool", [a(2, 1, 3), PLACES], {"kernel_shape": [2], "strides": [2]}, dynamic=False, label="fixed-sizes"),
    Case(
        "MaxUnpool",
        [a(1, 1, 3), np.array([[[1, 4, 1]]])],
        {"kernel_shape": [2], "strides": [2]},
        label="two-in-one-place",
    ),
    Case(
        "MaxUnpool",
        [a(1, 1, 2, 1), np.array([[[[1], [6]]]])],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        opset=21,
        label="2d",
    ),
]


@pytest.mark.parametrize("case", UNPOOL, ids=lambda case: case.name)
def test_unpooling(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unpooling_to_a_given_shape(dtype: type) -> None:
    """onnxruntime (1.32) and ONNX's reference place the elements differently: this holds for each."""
    inputs = [a(2, 1, 3), PLACES, np.array([2, 1, 7])]
    case = Case("MaxUnpool", inputs, {"kernel_shape": [2], "strides": [2]})
    x, ct, t = inputs[0].astype(dtype), a(2, 1, 7).astype(dtype), a(2, 1, 3).astype(dtype)
    only_runtime = dtype == np.float32
    back = Runner(onnxgrad.vjp(make_model(case, dtype), ["y0"], ["x0"]), only_runtime=only_runtime)
    run = Runner(make_model(case, dtype), only_runtime=only_runtime)
    left, right = np.sum(run({"x0": t})["y0"] * ct), np.sum(back({"x0": x, "adj_y0": ct})["adj_x0"] * t)
    assert abs(left - right) <= 1e-6
    assert abs(left) > 1e-3


def _pooled_and_back(indices: str) -> onnx.ModelProto:
    """Pooling and its inverse; batch symbolic; `indices` from the pooling, or fed."""
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2], strides=[2]),
        helper.make_node("Tanh", ["p"], ["t"]),
        helper.make_node("MaxUnpool", ["t", indices], ["y"], kernel_shape=[2], strides=[2]),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["N", 2, 4])]
    inputs += [helper.make_tensor_value_info("fed", onnx.TensorProto.INT64, ["N", 2, 2])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, ["N", 2, 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_samples_stay_apart_when_what_was_pooled_is_put_back() -> None:
    x = a(3, 2, 4)
    model = onnxgrad.jacobian(_pooled_and_back("i"), ["y"], ["x"])
    found = Runner(model)({"x": x, "fed": np.zeros((3, 2, 2), np.int64)})["jac_y_x"]
    largest = x == np.repeat(x.reshape(3, 2, 2, 2).max(-1), 2, axis=-1)
    expected = np.where(largest, 1 - np.tanh(x) ** 2, 0)[:, None, None] * np.eye(8).reshape(2, 4, 2, 4)
    close(found, expected, 1e-12, "jacobian")


def test_samples_may_meet_through_fed_indices() -> None:
    with pytest.raises(onnxgrad.MixedSamplesError, match="indices may lead from one sample to another"):
        onnxgrad.jacobian(_pooled_and_back("fed"), ["y"], ["x"])


# --- where the derivative is not defined ----------------------------------------------------------


def gradient(op: str, x: np.ndarray, dtype: type = np.float64, dynamic: bool = False, **attrs: Any) -> np.ndarray:
    case = Case(op, [x.astype(np.float64)], attrs, opset=21)
    model = onnxgrad.vjp(make_model(case, dtype, dynamic), ["y0"], ["x0"])
    run = Runner(model, only_runtime=dtype == np.float32)
    y = Runner(make_model(case, dtype))({"x0": x.astype(dtype)})["y0"]
    return run({"x0": x.astype(dtype), "adj_y0": np.arange(1, 1 + y.size, dtype=dtype).reshape(y.shape)})["adj_x0"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_of_equal_elements_gets_the_cotangent(dtype: type) -> None:
    x = np.array([[[[1, 3, 3], [3, 0, 3], [2, 2, 2]]]])
    expected = [[[[0, 1 + 2, 0], [3, 0, 4], [0, 0, 0]]]]
    np.testing.assert_array_equal(gradient("MaxPool", x, dtype, kernel_shape=[2, 2]), expected)
    np.testing.assert_array_equal(gradient("GlobalMaxPool", x, dtype), [[[[0, 1, 0], [0, 0, 0], [0, 0, 0]]]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_in_all_dimensions_padded_dilated_and_cut_short(dtype: type) -> None:
    """Against a search through each window, with many ties."""
    for spatial in (1, 2, 3):
        kernel, strides, dilations = ([n] * spatial for n in (2, 2, 2))
        size, pads = [5, 4, 6][:spatial], [1] * spatial + [0] * spatial
        attrs = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads, "ceil_mode": 1}
        x = np.random.default_rng(5).integers(0, 3, size=(2, 2, *size)).astype(np.float64)
        counts = [Runner(make_model(Case("MaxPool", [x], attrs)))({"x0": x})["y0"].shape[2 + i] for i in range(spatial)]
        expected = np.zeros(x.shape)
        for number, at in enumerate(itertools.product(*map(range, (2, 2, *counts))), 1):
            window = itertools.product(*(range(2 * m - 1, 2 * m + 3, 2) for m in at[2:]))
            inside = [w for w in window if all(0 <= i < n for i, n in zip(w, size, strict=True))]
            expected[(*at[:2], *max(inside, key=lambda w: x[(*at[:2], *w)]))] += number
        np.testing.assert_array_equal(gradient("MaxPool", x, dtype, **attrs), expected)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_window_of_padding_alone_has_no_derivative(op: str, dynamic: bool) -> None:
    attrs = {"kernel_shape": [2], "dilations": [2], "pads": [1, 1]}
    np.testing.assert_array_equal(gradient(op, np.ones((1, 2, 1)), np.float32, dynamic, **attrs), 0)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms_have_a_finite_derivative_at_zero(p: int) -> None:
    x = np.array([[[0.0, 0.0, 0.0, 1.0, 2.0]]])
    for op, attrs in (("LpPool", {"kernel_shape": [2]}), ("GlobalLpPool", {})):
        found = gradient(op, x, np.float32, p=p, **attrs)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found[..., :3], 0)
        np.testing.assert_array_equal(gradient(op, 0 * x, np.float32, p=p, **attrs), 0)


def test_second_derivatives_of_norms_are_finite_at_zero() -> None:
    for op, attrs in (("LpPool", {"kernel_shape": [2]}), ("GlobalLpPool", {})):
        model = make_model(Case(op, [np.zeros((1, 1, 3))], attrs, opset=21), np.float32)
        twice = onnxgrad.vjp(onnxgrad.vjp(model, ["y0"], ["x0"], keep_outputs=False), ["adj_x0"], ["x0"])
        shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in twice.graph.input}
        feeds = {name: np.ones(shape, np.float32) * (name != "x0") for name, shape in shapes.items()}
        results = Runner(twice, only_runtime=True)(feeds)
        assert all(np.isfinite(value).all() for value in results.values())


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool"])
def test_half_precision(op: str) -> None:
    x = a(1, 2, 6)
    attrs = {} if op.startswith("Global") else {"kernel_shape": [3], "strides": [2], "pads": [1, 1], "ceil_mode": 1}
    model = onnxgrad.vjp(make_model(Case(op, [x], attrs, opset=21), np.float16), ["y0"], ["x0"])
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    ct = np.arange(1, 1 + np.prod(shape), dtype=np.float16).reshape(shape)
    found = Runner(model, only_runtime=True)({"x0": x.astype(np.float16), "adj_y0": ct})["adj_x0"]
    assert found.dtype == np.float16
    close(found, gradient(op, x, **attrs), 2e-3, "half precision")


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(
    ("attrs", "why"),
    [
        ({"kernel_shape": [2], "dilations": [2], "auto_pad": "SAME_UPPER"}, "auto_pad.*dilated"),
        ({"kernel_shape": [1], "strides": [3], "auto_pad": "SAME_LOWER"}, "auto_pad.*gaps"),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_ambiguous_padding_is_refused(op: str, attrs: dict[str, Any], why: str, dynamic: bool) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=why):
        onnxgrad.vjp(make_model(Case(op, [a(1, 1, 6)], attrs), dynamic=dynamic), ["y0"], ["x0"])
