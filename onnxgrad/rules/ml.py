"""Classical machine learning, ai.onnx.ml: scalers, linear models, support vectors, trees.

These operators take matrices with one sample per row (a vector is one sample), and compute in float32. Where the
standard leaves open what they compute, these are the formulas of onnxruntime; where it and ONNX's reference differ by
more than a constant, the rule refuses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed, not_differentiable, vjp
from onnxgrad.rules.samples import Mixed, Samples

_DOMAIN = "ai.onnx.ml"
_FLOAT = ir.DataType.FLOAT


def _rows_apart(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Follow an operator that takes one sample per row."""
    if any(t is not None and t.rank != 2 for t in node.inputs):
        raise Mixed("it takes its input as a single sample")
    return samples.first_axis(node, inputs)


def _samples_of(op: Builder, x: Tensor | None) -> Tensor:
    """Return an input as a matrix of float32, one row per sample."""
    assert x is not None
    if x.rank > 2:
        raise Refusal(f"its input has rank {x.rank}; only matrices, one sample per row, are defined")
    return op.reshape(op.cast(x, _FLOAT), (1, *x.shape) if x.rank == 1 else x.shape)


def _constant(op: Builder, values: Sequence[float]) -> Tensor:
    return op.constant(np.array(values), _FLOAT)


def _matrix(op: Builder, values: Sequence[float], rows: int) -> Tensor:
    return op.constant(np.array(values).reshape(rows, -1), _FLOAT)


# --- preparing features ------------------------------------------------------------------------


def _scaler(op: Builder, node: Node) -> Tensor:
    """``y = (x - offset) · scale``."""
    if node.x.rank > 2:
        raise Refusal(f"its input has rank {node.x.rank}; only matrices, one sample per row, are defined")
    return (op.cast(node.x, _FLOAT) - _constant(op, node.attr("offset"))) * _constant(op, node.attr("scale"))


def _normalizer(op: Builder, node: Node) -> Tensor:
    """``y = x / norm``, and ``y = x`` where the norm is 0; with "MAX" it is the largest x, not the largest |x|."""
    x, kind = op.cast(node.x, _FLOAT), node.attr("norm")
    if x.rank > 2:
        raise Refusal(f"its input has rank {x.rank}; only matrices, one sample per row, are defined")
    if kind == "MAX":
        norm = op.ReduceMax(x, [-1], keepdims=1)
        return x / op.Where(op.Equal(norm, 0), 1, norm)
    total = op.sum(x * x if kind == "L2" else op.Abs(x), [-1])
    total = op.Where(op.Equal(total, 0), 1, total)
    return x / (op.Sqrt(total) if kind == "L2" else total)


def _imputer(op: Builder, node: Node) -> Tensor:
    """``y = x``, with the elements that equal a given value (or are NaN) replaced."""
    x, replaced = node.x, node.attr("replaced_value_float")
    missing = op.IsNaN(x) if math.isnan(replaced) else op.Equal(x, replaced)
    return op.Where(missing, op.constant(np.array(node.attr("imputed_value_floats")), x.dtype), x)


def _feature_vectorizer(op: Builder, node: Node) -> Tensor:
    """The columns of all inputs side by side, each input cut or filled up with zeros to its number of columns."""
    parts = []
    for tensor, count in zip(node.inputs, node.attr("inputdimensions"), strict=True):
        x = _samples_of(op, tensor)
        width = x.shape[1]
        if not isinstance(width, int):
            raise Refusal("the number of columns of an input is not known before run time")
        if width > count:
            x = op.Slice(x, [0], [count], [1])
        elif width < count:
            x = op.Pad(x, [0, 0, 0, count - width])
        parts.append(x)
    return op.Concat(*parts, axis=1)


def _array_feature_extractor(op: Builder, node: Node) -> Tensor:
    """``y[…, k] = x[…, indices[k]]``."""
    indices = node.inputs[1]
    assert indices is not None
    return op.reshape(op.Gather(node.x, op.Reshape(indices, [-1]), axis=-1), node.y.shape)


composed("Scaler", _scaler, domain=_DOMAIN, versions=(1,), follow=samples.aligned)
composed("Imputer", _imputer, domain=_DOMAIN, versions=(1,), follow=samples.aligned)
composed("Normalizer", _normalizer, domain=_DOMAIN, versions=(1,), follow=samples.along(lambda node: [-1]))
composed("FeatureVectorizer", _feature_vectorizer, domain=_DOMAIN, versions=(1,), follow=_rows_apart)
composed(
    "ArrayFeatureExtractor",
    _array_feature_extractor,
    domain=_DOMAIN,
    versions=(1,),
    wrt=(0,),
    follow=samples.along(lambda node: [-1]),
)

# --- what is done to scores --------------------------------------------------------------------


def _softmax_zero(op: Builder, scores: Tensor) -> Tensor:
    """``e / Σe`` with ``e = exp(s)``, but ``e = s`` where s is 0.

    Against overflow, scores are lowered by their maximum. That scales all e of a row alike, so the maximum may be
    rounded, which takes it out of the derivative.
    """
    shift = op.Round(op.ReduceMax(scores, [-1], keepdims=1))
    zero = op.Abs(scores) <= 1e-7
    e = op.Where(zero, scores * op.Exp(-op.Relu(shift)), op.Exp(scores - shift))
    return e / op.sum(e, [-1])


def _probit(op: Builder, p: Tensor) -> Tensor:
    """``√2 · erf⁻¹(2p - 1)`` in Winitzki's approximation ``±√(√(v² - l/a) - v)``, ``v = 2/(πa) + l/2``, ``a = 0.147``.

    Here ``l = log(1 - z²)`` with ``z = 2p - 1``. As it stands, that cancels near z = 0 and has no derivative there; so
    it is written as ``z · √(r / (a (√(v² - l/a) + v)))`` with ``r = -l/z²``, for small z by its series.
    """
    a, z = 0.147, p * 2.0 - 1.0
    u = z * z
    small = u < 0.01
    rest = op.Where(small, 0.5, u)
    log = op.Log(1.0 - rest)
    series = 1.0 + u * (1 / 2 + u * (1 / 3 + u * (1 / 4 + u * (1 / 5))))
    r = op.Where(small, series, -log / rest)
    l_of_z = op.Where(small, -u * series, log)
    v = l_of_z * 0.5 + 2 / (math.pi * a)
    return z * op.Sqrt(r / ((op.Sqrt(v * v - l_of_z * (1 / a)) + v) * a)) * math.sqrt(2)


def _transformed(op: Builder, scores: Tensor, how: str) -> Tensor:
    """Apply a `post_transform` to two or more scores per sample."""
    if how == "SOFTMAX":
        return op.Softmax(scores, axis=-1)
    if how == "LOGISTIC":
        return op.Sigmoid(scores)
    if how == "SOFTMAX_ZERO":
        return _softmax_zero(op, scores)
    return _probit(op, scores) if how == "PROBIT" else scores


def _only(node: Node, allowed: Sequence[str], where: str) -> None:
    how = node.attr("post_transform")
    if how not in allowed:
        raise Refusal(f"runtimes differ in what post_transform={how!r} does {where}")


def _both_classes(op: Builder, score: Tensor, how: str, other: Tensor) -> Tensor:
    """Return the scores of two classes from that of the second."""
    if how == "LOGISTIC":
        return op.Concat(op.Sigmoid(-score), op.Sigmoid(score), axis=1)
    return op.Concat(other, score, axis=1)


# --- linear models -----------------------------------------------------------------------------


def _linear(op: Builder, node: Node, rows: int) -> Tensor:
    """``x Wᵀ + b``."""
    scores = _samples_of(op, node.x) @ op.swap(_matrix(op, node.attr("coefficients"), rows))
    return scores + _constant(op, node.attr("intercepts")) if node.attr("intercepts") else scores


def _linear_regressor(op: Builder, node: Node) -> Tensor:
    targets = node.attr("targets")
    if targets == 1:
        _only(node, ("NONE", "PROBIT"), "to a single target")
    return _transformed(op, _linear(op, node, targets), node.attr("post_transform"))


def _linear_classifier(op: Builder, node: Node) -> tuple[None, Tensor]:
    """The scores. One row of coefficients for two classes gives s, and ``1 - s`` for the other class."""
    labels = node.attr("classlabels_ints") or node.attr("classlabels_strings") or ()
    rows = len(node.attr("intercepts") or labels)
    how, scores = node.attr("post_transform"), _linear(op, node, rows)
    if rows > 1:
        return None, _transformed(op, scores, how)
    _only(node, ("NONE", "LOGISTIC") if len(labels) == 2 else ("NONE",), "to a single row of coefficients")
    return None, _both_classes(op, scores, how, 1.0 - scores) if len(labels) == 2 else scores


composed("LinearRegressor", _linear_regressor, domain=_DOMAIN, versions=(1,), follow=_rows_apart)
composed("LinearClassifier", _linear_classifier, domain=_DOMAIN, versions=(1,), follow=_rows_apart)

# --- support vectors ---------------------------------------------------------------------------


def _kernel(op: Builder, node: Node, x: Tensor, vectors: np.ndarray) -> Tensor:
    """``k(x, v)`` for each support vector v: ``x·v``, ``(γ x·v + c)^d``, ``tanh(γ x·v + c)``, ``exp(-γ |x - v|²)``."""
    kind = node.attr("kernel_type")
    gamma, offset, degree = node.attr("kernel_params") or (0.0, 0.0, 0.0)
    if kind == "RBF":
        # |x - v|² = |x|² - 2 x·v + |v|² cancels least if the center of all v is the origin
        center = vectors.mean(axis=0)
        x, vectors = x - op.constant(center, _FLOAT), vectors - center
    products = x @ op.constant(vectors.T, _FLOAT)
    if kind == "LINEAR":
        return products
    if kind == "RBF":
        squares = op.constant((vectors**2).sum(axis=1), _FLOAT)
        return op.Exp((op.sum(x * x, [-1]) - 2.0 * products + squares) * -gamma)
    products = products * gamma + offset
    return op.Tanh(products) if kind == "SIGMOID" else op.Pow(products, float(int(degree)))


def _svm_regressor(op: Builder, node: Node) -> Tensor:
    """``Σ a_i k(x, v_i) + ρ``, without support vectors ``a·x + ρ``; of one class the sign of that."""
    _only(node, ("NONE",), "to the output of support vectors")
    x, count = _samples_of(op, node.x), node.attr("n_supports")
    if count:
        x = _kernel(op, node, x, np.reshape(node.attr("support_vectors"), (count, -1)))
    result = x @ op.swap(_matrix(op, node.attr("coefficients"), 1)) + node.attr("rho")[0]
    return op.Where(result > 0, *(op.constant(c, _FLOAT) for c in (1, -1))) if node.attr("one_class") else result


def _pairs(node: Node, counts: Sequence[int]) -> np.ndarray:
    """Return the weight of each support vector in the decision between two classes, shape ``(vectors, pairs)``.

    Of the coefficients, row j - 1 holds those of the vectors of class i < j against class j, and row i those of class j
    against class i.
    """
    classes = len(counts)
    given = np.reshape(node.attr("coefficients"), (classes - 1, -1))
    ends = np.cumsum([0, *counts])
    columns = []
    for i in range(classes):
        for j in range(i + 1, classes):
            column = np.zeros(ends[-1])
            column[ends[i] : ends[i + 1]] = given[j - 1, ends[i] : ends[i + 1]]
            column[ends[j] : ends[j + 1]] = given[i, ends[j] : ends[j + 1]]
            columns.append(column)
    return np.stack(columns, axis=1)


def _svm_classifier(op: Builder, node: Node) -> tuple[None, Tensor]:
    """One score per class if linear, else one decision value per pair of classes (s and -s for a single pair)."""
    if node.attr("prob_a"):
        raise Refusal(
            "its probabilities come from an iteration that stops early, so they have jumps",
            "convert the classifier without probabilities (skl2onnx: options={'raw_scores': True})",
        )
    x, rho, how = _samples_of(op, node.x), node.attr("rho"), node.attr("post_transform")
    labels = node.attr("classlabels_ints") or node.attr("classlabels_strings")
    counts = node.attr("vectors_per_class")
    if not counts:
        if len(labels) == 1:
            _only(node, ("NONE",), "to a single score")
        return None, _transformed(op, x @ op.swap(_matrix(op, node.attr("coefficients"), len(labels))) + rho[0], how)
    vectors = np.reshape(node.attr("support_vectors"), (sum(counts), -1))
    decisions = _kernel(op, node, x, vectors) @ op.constant(_pairs(node, counts), _FLOAT) + _constant(op, rho)
    if len(counts) > 2:
        return None, _transformed(op, decisions, how)
    _only(node, ("NONE", "LOGISTIC"), "to a single decision value")
    return None, _both_classes(op, decisions, how, -decisions)


composed("SVMRegressor", _svm_regressor, domain=_DOMAIN, versions=(1,), follow=_rows_apart)
composed(
    "SVMClassifier",
    _svm_classifier,
    domain=_DOMAIN,
    versions=(1,),
    follow=_rows_apart,
    remark="scores; probabilities (prob_a, prob_b) are refused",
)

# --- zero wherever there is a derivative, or no numbers at all ----------------------------------

not_differentiable("Binarizer", "constant but at its threshold", domain=_DOMAIN, versions=(1,))
not_differentiable("OneHotEncoder", "zeros and ones", domain=_DOMAIN, versions=(1,))
not_differentiable("LabelEncoder", "it looks up a table", domain=_DOMAIN, versions=(1, 2, 4))
not_differentiable("CategoryMapper", "strings and integers", domain=_DOMAIN, versions=(1,))
not_differentiable("TreeEnsemble", "a tree is constant between its thresholds", domain=_DOMAIN, versions=(5,))
not_differentiable(
    "TreeEnsembleRegressor TreeEnsembleClassifier",
    "a tree is constant between its thresholds",
    domain=_DOMAIN,
    versions=(1, 3, 5),
)


@vjp(
    "ZipMap",
    domain=_DOMAIN,
    versions=(1,),
    wrt=(),
    remark="a sequence of maps; differentiate the scores in front of it",
)
@vjp("DictVectorizer CastMap", domain=_DOMAIN, versions=(1,), wrt=(), remark="its input is a map, not a tensor")
def no_tensors(op: Builder, node: Node, ct: Tensor | None) -> None:
    """Maps have no derivative, though numbers may pass through them: never reached, since `wrt` is empty."""
    raise Refusal("maps have no derivative")
