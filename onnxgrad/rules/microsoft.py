"""Operators of onnxruntime's own domain, com.microsoft, in models that come in (none is ever emitted).

Each is an expression in standard operators with the values of onnxruntime's CPU kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.foreign_microsoft import matrix_order
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.contributed import DOMAIN, activated, fast_gelu, gelu, given, own, plus, refused, wide
from onnxgrad.rules.registry import vjp
from onnxgrad.rules.samples import Mixed, Samples
from onnxgrad.rules.sampling import grid_sample

# --- activations -------------------------------------------------------------------------------


own("Gelu", lambda op, node: gelu(op, node.x), follow=samples.aligned)
own("BiasGelu", lambda op, node: gelu(op, node.x + given(node, 1)), follow=samples.aligned)
own("FastGelu", lambda op, node: fast_gelu(op, plus(node.x, node.input(1))), follow=samples.aligned)
own(
    "QuickGelu",
    lambda op, node: node.x * op.Sigmoid(node.x * node.attr("alpha", 1.702)),
    follow=samples.aligned,
)
own("GatedAdd", lambda op, node: node.x + given(node, 1) * given(node, 2), follow=samples.aligned)
own("ScaledSiLU", lambda op, node: _scaled_silu(op, node), follow=samples.aligned)


def _scaled_silu(op: Builder, node: Node) -> Tensor:
    """``z · sigmoid(z)`` with ``z = scale · x``."""
    x, scale = wide(op, node.x), node.input(1)
    z = x * float(node.attr("alpha", 1.0)) if scale is None else x * wide(op, scale)
    return op.cast(z * op.Sigmoid(z), node.x.dtype)


# --- fused products ----------------------------------------------------------------------------


def _ordered(op: Builder, node: Node, index: int) -> Tensor:
    x, name = given(node, index), "AB"[index]
    order = matrix_order(x.rank, bool(node.attr(f"trans{name}")), bool(node.attr(f"transBatch{name}")))
    return op.Transpose(x, perm=order)


def fused_matmul(op: Builder, node: Node) -> Tensor:
    """``α A' B'``, with A' and B' transposed where the attributes say so."""
    return op.MatMul(_ordered(op, node, 0), _ordered(op, node, 1)) * float(node.attr("alpha", 1.0))


def follow_matmul(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow `FusedMatMul`: rows of the left, columns of the right and aligned batch axes stay apart."""
    found = set()
    for i, place in enumerate(inputs):
        if place is None:
            continue
        x, name = given(node, i), "AB"[i]
        order = matrix_order(x.rank, bool(node.attr(f"trans{name}")), bool(node.attr(f"transBatch{name}")))
        from_right = order.index(place.axis) - x.rank
        if min(given(node, 0).rank, given(node, 1).rank) < 2 or from_right == (-1, -2)[i]:
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
    return activated(op, product, node.attr("activation", ""), numbers)


def _fused_conv(op: Builder, node: Node) -> Tensor:
    """``f(X * W + B + Z)``."""
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    product = op.Conv(*node.inputs[:3], **{name: node.attr(name) for name in names}, shape=node.y.shape)
    numbers = node.attr("activation_params") or ()
    return activated(op, plus(product, node.input(3)), node.attr("activation", ""), numbers)


def _follow_conv(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if any(inputs[1:3]):
        raise Mixed("samples reach it through a weight, which all samples share")
    return samples.first_axis(node, inputs)


own("FusedMatMul TransposeMatMul", fused_matmul, follow=follow_matmul)
own("FusedGemm", _fused_gemm, follow=samples.gemm)
own("FusedConv", _fused_conv, follow=_follow_conv)

# --- others ------------------------------------------------------------------------------------


@vjp("Inverse", domain=DOMAIN, versions=(), follow=samples.along(lambda node: (-2, -1)))
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
    difference = op.unsqueeze(node.x, [-2]) - op.unsqueeze(given(node, 1), [-3])
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


own("GridSample", grid_sample, follow=samples.first_axis)
own("Trilu", _trilu, wrt=(0,), follow=samples.along_first(lambda node: (-2, -1)))
own("CDist", _distances, follow=_follow_distances)

_BLOCKED = "its tensors are laid out in blocks of channels, as wide as the processor that the model was optimized on"
refused(
    "Conv MaxPool AveragePool GlobalMaxPool GlobalAveragePool Upsample ReorderInput ReorderOutput",
    _BLOCKED,
    "save the optimized model at the level ORT_ENABLE_EXTENDED instead of ORT_ENABLE_ALL",
    domain="com.microsoft.nchwc",
)
