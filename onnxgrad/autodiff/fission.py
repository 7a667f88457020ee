"""Loop fission: what depends on no state of a loop is computed outside of it, for all iterations at once.

An iteration of a derivative's loop computes much that follows from the slices it takes alone, as a layer's gates from
inputs and states that were kept. Each such node has an equal that takes the whole tensors, with the axis of iterations
in front: one large product of matrices in the place of many small ones, and one node to run in the place of one per
iteration. What is left in the loop is the recurrence proper (loop distribution, in the terms of K. Kennedy and J. R.
Allen, *Optimizing Compilers for Modern Architectures*, 2002, chapter 5).

Sizes and axes count from the right, as in rules, so most operators do not notice one more axis in front.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, elements
from onnxgrad.graph.node import attribute_defaults, python_attributes
from onnxgrad.graph.sizes import POINTWISE, REDUCTIONS
from onnxgrad.graph.tensor import Tensor

#: How many times the elements that an iteration takes and carries a node may give to be computed outside, where all it
#: gives is kept. The gates of an LSTM are up to four times as many as its input and states; the outer products that
#: sum up to a gradient of weights are not to be kept.
GROWTH = 4
#: Number of elements, where it is known, from which a pointwise node stays inside, where its slices are in the cache,
#: as whole tensors are not. Milliseconds of an LSTM's gradient in onnxruntime 1.32, one thread, 100 steps, with no
#: limit / one of 5,000 / of 1,500: 5.9/6.0/6.3 for gates of 32 times 128, 27.9/26.6/25.0 for 32 times 512, and
#: 8.1/8.1/8.7 for 8 times 512. With more threads, more pays outside.
LARGE = 8192


@dataclass(frozen=True)
class Operand:
    """An input of a node for all iterations at once.

    Attributes:
        x: the tensor outside.
        stacked: whether its axis 0 is that of the iterations, rather than each having all of it.
    """

    x: Tensor
    stacked: bool

    @property
    def shape(self) -> Shape:
        """The shape that an iteration sees."""
        return self.x.shape[1:] if self.stacked else self.x.shape

    def reshaped(self, shape: Sequence[Dim]) -> Operand:
        """Return it with another shape for each iteration."""
        shape = (self.x.shape[0], *shape) if self.stacked else tuple(shape)
        return Operand(self.x.op.reshape(self.x, shape), self.stacked)

    def raised(self, rank: int) -> Tensor:
        """Return the tensor so that it broadcasts with others of which an iteration sees the given rank."""
        return self.reshaped((1,) * (rank - len(self.shape)) + self.shape).x if self.stacked else self.x


@dataclass(frozen=True)
class _Call:
    """A node to be computed for all iterations at once; the shapes are those of its outputs in one of them."""

    op_type: str
    attrs: Mapping[str, Any]
    operands: Sequence[Operand | None]
    shapes: Sequence[Shape]

    @property
    def first(self) -> Operand:
        """The first operand."""
        assert self.operands[0] is not None
        return self.operands[0]

    @property
    def rest_stays(self) -> bool:
        """Whether all operands but the first are the same in each iteration."""
        return not any(x is not None and x.stacked for x in self.operands[1:])


def _pointwise(op: Builder, call: _Call) -> Sequence[Tensor] | None:
    if call.op_type == "Clip" and not call.rest_stays:  # its bounds are single numbers
        return None
    raised = [None if x is None else x.raised(len(call.shapes[0])) for x in call.operands]
    if call.op_type == "Cast" and raised[0] is not None:
        return [op.cast(raised[0], ir.DataType(call.attrs["to"]))]
    return op.emit(call.op_type, *raised, **call.attrs)


def _matmul(op: Builder, call: _Call) -> Sequence[Tensor]:
    """``A[t] B[t]``; a vector is a matrix of one row, or column."""
    a, b = (x for x in call.operands if x is not None)
    a = a.reshaped((1, *a.shape)) if len(a.shape) == 1 else a
    b = b.reshaped((*b.shape, 1)) if len(b.shape) == 1 else b
    rank = max(len(a.shape), len(b.shape))
    return [op.MatMul(a.raised(rank), b.raised(rank))]


def _reshape(_: Builder, call: _Call) -> Sequence[Tensor]:
    """Any operator that gives its first input another shape, as is done with all results in the end."""
    return [call.first.x]


def _expand(op: Builder, call: _Call) -> Sequence[Tensor]:
    raised = call.first.raised(len(call.shapes[0]))
    return [op.spread(raised, (raised.shape[0], *call.shapes[0]))]


def _transpose(op: Builder, call: _Call) -> Sequence[Tensor]:
    order = call.attrs.get("perm", tuple(reversed(range(len(call.shapes[0])))))
    return [op.Transpose(call.first.x, perm=[0, *(i + 1 for i in order)])]


def _split(op: Builder, call: _Call) -> Sequence[Tensor] | None:
    if not call.rest_stays:
        return None
    given = {**call.attrs, "axis": _from_right(call.attrs["axis"], call.first.shape)}
    rest = (None if x is None else x.x for x in call.operands[1:])
    return op.emit("Split", call.first.x, *rest, outputs=len(call.shapes), **given)


def _concat(op: Builder, call: _Call) -> Sequence[Tensor]:
    given = [x for x in call.operands if x is not None]
    length = next(x.x.shape[0] for x in given if x.stacked)
    wholes = [x.x if x.stacked else op.spread(x.x, (length, *x.shape)) for x in given]
    return [op.Concat(*wholes, axis=_from_right(call.attrs["axis"], call.shapes[0]))]


def _reduction(op: Builder, call: _Call) -> Sequence[Tensor] | None:
    axes = call.operands[1].x.ints if len(call.operands) > 1 and call.operands[1] is not None else None
    if not axes or not call.rest_stays:  # none may mean all of them, or no reduction at all
        return None
    return op.emit(call.op_type, call.first.x, [_from_right(a, call.first.shape) for a in axes], **call.attrs)


def _from_right(axis: int, shape: Shape) -> int:
    return axis - len(shape) if axis >= 0 else axis


#: How operators of ai.onnx are computed for all iterations at once: ``f(op, call)`` gives the outputs, or None.
STACKED: dict[str, Callable[[Builder, _Call], Sequence[Tensor] | None]] = {
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
_BY_SHAPE = frozenset("Reshape Squeeze Unsqueeze Flatten Expand".split())
#: Operators that only go through elements, and are bound by memory.
_STREAMING = POINTWISE | {"Split", "Concat", *REDUCTIONS}
#: Operators that need a stacked first input.
_MOVING = _BY_SHAPE | {"Transpose", "Split", *REDUCTIONS}


def stack(
    op: Builder, nodes: Sequence[ir.Node], wholes: Mapping[ir.Value, Tensor], inputs: Collection[ir.Value]
) -> dict[ir.Value, Tensor]:
    """Emit, around the body that is being built, what its nodes compute from slices only, for all iterations at once.

    All of it would be computed in the loop, too, and on the same numbers; so nothing fails that did not.

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
        read = node.inputs[:1] if node.op_type in _BY_SHAPE else node.inputs
        carried = [v for v in read if v in inside and v not in found]
        if node.domain or node.op_type not in STACKED or carried or found.keys().isdisjoint(read):
            continue
        if node.op_type in _MOVING and read[0] not in found:
            continue
        ys = [t for v in node.outputs if (t := op.tensor(v)) is not None and all(map(op.is_known_around, t.shape))]
        if len(ys) < len(node.outputs) or any(elements(y.shape) > limit for y in ys):
            continue
        if node.op_type in _STREAMING and any(is_large(y.shape) for y in ys):
            continue
        operands = [None if v is None else _operand(op, v, found.get(v)) for v in read]
        given = {**attribute_defaults("", node.op_type, op.opset), **python_attributes(node)}
        with op.around():
            results = STACKED[node.op_type](op, _Call(node.op_type, given, operands, [y.shape for y in ys]))
            for value, y, result in zip(node.outputs, ys, results or (), strict=False):
                found[value] = op.reshape(result, (length, *y.shape))
    return found


def is_large(shape: Shape) -> bool:
    """Whether slices of this shape are better gone through one by one."""
    return all(isinstance(d, int) for d in shape) and elements(shape) > LARGE


def _operand(op: Builder, value: ir.Value, whole: Tensor | None) -> Operand | None:
    x = op.tensor(value) if whole is None else whole
    return None if x is None else Operand(x, whole is not None)
