"""Estimators made of estimators: pipelines, columns, targets, votes, stacks, bags, chains, calibration, searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn.emitter import INT64, Columns, Emitter, Given, formula, refuse
from onnxgrad.importers.sklearn.kernels import votes
from onnxgrad.importers.sklearn.linear import shares, softmax, two_classes

#: Methods that a wrapper hands on to what it wraps.
_METHODS = "predict predict_proba predict_log_proba decision_function transform score_samples index predict_std".split()

# --- wrappers -------------------------------------------------------------------------------------------

#: Where a wrapper keeps what it hands its methods on to, for those methods that it hands on.
_WRAPPERS = {
    "GridSearchCV RandomizedSearchCV HalvingGridSearchCV HalvingRandomSearchCV": ("best_estimator_", _METHODS),
    "FrozenEstimator": ("estimator", _METHODS),
    "RANSACRegressor": ("estimator_", ["predict"]),
    "FixedThresholdClassifier": ("estimator_", ["predict_proba", "decision_function"]),
    "TunedThresholdClassifierCV": ("estimator_", ["predict_proba", "decision_function"]),
    "SelfTrainingClassifier": ("estimator_", ["predict_proba", "decision_function", "index"]),
}


def _hand_on(method: str, attribute: str) -> Any:
    def wrapped(g: Emitter, model: Any, x: Given) -> Any:
        inner = getattr(model, attribute, None) or model.estimator
        return g.call(inner, method, x, attribute.rstrip("_"))

    return wrapped


for _names, (_attribute, _handed) in _WRAPPERS.items():
    for _method in _handed:
        formula(_names, _method)(_hand_on(_method, _attribute))


def _selected(method: str) -> Any:
    def wrapped(g: Emitter, model: Any, x: Given) -> Any:
        return g.call(model.estimator_, method, g.call(model, "transform", x), "estimator")

    return wrapped


for _method in ("predict", "predict_proba", "decision_function", "index"):
    formula("RFE RFECV", _method)(_selected(_method))


# --- pipelines and columns --------------------------------------------------------------------------------


def _steps(model: Any) -> list[tuple[str, Any]]:
    return [(name, step) for name, step in model.steps if step is not None and step != "passthrough"]


def _through(method: str) -> Any:
    def wrapped(g: Emitter, model: Any, x: Given) -> Any:
        steps = _steps(model)
        if method == "transform" and not steps:
            return x
        for name, step in steps[:-1]:
            x = g.call(step, "transform", x, name)
        return g.call(steps[-1][1], method, x, steps[-1][0])

    return wrapped


for _method in _METHODS:
    formula("Pipeline", _method)(_through(_method))


@formula("Pipeline", "inverse_transform")
def back(g: Emitter, model: Any, y: Given) -> Any:
    """All steps undone, the last one first."""
    for name, step in reversed(_steps(model)):
        y = g.call(step, "inverse_transform", y, name)
    return y


@formula("FeatureUnion", "transform")
def union(g: Emitter, model: Any, x: Given) -> Tensor:
    """The results of all, side by side, each with its weight."""
    parts = []
    weights = model.transformer_weights or {}
    for name, step in model.transformer_list:
        if step == "drop":
            continue
        part = g.numbers(x if step == "passthrough" else g.call(step, "transform", x, name))
        parts.append(part * float(weights[name]) if name in weights else part)
    return g.join(parts)


@formula("ColumnTransformer", "transform")
def by_columns(g: Emitter, model: Any, x: Given) -> Tensor:
    """Some columns to each, and the results side by side."""
    parts = []
    weights = model.transformer_weights or {}
    for name, step, _ in model.transformers_:
        chosen = [int(i) for i in model._transformer_to_input_indices[name]]
        if (isinstance(step, str) and step == "drop") or not chosen:
            continue
        picked = _picked(g, x, chosen, getattr(model, "feature_names_in_", None))
        if not isinstance(step, str):
            picked = g.call(step, "transform", picked, name)
        part = g.numbers(picked)
        parts.append(part * float(weights[name]) if name in weights else part)
    return g.join(parts)


def _picked(g: Emitter, x: Given, chosen: Sequence[int], fitted: Any) -> Given:
    """Some columns, by their positions among those that `fit` knew; those of one type as one matrix."""
    if not isinstance(x, Columns):
        return g.columns(x, chosen)
    names = list(x) if fitted is None else list(map(str, fitted))
    columns = Columns({names[i]: x[names[i]] for i in chosen})
    kinds = {column.dtype for column in columns.values()}
    return g.join(list(columns.values())) if len(kinds) == 1 else columns


@formula("TransformedTargetRegressor", "predict")
def targets(g: Emitter, model: Any, x: Given) -> Tensor:
    """The predictions, with what was done to the targets undone."""
    y = g.call(model.regressor_, "predict", x, "regressor")
    return g.call(model.transformer_, "inverse_transform", y, "transformer")  # type: ignore[no-any-return]


# --- several outputs --------------------------------------------------------------------------------------


@formula("MultiOutputRegressor", "predict")
def several(g: Emitter, model: Any, x: Given) -> Tensor:
    """One regressor for each output."""
    return g.join([g.call(e, "predict", x, str(i)) for i, e in enumerate(model.estimators_)])


@formula("MultiOutputClassifier", "predict_proba")
def several_classes(g: Emitter, model: Any, x: Given) -> list[Tensor]:
    """One matrix of probabilities for each output."""
    return [g.call(e, "predict_proba", x, str(i)) for i, e in enumerate(model.estimators_)]


@formula("MultiOutputClassifier", "predict")
def several_labels(g: Emitter, model: Any, x: Given) -> Tensor:
    """One label for each output."""
    found = [g.op.unsqueeze(g.call(e, "predict", x, str(i)), [1]) for i, e in enumerate(model.estimators_)]
    return g.join(found)


def _chain(g: Emitter, model: Any, x: Given, method: str) -> Tensor:
    """Each estimator also takes what those before it said."""
    x = g.numbers(x)
    said: list[Tensor] = []
    given: list[Tensor] = []
    told = getattr(model, "chain_method_", getattr(model, "chain_method", "predict"))
    for i, estimator in enumerate(model.estimators_):
        wide = g.join([x, *said])
        given.append(_one_column(g, estimator, method, wide, str(i)))
        said.append(given[-1] if method == told else _one_column(g, estimator, told, wide, str(i)))
    return g.columns(g.join(given), np.argsort(model.order_))


def _one_column(g: Emitter, estimator: Any, method: str, x: Tensor, step: str) -> Tensor:
    """A score, a label or the probability of the second of two classes, ``(N, 1)`` in numbers."""
    y = g.call(estimator, method, x, step)
    if method == "predict_proba":
        return g.columns(y, [1])
    return g.numbers(g.op.unsqueeze(y, [1]) if y.rank == 1 else y)


@formula("RegressorChain", "predict")
def chain(g: Emitter, model: Any, x: Given) -> Tensor:
    """A chain of regressors."""
    return _chain(g, model, x, "predict")


def _chained(method: str) -> Any:
    return lambda g, model, x: _chain(g, model, x, method)


for _method in ("predict", "predict_proba", "decision_function"):
    formula("ClassifierChain", _method)(_chained(_method))


# --- votes, stacks, bags --------------------------------------------------------------------------------------


def _mean(parts: Sequence[Tensor], weights: Any = None) -> Tensor:
    weights = np.ones(len(parts)) if weights is None else np.asarray(weights, np.float64)
    if (weights == weights[0]).all():
        return sum(parts[1:], parts[0]) * (1 / len(parts))
    scaled = [part * float(w) for part, w in zip(parts, weights / weights.sum(), strict=True)]
    return sum(scaled[1:], scaled[0])


def _named(model: Any) -> list[tuple[str, Any]]:
    """The estimators of a vote or a stack that were fitted, by name."""
    names = [name for name, estimator in model.estimators if not (isinstance(estimator, str) and estimator == "drop")]
    return list(zip(names, model.estimators_, strict=True))


@formula("VotingRegressor", "predict")
def vote(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean of all."""
    return _mean([g.call(e, "predict", x, name) for name, e in _named(model)], model._weights_not_none)


@formula("VotingRegressor", "transform")
def vote_all(g: Emitter, model: Any, x: Given) -> Tensor:
    """What each predicts."""
    return g.join([g.call(e, "predict", x, name) for name, e in _named(model)])


@formula("VotingClassifier", "predict_proba")
def vote_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean of the probabilities of all."""
    return _mean([g.call(e, "predict_proba", x, name) for name, e in _named(model)], model._weights_not_none)


@formula("VotingClassifier", "transform")
def vote_classes_all(g: Emitter, model: Any, x: Given) -> Tensor:
    """The probabilities, or labels, of each."""
    if model.voting == "soft":
        refuse(not model.flatten_transform, "flatten_transform=False gives three axes", "set flatten_transform=True")
        return g.join([g.call(e, "predict_proba", x, name) for name, e in _named(model)])
    return g.join([g.op.unsqueeze(g.call(e, "index", x, name), [1]) for name, e in _named(model)])


@formula("VotingClassifier", "index")
def vote_index(g: Emitter, model: Any, x: Given) -> Tensor:
    """The most probable class, or that with the most votes."""
    if model.voting == "soft":
        return g.largest(vote_classes(g, model, x))
    weights = model._weights_not_none or [1.0] * len(model.estimators_)
    counts = [
        _flags(g, g.call(e, "index", x, name), len(model.classes_)) * float(w)
        for (name, e), w in zip(_named(model), weights, strict=True)
    ]
    return g.largest(sum(counts[1:], counts[0]))


def _flags(g: Emitter, index: Tensor, n: int) -> Tensor:
    """Rows of an identity, ``(N, n)``."""
    return g.op.Gather(g.constant(np.eye(n)), index, axis=0)


def _stack(g: Emitter, model: Any, x: Given) -> Tensor:
    """What all say, for the one that decides."""
    parts = []
    for (name, estimator), method in zip(_named(model), model.stack_method_, strict=True):
        y = g.call(estimator, method, x, name)
        y = g.numbers(g.op.unsqueeze(y, [1]) if y.rank == 1 else y)
        parts.append(g.columns(y, [1]) if method == "predict_proba" and y.shape[1] == 2 else y)
    return g.join([*parts, g.numbers(x)] if model.passthrough else parts)


formula("StackingRegressor StackingClassifier", "transform")(_stack)


def _decide(method: str) -> Any:
    def wrapped(g: Emitter, model: Any, x: Given) -> Any:
        refuse(
            isinstance(getattr(model, "_label_encoder", None), list),
            "it has several outputs",
            "fit one for each of them",
        )
        return g.call(model.final_estimator_, method, _stack(g, model, x), "final_estimator")

    return wrapped


formula("StackingRegressor", "predict")(_decide("predict"))
for _method in ("predict_proba", "decision_function", "index"):
    formula("StackingClassifier", _method)(_decide(_method))


def _bag(g: Emitter, model: Any, x: Given) -> list[tuple[str, Any, Tensor]]:
    x = g.numbers(x)
    pairs = zip(model.estimators_, model.estimators_features_, strict=True)
    return [(str(i), estimator, g.columns(x, features)) for i, (estimator, features) in enumerate(pairs)]


@formula("BaggingRegressor", "predict")
def bag(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean of all, each on its features."""
    return _mean([g.call(e, "predict", part, name) for name, e, part in _bag(g, model, x)])


@formula("BaggingClassifier", "predict_proba")
def bag_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean of the probabilities, or of the votes of those that give none."""
    n, parts = len(model.classes_), []
    for name, estimator, part in _bag(g, model, x):
        if hasattr(estimator, "predict_proba"):
            known = np.eye(n)[np.asarray(estimator.classes_, int)]
            y = g.call(estimator, "predict_proba", part, name)
            parts.append(y if len(known) == n else y @ g.constant(known))
        else:
            parts.append(_flags(g, g.pick(g.call(estimator, "index", part, name), estimator.classes_), n))
    return _mean(parts)


@formula("BaggingClassifier", "decision_function")
def bag_decision(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean of the scores."""
    return _mean([g.call(e, "decision_function", part, name) for name, e, part in _bag(g, model, x)])


@formula("BaggingClassifier", "index")
def bag_index(g: Emitter, model: Any, x: Given) -> Tensor:
    """The most probable class."""
    return g.largest(bag_classes(g, model, x))


@formula("AdaBoostRegressor", "predict")
def boost(g: Emitter, model: Any, x: Given) -> Tensor:
    """The weighted median of all: what one of them predicts."""
    op, n = g.op, len(model.estimators_)
    each = g.join([g.call(e, "predict", x, str(i)) for i, e in enumerate(model.estimators_)])
    values, order = op.emit("TopK", each, [n], axis=1, largest=0, outputs=2)
    reached = op.CumSum(op.Gather(g.constant(model.estimator_weights_[:n]), order, axis=0), op.constant(np.int64(1)))
    half = 0.5 * op.Gather(reached, [n - 1], axis=1)
    place = op.ArgMax(op.cast(op.GreaterOrEqual(reached, half), INT64), axis=1, keepdims=1)
    return op.GatherElements(values, place, axis=1)


@formula("AdaBoostClassifier", "decision_function")
def boost_decision(g: Emitter, model: Any, x: Given) -> Tensor:
    """Weighted votes."""
    old = getattr(model, "algorithm", None) == "SAMME.R"  # was the default before scikit-learn 1.6
    refuse(old, "it was fitted with algorithm='SAMME.R', which is not known", "fit it with algorithm='SAMME'")
    n, weights = len(model.classes_), model.estimator_weights_[: len(model.estimators_)]
    parts = []
    for i, (estimator, w) in enumerate(zip(model.estimators_, weights, strict=True)):
        flags = _flags(g, g.call(estimator, "index", x, str(i)), n)
        parts.append(flags * float(w * n / (n - 1)) - float(w / (n - 1)))
    scores = sum(parts[1:], parts[0]) * float(1 / model.estimator_weights_.sum())
    return g.columns(scores, [1]) - g.columns(scores, [0]) if n == 2 else scores


@formula("AdaBoostClassifier", "predict_proba")
def boost_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """Softmax of the weighted votes."""
    scores, n = boost_decision(g, model, x), len(model.classes_)
    return softmax(g, scores) if n == 2 else g.op.Softmax(scores * (1 / (n - 1)), axis=1)


# --- classes against each other -------------------------------------------------------------------------------


def binary_score(g: Emitter, estimator: Any, x: Given, step: str) -> Tensor:
    """The score of the second of two classes, ``(N, 1)``."""
    from sklearn.base import is_regressor

    if is_regressor(estimator):
        return g.call(estimator, "predict", x, step)  # type: ignore[no-any-return]
    if hasattr(estimator, "decision_function"):
        return g.call(estimator, "decision_function", x, step)  # type: ignore[no-any-return]
    return g.columns(g.call(estimator, "predict_proba", x, step), [1])


def _threshold(estimator: Any) -> float:
    from sklearn.base import is_classifier

    return 0.0 if hasattr(estimator, "decision_function") and is_classifier(estimator) else 0.5


@formula("_ConstantPredictor", "predict_proba")
def constant_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """The only class that there was."""
    row = g.constant(np.hstack([1 - model.y_, model.y_]).reshape(1, 2))
    return g.op.spread(row, (g.numbers(x).shape[0], 2))


@formula("_ConstantPredictor", "decision_function")
def constant_score(g: Emitter, model: Any, x: Given) -> Tensor:
    """The only class that there was."""
    return g.op.spread(g.constant(np.asarray(model.y_).reshape(1, 1)), (g.numbers(x).shape[0], 1))


@formula("OneVsRestClassifier", "predict_proba")
def rest_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """The probability of each class against the rest, scaled to sum to one."""
    each = [g.columns(g.call(e, "predict_proba", x, str(i)), [1]) for i, e in enumerate(model.estimators_)]
    if len(each) == 1:
        return two_classes(g, each[0])
    joined = g.join(each)
    total = g.total(joined)
    return joined if model.multilabel_ else joined / g.op.Where(g.op.Equal(total, 0), 1, total)


@formula("OneVsRestClassifier", "decision_function")
def rest_decision(g: Emitter, model: Any, x: Given) -> Tensor:
    """The score of each class against the rest."""
    return g.join([g.call(e, "decision_function", x, str(i)) for i, e in enumerate(model.estimators_)])


@formula("OneVsRestClassifier", "predict")
def rest_label(g: Emitter, model: Any, x: Given) -> Tensor:
    """The class with the highest score; of labels that do not exclude each other, those above the threshold."""
    op = g.op
    scores = g.join([binary_score(g, e, x, str(i)) for i, e in enumerate(model.estimators_)])
    if model.multilabel_:
        return op.cast(op.Greater(scores, _threshold(model.estimators_[0])), INT64)
    if len(model.estimators_) > 1:
        return g.pick(g.largest(scores), model.classes_)
    above = op.Greater(op.squeeze(scores, [1]), _threshold(model.estimators_[0]))
    return g.pick(op.cast(above, INT64), model.classes_)


@formula("OneVsRestClassifier", "index")
def rest_index(g: Emitter, model: Any, x: Given) -> Tensor:
    """The same as a position."""
    refuse(model.multilabel_, "its labels do not exclude each other", "fit one classifier for each")
    op = g.op
    scores = g.join([binary_score(g, e, x, str(i)) for i, e in enumerate(model.estimators_)])
    if len(model.estimators_) > 1:
        return g.largest(scores)
    return op.cast(op.Greater(op.squeeze(scores, [1]), _threshold(model.estimators_[0])), INT64)


@formula("OneVsOneClassifier", "decision_function")
def pair_decision(g: Emitter, model: Any, x: Given) -> Tensor:
    """Votes of each pair of classes, and their scores to break ties."""
    op, x = g.op, g.numbers(x)
    refuse(model.pairwise_indices_ is not None, "its kernels are precomputed", "let it compute the kernels")
    scores = g.join([binary_score(g, e, x, str(i)) for i, e in enumerate(model.estimators_)])
    second = g.join([op.unsqueeze(g.call(e, "index", x, str(i)), [1]) for i, e in enumerate(model.estimators_)])
    found = votes(g, scores, len(model.classes_), op.Equal(second, op.constant(np.int64(1))))
    return g.columns(found, [1]) if len(model.classes_) == 2 else found


@formula("OneVsOneClassifier", "index")
def pair_index(g: Emitter, model: Any, x: Given) -> Tensor:
    """The class with the most votes."""
    scores = pair_decision(g, model, x)
    if len(model.classes_) > 2:
        return g.largest(scores)
    return g.op.cast(g.op.Greater(g.op.squeeze(scores, [1]), _threshold(model.estimators_[0])), INT64)


@formula("OutputCodeClassifier", "index")
def code_index(g: Emitter, model: Any, x: Given) -> Tensor:
    """The class with the nearest code."""
    from onnxgrad.importers.sklearn.distances import euclidean

    scores = g.join([binary_score(g, e, x, str(i)) for i, e in enumerate(model.estimators_)])
    return g.op.ArgMin(euclidean(g, scores, model.code_book_, "code_book_"), axis=1, keepdims=0)


# --- thresholds and calibration --------------------------------------------------------------------------------


@formula("FixedThresholdClassifier TunedThresholdClassifierCV", "predict")
def thresholded(g: Emitter, model: Any, x: Given) -> Tensor:
    """Whether the score of the positive class reaches the threshold."""
    op, inner = g.op, getattr(model, "estimator_", model.estimator)
    tuned = hasattr(model, "best_threshold_")
    positive = model._curve_scorer._get_pos_label() if tuned else model.pos_label
    classes = list(inner.classes_)
    place = 1 if positive is None else classes.index(positive)
    method = model._get_response_method()
    method = method if isinstance(method, str) else next(m for m in method if hasattr(inner, m))
    score = g.call(inner, method, x, "estimator")
    if method == "predict_proba":
        score = g.columns(score, [place])
    elif place == 0:
        score = -score
    threshold = model.best_threshold_ if tuned else model.threshold
    threshold = {"predict_proba": 0.5}.get(method, 0.0) if threshold == "auto" else float(threshold)
    reached = op.cast(op.squeeze(op.GreaterOrEqual(score, threshold), [1]), INT64)
    return g.pick(reached, [classes[1 - place], classes[place]])


@formula("CalibratedClassifierCV", "predict_proba")
def calibrated(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean over all that were calibrated."""
    return _mean([_calibrated(g, c, x, str(i)) for i, c in enumerate(model.calibrated_classifiers_)])


def _calibrated(g: Emitter, model: Any, x: Given, step: str) -> Tensor:
    """A function of each score: a sigmoid, steps with lines between them, or the softmax at a temperature."""
    inner = model.estimator
    by_score = hasattr(inner, "decision_function")
    scores = g.call(inner, "decision_function" if by_score else "predict_proba", x, step)
    if model.method == "temperature":
        return _tempered(g, model.calibrators[0], scores, by_score)
    n = len(model.classes)
    if n == 2 and scores.shape[1] == 2:
        scores = g.columns(scores, [1])
    each = [g.call(c, "predict", g.columns(scores, [k]), f"calibrator{k}") for k, c in enumerate(model.calibrators)]
    if n == 2:
        return two_classes(g, each[0])
    place = [int(np.flatnonzero(model.classes == c)[0]) for c in inner.classes_]
    joined = g.join(each)
    if len(place) < n:
        joined = joined @ g.constant(np.eye(n)[place])
    return shares(g, joined if len(place) < n else g.columns(joined, np.argsort(place)))


def _tempered(g: Emitter, model: Any, scores: Tensor, by_score: bool) -> Tensor:
    """``softmax(β s)``, of scores, or of logarithms of probabilities."""
    if not by_score:
        scores = g.op.Log(scores + 1e-12)
    elif scores.shape[1] == 1:
        scores = g.join([-scores, scores])
    return g.op.Softmax(scores * g.weight("beta_", model.beta_), axis=1)


@formula("_SigmoidCalibration", "predict")
def platt(g: Emitter, model: Any, x: Given) -> Tensor:
    """``1 / (1 + exp(a s + b))``."""
    return g.op.Sigmoid(-(g.numbers(x) * g.weight("a_", model.a_) + g.weight("b_", model.b_)))
