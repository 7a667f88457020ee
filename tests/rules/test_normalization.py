"""Softmax and normalizations."""

from __future__ import annotations

import numpy as np
import pytest

from tests.harness import Case, check_rule

rng = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def positive(*shape: int) -> np.ndarray:
    return np.abs(normal(*shape)) + 0.3


x = normal(2, 4, 3)
image = normal(2, 4, 3, 2)
matrix = normal(3, 4)
LAYER = "LayerNormalization"
BATCH = "BatchNormalization"
TRAINING = {"training_mode": 1, "momentum": 0.7}

CASES = [
    *(Case(op, [x], {"axis": axis}, label=str(axis)) for op in ("Softmax", "LogSoftmax") for axis in (0, 1, -1, -2)),
    *(Case(op, [x], label="default") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(3)], label="rank-1") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(2, 1, 2, 2, 3)], {"axis": 2}, label="rank-5") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(2, 1)], label="size-1") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(0, 3)], label="nothing") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(3, 0)], label="of-nothing") for op in ("Softmax", "LogSoftmax")),
    # onnxruntime and the reference keep mean and 1/σ of float64 data in float32 or do not say so: see test_statistics
    Case(LAYER, [x, normal(3), normal(3)], opset=17),
    Case(LAYER, [x, normal(3)], {"epsilon": 0.1}, label="no-bias"),
    Case(LAYER, [x, normal(4, 3), normal(4, 3)], {"axis": 1}, label="axis-1"),
    Case(LAYER, [x, normal(4, 1), normal(1)], {"axis": -2}, label="broadcast"),
    Case(LAYER, [x, normal(2, 1, 3), normal(4, 1)], {"axis": -1}, label="weights-of-other-axes"),
    Case(LAYER, [x, normal(2, 4, 3), normal(3)], {"axis": 0}, label="axis-0"),
    Case(LAYER, [normal(3), normal(3), normal(3)], label="rank-1"),
    Case(LAYER, [normal(0, 3), normal(3), normal(3)], label="nothing"),
    Case(LAYER, [x, normal(3), normal(3)], fixed=[1, 2], label="constant-weights"),
    Case("RMSNormalization", [x, normal(3)], opset=23),
    Case("RMSNormalization", [x, normal(4, 3)], {"axis": 1, "epsilon": 0.1}, opset=23, label="axis-1"),
    Case("RMSNormalization", [x, normal(4, 1)], {"axis": -2}, opset=23, label="broadcast"),
    Case("RMSNormalization", [normal(0, 3), normal(3)], opset=23, label="nothing"),
    *(
        Case("InstanceNormalization", [point, normal(4), normal(4)], {"epsilon": 0.01}, opset=opset, label=f"{point.ndim}-{opset}")
        for point in (x, image, normal(1, 4, 2, 1, 2))
        for opset in (18, 22)
    ),
    # onnxruntime refuses fewer than three axes
    Case("InstanceNormalization", [matrix, normal(4), normal(4)], float32=None, label="no-space"),
    Case("GroupNormalization", [image, normal(2), normal(2)], {"num_groups": 2}, opset=18, label="18"),
    Case("GroupNormalization", [x, normal(1), normal(1)], {"num_groups": 1}, opset=18, label="18-one"),
    # stash_type 11: the statistics in float64, too
    Case("GroupNormalization", [image, normal(4), normal(4)], {"num_groups": 2, "stash_type": 11}, opset=21, label="21"),
    Case("GroupNormalization", [x, normal(4), normal(4)], {"num_groups": 4, "stash_type": 11}, label="21-all"),
    Case(BATCH, [image, normal(4), normal(4), normal(4), positive(4)], {"epsilon": 0.01}),
    Case(BATCH, [matrix, normal(4), normal(4), normal(4), positive(4)], opset=18, label="rank-2"),
    Case(BATCH, [normal(3), normal(1), normal(1), normal(1), positive(1)], label="rank-1"),
    Case(BATCH, [normal(2, 3, 1, 2, 2), normal(3), normal(3), normal(3), positive(3)], label="rank-5"),
    Case(BATCH, [normal(0, 4, 2), normal(4), normal(4), normal(4), positive(4)], label="nothing"),
    Case(BATCH, [image, normal(4), normal(4), normal(4), positive(4)], fixed=[1, 2, 3, 4], label="constant-weights"),
    Case(BATCH, [image, normal(4), normal(4), normal(4), positive(4)], TRAINING, outputs=3, label="training"),
    Case(BATCH, [matrix, normal(4), normal(4), normal(4), positive(4)], TRAINING, outputs=3, label="training-2"),
    *(
        Case(BATCH, [x, normal(4), normal(4), normal(4), positive(4)], TRAINING, outputs=3, of=[i], label=f"training-of-{i}")
        for i in range(3)
    ),
    *(
        # onnxruntime has no even sizes
        Case("LRN", [normal(2, 5, 2, 2)], {"size": size, "alpha": 0.7, "beta": 0.6, "bias": 1.3}, float32=tolerance, label=f"{size}")
        for size, tolerance in ((1, 1e-4), (2, None), (3, 1e-4), (4, None), (5, 1e-4), (11, 1e-4))
    ),
    *(
        Case("LpNormalization", [x], {"p": p, "axis": axis}, opset=opset, label=f"{p}-{axis}-{opset}")
        for p in (1, 2)
        for axis, opset in ((0, 18), (1, 22), (-1, 22))
    ),
    Case("MeanVarianceNormalization", [image]),
    Case("MeanVarianceNormalization", [x], {"axes": [-1, 0]}, label="axes"),
    Case("MeanVarianceNormalization", [matrix], {"axes": [1]}, label="one-axis"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)
