"""The forms in which runtimes are fast: what was emitted for its meaning is put into them before it is written.

Formulas choose by masks: ``where(x > 0, ct, 0)``. That is a step where it is differentiated again, but onnxruntime
(1.32) takes 4 ns per element for it, ten times as long as for a product. The product with the mask as a number is the
same wherever the cotangent is finite, since only ``0 · ∞`` is not 0. So it is written where that is certain
(`onnxgrad.graph.finite`). As a number, a mask like ``x > 6`` is a step (`onnxgrad.graph.steps`): one kernel in the
place of two. When a model is read, steps are spelled out again (in `onnxgrad.model.normalize`), so that nobody takes
them for slopes.

Convolutions have a blocked layout in onnxruntime, in which it also executes `Add`, `Mul`, `Sigmoid`, `Tanh` and
`HardSigmoid`; around other operators it rearranges all elements. So what can be one of these is: of numbers from 0 to
1, ``1 - x`` and ``a + (1 - a) x`` are a `HardSigmoid`, and masks that must hold together are multiplied.

A `ConvTranspose` with strides and a kernel for each channel takes 2 ns per element. With zeros put between the elements
of the cotangent (each is repeated, and all but one of its copies multiplied by 0), it is a `Conv` without strides.

Sums at fixed positions, as where columns were picked, are scattered: 3 ns per element. A product with the matrix that
has a 1 at each position, if there are few of them, takes a tenth of that, and is the same for finite cotangents, too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.dims import elements
from onnxgrad.graph.finite import finite_values
from onnxgrad.graph.flow import graphs_in
from onnxgrad.graph.node import attribute, python_attributes
from onnxgrad.graph.steps import COMPLEMENT, is_share, step_of
from onnxgrad.graph.tensor import Tensor

if TYPE_CHECKING:
    from onnxgrad.graph.builder import Builder

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
_OPPOSITES = {"Greater": "LessOrEqual", "GreaterOrEqual": "Less", "Less": "GreaterOrEqual", "LessOrEqual": "Greater"}
#: Number of axes of what has a blocked layout, number of channels that make a block, and what divides their number.
_BLOCKED, _CHANNELS, _ALIGNED = 4, 16, 4
#: Number of elements of an image from which, and of copies of each up to which, a `Conv` takes the place of strides.
_FEWEST, _MOST_COPIES = 2**12, 4


def fast_forms(op: Builder, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Return emitted nodes with those changed, here and in bodies, that have a faster form."""
    return _Writer(op, finite_values(op, [*op.model.graph, *nodes])).write(nodes, {})


class _Writer:
    def __init__(self, op: Builder, finite: set[ir.Value]) -> None:
        self.op = op
        self.finite = finite

    def write(self, nodes: Sequence[ir.Node], known: Mapping[_Number, Tensor]) -> list[ir.Node]:
        """Return the nodes of one scope in fast forms; `known` holds the masks that are numbers already around it."""
        result: list[ir.Node] = []
        numbers = dict(known)
        for node in nodes:
            for _, graph in graphs_in(node):
                inner = list(graph)
                graph.remove(inner)
                graph.extend(self.write(inner, numbers))
            if node.op_type == "Where" and not node.domain:
                with self.op.body() as new, self.op.unshared(), self.op.named_after(_scope(node)):
                    self._choose(node, numbers)
                    result += new
            share = self._complement(node)
            if share is not None:
                self._become_linear(node, share, _Line(*COMPLEMENT))
            if self._has_depthwise_strides(node):
                with self.op.body() as new, self.op.unshared(), self.op.named_after(_scope(node)):
                    self._become_convolution(node)
                    result += new
            selection = self._selection(node)
            if selection is not None:
                self.op.become(node, "MatMul", selection)
                node.attributes.clear()
            result.append(node)
        return _without_unused(result)

    def _choose(self, node: ir.Node, numbers: dict[_Number, Tensor]) -> None:
        """Turn a `Where` into arithmetic with the mask as a number, where that gives the same and costs less.

        ``where(m, a, 0) = m · a``, and with numbers ``where(m, a, b) = b + (a - b) m``.
        """
        condition, a, b = (_input(node, i) for i in range(3))
        first, second = self.op.tensor(a), self.op.tensor(b)
        if first is None or second is None or first.dtype not in _DTYPES:
            return
        mask = _Mask(condition, True, first.dtype)
        if _is_number(first) and _is_number(second):
            line = _Line.through(second.scalar, first.scalar) if mask.dtype == ir.DataType.FLOAT else None
            if line is not None:
                self._become_linear(node, self._number(mask, numbers), line)
            elif first.scalar == 1 and second.scalar is not None and 0 < second.scalar < 1:
                self.op.become(node, "Max", [self._number(mask, numbers), second])
        elif MASKS_COTANGENT in node.meta:
            for kept, other, side in ((first, second, mask), (second, first, mask.opposite)):
                if _is_number(other) and other.scalar == 0 and self._is_finite(kept.value):
                    self.op.become(node, "Mul", [self._number(side, numbers), kept])

    def _become_linear(self, node: ir.Node, x: Tensor, line: _Line) -> None:
        """Turn an emitted node into a linear function of x."""
        self.op.become(node, "HardSigmoid", [x])
        attributes = {"alpha": line.slope, "beta": line.offset}
        node.attributes.update({name: ir.AttrFloat32(name, number) for name, number in attributes.items()})

    def _number(self, mask: _Mask, numbers: dict[_Number, Tensor]) -> Tensor:
        """Write a mask as 0 and 1."""
        if mask not in numbers:
            steps = self._steps(mask)
            for step in steps or ():
                if step not in numbers:
                    numbers[step] = self.op.HardSigmoid(step.x, alpha=step.slope, beta=step.offset)
            if steps is None:
                tensor = self.op.tensor(mask.value)
                assert tensor is not None
                numbers[mask] = self.op.cast(tensor if mask.holds else self.op.Not(tensor), mask.dtype)
            else:
                numbers[mask] = functools.reduce(self.op.Mul, [numbers[step] for step in steps])
        return numbers[mask]

    def _steps(self, mask: _Mask) -> list[_Step] | None:
        """Return the steps of which a mask is the product, if it compares float32 with numbers.

        Not for a mask of the model's own: it may tell what is no number from what is one, and of that a step is none.
        """
        node = mask.value.producer()
        if node is None or node.domain or node.graph is self.op.model.graph or mask.dtype != ir.DataType.FLOAT:
            return None
        if node.op_type == "Not":
            return self._steps(mask.opposite._replace(value=_input(node, 0)))
        if node.op_type == ("And" if mask.holds else "Or"):
            parts = [self._steps(mask._replace(value=_input(node, i))) for i in range(2)]
            return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
        if node.op_type not in _OPPOSITES:
            return None
        x, bound = (self.op.tensor(_input(node, i)) for i in range(2))
        if x is None or bound is None or x.dtype != mask.dtype or bound.rank > x.rank:
            return None
        if bound.const is None or bound.const.size != 1:
            return None
        step = step_of(node.op_type if mask.holds else _OPPOSITES[node.op_type], bound.const.item())
        if step is None:
            return None
        bound.relied_on()
        return [_Step(x, *step)]

    def _complement(self, node: ir.Node) -> Tensor | None:
        """Return x where a node gives ``1 - x`` and might be in the blocked layout of what is between 0 and 1."""
        if node.op_type != "Sub" or node.domain:
            return None
        one, x = (self.op.tensor(_input(node, i)) for i in range(2))
        if one is None or x is None or not _is_number(one) or one.scalar != 1 or x.dtype != ir.DataType.FLOAT:
            return None
        return x if x.rank == _BLOCKED and is_share(x.value) else None

    def _has_depthwise_strides(self, node: ir.Node) -> bool:
        """Whether a node is a `ConvTranspose` with strides, a constant kernel for each channel, and fixed sizes."""
        if node.op_type != "ConvTranspose" or node.domain or len(node.inputs) > 2:
            return False
        y, (ct, kernel) = self.op.tensor(node.outputs[0]), (self.op.tensor(v) for v in node.inputs if v is not None)
        if y is None or ct is None or kernel is None or y.dtype != ir.DataType.FLOAT or y.rank != _BLOCKED:
            return False
        fixed = all(isinstance(d, int) for t in (y, ct, kernel) for d in t.shape[1:])
        given = python_attributes(node)
        if not fixed or elements(y.shape[1:]) < _FEWEST or given.keys() & {"auto_pad", "output_shape"}:
            return False
        if not 1 < math.prod(given.get("strides", [1])) <= _MOST_COPIES:
            return False
        channels = given.get("group", 1)
        alone = kernel.shape[1] == 1 and kernel.shape[0] == ct.shape[1] == channels
        blocked = channels >= _CHANNELS and channels % _ALIGNED == 0
        return alone and blocked and self.op.is_fixed(kernel) and self._is_finite(ct.value)

    def _become_convolution(self, node: ir.Node) -> None:
        """Turn such a node into a `Conv` of the cotangent with zeros between its elements."""
        ct, kernel = (self.op.tensor(_input(node, i)) for i in range(2))
        y, given = self.op.view(node).y, python_attributes(node)
        assert ct is not None
        assert kernel is not None
        strides, dilations = given["strides"], given.get("dilations", [1, 1])
        counts, size, sides = ([int(d) for d in t.shape[2:]] for t in (ct, y, kernel))
        first = given.get("pads", [0] * 4)[:2]
        before = [d * (k - 1) - p for d, k, p in zip(dilations, sides, first, strict=True)]
        behind = [n - s * m + p for n, s, m, p in zip(size, strides, counts, first, strict=True)]
        if min(*before, *behind) < 0:
            return
        wide = [s * m for s, m in zip(strides, counts, strict=True)]
        places = np.zeros(wide)
        places[:: strides[0], :: strides[1]] = 1
        apart = self.op.repeated(ct, strides) * self.op.constant(places, ct.dtype)
        mirror = self.op.Slice(kernel, [-1, -1], [-k - 1 for k in sides], [2, 3], [-1, -1], shape=kernel.shape)
        self.op.become(node, "Conv", [apart, mirror])
        node.attributes.clear()
        attributes = {"group": given["group"], "pads": [*before, *behind], "dilations": list(dilations)}
        node.attributes.update({name: attribute(name, value) for name, value in attributes.items()})

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

    @property
    def opposite(self) -> _Mask:
        """The mask of everything else."""
        return self._replace(holds=not self.holds)


class _Line(NamedTuple):
    """``slope · x + offset``, where that is from 0 to 1: a `HardSigmoid`."""

    slope: float
    offset: float

    @classmethod
    def through(cls, at_0: float | None, at_1: float | None) -> _Line | None:
        """Return the line that has these values at 0 and 1, if float32 gets just these; it is cut off at 1."""
        if at_0 is None or at_1 is None or not 0 <= at_0 <= 1 or not 0 <= at_1 <= 1:
            return None
        low, high = np.float32(at_0), np.float32(at_1)
        slope = high - low if at_1 < 1 else np.nextafter(high - low, np.float32(1))
        return cls(float(slope), float(low)) if at_1 == 1 or low + slope == high else None


class _Step(NamedTuple):
    """A `HardSigmoid` of a tensor."""

    x: Tensor
    slope: float
    offset: float


_Number = _Mask | _Step


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
