"""Convolution and its transpose: each is the derivative of the other, so the two are closed under differentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Shape
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import vjp
from onnxgrad.rules.samples import Samples
from onnxgrad.rules.windows import correlate, folded, is_same, overlay, slide, windowed_axes, windows_of


def _kernel(node: Node, weight: Tensor) -> Shape:
    return tuple(node.attr("kernel_shape") or weight.shape[2:])


def _bias(op: Builder, ct: Tensor, rank: int) -> Tensor:
    return op.sum(ct, [-rank, *range(2 - rank, 0)], keepdims=False)


def _follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Follow `Conv`: samples stay apart on the axis of the batch, and on spatial axes that the windows leave alone.

    Only JAX has those, in sums of windows where channels are last: all axes of the image are spatial there.
    """
    place, weight = inputs[0], node.inputs[1]
    if place is None or place.axis < 2 or weight is None:
        return samples.first_axis_of_data(node, inputs)
    return samples.along_data(lambda node: windowed_axes(node, _kernel(node, weight)))(node, inputs)


@vjp("Conv", versions=(11, 22), follow=_follow)
def conv(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """``y[n, o, i] = Σ_ck W[o, c, k] x[n, c, s·i + d·k - p] + b[o]`` (c from the group of o)."""
    x, weight, group = node.x, node.inputs[1], node.attr("group")
    assert weight is not None
    w = windows_of(op, node, x.shape[2:], node.y.shape[2:], _kernel(node, weight))
    return (
        lambda: folded(op, ct, x.rank - 1, lambda ct: overlay(op, ct, weight, w, group, x.shape[1])),
        lambda: correlate(op, x, ct, w, group, weight),
        lambda: _bias(op, ct, x.rank),
    )


@vjp("ConvTranspose", versions=(11, 22), follow=samples.first_axis_of_data)
def conv_transpose(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """``y[n, o, s·i + d·k - p] += W[c, o, k] x[n, c, i]``, and ``b[o]`` once: the windows lie on the output."""
    x, weight, group = node.x, node.inputs[1], node.attr("group")
    assert weight is not None
    w = windows_of(op, node, node.y.shape[2:], x.shape[2:], _kernel(node, weight))
    if is_same(node) and any(node.attr("output_padding") or ()):
        raise Refusal("runtimes differ in what `auto_pad` means with `output_padding`", "give the node explicit pads")
    return (
        lambda: folded(op, ct, x.rank - 1, lambda ct: slide(op, ct, weight, w, group, x.shape[1])),
        lambda: correlate(op, ct, x, w, group, weight),
        lambda: _bias(op, ct, x.rank),
    )
