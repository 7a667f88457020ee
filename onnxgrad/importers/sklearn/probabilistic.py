"""Naive Bayes, quadratic discriminants, mixtures, covariances and densities: sums of logarithms of probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn import distances
from onnxgrad.importers.sklearn.emitter import Emitter, Given, formula, refuse
from onnxgrad.importers.sklearn.functions import cos

# --- naive Bayes, quadratic discriminants ---------------------------------------------------------------


def _normal(g: Emitter, model: Any, x: Tensor) -> Tensor:
    """``log π - ½ Σ log(2πσ²) - ½ Σ (x - μ)² / σ²`` by class."""
    var = np.asarray(model.var_)
    constants = np.log(model.class_prior_) - 0.5 * np.log(2 * np.pi * var).sum(1)
    d = distances.between(g, x, model.theta_, "theta_")
    return g.total(d * d * g.weight("precisions", -0.5 / var), keepdims=False) + g.weight("log_prior", constants)


def _linear(g: Emitter, x: Tensor, slopes: Any, offsets: Any) -> Tensor:
    return x @ g.weight("feature_log_prob_", np.asarray(slopes).T) + g.weight("class_log_prior_", offsets)


def _multinomial(g: Emitter, model: Any, x: Tensor) -> Tensor:
    """``log π + Σ x log p``."""
    return _linear(g, x, model.feature_log_prob_, model.class_log_prior_)


def _complement(g: Emitter, model: Any, x: Tensor) -> Tensor:
    """``Σ x w``."""
    return _linear(g, x, model.feature_log_prob_, model.class_log_prior_ if len(model.classes_) == 1 else [0.0])


def _bernoulli(g: Emitter, model: Any, x: Tensor) -> Tensor:
    """``log π + Σ b log p + (1 - b) log(1 - p)``, with ``b`` whether x is above a threshold."""
    if model.binarize is not None:
        x = g.op.cast(g.op.Greater(x, float(model.binarize)), g.dtype)
    none = np.log(1 - np.exp(model.feature_log_prob_))
    return _linear(g, x, model.feature_log_prob_ - none, model.class_log_prior_ + none.sum(1))


def _categorical(g: Emitter, model: Any, x: Tensor) -> Tensor:
    """``log π + Σ log p[category]``."""
    parts = [x * 0 @ g.constant(np.zeros((x.shape[1], len(model.classes_))))]
    for j, logs in enumerate(model.feature_log_prob_):
        flags = g.op.Equal(g.op.Floor(g.columns(x, [j])), g.constant(np.arange(logs.shape[1])[None]))
        parts.append(g.op.cast(flags, g.dtype) @ g.weight("feature_log_prob_", logs.T))
    return sum(parts[1:], parts[0]) + g.weight("class_log_prior_", model.class_log_prior_)


def _quadratic(g: Emitter, model: Any, x: Tensor) -> Tensor:
    """``log π - ½ Σ log s - ½ ‖(x - μ) R s^-½‖²`` by class; Hastie, Tibshirani, Friedman (2009), (4.12)."""
    parts = []
    for mean, rotation, scaling in zip(model.means_, model.rotations_, model.scalings_, strict=True):
        z = (x - g.weight("means_", mean)) @ g.weight("rotations_", rotation * scaling**-0.5)
        parts.append(g.total(z * z))
    offsets = [-0.5 * np.log(s).sum() for s in model.scalings_] + np.log(model.priors_)
    return -0.5 * g.join(parts) + g.weight("log_prior", offsets)


_JOINT = {
    "GaussianNB": _normal,
    "MultinomialNB": _multinomial,
    "ComplementNB": _complement,
    "BernoulliNB": _bernoulli,
    "CategoricalNB": _categorical,
    "QuadraticDiscriminantAnalysis": _quadratic,
}


@formula(" ".join(_JOINT), "predict_joint_log_proba")
def joint(g: Emitter, model: Any, x: Given) -> Tensor:
    """Logarithms of the probabilities of a sample and each class."""
    return _JOINT[type(model).__name__](g, model, g.numbers(x))


@formula(" ".join(_JOINT), "predict_proba")
def proba(g: Emitter, model: Any, x: Given) -> Tensor:
    """Softmax of the logarithms."""
    return g.op.Softmax(joint(g, model, x), axis=1)


@formula(" ".join(_JOINT), "predict_log_proba")
def log_proba(g: Emitter, model: Any, x: Given) -> Tensor:
    """The logarithm of the softmax."""
    return g.op.LogSoftmax(joint(g, model, x), axis=1)


@formula(" ".join(_JOINT), "index")
def most_probable(g: Emitter, model: Any, x: Given) -> Tensor:
    """The most probable class."""
    return g.largest(joint(g, model, x))


@formula("QuadraticDiscriminantAnalysis", "decision_function")
def quadratic_decision(g: Emitter, model: Any, x: Given) -> Tensor:
    """The logarithms, or the difference of two."""
    scores = joint(g, model, x)
    return scores if len(model.classes_) > 2 else g.columns(scores, [1]) - g.columns(scores, [0])


# --- mixtures -------------------------------------------------------------------------------------------


def _components(g: Emitter, model: Any, x: Given) -> Tensor:
    """``cₖ - ½ ‖(x - μₖ) Pₖ‖²``, where c is what the model gives at the mean itself."""
    x, parts = g.numbers(x), []
    for k, mean in enumerate(model.means_):
        chol = model.precisions_cholesky_
        d = x - g.weight("means_", mean)
        if model.covariance_type in ("full", "tied"):
            z = d @ g.weight("precisions_cholesky_", chol[k] if model.covariance_type == "full" else chol)
        else:
            z = d * g.weight("precisions_cholesky_", np.broadcast_to(chol[k], mean.shape))
        parts.append(g.total(z * z))
    at_means = model._estimate_weighted_log_prob(np.asarray(model.means_))
    return -0.5 * g.join(parts) + g.weight("log_weights", np.diag(at_means))


@formula("GaussianMixture BayesianGaussianMixture", "predict_proba")
def mixture(g: Emitter, model: Any, x: Given) -> Tensor:
    """Softmax over the components."""
    return g.op.Softmax(_components(g, model, x), axis=1)


@formula("GaussianMixture BayesianGaussianMixture", "score_samples")
def mixture_score(g: Emitter, model: Any, x: Given) -> Tensor:
    """The logarithm of the sum over the components."""
    return g.op.ReduceLogSumExp(_components(g, model, x), [1], keepdims=1)


@formula("GaussianMixture BayesianGaussianMixture", "predict")
def mixture_label(g: Emitter, model: Any, x: Given) -> Tensor:
    """The most probable component."""
    return g.largest(_components(g, model, x))


# --- normal distributions ---------------------------------------------------------------------------------


@formula(
    "EmpiricalCovariance GraphicalLasso GraphicalLassoCV LedoitWolf MinCovDet OAS ShrunkCovariance EllipticEnvelope",
    "mahalanobis",
)
def mahalanobis(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - m) P (x - m)ᵀ``."""
    return _quadric(g, g.numbers(x), model.location_, model.get_precision())


def _quadric(g: Emitter, x: Tensor, mean: Any, precision: Any) -> Tensor:
    d = x - g.weight("location_", mean)
    return g.total((d @ g.weight("precision_", precision)) * d)


@formula("EllipticEnvelope", "score_samples")
def envelope_score(g: Emitter, model: Any, x: Given) -> Tensor:
    """The distance of Mahalanobis, negative."""
    return -mahalanobis(g, model, x)


@formula("EllipticEnvelope", "decision_function")
def envelope(g: Emitter, model: Any, x: Given) -> Tensor:
    """The same against an offset."""
    return -mahalanobis(g, model, x) - g.weight("offset_", model.offset_)


@formula("PCA FactorAnalysis", "score_samples")
def normal_score(g: Emitter, model: Any, x: Given) -> Tensor:
    """``-½ (x - m) P (x - m)ᵀ - ½ (n log 2π - log det P)``."""
    precision = model.get_precision()
    constant = 0.5 * (len(precision) * math.log(2 * math.pi) - np.linalg.slogdet(precision)[1])
    return -0.5 * _quadric(g, g.numbers(x), model.mean_, precision) - float(constant)


# --- densities --------------------------------------------------------------------------------------------


#: Kernels that end, of the distance over the bandwidth, where it is below 1.
_ENDING: dict[str, Callable[[Emitter, Tensor], Tensor]] = {
    "tophat": lambda g, u: u * 0 + 1,
    "epanechnikov": lambda g, u: 1 - u * u,
    "linear": lambda g, u: 1 - u,
    "cosine": lambda g, u: cos(g, u * (math.pi / 2)),
}


@formula("KernelDensity", "score_samples")
def density(g: Emitter, model: Any, x: Given) -> Tensor:
    """``log Σ w K(‖x - xᵢ‖ / h)``, less a constant."""
    refuse(model.metric != "euclidean", f"metric={model.metric!r} is not known", "use metric='euclidean'")
    refuse(model.rtol or model.atol, "it is computed to a tolerance", "set rtol=0 and atol=0")
    op, x, points, h = g.op, g.numbers(x), np.asarray(model.tree_.data), float(model.bandwidth_)
    weights = np.ones(len(points)) if model.tree_.sample_weight is None else np.asarray(model.tree_.sample_weight)
    constant = _logarithm_of_norm(model, points.shape[1]) - math.log(weights.sum())
    if model.kernel in _ENDING:
        u = distances.euclidean(g, x, points) * (1 / h)
        inside = op.Less(u, 1)
        each = op.Where(inside, _ENDING[model.kernel](g, op.Where(inside, u, 0)), 0)
        return op.Log(g.total(each * g.weight("weights", weights))) + constant
    if model.kernel == "gaussian":
        logs = distances.squared(g, x, points) * (-0.5 / h**2)
    else:
        logs = distances.euclidean(g, x, points) * (-1 / h)
    logs = logs + g.weight("log_weights", np.log(weights)) if (weights != 1).any() else logs
    return op.ReduceLogSumExp(logs, [1], keepdims=1) + constant


def _logarithm_of_norm(model: Any, width: int) -> float:
    """The logarithm of what the kernel is multiplied by, from the density of one point at itself."""
    from sklearn.base import clone

    alone = clone(model).set_params(bandwidth=model.bandwidth_).fit(np.zeros((1, width)))
    return float(alone.score_samples(np.zeros((1, width)))[0])
