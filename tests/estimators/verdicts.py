"""What becomes of the derivative of an estimator: values and Jacobians against the estimator itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import onnxgrad
from onnxgrad.importers.sklearn.outputs import METHODS, defaults, has
from tests.estimators.cases import Case

Array = np.ndarray[Any, Any]

#: Points that are tried, and how many of them must be away from kinks.
_TRIED, _NEEDED = 8, 3
_STEP = 2e-3


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        kind: "derivative", "zero", "refused", or "no new samples".
        method: the method.
        difference: the largest relative difference of Jacobians.
        values: the largest relative difference of values.
        why: the words of a refusal.
    """

    kind: str
    method: str = ""
    difference: float = 0.0
    values: float = 0.0
    why: str = ""


def verdict(case: Case) -> Verdict:
    """Fit, load and compare.

    Raises:
        AssertionError: if values or derivatives are wrong.
    """
    if not any(has(case.kind_itself, method) for method in METHODS):
        return Verdict("no new samples")
    estimator, x = case.fit()
    methods = (case.method,) if case.method else defaults(estimator)[-1:]
    if not methods:
        return Verdict("no new samples")
    (method,) = methods
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            f = onnxgrad.load(estimator, sample=x, method=method, threads=1)
    except onnxgrad.ModelReadError as error:
        return Verdict("refused", method, why=str(error))
    return compared(estimator, x, method, f)


def compared(estimator: Any, x: Array, method: str, f: onnxgrad.Function) -> Verdict:
    """Hold a function against the estimator that it was made of."""
    of_estimator = function_of(estimator, method)
    if f.outputs[0].dtype is None or f.outputs[0].dtype.kind != "f":
        return Verdict("labels", method)
    points = _points(x)
    expected = of_estimator(points)
    found = _flat(f(points))
    scale = np.nanmax(np.abs(expected)) or 1.0
    values = float(np.nanmax(np.abs(found - expected)) / scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)
        try:
            jacobian = f.jacobian(points)
        except onnxgrad.OnnxgradError as error:
            return Verdict("refused", method, values=values, why=str(error))
    if isinstance(jacobian, dict):
        jacobian = np.concatenate([j.reshape(len(points), -1, x.shape[1]) for j in jacobian.values()], 1)
    jacobian = jacobian.reshape(len(points), expected.shape[1], x.shape[1])
    by_difference, settled = differences(of_estimator, points)
    assert settled.sum() >= _NEEDED, f"differences settle at {settled.sum()} of {len(points)} points only"
    size = np.abs(by_difference[settled]).max()
    worst = np.abs(jacobian - by_difference)[settled].max()
    if size <= 1e-10 * scale:  # what is left of equal values
        worst = np.abs(jacobian).max()
        assert worst == 0, f"the Jacobian is {worst}, and the differences are zero"
        return Verdict("zero", method, values=values)
    assert np.isfinite(jacobian).all()
    return Verdict("derivative", method, float(worst / size), values)


def function_of(estimator: Any, method: str) -> Callable[[Array], Array]:
    """Return what the estimator itself computes, ``(N, k)``."""

    def call(x: Array) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if method == "predict_std":
                return _flat(estimator.predict(x, return_std=True)[1])
            found = getattr(estimator, method)(x)
        return _flat(found)

    return call


def _flat(found: Any) -> Array:
    if isinstance(found, (list, tuple)):
        return np.concatenate([_flat(part) for part in found], 1)
    if isinstance(found, dict):
        return np.concatenate([_flat(part) for part in found.values()], 1)
    found = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
    return found.reshape(len(found), -1).astype(np.float64)


def _points(x: Array) -> Array:
    """Return points among the data, but none of them."""
    rng = np.random.default_rng(7)
    rows = x[rng.choice(len(x), size=(_TRIED, 3), replace=False)]
    shares = rng.dirichlet(np.ones(3), size=_TRIED)[:, :, None]
    points = np.nansum(rows * shares, axis=1)
    if np.isnan(x).any():
        points[: _TRIED // 2, 0] = np.nan
    return points


def differences(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """Return five-point differences, extrapolated from two steps, and where they settle: where there is no kink."""
    d = x.shape[1]
    offsets = np.array([-2, -1, -0.5, 0.5, 1, 2]) * _STEP
    moved = x[:, None, None] + offsets[:, None, None] * np.eye(d)[None, None].swapaxes(1, 2).reshape(1, 1, d, d)
    values = f(moved.reshape(-1, d)).reshape(len(x), len(offsets), d, -1)
    v = np.moveaxis(values, 1, 0)
    wide = (v[0] - 8 * v[1] + 8 * v[4] - v[5]) / (12 * _STEP)
    narrow = (v[1] - 8 * v[2] + 8 * v[3] - v[4]) / (6 * _STEP)
    best = narrow + (narrow - wide) / 15
    size = np.nanmax(np.abs(best))
    settled = np.abs(narrow - wide).reshape(len(x), -1).max(1) <= 1e-8 * size + 1e-11 * np.nanmax(np.abs(values))
    return np.moveaxis(best, 1, 2), settled
