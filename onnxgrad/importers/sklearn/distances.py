"""Distances from samples to the points of a data set, and the kernels that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn.emitter import Emitter, Unsupported, refuse

Array = np.ndarray[Any, Any]


def between(g: Emitter, x: Tensor, points: Any, name: str = "points") -> Tensor:
    """Differences to each point, ``(N, points, features)``."""
    return g.op.unsqueeze(x, [1]) - g.weight(name, np.asarray(points)[None])


def squared(g: Emitter, x: Tensor, points: Any, name: str = "points") -> Tensor:
    """Squared Euclidean distances ``‖a‖² - 2ab + ‖b‖²``, where the origin is put among the points, so that no digits
    are lost to an offset that all data share.
    """
    points = np.asarray(points, np.float64)
    origin = points.mean(0)
    a, b = x - g.weight(f"{name}_mean", origin), points - origin
    return g.total(a * a) - 2 * (a @ g.weight(name, b.T)) + g.weight(f"{name}_norms", (b**2).sum(1)[None])


def euclidean(g: Emitter, x: Tensor, points: Any, name: str = "points") -> Tensor:
    """Euclidean distances; at a point itself the derivative is taken as zero."""
    return g.op.ReduceL2(between(g, x, points, name), [-1], keepdims=0)


def distances(g: Emitter, x: Tensor, points: Any, metric: str, params: dict[str, Any]) -> Tensor:
    """Distances ``(N, points)`` in a metric of scikit-learn."""
    op, points = g.op, np.asarray(points)
    p = {"euclidean": 2, "l2": 2, "manhattan": 1, "cityblock": 1, "l1": 1}.get(metric, params.get("p", 2))
    if metric == "chebyshev" or (metric == "minkowski" and p == math.inf):
        d = between(g, x, points)
        return op.ReduceMax(op.Abs(d), [-1], keepdims=0)
    if metric == "cosine":
        norms = np.linalg.norm(points, axis=1, keepdims=True)
        return 1 - unit_rows(g, x) @ g.weight("points", (points / np.where(norms == 0, 1, norms)).T)
    weights = params.get("w")
    refuse(
        metric not in ("euclidean", "l2", "manhattan", "cityblock", "l1", "minkowski") or weights is not None,
        f"metric={metric!r} is not known" if weights is None else "its distances have weights",
        "known are euclidean, manhattan, chebyshev, minkowski and cosine",
    )
    d = between(g, x, points)
    if p == 1:
        return op.ReduceL1(d, [-1], keepdims=0)
    if p == 2:
        return op.ReduceL2(d, [-1], keepdims=0)
    total = g.total(op.Pow(op.Abs(d), float(p)), keepdims=False)
    none = op.Equal(total, 0)
    return op.Where(none, 0, op.Pow(op.Where(none, 1, total), 1 / float(p)))


def inverse(g: Emitter, far: Tensor, counted: Tensor | None = None) -> Tensor:
    """Weights ``1 / d`` of neighbors (`counted` times); where some are at a distance of zero, only those count."""
    op, here = g.op, g.op.Equal(far, 0)
    flags = op.cast(here, g.dtype)
    some = op.Greater(op.ReduceMax(flags, [1], keepdims=1), 0)
    return op.Where(some, flags, (1 if counted is None else counted) / op.Where(here, 1, far))


# --- kernels by name, as sklearn.metrics.pairwise has them ------------------------------------------------


def kernel(
    g: Emitter, x: Tensor, points: Any, name: str, gamma: float | None = None, degree: float = 3, coef0: float = 1
) -> Tensor:
    """A kernel between samples and points, ``(N, points)``."""
    refuse(not isinstance(name, str), "its kernel is a function", "name one that scikit-learn knows, such as 'rbf'")
    points = np.asarray(points.toarray() if hasattr(points, "toarray") else points, np.float64)
    op = g.op
    if gamma is None:
        gamma = 1.0 if name == "chi2" else 1 / points.shape[1]
    gamma = float(gamma)
    if name == "rbf":
        return op.Exp(-gamma * squared(g, x, points))
    if name == "laplacian":
        return op.Exp(-gamma * op.ReduceL1(between(g, x, points), [-1], keepdims=0))
    if name in ("chi2", "additive_chi2"):
        total = op.unsqueeze(x, [1]) + g.weight("points", points[None])
        d, none = between(g, x, points), op.Equal(total, 0)
        s = g.total(op.Where(none, 0, d * d / op.Where(none, 1, total)), keepdims=False)
        return -s if name == "additive_chi2" else op.Exp(-gamma * s)
    if name == "cosine":
        norms = np.linalg.norm(points, axis=1, keepdims=True)
        return unit_rows(g, x) @ g.weight("points", (points / np.where(norms == 0, 1, norms)).T)
    known = ("linear", "poly", "polynomial", "sigmoid")
    refuse(name not in known, f"kernel={name!r} cannot be computed for new samples", "use another kernel")
    return _of_product(g, x @ g.weight("points", points.T), name, gamma, degree, coef0)


def _of_product(g: Emitter, product: Tensor, name: str, gamma: float, degree: float, coef0: float) -> Tensor:
    if name == "linear":
        return product
    inner = gamma * product + float(coef0)
    return g.op.Tanh(inner) if name == "sigmoid" else g.op.Pow(inner, float(degree))


def kernel_with_itself(
    g: Emitter, x: Tensor, name: str, gamma: float | None, degree: float = 3, coef0: float = 1
) -> Tensor:
    """A kernel of each sample with itself, ``(N, 1)``."""
    if name in ("rbf", "laplacian", "chi2", "cosine"):
        return g.constant(1.0)
    if name == "additive_chi2":
        return g.constant(0.0)
    width = int(x.shape[1])
    return _of_product(g, g.total(x * x), name, 1 / width if gamma is None else float(gamma), degree, coef0)


def unit_rows(g: Emitter, x: Tensor, norm: str = "l2") -> Tensor:
    """Rows over their norms; those of zeros stay."""
    op = g.op
    if norm == "l2":
        length = op.ReduceL2(x, [-1], keepdims=1)
    elif norm == "l1":
        length = op.ReduceL1(x, [-1], keepdims=1)
    else:
        length = op.ReduceMax(op.Abs(x), [-1], keepdims=1)
    return x / op.Where(op.Equal(length, 0), 1, length)


# --- kernels as objects, of Gaussian processes ------------------------------------------------------------


def covariance(g: Emitter, k: Any, x: Tensor, points: Array) -> Tensor:
    """A kernel of `sklearn.gaussian_process.kernels` between samples and points: ``(N, points)``, or one number."""
    name = type(k).__name__
    if type(k).__module__ != "sklearn.gaussian_process.kernels" or name not in _KERNELS:
        raise Unsupported(f"its kernel has a {name}, which is not known", f"known are {', '.join(sorted(_KERNELS))}")
    return _KERNELS[name](g, k, x, points)


def variance(g: Emitter, k: Any, x: Tensor) -> Tensor:
    """A kernel of each sample with itself, ``(N, 1)`` or one number."""
    name = type(k).__name__
    if name in ("Sum", "Product"):
        a, b = variance(g, k.k1, x), variance(g, k.k2, x)
        return a + b if name == "Sum" else a * b
    if name == "Exponentiation":
        return g.op.Pow(variance(g, k.kernel, x), float(k.exponent))
    if name == "ConstantKernel":
        return g.weight("constant_value", k.constant_value)
    if name == "WhiteKernel":
        return g.weight("noise_level", k.noise_level)
    if name == "DotProduct":
        return g.total(x * x) + g.weight("sigma_0", k.sigma_0**2)
    if name == "PairwiseKernel":
        return kernel_with_itself(g, x, k.metric, k.gamma)
    return g.constant(1.0)


def _even(g: Emitter, s: Tensor, of: Callable[[Tensor], Tensor], series: tuple[float, float, float]) -> Tensor:
    """A smooth function of the distance that is even in it, given the squared distance.

    At a distance of zero, where the root has no derivative, it is its series in the squared distance.
    """
    op = g.op
    here = op.Equal(s, 0)
    far = of(op.Sqrt(op.Where(here, 1, s)))
    a, b, c = series
    return op.Where(here, a + s * (b + c * s), far)


def _scaled_squares(g: Emitter, k: Any, x: Tensor, points: Array) -> Tensor:
    """Squared distances in units of length; exactly zero at a point itself."""
    scale = g.weight("length_scale", np.broadcast_to(k.length_scale, points.shape[1:]))
    d = between(g, x, points, "X_train_") / scale
    return g.total(d * d, keepdims=False)


def _rbf(g: Emitter, k: Any, x: Tensor, points: Array) -> Tensor:
    """``exp(-d²/2)``."""
    return g.op.Exp(-0.5 * _scaled_squares(g, k, x, points))


def _matern(g: Emitter, k: Any, x: Tensor, points: Array) -> Tensor:
    """Products of exponentials and polynomials for ν = 1/2, 3/2, 5/2; Rasmussen and Williams (2006), (4.14), (4.17)."""
    op, nu = g.op, k.nu
    if nu == math.inf:
        return _rbf(g, k, x, points)
    s = _scaled_squares(g, k, x, points)
    if nu == 0.5:  # a cone at each point
        here = op.Equal(s, 0)
        return op.Exp(-op.Where(here, 0, op.Sqrt(op.Where(here, 1, s))))
    if nu == 1.5:
        root = math.sqrt(3)
        return _even(g, s, lambda d: (1 + root * d) * op.Exp(-root * d), (1, -1.5, 0))
    refuse(nu != 2.5, f"its Matern has nu={nu}, which needs Bessel functions", "use nu=0.5, 1.5, 2.5 or inf")
    root = math.sqrt(5)
    return _even(g, s, lambda d: (1 + root * d + 5 / 3 * d * d) * op.Exp(-root * d), (1, -5 / 6, 25 / 24))


def _rational(g: Emitter, k: Any, x: Tensor, points: Array) -> Tensor:
    """``(1 + d² / (2 α))^-α``."""
    alpha = float(k.alpha)
    return g.op.Exp(-alpha * g.op.Log(1 + _scaled_squares(g, k, x, points) / (2 * alpha)))


def _periodic(g: Emitter, k: Any, x: Tensor, points: Array) -> Tensor:
    """``exp(-2 sin²(π d / p) / l²)``."""
    op, frequency = g.op, math.pi / float(k.periodicity)
    d = between(g, x, points, "X_train_")
    if points.shape[1] == 1:  # no need to know the sign
        sine = op.Sin(op.squeeze(d, [-1]) * frequency)
        square = sine * sine
    else:
        f = frequency**2
        square = _even(
            g,
            g.total(d * d, keepdims=False),
            lambda d: op.Sin(d * frequency) * op.Sin(d * frequency),
            (0, f, -f * f / 3),
        )
    return op.Exp(square * (-2 / float(k.length_scale) ** 2))


_KERNELS: dict[str, Callable[[Emitter, Any, Tensor, Array], Tensor]] = {
    "ConstantKernel": lambda g, k, x, p: g.weight("constant_value", k.constant_value),
    "WhiteKernel": lambda g, k, x, p: g.constant(0.0),  # noise belongs to the samples that were fitted
    "RBF": _rbf,
    "Matern": _matern,
    "RationalQuadratic": _rational,
    "ExpSineSquared": _periodic,
    "DotProduct": lambda g, k, x, p: x @ g.weight("X_train_", p.T) + g.weight("sigma_0", k.sigma_0**2),
    "PairwiseKernel": lambda g, k, x, p: kernel(g, x, p, k.metric, k.gamma),
    "Sum": lambda g, k, x, p: covariance(g, k.k1, x, p) + covariance(g, k.k2, x, p),
    "Product": lambda g, k, x, p: covariance(g, k.k1, x, p) * covariance(g, k.k2, x, p),
    "Exponentiation": lambda g, k, x, p: g.op.Pow(covariance(g, k.kernel, x, p), float(k.exponent)),
}
