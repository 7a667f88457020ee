"""Neighbors and clusters: what is nearest, and how far it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn import distances
from onnxgrad.importers.sklearn.emitter import Emitter, Given, Unsupported, formula, refuse
from onnxgrad.importers.sklearn.linear import shares

Array = np.ndarray[Any, Any]


def _distances(g: Emitter, model: Any, x: Given) -> Tensor:
    """Distances to all that was fitted."""
    points = model._fit_X
    points = points.toarray() if hasattr(points, "toarray") else points
    refuse(not isinstance(model.effective_metric_, str), "its metric is a function", "use metric='euclidean'")
    return distances.distances(g, g.numbers(x), points, model.effective_metric_, model.effective_metric_params_)


def nearest(g: Emitter, model: Any, x: Given, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the distances to the nearest points, ``(N, k)``, and which they are."""
    far, which = g.op.emit(
        "TopK", _distances(g, model, x), [int(count or model.n_neighbors)], axis=1, largest=0, outputs=2
    )
    return far, which


def _weights(g: Emitter, model: Any, far: Tensor) -> Tensor | None:
    """Weights of neighbors; where some are at a distance of zero, only those count."""
    if model.weights in (None, "uniform"):
        return None
    refuse(model.weights != "distance", "its weights are a function", "use weights='uniform' or 'distance'")
    return distances.inverse(g, far)


def _average(g: Emitter, values: Array, weights: Tensor | None, which: Tensor) -> Tensor:
    """Weighted means of the rows of `values` at some positions, ``(N, k)``."""
    op = g.op
    rows = op.Gather(g.weight("_y", values), which, axis=0)
    if weights is None:
        return op.sum(rows, [1], False) * (1 / int(which.shape[1]))
    share = weights / g.total(weights)
    return op.sum(op.unsqueeze(share, [-1]) * rows, [1], False)


@formula("KNeighborsRegressor", "predict")
def neighbors(g: Emitter, model: Any, x: Given) -> Tensor:
    """Means over the nearest, by distance or not."""
    far, which = nearest(g, model, x)
    return _average(g, model._y.reshape(len(model._y), -1), _weights(g, model, far), which)


def _one_output(model: Any) -> None:
    refuse(getattr(model, "outputs_2d_", False), "it has several outputs", "fit one classifier for each")


@formula("KNeighborsClassifier", "predict_proba")
def neighbor_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """Shares of the classes among the nearest."""
    _one_output(model)
    far, which = nearest(g, model, x)
    return _average(g, np.eye(len(model.classes_))[model._y], _weights(g, model, far), which)


def _within(g: Emitter, model: Any, x: Given) -> tuple[Tensor, Tensor]:
    """Return weights of all points, zero beyond the radius, and whether there are any."""
    op, far = g.op, _distances(g, model, x)
    inside = op.cast(op.LessOrEqual(far, float(model.radius)), g.dtype)
    weights = inside
    if model.weights not in (None, "uniform"):
        refuse(model.weights != "distance", "its weights are a function", "use weights='uniform' or 'distance'")
        weights = distances.inverse(g, far, inside)
    return weights, op.Greater(op.ReduceMax(inside, [1], keepdims=1), 0)


@formula("RadiusNeighborsRegressor", "predict")
def neighborhood(g: Emitter, model: Any, x: Given) -> Tensor:
    """Means over all within a radius; no number where there are none."""
    op = g.op
    weights, some = _within(g, model, x)
    total = op.Where(some, g.total(weights), 1)
    mean = weights @ g.weight("_y", model._y.reshape(len(model._y), -1)) / total
    return op.Where(some, mean, np.nan)


@formula("RadiusNeighborsClassifier", "predict_proba")
def neighborhood_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """Shares of the classes within a radius; where there are none, all for the class of outliers, or no number."""
    _one_output(model)
    weights, some = _within(g, model, x)
    total = g.op.Where(some, g.total(weights), 1)
    classes = list(model.classes_)
    outliers = np.zeros((1, len(classes)))
    label = model.outlier_label_
    if label is None:
        outliers[:] = np.nan
    elif label[0] in classes:
        outliers[0, classes.index(label[0])] = 1
    found = weights @ g.weight("_y", np.eye(len(classes))[model._y]) / total
    return g.op.Where(some, found, g.constant(outliers))


@formula("LocalOutlierFactor", "score_samples")
def outlier_factor(g: Emitter, model: Any, x: Given) -> Tensor:
    """How much thinner the data lie here than around the nearest: Breunig et al. (2000)."""
    op, k = g.op, int(model.n_neighbors_)
    refuse(not model.novelty, "it knows the data it was fitted on only", "set novelty=True before fitting it")
    far, which = nearest(g, model, x, k)
    reach = op.Max(far, op.Gather(g.weight("_distances_fit_X_", model._distances_fit_X_[:, k - 1]), which, axis=0))
    thinness = g.total(reach) * (1 / k) + 1e-10
    return -thinness * g.total(op.Gather(g.weight("_lrd", model._lrd), which, axis=0)) * (1 / k)


@formula("LocalOutlierFactor", "decision_function")
def outlier_decision(g: Emitter, model: Any, x: Given) -> Tensor:
    """The same against an offset."""
    return outlier_factor(g, model, x) - g.weight("offset_", model.offset_)


# --- clusters -------------------------------------------------------------------------------------------


def _centers(model: Any) -> Array:
    name = type(model).__name__
    if name == "Birch":
        return np.asarray(model.subcluster_centers_)
    if not hasattr(model, "cluster_centers_"):
        raise Unsupported("it has no centers", "use another kind of clusters")
    return np.asarray(model.cluster_centers_)


@formula("KMeans MiniBatchKMeans BisectingKMeans Birch", "transform")
def cluster_distances(g: Emitter, model: Any, x: Given) -> Tensor:
    """Distances to the centers."""
    return distances.euclidean(g, g.numbers(x), _centers(model), "cluster_centers_")


def _smallest(g: Emitter, far: Tensor) -> Tensor:
    return g.op.ArgMin(far, axis=1, keepdims=0)


@formula("KMeans MiniBatchKMeans MeanShift AffinityPropagation", "predict")
def cluster(g: Emitter, model: Any, x: Given) -> Tensor:
    """The nearest center."""
    return _smallest(g, distances.squared(g, g.numbers(x), _centers(model), "cluster_centers_"))


@formula("Birch", "predict")
def subcluster(g: Emitter, model: Any, x: Given) -> Tensor:
    """The label of the nearest center."""
    near = _smallest(g, distances.squared(g, g.numbers(x), _centers(model), "cluster_centers_"))
    return g.pick(near, model.subcluster_labels_)


@formula("BisectingKMeans", "predict")
def bisected(g: Emitter, model: Any, x: Given) -> Tensor:
    """The label of the leaf that the nearer of two centers leads to, at each fork of the tree."""
    x = g.numbers(x)
    shift = getattr(model, "_X_mean", 0)

    def label(node: Any) -> Tensor:
        if node.left is None:
            return g.op.constant(np.array([node.label], np.int64))
        both = np.stack([node.left.center, node.right.center]) + shift
        near = _smallest(g, distances.squared(g, x, both, "cluster_centers_"))
        return g.op.Where(g.op.Equal(near, 0), label(node.left), label(node.right))

    return label(model._bisecting_tree)


def _centroids(g: Emitter, model: Any, x: Given) -> Tensor:
    """``-d² + 2 log π``, in units of the deviation within classes."""
    scale = np.where(model.within_class_std_dev_ == 0, 1, model.within_class_std_dev_)
    far = distances.distances(
        g, g.numbers(x) / g.weight("within_class_std_dev_", scale), model.centroids_ / scale, model.metric, {}
    )
    return -(far * far) + g.weight("log_prior", 2 * np.log(model.class_prior_))


@formula("NearestCentroid", "predict_proba")
def centroid_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """Softmax of the scores."""
    return g.op.Softmax(_centroids(g, model, x), axis=1)


@formula("NearestCentroid", "predict_log_proba")
def centroid_logs(g: Emitter, model: Any, x: Given) -> Tensor:
    """The logarithm of the softmax."""
    return g.op.LogSoftmax(_centroids(g, model, x), axis=1)


@formula("NearestCentroid", "decision_function")
def centroids(g: Emitter, model: Any, x: Given) -> Tensor:
    """The scores, or the difference of two."""
    scores = _centroids(g, model, x)
    return scores if len(model.classes_) > 2 else g.columns(scores, [1]) - g.columns(scores, [0])


@formula("NearestCentroid", "index")
def nearest_centroid(g: Emitter, model: Any, x: Given) -> Tensor:
    """The nearest, or the one with the highest score where classes are not equally frequent."""
    prior = getattr(model, "class_prior_", np.ones(1))
    if np.isclose(prior, 1 / len(model.classes_)).all() or not hasattr(model, "class_prior_"):
        return _smallest(g, distances.distances(g, g.numbers(x), model.centroids_, model.metric, {}))
    return g.largest(_centroids(g, model, x))


@formula("LabelPropagation LabelSpreading", "predict_proba")
def propagation(g: Emitter, model: Any, x: Given) -> Tensor:
    """Means of the distributions of labels, by a kernel or over the nearest."""
    labels = np.asarray(model.label_distributions_)
    if model.kernel == "knn":
        _, which = nearest(g, model.nn_fit, x, model.n_neighbors)
        return shares(g, _average(g, labels, None, which))
    refuse(model.kernel != "rbf", "its kernel is a function", "use kernel='rbf' or 'knn'")
    k = distances.kernel(g, g.numbers(x), model.X_, "rbf", model.gamma)
    weighted = k @ g.weight("label_distributions_", labels)
    return weighted / g.total(weighted)
