"""Operators of onnxruntime's own domain that the optimizer writes for other devices than the CPU.

The CPU has no kernels of them, so that they are held to the formulas of their documentation alone.
"""

from __future__ import annotations

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_div, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.contributed import (
    activated,
    along_last,
    data_first,
    fast_gelu,
    fixed,
    gelu,
    given,
    has_output,
    own,
    plus,
    wide,
)
from onnxgrad.rules.microsoft import follow_matmul, fused_matmul

_REMARK = "no kernel for CPU; by its documentation"

# --- activations and products ----------------------------------------------------------------------------


def _halves(op: Builder, x: Tensor) -> tuple[Tensor, ...]:
    half = fixed(dim_div(x.shape[-1], 2), "channels")
    return op.emit("Split", x, [half, half], outputs=2, axis=-1)


def _split_gelu(op: Builder, node: Node) -> Tensor:
    """``a · gelu(b)``, where a and b are the halves of ``x + bias``."""
    a, b = _halves(op, node.x + given(node, 1))
    return a * gelu(op, b)


def _softmax(op: Builder, node: Node) -> Tensor:
    if node.attr("axis", 1) not in (-1, node.x.rank - 1):
        raise Refusal("a softmax over more than the last axis is not known")
    return op.Softmax(node.x + given(node, 1), axis=-1)


def _swiglu(op: Builder, node: Node) -> Tensor:
    """``g · sigmoid(α g) · (l + β)``, both clipped if there is a limit above 0."""
    up = node.input(1)
    gate, value = (wide(op, t) for t in (_halves(op, node.x) if up is None else (node.x, up)))
    limit = node.attr("limit", 0.0)
    if limit > 0:
        gate = op.Min(gate, op.constant(limit, gate.dtype))
        value = op.Clip(value, op.constant(-limit, value.dtype), op.constant(limit, value.dtype))
    y = gate * op.Sigmoid(gate * float(node.attr("activation_alpha", 1.0)))
    return op.cast(y * (value + float(node.attr("activation_beta", 0.0))), node.x.dtype)


def _activated_matmul(op: Builder, node: Node) -> Tensor:
    numbers = [node.attr(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    return activated(op, fused_matmul(op, node), node.attr("activation", ""), numbers)


def _gemm_gelu(op: Builder, node: Node) -> Tensor:
    return fast_gelu(op, plus(op.MatMul(node.x, given(node, 1)), node.input(2)))


own("BiasAdd", lambda op, node: node.x + given(node, 1) + given(node, 2), follow=samples.aligned, remark=_REMARK)
own("BiasSplitGelu", _split_gelu, follow=along_last((0,)), remark=_REMARK)
own("BiasSoftmax", _softmax, follow=along_last((0, 1)), remark=_REMARK)
own("SwiGLU", _swiglu, follow=along_last((0, 1)), remark=_REMARK)
own("FusedMatMulActivation", _activated_matmul, follow=follow_matmul, remark=_REMARK)
own("GemmFastGelu", _gemm_gelu, follow=along_last((0,)), remark=_REMARK)

# --- normalization of groups -----------------------------------------------------------------------------


def _in_groups(op: Builder, node: Node, x: Tensor) -> Tensor:
    """``γ (x - mean) / √(variance + ε) + β`` in groups of channels, and perhaps SiLU."""
    last, groups = node.attr("channels_last", 1), node.attr("groups")
    first = op.Transpose(x, perm=[0, x.rank - 1, *range(1, x.rank - 1)]) if last else x
    size = fixed(dim_div(first.shape[1], groups), "channels")
    parts = op.reshape(wide(op, first), (first.shape[0], groups, size_of((size, *first.shape[2:]))))
    centered = parts - op.mean(parts, [-1])
    scaled = centered * op.Reciprocal(op.Sqrt(op.mean(centered * centered, [-1]) + node.attr("epsilon", 1e-5)))
    gamma, beta = (op.reshape(wide(op, given(node, i)), (groups * size, *[1] * (x.rank - 2))) for i in (1, 2))
    y = op.reshape(scaled, first.shape) * gamma + beta
    y = y * op.Sigmoid(y) if node.attr("activation", 0) == 1 else y
    y = op.Transpose(y, perm=[0, *range(2, x.rank), 1]) if last else y
    return op.cast(y, x.dtype)


def _after_sum(op: Builder, node: Node) -> list[Tensor]:
    """The same of ``x + skip + bias``, and the sum itself."""
    if not node.attr("channels_last", 1):
        raise Refusal("a sum with channels in front is not known")
    x, skip = node.x, given(node, 3)
    skip = op.unsqueeze(skip, [-2, -3]) if skip.rank == 2 else skip
    total = plus(x, skip, node.input(4))
    return [_in_groups(op, node, total), *([total] if has_output(node, 1) else [])]


own("GroupNorm", lambda op, node: _in_groups(op, node, node.x), follow=data_first(0), remark=_REMARK)
own("SkipGroupNorm", _after_sum, follow=data_first(0, 3), remark=_REMARK)
