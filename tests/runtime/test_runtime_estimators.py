"""Estimators of scikit-learn as sources: what they compute, and its derivatives, against the estimators themselves."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC

import onnxgrad
from onnxgrad.errors import ModelReadError
from onnxgrad.importers.sklearn import leaves

X, Y = load_diabetes(return_X_y=True)
X, Y = X[:80], Y[:80]
IRIS, KINDS = load_iris(return_X_y=True)


def network(kind: type = MLPRegressor) -> Any:
    return kind(hidden_layer_sizes=(6,), activation="tanh", max_iter=30, random_state=0)


def fitted(estimator: Any, x: Any = X, y: Any = Y) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(x, y)


def differences(f: Callable[[Any], Any], x: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Five-point differences by each column, ``(N, …, columns)``."""
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    columns = [sum(w * f(x + k * step * e) for k, w in weights.items()) / step for e in np.eye(x.shape[1])]
    return np.stack(columns, -1)


# --- regressors -----------------------------------------------------------------------------------

REGRESSORS = {
    "linear": lambda: LinearRegression(),
    "pipeline": lambda: make_pipeline(StandardScaler(), network()),
    "targets scaled": lambda: TransformedTargetRegressor(
        make_pipeline(StandardScaler(), network()), transformer=StandardScaler()
    ),
    "targets in a range": lambda: TransformedTargetRegressor(network(), transformer=MinMaxScaler()),
    "targets over their largest": lambda: TransformedTargetRegressor(network(), transformer=MaxAbsScaler()),
    "targets scaled without shift": lambda: TransformedTargetRegressor(
        Ridge(), transformer=StandardScaler(with_mean=False)
    ),
    "targets neither": lambda: TransformedTargetRegressor(
        Ridge(), transformer=StandardScaler(with_mean=False, with_std=False)
    ),
    "targets as they are": lambda: TransformedTargetRegressor(Ridge()),
    "logarithms of targets": lambda: TransformedTargetRegressor(network(), func=np.log1p, inverse_func=np.expm1),
    "targets scaled at the end of a pipeline": lambda: make_pipeline(
        StandardScaler(), TransformedTargetRegressor(network(), transformer=RobustScaler())
    ),
    "search": lambda: GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [0.1, 1.0]}, cv=2),
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors(name: str) -> None:
    estimator = fitted(REGRESSORS[name]())
    f = onnxgrad.load(estimator, sample=X)
    assert f.inputs[0].name == "X"
    assert f.inputs[0].shape == ("N", 10)
    assert f.inputs[0].dtype == np.float64
    np.testing.assert_allclose(f(X)[:, 0], estimator.predict(X), rtol=1e-12)
    expected = differences(estimator.predict, X[:5])
    np.testing.assert_allclose(f.jacobian(X[:5])[:, 0], expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


def test_several_targets() -> None:
    both = np.stack([Y, Y**2 / 100], 1)
    scaled = TransformedTargetRegressor(network(), transformer=StandardScaler())
    for estimator in (network(), scaled, make_pipeline(StandardScaler(), network())):
        f = onnxgrad.load(fitted(estimator, y=both), sample=X)
        np.testing.assert_allclose(f(X), estimator.predict(X), rtol=1e-12)
        np.testing.assert_allclose(f.jacobian(X[:3]), differences(estimator.predict, X[:3]), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("activation", ["identity", "tanh", "logistic", "relu"])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_networks(activation: str, loss: str) -> None:
    estimator = fitted(network().set_params(activation=activation, loss=loss, learning_rate_init=1e-4))
    f = onnxgrad.load(estimator, sample=X)
    np.testing.assert_allclose(f(X)[:, 0], estimator.predict(X), rtol=1e-12)
    assert f.jacobian(X).shape == (80, 1, 10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_the_type_is_that_of_the_sample(dtype: type) -> None:
    estimator = fitted(make_pipeline(StandardScaler(), network()), (100 * X).astype(dtype))
    f = onnxgrad.load(estimator, sample=(100 * X).astype(dtype))
    assert f.inputs[0].dtype == (np.float32 if dtype is np.float32 else np.float64)
    np.testing.assert_allclose(f(100 * X)[:, 0], estimator.predict(100 * X), rtol=1e-4, atol=1e-4)


def test_what_onnxruntime_lacks_in_float64_is_converted_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "_runs", lambda *_: False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `probability` is deprecated
        estimator = make_pipeline(StandardScaler(), SVC(probability=True, random_state=0)).fit(IRIS, KINDS)
    with pytest.warns(UserWarning, match=r"have no float64 for SVC; that is converted in float32") as found:
        f = onnxgrad.load(estimator, sample=IRIS)
    assert found[0].filename == __file__
    assert f.inputs[0].dtype == np.float64
    np.testing.assert_allclose(f(IRIS)["predict_proba"], estimator.predict_proba(IRIS), atol=1e-5)


# --- classifiers, transformers --------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [LogisticRegression(), make_pipeline(StandardScaler(), network(MLPClassifier))])
def test_classifiers_give_probabilities_as_an_array(estimator: Any) -> None:
    f = onnxgrad.load(fitted(estimator, IRIS, KINDS), sample=IRIS)
    found = f(IRIS)
    label, probabilities = (port.name for port in f.outputs)
    np.testing.assert_array_equal(found[label], estimator.predict(IRIS))
    np.testing.assert_allclose(found[probabilities], estimator.predict_proba(IRIS), rtol=1e-9, atol=1e-12)
    expected = differences(estimator.predict_proba, IRIS[:5])
    np.testing.assert_allclose(f.jacobian(IRIS[:5]), expected, rtol=1e-6, atol=1e-9)
    best = estimator.predict_proba(IRIS[:5]).argmax(1)
    np.testing.assert_allclose(f.gradient(IRIS[:5], index="max"), expected[range(5), best], rtol=1e-6, atol=1e-9)


def test_transformers_give_what_they_transform_to() -> None:
    scaler = StandardScaler().fit(X)
    f = onnxgrad.load(scaler, sample=X)
    np.testing.assert_allclose(f(X), scaler.transform(X), rtol=1e-12)
    np.testing.assert_allclose(f.jacobian(X[:2]), np.broadcast_to(np.diag(1 / scaler.scale_), (2, 10, 10)), rtol=1e-12)


# --- data frames ----------------------------------------------------------------------------------

PEOPLE = pd.DataFrame(
    {"age": np.arange(40) % 23 + 20, "bmi": np.linspace(18, 32, 40), "sex": ["f", "m"] * 20, "ward": np.arange(40) % 3}
)
STAY = PEOPLE["bmi"] * 0.3 + PEOPLE["age"] / 10 + PEOPLE["ward"]


def test_columns_that_are_treated_alike_are_one_input_in_their_order() -> None:
    names = ["bmi", "age"]
    estimator = fitted(make_pipeline(StandardScaler(), network()), PEOPLE[names], STAY)
    f = onnxgrad.load(estimator, sample=PEOPLE[names])
    assert [port.shape for port in f.inputs] == [("N", 2)]
    np.testing.assert_allclose(f(PEOPLE[names])[:, 0], estimator.predict(PEOPLE[names]), rtol=1e-12)
    np.testing.assert_array_equal(f(PEOPLE), f(PEOPLE[names]))  # by name, whatever the order
    np.testing.assert_array_equal(f(PEOPLE[names].to_numpy()), f(PEOPLE[names]))


@pytest.mark.parametrize("ward", ["ward", 3, slice(3, 4)])
def test_columns_of_several_kinds_are_an_input_each(ward: Any) -> None:
    chooser = ColumnTransformer(
        [("numbers", StandardScaler(), ["age", "bmi"]), ("sex", OneHotEncoder(), ["sex"]),
         ("ward", OneHotEncoder(), [ward] if isinstance(ward, (str, int)) else ward)]
    )  # fmt: skip
    estimator = fitted(make_pipeline(chooser, network()), PEOPLE, STAY)
    f = onnxgrad.load(estimator, sample=PEOPLE)
    assert [port.name for port in f.inputs] == list(PEOPLE.columns)
    assert f.inputs[3].dtype == np.int64
    assert f.inputs[0].dtype is not None
    assert f.inputs[0].dtype.kind == "f"
    np.testing.assert_allclose(f(PEOPLE)[:, 0], estimator.predict(PEOPLE), rtol=1e-4)
    jacobian = f.jacobian(PEOPLE[:4])
    assert list(jacobian) == ["age", "bmi"]
    for name, found in jacobian.items():
        above, below = (PEOPLE[:4].assign(**{name: PEOPLE[name][:4] + step}) for step in (1e-3, -1e-3))
        expected = (estimator.predict(above) - estimator.predict(below)) / 2e-3
        np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-3, atol=1e-4)


# --- refusals -------------------------------------------------------------------------------------


class Unheard(TransformerMixin, BaseEstimator):
    """A transformer that nobody knows anything of."""

    def fit(self, x: Any, y: Any = None) -> Unheard:
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x: Any) -> Any:
        return x**3


REFUSED = [
    (StandardScaler, X, "StandardScaler is a class"),
    (StandardScaler(), X, "this StandardScaler is not fitted"),
    (StandardScaler().fit(X), None, r"pass some rows of it: onnxgrad.load\(estimator, sample=X\[:10\]\)"),
    (StandardScaler().fit(X), X[0], r"the sample has shape \[10\]; it must be rows of features"),
    (
        Unheard().fit(X),
        X,
        "this Unheard cannot be converted: skl2onnx cannot convert it: it has no converter for it; replace it",
    ),
    (
        TransformedTargetRegressor(Ridge()).fit(X, Y),
        X[:, :3],
        "the sample has 3 features, and this TransformedTargetRegressor was fitted on 10",
    ),
    (
        TransformedTargetRegressor(Ridge(), func=np.cbrt, inverse_func=str, check_inverse=False),
        X,
        "this TransformedTargetRegressor is not fitted",
    ),
]


@pytest.mark.parametrize(("estimator", "sample", "words"), REFUSED, ids=[words[:30] for _, _, words in REFUSED])
def test_refusals(estimator: Any, sample: Any, words: str) -> None:
    with pytest.raises(ModelReadError, match=words):
        onnxgrad.load(estimator, sample=sample)


def test_a_missing_converter_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "skl2onnx":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    onnxgrad.load(StandardScaler().fit(X), sample=X)  # has a formula
    with pytest.raises(ModelReadError, match=r"pip install 'onnxgrad\[sklearn\]'"):
        onnxgrad.load(Unheard().fit(X), sample=X)


def test_a_conversion_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = Ridge().fit(X, Y)
    monkeypatch.setattr(estimator, "predict", lambda x: x.sum(1))
    with pytest.raises(ModelReadError, match=r"computes something else: on the sample it is off by up to .* from `p"):
        onnxgrad.load(estimator, sample=X)
    monkeypatch.setattr(estimator, "predict", lambda x: x[:, :2])
    with pytest.raises(
        ModelReadError, match=r"an array of shape \[80, 1\] on the sample, and `predict` gives one of \[80, 2\]"
    ):
        onnxgrad.load(estimator, sample=X)
