"""Mixtures of experts, and streams that are mixed, of onnxruntime's own domain."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_div, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.contributed import data_first, fast_gelu, fixed, given, has_output, own, plus, wide
from onnxgrad.rules.samples import Mixed, Samples

# --- experts ---------------------------------------------------------------------------------------------


def _expert(op: Builder, node: Node, x: Tensor) -> Tensor:
    """The activation of an expert's hidden layer."""
    name = node.attr("activation_type", "relu")
    if name == "swiglu":
        return _swiglu(op, node, x)
    if name == "gelu":
        return fast_gelu(op, x)
    if name in ("relu", "silu"):
        return op.Relu(x) if name == "relu" else x * op.Sigmoid(x)
    if name == "identity":
        return x
    raise Refusal(f"the activation {name!r} is not known")


def _swiglu(op: Builder, node: Node, x: Tensor) -> Tensor:
    """``g · sigmoid(α g) · (l + β)``, both clipped if there is a limit; g and l lie side by side in pairs."""
    if node.attr("swiglu_fusion", 0) != 1 or node.attr("swiglu_limit_after_activation", 0):
        raise Refusal("gates that do not lie side by side with values are not known, as CPU kernels do not take them")
    half = fixed(dim_div(x.shape[-1], 2), "channels")
    pairs = op.reshape(x, (*x.shape[:-1], half, 2))
    gate, value = (op.Gather(pairs, op.constant(i, ir.DataType.INT64), axis=-1) for i in (0, 1))
    limit = node.attr("swiglu_limit")
    if limit is not None:
        gate = op.Min(gate, op.constant(limit, x.dtype))
        value = op.Clip(value, op.constant(-limit, x.dtype), op.constant(limit, x.dtype))
    alpha, beta = (float(node.attr(f"activation_{name}", d)) for name, d in (("alpha", 1.0), ("beta", 0.0)))
    return gate * op.Sigmoid(gate * alpha) * (value + beta)


def _mixture(op: Builder, node: Node) -> Tensor:
    """The outputs of the k experts with the largest scores, weighted by the softmax of all scores.

    Here every expert sees every token; those that were not chosen have the weight 0.
    """
    x, scores, up, up_bias, down, down_bias = (node.input(i) for i in range(6))
    if node.input(6) is not None or node.attr("use_sparse_mixer", 0):
        raise Refusal("a third layer, or a sparse mixer, is not known, as CPU kernels do not have them")
    assert x is not None
    assert scores is not None
    assert up is not None
    assert down is not None
    rows, experts = scores.shape
    best = op.emit("TopK", scores, [node.attr("k", 1)], outputs=2, axis=-1)[1]
    ones = op.full(best.shape, 1, scores.dtype)
    chosen = op.ScatterElements(op.zeros_like(scores), best, ones, axis=-1)
    weights = op.Softmax(scores, axis=-1) * chosen
    if node.attr("normalize_routing_weights", 0):
        weights = weights / op.sum(weights, [-1])
    tokens = op.reshape(x, (1, rows, x.shape[-1]))
    hidden = plus(op.MatMul(tokens, op.swap(up)), None if up_bias is None else op.unsqueeze(up_bias, [-2]))
    hidden = _expert(op, node, hidden)
    out = plus(op.MatMul(hidden, op.swap(down)), None if down_bias is None else op.unsqueeze(down_bias, [-2]))
    weighted = out * op.reshape(op.swap(weights), (experts, rows, 1))
    return op.reshape(op.sum(weighted, [-3], keepdims=False), x.shape)


def _router(op: Builder, node: Node) -> list[Tensor | None]:
    """``log sigmoid(x)`` of the chosen experts; or of all ``sigmoid(x) + bias`` and ``sigmoid(x)``."""
    if node.input(2) is not None:
        raise Refusal("a projection inside is not known, as CPU kernels do not have it")
    x = op.reshape(wide(op, node.x), (size_of(node.x.shape[:-1]), node.x.shape[-1]))
    s, sentinel, y = op.Sigmoid(x), node.attr("router_sentinel", -10000.0), node.outputs[0]
    outputs: list[Tensor | None] = [None, s + given(node, 1), s]
    if y is not None and has_output(node, 0):
        log = op.Log(op.Max(s, op.constant(1e-20, s.dtype)))
        outputs[0] = op.cast(op.Where(op.Equal(y, sentinel), op.constant(sentinel, s.dtype), log), y.dtype)
    return outputs


def _follow_tokens(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if node.x.rank != 2:
        raise Mixed("its samples are taken as rows of tokens")
    return data_first(0, 1)(node, inputs)


own("MoE", _mixture, follow=_follow_tokens, remark="every expert sees every token in the derivative")
own("MoEGroupRouter", _router, wrt=(0, 1), remark="which experts are chosen is taken as constant")

# --- streams that are mixed --------------------------------------------------------------------------------


def _streams(op: Builder, node: Node, x: Tensor) -> Tensor:
    """Take (…, branches · channels) apart to (…, branches, channels)."""
    branches = node.attr("num_branches", 0)
    if not branches:
        return x
    return op.reshape(x, (*x.shape[:-1], branches, fixed(dim_div(x.shape[-1], branches), "channels")))


def _gate_of(op: Builder, gate: Tensor, streams: Tensor) -> Tensor:
    """A gate per branch, or per branch and channel (perhaps in one axis), aligned with the streams."""
    if gate.rank == streams.rank:
        return gate
    per_channel = gate.shape[-1] != streams.shape[-2]
    return op.reshape(gate, streams.shape) if per_channel else op.unsqueeze(gate, [-1])


def _reduced_streams(op: Builder, node: Node) -> Tensor:
    """``scale · Σ_c x_c · gate_c``."""
    x = wide(op, _streams(op, node, node.x))
    y = op.sum(x * wide(op, _gate_of(op, given(node, 1), x)), [-2], keepdims=False)
    return op.cast(y * float(node.attr("reduction_scale", 1.0)), node.x.dtype)


def _mixed_streams(op: Builder, node: Node) -> Tensor:
    """``y_k = Σ_c M_ck x_c + gate_k · block``."""
    x, block, mix = wide(op, _streams(op, node, node.x)), wide(op, given(node, 1)), node.input(3)
    injected = wide(op, _gate_of(op, given(node, 2), x)) * op.unsqueeze(block, [-2])
    mixed = x if mix is None else op.MatMul(op.swap(wide(op, mix)), x)
    return op.reshape(op.cast(mixed + injected, node.x.dtype), node.x.shape)


def _follow_streams(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if node.x.rank < (2 if node.attr("num_branches", 0) else 3):
        raise Mixed("the samples are the branches that it mixes")
    return samples.first_axis(node, inputs)


own("HyperConnectionPreMix", _reduced_streams, follow=_follow_streams)
own("HyperConnectionPostMix", _mixed_streams, follow=_follow_streams)
