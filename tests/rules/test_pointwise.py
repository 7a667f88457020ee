"""Elementwise operators."""

from __future__ import annotations

import numpy as np
import pytest

from tests.harness import Case, check_rule

rng = np.random.default_rng(1)
x = np.array([[-2.3, -0.7, 0.4], [1.2, 0.1, 3.4]])
inside = x / 4
positive = np.abs(x) + 0.2
row = np.array([0.7, -1.3, 2.1])
column = np.array([[0.6], [-1.4]])

CASES = [
    *(Case(op, [x]) for op in "Neg Abs Reciprocal Identity Exp Sin Cos Tan Sinh Cosh Tanh Asinh Atan Erf".split()),
    *(Case(op, [positive]) for op in "Sqrt Log".split()),
    *(Case(op, [inside]) for op in "Asin Acos Atanh".split()),
    Case("Acosh", [1 + positive]),
    *(Case(op, [x]) for op in "Relu Sigmoid Softplus Softsign HardSigmoid HardSwish LeakyRelu Elu Selu Mish".split()),
    Case("HardSigmoid", [x], {"alpha": 0.3, "beta": 0.4}, label="attributes"),
    Case("LeakyRelu", [x], {"alpha": 0.3}, label="alpha"),
    Case("Elu", [x], {"alpha": 0.7}, label="alpha"),
    Case("Celu", [x], opset=28),
    Case("Celu", [x], {"alpha": 0.7}, opset=28, label="alpha"),
    Case("Celu", [x], {"alpha": -0.7}, opset=28, label="negative-alpha"),
    Case("Selu", [x], {"alpha": 1.5, "gamma": 0.9}, label="attributes"),
    Case("ThresholdedRelu", [x], {"alpha": 0.3}),
    Case("Shrink", [x], {"lambd": 0.3, "bias": 0.1}, differences=1e-2),  # onnxruntime computes in float32
    Case("Gelu", [x]),
    Case("Gelu", [x], {"approximate": "tanh"}, label="tanh"),
    Case("Swish", [x], {"alpha": 1.3}, opset=24),
    Case("PRelu", [x, np.array([0.2, 0.3, -0.4])]),
    Case("PRelu", [x, np.array([[0.2], [0.3]])], label="column"),
    *(Case(op, [x, row], label="row") for op in "Add Sub Mul Div".split()),
    *(Case(op, [row, x], label="row-first") for op in "Add Sub Mul Div".split()),
    *(Case(op, [column, row], label="outer") for op in "Add Sub Mul Div".split()),
    *(Case(op, [x, np.array(1.7)], label="scalar") for op in "Add Sub Mul Div".split()),
    Case("Pow", [positive, row]),
    Case("Pow", [x, np.array(3.0)], fixed=[1], label="cube"),
    Case("Pow", [x, np.array(2.0)], fixed=[1], label="square"),
    Case("Pow", [x, np.array(0.0)], fixed=[1], label="zeroth"),
    Case("Pow", [x, np.array(3, np.int64)], label="integer"),
    Case("Mod", [x, row], {"fmod": 1}, label="fmod"),
    *(Case(op, [x, row, column]) for op in "Sum Mean Max Min".split()),
    Case("Max", [x], label="one"),
    Case("Clip", [x, np.array(-1.0), np.array(2.0)]),
    Case("Clip", [x, None, np.array(2.0)], label="high"),
    Case("Clip", [x, np.array(-1.0)], label="low"),
    Case("Clip", [x], label="free"),
    Case("Clip", [x, np.array(0.5), np.array(-0.5)], label="crossed"),
    Case("Where", [x > 0, x, row]),
    Case("Where", [np.array([[True], [False]]), row, x], label="mask-broadcast"),
    Case("Dropout", [x]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)
