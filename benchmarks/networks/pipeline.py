"""A pipeline of scikit-learn: standardized features, their products in pairs, a network."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np

from benchmarks.folders import BUILD, fingerprint
from benchmarks.networks.base import Network, Weights

_FEATURES = 10
_I, _J = np.triu_indices(_FEATURES)


def estimator() -> Any:
    """Return the fitted estimator; it is fitted once and kept in a file, so that it is the same in every process."""
    path = BUILD / f"pipeline-{fingerprint()}.pickle"
    if not path.exists():
        path.write_bytes(pickle.dumps(_fit()))
    return pickle.loads(path.read_bytes())


def _fit() -> Any:
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, _FEATURES)) * rng.uniform(0.5, 2, _FEATURES) + rng.normal(size=_FEATURES)
    y = np.tanh(x[:, 0] * x[:, 1]) + x[:, 2:].mean(axis=1)
    network = MLPRegressor(hidden_layer_sizes=(64, 32), activation="tanh", solver="lbfgs", max_iter=30, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # thirty steps are enough for weights that are no longer random
        return make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False), network).fit(x, y)


def _weights(_: np.random.Generator) -> Weights:
    scaler, _products, network = (step for _, step in estimator().steps)
    weights = {"shift": scaler.mean_, "scale": scaler.scale_}
    for i, (w, b) in enumerate(zip(network.coefs_, network.intercepts_, strict=True), 1):
        weights |= {f"w{i}": w.T, f"b{i}": b}
    return weights


def _forward(ops: Any, w: Any, x: Any) -> Any:
    x = (x - w["shift"]) / w["scale"]
    x = ops.concat(x, x[:, _I] * x[:, _J])
    x = ops.tanh(ops.linear(x, w["w1"], w["b1"]))
    x = ops.tanh(ops.linear(x, w["w2"], w["b2"]))
    return ops.linear(x, w["w3"], w["b3"])


def pipeline() -> Network:
    """Return the pipeline as a network, for the systems that do not take scikit-learn's estimators."""
    return Network("pipeline", (_FEATURES,), (1,), _weights, _forward, needs=("sklearn", "skl2onnx"))
