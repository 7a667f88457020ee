"""Support vectors, Gaussian processes, kernel ridge, and features made of kernels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn import distances
from onnxgrad.importers.sklearn.emitter import INT64, Emitter, Given, formula, refuse
from onnxgrad.importers.sklearn.functions import cos, erf
from onnxgrad.importers.sklearn.linear import affine, two_classes

# --- support vectors ------------------------------------------------------------------------------------


def _support(g: Emitter, model: Any, x: Given) -> Tensor:
    """Kernels between samples and the support vectors."""
    return distances.kernel(
        g, g.numbers(x), model.support_vectors_, model.kernel, model._gamma, model.degree, model.coef0
    )


def _dense(array: Any) -> np.ndarray[Any, Any]:
    return np.asarray(array.toarray() if hasattr(array, "toarray") else array)


@formula("SVR NuSVR", "predict")
@formula("OneClassSVM", "decision_function")
def support_sum(g: Emitter, model: Any, x: Given) -> Tensor:
    """``Σ aᵢ k(x, xᵢ) + b``."""
    return affine(g, _support(g, model, x), _dense(model.dual_coef_), model.intercept_, "dual_coef_")


@formula("OneClassSVM", "score_samples")
def support_score(g: Emitter, model: Any, x: Given) -> Tensor:
    """``Σ aᵢ k(x, xᵢ)``."""
    return affine(g, _support(g, model, x), _dense(model.dual_coef_), 0, "dual_coef_")


def _pairs(g: Emitter, model: Any, x: Given) -> Tensor:
    """One score for each pair of classes; positive for the first of the two."""
    ends = np.cumsum([0, *model.n_support_])
    of = [slice(a, b) for a, b in itertools.pairwise(ends)]
    dual, n = _dense(model.dual_coef_), len(model.classes_)
    coef = np.zeros((n * (n - 1) // 2, ends[-1]))
    for row, (i, j) in enumerate(itertools.combinations(range(n), 2)):
        coef[row, of[i]], coef[row, of[j]] = dual[j - 1, of[i]], dual[i, of[j]]
    return affine(g, _support(g, model, x), coef, model.intercept_, "dual_coef_")


@formula("SVC NuSVC", "decision_function")
def support_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """Scores for each pair of classes, or for each class."""
    if len(model.classes_) == 2:
        return support_sum(g, model, x)
    pairs = _pairs(g, model, x)
    return pairs if model.decision_function_shape == "ovo" else votes(g, -pairs, len(model.classes_))


def votes(g: Emitter, confidences: Tensor, n: int, second: Tensor | None = None) -> Tensor:
    """Votes by class, each plus its sum of confidences, squashed so that it can only break a tie.

    `confidences` has a column for each pair of classes, positive for the second; `second` says where the second won.
    """
    op, signs = g.op, np.zeros((n * (n - 1) // 2, n))
    for row, (i, j) in enumerate(itertools.combinations(range(n), 2)):
        signs[row, i], signs[row, j] = -1, 1
    total = confidences @ g.constant(signs)
    won = op.cast(op.Greater(confidences, 0) if second is None else second, g.dtype)
    count = won @ g.constant(signs > 0) + (1 - won) @ g.constant(signs < 0)
    return count + total / (3 * (op.Abs(total) + 1))


@formula("SVC NuSVC", "index")
def support_index(g: Emitter, model: Any, x: Given) -> Tensor:
    """The class with the most votes."""
    op, n = g.op, len(model.classes_)
    if n == 2:
        return op.cast(op.squeeze(op.Greater(support_sum(g, model, x), 0), [1]), INT64)
    if model.break_ties and model.decision_function_shape == "ovr":
        return g.largest(support_classes(g, model, x))
    first = op.cast(op.Greater(_pairs(g, model, x), 0), g.dtype)
    of_first, of_second = np.zeros((2, n * (n - 1) // 2, n))
    for row, (i, j) in enumerate(itertools.combinations(range(n), 2)):
        of_first[row, i], of_second[row, j] = 1, 1
    return g.largest(first @ g.constant(of_first) + (1 - first) @ g.constant(of_second))


# --- Gaussian processes ---------------------------------------------------------------------------------


def _covariance(g: Emitter, k: Any, x: Tensor, points: Any) -> Tensor:
    found = distances.covariance(g, k, x, np.asarray(points))
    return g.op.spread(found, (x.shape[0], len(points))) if found.rank < 2 else found


@formula("GaussianProcessRegressor", "predict")
def process(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean, ``k(x, X) α``."""
    x = g.numbers(x)
    refuse(not hasattr(model, "X_train_"), "it is not fitted", "call its fit")
    alpha = model.alpha_.reshape(len(model.alpha_), -1)
    mean = _covariance(g, model.kernel_, x, model.X_train_) @ g.weight("alpha_", alpha)
    scale, shift = np.atleast_1d(model._y_train_std), np.atleast_1d(model._y_train_mean)
    if (scale != 1).any():
        mean = mean * g.weight("_y_train_std", scale)
    return mean + g.weight("_y_train_mean", shift) if shift.any() else mean


@formula("GaussianProcessRegressor", "predict_std")
def process_std(g: Emitter, model: Any, x: Given) -> Tensor:
    """The standard deviation, ``√(k(x, x) - ‖L⁻¹ k(X, x)‖²)``; Rasmussen and Williams (2006), algorithm 2.1."""
    op, x = g.op, g.numbers(x)
    rest = _explained(g, model.L_, None, _covariance(g, model.kernel_, x, model.X_train_))
    var = distances.variance(g, model.kernel_, x) - rest
    return op.Sqrt(op.Where(op.Less(var, 0), 0, var)) * g.weight(
        "_y_train_std", np.atleast_1d(model._y_train_std)[None]
    )


def _explained(g: Emitter, factor: Any, scale: Any, k: Tensor) -> Tensor:
    """``‖L⁻¹ (s · k)‖²`` by rows."""
    from scipy.linalg import solve_triangular

    inverse = solve_triangular(factor, np.eye(len(factor)), lower=True)
    if scale is not None:
        inverse = inverse * scale
    v = k @ g.weight("L_", inverse.T)
    return g.total(v * v)


def _latent_mean(g: Emitter, model: Any, k: Tensor) -> Tensor:
    return k @ g.weight("residuals", (model.y_train_ - model.pi_)[:, None])


@formula("_BinaryGaussianProcessClassifierLaplace", "index")
def process_index(g: Emitter, model: Any, x: Given) -> Tensor:
    """Whether the mean of the latent function is positive."""
    mean = _latent_mean(g, model, _covariance(g, model.kernel_, g.numbers(x), model.X_train_))
    return g.op.cast(g.op.squeeze(g.op.Greater(mean, 0), [1]), INT64)


@formula("_BinaryGaussianProcessClassifierLaplace", "predict_proba")
def process_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """The logistic function, as a sum of five error functions, averaged over the normal distribution of the latent
    function: Rasmussen and Williams (2006), algorithm 3.2; Williams and Barber (1998), appendix A.
    """
    from sklearn.gaussian_process._gpc import COEFS, LAMBDAS

    op, x = g.op, g.numbers(x)
    k = _covariance(g, model.kernel_, x, model.X_train_)
    mean = _latent_mean(g, model, k)
    var = distances.variance(g, model.kernel_, x) - _explained(g, model.L_, model.W_sr_, k)
    alpha = 0.5 / var
    squares = g.constant((LAMBDAS**2).T)
    at = mean * g.constant(LAMBDAS.T) * op.Sqrt(alpha / (alpha + squares))
    p = erf(g, at) @ g.constant(COEFS / 2) + float(COEFS.sum() / 2)
    return two_classes(g, p)


@formula("GaussianProcessClassifier", "predict_proba")
def process_proba(g: Emitter, model: Any, x: Given) -> Tensor:
    """Of one binary process, or of one for each class."""
    return g.call(model.base_estimator_, "predict_proba", x)  # type: ignore[no-any-return]


@formula("GaussianProcessClassifier", "index")
def process_which(g: Emitter, model: Any, x: Given) -> Tensor:
    """As the binary processes say."""
    return g.call(model.base_estimator_, "index", x)  # type: ignore[no-any-return]


# --- kernel ridge, features made of kernels -------------------------------------------------------------


def _named(g: Emitter, model: Any, x: Given, points: Any) -> Tensor:
    """A kernel with the parameters of an estimator."""
    degree, coef0 = model.degree, model.coef0
    refuse(
        getattr(model, "kernel_params", None) and not isinstance(model.kernel, str),
        "its kernel is a function",
        "name one that scikit-learn knows, such as 'rbf'",
    )
    return distances.kernel(
        g, g.numbers(x), points, model.kernel, getattr(model, "gamma_", model.gamma),
        3 if degree is None else degree, 1 if coef0 is None else coef0,
    )  # fmt: skip


@formula("KernelRidge", "predict")
def ridge(g: Emitter, model: Any, x: Given) -> Tensor:
    """``k(x, X) c``."""
    refuse(model.kernel == "precomputed", "its kernel is precomputed", "let it compute the kernel")
    dual = model.dual_coef_.reshape(len(model.dual_coef_), -1)
    return _named(g, model, x, model.X_fit_) @ g.weight("dual_coef_", dual)


@formula("Nystroem", "transform")
def nystroem(g: Emitter, model: Any, x: Given) -> Tensor:
    """``k(x, C) Nᵀ``."""
    refuse(model.kernel_params, "its kernel has kernel_params", "give them as gamma, degree and coef0")
    return _named(g, model, x, model.components_) @ g.weight("normalization_", model.normalization_.T)


def centered(g: Emitter, centerer: Any, k: Tensor) -> Tensor:
    """A kernel with the means of rows and columns taken off."""
    rows = np.asarray(centerer.K_fit_rows_)
    mean = g.total(k) * (1 / len(rows))
    return k - g.weight("K_fit_rows_", rows) - mean + g.weight("K_fit_all_", centerer.K_fit_all_)


@formula("KernelCenterer", "transform")
def center(g: Emitter, model: Any, x: Given) -> Tensor:
    """See `centered`."""
    return centered(g, model, g.numbers(x))


def kernel_projection(g: Emitter, model: Any, k: Tensor) -> Tensor:
    """A centered kernel on the eigenvectors, over the roots of their eigenvalues."""
    values, vectors = model.eigenvalues_, model.eigenvectors_
    scale = np.divide(1, np.sqrt(values), out=np.zeros_like(values), where=values != 0)
    return centered(g, model._centerer, k) @ g.weight("eigenvectors_", vectors * scale)


@formula("KernelPCA", "transform")
def kernel_pca(g: Emitter, model: Any, x: Given) -> Tensor:
    """See `kernel_projection`."""
    x = g.numbers(x)
    return kernel_projection(g, model, x if model.kernel == "precomputed" else _named(g, model, x, model.X_fit_))


@formula("RBFSampler", "transform")
def random_waves(g: Emitter, model: Any, x: Given) -> Tensor:
    """``√(2/n) cos(x W + b)``."""
    phase = g.numbers(x) @ g.weight("random_weights_", model.random_weights_) + g.weight(
        "random_offset_", model.random_offset_
    )
    return cos(g, phase) * float(np.sqrt(2 / model.n_components))


@formula("SkewedChi2Sampler", "transform")
def skewed_waves(g: Emitter, model: Any, x: Given) -> Tensor:
    """``√(2/n) cos(log(x + c) W + b)``."""
    logs = g.op.Log(g.numbers(x) + float(model.skewedness))
    phase = logs @ g.weight("random_weights_", model.random_weights_) + g.weight("random_offset_", model.random_offset_)
    return cos(g, phase) * float(np.sqrt(2 / model.n_components))


@formula("AdditiveChi2Sampler", "transform")
def additive_waves(g: Emitter, model: Any, x: Given) -> Tensor:
    """``√(x L)``, and ``√(2 x L / cosh(π j L))`` times the cosine and sine of ``j L log x``; zero where x is.

    Vedaldi and Zisserman (2012).
    """
    op, x = g.op, g.numbers(x)
    known = {1: 0.8, 2: 0.5, 3: 0.4}
    step = float(known[model.sample_steps] if model.sample_interval is None else model.sample_interval)
    zero = op.Equal(x, 0)
    some = op.Where(zero, 1, x)
    parts = [op.Where(zero, 0, op.Sqrt(some * step))]
    for j in range(1, model.sample_steps):
        factor = op.Sqrt(some * float(2 * step / np.cosh(np.pi * j * step)))
        angle = op.Log(some) * float(j * step)
        parts += [op.Where(zero, 0, factor * wave) for wave in (cos(g, angle), op.Sin(angle))]
    return g.join(parts)


@formula("PolynomialCountSketch", "transform")
def count_sketch(g: Emitter, model: Any, x: Given) -> Tensor:
    """The inverse Fourier transform of a product of Fourier transforms of sketches, each of them linear."""
    x, n = g.numbers(x), model.n_components
    wave = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    width = int(x.shape[1])
    real = imaginary = None
    for indices, signs in zip(model.indexHash_, model.bitHash_, strict=True):
        sketch = np.zeros((len(indices), n))
        sketch[np.arange(len(indices)), indices] = signs
        sketch[:width] *= np.sqrt(model.gamma)
        sketch[width:] *= np.sqrt(model.coef0)
        spectrum = sketch @ wave
        constant = spectrum[width:].sum(0)
        a = x @ g.weight("sketch_real", spectrum[:width].real) + g.constant(constant.real)
        b = x @ g.weight("sketch_imag", spectrum[:width].imag) + g.constant(constant.imag)
        if real is None or imaginary is None:
            real, imaginary = a, b
        else:
            real, imaginary = real * a - imaginary * b, real * b + imaginary * a
    assert real is not None
    assert imaginary is not None
    back = np.conj(wave) / n
    return real @ g.constant(back.real) - imaginary @ g.constant(back.imag)
