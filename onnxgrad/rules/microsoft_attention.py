"""Attention and rotary embeddings of onnxruntime's own domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_add, dim_div, dim_mul
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.contributed import data_first, fixed, given, has_output, own, plus
from onnxgrad.rules.samples import Samples

_INT64 = ir.DataType.INT64

# --- what all of them share ----------------------------------------------------------------------


def _visible(op: Builder, mask: Tensor, batch: Dim, keys: Dim) -> Tensor:
    """Return, broadcast to (batch, heads, queries, keys), which keys a mask lets through.

    It holds a number per key (and query), 0 for a masked one; or for each sample the end of its keys; or all the
    ends and then for each sample the start of its keys; or all the ends and then what this kernel does not read.
    """
    if mask.rank in (2, 3):
        return op.Greater(op.unsqueeze(mask, [-2, -3] if mask.rank == 2 else [-3]), 0)
    with_more = dim_add(dim_mul(3, batch), 2)
    if mask.rank > 1 or mask.shape[0] not in (batch, dim_mul(2, batch), with_more):
        raise Refusal(f"a mask of shape {list(mask.shape)} is not known")
    places = op.range(keys)
    if mask.shape[0] == with_more:
        mask = op.Slice(mask, [0], op.size(batch), [0], shape=(batch,))
    mask = op.cast(mask, _INT64)
    if mask.shape[0] == batch:
        return places < op.reshape(mask, (batch, 1, 1, 1))
    halves = op.reshape(mask, (2, batch))
    ends, starts = (op.reshape(op.Gather(halves, op.constant(i, _INT64)), (batch, 1, 1, 1)) for i in (0, 1))
    return op.And(places < ends, places >= starts)


def _heads(op: Builder, x: Tensor, count: int) -> Tensor:
    """Take (batch, length, channels) apart to (batch, heads, length, channels per head)."""
    size = fixed(dim_div(x.shape[2], count), "channels")
    return op.Transpose(op.reshape(x, (*x.shape[:2], count, size)), perm=[0, 2, 1, 3])


def _joined(op: Builder, x: Tensor) -> Tensor:
    """The reverse: (batch, length, heads · channels per head)."""
    batch, count, length, size = x.shape
    return op.reshape(op.Transpose(x, perm=[0, 2, 1, 3]), (batch, length, dim_mul(count, size)))


def _lowest(op: Builder, dtype: ir.DataType) -> Tensor:
    """What stands for minus infinity: its exponential is 0, and a row full of it is no NaN."""
    return op.constant(-65504 if dtype.bitwidth < 32 else -1e30, dtype)


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
    batch, _, length, size = queries.shape
    total, dtype = keys.shape[2], queries.dtype
    scale = node.attr("scale") or 1 / math.sqrt(fixed(size, "channels"))
    scores = plus(op.MatMul(queries, op.swap(keys)) * scale, bias)
    if mask is not None:
        hidden = op.constant(node.attr("mask_filter_value", -10000.0), dtype)
        scores = scores + op.Where(_visible(op, mask, batch, total), op.constant(0, dtype), hidden)
    if node.attr("unidirectional", 0):
        last = op.unsqueeze(op.range(length), [-1]) + op.size(before)
        scores = op.Where(op.range(total) <= last, scores, _lowest(op, dtype))
    return _joined(op, op.MatMul(op.Softmax(scores, axis=-1), values))


def _until(op: Builder, buffer: Tensor, end: Tensor) -> Tensor:
    """The part of a buffer (batch, heads, length, channels) in front of a position, of shape (1,)."""
    shape = (*buffer.shape[:2], op.fresh_dim(), buffer.shape[3])
    return op.Slice(buffer, [0], end, [2], shape=shape)


def _written(op: Builder, buffer: Tensor, keys: Tensor) -> Tensor:
    """A buffer that starts with `keys` now, and goes on as it was."""
    rest = op.Slice(
        buffer, op.size(keys.shape[2]), [2**31 - 1], [2], shape=(*buffer.shape[:2], op.fresh_dim(), buffer.shape[3])
    )
    return op.Concat(keys, rest, axis=2, shape=buffer.shape)


# --- Attention -------------------------------------------------------------------------------------


def _attention(op: Builder, node: Node) -> Sequence[Tensor]:
    """Attention of a sequence to itself (and to past keys and values), with one projection to Q, K and V."""
    if node.input(6) is not None or node.attr("past_present_share_buffer", 0):
        raise Refusal("it works in place on a buffer of keys and values, which CPU kernels of it do not")
    if node.attr("do_rotary", 0):
        raise Refusal(
            "rotary embedding inside is not known", "let RotaryEmbedding and MultiHeadAttention take its place"
        )
    x, weights, bias, mask, past, scores_bias = (node.input(i) for i in range(6))
    assert x is not None
    assert weights is not None
    sizes = node.attr("qkv_hidden_sizes") or [fixed(weights.shape[1], "channels") // 3] * 3
    parts = op.emit("Split", plus(op.MatMul(x, weights), bias), list(sizes), outputs=3, axis=-1)
    q, k, v = (_heads(op, part, node.attr("num_heads")) for part in parts)
    before: Dim = 0
    if past is not None:
        before = past.shape[3]
        k, v = (op.Concat(op.Gather(past, op.constant(i, _INT64)), new, axis=2) for i, new in enumerate((k, v)))
    y = _attend(op, node, q, k, v, mask, scores_bias, before)
    if not has_output(node, 1):
        return [y]
    return [y, op.Concat(op.unsqueeze(k, [-5]), op.unsqueeze(v, [-5]), axis=0)]


def _follow_attention(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    (place, *_) = samples.first_axis_of_data(node, inputs)
    assert place is not None
    return [place, replace(place, axis=1)][: len(node.outputs)]


own("Attention", _attention, follow=_follow_attention)

# --- MultiHeadAttention, and that of a single query ----------------------------------------------------


def _with_bias(op: Builder, x: Tensor, bias: Tensor | None, start: int, end: int) -> Tensor:
    """Add the part of a bias that belongs to x, (batch, length, channels)."""
    return x if bias is None else x + op.Slice(bias, [start], [end], [0], shape=(x.shape[2],))


def _queries_keys_values(op: Builder, node: Node, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return all three as (batch, heads, length, channels per head), with their bias."""
    q, k, v = (node.input(i) for i in range(3))
    count = node.attr("num_heads")
    if q is None or k is None or v is None or q.rank != 3 or k.rank != v.rank:
        raise Refusal("queries, keys and values in one tensor are not known, as CPU kernels do not take them")
    width = fixed(q.shape[2], "channels") if bias is not None else 0
    q = _heads(op, _with_bias(op, q, bias, 0, width), count)
    if k.rank == 4:  # of other sequences, with heads apart
        return q, k, v
    k = _heads(op, _with_bias(op, k, bias, width, 2 * width), count)
    return q, k, _heads(op, _with_bias(op, v, bias, 2 * width, 2**31 - 1), count)


def _with_past(
    op: Builder, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor, filled: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return past and new keys and values, and what the node gives out of them.

    Of a buffer, only the first `filled` positions are past; the new ones are written behind them.
    """
    if filled is None:
        k, v = op.Concat(past_k, k, axis=2), op.Concat(past_v, v, axis=2)
        return k, v, k, v
    end = op.cast(op.reshape(filled, (1,)), _INT64)
    k, v = op.Concat(_until(op, past_k, end), k, axis=2), op.Concat(_until(op, past_v, end), v, axis=2)
    return k, v, _written(op, past_k, k), _written(op, past_v, v)


def _multi_head_attention(op: Builder, node: Node) -> tuple[Tensor, ...]:
    """Attention of queries to keys and values, each in a tensor of its own (and to past ones)."""
    _, _, _, bias, mask, scores_bias, past_k, past_v, filled, beams = (node.input(i) for i in range(10))
    if has_output(node, 3) or beams is not None:
        raise Refusal("scores as an output, or beams, are not known")
    q, k, v = _queries_keys_values(op, node, bias)
    causal = node.attr("unidirectional", 0)
    if causal and (k.shape[2] != q.shape[2] or filled is not None):
        raise Refusal("a causal mask between sequences of different lengths, or over a buffer, is not known")
    before: Dim = 0
    present_k, present_v = k, v
    if past_k is not None and past_v is not None:
        before = past_k.shape[2]
        k, v, present_k, present_v = _with_past(op, k, v, past_k, past_v, filled)
    return _attend(op, node, q, k, v, mask, scores_bias, before), present_k, present_v


def _decoder_attention(op: Builder, node: Node) -> tuple[Tensor, ...]:
    """Attention of one query to a buffer of past keys and values and its own, or to those of another sequence."""
    _, _, _, mask, scores_bias, past_k, past_v, filled, _, beams, bias = (node.input(i) for i in range(11))
    if beams is not None or has_output(node, 3):
        raise Refusal("beams, or scores as an output, are not known")
    q, k, v = _queries_keys_values(op, node, bias)
    present_k, present_v = k, v
    if past_k is not None and past_v is not None:
        k, v, present_k, present_v = _with_past(op, k, v, past_k, past_v, filled)
    return _attend(op, node, q, k, v, mask, scores_bias, 0), present_k, present_v


own("MultiHeadAttention", _multi_head_attention, follow=data_first(0, 1, 2, 6, 7))
own("DecoderMaskedMultiHeadAttention", _decoder_attention, follow=data_first(0, 1, 2, 5, 6))

# --- rotary embeddings ---------------------------------------------------------------------------------


def _turned(op: Builder, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Turn pairs of channels: ``(a cos - b sin, b cos + a sin)``; further channels stay as they are.

    Args:
        op: the builder.
        x: (batch, heads, length, channels).
        cos: (batch, 1, length, pairs), as is `sin`.
        sin: see `cos`.
        interleaved: whether pairs are neighbors; else their halves lie one behind the other.
    """
    half, size = fixed(cos.shape[-1], "channels"), x.shape[3]
    turned = op.Slice(x, [0], [2 * half], [-1], shape=(*x.shape[:3], 2 * half))
    if interleaved:
        pairs = op.reshape(turned, (*x.shape[:3], half, 2))
        a, b = (op.Gather(pairs, op.constant(i, _INT64), axis=-1) for i in (0, 1))
        parts = [op.unsqueeze(t, [-1]) for t in (a * cos - b * sin, b * cos + a * sin)]
        result = op.reshape(op.Concat(*parts, axis=-1), turned.shape)
    else:
        a, b = op.emit("Split", turned, [half, half], outputs=2, axis=-1)
        result = op.Concat(a * cos - b * sin, b * cos + a * sin, axis=-1)
    if size == 2 * half:
        return result
    return op.Concat(result, op.Slice(x, [2 * half], [2**31 - 1], [-1]), axis=-1)


def _turned_in_place(op: Builder, node: Node, cos: Tensor, sin: Tensor) -> Tensor:
    """The same for the first input of a node, which may have its heads merged."""
    x, pairs = node.x, fixed(cos.shape[-1], "channels")
    interleaved = bool(node.attr("interleaved", 0))
    if x.rank == 4:
        return _turned(op, x, cos, sin, interleaved)
    parts = node.attr("rotary_embedding_dim", 0)
    count = fixed(node.attr("num_heads", 0) if parts else dim_div(x.shape[2], 2 * pairs), "heads")
    return _joined(op, _turned(op, _heads(op, x, count), cos, sin, interleaved))


def _rotary_embedding(op: Builder, node: Node) -> Tensor:
    """Turn pairs of channels by angles that grow with the position."""
    if node.attr("scale", 1.0) != 1.0 or node.attr("is_packed_batching", 0):
        raise Refusal("a scale or packed sequences are not known")
    x, positions = node.x, given(node, 1)
    if positions.rank == 1:  # the first of consecutive positions
        positions = op.unsqueeze(op.range(x.shape[-2]), [-2]) + op.cast(positions, _INT64)
    cos, sin = (op.unsqueeze(op.Gather(given(node, i), positions), [-3]) for i in (2, 3))
    return _turned_in_place(op, node, cos, sin)


def _multimodal_rotary_embedding(op: Builder, node: Node) -> Tensor:
    """The same, with three positions per token (time, height, width); each pair of channels goes by one of them."""
    if node.attr("scale", 1.0) != 1.0 or node.attr("is_packed_batching", 0):
        raise Refusal("a scale or packed sequences are not known")
    half = fixed(given(node, 2).shape[1], "channels")
    sections, pair = node.attr("mrope_section"), np.arange(half)
    if node.attr("mrope_layout", 0):
        stream = np.where((pair % 3 > 0) & (pair < 3 * np.take(sections, pair % 3)), pair % 3, 0)
    else:
        stream = np.repeat([0, 1, 2], sections)
    cos, sin = (op.Gather(given(node, i), given(node, 1)) for i in (2, 3))  # (3, batch, length, pairs)

    def chosen(table: Tensor) -> Tensor:
        time, height, width = (op.Gather(table, op.constant(i, _INT64)) for i in range(3))
        there = op.Where(op.constant(stream == 1), height, op.Where(op.constant(stream == 2), width, time))
        return op.unsqueeze(there, [-3])

    return _turned_in_place(op, node, chosen(cos), chosen(sin))


own("RotaryEmbedding", _rotary_embedding, wrt=(0, 2, 3), follow=samples.first_axis_of_data)
own("MRotaryEmbedding", _multimodal_rotary_embedding, wrt=(0, 2, 3), follow=samples.first_axis_of_data)

# --- GroupQueryAttention -------------------------------------------------------------------------------

_UNKNOWN = {
    "sliding_window_cache": "a cache that holds a window only",
    "kv_cache_bit_width": "a quantized cache",
    "qk_output": "scores as an output",
}


def _grouped_heads(op: Builder, node: Node) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values as (batch, heads, length, channels); fewer heads of the latter two."""
    q, k, v = (node.input(i) for i in range(3))
    count, few = node.attr("num_heads"), node.attr("kv_num_heads")
    assert q is not None
    if k is None or v is None:
        size = fixed(dim_div(q.shape[2], count + 2 * few), "channels")
        q, k, v = op.emit("Split", q, [size * count, size * few, size * few], outputs=3, axis=-1)
    return _heads(op, q, count), _heads(op, k, few), _heads(op, v, few)


def _group_query_attention(op: Builder, node: Node) -> list[Tensor]:
    """Causal attention in which groups of query heads share keys and values, over a buffer of past ones.

    Sample b has ``seqlens_k[b] + 1`` keys, the new ones among them. All keys stand in one row, those of the buffer
    and then the new ones, each with its position; what a query does not see is hidden by its position.
    """
    for name, what in _UNKNOWN.items():
        if node.attr(name, 0):
            raise Refusal(f"{what} is not known")
    if any(node.input(i) is not None for i in (12, 13, 14, 15)):
        raise Refusal("a quantized cache, or normalized queries and keys, are not known")
    q, k, v = _grouped_heads(op, node)
    batch, _, length, size = q.shape
    few, dtype = k.shape[1], q.dtype
    past_k, past_v = node.input(3), node.input(4)
    total = op.reshape(op.cast(given(node, 5), _INT64) + 1, (batch, 1, 1, 1))
    before = _before(op, node, total, length)
    if node.attr("do_rotary", 0):
        cos, sin = _angles(op, node, before, length)
        q, k = (_turned(op, x, cos, sin, bool(node.attr("rotary_interleaved", 0))) for x in (q, k))
    new_k, new_v = k, v
    at = op.unsqueeze(op.range(length), [-1]) + before  # the position of each query
    place = op.unsqueeze(op.range(k.shape[2]), [-2]) + before
    seen = place < total
    if past_k is not None and past_v is not None:
        k, v = op.Concat(past_k, k, axis=2), op.Concat(past_v, v, axis=2)
        old = op.spread(op.range(past_k.shape[2]), (batch, 1, 1, past_k.shape[2]))
        seen = op.Concat(old < before, seen, axis=3)
        place = op.Concat(old, place, axis=3)
    if node.attr("causal", 1):
        seen = op.And(seen, place <= at)
    if node.attr("local_window_size", -1) > 0:
        seen = op.And(seen, place > at - int(node.attr("local_window_size")))
    groups = (batch, few, dim_div(q.shape[1], few) or 1, length, size)
    scores = op.MatMul(op.reshape(q, groups), op.unsqueeze(op.swap(k), [-3]))
    scores = scores * (node.attr("scale") or 1 / math.sqrt(fixed(size, "channels")))
    if node.attr("softcap", 0.0):
        scores = op.Tanh(scores * (1 / node.attr("softcap"))) * node.attr("softcap")
    scores = plus(scores, _bias_at(op, node, place, groups))
    scores = op.Where(op.unsqueeze(seen, [-4]), scores, _lowest(op, dtype))
    y = op.MatMul(_softmax_with_sink(op, node, scores), op.unsqueeze(v, [-3]))
    outputs = [_joined(op, op.reshape(y, q.shape))]
    if has_output(node, 1) or has_output(node, 2):
        ends = (before, total)
        outputs += [_present(op, node, i, p, new, ends) for i, p, new in ((1, past_k, new_k), (2, past_v, new_v))]
    return outputs


def _before(op: Builder, node: Node, total: Tensor, length: Dim) -> Tensor:
    """How many past keys a sample has, (batch, 1, 1, 1); none in a first prompt, which may be padded on the right."""
    if node.input(3) is None:
        return op.zeros_like(total)
    count = node.input(16)
    if count is not None:
        return total - op.reshape(op.cast(count, _INT64), total.shape)
    first = op.Equal(op.cast(op.reshape(given(node, 6), (1,)), _INT64), op.size(length))
    return op.Where(first, 0, total - op.size(length))


def _angles(op: Builder, node: Node, before: Tensor, length: Dim) -> list[Tensor]:
    """Cosines and sines of the new positions, (batch, 1, length, pairs)."""
    places, given_places = op.reshape(before, (before.shape[0], 1)) + op.range(length), node.input(9)
    if given_places is not None:
        start = op.reshape(op.Slice(given_places, [0, 0], [1, 1], [0, 1], shape=(1, 1)), ())
        first = op.Equal(op.cast(op.reshape(given(node, 6), (1,)), _INT64), op.size(length))
        places = op.Where(first, start + op.range(length), given_places)
    return [op.unsqueeze(op.Gather(given(node, i), places), [-3]) for i in (7, 8)]


def _bias_at(op: Builder, node: Node, place: Tensor, groups: Sequence[Dim]) -> Tensor | None:
    """What is added to the scores, which is given by position, for the keys at `place`; in groups of heads."""
    bias = node.input(10)
    if bias is None:
        return None
    if node.input(3) is not None:
        rows = (groups[0], bias.shape[1], bias.shape[2])
        last = op.size(bias.shape[3]) - 1
        index = op.spread(op.Min(place, last), (*rows, place.shape[3]))
        bias = op.GatherElements(op.spread(bias, (*rows, bias.shape[3])), index, axis=3)
    heads = (1, 1) if bias.shape[1] == 1 else (groups[1], groups[2])
    return op.reshape(bias, (bias.shape[0], *heads, *bias.shape[2:]))


def _softmax_with_sink(op: Builder, node: Node, scores: Tensor) -> Tensor:
    """The softmax of (batch, heads, group, queries, keys), with one more score per head, if asked for, that is
    dropped afterwards: a given one, or 0.
    """
    sink = node.input(11)
    if sink is None and node.attr("smooth_softmax", 0) != 1:
        return op.Softmax(scores, axis=-1)
    column = (*scores.shape[:-1], 1)
    if sink is None:
        more = op.full(column, 0, scores.dtype)
    else:
        more = op.spread(op.reshape(sink, (*scores.shape[1:3], 1, 1)), column)
    weights = op.Softmax(op.Concat(scores, more, axis=-1), axis=-1)
    return op.Slice(weights, [0], [-1], [-1], shape=scores.shape)


def _present(
    op: Builder, node: Node, index: int, past: Tensor | None, new: Tensor, ends: tuple[Tensor, Tensor]
) -> Tensor:
    """The past in front of the first new position, what is new, and zeros."""
    y = node.outputs[index]
    assert y is not None
    if past is None:
        return new
    before, total = ends
    place, count = op.reshape(op.range(y.shape[2]), (y.shape[2], 1)), op.size(past.shape[2])
    end = total if node.input(16) is not None else before + op.size(new.shape[2])
    rows = op.Concat(past, new, op.full((*new.shape[:2], 1, new.shape[3]), 0, new.dtype), axis=2)
    behind = op.Where(place < end, count + place - before, count + op.size(new.shape[2]))
    source = op.spread(op.Where(place < before, place, behind), y.shape)
    return op.GatherElements(rows, source, axis=2)


own("GroupQueryAttention", _group_query_attention, wrt=(0, 1, 2, 3, 4, 7, 8, 10, 11), follow=data_first(0, 1, 2, 3, 4))
