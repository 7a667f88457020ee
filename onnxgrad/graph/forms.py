"""The forms in which runtimes are fast: what was emitted for its meaning is put into them before it is written.

Formulas choose by masks: ``where(x > 0, ct, 0)``. That is a step where it is differentiated again, but onnxruntime
(1.32) takes 4 ns per element for it, ten times as long as for a product. The product with the mask as a number is the
same wherever the cotangent is finite, since only ``0 · ∞`` is not 0. So it is written where that is certain
(`onnxgrad.graph.finite`). As a number, the mask ``x > 0`` is a `HardSigmoid` of the greatest slope: one kernel in the
place of two, and, like the product, one that onnxruntime executes in the blocked layout of its convolutions. When a
model is read, such steps are spelled out again (in `onnxgrad.model.normalize`), so that nobody takes them for slopes.

Sums at fixed positions, as where columns were picked, are scattered: 3 ns per element. A product with the matrix that
has a 1 at each position, if there are few of them, takes a tenth of that, and is the same for finite cotangents, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.finite import finite_values
from onnxgrad.graph.flow import graphs_in
from onnxgrad.graph.tensor import Tensor

if TYPE_CHECKING:
    from onnxgrad.graph.builder import Builder

#: Slope of a `HardSigmoid` that is a step: from 0 to 1 within the numbers that float32 has below its normal ones.
STEEP = float(np.finfo(np.float32).max)

#: Key in the `meta` of nodes that `Builder.masked` emitted. Others may be guards: of data that is masked because it is
#: no number, even a product with 0 is none.
MASKS_COTANGENT = "onnxgrad.masks_cotangent"
#: Key in the `meta` of a `ScatterElements` along the last axis whose updates are added up from 0: at these
#: positions, one for each column where they have one axis.
POSITIONS = "onnxgrad.positions"
#: The most positions, and the largest number of elements of the matrix, for which there is a product in its place.
_COLUMNS, _ELEMENTS = 64, 2**14
#: Where cotangents are masked by products: in half precision they overflow too easily to call them finite.
_DTYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_BOOLEAN = frozenset("And Equal Greater GreaterOrEqual Less LessOrEqual Not Or Xor".split())

#: Slope and offset of the `HardSigmoid` that is 1 where x compares to 0 so, and 0 elsewhere.
STEPS = {"Greater": (STEEP, 0.0), "GreaterOrEqual": (STEEP, 1.0), "Less": (-STEEP, 0.0), "LessOrEqual": (-STEEP, 1.0)}


def fast_forms(op: Builder, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Return emitted nodes with those changed, here and in bodies, that have a faster form."""
    return _Writer(op, finite_values(op, [*op.model.graph, *nodes])).write(nodes, {})


class _Writer:
    def __init__(self, op: Builder, finite: set[ir.Value]) -> None:
        self.op = op
        self.finite = finite

    def write(self, nodes: Sequence[ir.Node], known: Mapping[_Mask, Tensor]) -> list[ir.Node]:
        """Return the nodes of one scope in fast forms; `known` holds the masks that are numbers already around it."""
        result: list[ir.Node] = []
        numbers = dict(known)
        for node in nodes:
            for _, graph in graphs_in(node):
                inner = list(graph)
                graph.remove(inner)
                graph.extend(self.write(inner, numbers))
            found = self._choice(node)
            if found is not None:
                mask, form, kept = found
                if mask not in numbers:
                    with self.op.body() as new, self.op.unshared(), self.op.named_after(_scope(node)):
                        numbers[mask] = _as_number(self.op, mask)
                        result += new
                self.op.become(node, form, [numbers[mask], kept])
            selection = self._selection(node)
            if selection is not None:
                self.op.become(node, "MatMul", selection)
                node.attributes.clear()
            result.append(node)
        return _without_unused(result)

    def _choice(self, node: ir.Node) -> tuple[_Mask, str, Tensor] | None:
        """Return the mask of a `Where` as a number, and the operator on it and something else that gives the same.

        ``where(m, a, 0) = m · a``, and ``where(m, 1, a) = max(m, a)`` for a number a between 0 and 1.
        """
        if node.op_type != "Where" or node.domain:
            return None
        mask, a, b = node.inputs
        first, second = (None if v is None else self.op.tensor(v) for v in (a, b))
        if mask is None or first is None or second is None or first.dtype not in _DTYPES:
            return None
        if _is_number(first) and _is_number(second):
            slope = first.scalar == 1 and second.scalar is not None and 0 < second.scalar < 1
            return (_Mask(mask, True, first.dtype), "Max", second) if slope else None
        if MASKS_COTANGENT not in node.meta:
            return None
        for kept, other, holds in ((first, second, True), (second, first, False)):
            if _is_number(other) and other.scalar == 0 and self._is_finite(kept.value):
                return _Mask(mask, holds, kept.dtype), "Mul", kept
        return None

    def _selection(self, node: ir.Node) -> tuple[Tensor, Tensor] | None:
        """Return what is added up at fixed positions, and the matrix with which its product is the same."""
        positions = node.meta.get(POSITIONS)
        if node.op_type != "ScatterElements" or positions is None or positions.rank != 1 or positions.ints is None:
            return None
        y, updates = self.op.tensor(node.outputs[0]), self.op.tensor(_input(node, 2))
        if y is None or updates is None or y.dtype not in _DTYPES or not self._is_finite(updates.value):
            return None
        cast = updates.value.producer()
        if cast is not None and cast.op_type == "Cast" and _input(cast, 0).dtype not in _DTYPES:
            return None
        size = y.shape[-1]
        if not isinstance(size, int) or size > _COLUMNS or size * len(positions.ints) > _ELEMENTS:
            return None
        if not all(0 <= i < size for i in positions.ints):
            return None
        return updates, self.op.constant(np.eye(size)[positions.ints], y.dtype)

    def _is_finite(self, value: ir.Value) -> bool:
        return value in self.finite or value.is_graph_input() or value.is_initializer()


def _input(node: ir.Node, i: int) -> ir.Value:
    value = node.inputs[i]
    assert value is not None
    return value


def _scope(node: ir.Node) -> str:
    """Return the name of what an emitted node differentiates."""
    return (node.name or "").rpartition("/")[0]


class _Mask(NamedTuple):
    """A mask, or (where `holds` is not set) its opposite, as numbers."""

    value: ir.Value
    holds: bool
    dtype: ir.DataType


def _as_number(op: Builder, mask: _Mask) -> Tensor:
    """Write a mask as 0 and 1: as a step, if it compares something in float32 with 0."""
    node = mask.value.producer()
    if node is not None and node.op_type in STEPS and not node.domain and mask.dtype == ir.DataType.FLOAT:
        x, zero = (None if v is None else op.tensor(v) for v in node.inputs)
        if x is not None and zero is not None and x.dtype == mask.dtype and zero.scalar == 0 and zero.rank <= x.rank:
            slope, offset = STEPS[node.op_type]
            if not mask.holds:
                slope, offset = -slope, 1 - offset
            return op.HardSigmoid(x, alpha=slope, beta=offset)
    tensor = op.tensor(mask.value)
    assert tensor is not None
    return op.cast(tensor if mask.holds else op.Not(tensor), mask.dtype)


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_literal and tensor.rank == 0


def _without_unused(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Leave out comparisons that nobody asks for any more."""
    kept = []
    for node in reversed(nodes):
        if node.op_type in _BOOLEAN and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)
        else:
            kept.append(node)
    return kept[::-1]
