"""Linear models, generalized or not, projections on latent variables, and networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn.emitter import Emitter, Given, formula, refuse


def affine(g: Emitter, x: Tensor, coef: Any, intercept: Any, name: str = "coef_") -> Tensor:
    """``x coefᵀ + intercept``, with one row of `coef` for each result."""
    coef = coef.toarray() if hasattr(coef, "toarray") else np.asarray(coef)
    product = x @ g.weight(name, np.atleast_2d(coef).T)
    intercept = np.asarray(intercept).reshape(-1)
    return product if not intercept.any() else product + g.weight("intercept_", intercept)


@formula(
    "ARDRegression BayesianRidge ElasticNet ElasticNetCV HuberRegressor Lars LarsCV Lasso LassoCV LassoLars "
    "LassoLarsCV LassoLarsIC LinearRegression LinearSVR MultiTaskElasticNet MultiTaskElasticNetCV MultiTaskLasso "
    "MultiTaskLassoCV OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV PassiveAggressiveRegressor "
    "QuantileRegressor Ridge RidgeCV SGDRegressor TheilSenRegressor",
    "predict",
)
@formula(
    "LinearSVC LogisticRegression LogisticRegressionCV PassiveAggressiveClassifier Perceptron RidgeClassifier "
    "RidgeClassifierCV SGDClassifier LinearDiscriminantAnalysis",
    "decision_function",
)
def linear(g: Emitter, model: Any, x: Given) -> Tensor:
    """``x wᵀ + b``."""
    return affine(g, g.numbers(x), model.coef_, model.intercept_)


@formula("BayesianRidge ARDRegression", "predict_std")
def linear_std(g: Emitter, model: Any, x: Given) -> Tensor:
    """``√((x - m) Σ (x - m)ᵀ + 1/α)``, over the features that were kept."""
    x = g.numbers(x)
    if type(model).__name__ == "ARDRegression":
        kept = np.flatnonzero(model.lambda_ < model.threshold_lambda)
        x, offset = g.columns(x, kept), np.broadcast_to(model.X_offset_, len(model.lambda_))[kept]
    else:
        offset = model.X_offset_
    d = x - g.weight("X_offset_", offset) if np.any(offset) else x
    return g.op.Sqrt(g.total((d @ g.weight("sigma_", model.sigma_)) * d) + 1 / float(model.alpha_))


@formula("GammaRegressor PoissonRegressor TweedieRegressor", "predict")
def generalized(g: Emitter, model: Any, x: Given) -> Tensor:
    """``link⁻¹(x w + b)``."""
    raw = linear(g, model, x)
    link = type(model._base_loss.link).__name__
    refuse(link not in ("IdentityLink", "LogLink"), f"its link is a {link}", "use link='log' or 'identity'")
    return raw if link == "IdentityLink" else g.op.Exp(raw)


# --- probabilities ------------------------------------------------------------------------------------


def two_classes(g: Emitter, p: Tensor) -> Tensor:
    """``[1 - p, p]``."""
    return g.join([1 - p, p])


def shares(g: Emitter, x: Tensor) -> Tensor:
    """``x / Σ x`` by rows; equal shares where all are zero."""
    op, total = g.op, g.total(x)
    none = op.Equal(total, 0)
    return op.Where(none, 1 / float(x.shape[1]), x / op.Where(none, 1, total))


def sigmoid_shares(g: Emitter, scores: Tensor) -> Tensor:
    """Sigmoids of the scores of one class against the others, scaled to sum to one."""
    if scores.shape[1] == 1:
        return g.join([g.op.Sigmoid(-scores), g.op.Sigmoid(scores)])
    each = g.op.Sigmoid(scores)
    return each / g.total(each)


def softmax(g: Emitter, scores: Tensor) -> Tensor:
    """Softmax of scores by class; one score is the logarithm of odds of the second of two classes."""
    if scores.shape[1] == 1:
        return g.join([g.op.Sigmoid(-scores), g.op.Sigmoid(scores)])
    return g.op.Softmax(scores, axis=1)


@formula("LogisticRegression LogisticRegressionCV", "predict_proba")
def logistic(g: Emitter, model: Any, x: Given) -> Tensor:
    """Softmax of all scores, or the sigmoid of each, depending on how it was fitted."""
    scores = linear(g, model, x)
    choice = getattr(model, "multi_class", "auto")
    apart = choice == "ovr" or (choice in ("auto", "deprecated", "warn") and model.solver == "liblinear")
    if choice == "multinomial" and scores.shape[1] == 1:  # of versions before 1.8: softmax of [-s, s]
        return softmax(g, 2 * scores)
    return sigmoid_shares(g, scores) if apart else softmax(g, scores)


@formula("LinearDiscriminantAnalysis", "predict_proba")
def discriminant(g: Emitter, model: Any, x: Given) -> Tensor:
    """Softmax of the scores."""
    return softmax(g, linear(g, model, x))


@formula("SGDClassifier", "predict_proba")
def sgd(g: Emitter, model: Any, x: Given) -> Tensor:
    """Sigmoids, or ``(clip(s, -1, 1) + 1) / 2`` for the modified Huber loss, scaled to sum to one."""
    scores = linear(g, model, x)
    if model.loss != "modified_huber":
        return sigmoid_shares(g, scores)
    each = (g.op.Clip(scores, -1.0, 1.0) + 1) / 2
    return two_classes(g, each) if each.shape[1] == 1 else shares(g, each)


@formula("SGDOneClassSVM", "decision_function")
def one_class(g: Emitter, model: Any, x: Given) -> Tensor:
    """``x w - offset``."""
    return affine(g, g.numbers(x), model.coef_, -model.offset_)


@formula("SGDOneClassSVM", "score_samples")
def one_class_score(g: Emitter, model: Any, x: Given) -> Tensor:
    """``x w``."""
    return affine(g, g.numbers(x), model.coef_, 0)


# --- projections ----------------------------------------------------------------------------------------


@formula("PLSRegression PLSCanonical CCA", "predict")
def latent_predict(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - x̄) wᵀ + b``."""
    return affine(g, g.numbers(x) - g.weight("_x_mean", model._x_mean), model.coef_, model.intercept_)


@formula("PLSRegression PLSCanonical CCA", "transform")
def latent(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - x̄) / s R``."""
    scaled = (g.numbers(x) - g.weight("_x_mean", model._x_mean)) / g.weight("_x_std", model._x_std)
    return scaled @ g.weight("x_rotations_", model.x_rotations_)


@formula("PLSSVD", "transform")
def latent_svd(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - x̄) / s W``."""
    scaled = (g.numbers(x) - g.weight("_x_mean", model._x_mean)) / g.weight("_x_std", model._x_std)
    return scaled @ g.weight("x_weights_", model.x_weights_)


@formula("LinearDiscriminantAnalysis", "transform")
def discriminant_transform(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - x̄) S``."""
    x = g.numbers(x)
    if model.solver == "svd":
        x = x - g.weight("xbar_", model.xbar_)
    return x @ g.weight("scalings_", model.scalings_[:, : model._max_components])


# --- networks ------------------------------------------------------------------------------------------

_ACTIVATIONS = {"identity": "Identity", "tanh": "Tanh", "logistic": "Sigmoid", "relu": "Relu", "exp": "Exp"}


def _network(g: Emitter, model: Any, x: Given) -> Tensor:
    """``h ← activation(h W + b)``, layer by layer."""
    h, last = g.numbers(x), len(model.coefs_) - 1
    for i, (weights, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        h = h @ g.weight(f"coefs_{i}", weights) + g.weight(f"intercepts_{i}", bias)
        activation = model.out_activation_ if i == last else model.activation
        if activation == "softmax":
            h = g.op.Softmax(h, axis=1)
        elif activation != "identity":
            h = g.op.emit(_ACTIVATIONS[activation], h)[0]
    return h


formula("MLPRegressor", "predict")(_network)


@formula("MLPClassifier", "predict_proba")
def network_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """The outputs of the network; the one of two classes as both."""
    y = _network(g, model, x)
    return two_classes(g, y) if y.shape[1] == 1 else y


@formula("BernoulliRBM", "transform")
def boltzmann(g: Emitter, model: Any, x: Given) -> Tensor:
    """``sigmoid(x Wᵀ + c)``: probabilities of the hidden units."""
    return g.op.Sigmoid(
        g.numbers(x) @ g.weight("components_", model.components_.T)
        + g.weight("intercept_hidden_", model.intercept_hidden_)
    )


# --- constants ------------------------------------------------------------------------------------------


def repeated(g: Emitter, x: Given, row: Any) -> Tensor:
    """The same row for each sample."""
    x = next(iter(x.values())) if isinstance(x, dict) else x
    row = g.constant(np.asarray(row).reshape(1, -1))
    return g.op.spread(row, (x.shape[0], row.shape[1]))


@formula("DummyRegressor", "predict")
def dummy(g: Emitter, model: Any, x: Given) -> Tensor:
    """A constant."""
    return repeated(g, x, model.constant_)


@formula("DummyClassifier", "index")
def dummy_index(g: Emitter, model: Any, x: Given) -> Tensor:
    """The most frequent class, or the one that was given."""
    refuse(model.strategy == "uniform", "strategy='uniform' draws labels at random", "ask for its predict_proba")
    return g.largest(dummy_classes(g, model, x))


@formula("DummyClassifier", "predict_proba")
def dummy_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """The shares of the classes, or all on one."""
    refuse(model.strategy == "stratified", "strategy='stratified' draws at random", "use strategy='prior'")
    refuse(model.n_outputs_ > 1, "it has several outputs", "fit one for each output")
    n = len(model.classes_)
    if model.strategy == "constant":
        row = (model.classes_ == model.constant).astype(float)
    elif model.strategy == "most_frequent":
        row = np.eye(n)[np.argmax(model.class_prior_)]
    else:
        row = np.full(n, 1 / n) if model.strategy == "uniform" else model.class_prior_
    return repeated(g, x, row)
