"""Normalization in onnxruntime's own domain, alone or fused with what is in front of it or behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_div
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.contributed import along_last, data_first, fixed, given, has_output, own, plus, wide
from onnxgrad.rules.registry import composed


def _without_moments(node: Node, *indices: int) -> None:
    if any(has_output(node, i) for i in indices):
        raise Refusal("it has outputs for training (mean, inverse standard deviation), which CPU kernels leave empty")


def _over_rms(op: Builder, x: Tensor, epsilon: float, axes: Sequence[int] = (-1,)) -> Tensor:
    """``x / √(mean(x²) + ε)``."""
    return x * op.Reciprocal(op.Sqrt(op.ReduceMean(x * x, list(axes), keepdims=1) + epsilon))


def _rms(op: Builder, x: Tensor, scale: Tensor, epsilon: float, axes: Sequence[int] = (-1,)) -> Tensor:
    """``x / √(mean(x²) + ε) · scale``, in float32 at least."""
    return op.cast(_over_rms(op, wide(op, x), epsilon, axes), x.dtype) * scale


# --- after a sum ---------------------------------------------------------------------------------------


def _skip_layer_norm(op: Builder, node: Node) -> tuple[Tensor, None, None, Tensor]:
    """``LayerNormalization(x + skip + bias)``, and the sum itself."""
    _without_moments(node, 1, 2)
    total = plus(node.x, given(node, 1), node.input(4))
    y = op.LayerNormalization(total, given(node, 2), node.input(3), axis=-1, epsilon=node.attr("epsilon", 1e-12))
    return y, None, None, total


def _skip_rms_norm(op: Builder, node: Node) -> tuple[Tensor, None, None, Tensor]:
    """``(x + skip + bias)`` over its root mean square, and the sum itself."""
    _without_moments(node, 1, 2)
    total = plus(node.x, given(node, 1), node.input(3))
    return _rms(op, total, given(node, 2), node.attr("epsilon", 1e-12)), None, None, total


def _rms_norm(op: Builder, node: Node) -> Tensor:
    """``x`` over its root mean square, over all axes from `axis` on."""
    _without_moments(node, 1)
    rank = node.x.rank
    axes = range(node.attr("axis", -1) % rank - rank, 0)
    return _rms(op, node.x, given(node, 1), node.attr("epsilon", 1e-5), axes)


def _embed_layer_norm(op: Builder, node: Node) -> tuple[Tensor, None, Tensor]:
    """``LayerNormalization(words[ids] + positions[0, 1, …] + segments[segment_ids])``, and the sum itself."""
    ids, segment_ids, words, places, segments, gamma, beta = (node.input(i) for i in range(7))
    assert ids is not None
    position_ids = node.input(8)
    if position_ids is None:
        position_ids = op.range(ids.shape[1])
    total = op.Gather(words, ids) + op.Gather(places, position_ids)
    if segments is not None and segment_ids is not None:
        total = total + op.Gather(segments, segment_ids)
    y = op.LayerNormalization(total, gamma, beta, axis=-1, epsilon=node.attr("epsilon", 1e-12))
    return y, None, total


own("SkipLayerNormalization", _skip_layer_norm, follow=along_last((0, 1)))
own("SkipSimplifiedLayerNormalization", _skip_rms_norm, follow=along_last((0, 1)))
own("EmbedLayerNormalization", _embed_layer_norm, wrt=(2, 3, 4, 5, 6))
composed("SimplifiedLayerNormalization", _rms_norm, versions=(), follow=along_last((0,)))

# --- in parts, and with gates ----------------------------------------------------------------------------


def _branchwise(op: Builder, node: Node) -> Tensor:
    """``x`` over its root mean square in each branch, times a scale per channel or per branch and channel."""
    x, scale, branches = node.x, node.input(1), node.attr("num_branches", 0)
    if branches:
        channels = fixed(dim_div(x.shape[-1], branches), "channels")
        x = op.reshape(x, (*x.shape[:-1], branches, channels))
    y = _over_rms(op, wide(op, x), node.attr("epsilon", 1e-5))
    if scale is not None:
        whole = scale.rank == 1 and scale.shape[0] != x.shape[-1]
        y = y * wide(op, op.reshape(scale, x.shape[-2:]) if whole else scale)
    return op.reshape(op.cast(y, x.dtype), node.x.shape)


def _gated(op: Builder, node: Node) -> Tensor:
    """``x`` over its root mean square in groups as long as the scale, times that and an activated gate."""
    x, scale, z = node.x, given(node, 1), wide(op, given(node, 2))
    channels = fixed(scale.shape[0], "channels")
    groups = fixed(dim_div(x.shape[-1], channels), "channels")
    parts = op.reshape(wide(op, x), (*x.shape[:-1], groups, channels))
    y = op.reshape(_over_rms(op, parts, node.attr("epsilon", 1e-5)) * wide(op, scale), x.shape)
    gate = op.Sigmoid(z)
    return op.cast(y * (gate if node.attr("activation", "silu") == "sigmoid" else z * gate), x.dtype)


def _engram(op: Builder, node: Node) -> list[Tensor]:
    """``sigmoid(sign(d) √max(|d|, 1e-6)) · value`` with ``d = norm(key) · norm(query) / √channels``; and its norm."""
    key, query, value, key_scale, query_scale = (wide(op, given(node, i)) for i in range(5))
    epsilon, channels = node.attr("epsilon", 1e-5), fixed(key.shape[-1], "channels")
    product = _rms(op, key, key_scale, epsilon) * _rms(op, query, query_scale, epsilon)
    dot = op.sum(product, [-1]) * (1 / math.sqrt(channels))
    root = op.Sqrt(op.Max(op.Abs(dot), op.constant(1e-6, dot.dtype)))
    y = op.Sigmoid(op.Sign(dot) * root) * op.unsqueeze(value, [-2])
    outputs = [y]
    if has_output(node, 1):
        outputs.append(_rms(op, y, wide(op, given(node, 5)), epsilon))
    return [op.cast(t, node.x.dtype) for t in outputs]


own("BranchwiseRMSNorm", _branchwise, follow=samples.along_data(lambda node: (-1,)))
own("GatedRMSNorm", _gated, follow=along_last((0, 2)))
own("EngramGate", _engram, follow=data_first(0, 1, 2))
