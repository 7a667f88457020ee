"""Operators for other devices than the CPU: values against their documentation, derivatives against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special

import onnxgrad
from tests.expressions import check_exact, expression_model
from tests.harness import Case, Runner, close, make_model

rng = np.random.default_rng(23)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ms(op: str, inputs: list[np.ndarray | None], label: str = "", **attrs: Any) -> Case:
    options = {name: attrs.pop(name) for name in ("outputs", "smooth") if name in attrs}
    return Case(op, inputs, attrs, **{"domain": "com.microsoft", "label": label, **options})


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + scipy.special.erf(x / np.sqrt(2)))


def fast_gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def normalized(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int, epsilon: float) -> np.ndarray:
    """With channels last, group by group."""
    y, size = np.empty_like(x), x.shape[-1] // groups
    for n in range(len(x)):
        for g in range(groups):
            part = x[n, ..., g * size : (g + 1) * size]
            y[n, ..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + epsilon)
    return y * gamma + beta


x, halves, image = a(2, 3, 4), a(2, 3, 8), 2 * a(2, 3, 2, 6)
weights = [a(6), a(6)]
last = {"groups": 3, "epsilon": 1e-3}
skip, bias = a(2, 6), a(6)
swish = halves[..., :4] * sigmoid(1.75 * halves[..., :4]) * (halves[..., 4:] + 1)
limited = (
    np.minimum(halves[..., :4], 0.625)
    * sigmoid(np.minimum(halves[..., :4], 0.625))
    * halves[..., 4:].clip(-0.625, 0.625)
)
left, right = a(2, 5, 3), a(4, 3)
total = image + skip[:, None, None] + bias

CASES: list[tuple[Case, list[np.ndarray]]] = [
    (ms("BiasAdd", [x, bias[:4], 2 * x]), [3 * x + bias[:4]]),
    (ms("BiasSplitGelu", [halves, np.ones(8)]), [(halves[..., :4] + 1) * gelu(halves[..., 4:] + 1)]),
    (ms("BiasSoftmax", [x, x[:1]], axis=2, is_inner_broadcast=0), [scipy.special.softmax(x + x[:1], axis=-1)]),
    (ms("SwiGLU", [halves], activation_alpha=1.75, activation_beta=1.0), [swish]),
    (ms("SwiGLU", [halves[..., :4], halves[..., 4:]], "apart", activation_alpha=1.75, activation_beta=1.0), [swish]),
    (ms("SwiGLU", [halves], "limit", limit=0.625), [limited]),
    (
        ms("FusedMatMulActivation", [left, right], transB=1, alpha=0.5, activation="Tanh"),
        [np.tanh(0.5 * left @ right.T)],
    ),
    (ms("GemmFastGelu", [left, right.T]), [fast_gelu(left @ right.T)]),
    (ms("GemmFastGelu", [left, right.T, bias[:4]], "bias"), [fast_gelu(left @ right.T + bias[:4])]),
    (ms("GroupNorm", [image, *weights], **last), [normalized(image, *weights, **last)]),
    (
        ms("GroupNorm", [np.moveaxis(image, -1, 1), *weights], "first", channels_last=0, **last),
        [np.moveaxis(normalized(image, *weights, **last), -1, 1)],
    ),
    (
        ms("GroupNorm", [image, *weights], "silu", activation=1, **last),
        [normalized(image, *weights, **last) * sigmoid(normalized(image, *weights, **last))],
    ),
    (
        ms("SkipGroupNorm", [image, *weights, skip, bias], outputs=2, **last),
        [normalized(total, *weights, **last), total],
    ),
    (ms("SkipGroupNorm", [image, *weights, image], "whole", **last), [normalized(2 * image, *weights, **last)]),
]


@pytest.mark.parametrize(("case", "expected"), CASES, ids=[case.name for case, _ in CASES])
def test_formula(case: Case, expected: list[np.ndarray]) -> None:
    feeds = {f"x{i}": array for i, array in enumerate(case.inputs) if array is not None}
    found = Runner(expression_model(make_model(case)))(feeds)
    for i, value in enumerate(expected):
        close(found[f"y{i}"], value, 1e-9, f"y{i}")
    check_exact(case)


@pytest.mark.parametrize(
    ("case", "match"),
    [
        (ms("BiasSoftmax", [x, x[:1]], axis=1), "more than the last axis"),
        (ms("SkipGroupNorm", [image, *weights, image], channels_last=0, groups=2), "channels in front"),
    ],
    ids=["BiasSoftmax", "SkipGroupNorm"],
)
def test_refusal(case: Case, match: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=match):
        onnxgrad.vjp(make_model(case, np.float32), of="y0", wrt="x0")
