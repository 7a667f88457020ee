"""Loop fission: what depends on no state of a loop is computed outside of it, for all iterations at once.

An iteration of a loop that was written here computes much that follows from the slices it takes alone: a layer's gates,
say, from inputs and states that were kept. Each such node has an equal that takes the whole tensors, with the axis of
iterations in front: one large product of matrices in the place of many small ones, and one node to run in the place of
one per iteration. What is left in the loop is the recurrence proper (K. Kennedy, J. R. Allen, *Optimizing Compilers for
Modern Architectures*, 2002, section 5.2: loop distribution).

Sizes and axes count from the right, as in rules, so most operators do not notice one more axis in front.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.autodiff.cost import elements
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape
from onnxgrad.graph.node import attribute_defaults, python_attributes
from onnxgrad.graph.sizes import POINTWISE, REDUCTIONS
from onnxgrad.graph.tensor import Tensor

#: How many times the elements that an iteration takes a node outside may give per iteration. The gates of an LSTM are
#: twice to four times as many as its input and states; an outer product of them would be too dear to keep.
GROWTH = 4


class Operand:
    """An input of a node for all iterations at once: stacked along a new axis 0, or the same in each of them.

    Args:
        x: the tensor outside.
        stacked: whether its axis 0 is that of the iterations.

    Attributes:
        x: the tensor outside.
        stacked: whether its axis 0 is that of the iterations.
        shape: the shape of a slice, or of what is the same.
    """

    def __init__(self, x: Tensor, stacked: bool) -> None:
        self.x, self.stacked = x, stacked
        self.shape: Shape = x.shape[1:] if stacked else x.shape

    @classmethod
    def of(cls, op: Builder, value: ir.Value, whole: Tensor | None) -> Operand | None:
        """Return what a value is outside: its whole, or where it has none, itself."""
        x = op.tensor(value) if whole is None else whole
        return None if x is None else cls(x, whole is not None)

    def reshaped(self, op: Builder, shape: Sequence[Dim]) -> Tensor:
        """Return it with another shape of a slice."""
        return op.reshape(self.x, (self.x.shape[0], *shape) if self.stacked else shape)

    def raised(self, op: Builder, rank: int) -> Tensor:
        """Return it with axes of size 1 in front of those of a slice, so that a stacked slice has the given rank."""
        return self.reshaped(op, (1,) * (rank - len(self.shape)) + self.shape) if self.stacked else self.x


Operands = Sequence[Operand | None]
#: ``f(op, node, attributes, operands, shapes)`` gives what the outputs of a node, of these shapes, are for all
#: iterations at once, or None.
Stacked = Callable[[Builder, ir.Node, Mapping[str, Any], Operands, Sequence[Shape]], Sequence[Tensor] | None]


def _pointwise(
    op: Builder, node: ir.Node, attrs: Mapping[str, Any], xs: Operands, shapes: Sequence[Shape]
) -> Sequence[Tensor]:
    rank = len(shapes[0])
    raised = [None if x is None else x.raised(op, rank) for x in xs]
    if node.op_type == "Cast":
        assert raised[0] is not None
        return [op.cast(raised[0], ir.DataType(attrs["to"]))]
    return op.emit(node.op_type, *raised, **attrs)


def _matmul(
    op: Builder, node: ir.Node, attrs: Mapping[str, Any], xs: Operands, shapes: Sequence[Shape]
) -> Sequence[Tensor]:
    """``a[t] @ b[t]``; a vector is a matrix of one row, or column."""
    a, b = (x for x in xs if x is not None)
    if len(a.shape) == 1:
        a = Operand(a.reshaped(op, (1, *a.shape)), a.stacked)
    if len(b.shape) == 1:
        b = Operand(b.reshaped(op, (*b.shape, 1)), b.stacked)
    rank = max(len(a.shape), len(b.shape))
    return [op.MatMul(a.raised(op, rank), b.raised(op, rank))]


def _reshape(
    op: Builder, node: ir.Node, attrs: Mapping[str, Any], xs: Operands, shapes: Sequence[Shape]
) -> Sequence[Tensor] | None:
    """Any operator that gives its first input another shape."""
    return None if xs[0] is None else [xs[0].x]


def _expand(
    op: Builder, node: ir.Node, attrs: Mapping[str, Any], xs: Operands, shapes: Sequence[Shape]
) -> Sequence[Tensor] | None:
    if xs[0] is None:
        return None
    raised = xs[0].raised(op, len(shapes[0]))
    return [op.spread(raised, (raised.shape[0], *shapes[0]))]


def _transpose(
    op: Builder, node: ir.Node, attrs: Mapping[str, Any], xs: Operands, shapes: Sequence[Shape]
) -> Sequence[Tensor] | None:
    if xs[0] is None:
        return None
    order = attrs.get("perm", tuple(reversed(range(len(shapes[0])))))
    return [op.Transpose(xs[0].x, perm=[0, *(i + 1 for i in order)])]


def _split(
    op: Builder, node: ir.Node, attrs: Mapping[str, Any], xs: Operands, shapes: Sequence[Shape]
) -> Sequence[Tensor] | None:
    x = xs[0]
    if x is None or any(s is not None and s.stacked for s in xs[1:]):
        return None
    axis, rest = _from_right(attrs.get("axis", 0), len(x.shape)), {k: v for k, v in attrs.items() if k != "axis"}
    return op.emit("Split", x.x, *(s and s.x for s in xs[1:]), outputs=len(node.outputs), axis=axis, **rest)


def _concat(
    op: Builder, node: ir.Node, attrs: Mapping[str, Any], xs: Operands, shapes: Sequence[Shape]
) -> Sequence[Tensor]:
    given = [x for x in xs if x is not None]
    length = next(x.x.shape[0] for x in given if x.stacked)
    wholes = [x.x if x.stacked else op.spread(x.x, (length, *x.shape)) for x in given]
    return [op.Concat(*wholes, axis=_from_right(attrs["axis"], len(shapes[0])))]


def _reduction(
    op: Builder, node: ir.Node, attrs: Mapping[str, Any], xs: Operands, shapes: Sequence[Shape]
) -> Sequence[Tensor] | None:
    x, axes = xs[0], None
    if len(xs) > 1 and xs[1] is not None:
        axes = None if xs[1].stacked else xs[1].x.ints
    if x is None or not axes:  # none at all may mean all of them, or a reduction that does nothing
        return None
    return op.emit(node.op_type, x.x, [_from_right(a, len(x.shape)) for a in axes], **attrs)


def _from_right(axis: int, rank: int) -> int:
    return axis - rank if axis >= 0 else axis


#: How operators of ai.onnx are computed for all iterations at once.
STACKED: dict[str, Stacked] = {
    **dict.fromkeys((*POINTWISE, "Identity"), _pointwise),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten"), _reshape),
    "Expand": _expand,
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Split": _split,
    "Concat": _concat,
}
#: Operators of which only the first input counts, since the shape of the result is known.
_FIRST_INPUT = frozenset("Reshape Squeeze Unsqueeze Flatten Expand".split())


def stack(
    op: Builder, nodes: Sequence[ir.Node], wholes: Mapping[ir.Value, Tensor], inputs: Collection[ir.Value]
) -> dict[ir.Value, Tensor]:
    """Emit, around the body that is being built, what its nodes compute from slices only, for all iterations at once.

    Args:
        op: the builder.
        nodes: the nodes of the body, in topological order; nothing is changed about them.
        wholes: the tensors that the slices are taken from along axis 0, by slice.
        inputs: all inputs of the body, slices and what is carried.

    Returns:
        What all iterations together have of each value, along a new axis 0, for the slices and for what follows from
        them alone, so far as there are equals of the operators.
    """
    found = dict(wholes)
    inside = {*inputs, *(v for node in nodes for v in node.outputs)}
    length = next(iter(wholes.values())).shape[0]
    limit = GROWTH * sum(elements(t.shape) for v in inputs if (t := op.tensor(v)) is not None)
    for node in nodes:
        read = node.inputs[:1] if node.op_type in _FIRST_INPUT else node.inputs
        carried = [v for v in read if v in inside and v not in found]
        if node.domain or node.op_type not in STACKED or carried or found.keys().isdisjoint(read):
            continue
        ys = [op.tensor(v) for v in node.outputs]
        if any(y is None or elements(y.shape) > limit or not all(map(op.is_known_around, y.shape)) for y in ys):
            continue
        shapes = [y.shape for y in ys if y is not None]
        operands = [None if v is None else Operand.of(op, v, found.get(v)) for v in read]
        given = {**attribute_defaults("", node.op_type, op.opset), **python_attributes(node)}
        with op.around():
            results = STACKED[node.op_type](op, node, given, operands, shapes)
            if results is None:
                continue
            for value, y, shape in zip(node.outputs, results, shapes, strict=True):
                found[value] = op.reshape(y, (length, *shape))
    return found
