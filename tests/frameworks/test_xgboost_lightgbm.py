"""Boosters of XGBoost and LightGBM, loaded: alone and inside of scikit-learn; what has no slope says so."""

from __future__ import annotations

import sys
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import onnxgrad
from tests.frameworks import recipes
from tests.frameworks.boosters import THREE, TWO, X, Y
from tests.frameworks.models_lightgbm import TREES as LEAVES
from tests.frameworks.models_xgboost import LINEAR, TREES

NAMES = np.array(["a", "b", "c"])[THREE]
#: Estimators of trees, and what they are fitted to.
ESTIMATORS: dict[str, tuple[Any, np.ndarray]] = {
    "xgboost-poisson": (xgboost.XGBRegressor(**TREES, objective="count:poisson"), Y),
    "xgboost-forest": (xgboost.XGBRFRegressor(**TREES), Y),
    "xgboost-binary": (xgboost.XGBClassifier(**TREES), TWO),
    "xgboost-classes": (xgboost.XGBClassifier(**TREES), THREE),
    "lightgbm-poisson": (lightgbm.LGBMRegressor(**LEAVES, objective="poisson"), Y),
    "lightgbm-binary": (lightgbm.LGBMClassifier(**LEAVES), TWO),
    "lightgbm-named-classes": (lightgbm.LGBMClassifier(**LEAVES), NAMES),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trees_have_no_slope_and_say_so(name: str, dtype: str) -> None:
    estimator, target = ESTIMATORS[name]
    estimator.fit(X, target)
    f = onnxgrad.load(estimator, sample=X.astype(dtype))
    assert f.inputs[0].dtype == dtype
    with pytest.warns(onnxgrad.DisconnectedWarning, match="constant between its thresholds"):
        jacobian = f.jacobian(X[:5].astype(dtype))
    assert jacobian.shape[0::2] == (5, 4)
    assert not jacobian.any()
    found = f(X.astype(dtype))
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_array_equal(found["predict"], estimator.predict(X))
        np.testing.assert_allclose(found["predict_proba"], estimator.predict_proba(X), rtol=2e-6)  # sums in float32
    else:
        np.testing.assert_allclose(found[:, 0], estimator.predict(X), rtol=2e-6)


def test_the_file_says_that_the_derivative_is_zero(tmp_path: Any) -> None:
    with pytest.warns(onnxgrad.DisconnectedWarning):
        onnxgrad.load(lightgbm.LGBMRegressor(**LEAVES).fit(X, Y), sample=X).save(tmp_path / "m.onnx", jacobian=True)
    (record,) = onnxgrad.derivatives(tmp_path / "m.onnx")
    assert record.zero
    assert "TreeEnsembleRegressor" in record.zero


# --- linear boosters, which have derivatives ------------------------------------------------------


def test_a_pipeline_with_a_linear_booster_in_float64() -> None:
    """``y = (x - m) / s · w + b``, exactly, though XGBoost computes its predictions in float32."""
    scaler, booster = StandardScaler(), xgboost.XGBRegressor(**LINEAR)
    pipeline = make_pipeline(scaler, booster).fit(X.astype(float), Y)
    f = onnxgrad.load(pipeline, sample=X.astype(float))
    jacobian = f.jacobian(X[:3].astype(float))
    assert jacobian.dtype == np.float64
    expected = booster.coef_.astype(np.float64) / scaler.scale_
    # XGBoost gives its coefficients with 6 digits
    np.testing.assert_allclose(jacobian[:, 0], np.broadcast_to(expected, (3, 4)), rtol=1e-5)


def test_several_targets() -> None:
    estimator = xgboost.XGBRegressor(**LINEAR).fit(X, np.stack([Y, X[:, 2]], 1))
    f = onnxgrad.load(estimator, sample=X)
    np.testing.assert_allclose(f(X), estimator.predict(X), rtol=1e-5, atol=1e-6)
    step = np.eye(4, dtype=np.float32)
    differences = (estimator.predict(step) - estimator.predict(0 * step)).T
    np.testing.assert_allclose(f.jacobian(X[:1])[0], differences, atol=1e-6)  # predictions of about 1, in float32


def test_what_is_missing_counts_as_zero() -> None:
    estimator = xgboost.XGBRegressor(**LINEAR).fit(X, Y)
    x = X[:2].copy()
    x[0, 1] = np.nan
    f = onnxgrad.load(estimator, sample=X)
    value, jacobian = f.value_and_jacobian(x)
    np.testing.assert_allclose(value[:, 0], estimator.predict(x), rtol=1e-6)
    assert jacobian[0, 0, 1] == 0
    np.testing.assert_array_equal(np.delete(jacobian[0], 1, axis=1), np.delete(jacobian[1], 1, axis=1))


@pytest.mark.parametrize(
    "estimator",
    [
        TransformedTargetRegressor(
            xgboost.XGBRegressor(**LINEAR), func=np.log, inverse_func=np.exp, check_inverse=False
        ),
        VotingRegressor([("linear", xgboost.XGBRegressor(**LINEAR)), ("trees", lightgbm.LGBMRegressor(**LEAVES))]),
    ],
    ids=["target", "voting"],
)
def test_boosters_inside_of_estimators(estimator: Any) -> None:
    estimator.fit(X, Y)
    f = onnxgrad.load(estimator, sample=X)
    np.testing.assert_allclose(f(X).reshape(-1), estimator.predict(X), rtol=1e-5)
    assert f.jacobian(X[:2]).any()


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (xgboost.XGBRegressor(**{**TREES, "booster": "dart"}), "booster 'dart'"),
        (xgboost.XGBRegressor(**LINEAR, objective="reg:absoluteerror", missing=-1), "takes -1 for a missing value"),
        (lightgbm.LGBMRegressor(**LEAVES, linear_tree=True), "linear models in their leaves"),
    ],
    ids=["dart", "missing", "linear_tree"],
)
def test_what_is_refused(estimator: Any, words: str) -> None:
    estimator.fit(X, Y)
    with pytest.raises(onnxgrad.ModelReadError, match=words):
        onnxgrad.load(estimator, sample=X)


def test_onnxmltools_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = lightgbm.LGBMRegressor(**LEAVES).fit(X, Y)
    for module in [m for m in sys.modules if m.startswith("onnxmltools")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnxmltools", None)
    with pytest.raises(onnxgrad.ModelReadError, match="pip install onnxmltools"):
        onnxgrad.load(estimator, sample=X)
    onnxgrad.load(xgboost.XGBRegressor(**LINEAR).fit(X, Y), sample=X)  # needs none


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_bare_booster(library: str) -> None:
    estimators = {"xgboost": xgboost.XGBRegressor(**TREES), "lightgbm": lightgbm.LGBMRegressor(**LEAVES)}
    estimator = estimators[library].fit(X, Y)
    booster = estimator.get_booster() if library == "xgboost" else estimator.booster_
    with pytest.raises(onnxgrad.ModelReadError, match=f"onnxmltools.convert_{library}"):
        onnxgrad.load(booster, sample=X)
    with pytest.raises(onnxgrad.ModelReadError, match=f"onnxmltools.convert_{library}"):
        onnxgrad.load(booster)


# --- the recipes of docs/frameworks.md ------------------------------------------------------------


def test_recipe_of_xgboost() -> None:
    names = recipes.run("XGBoost", X=X, y=Y)
    assert names["jacobian"].shape == (120, 1, 4)


def test_recipe_of_lightgbm() -> None:
    with pytest.warns(onnxgrad.DisconnectedWarning):
        names = recipes.run("LightGBM", X=X, y=Y)
    assert not names["jacobian"].any()
