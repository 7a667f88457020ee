"""Projections: principal and independent components, factors, sparse codes, random projections, manifolds."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn.emitter import Emitter, Given, formula, refuse
from onnxgrad.importers.sklearn.kernels import kernel_projection
from onnxgrad.importers.sklearn.neighbors import nearest


def _project(g: Emitter, x: Given, mean: Any, matrix: Any) -> Tensor:
    x = g.numbers(x)
    if mean is not None:
        x = x - g.weight("mean_", mean)
    return x @ g.weight("components_", matrix)


@formula("PCA IncrementalPCA", "transform")
def principal(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - m) Wᵀ``, over the deviations on request."""
    matrix = model.components_.T
    if model.whiten:
        deviation = np.sqrt(model.explained_variance_)
        matrix = matrix / np.maximum(deviation, np.finfo(deviation.dtype).eps)
    return _project(g, x, model.mean_, matrix)


@formula("PCA IncrementalPCA", "inverse_transform")
def unprincipal(g: Emitter, model: Any, y: Given) -> Tensor:
    """``y W + m``."""
    scale = np.sqrt(model.explained_variance_)[:, None] if model.whiten else 1
    return g.numbers(y) @ g.weight("components_", scale * model.components_) + g.weight("mean_", model.mean_)


@formula("TruncatedSVD NeighborhoodComponentsAnalysis GaussianRandomProjection SparseRandomProjection", "transform")
def projected(g: Emitter, model: Any, x: Given) -> Tensor:
    """``x Wᵀ``."""
    return _project(g, x, None, model.components_.T)


@formula("FastICA", "transform")
def independent(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - m) Wᵀ``."""
    return _project(g, x, model.mean_ if model.whiten else None, model.components_.T)


@formula("FactorAnalysis", "transform")
def factors(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - m) Ψ⁻¹ Wᵀ (I + W Ψ⁻¹ Wᵀ)⁻¹``; Bishop (2006), (12.66)."""
    w = model.components_
    scaled = w / model.noise_variance_
    return _project(g, x, model.mean_, scaled.T @ np.linalg.inv(np.eye(len(w)) + scaled @ w.T))


@formula("SparsePCA MiniBatchSparsePCA", "transform")
def sparse_principal(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - m) Wᵀ (W Wᵀ + α I)⁻¹``, a ridge regression on the components."""
    w = model.components_
    return _project(g, x, model.mean_, np.linalg.solve(w @ w.T + model.ridge_alpha * np.eye(len(w)), w).T)


@formula("DictionaryLearning MiniBatchDictionaryLearning SparseCoder", "transform")
def sparse_code(g: Emitter, model: Any, x: Given) -> Tensor:
    """Products with the atoms, shrunk toward zero by α."""
    refuse(
        model.transform_algorithm != "threshold",
        f"its codes come from a search (transform_algorithm={model.transform_algorithm!r}) that runs anew for each "
        "sample",
        "set transform_algorithm='threshold'",
    )
    op = g.op
    atoms = model.dictionary if type(model).__name__ == "SparseCoder" else model.components_
    alpha = model.transform_alpha if model.transform_alpha is not None else getattr(model, "alpha", None)
    alpha = 1.0 if alpha is None else float(alpha)
    products = g.numbers(x) @ g.weight("components_", np.asarray(atoms).T)
    code = op.Relu(products - alpha)
    if not model.positive_code:
        code = code - op.Relu(-products - alpha)
    return g.join([op.Relu(code), op.Relu(-code)]) if model.split_sign else code


@formula("FeatureAgglomeration", "transform")
def pooled(g: Emitter, model: Any, x: Given) -> Tensor:
    """Means, maxima or minima of groups of features."""
    x, reduce = g.numbers(x), {np.max: "ReduceMax", np.min: "ReduceMin"}.get(model.pooling_func)
    if reduce is not None:
        groups = [np.flatnonzero(model.labels_ == label) for label in np.unique(model.labels_)]
        return g.join([g.op.emit(reduce, g.columns(x, group), [1], keepdims=1)[0] for group in groups])
    refuse(model.pooling_func is not np.mean, "its pooling_func is not known", "use numpy's mean, max or min")
    flags = np.eye(model.labels_.max() + 1)[model.labels_]
    return x @ g.weight("pooling", flags / flags.sum(0))


@formula("Isomap", "transform")
def isomap(g: Emitter, model: Any, x: Given) -> Tensor:
    """The kernel projection of the shortest paths: to one of the nearest, and on from there."""
    op = g.op
    refuse(model.n_neighbors is None, "its neighbors are those in a radius", "use n_neighbors")
    far, which = nearest(g, model.nbrs_, x, model.n_neighbors)
    paths = op.Gather(g.weight("dist_matrix_", model.dist_matrix_), which, axis=0) + op.unsqueeze(far, [-1])
    shortest = op.ReduceMin(paths, [1], keepdims=0)
    return kernel_projection(g, model.kernel_pca_, -0.5 * shortest * shortest)
