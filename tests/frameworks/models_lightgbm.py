"""LightGBM's models of trees."""

from __future__ import annotations

import lightgbm

from tests.frameworks.boosters import THREE, TWO, X, Y, case, none

TREES = {"n_estimators": 6, "max_depth": 3, "n_jobs": 1, "verbose": -1}

CASES = [
    case("LightGBM", "onnxmltools", "trees", lambda: lightgbm.LGBMRegressor(**TREES).fit(X, Y), none),
    case("LightGBM", "onnxmltools", "trees, 2 classes", lambda: lightgbm.LGBMClassifier(**TREES).fit(X, TWO), none),
    case("LightGBM", "onnxmltools", "trees, 3 classes", lambda: lightgbm.LGBMClassifier(**TREES).fit(X, THREE), none),
]
