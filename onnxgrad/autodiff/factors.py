"""Products of what a loop carries with slices: the slices are multiplied, and joined, outside of the loop.

A backward sweep multiplies what it carries by one local derivative after another. Where these are slices of tensors
outside, ``(m · a) · b = m · (a · b)`` leaves one product in each iteration, and ``[m · a, n · b] = [m, n] · [a, b]``
one for all that is joined. So an iteration of an LSTM's backward sweep comes to seven nodes.

The products are taken in another order then, which changes no more than rounding as long as ``a · b`` is in range by
itself. So it is done in float32 and float64 only.
"""

from __future__ import annotations

from typing import Protocol

import onnx_ir as ir

from onnxgrad.autodiff.fission import Operand, is_large
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, broadcast
from onnxgrad.graph.tensor import Tensor

_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


class Loop(Protocol):
    """The loop that is being written."""

    op: Builder

    def slice_of(self, whole: Tensor) -> Tensor:
        """Return what an iteration has of a tensor outside."""

    def replace(self, value: ir.Value, by: Tensor) -> None:
        """Let another value take the place of one inside."""

    def leaves(self, value: ir.Value) -> bool:
        """Whether a value inside leaves the iteration."""


def collect(loop: Loop, wholes: dict[ir.Value, Tensor]) -> None:
    """Let each chain of products with slices, and of joined ones, be a single product.

    Args:
        loop: the loop; its body is being built.
        wholes: what all iterations have of values inside, for those that depend on slices only; new slices are entered.
    """
    factors = _Factors(loop, wholes)
    for node in list(loop.op.nodes):
        if wholes.keys().isdisjoint(node.outputs) and not node.domain:
            if node.op_type == "Mul":
                factors.chained(node)
            elif node.op_type == "Concat":
                factors.joined(node)


class _Factors:
    def __init__(self, loop: Loop, wholes: dict[ir.Value, Tensor]) -> None:
        self.loop, self.op, self.wholes = loop, loop.op, wholes

    def chained(self, node: ir.Node) -> None:
        """``(m · a) · b = m · (a · b)``."""
        outer = self._parts(node)
        inner = None if outer is None else self._product(outer[0])
        if outer is None or inner is None:
            return
        a, b = (Operand(self.wholes[v], True) for v in (inner[1], outer[1]))
        rank = max(len(a.shape), len(b.shape))
        with self.op.around():
            whole = a.raised(rank) * b.raised(rank)
        self._drop(outer[0])
        node.replace_input_with(0, inner[0])
        node.replace_input_with(1, self._slice_of(whole).value)

    def joined(self, node: ir.Node) -> None:
        """``[m · a, n · b] = [m, n] · [a, b]``, where a and b have the sizes of the products along the axis."""
        op, y = self.op, self.op.tensor(node.outputs[0])
        pairs = [None if v is None else self._product(v) for v in node.inputs]
        if y is None or None in pairs or is_large(y.shape):
            return
        axis = node.attributes["axis"].as_int() % y.rank - y.rank
        slices = [Operand(self.wholes[pair[1]], True) for pair in pairs if pair is not None]
        tensors = [self._tensor(pair[0]) for pair in pairs if pair is not None]
        products = [self._tensor(v) for v in node.inputs if v is not None]
        if any(
            len(s.shape) < -axis or s.shape[axis] != x.shape[axis] or t.shape != x.shape
            for s, t, x in zip(slices, tensors, products, strict=True)
        ):
            return
        rank = max(len(s.shape) for s in slices)
        with op.around():
            raised = [s.raised(rank) for s in slices]
            common = broadcast(*(_with(w.shape, axis, 1) for w in raised))
            whole = op.Concat(*(op.spread(w, _with(common, axis, w.shape[axis])) for w in raised), axis=axis)
        for x in products:
            self._drop(x.value)
        parts = [part for t in tensors for part in self._flat(t, axis)]
        start = len(op.nodes)
        with op.unshared():
            product = op.Mul(op.Concat(*parts, axis=axis), self._slice_of(whole), shape=y.shape)
        new = op.nodes[start:]
        del op.nodes[start:]
        place = op.nodes.index(node)
        op.nodes[place:place] = new
        self.loop.replace(y.value, product)
        self._drop(y.value)

    def _flat(self, x: Tensor, axis: int) -> list[Tensor]:
        """``[[a, b], c] = [a, b, c]``, where the inner one is not used otherwise."""
        node = x.value.producer()
        if node is None or node.op_type != "Concat" or node.domain or x.value.uses() or self.loop.leaves(x.value):
            return [x]
        if node not in self.op.nodes or node.attributes["axis"].as_int() not in (axis, axis + x.rank):
            return [x]
        parts = [self._tensor(v) for v in node.inputs if v is not None]
        self._drop(x.value)
        return parts

    def _product(self, value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
        """Return the factors of a product that is used once."""
        alone = len(value.uses()) == 1 and not self.loop.leaves(value)
        return self._parts(value.producer()) if alone else None

    def _parts(self, node: ir.Node | None) -> tuple[ir.Value, ir.Value] | None:
        """Return what is carried, and the slice, of a product of such two."""
        if node is None or node.op_type != "Mul" or node.domain:
            return None
        a, b = node.inputs
        if a is None or b is None or (a in self.wholes) == (b in self.wholes) or a.dtype not in _WIDE:
            return None
        if is_large(self._tensor(node.outputs[0]).shape):
            return None
        return (b, a) if a in self.wholes else (a, b)

    def _slice_of(self, whole: Tensor) -> Tensor:
        result = self.loop.slice_of(whole)
        self.wholes[result.value] = whole
        return result

    def _tensor(self, value: ir.Value) -> Tensor:
        tensor = self.op.tensor(value)
        assert tensor is not None
        return tensor

    def _drop(self, value: ir.Value) -> None:
        """Remove the node of a value that is not used any more."""
        node = value.producer()
        assert node is not None
        self.op.nodes.remove(node)
        for i in range(len(node.inputs)):
            node.replace_input_with(i, None)


def _with(shape: Shape, axis: int, size: Dim) -> Shape:
    """Return a shape with another size on an axis, which is negative."""
    place = len(shape) + axis
    return (*shape[:place], size, *shape[place + 1 :])
