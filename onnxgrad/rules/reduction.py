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
    """Spread something shaped like a reduction's output (behind its seeds) over the axes that were reduced.

    It is said here and not left to the driver, which sums where it cannot know which of two sizes is the smaller.
    """
    axes = reduced_axes(node)
    seeds = reduced.shape[: reduced.rank - node.y.rank]
    if not node.attr("keepdims"):
        assert axes is not None
        reduced = op.unsqueeze(reduced, axes)
    return op.spread(reduced, (*seeds, *node.x.shape))


linear(
    "ReduceSum",
    lambda op, node, ct: restored(op, node, ct),
    versions=(13,),
    follow=samples.reduced(reduced_axes),
)
