"""Softmax, and operators that bring their input to a standard mean, variance or norm.

Those that subtract a mean and divide by a standard deviation share one closed form (`_standardized` and
`_standardized_back`). They compute in float32 at least, whatever the model's type, as ONNX says of most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Shape, dim_floordiv, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import not_differentiable, vjp
from onnxgrad.rules.samples import Samples

Cotangents = Sequence[Callable[[], Tensor]]


def _axis(node: Node) -> list[int]:
    """The axis that the attribute `axis` names, from the right."""
    return [node.attr("axis") % node.x.rank - node.x.rank]


# --- softmax ---------------------------------------------------------------------------------


@vjp("Softmax", versions=(13,), follow=samples.along(samples.axis_attribute))
def softmax(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``x̄ = y · (ȳ - Σ ȳ y)``.

    A row of attention that is masked altogether is NaN here, and a `Where` behind puts 0 in its place; then ȳ is 0, and
    y must not turn it into NaN.
    """
    y = node.y
    if _chosen_from(node.ir.outputs[0]):
        y = op.Where(op.IsNaN(y), 0, y)
        return y * (ct - op.sum(ct * y, _axis(node)))
    along_rows = _sum_along_rows(op, y, ct) if _axis(node) == [-1] else None
    return y * (ct - (op.sum(ct * y, _axis(node)) if along_rows is None else along_rows))


def _sum_along_rows(op: Builder, y: Tensor, ct: Tensor) -> Tensor | None:
    """``Σⱼ ȳᵢⱼ yᵢⱼ = Σₖ ōᵢₖ oᵢₖ`` where y is used in ``o = y v`` alone, as in attention, so that ``ȳ = ō vᵀ``.

    o is narrower than y, and known: Dao et al., FlashAttention (2022), appendix B.
    """
    product = None if ct.spread is not None else ct.value.producer()
    if product is None or product.op_type != "MatMul" or product.domain:
        return None
    o_ct, transposed = (None if v is None else op.tensor(v) for v in product.inputs)
    for consumer in y.value.consumers():
        if consumer.op_type != "MatMul" or consumer.domain or consumer.inputs[0] is not y.value:
            continue
        v, o = (None if x is None else op.tensor(x) for x in (consumer.inputs[1], consumer.outputs[0]))
        if v is None or o is None or o_ct is None or transposed is None or v.rank < 2:
            continue
        if op.swap(v).value is transposed.value and o_ct.shape[-o.rank :] == o.shape:
            return op.sum(o_ct * o, [-1])
    return None


def _chosen_from(value: ir.Value) -> bool:
    """Whether a `Where` chooses between a value and something else."""
    return any(
        node.op_type == "Where" or (node.op_type in ("Cast", "Identity") and _chosen_from(node.outputs[0]))
        for node in value.consumers()
    )


@vjp("LogSoftmax", versions=(13,), follow=samples.along(samples.axis_attribute))
def log_softmax(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``x̄ = ȳ - exp(y) · Σ ȳ``."""
    return ct - op.Exp(node.y) * op.sum(ct, _axis(node))


not_differentiable("Hardmax", "constant between its jumps", versions=(13,))

# --- mean 0 and variance 1 -------------------------------------------------------------------


def _in_working_type(op: Builder, node: Node, *tensors: Tensor | None) -> list[Tensor]:
    """Cast to float64 where an input is that or `stash_type` says so, else to float32; what is absent becomes 0."""
    types = {t.dtype for t in node.inputs if t is not None} | {ir.DataType(node.attr("stash_type", 1))}
    dtype = ir.DataType.DOUBLE if ir.DataType.DOUBLE in types else ir.DataType.FLOAT
    return [op.constant(0, dtype) if t is None else op.cast(t, dtype) for t in tensors]


def _standardized(op: Builder, x: Tensor, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor]:
    """Return ``n = (x - mean) / σ`` and ``1/σ``, with ``σ² = variance + ε``; in float32, one operator does both."""
    first = min(axes, default=0)
    sizes = x.shape[first:]
    last = sorted(axes) == list(range(first, 0)) and all(isinstance(d, int) for d in sizes)
    if axes and last and x.dtype == ir.DataType.FLOAT:
        one = op.constant(np.ones([int(d) for d in sizes]), x.dtype)
        n, _, inverse = op.emit("LayerNormalization", x, one, outputs=3, axis=first, epsilon=epsilon)
        return n, inverse
    d = x - op.mean(x, axes)
    inverse = op.Reciprocal(op.Sqrt(op.mean(d * d, axes) + epsilon))
    return d * inverse, inverse


def _standardized_back(op: Builder, n: Tensor, inverse: Tensor, ct: Tensor, axes: Sequence[int]) -> Tensor:
    """``x̄ = (c - n · mean(c n)) / σ`` with ``c = n̄ - mean(n̄)``, which takes nothing from ``mean(n̄ n)``."""
    centered = ct - op.mean(ct, axes)
    return inverse * (centered - n * op.mean(centered * n, axes))


def _from_axis(node: Node) -> list[int]:
    """The axes from the attribute `axis` on."""
    return list(range(_axis(node)[0], 0))


@vjp("LayerNormalization", versions=(17,), follow=samples.along_first(_from_axis))
def layer_normalization(
    op: Builder, node: Node, ct: Tensor, mean_ct: Tensor | None = None, inverse_ct: Tensor | None = None
) -> Cotangents:
    """``Y = n · scale + B``; the other outputs are the mean, and 1/σ with the derivative ``-n / (σ² · count)`` by x."""
    x, scale, ct, mean_ct, inverse_ct = _in_working_type(op, node, *node.inputs[:2], ct, mean_ct, inverse_ct)
    axes = _from_axis(node)
    n, inverse = _standardized(op, x, axes, node.attr("epsilon"))
    share = op.one_over(size_of(x.shape[a] for a in axes), x.dtype)
    return (
        lambda: (
            _standardized_back(op, n, inverse, ct * scale, axes)
            + (mean_ct - inverse_ct * inverse * inverse * n) * share
        ),
        lambda: ct * n,
        lambda: ct,
    )


@vjp("RMSNormalization", versions=(23,), follow=samples.along_first(_from_axis))
def rms_normalization(op: Builder, node: Node, ct: Tensor) -> Cotangents:
    """``Y = n · scale`` with ``n = x / r``, ``r² = mean(x²) + ε``; ``x̄ = (n̄ - n · mean(n̄ n)) / r``."""
    x, scale, ct = _in_working_type(op, node, *node.inputs, ct)
    axes = _from_axis(node)
    inverse = op.Reciprocal(op.Sqrt(op.mean(x * x, axes) + node.attr("epsilon")))
    n, g = x * inverse, ct * scale
    return lambda: inverse * (g - n * op.mean(g * n, axes)), lambda: ct * n


# --- the same with a scale and a bias per channel (axis 1) ---------------------------------------


def _column(op: Builder, weight: Tensor, like: Shape) -> Tensor:
    """A weight of shape ``(…, C)``, or a number, as ``(…, 1, C, 1, …)``: aligned with axis 1 of a shape `like`."""
    channels = (1, like[1], *[1] * (len(like) - 2)) if len(like) > 1 else (1,)
    return op.reshape(weight, (*weight.shape[:-1], *channels)) if weight.rank else op.spread(weight, channels)


def _all_but_channels(rank: int) -> list[int]:
    return [a for a in range(-rank, 0) if a != 1 - rank]


def _weights(op: Builder, node: Node, rank: int, *cts: Tensor) -> Cotangents:
    """The cotangents of all inputs but the first, from what is yet to be summed per channel."""

    def weight(ct: Tensor, w: Tensor | None) -> Tensor:
        assert w is not None
        total = op.sum(ct, _all_but_channels(rank))
        return op.reshape(total, (*total.shape[:-rank], *w.shape))

    return [partial(weight, ct, w) for ct, w in zip(cts, node.inputs[1:], strict=True)]


def _follow_batch(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if node.attr("training_mode"):
        raise samples.Mixed("in training mode its statistics are those of the batch")
    return samples.along_data(lambda _: ())(node, inputs)


@vjp("BatchNormalization", versions=(15,), follow=_follow_batch)
def batch_normalization(
    op: Builder, node: Node, ct: Tensor, mean_ct: Tensor | None = None, variance_ct: Tensor | None = None
) -> Cotangents:
    """``Y = (x - mean) / σ · scale + B`` per channel, with ``σ² = variance + ε``; mean and variance are inputs."""
    if node.attr("training_mode"):
        return _batch_normalization_in_training(op, node, ct, mean_ct, variance_ct)
    x, scale, mean, variance, wide_ct = _in_working_type(op, node, *node.inputs[:2], *node.inputs[3:], ct)
    scale, mean, variance = (_column(op, w, x.shape) for w in (scale, mean, variance))
    inverse = op.Reciprocal(op.Sqrt(variance + node.attr("epsilon")))
    factor = scale * inverse
    axes = _all_but_channels(x.rank)
    total, moment = op.sum(wide_ct, axes), op.sum(wide_ct * (x - mean), axes) * inverse
    weights = _weights(op, node, x.rank, moment, total, -total * factor, -0.5 * moment * factor * inverse)
    return lambda: ct * op.cast(factor, ct.dtype), *weights


def _batch_normalization_in_training(
    op: Builder, node: Node, ct: Tensor, mean_ct: Tensor | None, variance_ct: Tensor | None
) -> Cotangents:
    """Mean and variance are those of x; ``running mean = input mean · momentum + mean · (1 - momentum)``.

    So, too, the running variance.
    """
    x, scale, ct, *statistics = _in_working_type(op, node, *node.inputs[:2], ct, mean_ct, variance_ct)
    scale, of_mean, of_variance = (_column(op, w, x.shape) for w in (scale, *statistics))
    axes = _all_but_channels(x.rank)
    momentum: float = node.attr("momentum")
    n, inverse = _standardized(op, x, axes, node.attr("epsilon"))
    share = op.one_over(size_of(x.shape[a] for a in axes), x.dtype) * (1 - momentum)

    def data() -> Tensor:
        running = of_mean + of_variance * (2 * (x - op.mean(x, axes)))
        return _standardized_back(op, n, inverse, ct * scale, axes) + running * share

    return data, *_weights(op, node, x.rank, ct * n, ct, of_mean * momentum, of_variance * momentum)


def _spatial_axes(node: Node) -> list[int]:
    return list(range(2 - node.x.rank, 0))


@vjp("InstanceNormalization", versions=(6, 22), follow=samples.along_data(_spatial_axes))
def instance_normalization(op: Builder, node: Node, ct: Tensor) -> Cotangents:
    """``Y = n · scale + B`` per channel, with the mean and variance of one sample's channel."""
    x, scale, ct = _in_working_type(op, node, *node.inputs[:2], ct)
    axes = _spatial_axes(node)
    n, inverse = _standardized(op, x, axes, node.attr("epsilon"))
    scale = _column(op, scale, x.shape)
    return lambda: _standardized_back(op, n, inverse, ct * scale, axes), *_weights(op, node, x.rank, ct * n, ct)


@vjp("GroupNormalization", versions=(18, 21), follow=samples.along_data(lambda node: range(1, node.x.rank)))
def group_normalization(op: Builder, node: Node, ct: Tensor) -> Cotangents:
    """``Y = n · scale + B`` with mean and variance of a group of channels; weights per group (v18) or channel (v21)."""
    groups, whole = node.attr("num_groups"), node.x.shape
    folded = (whole[0], groups, dim_floordiv(size_of(whole[1:]), groups))
    affine = folded if node.version == 18 else whole
    seeds = ct.shape[: ct.rank - len(whole)]
    x, scale, ct = _in_working_type(op, node, *node.inputs[:2], op.reshape(ct, (*seeds, *affine)))
    n, inverse = _standardized(op, op.reshape(x, folded), [-1], node.attr("epsilon"))

    def data() -> Tensor:
        g = op.reshape(ct * _column(op, scale, affine), (*seeds, *folded))
        return op.reshape(_standardized_back(op, n, inverse, g, [-1]), (*seeds, *whole))

    return data, *_weights(op, node, len(affine), ct * op.reshape(n, affine), ct)


# --- norms of other kinds ------------------------------------------------------------------------


@vjp("MeanVarianceNormalization", versions=(13,), follow=samples.along(lambda node: node.attr("axes")))
def mean_variance_normalization(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``y = d / s`` with ``d = x - mean``, ``s = σ + 1e-9``, ``σ² = mean(d²)``.

    ``x̄ = (ȳ - mean(ȳ)) / s - y/σ · mean(ȳ y)``; the last term is 0 where σ is.
    """
    x, ct = _in_working_type(op, node, node.x, ct)
    axes = [a % x.rank - x.rank for a in node.attr("axes")]
    d = x - op.mean(x, axes)
    sigma = op.Sqrt(op.mean(d * d, axes))
    s = sigma + 1e-9
    y = d / s
    return (ct - op.mean(ct, axes)) / s - y * (op.mean(ct * y, axes) / op.Where(op.Equal(sigma, 0), 1, sigma))


@vjp("LpNormalization", versions=(1, 22), follow=samples.along(samples.axis_attribute))
def lp_normalization(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``y = x / r`` with the norm r; ``x̄ = (ȳ - ∂r/∂x · Σ ȳ y) / r``; where all of x is 0, both are taken as 0."""
    x, axis = node.x, _axis(node)
    r, slope = (op.ReduceL1(x, axis), op.Sign(x)) if node.attr("p") == 1 else (op.ReduceL2(x, axis), node.y)
    zero = op.Equal(r, 0)
    return op.Where(zero, 0, (ct - slope * op.sum(ct * node.y, axis)) / op.Where(zero, 1, r))


@vjp("LRN", versions=(13,), follow=samples.along(lambda _: (1,)))
def local_response_normalization(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``y = x b^-β``, ``b = bias + α/size W x²``; ``x̄ = ȳ b^-β - 2αβ/size · x · Wᵀ(ȳ y / b)``.

    W, a band of ones, sums over neighboring channels.
    """
    x, y, ct = _in_working_type(op, node, node.x, node.y, ct)
    size: int = node.attr("size")
    alpha: float = node.attr("alpha")
    beta: float = node.attr("beta")
    place = op.range(x.shape[1])
    distance = place - op.unsqueeze(place, [-1])
    band = op.cast((distance >= -((size - 1) // 2)) & (distance <= size // 2), x.dtype)

    def windows(band: Tensor, t: Tensor) -> Tensor:
        lead = t.rank - x.rank + 2
        flat = op.reshape(t, (*t.shape[:lead], size_of(t.shape[lead:])))
        return op.reshape(op.MatMul(band, flat), t.shape)

    base = windows(band, x * x) * (alpha / size) + node.attr("bias")
    return ct * op.Pow(base, -beta) - windows(op.swap(band), ct * y / base) * x * (2 * alpha * beta / size)
