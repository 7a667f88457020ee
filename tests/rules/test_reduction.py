"""Reductions, and running sums and products."""

from __future__ import annotations

import numpy as np
import pytest

from tests.harness import Case, check_rule

rng = np.random.default_rng(2)
x = rng.normal(size=(2, 3, 4))
small = rng.normal(size=(2, 3))
vector = np.array([0.7, -1.3, 2.1])
NONE = np.array([], np.int64)

#: A point at which each reduction is smooth.
POINTS = {
    **dict.fromkeys("ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare".split(), x),
    "ReduceLogSumExp": x,
    "ReduceProd": x,
    "ReduceLogSum": np.abs(x) + 0.2,
}


def axes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def reductions(op: str, point: np.ndarray) -> list[Case]:
    opset = 18 if op != "ReduceMax" else 20
    return [
        Case(op, [point], opset=opset, label="all"),
        Case(op, [point], {"keepdims": 0}, opset=opset, label="all-dropped"),
        Case(op, [point, axes(1)], opset=opset, label="axis"),
        Case(op, [point, axes(-1, 0)], {"keepdims": 0}, opset=opset, label="two-dropped"),
        Case(op, [point, NONE], opset=opset, label="empty"),
        Case(op, [point, NONE], {"noop_with_empty_axes": 1, "keepdims": 0}, opset=opset, label="noop"),
        Case(op, [point], {"noop_with_empty_axes": 1}, opset=opset, label="noop-absent"),
        Case(op, [point, axes(-2)], fed=[1], opset=opset, label="fed"),
        Case(op, [point, axes(2, 0)], {"keepdims": 0}, fed=[1], opset=opset, label="fed-dropped"),
        Case(op, [point[:, :1], axes(1)], {"keepdims": 0}, opset=opset, label="size-1"),
        Case(op, [point[0, 0, 0]], {"keepdims": 0}, opset=opset, label="rank-0"),
        Case(op, [point.reshape(2, 1, 3, 2, 2), axes(1, -2)], opset=opset, label="rank-5"),
        Case(op, [point[:, :0], axes(2)], opset=opset, label="nothing"),
    ]


zeros = np.array([[0.0, 1.3, -0.7, 2.1], [0.4, 0.0, 0.0, 1.2], [0.0, 0.0, 0.0, 0.9]])

CASES = [
    *(case for op, point in POINTS.items() for case in reductions(op, point)),
    *(Case(op, [x[:, :0], axes(1)], label="of-nothing") for op in "ReduceSum ReduceProd ReduceSumSquare".split()),
    Case("ReduceProd", [zeros, axes(1)], label="zeros"),
    Case("ReduceProd", [zeros, axes(0, 1)], {"keepdims": 0}, label="many-zeros"),
    Case("ReduceProd", [zeros, axes(1)], fed=[1], label="zeros-fed"),
    Case("ReduceProd", [zeros[1:], axes(1, 0)], {"keepdims": 0}, fed=[1], label="zeros-two-fed"),
    *(
        Case(op, [small, np.array(axis)], {"exclusive": e, "reverse": r}, fed=fed, opset=26, label=f"{axis}-{e}{r}-{fed}")
        for op in ("CumSum", "CumProd")
        for axis in (0, -1)
        for e in (0, 1)
        for r in (0, 1)
        for fed in ([], [1])
    ),
    *(Case(op, [vector, axes(0)], opset=26, label="axis-in-a-list") for op in ("CumSum", "CumProd")),
    *(Case(op, [x[:, :, :0], np.array(1)], opset=26, label="nothing") for op in ("CumSum", "CumProd")),
    *(Case(op, [x[:, :0], np.array(1)], opset=26, label="of-nothing") for op in ("CumSum", "CumProd")),
    Case("CumSum", [x.reshape(2, 1, 3, 2, 2), np.array(-3, np.int32)], label="rank-5"),
    Case("CumSum", [small, np.array(1, np.int32)], fed=[1], label="int32-fed"),
    *(
        Case("CumProd", [zeros[:2], np.array(1)], {"exclusive": e, "reverse": r}, opset=26, label=f"zeros-{e}{r}")
        for e in (0, 1)
        for r in (0, 1)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)
