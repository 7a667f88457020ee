"""Linear attention, its gates and causal convolutions of onnxruntime's own domain: layers with a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_div, dim_mul, size_of
from onnxgrad.graph.flow import scan
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.contributed import along_last, data_first, fixed, given, has_output, own, refused, wide

_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64

# --- linear attention ------------------------------------------------------------------------------------


def _for_each(op: Builder, x: Tensor, heads: int) -> Tensor:
    """Give each of `heads` heads its own copy of what fewer heads on axis -2 share."""
    few = fixed(x.shape[-2], "heads")
    if few == heads:
        return x
    apart = (*x.shape[:-1], heads // few, x.shape[-1])
    return op.reshape(op.spread(op.unsqueeze(x, [-2]), apart), (*x.shape[:-2], heads, x.shape[-1]))


def _recurrence(
    op: Builder, state: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, beta: Tensor | None, delta: bool
) -> tuple[Tensor, Tensor]:
    """``S ← e^g S``, ``S ← S + k uᵀ``, ``o = Sᵀ q`` with ``u = v``, or with the delta rule ``u = β (v - Sᵀ k)``.

    Args:
        op: the builder.
        state: S at first, (batch, heads, depth, size).
        q: (batch, length, heads, queries per head, depth).
        k: (batch, length, heads, depth).
        v: (batch, length, heads, size).
        decay: g, (batch, length, heads, depth or 1), or None for 0.
        beta: β, (batch, length, heads or 1), for the delta rule.
        delta: whether the delta rule is used.

    Returns:
        o, (batch, length, heads, queries per head, size), and S at last.
    """
    sequences = [q, op.unsqueeze(k, [-2]), op.unsqueeze(v, [-2])]
    if decay is not None:
        sequences.append(op.unsqueeze(op.Exp(decay), [-1]))
    if delta:
        assert beta is not None
        sequences.append(op.unsqueeze(beta, [-1, -2]))

    def step(states: Sequence[Tensor], elements: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (s,), (q, k, v, *gates) = states, elements
        if decay is not None:
            s = s * gates[0]
        u = gates[-1] * (v - op.MatMul(k, s)) if delta else v
        s = s + op.MatMul(op.swap(k), u)
        return [s], [op.MatMul(q, s)]

    # one step behind another on axis 0: along another one, Scan of onnxruntime 1.32 dies of an empty batch
    (last,), (outputs,) = scan(op, step, [state], [op.swap(x, 0, 1) for x in sequences])
    return op.swap(outputs, 0, 1), last


def _rule(node: Node) -> tuple[bool, bool]:
    """Whether the state decays, and whether the delta rule is used."""
    name = node.attr("update_rule", "gated_delta")
    if name not in ("linear", "gated", "delta", "gated_delta"):
        raise Refusal(f"the update rule {name!r} is not known")
    return name.startswith("gated"), name.endswith("delta")


def _linear_attention(op: Builder, node: Node) -> tuple[Tensor, Tensor]:
    """A recurrence over a matrix of state per head, read by one or more queries per head."""
    if node.attr("state_window", 0):
        raise Refusal("several states are not known, as CPU kernels do not give them")
    q, k, v, state, decay, beta = (node.input(i) for i in range(6))
    assert q is not None
    assert k is not None
    assert v is not None
    heads, few = node.attr("q_num_heads"), node.attr("kv_num_heads")
    (batch, length, width), gated, delta = q.shape, *_rule(node)
    depth = fixed(dim_div(width, heads), "channels")
    size = fixed(dim_div(v.shape[2], few), "channels")
    key_heads = fixed(dim_div(k.shape[2], depth), "channels")
    keys = _for_each(op, op.reshape(k, (batch, length, key_heads, depth)), few)
    values = op.reshape(v, (batch, length, few, size))
    if heads < few:
        queries = op.unsqueeze(_for_each(op, op.reshape(q, (batch, length, heads, depth)), few), [-2])
    else:
        queries = op.reshape(q, (batch, length, few, heads // few, depth))
    if state is None:
        state = op.full((batch, few, depth, size), 0, q.dtype)
    if gated:
        assert decay is not None
        per_head = fixed(dim_div(decay.shape[2], few), "channels")
        decay = op.reshape(decay, (batch, length, few, per_head))
    y, last = _recurrence(op, state, queries, keys, values, decay if gated else None, beta, delta)
    scale = node.attr("scale", 0.0) or depth**-0.5
    return op.reshape(y, (batch, length, max(heads, few) * size)) * scale, last


def _gated_delta_net(op: Builder, node: Node) -> tuple[Tensor, Tensor]:
    """The same recurrence over tokens in one row, the same number for each sample; the state is transposed."""
    if node.input(3) is not None or node.input(9) is not None or node.attr("state_update_capacity", 0):
        raise Refusal("sequences of different lengths in one row, or captured updates, are not known")
    gated, delta = _rule(node)
    state = given(node, 6)
    batch, (heads, size, depth) = state.shape[0], (fixed(d, "heads and channels") for d in state.shape[1:])
    q, k, v = _query_key_value(op, node, heads, size, depth)
    length = dim_div(size_of(q.shape[:-2]), batch) or op.fresh_dim()

    def per_token(x: Tensor, *rest: int) -> Tensor:
        target = op.Concat(op.size(batch), op.ints([-1, *rest]), axis=0)
        return op.Reshape(wide(op, x), target, shape=(batch, length, *rest))

    few = fixed(q.shape[-2], "heads")
    q, k = (per_token(x, few, depth) for x in (q, k))
    if node.attr("qk_l2_norm", 0):
        q, k = (x * op.Reciprocal(op.Sqrt(op.sum(x * x, [-1]) + 1e-6)) for x in (q, k))
    q, k = (_for_each(op, x, heads) for x in (q, k))
    decay = _decay(op, node, per_token, heads) if gated else None
    beta = node.input(5)
    if beta is not None:
        beta = per_token(beta, heads)
        beta = op.Sigmoid(beta) if node.attr("beta_activation", "none") == "sigmoid" else beta
    y, last = _recurrence(op, op.swap(state), op.unsqueeze(q, [-2]), k, per_token(v, heads, size), decay, beta, delta)
    scale = node.attr("scale", 0.0) or depth**-0.5
    return op.cast(op.reshape(y, node.y.shape) * scale, node.y.dtype), op.swap(last)


def _query_key_value(op: Builder, node: Node, heads: int, size: int, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take a packed input apart to (…, heads, channels)."""
    q, k, v = (node.input(i) for i in range(3))
    assert q is not None
    if k is not None and v is not None:
        return q, k, v
    keys = (fixed(q.shape[-1], "channels") - heads * size) // 2
    parts = op.emit("Split", q, [keys, keys, heads * size], outputs=3, axis=-1)
    shapes = [(*q.shape[:-1], keys // depth, depth)] * 2 + [(*q.shape[:-1], heads, size)]
    q, k, v = (op.reshape(x, shape) for x, shape in zip(parts, shapes, strict=True))
    return q, k, v


def _decay(op: Builder, node: Node, per_token: Callable[..., Tensor], heads: int) -> Tensor:
    """The logarithm of the decay, (batch, length, heads, depth or 1)."""
    raw, how = given(node, 4), node.attr("gate_activation", "none")
    lead = node.x.rank - (1 if node.input(1) is None else 2)
    depth = fixed(raw.shape[-1], "channels") if raw.rank > lead + 1 else 1
    g = per_token(raw, heads, depth)
    if how == "none":
        return g
    slope, bias = op.Exp(op.reshape(given(node, 7), (heads, 1))), node.input(8)
    if bias is not None:
        g = g + op.reshape(bias, (heads, dim_div(size_of(bias.shape), heads) or 1))
    if how in ("softplus", "qwen"):
        return -slope * op.Softplus(g)
    return op.Sigmoid(slope * g) * float(node.attr("gate_lower_bound", -5.0))


def _gates(op: Builder, node: Node) -> list[Tensor]:
    """``scale · softplus(a + bias)``, and ``sigmoid(b)``."""
    a, bias, scale, b = node.x, given(node, 1), given(node, 2), node.input(3)
    outputs = [op.cast(op.Softplus(wide(op, a) + bias) * scale, a.dtype)]
    return [*outputs, op.cast(op.Sigmoid(wide(op, b)), a.dtype)] if b is not None and has_output(node, 1) else outputs


own("LinearAttention", _linear_attention, follow=samples.first_axis)
own("GatedDeltaNet", _gated_delta_net, remark="sequences of one length")
own("LinearAttentionGate", _gates, follow=along_last((0, 3)))

# --- causal convolution ------------------------------------------------------------------------------------


def _activated(op: Builder, node: Node, y: Tensor) -> Tensor:
    return y if node.attr("activation", "none") == "none" else y * op.Sigmoid(y)


def _causal_convolution(op: Builder, node: Node) -> tuple[Tensor, Tensor]:
    """Each channel's own convolution with what came before, and the last of it, for the next call."""
    x, weights, bias, past = (node.input(i) for i in range(4))
    extended = ("state_update_capacity", "state_window", "state_length", "input_channel_offset", "input_channels")
    if any(node.attr(name, 0) for name in extended) or node.attr("ndim", 1) != 1:
        raise Refusal("more than one axis, or further attributes, are not known, as CPU kernels do not have them")
    assert x is not None
    assert weights is not None
    last, shape = bool(node.attr("channels_last", 0)), x.shape
    channels = fixed(weights.shape[0], "channels")
    reach = (fixed(weights.shape[2], "taps") - 1) * node.attr("dilation", 1)

    def channels_first(t: Tensor) -> Tensor:
        return op.swap(op.reshape(t, (*t.shape[:2], channels))) if last else t

    def back(t: Tensor) -> Tensor:
        return op.reshape(op.swap(t), (t.shape[0], t.shape[2], *shape[2:])) if last else t

    before = op.full((shape[0], channels, reach), 0, x.dtype) if past is None else channels_first(past)
    whole = op.Concat(before, channels_first(x), axis=2)
    length = shape[1] if last else shape[2]
    y = op.Conv(
        whole, weights, bias, group=channels, dilations=[node.attr("dilation", 1)], shape=(shape[0], channels, length)
    )
    rest = op.Slice(whole, op.size(length), [2**31 - 1], [2], shape=(shape[0], channels, reach))
    return back(_activated(op, node, y)), back(rest)


def _ragged_convolution(op: Builder, node: Node) -> tuple[Tensor, Tensor]:
    """The same for sequences of different lengths in one row, ``(tokens, channels)``, each behind a state of its own.

    What each token reads is gathered from all tokens and, behind them, all states.
    """
    x, weights, ends, bias, states = (node.input(i) for i in range(5))
    if node.attr("state_update_capacity", 0) or node.input(6) is not None:
        raise Refusal("captured updates, or weights that change, are not known")
    assert x is not None
    assert weights is not None
    assert ends is not None
    assert states is not None
    taps, step, (tokens, channels) = fixed(weights.shape[2], "taps"), node.attr("dilation", 1), x.shape
    batch, _, reach = states.shape
    ends = op.cast(ends, _INT64)
    table = op.Concat(x, op.reshape(op.swap(states), (dim_mul(batch, reach), channels)), axis=0)

    def rows(start: Tensor, sample: Tensor, place: Tensor) -> Tensor:
        """Rows of the table: at places of samples that start at a token; those before 0 lie in the state."""
        in_state = op.size(tokens) + sample * op.size(reach) + place + op.size(reach)
        return op.Gather(table, op.Where(place < 0, in_state, start + place), axis=0)

    token = op.range(tokens)
    starts, stops = (op.Slice(ends, [i], [j], [0], shape=(batch,)) for i, j in ((0, -1), (1, 2**31 - 1)))
    sample = op.ReduceSum(op.cast(op.unsqueeze(token, [-1]) >= stops, _INT64), [-1], keepdims=0)
    start = op.unsqueeze(op.Gather(starts, sample), [-1])
    back = op.constant([(j - taps + 1) * step for j in range(taps)], _INT64)
    read = rows(start, op.unsqueeze(sample, [-1]), op.unsqueeze(token, [-1]) - start + back)
    kernel = op.swap(op.reshape(weights, (channels, taps)))
    y = op.sum(read * kernel, [-2], keepdims=False)
    y = y if bias is None else y + bias
    place = op.unsqueeze(stops - starts, [-1]) - op.size(reach) + op.range(reach)
    rest = rows(op.unsqueeze(starts, [-1]), op.unsqueeze(op.range(batch), [-1]), place)
    return _activated(op, node, y), op.swap(rest)


own("CausalConvWithState", _causal_convolution, follow=data_first(0, 3))
own("VarlenCausalConvWithState", _ragged_convolution, wrt=(0, 1, 3, 4))
refused(
    "AttnLSTM",
    "a recurrent layer with attention inside is not known",
    "export it as an LSTM in a Scan or Loop",
)
