"""Operators that move elements: linear, and their adjoints move them back."""

from __future__ import annotations

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import linear


def _reshape_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The cotangent in the shape of the input, behind the seeds."""
    seeds = ct.shape[: ct.rank - node.y.rank]
    return op.reshape(ct, (*seeds, *node.x.shape))


def _transpose_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    rank = node.x.rank
    order = list(node.attr("perm") or reversed(range(rank)))
    inverse = [order.index(i) for i in range(rank)]
    lead = ct.rank - rank
    return op.Transpose(ct, perm=[*range(lead), *(i + lead for i in inverse)])


linear("Reshape", _reshape_back, versions=(14, 19, 21, 23, 24, 25), follow=samples.reshaped)
linear("Flatten Squeeze Unsqueeze", _reshape_back, versions=(13, 21, 23, 24, 25), follow=samples.reshaped)
linear("Transpose", _transpose_back, versions=(13, 21, 23, 24, 25), follow=samples.transposed)
linear("Expand", lambda op, node, ct: ct, versions=(13,), follow=samples.aligned)  # the driver sums
