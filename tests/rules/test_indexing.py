"""Operators that pick elements by index, or put them at an index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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


@pytest.mark.parametrize("case", GATHER + SCATTER + OTHERS, ids=lambda case: case.name)
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
    (Case("Compress", [a(2, 3), np.array([True, False, True])], {"axis": 1}), [0]),
    (Case("Compress", [a(2, 3), np.array([True, False, True])], label="flattened"), []),
    (Case("TopK", [a(2, 3), ints([2])], outputs=2), [0]),
]


@pytest.mark.parametrize(("case", "kept"), SAMPLES, ids=lambda v: v.name if isinstance(v, Case) else None)
def test_samples(case: Case, kept: list[int]) -> None:
    check_samples(case, kept)
