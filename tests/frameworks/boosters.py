"""Cases for boosters: the values are the library's own predictions, the derivatives follow from what it learned.

The libraries have no derivatives of their own. Trees are constant between their thresholds, so theirs is zero; that of
a linear booster follows from its coefficients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxgrad
from tests.frameworks.comparing import Case, Export

#: Values that float32 holds, so that all libraries see the same.
X = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
Y = X[:, 0] ** 2 + np.sin(X[:, 1]) + 2
TWO, THREE = (Y > 3).astype(int), np.digitize(Y, [2.2, 3.2])
SAMPLES = 3

#: ``derivatives(estimator, x)`` gives the Jacobian ``(N, outputs, features)`` and the Hessian of output 0.
Derivatives = Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]]


def none(estimator: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trees have no slope."""
    outputs = len(estimator.classes_) if hasattr(estimator, "classes_") else 1
    return np.zeros((len(x), outputs, x.shape[1])), np.zeros((len(x), x.shape[1], x.shape[1]))


def case(framework: str, exporter: str, name: str, fit: Callable[[], Any], derivatives: Derivatives) -> Case:
    """Return the case of an estimator in float32, in which the libraries predict."""

    def make() -> Export:
        estimator = fit()
        x = X[:SAMPLES]
        classifies = hasattr(estimator, "predict_proba")
        value = (estimator.predict_proba if classifies else estimator.predict)(x).reshape(len(x), -1)
        jacobian, hessian = (array.astype(np.float32) for array in derivatives(estimator, x))
        with tempfile.TemporaryDirectory() as folder:
            onnxgrad.load(estimator, sample=X).save(Path(folder) / "model.onnx")
            model = onnx.load(Path(folder) / "model.onnx")
        return Export(
            model,
            {"X": x},
            value.astype(np.float32),
            jacobian,
            jacobian[:, 0],
            hessian,
            of="predict_proba" if classifies else None,
        )

    return Case(framework, exporter, name, "float32", "dynamic", make)
