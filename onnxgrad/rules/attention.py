"""Attention: each query takes a mean of values, weighted by how well their keys fit it.

Inside, queries, keys and values are (batch, heads, length, size). Heads of queries may share those of keys and values
in groups: the queries of a group then stand one below another, as if they were one longer sequence, so that nothing is
repeated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxgrad.graph.attention import one_of
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, dim_div, dim_floordiv, dim_mul, dim_sub
from onnxgrad.graph.flow import scan
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed
from onnxgrad.rules.samples import Following, Mixed, Samples

_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE

# --- what all kinds share ----------------------------------------------------------------------


def given(node: Node, index: int) -> Tensor:
    """Return an input that is there."""
    tensor = node.input(index)
    assert tensor is not None
    return tensor


def heads_apart(op: Builder, x: Tensor, heads: int | None) -> Tensor:
    """Take (batch, length, heads · size) to (batch, heads, length, size); a tensor of four axes stays as it is."""
    if x.rank == 4 or heads is None:
        return x
    batch, length, width = x.shape
    return op.Transpose(op.reshape(x, (batch, length, heads, dim_floordiv(width, heads))), perm=[0, 2, 1, 3])


def heads_joined(op: Builder, x: Tensor) -> Tensor:
    """Take (batch, heads, length, size) to (batch, length, heads · size)."""
    batch, heads, length, size = x.shape
    return op.reshape(op.Transpose(x, perm=[0, 2, 1, 3]), (batch, length, dim_mul(heads, size)))


def _in_groups(op: Builder, x: Tensor, heads: Dim) -> Tensor:
    """Take (batch, q heads, length, size) to (batch, heads, q heads / heads · length, size)."""
    batch, q_heads, length, size = x.shape
    if q_heads == heads:
        return x
    group = dim_div(q_heads, heads)
    if group is not None:
        return op.reshape(x, (batch, heads, dim_mul(group, length), size))
    rows = op.size(dim_mul(q_heads, length)) / op.size(heads)
    target = op.Concat(op.ints((batch, heads)), rows, op.ints((size,)), axis=0)
    return op.Reshape(x, target, allowzero=1, shape=(batch, heads, op.fresh_dim(), size))


def _same_sizes(op: Builder, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give one name to sizes that must be equal."""
    batch = one_of(q.shape[0], k.shape[0], v.shape[0])
    heads, length, size = one_of(k.shape[1], v.shape[1]), one_of(k.shape[2], v.shape[2]), one_of(q.shape[3], k.shape[3])
    return (
        op.reshape(q, (batch, *q.shape[1:3], size)),
        op.reshape(k, (batch, heads, length, size)),
        op.reshape(v, (batch, heads, length, v.shape[3])),
    )


def _scores(op: Builder, node: Node, q: Tensor, k: Tensor) -> Tensor:
    """``scale · Q Kᵀ``, shape (batch, q heads, q length, k length)."""
    scale, size = node.attr("scale"), q.shape[3]
    if scale is None:
        scale = 1 / math.sqrt(max(size, 1)) if isinstance(size, int) else op.Sqrt(op.one_over(size, q.dtype))
    products = op.MatMul(_in_groups(op, q * scale, k.shape[1]), op.swap(k))
    return op.reshape(products, (*q.shape[:3], k.shape[2]))


def _weighted(op: Builder, weights: Tensor, v: Tensor) -> Tensor:
    """``P V``, shape (batch, q heads, q length, size)."""
    return op.reshape(op.MatMul(_in_groups(op, weights, v.shape[1]), v), (*weights.shape[:3], v.shape[3]))


def _batch(shared: Mapping[int, int]) -> Following:
    """Follow an operator that keeps samples apart on axis 0; all of them share the inputs at the positions `shared`,
    unless these have the rank that is given there, and axis 0 too.
    """

    def follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
        for i, rank in shared.items():
            x = node.input(i)
            if x is not None and inputs[i] is not None and (x.rank != rank or x.shape[0] != node.x.shape[0]):
                raise Mixed(f"samples reach it through input {i}, which all samples share")
        return samples.first_axis(node, inputs)

    return follow


# --- Attention ---------------------------------------------------------------------------------


def _sequences(op: Builder, node: Node) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, and past and new keys and values."""
    heads, kv_heads = node.attr("q_num_heads"), node.attr("kv_num_heads")
    q = heads_apart(op, node.x, heads)
    k, v = (heads_apart(op, given(node, i), kv_heads) for i in (1, 2))
    q, k, v = _same_sizes(op, q, k, v)
    past_k, past_v = node.input(4), node.input(5)
    if past_k is not None and past_v is not None:
        length = one_of(past_k.shape[2], past_v.shape[2])
        k = op.Concat(op.reshape(past_k, (*k.shape[:2], length, k.shape[3])), k, axis=2)
        v = op.Concat(op.reshape(past_v, (*v.shape[:2], length, v.shape[3])), v, axis=2)
    return q, k, v


def _seen_by_place(op: Builder, node: Node, q: Tensor, k: Tensor) -> list[Tensor]:
    """Return by place, as (q length, k length) or (batch, 1, 1 or q length, k length), which keys each query sees.

    Query i stands behind all that is past, at place ``p = offset + i``. It sees key j if ``j <= p`` (causal),
    ``p - left <= j <= p + right`` (windows), and j is no padding.
    """
    left, right = node.attr("left_window_size", -1), node.attr("right_window_size", -1)
    past, filled = node.input(4), node.input(6)
    queries, keys = op.unsqueeze(op.range(q.shape[2]), [-1]), op.range(k.shape[2])
    seen: list[Tensor] = []
    if past is not None:
        queries = queries + op.size(past.shape[2])
    elif filled is not None:
        filled = op.reshape(filled, (q.shape[0], 1, 1, 1))
        queries = queries + (filled - op.size(q.shape[2]))
        seen.append(keys < filled)
    if node.attr("is_causal"):
        seen.append(keys <= queries)
    if left >= 0:
        seen.append(keys >= queries - left)
    if right >= 0:
        seen.append(keys <= queries + right)
    return seen


def _up_to(op: Builder, bias: Tensor, length: Dim) -> Tensor:
    """Fill up a bias along its last axis: what it does not reach is not seen."""
    if bias.shape[-1] == length:
        return bias
    pads = op.ints([*[0] * (2 * bias.rank - 1), dim_sub(length, bias.shape[-1])])
    return op.Pad(bias, pads, op.constant(-math.inf, bias.dtype), shape=(*bias.shape[:-1], length))


def _bias(op: Builder, node: Node, q: Tensor, k: Tensor) -> Tensor | None:
    """Return what is added to the scores, -∞ for what is not seen; broadcast to (batch, q heads, q length, k length).

    Version 23 broadcasts the last axis of a mask, later ones fill it up.
    """
    zero, never = op.constant(0, q.dtype), op.constant(-math.inf, q.dtype)
    mask = node.input(3)
    bias: Tensor | None = None
    if mask is not None:
        bias = op.Where(mask, zero, never) if mask.dtype == ir.DataType.BOOL else op.cast(mask, q.dtype)
        bias = bias if node.version == 23 else _up_to(op, bias, k.shape[2])
    seen = _seen_by_place(op, node, q, k)
    if seen:
        by_place = op.Where(functools.reduce(op.And, seen), zero, never)
        bias = by_place if bias is None else bias + by_place
    return bias


def _blind(op: Builder, node: Node, bias: Tensor | None) -> Tensor:
    """Return which queries see nothing; without a mask, padding or windows, the first key is seen by all."""
    windows = max(node.attr("left_window_size", -1), node.attr("right_window_size", -1)) >= 0
    if bias is None or not (windows or node.input(3) is not None or node.input(6) is not None):
        return op.constant(False)
    return op.Equal(op.ReduceMax(bias, [-1]), -math.inf)


def _attention(op: Builder, node: Node) -> list[Tensor]:
    """``Y = P V``, ``P = softmax(S + bias)``, ``S = c · tanh(scale · Q Kᵀ / c)`` with the cap c.

    A query that sees nothing gets zeros: its bias becomes 0, so that no NaN is on the way, and its row is left out of
    Y. The softmax is taken in float32 at least.
    """
    q, k, v = _sequences(op, node)
    raw = _scores(op, node, q, k)
    cap, bias = node.attr("softcap"), _bias(op, node, q, k)
    capped = biased = cap * op.Tanh(raw * (1 / cap)) if cap > 0 else raw
    blind = _blind(op, node, bias)
    if bias is not None:
        biased = op.Add(capped, op.Where(blind, 0, bias), shape=raw.shape)
    wide = _DOUBLE if _DOUBLE in (q.dtype, node.attr("softmax_precision")) else _FLOAT
    weights = op.cast(op.Softmax(op.cast(biased, wide), axis=-1), q.dtype)
    y = op.Where(blind, 0, _weighted(op, weights, op.cast(v, q.dtype)))
    y = y if node.x.rank == 4 else heads_joined(op, y)
    return [y, k, v] if len(node.outputs) < 4 else [y, k, v, _inner(op, node, raw, capped, bias, blind, weights)]


def _inner(
    op: Builder, node: Node, raw: Tensor, capped: Tensor, bias: Tensor | None, blind: Tensor, weights: Tensor
) -> Tensor:
    """Return the last output: scores, capped ones, these with the bias (constant where it is -∞), or weights."""
    mode = node.attr("qk_matmul_output_mode")
    if mode == 3:
        return op.Where(blind, 0, weights)
    if mode == 2 and bias is not None:
        return op.Where(op.Equal(bias, -math.inf), -math.inf, op.Add(capped, bias, shape=raw.shape))
    return capped if mode else raw


composed("Attention", _attention, versions=(23, 24, 25), follow=_batch({3: 4}))

# --- FlexAttention -----------------------------------------------------------------------------


def _modified(op: Builder, node: Node, name: str, x: Tensor) -> Tensor:
    """Apply the graph in an attribute, if there is one."""
    if node.attr(name) is None:
        return x
    graph: ir.Graph = node.attr(name)
    (result,) = op.inline(graph, {graph.inputs[0]: x})
    assert result is not None
    return op.reshape(result, x.shape)


def _flex_attention(op: Builder, node: Node) -> Tensor:
    """``Y = g(softmax(f(scale · Q Kᵀ))) V``, with f and g the graphs `score_mod` and `prob_mod`."""
    q, k, v = _same_sizes(op, node.x, given(node, 1), given(node, 2))
    precision = ir.DataType(node.attr("softmax_precision") or (_DOUBLE if q.dtype == _DOUBLE else _FLOAT))
    scores = _modified(op, node, "score_mod", op.cast(_scores(op, node, q, k), precision))
    weights = _modified(op, node, "prob_mod", op.Softmax(scores, axis=-1))
    return op.cast(_weighted(op, weights, op.cast(v, precision)), q.dtype)


def _follow_flex(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if node.attr("score_mod") is not None or node.attr("prob_mod") is not None:
        raise Mixed("it is not known what its graphs score_mod and prob_mod do to samples")
    return samples.first_axis(node, inputs)


composed(
    "FlexAttention",
    _flex_attention,
    domain="ai.onnx.preview",
    versions=(1,),
    follow=_follow_flex,
    remark="its graphs are written out, without derivatives by values that they take from around them",
)

# --- LinearAttention ---------------------------------------------------------------------------


def _linear_attention(op: Builder, node: Node) -> tuple[Tensor, Tensor]:
    """``o_t = scale · S_tᵀ q_t`` with the state ``S_t = e^{g_t} S_{t-1} + k_t w_tᵀ``, step by step in t.

    Here ``w_t = v_t``, or with a rate β (update rules with "delta") ``w_t = β_t (v_t - (e^{g_t} S_{t-1})ᵀ k_t)``. It is
    computed in float32 at least. Vectors are rows here, (batch, heads, 1 or queries of a group, size).
    """
    past, decay, beta = (node.input(i) for i in (3, 4, 5))
    q_heads, heads = node.attr("q_num_heads"), node.attr("kv_num_heads")
    wide = _DOUBLE if node.x.dtype == _DOUBLE else _FLOAT
    batch, length = (one_of(*(given(node, i).shape[axis] for i in range(3))) for axis in (0, 1))
    key_size = one_of(dim_floordiv(node.x.shape[2], q_heads), dim_floordiv(given(node, 1).shape[2], heads))
    value_size = dim_floordiv(given(node, 2).shape[2], heads)
    state: Shape = (batch, heads, key_size, value_size)

    def steps(x: Tensor, *shape: Dim) -> Tensor:
        """One step behind another on axis 0: along another one, `Scan` of onnxruntime 1.32 dies of an empty batch."""
        apart = op.reshape(op.cast(x, wide), (batch, length, *shape))
        return op.Transpose(apart, perm=[1, 0, *range(2, apart.rank)])

    scale = node.attr("scale") or op.Sqrt(op.one_over(key_size, wide))
    elements = [
        steps(node.x, heads, q_heads // heads, key_size) * scale,
        steps(given(node, 1), heads, 1, key_size),
        steps(given(node, 2), heads, 1, value_size),
    ]
    if decay is not None:  # one number per head, or one per key channel
        width = dim_floordiv(decay.shape[2], heads)
        rate = steps(op.Exp(op.cast(decay, wide)), heads, width, 1)
        elements.append(rate if width == 1 else op.spread(rate, (length, batch, heads, key_size, 1)))
    if beta is not None:  # one number, or one per head
        elements.append(op.spread(steps(beta, beta.shape[2], 1, 1), (length, batch, heads, 1, 1)))

    def step(states: Sequence[Tensor], now: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (s,), (q, k, w, *rest) = states, now
        if decay is not None:
            s = s * rest[0]
        if beta is not None:
            w = rest[-1] * (w - k @ s)
        s = s + op.swap(k) @ w
        return [s], [q @ s]

    start = op.full(state, 0, wide) if past is None else op.reshape(op.cast(past, wide), state)
    (end,), (outputs,) = scan(op, step, [start], elements)
    y = op.reshape(op.Transpose(outputs, perm=[1, 0, 2, 3, 4]), (batch, length, dim_mul(q_heads, value_size)))
    return op.cast(y, node.x.dtype), op.cast(end, node.x.dtype if past is None else past.dtype)


composed("LinearAttention", _linear_attention, versions=(27,), follow=samples.first_axis, remark="token by token")

# --- what stands before attention, and behind it --------------------------------------------------


def _rotary_embedding(op: Builder, node: Node) -> Tensor:
    """Turn pairs (a, b) of channels by an angle of their position: ``(a cos - b sin, a sin + b cos)``.

    Pairs are neighbors (`interleaved`), or their halves lie one behind the other; channels beyond
    `rotary_embedding_dim` stay as they are.
    """
    x, places, heads = node.x, node.input(3), node.attr("num_heads")
    if x.rank == 3:
        x = op.reshape(x, (*x.shape[:2], heads, dim_floordiv(x.shape[2], heads)))
    turning: Dim = node.attr("rotary_embedding_dim") or x.shape[-1]
    half = dim_floordiv(turning, 2)
    head_axis, pair_axis = (1 if node.x.rank == 4 else 2), (-1 if node.attr("interleaved") else -2)

    def table(i: int) -> Tensor:
        """Aligned with the parts: (batch, length, 1, half, 1) or with other places of the ones."""
        cache = given(node, i) if places is None else op.Gather(given(node, i), places, axis=0)
        whole = [x.shape[0], x.shape[2 if head_axis == 1 else 1], half]
        whole.insert(head_axis, 1)
        return op.unsqueeze(op.reshape(cache, whole), [pair_axis])

    cos, sin = table(1), table(2)
    part = op.Slice(x, [0], op.size(turning), [-1], shape=(*x.shape[:-1], turning)) if turning != x.shape[-1] else x
    pairs = op.reshape(part, (*x.shape[:-1], *((half, 2) if pair_axis == -1 else (2, half))))
    a, b = op.emit("Split", pairs, outputs=2, axis=pair_axis, num_outputs=2)
    turned = op.reshape(op.Concat(a * cos - b * sin, a * sin + b * cos, axis=pair_axis), part.shape)
    if turning != x.shape[-1]:
        rest = (*x.shape[:-1], dim_sub(x.shape[-1], turning))
        turned = op.Concat(turned, op.Slice(x, op.size(turning), op.size(x.shape[-1]), [-1], shape=rest), axis=-1)
    return op.reshape(turned, node.x.shape)


composed("RotaryEmbedding", _rotary_embedding, versions=(23,), wrt=(0, 1, 2), follow=_batch({1: 3, 2: 3}))


def _causal_convolution(op: Builder, node: Node) -> tuple[Tensor, Tensor]:
    """Convolve each channel with its own kernel over what is past and present; then perhaps ``y · sigmoid(y)``.

    A number of channels that is not known is no `group` of a `Conv`, so then all windows are laid out.
    """
    x, weight, bias, past = (node.input(i) for i in range(4))
    assert x is not None
    assert weight is not None
    batch, channels, length = x.shape
    channels, kernel = one_of(channels, weight.shape[0]), weight.shape[2]
    behind = dim_sub(kernel, 1)
    start = op.full((batch, channels, behind), 0, x.dtype) if past is None else past
    whole = op.Concat(op.reshape(start, (batch, channels, behind)), op.reshape(x, (batch, channels, length)), axis=2)
    if isinstance(channels, int):
        y = op.Conv(whole, weight, bias, group=channels, shape=(batch, channels, length))
    else:
        places = op.unsqueeze(op.range(length), [-1]) + op.range(kernel)
        y = op.sum(op.Gather(whole, places, axis=2) * op.reshape(weight, (channels, 1, kernel)), [-1], keepdims=False)
        y = y if bias is None else y + op.reshape(bias, (channels, 1))
    end = op.Slice(whole, op.size(length), op.size(whole.shape[2]), [-1], shape=(batch, channels, behind))
    return y if node.attr("activation") == "none" else y * op.Sigmoid(y), end


composed("CausalConvWithState", _causal_convolution, versions=(27,), follow=_batch({1: 0, 2: 0}))


def _swiglu(op: Builder, node: Node) -> Tensor:
    """``a · sigmoid(alpha · a) · b``."""
    return node.x * op.Sigmoid(node.x * node.attr("alpha")) * given(node, 1)


composed("SwiGLU", _swiglu, versions=(28,), follow=samples.aligned)
