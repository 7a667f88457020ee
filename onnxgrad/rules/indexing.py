"""Operators that pick elements by index, or put them at an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Shape
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import linear, vjp


def seeds_of(ct: Tensor, y: Tensor) -> Shape:
    """Return the axis of seeds that a cotangent of `y` has in front, or none."""
    return ct.shape[: ct.rank - y.rank]


def summed(op: Builder, ct: Tensor) -> Tensor:
    """Return a cotangent in a type in which it can be accumulated: sums of many in half precision lose digits."""
    return op.cast(ct, ir.DataType.FLOAT) if ct.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else ct


# --- by element ---------------------------------------------------------------------------------


def _elements_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``x̄[…, index, …] += ȳ``."""
    index = node.inputs[1]
    assert index is not None
    seeds, ct = seeds_of(ct, node.y), summed(op, ct)
    zeros = op.full((*seeds, *node.x.shape), 0, ct.dtype)
    axis = node.attr("axis") % node.x.rank - node.x.rank
    return op.ScatterElements(zeros, op.spread(index, (*seeds, *index.shape)), ct, axis=axis, reduction="add")


linear("GatherElements", _elements_back, versions=(13,))
