"""XGBoost's models: trees, and linear boosters."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost

from tests.frameworks.boosters import THREE, TWO, X, Y, case, none

TREES = {"n_estimators": 6, "max_depth": 3, "n_jobs": 1}
LINEAR = {"n_estimators": 8, "booster": "gblinear", "n_jobs": 1}


def _linear(estimator: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``y = x w + b``."""
    jacobian = np.broadcast_to(estimator.coef_, (len(x), 1, x.shape[1]))
    return jacobian, np.zeros((len(x), x.shape[1], x.shape[1]))


def _exponential(estimator: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``y = exp(x w + b)``."""
    w, y = estimator.coef_.astype(np.float64), estimator.predict(x).astype(np.float64)
    return y[:, None, None] * w, y[:, None, None] * np.outer(w, w)


def _softmax(estimator: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``p = softmax(x W + b)``: ``p'_i = p_i (w_i - Σ p w)``, and the same once more."""
    p, w = estimator.predict_proba(x).astype(np.float64), estimator.coef_.astype(np.float64)
    if w.ndim == 1:  # of two classes, the margin of the first is 0
        w = np.stack([np.zeros_like(w), w])
    else:  # XGBoost gives them the shape (classes, features), but in the order of (features, classes)
        w = w.reshape(w.shape[::-1]).T
    away = w - (p @ w)[:, None]
    spread = np.einsum("nk,nka,nkb->nab", p, away, away)
    return p[:, :, None] * away, p[:, 0, None, None] * (np.einsum("na,nb->nab", away[:, 0], away[:, 0]) - spread)


CASES = [
    case("XGBoost", "onnxmltools", "trees", lambda: xgboost.XGBRegressor(**TREES).fit(X, Y), none),
    case("XGBoost", "onnxmltools", "trees, classes", lambda: xgboost.XGBClassifier(**TREES).fit(X, THREE), none),
    case("XGBoost", "onnxgrad.load", "linear", lambda: xgboost.XGBRegressor(**LINEAR).fit(X, Y), _linear),
    case(
        "XGBoost",
        "onnxgrad.load",
        "linear, Poisson",
        lambda: xgboost.XGBRegressor(**LINEAR, objective="count:poisson").fit(X, Y),
        _exponential,
    ),
    case(
        "XGBoost", "onnxgrad.load", "linear, 2 classes", lambda: xgboost.XGBClassifier(**LINEAR).fit(X, TWO), _softmax
    ),
    case(
        "XGBoost", "onnxgrad.load", "linear, 3 classes", lambda: xgboost.XGBClassifier(**LINEAR).fit(X, THREE), _softmax
    ),
]
