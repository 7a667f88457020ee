"""Putting a cotangent back where its elements came from: the adjoint of every operator that moves or picks elements.

The sums are written as ``ScatterElements`` along the last axis. ``ScatterND`` looks cheaper, but where an index
repeats, the CPU kernel of onnxruntime (1.32) adds from several threads at once without a lock and loses updates. Along
other axes, ``ScatterElements`` itself takes four to ten times as long per element.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, size_of
from onnxgrad.graph.forms import POSITIONS
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor


def seeds_of(ct: Tensor, y: Tensor) -> Shape:
    """Return the axis of seeds that a cotangent of `y` has in front of those of `y`, or none."""
    return ct.shape[: ct.rank - y.rank]


def origins(op: Builder, node: Node, others: Sequence[Tensor | None] | None = None) -> Tensor:
    """Return, for each element of the output of a node that only moves elements, its row-major position in the input.

    The node's own operator says so, when it is given the positions in the place of the elements. `others` take the
    place of its other inputs.
    """
    image = op.reshape(op.range(size_of(node.x.shape)), node.x.shape)
    attributes = {name: node.attr(name) for name in node.ir.attributes}
    return op.emit(node.op_type, image, *(others or node.inputs[1:]), shape=node.y.shape, **attributes)[0]


def scatter_add(op: Builder, ct: Tensor, positions: Tensor, size: Dim) -> Tensor:
    """Add the last axis of `ct` up at `positions` of a last axis of length `size`; `positions` serve all axes in front.

    Half precision is summed in float32: there is no kernel for it, and long sums would lose their digits.
    """
    if ct.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        ct = op.cast(ct, ir.DataType.FLOAT)
    lead = ct.shape[:-1]
    zeros = op.full((*lead, size), 0, ct.dtype)
    result = op.ScatterElements(zeros, op.spread(positions, ct.shape), ct, axis=-1, reduction="add")
    node = result.value.producer()
    if node is not None:
        node.meta[POSITIONS] = positions
    return result


def moved_back(op: Builder, node: Node, ct: Tensor, others: Sequence[Tensor | None] | None = None) -> Tensor:
    """Return the adjoint of a node that only moves elements: each goes back to where it came from (see `origins`)."""
    seeds, n = seeds_of(ct, node.y), size_of(node.y.shape)
    positions = op.reshape(origins(op, node, others), (n,))
    flat = scatter_add(op, op.reshape(ct, (*seeds, n)), positions, size_of(node.x.shape))
    return op.reshape(flat, (*seeds, *node.x.shape))


def _known(part: Tensor | Dim) -> Tensor | Dim:
    """Return the number that a tensor of shape ``(1,)`` holds where it is known, else the tensor."""
    return part.ints[0] if isinstance(part, Tensor) and part.ints is not None else part


def joined(op: Builder, parts: Sequence[Tensor | Dim]) -> Tensor:
    """Return sizes, of which some are tensors of shape ``(1,)``, as one int64 tensor."""
    sizes = [_known(part) for part in parts]
    dims = [d for d in sizes if not isinstance(d, Tensor)]
    if len(dims) == len(sizes):
        return op.ints(dims)
    return op.Concat(*(d if isinstance(d, Tensor) else op.size(d) for d in sizes), axis=0)


def pad(
    op: Builder,
    x: Tensor,
    before: Sequence[Tensor | Dim],
    behind: Sequence[Tensor | Dim],
    axes: Sequence[int],
    shape: Shape,
) -> Tensor:
    """Put zeros in front of and behind x along `axes` (less than none: take elements away).

    The pads are those of all axes: see `onnxgrad.graph.simplify.pad_all_axes`.
    """
    if x.shape == shape and all(_known(p) == 0 for p in (*before, *behind)):
        return x
    amounts: list[Tensor | Dim] = [0] * (2 * x.rank)
    for axis, first, last in zip(axes, before, behind, strict=True):
        amounts[axis % x.rank], amounts[axis % x.rank + x.rank] = first, last
    return op.Pad(x, joined(op, amounts), shape=shape)


def counting(op: Builder, n: Tensor | Dim) -> Tensor:
    """Return ``0, 1, …, n - 1`` as an int64 vector; n may be a tensor with one element, unknown before run time."""
    if not isinstance(n, Tensor):
        return op.range(n)
    limit = op.cast(op.reshape(n, ()), ir.DataType.INT64)
    if limit.content is not None:
        return op.range(limit.content[0])
    zero, one = (op.constant(np.int64(i)) for i in (0, 1))
    return op.Range(zero, limit, one, shape=(op.fresh_dim(),))
