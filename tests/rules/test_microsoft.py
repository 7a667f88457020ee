"""Operators of onnxruntime's own domain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxgrad
from tests.expressions import check_derivatives, check_exact, check_expression
from tests.harness import Case, Runner, close, make_model

rng = np.random.default_rng(7)

B, S = 3, 5


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ms(op: str, inputs: list[np.ndarray | None], label: str = "", **attrs: Any) -> Case:
    options = {
        name: attrs.pop(name) for name in ("outputs", "fixed", "fed", "dynamic", "of", "domain") if name in attrs
    }
    return Case(op, inputs, attrs, **{"domain": "com.microsoft", "label": label, **options})


x = a(B, S, 4)
wide = np.array([-3.0, 1.0, 4.0, -1.0]) + a(B, S, 4)  # with a deviation that is large against the step of differences
SIMPLE = [
    ms("Gelu", [x]),
    ms("BiasGelu", [x, a(4)]),
    ms("FastGelu", [x]),
    ms("FastGelu", [x, a(4)], "bias"),
    ms("QuickGelu", [x]),
    ms("QuickGelu", [x], "alpha", alpha=0.7),
    ms("FusedMatMul", [a(2, 3), a(3, 4)]),
    ms("FusedMatMul", [a(2, 3), a(4, 3)], "transB", transB=1, alpha=0.5),
    ms("FusedMatMul", [a(3, 2), a(3, 4)], "transA", transA=1),
    ms("FusedMatMul", [a(5, 3, 2), a(4, 3)], "batch", transA=1, transB=1),
    ms("FusedMatMul", [a(3), a(3, 4)], "vector", transA=1),
    ms("FusedMatMul", [a(2, 3), a(3)], "vector-right", transB=1),
    ms("FusedMatMul", [a(3, 2, 5, 4), a(2, 5, 4, 6)], "transBatchA", transBatchA=1),
    ms("FusedMatMul", [a(4, 2, 5, 3), a(2, 5, 4, 6)], "transBatchA-transA", transBatchA=1, transA=1),
    ms("FusedMatMul", [a(2, 5, 3, 4), a(4, 2, 5, 6)], "transBatchB", transBatchB=1),
    ms("FusedMatMul", [a(2, 5, 3, 4), a(6, 2, 5, 4)], "transBatchB-transB", transBatchB=1, transB=1),
    ms("TransposeMatMul", [a(2, 3), a(4, 3)], transB=1),
    *(
        ms("FusedGemm", [a(2, 3), a(3, 4), a(4)], name, activation=name, alpha=0.5, beta=0.7, **numbers)
        for name, numbers in {
            "Tanh": {},
            "Sigmoid": {},
            "Softplus": {},
            "Softsign": {},
            "ScaledTanh": {"activation_alpha": 0.3, "activation_beta": 0.4},
            "ParametricSoftplus": {"activation_alpha": 0.3, "activation_beta": 0.4},
        }.items()
    ),
    ms("FusedGemm", [a(3, 2), a(4, 3), a(2, 4)], "transposed", activation="Tanh", transA=1, transB=1),
    ms("FusedGemm", [a(2, 3), a(3, 4)], "no-bias", activation="Tanh"),
    ms("SkipSimplifiedLayerNormalization", [wide, a(B, S, 4), a(4), a(4)], outputs=4, epsilon=1e-3),
    ms("SkipLayerNormalization", [wide, a(B, S, 4), a(4), a(4), a(4)], outputs=4),
    ms("SkipLayerNormalization", [wide, a(1, S, 4), a(4)], "one-skip", outputs=4, epsilon=1e-3),
    ms("SkipLayerNormalization", [wide, a(S, 4), a(4), None, a(4)], "skip-of-rank-2", outputs=4),
    ms("Trilu", [a(2, 3, 4)]),
    ms("Trilu", [a(2, 3, 4), np.array(1)], "lower", upper=0),
    ms("GridSample", [a(1, 2, 3, 4), rng.uniform(-1.3, 1.3, (1, 2, 2, 2))], fixed=[1], padding_mode="border"),
    ms("GridSample", [a(1, 2, 3, 4), rng.uniform(-1.3, 1.3, (1, 2, 2, 2))], "cubic", fixed=[1], mode="bicubic"),
    ms("CDist", [a(3, 4), a(5, 4)], "sqeuclidean", metric="sqeuclidean"),
    ms("CDist", [2 * a(3, 4), 2 * a(5, 4)], "euclidean", metric="euclidean"),
]
ABSENT = {"SkipLayerNormalization": (1, 2), "SkipSimplifiedLayerNormalization": (1, 2)}


@pytest.mark.parametrize("case", SIMPLE, ids=lambda case: case.name)
def test_expression(case: Case) -> None:
    check_expression(case, absent=ABSENT.get(case.op, ()), values=1e-5)
    check_exact(case, absent=ABSENT.get(case.op, ()))


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_inverse(dynamic: bool) -> None:
    at = (3 * np.eye(3) + 0.5 * a(2, 3, 3)).astype(np.float32)
    model = make_model(ms("Inverse", [at.astype(np.float64)]), np.float32, dynamic=dynamic)
    check_derivatives(model, {"x0": at}, ["y0"], 1e-4, rng)


@pytest.mark.parametrize("axis", [-1, 1])
def test_simplified_layer_normalization(axis: int) -> None:
    """It is in the domain of ONNX, but not in the standard."""
    scale = a(4) if axis == -1 else a(S, 4)
    case = ms("SimplifiedLayerNormalization", [wide, scale], domain="", axis=axis, epsilon=1e-3)
    check_expression(case)
    check_exact(case)


# activations with a kink, at points away from it
KINKED = {
    "Relu": {},
    "LeakyRelu": {"activation_alpha": 0.3},
    "HardSigmoid": {"activation_alpha": 0.2, "activation_beta": 0.45},
    "Elu": {"activation_alpha": 0.7},
    "Selu": {"activation_alpha": 1.5, "activation_gamma": 0.9},
    "ThresholdedRelu": {"activation_alpha": 0.3},
}


@pytest.mark.parametrize("name", KINKED)
def test_kinked_activation(name: str) -> None:
    left = np.array([[1.0, 0.1, -0.2], [-1.0, 0.2, 0.1]])
    right = np.array([[0.8, 1.0], [0.1, -0.1], [-0.2, 0.1]])
    case = ms("FusedGemm", [left, right], activation=name, **KINKED[name])
    check_expression(case)
    check_exact(case)


# with a bias that keeps the sums of each channel on one side of a kink
WINDOW = {"pads": [1, 0, 1, 0], "strides": [1, 2]}
image, kernel, apart = a(1, 2, 4, 5), 0.4 * a(3, 2, 3, 3), np.array([6.0, -6.0, 6.0])
CONVOLUTIONS = [
    ms("FusedConv", [image, kernel], "no-bias", activation="Tanh", **WINDOW),
    ms("FusedConv", [image, kernel, None, a(1, 3, 4, 2)], "sum", activation="Sigmoid", **WINDOW),
    ms("FusedConv", [image, kernel, apart, 0.3 * a(1, 3, 4, 2)], "sum-and-bias", activation="Relu", **WINDOW),
    ms("FusedConv", [image, kernel, apart], "Relu", activation="Relu", **WINDOW),
    ms("FusedConv", [image, kernel, apart], "Leaky", activation="LeakyRelu", activation_params=[0.3], **WINDOW),
    ms("FusedConv", [image, kernel, apart], "Clip", activation="Clip", activation_params=[-50.0, 0.4], **WINDOW),
    ms("FusedConv", [image, kernel, apart], "Hard", activation="HardSigmoid", activation_params=[0.03, 0.4], **WINDOW),
    ms("FusedConv", [a(1, 4, 3), a(6, 2, 2), a(6)], "groups", activation="Tanh", group=2, dilations=[2]),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
def test_fused_conv(case: Case) -> None:
    check_expression(case, values=1e-5)
    check_exact(case)


# --- tables and positions ----------------------------------------------------------------------

ids = rng.integers(0, 5, (B, S)).astype(np.int32)
parts = rng.integers(0, 2, (B, S)).astype(np.int32)
places = rng.integers(0, 6, (B, S)).astype(np.int32)
tables = [a(5, 4), a(6, 4), a(2, 4)]
padding = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
EMBEDDINGS = [
    ms("EmbedLayerNormalization", [ids, parts, *tables, a(4), a(4), padding], outputs=2, dynamic=False),
    ms(
        "EmbedLayerNormalization",
        [ids, parts, *tables, a(4), a(4), None, places],
        "places",
        outputs=3,
        epsilon=1e-3,
        dynamic=False,
    ),
    ms(
        "EmbedLayerNormalization",
        [ids, None, *tables[:2], None, a(4), a(4), None, places[:1]],
        "words",
        outputs=3,
        dynamic=False,
    ),
]


@pytest.mark.parametrize("case", EMBEDDINGS, ids=lambda case: case.name)
def test_embedding(case: Case) -> None:
    check_expression(case)
    check_exact(case)


# --- samples -----------------------------------------------------------------------------------

count = 2
PER_SAMPLE = [
    ms("Gelu", [a(count, 3)]),
    ms("FusedMatMul", [a(count, 3), a(4, 3)], transB=1, fixed=[1]),
    ms("FusedGemm", [a(count, 3), a(3, 4), a(4)], activation="Tanh", fixed=[1, 2]),
    ms("FusedConv", [a(count, 1, 3), a(2, 1, 2)], activation="Tanh", fixed=[1]),
    ms("SkipLayerNormalization", [a(count, 2, 3), a(count, 2, 3), a(3)], fixed=[1, 2]),
    ms("CDist", [a(count, 3), a(4, 3)], metric="sqeuclidean", fixed=[1]),
    ms("Inverse", [np.eye(3) + 0.1 * a(count, 3, 3)]),
]


@pytest.mark.parametrize("case", PER_SAMPLE, ids=lambda case: case.name)
def test_per_sample(case: Case) -> None:
    model = make_model(case, np.float32)
    feeds = {"x0": case.inputs[0].astype(np.float32)}  # type: ignore[union-attr]
    per_sample, whole = (
        Runner(onnxgrad.jacobian(model, of="y0", wrt="x0", batched=batched), only_runtime=True)(feeds)["jac_y0_x0"]
        for batched in (True, False)
    )
    behind = whole.ndim - feeds["x0"].ndim
    for n in range(count):
        close(per_sample[n], np.take(whole[n], n, axis=behind - 1), 1e-5, f"sample {n}")


def test_samples_mix() -> None:
    """Samples that are rows of a transposed matrix are summed over."""
    model = make_model(ms("FusedMatMul", [a(3, 2), a(3, 4)], transA=1, fixed=[1]), np.float32)
    with pytest.raises(onnxgrad.MixedSamplesError, match="FusedMatMul"):
        onnxgrad.jacobian(model, batched=True)


# --- refusals ----------------------------------------------------------------------------------

REFUSED = [
    (ms("FusedGemm", [a(2, 3), a(3, 4)], activation="Swoosh"), "'Swoosh' is not known"),
    (ms("SkipLayerNormalization", [a(2, 2, 4), a(2, 2, 4), a(4)], outputs=4), "for training"),
    (ms("CDist", [a(2, 3), a(4, 3)], metric="cosine"), "metric 'cosine'"),
]


@pytest.mark.parametrize(("case", "match"), REFUSED, ids=lambda v: v.op if isinstance(v, Case) else v.split()[-1])
def test_refusal(case: Case, match: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=match):
        onnxgrad.vjp(make_model(case, np.float32), of="y0", wrt="x0")
