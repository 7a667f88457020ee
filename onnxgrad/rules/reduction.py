"""Sums, means, norms and extrema over axes."""

from __future__ import annotations

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import linear


def reduced_axes(node: Node) -> list[int] | None:
    """Return the axes that a reduction sums over, or None where they are not known before run time."""
    given = node.input(1)
    if given is None:
        return [] if node.attr("noop_with_empty_axes") else list(range(-node.x.rank, 0))
    if given.ints == [] and not node.attr("noop_with_empty_axes"):
        return list(range(-node.x.rank, 0))
    return None if given.ints is None else [a % node.x.rank - node.x.rank for a in given.ints]


def restored(op: Builder, node: Node, reduced: Tensor) -> Tensor:
    """Give back to something shaped like a reduction's output the axes that it lost, with size 1."""
    axes = reduced_axes(node)
    if node.attr("keepdims") or axes == []:
        return reduced
    if axes is not None:
        return op.unsqueeze(reduced, axes)
    raise AssertionError


linear(
    "ReduceSum",
    lambda op, node, ct: restored(op, node, ct),  # and spread over what was summed, by the driver
    versions=(13,),
    follow=samples.reduced(reduced_axes),
)
