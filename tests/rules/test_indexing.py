"""Operators that pick elements by index, or put them at an index."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxgrad
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model

rng = np.random.default_rng(7)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ints(*values: Any) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.int64)


#: Along axis 0 of a (3, 4): with a repeated and a negative index, and fewer columns than the data.
rows = ints([[2, 0, -3, 1], [2, 1, 0, -1]])
columns = ints([[3, 0, 0], [-1, 2, 3], [1, 1, -4]])
apart = ints([[3, 0, 1], [-1, 2, 0], [1, 2, -4]])

tens = np.arange(1, 13.0).reshape(3, 4) * np.where(np.arange(12) % 3, 1, -1).reshape(3, 4)
points = ints([[0, 1], [2, -1], [0, 1], [-2, 0]])
apart_points = points[[0, 1, 3]]
REDUCTIONS = ("add", "mul", "min", "max")

GATHER = [
    Case("Gather", [a(4, 3), ints(2)], label="scalar"),
    Case("Gather", [a(4, 3), ints(-1)], {"axis": 1}, label="scalar-negative"),
    Case("Gather", [a(4, 3), ints(-1)], {"axis": 1}, fed=[1], label="scalar-fed"),
    Case("Gather", [a(4, 3), ints([[1]])], {"axis": -1}, label="one-of-rank-2"),
    Case("Gather", [a(4), ints(3)], label="scalar-of-vector"),
    Case("Gather", [a(4), ints([3, 0, 3])], label="vector"),
    Case("Gather", [a(4, 3), ints([2, 0, -2, 2])], label="repeated"),
    Case("Gather", [a(4, 3), ints([2, 0, -2, 2])], fed=[1], label="repeated-fed"),
    Case("Gather", [a(4, 3), ints([[1, 3], [3, -4]]).astype(np.int32)], label="int32"),
    Case("Gather", [a(4, 3), ints([[1, 3], [3, -4]]).astype(np.int32)], fed=[1], label="int32-fed"),
    Case("Gather", [a(2, 4, 3), ints([[1, 3], [3, -4]])], {"axis": 1}, label="middle-axis"),
    Case("Gather", [a(2, 4, 3), ints([[1, 3], [3, -4]])], {"axis": -2}, fed=[1], label="middle-axis-fed"),
    Case("Gather", [a(2, 4, 3), ints([2, 2, 0])], {"axis": -1}, label="last-axis"),
    Case("Gather", [a(2, 3, 1, 2, 3), ints([[2, -1]])], {"axis": 1}, label="rank-5"),
    Case("Gather", [a(4, 3), ints([])], label="empty"),
    Case("Gather", [a(4, 0), ints([1, 1])], label="nothing-behind"),
    Case("GatherElements", [a(3, 4), rows], {"axis": 0}),
    Case("GatherElements", [a(3, 4), rows], {"axis": 0}, fed=[1], label="fed"),
    Case("GatherElements", [a(3, 4), columns], {"axis": 1}, label="last-axis"),
    Case("GatherElements", [a(3, 4), columns], {"axis": -1}, fed=[1], label="last-axis-fed"),
    Case("GatherElements", [a(3, 4), columns.astype(np.int32)], {"axis": -1}, label="int32"),
    Case("GatherElements", [a(3, 4), columns[:2]], {"axis": 1}, label="fewer-rows"),
    Case("GatherElements", [a(3, 4), columns[:, :0]], {"axis": 1}, label="empty"),
    Case("GatherElements", [a(2, 3, 4), ints(np.arange(8).reshape(2, 1, 4) % 3)], {"axis": 1}, label="middle-axis"),
    Case("GatherElements", [a(4), ints(3, 0, 0, -1, 2)], {"axis": 0}, label="vector"),
    Case("GatherND", [a(3, 4), points]),
    Case("GatherND", [a(3, 4), points], fed=[1], label="fed"),
    Case("GatherND", [a(3, 4, 2), points], label="slices"),
    Case("GatherND", [a(3, 4), ints(2, -1)], label="one"),
    Case("GatherND", [a(3, 4, 2), ints([[[1]], [[-1]], [[1]]])], label="rank-3"),
    Case("GatherND", [a(2, 4, 3), ints([[[1], [1]], [[0], [-1]]])], {"batch_dims": 1}, label="batch"),
    Case("GatherND", [a(2, 4, 3), ints([[[1], [1]], [[0], [-1]]])], {"batch_dims": 1}, fed=[1], label="batch-fed"),
    Case("GatherND", [a(2, 2, 3, 2), ints([[[2, 1], [0, 0]], [[0, 1], [-1, 1]]])], {"batch_dims": 2}, label="batch-2"),
    Case("GatherND", [a(3, 4), ints(np.zeros((0, 1)))], label="empty"),
]

SCATTER = [
    *(
        Case("ScatterElements", [a(3, 4), index.astype(kind), a(*index.shape)], {"axis": axis}, label=label)
        for index, kind, axis, label in [
            (apart, np.int64, 1, "columns"),
            (apart, np.int32, -1, "int32"),
            (apart[:2], np.int64, 1, "fewer-rows"),
            (apart[:, :0], np.int64, 1, "empty"),
            (ints([[2, 0, -3, 1]]), np.int64, 0, "rows"),
        ]
    ),
    Case("ScatterElements", [a(3, 4), apart, a(3, 3)], {"axis": 1}, fed=[1], label="fed"),
    *(
        Case(
            "ScatterElements",
            [a(3, 4), index, a(*index.shape)],
            {"axis": axis, "reduction": reduction},
            label=f"{reduction}-along-{axis}",
        )
        for reduction in REDUCTIONS
        for index, axis in ((rows, 0), (columns, -1))
    ),
    *(
        Case("ScatterElements", [a(3, 4), rows, a(2, 4)], {"reduction": reduction}, fed=[1], label=f"{reduction}-fed")
        for reduction in REDUCTIONS
    ),
    Case(
        "ScatterElements",
        [a(2, 3, 2), ints(np.ones((2, 2, 2))), a(2, 2, 2)],
        {"axis": 1, "reduction": "mul"},
        label="cube",
    ),
    Case("ScatterElements", [a(4), ints(1, 1, -1), a(3)], {"reduction": "max"}, label="vector"),
    Case("ScatterND", [a(3, 4), apart_points, a(3)]),
    Case("ScatterND", [a(3, 4), apart_points, a(3)], fed=[1], label="fed"),
    Case("ScatterND", [a(3, 4), ints([[2], [0]]), a(2, 4)], label="rows"),
    Case("ScatterND", [a(3, 4, 2), ints([[[2, 1], [0, -4]]]), a(1, 2, 2)], label="slices"),
    Case("ScatterND", [a(3, 4), ints(2, -1), a()], label="one"),
    Case("ScatterND", [a(3, 4), ints(np.zeros((0, 1))), a(0, 4)], label="empty"),
    *(
        Case("ScatterND", [a(3, 4), points, a(4)], {"reduction": reduction}, label=f"{reduction}-points")
        for reduction in REDUCTIONS
    ),
    *(
        Case(
            "ScatterND",
            [a(3, 2), ints([[0], [2], [0]]), a(3, 2)],
            {"reduction": reduction},
            fed=[1],
            label=f"{reduction}-fed",
        )
        for reduction in REDUCTIONS
    ),
]

CACHE = [
    Case("TensorScatter", [a(2, 5, 3), a(2, 2, 3), ints(3, 1)], opset=24),
    Case("TensorScatter", [a(2, 5, 3), a(2, 2, 3), ints(4, 1)], {"mode": "circular"}, opset=24, label="circular"),
    Case("TensorScatter", [a(2, 5, 3), a(2, 2, 3), ints(3, 1)], {"mode": "circular"}, fed=[2], opset=24, label="fed"),
    Case("TensorScatter", [a(2, 3, 5), a(2, 3, 2)], {"axis": 2}, opset=24, label="no-start"),
    Case("TensorScatter", [a(2, 5, 2, 3), a(2, 2, 2, 3), ints(3, 1)], {"axis": 1}, opset=24, label="rank-4"),
]

OTHERS = [
    Case("Compress", [a(3, 4), np.array([True, False, True])], {"axis": 0}),
    Case("Compress", [a(3, 4), np.array([True, False, True])], {"axis": 0}, fed=[1], label="fed"),
    Case("Compress", [a(3, 4), np.array([False, True])], {"axis": -1}, label="short"),
    Case("Compress", [a(3, 4, 2), np.array([False, True, True])], {"axis": 1}, label="middle-axis"),
    Case("Compress", [a(3, 4), np.arange(12) % 3 == 1], label="flattened"),
    Case("Compress", [a(3, 4), np.arange(9) % 3 == 1], fed=[1], label="flattened-fed"),
    Case("Compress", [a(3, 4), np.zeros(3, bool)], {"axis": 0}, label="nothing"),
    Case("TopK", [tens, ints([2])], outputs=2),
    Case("TopK", [tens, ints([2])], {"axis": 0, "largest": 0}, outputs=2, label="smallest"),
    Case("TopK", [tens, ints([3])], {"axis": -2, "sorted": 0}, fed=[1], outputs=2, label="fed"),
    Case("TopK", [a(2, 3, 4), ints([2])], {"axis": 1}, outputs=2, opset=24, label="middle-axis"),
    Case("TopK", [a(5), ints([2])], outputs=2, label="vector"),
    Case("TopK", [a(5), ints([0])], outputs=2, label="none"),
    Case("Unique", [tens], outputs=1, label="all"),
    Case("Unique", [tens], {"sorted": 0}, outputs=2, label="unsorted"),
    Case("Unique", [tens], {"axis": 1}, outputs=4, label="columns"),
    Case("OneHot", [ints([[0, 2], [-1, 3]]), ints(3), np.array([0.3, 1.7])]),
    Case("OneHot", [ints([[0, 2], [-1, 3]]), ints(3), np.array([0.3, 1.7])], {"axis": 0}, label="axis-0"),
    Case("OneHot", [ints([[0, 2], [-1, 3]]), ints(3), np.array([0.3, 1.7])], {"axis": -2}, fed=[0, 1], label="fed"),
    Case("OneHot", [np.array([0, 2.0]), np.array(3.0), np.array([0.3, 1.7])], fixed=[0, 1], label="float-index"),
]


@pytest.mark.parametrize("case", GATHER + SCATTER + CACHE + OTHERS, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


SAMPLES = [
    (Case("Gather", [a(2, 3, 4), ints([[1, 0]])], {"axis": 1}), [0, 2]),
    (Case("Gather", [a(2, 3, 4), ints(1)], {"axis": -2}, label="scalar"), [0, 2]),
    (Case("GatherElements", [a(2, 3, 4), ints(np.zeros((2, 2, 4)))], {"axis": 1}), [0, 2]),
    (Case("GatherElements", [a(2, 3, 4), ints(np.zeros((1, 3, 4)))], {"axis": -1}, label="fewer"), [1]),
    (Case("GatherND", [a(2, 3, 4, 5), ints([[[1], [0]], [[2], [2]]])], {"batch_dims": 1}), [0, 2, 3]),
    (Case("GatherND", [a(3, 4, 5), ints([[1, 1], [0, 3]])], label="slices"), [2]),
    (Case("ScatterElements", [a(2, 3, 2), ints(np.ones((2, 1, 2))), a(2, 1, 2)], {"axis": 1}), [0, 2]),
    (Case("ScatterElements", [a(3, 3), ints(np.ones((2, 1))), a(2, 1)], {"axis": 1}, label="fewer"), []),
    (Case("ScatterND", [a(3, 4, 2), ints([[1], [2]]), a(2, 4, 2)]), [1, 2]),
    (Case("ScatterND", [a(3, 4, 2), ints([[1, 0]]), a(1, 2)], label="deeper"), [2]),
    (Case("TensorScatter", [a(2, 5, 3), a(2, 2, 3), ints(3, 1)], opset=24), [0, 2]),
    (Case("Compress", [a(2, 3), np.array([True, False, True])], {"axis": 1}), [0]),
    (Case("Compress", [a(2, 3), np.array([True, False, True])], label="flattened"), []),
    (Case("TopK", [a(2, 3), ints([2])], outputs=2), [0]),
]


@pytest.mark.parametrize(("case", "kept"), SAMPLES, ids=lambda v: v.name if isinstance(v, Case) else None)
def test_samples(case: Case, kept: list[int]) -> None:
    check_samples(case, kept)


NEWEST = [
    Case("Compress", [a(3, 4), np.array([True, False, True])], {"axis": 0}),
    Case("OneHot", [ints([[0, 2], [-1, 3]]), ints(3), np.array([0.3, 1.7])]),
    Case("Unique", [tens], outputs=2),
    Case("TopK", [tens, ints([2])], outputs=2),
]


@pytest.mark.parametrize("case", NEWEST, ids=lambda case: case.name)
def test_newest_version(case: Case) -> None:
    """Versions for which onnxruntime has no kernels yet."""
    check_rule(replace(case, opset=28, float32=None))


def test_indices_of_any_shape() -> None:
    """An index whose sizes are known only at run time, into a table of unknown length, in the middle."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 22]> g (double[A, N, B] x, int64[S, T] i) => (double[A, S, T, B] y) {
            y = Gather<axis = 1>(x, i)
        }"""
    )
    back, ahead = Runner(onnxgrad.vjp(model, seeds="s")), Runner(onnxgrad.jvp(model, seeds="s"))
    for shape in ((2, 3), (0, 3), (1, 1)):
        x, i, ct, t = a(2, 4, 3), rng.integers(-4, 4, shape), a(3, 2, *shape, 3), a(3, 2, 4, 3)
        expected = np.zeros((3, 2, 4, 3))
        np.add.at(expected, (slice(None), slice(None), i), ct)
        close(back({"x": x, "i": i, "adj_y": ct})["adj_x"], expected, 1e-12, "adj_x")
        close(ahead({"x": x, "i": i, "fwd_x": t})["fwd_y"], t[:, :, i], 1e-12, "fwd_y")


def gradient(case: Case, ct: np.ndarray, wrt: str = "x0") -> np.ndarray:
    feeds = {f"x{i}": v for i, v in enumerate(case.inputs) if v is not None and v.dtype == np.float64}
    return Runner(onnxgrad.vjp(make_model(case), "y0", wrt))({**feeds, "adj_y0": ct})[f"adj_{wrt}"]


def test_equal_elements_of_unique_meet_in_the_first() -> None:
    found = gradient(Case("Unique", [np.array([2.0, 1.0, 2.0, -1.0])]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(found, [3, 2, 0, 1])


def test_ties_of_top_k_go_to_the_ones_chosen() -> None:
    found = gradient(Case("TopK", [np.array([2.0, 2.0, 2.0, 5.0]), ints([2])], outputs=2), np.array([1.0, 3.0]))
    np.testing.assert_array_equal(found, [3, 0, 0, 1])


@pytest.mark.parametrize("reduction", ["max", "min"])
def test_ties_of_scatter_share(reduction: str) -> None:
    case = Case("ScatterElements", [np.ones(3), ints(1, 1, 2), np.array([1.0, 1.0, 1.0])], {"reduction": reduction})
    ct = np.array([1.0, 3.0, 4.0])
    np.testing.assert_allclose(gradient(case, ct), [1, 1, 2])
    np.testing.assert_allclose(gradient(case, ct, "x2"), [1, 1, 2])


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_products_with_zeros(op: str) -> None:
    """An update of 0 that is alone in its place has an exact derivative; among others, NaN rather than a wrong one."""
    index = ints(0, 1, 1) if op == "ScatterElements" else ints([[0], [1], [1]])
    case = Case(op, [np.array([2.0, 3.0, 4.0]), index, np.array([0.0, 0.0, 5.0])], {"reduction": "mul"})
    ct = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(gradient(case, ct), [0, 0, 3])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(gradient(case, ct, "x2"), [2, np.nan, 0])


@pytest.mark.parametrize(
    "case",
    [
        Case("ScatterElements", [a(4), ints(1, 3, -1), a(3)]),
        Case("ScatterElements", [a(2, 3), ints([[0, 1, 0], [0, 1, 1]]), a(2, 3)], {"axis": 0}),
        Case("ScatterND", [a(3, 4), points, a(4)]),
    ],
    ids=lambda case: case.name,
)
def test_updates_that_overwrite_each_other_are_refused(case: Case) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match="which ONNX forbids"):
        onnxgrad.vjp(make_model(case))


@pytest.mark.parametrize("case", GATHER + SCATTER + CACHE + OTHERS, ids=lambda case: case.name)
def test_nothing_is_added_by_scatter_nd(case: Case) -> None:
    """onnxruntime's kernel loses updates where indices repeat and several threads add."""
    once = onnxgrad.vjp(make_model(case))
    with warnings.catch_warnings():  # what is linear has second derivatives that are zero
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)
        twice = onnxgrad.vjp(once)
    for node in (*once.graph.node, *twice.graph.node):
        assert node.op_type != "ScatterND" or node.name == "n" or not node.attribute


def test_many_repeated_indices_are_all_added() -> None:
    """In parallel, and exactly: every row is a one."""
    rows = rng.integers(0, 4, 50_000)
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 22]> g (float[4, 64] x, int64[N] i) => (float[N, 64] y) {
            y = Gather<axis = 0>(x, i)
        }"""
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 8
    model = onnxgrad.vjp(model, keep_outputs=False)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.zeros((4, 64), np.float32), "i": rows, "adj_y": np.ones((50_000, 64), np.float32)}
    (found,) = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    np.testing.assert_array_equal(found, np.repeat(np.bincount(rows)[:, None], 64, 1))


def test_half_precision_is_summed_in_float32() -> None:
    """4,000 halves: in float16 the sum would stop growing at 1024."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 22]> g (float16[2] x, int64[N] i) => (float16[N] y) {
            y = Gather<axis = 0>(x, i)
        }"""
    )
    run = Runner(onnxgrad.vjp(model), only_runtime=True)
    ct = np.full(4000, 0.5, np.float16)
    found = run({"x": np.ones(2, np.float16), "i": np.ones(4000, np.int64), "adj_y": ct})["adj_x"]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, [0, 2000])


def test_one_hot_with_a_depth_in_a_vector() -> None:
    """In float32 in onnxruntime: ONNX's reference reads only a scalar depth."""
    model = make_model(Case("OneHot", [ints([[0, 2], [-1, 3]]), ints([3]), np.zeros(2)]), np.float32)
    ct = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    found = Runner(onnxgrad.vjp(model, "y0", "x2"), only_runtime=True)({"x2": ct[0, 0, :2], "adj_y0": ct})["adj_x2"]
    on = ct[0, 0, 0] + ct[0, 1, 2] + ct[1, 0, 2]
    np.testing.assert_array_equal(found, [ct.sum() - on, on])


@pytest.mark.parametrize("op", ["NonZero", "NonMaxSuppression"])
def test_positions_are_no_numbers(op: str) -> None:
    inputs = [a(2, 3)] if op == "NonZero" else [a(1, 3, 4), a(1, 1, 3)]
    model = make_model(Case(op, inputs), np.float32)
    with pytest.raises(onnxgrad.OnnxgradError, match="no floating-point output"):
        onnxgrad.vjp(model)
