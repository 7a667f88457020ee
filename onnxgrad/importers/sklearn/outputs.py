"""Which methods of an estimator a model has as its outputs, and what follows from the others: labels, logarithms."""

from __future__ import annotations

from typing import Any

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn.emitter import INT64, Emitter, Given, formula_of

#: Methods that can be asked for.
METHODS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "predict_joint_log_proba",
    "predict_std",
    "decision_function",
    "score_samples",
    "mahalanobis",
    "transform",
    "inverse_transform",
)


def has(estimator: Any, method: str) -> bool:
    """Whether an estimator has a method; ``predict_std`` is what `predict` gives with ``return_std=True``."""
    if method == "predict_std":
        import inspect

        last = _last(estimator)
        return hasattr(last, "predict") and "return_std" in inspect.signature(last.predict).parameters
    return hasattr(estimator, method)


def _last(estimator: Any) -> Any:
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif type(estimator).__name__ == "Pipeline" and estimator.steps:
            estimator = estimator.steps[-1][1]
        else:
            return estimator


def defaults(estimator: Any) -> tuple[str, ...]:
    """Return the methods that a model computes where none is asked for."""
    for second in ("predict_proba", "decision_function"):
        if has(estimator, "predict") and has(estimator, second):
            return "predict", second
    if has(estimator, "predict"):
        clusters = getattr(estimator, "_estimator_type", None) == "clusterer" or _clusters(estimator)
        return ("predict", "transform") if clusters and has(estimator, "transform") else ("predict",)
    return tuple(m for m in ("transform", "score_samples", "mahalanobis") if has(estimator, m))[:1]


def _clusters(estimator: Any) -> bool:
    from sklearn.base import ClusterMixin

    return isinstance(_last(estimator), ClusterMixin)


def derived(method: str) -> Any:
    """Return the formula for a method that follows from other methods of the same estimator, or None."""
    return {"predict": _label, "index": _index, "predict_log_proba": _logarithms}.get(method)


def follows(estimator: Any, method: str) -> bool:
    """Whether a method follows from formulas for others."""
    sources = {
        "predict": ("index", "predict_proba", "decision_function"),
        "index": ("predict_proba", "decision_function"),
        "predict_log_proba": ("predict_proba",),
    }
    return any(formula_of(estimator, source) is not None for source in sources.get(method, ()))


def _label(g: Emitter, model: Any, x: Given) -> Tensor:
    """The label of a class, or of what is inside (1) and outside (-1)."""
    if not hasattr(model, "classes_"):
        inside = g.op.GreaterOrEqual(g.op.squeeze(g.call(model, "decision_function", x), [1]), 0)
        return g.pick(g.op.cast(inside, INT64), [-1, 1])
    several = getattr(model, "_label_binarizer", None)
    if several is not None and getattr(several, "y_type_", "").startswith("multilabel"):
        return _labels(g, model, x)
    return g.pick(g.call(model, "index", x), model.classes_)


def _labels(g: Emitter, model: Any, x: Given) -> Tensor:
    """Flags for labels that do not exclude each other."""
    source, at = ("predict_proba", 0.5) if formula_of(model, "predict_proba") else ("decision_function", 0.0)
    return g.op.cast(g.op.Greater(g.call(model, source, x), at), INT64)


def _index(g: Emitter, model: Any, x: Given) -> Tensor:
    """The position of the class with the highest score."""
    if formula_of(model, "decision_function") is not None:
        scores = g.call(model, "decision_function", x)
        if scores.shape[1] > 1:
            return g.largest(scores)
        return g.op.cast(g.op.squeeze(g.op.Greater(scores, 0), [1]), INT64)
    return g.largest(g.call(model, "predict_proba", x))


def _logarithms(g: Emitter, model: Any, x: Given) -> Tensor:
    """The logarithms of the probabilities."""
    return g.op.Log(g.call(model, "predict_proba", x))
