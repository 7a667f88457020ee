"""Pooling."""

from __future__ import annotations

import numpy as np
import pytest

from tests.harness import Case, check_rule

rng = np.random.default_rng(4)


def a(*shape: int) -> np.ndarray:
    """Distinct numbers, far enough apart that no small step changes which is the largest."""
    return rng.permutation(np.prod(shape)).reshape(shape) * 0.1 - 0.93


CASES = [
    *(Case(op, [a(2, 2, 7)], {"kernel_shape": [3]}, label="1d") for op in ("MaxPool", "AveragePool", "LpPool")),
    *(Case(op, [a(2, 2, 7)], {"kernel_shape": [3], "strides": [2], "pads": [1,1], "ceil_mode": 1}, label="ceil") for op in ("MaxPool", "AveragePool", "LpPool")),
    *(Case(op, [a(2, 2, 6)], {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_LOWER"}, label="same") for op in ("MaxPool", "AveragePool", "LpPool")),
    *(Case(op, [a(2, 2, 6)], label="1d") for op in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)
