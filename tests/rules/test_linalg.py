"""Products of matrices."""

from __future__ import annotations

import numpy as np
import pytest

from tests.harness import Case, check_rule

rng = np.random.default_rng(2)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


CASES = [
    Case("MatMul", [a(2, 3), a(3, 4)]),
    Case("MatMul", [a(3), a(3, 4)], label="vector-matrix"),
    Case("MatMul", [a(2, 3), a(3)], label="matrix-vector"),
    Case("MatMul", [a(3), a(3)], label="vector-vector"),
    Case("MatMul", [a(5, 2, 3), a(3, 4)], label="batch-left"),
    Case("MatMul", [a(2, 3), a(5, 3, 4)], label="batch-right"),
    Case("MatMul", [a(5, 1, 2, 3), a(4, 3, 2)], label="batch-broadcast"),
    Case("MatMul", [a(3), a(5, 3, 4)], label="vector-batch"),
    Case("MatMul", [a(5, 2, 3), a(3)], label="batch-vector"),
    Case("Gemm", [a(2, 3), a(3, 4), a(4)]),
    Case("Gemm", [a(2, 3), a(3, 4)], label="no-bias"),
    Case(
        "Gemm", [a(3, 2), a(4, 3), a(2, 4)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, label="transposed"
    ),
    Case("Gemm", [a(3, 2), a(3, 4), np.array(0.3)], {"transA": 1}, label="transA"),
    Case("Gemm", [a(2, 3), a(4, 3), a(2, 1)], {"transB": 1, "beta": 0.5}, label="transB"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)
