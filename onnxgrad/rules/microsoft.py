"""Operators of onnxruntime's own domain, com.microsoft, in models that come in (none is ever emitted).

Each is an expression in standard operators with the values of onnxruntime's CPU kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_div, dim_mul
from onnxgrad.graph.foreign import matrix_order
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed, vjp
from onnxgrad.rules.samples import Following, Mixed, Samples
from onnxgrad.rules.sampling import grid_sample

_DOMAIN = "com.microsoft"


def _own(names: str, expression: Callable[[Builder, Node], Any], **options: Any) -> None:
    composed(names, expression, domain=_DOMAIN, versions=(), **options)


def _given(node: Node, index: int) -> Tensor:
    tensor = node.input(index)
    assert tensor is not None
    return tensor


def _plus(a: Tensor, *others: Tensor | None) -> Tensor:
    for b in others:
        a = a if b is None else a + b
    return a


# --- activations -------------------------------------------------------------------------------


def _gelu(op: Builder, x: Tensor) -> Tensor:
    return x * 0.5 * (op.Erf(x * math.sqrt(0.5)) + 1.0)


def _fast_gelu(op: Builder, x: Tensor) -> Tensor:
    return x * 0.5 * (op.Tanh(x * (0.7978845608028654 + 0.035677408136300125 * x * x)) + 1.0)


_own("Gelu", lambda op, node: _gelu(op, node.x), follow=samples.aligned)
_own("BiasGelu", lambda op, node: _gelu(op, node.x + _given(node, 1)), follow=samples.aligned)
_own("FastGelu", lambda op, node: _fast_gelu(op, _plus(node.x, node.input(1))), follow=samples.aligned)
_own(
    "QuickGelu",
    lambda op, node: node.x * op.Sigmoid(node.x * node.attr("alpha", 1.702)),
    follow=samples.aligned,
)


def _activated(op: Builder, x: Tensor, name: str, numbers: Sequence[float | None]) -> Tensor:
    """Apply the activation of a fused operator, with up to three numbers (alpha, beta, gamma)."""
    alpha, beta, gamma = (*numbers, None, None, None)[:3]
    if name in ("", "Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"):
        return op.emit(name, x)[0] if name else x
    if name in ("Elu", "LeakyRelu", "ThresholdedRelu"):
        return op.emit(name, x, alpha=alpha)[0]
    if name == "HardSigmoid":
        return op.HardSigmoid(x, alpha=alpha, beta=beta)
    if name == "Selu":
        return op.Selu(x, alpha=alpha, gamma=gamma)
    if name in ("ScaledTanh", "ParametricSoftplus") and alpha is not None and beta is not None:
        return (op.Tanh(x * beta) if name == "ScaledTanh" else op.Softplus(x * beta)) * alpha
    if name == "Clip" and alpha is not None and beta is not None:
        return op.Clip(x, alpha, beta)
    raise Refusal(f"its activation {name!r} is not known")


# --- fused products ----------------------------------------------------------------------------


def _ordered(op: Builder, node: Node, index: int) -> Tensor:
    x, name = _given(node, index), "AB"[index]
    order = matrix_order(x.rank, bool(node.attr(f"trans{name}")), bool(node.attr(f"transBatch{name}")))
    return op.Transpose(x, perm=order)


def _fused_matmul(op: Builder, node: Node) -> Tensor:
    """``α A' B'``, with A' and B' transposed where the attributes say so."""
    return op.MatMul(_ordered(op, node, 0), _ordered(op, node, 1)) * float(node.attr("alpha", 1.0))


def _follow_matmul(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    found = set()
    for i, place in enumerate(inputs):
        if place is None:
            continue
        x, name = _given(node, i), "AB"[i]
        order = matrix_order(x.rank, bool(node.attr(f"trans{name}")), bool(node.attr(f"transBatch{name}")))
        from_right = order.index(place.axis) - x.rank
        if min(_given(node, 0).rank, _given(node, 1).rank) < 2 or from_right == (-1, -2)[i]:
            raise Mixed(f"it sums over axis {place.axis} of input {i}, on which the samples lie")
        if node.y.shape[from_right] != x.shape[place.axis]:
            raise Mixed("the axis of samples may be broadcast along another axis")
        found.add(replace(place, axis=from_right + node.y.rank))
    if len(found) != 1:
        raise Mixed("the samples of its inputs lie on different axes")
    return [found.pop()]


def _fused_gemm(op: Builder, node: Node) -> Tensor:
    """``f(α A' B' + β C)``."""
    names = ("alpha", "beta", "transA", "transB")
    product = op.Gemm(*node.inputs, **{name: node.attr(name) for name in names})
    numbers = [node.attr(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    return _activated(op, product, node.attr("activation", ""), numbers)


def _fused_conv(op: Builder, node: Node) -> Tensor:
    """``f(X * W + B + Z)``."""
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    product = op.Conv(*node.inputs[:3], **{name: node.attr(name) for name in names}, shape=node.y.shape)
    numbers = node.attr("activation_params") or ()
    return _activated(op, _plus(product, node.input(3)), node.attr("activation", ""), numbers)


def _follow_conv(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if any(inputs[1:3]):
        raise Mixed("samples reach it through a weight, which all samples share")
    return samples.first_axis(node, inputs)


_own("FusedMatMul TransposeMatMul", _fused_matmul, follow=_follow_matmul)
_own("FusedGemm", _fused_gemm, follow=samples.gemm)
_own("FusedConv", _fused_conv, follow=_follow_conv)

# --- normalization -----------------------------------------------------------------------------


def _has_output(node: Node, index: int) -> bool:
    return index < len(node.ir.outputs) and bool(node.ir.outputs[index].name)


def _without_moments(node: Node, *indices: int) -> None:
    if any(_has_output(node, i) for i in indices):
        raise Refusal("it has outputs for training (mean, inverse standard deviation), which CPU kernels leave empty")


def _rms(op: Builder, x: Tensor, scale: Tensor, epsilon: float, axes: Sequence[int]) -> Tensor:
    """``x / √(mean(x²) + ε) · scale``, in float32 at least."""
    wide = op.cast(x, ir.DataType.FLOAT) if x.dtype.bitwidth < 32 else x
    inverse = op.Reciprocal(op.Sqrt(op.ReduceMean(wide * wide, list(axes), keepdims=1) + epsilon))
    return op.cast(wide * inverse, x.dtype) * scale


def _skip_layer_norm(op: Builder, node: Node) -> tuple[Tensor, None, None, Tensor]:
    """``LayerNormalization(x + skip + bias)``, and the sum itself."""
    _without_moments(node, 1, 2)
    total = _plus(node.x, _given(node, 1), node.input(4))
    y = op.LayerNormalization(total, _given(node, 2), node.input(3), axis=-1, epsilon=node.attr("epsilon", 1e-12))
    return y, None, None, total


def _skip_rms_norm(op: Builder, node: Node) -> tuple[Tensor, None, None, Tensor]:
    """``(x + skip + bias)`` over its root mean square, and the sum itself."""
    _without_moments(node, 1, 2)
    total = _plus(node.x, _given(node, 1), node.input(3))
    return _rms(op, total, _given(node, 2), node.attr("epsilon", 1e-12), [-1]), None, None, total


def _rms_norm(op: Builder, node: Node) -> Tensor:
    """``x`` over its root mean square, over all axes from `axis` on."""
    _without_moments(node, 1)
    rank = node.x.rank
    axes = range(node.attr("axis", -1) % rank - rank, 0)
    return _rms(op, node.x, _given(node, 1), node.attr("epsilon", 1e-5), axes)


def _embed_layer_norm(op: Builder, node: Node) -> tuple[Tensor, None, Tensor]:
    """``LayerNormalization(words[ids] + positions[0, 1, …] + segments[segment_ids])``, and the sum itself."""
    ids, segment_ids, words, places, segments, gamma, beta = (node.input(i) for i in range(7))
    assert ids is not None
    position_ids = node.input(8)
    if position_ids is None:
        position_ids = _range(op, ids.shape[1])
    total = op.Gather(words, ids) + op.Gather(places, position_ids)
    if segments is not None and segment_ids is not None:
        total = total + op.Gather(segments, segment_ids)
    y = op.LayerNormalization(total, gamma, beta, axis=-1, epsilon=node.attr("epsilon", 1e-12))
    return y, None, total


def _along_last(data: int) -> Following:
    """Follow an operator that works along the last axes (from `axis` on) of its first inputs; others are weights."""

    def follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
        if any(inputs[data:]):
            raise Mixed("samples reach it through a weight, which all samples share")
        places = samples.aligned(node, inputs)
        if any(p is not None and p.axis >= node.attr("axis", -1) % node.y.rank for p in places):
            raise Mixed("it works along the axis on which the samples lie")
        return places

    return follow


_own("SkipLayerNormalization", _skip_layer_norm, follow=_along_last(2))
_own("SkipSimplifiedLayerNormalization", _skip_rms_norm, follow=_along_last(2))
_own("EmbedLayerNormalization", _embed_layer_norm, wrt=(2, 3, 4, 5, 6))
composed("SimplifiedLayerNormalization", _rms_norm, versions=(), follow=_along_last(1))

# --- attention ---------------------------------------------------------------------------------


def _range(op: Builder, size: Dim) -> Tensor:
    """Return ``0, 1, …, size - 1``."""
    if isinstance(size, int):
        return op.constant(np.arange(size, dtype=np.int64))
    zero, one = (op.constant(np.int64(i)) for i in (0, 1))
    return op.Range(zero, op.reshape(op.size(size), ()), one, shape=(size,))


def _visible(op: Builder, mask: Tensor, batch: Dim, keys: Dim) -> Tensor:
    """Return, broadcast to (batch, heads, queries, keys), which keys a mask lets through.

    It holds a number per key (and query), 0 for a masked one; or for each sample the end of its keys; or all the
    ends and then for each sample the start of its keys.
    """
    if mask.rank in (2, 3):
        return op.Greater(op.unsqueeze(mask, [-2, -3] if mask.rank == 2 else [-3]), 0)
    if mask.rank > 1 or mask.shape[0] not in (batch, dim_mul(2, batch)):
        raise Refusal(f"a mask of shape {list(mask.shape)} is not known")
    mask, places = op.cast(mask, ir.DataType.INT64), _range(op, keys)
    if mask.shape[0] == batch:
        return places < op.reshape(mask, (batch, 1, 1, 1))
    ends, starts = (
        op.reshape(op.Gather(op.reshape(mask, (2, batch)), op.constant(np.int64(i))), (batch, 1, 1, 1)) for i in (0, 1)
    )
    return op.And(places < ends, places >= starts)


def _heads(op: Builder, x: Tensor, count: int) -> Tensor:
    """Take (batch, length, channels) apart to (batch, heads, length, channels per head)."""
    size = dim_div(x.shape[2], count)
    if size is None:
        raise Refusal("the number of channels is not known before run time")
    return op.Transpose(op.reshape(x, (*x.shape[:2], count, size)), perm=[0, 2, 1, 3])


def _attend(
    op: Builder,
    node: Node,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    before: Dim,
) -> Tensor:
    """``softmax(scale · Q Kᵀ + bias) V`` for each head; `before` is how many keys precede those of the queries."""
    batch, count, length, size = queries.shape
    total, dtype = keys.shape[2], queries.dtype
    if not isinstance(size, int):
        raise Refusal("the number of channels is not known before run time")
    scores = _plus(op.MatMul(queries, op.swap(keys)) * (node.attr("scale") or 1 / math.sqrt(size)), bias)
    if mask is not None:
        hidden = op.constant(node.attr("mask_filter_value", -10000.0), dtype)
        scores = scores + op.Where(_visible(op, mask, batch, total), op.constant(0, dtype), hidden)
    if node.attr("unidirectional", 0):
        last = op.unsqueeze(_range(op, length), [-1]) + op.size(before)
        lowest = op.constant(-65504 if dtype.bitwidth < 32 else -1e30, dtype)
        scores = op.Where(_range(op, total) <= last, scores, lowest)
    result = op.Transpose(op.MatMul(op.Softmax(scores, axis=-1), values), perm=[0, 2, 1, 3])
    return op.reshape(result, (batch, length, dim_mul(count, values.shape[3])))


def _refuse_inputs(node: Node, *indices: int) -> None:
    if any(node.input(i) is not None for i in indices):
        raise Refusal("it works in place on a buffer of keys and values, which is not known")


def _attention(op: Builder, node: Node) -> Sequence[Tensor]:
    """Attention of a sequence to itself (and to past keys and values), with one projection to Q, K and V."""
    _refuse_inputs(node, 6)
    if node.attr("do_rotary", 0):
        raise Refusal("rotary embedding inside is not known")
    x, weights, bias, mask, past, scores_bias = (node.input(i) for i in range(6))
    assert x is not None
    assert weights is not None
    width = weights.shape[1]
    sizes = node.attr("qkv_hidden_sizes") or ([width // 3] * 3 if isinstance(width, int) else None)
    if sizes is None:
        raise Refusal("the number of channels is not known before run time")
    parts = op.emit("Split", _plus(op.MatMul(x, weights), bias), list(sizes), outputs=3, axis=-1)
    q, k, v = (_heads(op, part, node.attr("num_heads")) for part in parts)
    before: Dim = 0
    if past is not None:
        before = past.shape[3]
        k, v = (op.Concat(op.Gather(past, op.constant(np.int64(i))), new, axis=2) for i, new in enumerate((k, v)))
    y = _attend(op, node, q, k, v, mask, scores_bias, before)
    if not _has_output(node, 1):
        return [y]
    return [y, op.Concat(op.unsqueeze(k, [-5]), op.unsqueeze(v, [-5]), axis=0)]


def _follow_attention(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    (place, *_) = samples.first_axis_of_data(node, inputs)
    assert place is not None
    return [place, replace(place, axis=1)][: len(node.outputs)]


def _multi_head_attention(op: Builder, node: Node) -> tuple[Tensor, ...]:
    """Attention of queries to keys and values, each in a tensor of its own (and to past ones)."""
    _refuse_inputs(node, 8, 9)
    q, k, v, bias, mask, scores_bias, past_k, past_v = (node.input(i) for i in range(8))
    count = node.attr("num_heads")
    if q is None or k is None or v is None or q.rank != 3 or k.rank != v.rank or _has_output(node, 3):
        raise Refusal("queries, keys and values in one tensor, or scores as an output, are not known")
    width, value_width = q.shape[2], v.shape[2]
    if bias is not None:
        if not isinstance(width, int):
            raise Refusal("the number of channels is not known before run time")
        q = q + op.Slice(bias, [0], [width], [0])
    if k.rank == 3:
        if bias is not None and isinstance(width, int):
            k = k + op.Slice(bias, [width], [2 * width], [0])
            v = v + op.Slice(bias, [2 * width], [2**31 - 1], [0], shape=(value_width,))
        k, v = _heads(op, k, count), _heads(op, v, count)
    if node.attr("unidirectional", 0) and k.shape[2] != q.shape[1]:
        raise Refusal("a causal mask between sequences of different lengths is not known")
    before: Dim = 0
    if past_k is not None and past_v is not None:
        before = past_k.shape[2]
        k, v = op.Concat(past_k, k, axis=2), op.Concat(past_v, v, axis=2)
    return _attend(op, node, _heads(op, q, count), k, v, mask, scores_bias, before), k, v


def _follow_multi_head(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if any(s for i, s in enumerate(inputs) if i not in (0, 1, 2, 6, 7)):
        raise Mixed("samples reach it through a bias or a mask")
    return samples.first_axis(node, inputs)


def _rotary_embedding(op: Builder, node: Node) -> Tensor:
    """Turn pairs of channels by angles that grow with the position: ``(a cos - b sin, b cos + a sin)``."""
    if node.attr("scale", 1.0) != 1.0 or node.attr("is_packed_batching", 0):
        raise Refusal("a scale or packed sequences are not known")
    x, positions, cosines, sines = (node.input(i) for i in range(4))
    assert x is not None
    assert positions is not None
    assert cosines is not None
    half = cosines.shape[1]
    if not isinstance(half, int):
        raise Refusal("the number of channels is not known before run time")
    if x.rank == 3:
        count = node.attr("num_heads", 0) if node.attr("rotary_embedding_dim", 0) else dim_div(x.shape[2], 2 * half)
        if not isinstance(count, int):
            raise Refusal("the number of heads is not known before run time")
        heads = _heads(op, x, count)
    else:
        heads = x
    length, size = heads.shape[2:]
    if positions.rank == 1:  # the first of consecutive positions
        positions = op.unsqueeze(_range(op, length), [-2]) + op.cast(positions, ir.DataType.INT64)
    cos, sin = (op.unsqueeze(op.Gather(table, positions), [-3]) for table in (cosines, sines))
    turned = op.Slice(heads, [0], [2 * half], [-1], shape=(*heads.shape[:3], 2 * half))
    if node.attr("interleaved", 0):
        pairs = op.reshape(turned, (*heads.shape[:3], half, 2))
        a, b = (op.Gather(pairs, op.constant(np.int64(i)), axis=-1) for i in (0, 1))
        parts = [op.unsqueeze(t, [-1]) for t in (a * cos - b * sin, b * cos + a * sin)]
        result = op.reshape(op.Concat(*parts, axis=-1), turned.shape)
    else:
        a, b = op.emit("Split", turned, [half, half], outputs=2, axis=-1)
        result = op.Concat(a * cos - b * sin, b * cos + a * sin, axis=-1)
    if size != 2 * half:
        result = op.Concat(result, op.Slice(heads, [2 * half], [2**31 - 1], [-1]), axis=-1)
    return result if x.rank == 4 else op.reshape(op.Transpose(result, perm=[0, 2, 1, 3]), x.shape)


_own("Attention", _attention, follow=_follow_attention)
_own("MultiHeadAttention", _multi_head_attention, follow=_follow_multi_head)
_own("RotaryEmbedding", _rotary_embedding, wrt=(0, 2, 3), follow=samples.first_axis_of_data)

# --- others ------------------------------------------------------------------------------------


@vjp("Inverse", domain=_DOMAIN, versions=(), follow=samples.along(lambda node: (-2, -1)))
def inverse(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``Y = X⁻¹``, ``dY = -Y dX Y``, so ``X̄ = -Yᵀ Ȳ Yᵀ``."""
    transposed = op.swap(node.y)
    return -op.MatMul(transposed, op.MatMul(ct, transposed))


def _trilu(op: Builder, node: Node) -> Tensor:
    return op.Trilu(node.x, node.input(1), upper=node.attr("upper", 1))


def _distances(op: Builder, node: Node) -> Tensor:
    """``|a_i - b_j|²``, or its root (with the derivative 0 where that is 0)."""
    if node.attr("metric", "sqeuclidean") not in ("euclidean", "sqeuclidean"):
        raise Refusal(f"the metric {node.attr('metric')!r} is not known")
    difference = op.unsqueeze(node.x, [-2]) - op.unsqueeze(_given(node, 1), [-3])
    squares = op.sum(difference * difference, [-1], keepdims=False)
    if node.attr("metric", "sqeuclidean") == "sqeuclidean":
        return squares
    zero = op.Equal(squares, 0)
    return op.Where(zero, 0, op.Sqrt(op.Where(zero, 1, squares)))


def _follow_distances(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Samples are rows of the first input, or of the second: columns of the output."""
    given = [(i, s) for i, s in enumerate(inputs) if s is not None]
    if len(given) != 1 or given[0][1].axis:
        raise Mixed("distances between samples, or sums over them")
    return [replace(given[0][1], axis=given[0][0])]


_own("GridSample", grid_sample, follow=samples.first_axis)
_own("Trilu", _trilu, wrt=(0,), follow=samples.along_first(lambda node: (-2, -1)))
_own("CDist", _distances, follow=_follow_distances)
