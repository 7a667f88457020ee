"""Classical machine learning, ai.onnx.ml."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxgrad
from tests.expressions import check_expression
from tests.harness import Case, Runner, make_model

rng = np.random.default_rng(5)
x = np.array([[0.7, -1.3, 0.4], [-2.1, -0.6, -0.3], [1.1, 0.2, -0.9]])
w = [float(v) for v in rng.normal(size=9)]
vectors = rng.normal(size=(5, 3))


def ml(op: str, inputs: list[np.ndarray | None], label: str = "", **attrs: Any) -> Case:
    options = {name: attrs.pop(name) for name in ("outputs", "fixed", "dynamic") if name in attrs}
    return Case(op, inputs, attrs, domain="ai.onnx.ml", label=label, **options)


def floats(array: np.ndarray) -> list[float]:
    return [float(v) for v in np.ravel(array)]


KERNEL = {"kernel_params": [0.3, 0.5, 3.0]}
REGRESSOR = {
    **KERNEL,
    "n_supports": 5,
    "support_vectors": floats(vectors),
    "coefficients": floats(rng.normal(size=5)),
    "rho": [0.25],
}
TWO = {
    **KERNEL,
    "kernel_type": "RBF",
    "vectors_per_class": [2, 3],
    "support_vectors": floats(vectors),
    "coefficients": floats(rng.normal(size=5)),
    "rho": [0.25],
    "classlabels_ints": [0, 1],
    "outputs": 2,
}
THREE = {
    **TWO,
    "vectors_per_class": [2, 1, 2],
    "coefficients": floats(rng.normal(size=10)),
    "rho": [0.25, -0.1, 0.3],
    "classlabels_ints": [0, 1, 2],
}
LINEAR = {**KERNEL, "kernel_type": "LINEAR", "coefficients": w, "rho": [0.25], "classlabels_ints": [0, 1, 2], "outputs": 2}
ALL = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
# inside (0, 1), where "PROBIT" is defined, and at 1/2, where its textbook form has no derivative
probit = {"coefficients": [0.05, 0.1, 0.02, -0.03, 0.1, 0.2], "intercepts": [0.5, 0.45], "post_transform": "PROBIT"}

CASES = [
    ml("Scaler", [x], scale=[2.0, 3.0, -0.5], offset=[1.0, 0.0, 0.3]),
    ml("Scaler", [x], "one-number", scale=[2.0], offset=[0.3]),
    ml("Scaler", [x], "no-effect", scale=[1.0], offset=[0.0]),
    ml("Scaler", [x[0]], "vector", scale=[2.0, 3.0, -0.5], offset=[1.0, 0.0, 0.3]),
    *(ml("Normalizer", [x], norm, norm=norm) for norm in ("MAX", "L1", "L2")),
    *(ml("Normalizer", [x[0]], f"{norm}-vector", norm=norm) for norm in ("MAX", "L1", "L2")),
    ml("Imputer", [x], imputed_value_floats=[7.0, 8.0, 9.0], replaced_value_float=-99.0),
    ml("FeatureVectorizer", [x, x[:, :2] * 2], inputdimensions=[3, 2], dynamic=False),
    ml("FeatureVectorizer", [x, x[:, :2] * 2], "cut-and-filled", inputdimensions=[2, 4], dynamic=False),
    ml("FeatureVectorizer", [x[0], x[1, :2]], "vectors", inputdimensions=[3, 2], dynamic=False),
    ml("ArrayFeatureExtractor", [x, np.array([2, 0, 2])]),
    ml("ArrayFeatureExtractor", [x, np.array([[1]])], "one"),
    ml("ArrayFeatureExtractor", [x[0], np.array([2, 0])], "vector"),
    ml("ArrayFeatureExtractor", [x.reshape(1, 3, 3), np.array([2, 0])], "rank-3"),
    *(
        ml("LinearRegressor", [x], how, coefficients=w[:6], intercepts=[0.5, 0.25], targets=2, post_transform=how)
        for how in ALL
    ),
    ml("LinearRegressor", [x], "one-target", coefficients=w[:3], intercepts=[0.5]),
    ml("LinearRegressor", [x], "no-intercept", coefficients=w[:3]),
    ml("LinearRegressor", [x[0]], "vector", coefficients=w[:6], targets=2),
    ml("LinearRegressor", [x], "PROBIT", targets=2, **probit),
    *(
        ml(
            "LinearClassifier",
            [x],
            how,
            coefficients=w,
            intercepts=[0.5, 0.25, -0.3],
            classlabels_ints=[4, 5, 7],
            post_transform=how,
            outputs=2,
        )
        for how in ALL
    ),
    ml("LinearClassifier", [x], "PROBIT", classlabels_ints=[0, 1], outputs=2, **probit),
    *(
        ml(
            "LinearClassifier",
            [x],
            f"one-row-{how}",
            coefficients=w[:3],
            intercepts=[0.5],
            classlabels_strings=["a", "b"],
            post_transform=how,
            outputs=2,
        )
        for how in ("NONE", "LOGISTIC")
    ),
    ml("LinearClassifier", [x], "no-labels", coefficients=w[:3], intercepts=[0.5], outputs=2),
    *(ml("SVMRegressor", [x], kernel, kernel_type=kernel, **REGRESSOR) for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID")),
    ml("SVMRegressor", [x], "no-vectors", coefficients=w[:3], rho=[0.25], **KERNEL),
    ml("SVMRegressor", [x], "one-class", kernel_type="RBF", one_class=1, **REGRESSOR),
    *(ml("SVMClassifier", [x], how, post_transform=how, **LINEAR) for how in ALL),
    *(ml("SVMClassifier", [x], f"two-{how}", post_transform=how, **TWO) for how in ("NONE", "LOGISTIC")),
    *(ml("SVMClassifier", [x], f"three-{how}", post_transform=how, **THREE) for how in ALL),
    ml("SVMClassifier", [x], "three-POLY", **{**THREE, "kernel_type": "POLY"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_expression(case: Case) -> None:
    check_expression(case, values=1e-5)
