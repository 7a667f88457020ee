"""Pipelines of scikit-learn, converted by skl2onnx: per-sample Jacobians against differences."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

import onnxgrad
from tests.harness import Runner

rng = np.random.default_rng(6)
X = rng.normal(size=(60, 4))
Y = np.stack([np.sin(X[:, 0]) + X[:, 1] ** 2, X[:, 2] * X[:, 3]], axis=1)
y = Y[:, 0]
three = (y > 1).astype(int) + (X[:, 2] > 0.5)
two = (y > 1).astype(int)
at = rng.normal(size=(5, 4))

network: dict[str, Any] = {"hidden_layer_sizes": (6, 5), "max_iter": 30, "random_state": 0}

#: Each with its target; in float64 where the converter and onnxruntime can.
PIPELINES: dict[str, tuple[Any, np.ndarray, type]] = {
    "mlp-tanh": (make_pipeline(StandardScaler(), MLPRegressor(activation="tanh", **network)), y, np.float64),
    "mlp-logistic": (make_pipeline(MinMaxScaler(), MLPRegressor(activation="logistic", **network)), y, np.float64),
    "mlp-relu": (make_pipeline(MinMaxScaler(), MLPRegressor(**network)), y, np.float64),
    "mlp-scaler": (make_pipeline(StandardScaler(), MLPRegressor(activation="tanh", **network)), y, np.float32),
    "mlp-classes": (make_pipeline(StandardScaler(), MLPClassifier(activation="tanh", **network)), three, np.float64),
    "mlp-two-classes": (make_pipeline(StandardScaler(), MLPClassifier(activation="tanh", **network)), two, np.float64),
    "logistic": (make_pipeline(StandardScaler(), LogisticRegression()), three, np.float32),
    "logistic-two": (LogisticRegression(), two, np.float32),
    "logistic-double": (LogisticRegression(), three, np.float64),
    "ridge": (make_pipeline(StandardScaler(), Ridge()), Y, np.float32),
    "pca": (make_pipeline(PCA(2), Ridge()), Y, np.float64),
    "polynomial": (make_pipeline(StandardScaler(), PolynomialFeatures(3), Ridge()), y, np.float32),
    "columns": (
        make_pipeline(ColumnTransformer([("a", StandardScaler(), [0, 2]), ("b", MinMaxScaler(), [1, 3])]), Ridge()),
        y,
        np.float64,
    ),
    "imputer": (make_pipeline(SimpleImputer(), Ridge()), y, np.float32),
    "normalizer": (make_pipeline(Normalizer("l2"), Ridge()), y, np.float64),
    "svr-rbf": (make_pipeline(StandardScaler(), SVR()), y, np.float32),
    "svr-polynomial": (SVR(kernel="poly", degree=2), y, np.float32),
    "svc": (SVC(), three, np.float32),
    "svc-two": (SVC(), two, np.float32),
    "linear-svc": (LinearSVC(), three, np.float32),
    "bayes": (GaussianNB(), three, np.float64),
    "quadratic": (QuadraticDiscriminantAnalysis(), three, np.float64),
}

WITH_MAPS = "mlp-classes mlp-two-classes logistic logistic-two logistic-double svc svc-two bayes quadratic".split()


def convert(estimator: Any, target: np.ndarray, dtype: type = np.float32, **options: Any) -> onnx.ModelProto:
    """Fit and convert, with a symbolic number of samples."""
    types = {np.float32: FloatTensorType, np.float64: DoubleTensorType}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # networks that did not converge, and what the converter imports
        estimator.fit(X, target)
        given = {"options": {id(estimator): options}} if options else {}
        opsets = {"": 18, "ai.onnx.ml": 3}
        return to_onnx(estimator, initial_types=[("X", types[dtype]([None, 4]))], target_opset=opsets, **given)


@pytest.mark.parametrize("name", PIPELINES)
def test_per_sample(name: str) -> None:
    estimator, target, dtype = PIPELINES[name]
    model = convert(estimator, target, dtype, **({"zipmap": False} if name in WITH_MAPS else {}))
    with_jacobian = onnxgrad.jacobian(model)
    (derivative,) = onnxgrad.derivatives(with_jacobian)
    assert derivative.batched
    plain = Runner(model, only_runtime=True)
    found = Runner(with_jacobian, only_runtime=True)({"X": at.astype(dtype)})[derivative.output]
    step = 1e-3 if dtype == np.float64 else 0.03
    columns = []
    for direction in np.eye(4):
        values = {t: plain({"X": (at + t * step * direction).astype(dtype)}) for t in (-2, -1, 1, 2)}
        v = {t: outputs[derivative.of].astype(np.float64) for t, outputs in values.items()}
        columns.append((v[-2] - 8 * v[-1] + 8 * v[1] - v[2]) / (12 * step))
    expected = np.stack(columns, axis=-1).reshape(found.shape)
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(found - expected).max() <= (1e-8 if dtype == np.float64 else 1e-4) * scale


def test_maps_do_not_disturb() -> None:
    """A sequence of maps among the outputs stays what it is, and the scores in front of it can be differentiated."""
    model = convert(LogisticRegression(), three)
    assert [node.op_type for node in model.graph.node][-1] == "ZipMap"
    with_jacobian = onnxgrad.jacobian(model, of="probabilities")
    session = ort.InferenceSession(with_jacobian.SerializeToString())
    found = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"X": at.astype(np.float32)}), strict=True)
    )
    assert len(found["output_probability"]) == 5
    assert set(found["output_probability"][0]) == {0, 1, 2}
    assert found["jac_probabilities_X"].shape == (5, 3, 4)
    assert np.abs(found["jac_probabilities_X"]).max() > 0.01
    np.testing.assert_allclose(found["jac_probabilities_X"].sum(axis=1), 0, atol=1e-6)  # probabilities sum to 1


def test_maps_have_no_derivative() -> None:
    model = convert(LogisticRegression(), three)
    with pytest.raises(onnxgrad.TensorTypeError, match="output_probability"):
        onnxgrad.jacobian(model, of="output_probability")


def test_trees_are_constant() -> None:
    model = convert(RandomForestRegressor(3, random_state=0), y)
    with pytest.warns(onnxgrad.DisconnectedWarning, match="a tree is constant between its thresholds"):
        with_jacobian = onnxgrad.jacobian(model)
    found = Runner(with_jacobian, only_runtime=True)({"X": at.astype(np.float32)})
    assert not found["jac_variable_X"].any()


def test_probabilities_of_support_vectors_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = SVC(probability=True)
    model = convert(estimator, two, zipmap=False)
    with pytest.raises(onnxgrad.NotDifferentiableError, match="stops early"):
        onnxgrad.jacobian(model)
