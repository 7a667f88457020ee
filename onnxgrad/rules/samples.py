"""Where the samples of a batch go: how one axis passes through each kind of operator, without samples meeting.

A per-sample Jacobian is right only if sample i of the output depends on sample i of the input and on no other. The
functions here say, for one node, on which axis of its outputs the samples of its inputs lie, or raise `Mixed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_add, dim_div, dim_mul, size_of
from onnxgrad.graph.equation import terms_of
from onnxgrad.graph.flow import Iteration, bodies_of
from onnxgrad.graph.node import Node


class Mixed(Exception):  # noqa: N818 - collected by the analysis, not an error of its own
    """Samples meet in this node; the message says how."""


@dataclass(frozen=True)
class Samples:
    """The axis on which samples lie.

    An axis may hold more than the samples, after a `Reshape` that merges axes: its size is ``outer * samples *
    inner``, and element i of it belongs to sample ``(i // inner) % samples``.

    Attributes:
        axis: the axis, from the left.
        outer: what was merged in front of the samples.
        inner: what was merged behind them.
    """

    axis: int
    outer: Dim = 1
    inner: Dim = 1


#: ``f(node, samples of each input)`` gives the samples of each output; None for what does not depend on them.
Following = Callable[[Node, Sequence[Samples | None]], Sequence[Samples | None]]


def _rank(node: Node, index: int) -> int:
    tensor = node.inputs[index]
    assert tensor is not None
    return tensor.rank


def _agree(found: Sequence[Samples | None]) -> Samples:
    places = {s for s in found if s is not None}
    if len(places) != 1:
        raise Mixed("the samples of its inputs lie on different axes")
    return places.pop()


def aligned(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow an elementwise operator: axes are aligned from the right."""
    found = []
    for i, s in enumerate(inputs):
        if s is not None:
            x = node.inputs[i]
            assert x is not None
            out = replace(s, axis=s.axis + node.y.rank - x.rank)
            if node.y.shape[out.axis] != x.shape[s.axis]:
                raise Mixed("the axis of samples may be broadcast along another axis")
            found.append(out)
    return [_agree(found)] * len(node.outputs)


def first_axis(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow an operator that keeps samples apart on axis 0 of all its inputs and outputs."""
    place = _agree(inputs)
    if place.axis != 0:
        raise Mixed(f"samples lie on axis {place.axis}, which the operator does not keep apart")
    return [place] * len(node.outputs)


def first_axis_of_data(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow an operator that keeps samples apart on axis 0 of its first input, and mixes those of all other inputs."""
    if any(inputs[1:]):
        raise Mixed("samples reach it through a weight, which all samples share")
    return first_axis(node, inputs)


def along(axes: Callable[[Node], Sequence[int]]) -> Following:
    """Follow an operator that works along the axes ``axes(node)`` of its inputs (all of one rank) and keeps all
    others.
    """

    def follow(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
        place = _agree(inputs)
        if place.axis in {a % _rank(node, 0) for a in axes(node)}:
            raise Mixed(f"it works along axis {place.axis}, on which the samples lie")
        return [place] * len(node.outputs)

    return follow


def along_data(axes: Callable[[Node], Sequence[int]]) -> Following:
    """Follow an operator that works along the axes ``axes(node)`` of its first input; samples share the others."""

    def follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
        if any(inputs[1:]):
            raise Mixed("samples reach it through a weight, which all samples share")
        return along(axes)(node, inputs)

    return follow


def along_first(axes: Callable[[Node], Sequence[int]]) -> Following:
    """Follow an operator that works along the axes ``axes(node)`` of its first input; others are aligned with that."""

    def follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
        if inputs[0] is not None:
            along(axes)(node, inputs[:1])
        return aligned(node, inputs)

    return follow


def axis_attribute(node: Node) -> Sequence[int]:
    """The axis that the attribute `axis` names."""
    return [node.attr("axis")]


def reduced(axes: Callable[[Node], Sequence[int] | None]) -> Following:
    """Follow a reduction over ``axes(node)`` (None: not known), with the attribute `keepdims`."""

    def follow(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
        place = _agree(inputs)
        over = axes(node)
        if over is None:
            raise Mixed("the axes that it reduces are not known before run time")
        gone = {a % _rank(node, 0) for a in over}
        if place.axis in gone:
            raise Mixed(f"it reduces axis {place.axis}, on which the samples lie")
        lost = 0 if node.attr("keepdims", 1) else sum(a < place.axis for a in gone)
        return [replace(place, axis=place.axis - lost)] * len(node.outputs)

    return follow


def reshaped(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow any operator that keeps the order of all elements (Reshape, Flatten, Unsqueeze)."""
    place = _agree(inputs)
    x, y = node.x.shape, node.y.shape
    before = dim_mul(size_of(x[: place.axis]), place.outer)
    behind = dim_mul(place.inner, size_of(x[place.axis + 1 :]))
    samples = dim_div(x[place.axis], dim_mul(place.outer, place.inner))
    for axis in range(len(y)):
        outer = dim_div(before, size_of(y[:axis]))
        inner = dim_div(behind, size_of(y[axis + 1 :]))
        if outer is None or inner is None or samples is None:
            continue
        if not isinstance(y[axis], int) or y[axis] == dim_mul(outer, samples, inner):
            return [Samples(axis, outer, inner)]
    raise Mixed(f"it cannot be shown where samples go from shape {list(x)} to {list(y)}")


def squeezed(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow `Squeeze`: the axes that it names have size 1, also where that is not known before run time."""
    place, axes = _agree(inputs), node.input(1)
    if axes is None or axes.ints is None:
        return reshaped(node, inputs)
    gone = {a % node.x.rank for a in axes.ints}
    if place.axis in gone:
        return reshaped(node, inputs)
    return [replace(place, axis=place.axis - sum(a < place.axis for a in gone))]


def transposed(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow a permutation of axes."""
    place = _agree(inputs)
    order = list(node.attr("perm") or reversed(range(node.x.rank)))
    return [replace(place, axis=order.index(place.axis))]


def matmul(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow `MatMul`: rows of the left, columns of the right, and aligned batch axes stay apart; the rest is
    summed.
    """
    found: list[Samples | None] = []
    for i, s in enumerate(inputs):
        if s is None:
            continue
        x, other = node.inputs[i], node.inputs[1 - i]
        assert x is not None
        assert other is not None
        from_right = s.axis - x.rank
        if x.rank == 1 or from_right == (-1, -2)[i]:
            raise Mixed(f"it sums over axis {s.axis} of input {i}, on which the samples lie")
        # a vector on the other side takes its axis out of the result
        lost = 1 if other.rank == 1 and from_right < -1 else 0
        place = replace(s, axis=from_right + lost + node.y.rank)
        if node.y.shape[place.axis] != x.shape[s.axis]:
            raise Mixed("the axis of samples may be broadcast along another axis")
        found.append(place)
    return [_agree(found)]


def gemm(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow `Gemm`: rows of the left and of the bias, or columns of the right, stay apart."""
    rows, columns = (1, 0) if node.attr("transA") else (0, 1), (1, 0) if node.attr("transB") else (0, 1)
    found: list[Samples | None] = []
    for i, s in enumerate(inputs):
        if s is None:
            continue
        if (i == 0 and s.axis != rows[0]) or (i == 1 and s.axis != columns[1]):
            raise Mixed(f"it sums over axis {s.axis} of input {i}, on which the samples lie")
        c = node.inputs[i]
        assert c is not None
        found.append(replace(s, axis=(0, 1, s.axis + 2 - c.rank)[i]))
    return [_agree(found)]


def einsum(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow `Einsum`: the samples stay on the axis of their letter."""
    terms, output = terms_of(node.attr("equation"), [_rank(node, i) for i in range(len(inputs))])
    found: list[Samples | None] = []
    for i, s in enumerate(inputs):
        if s is None:
            continue
        x, axis = node.inputs[i], output.find(terms[i][s.axis])
        assert x is not None
        if axis < 0:
            raise Mixed(f"it sums over axis {s.axis} of input {i}, on which the samples lie")
        if node.y.shape[axis] != x.shape[s.axis]:
            raise Mixed("the axis of samples may be broadcast along another axis")
        found.append(replace(s, axis=axis))
    return [_agree(found)]


def concatenated(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow `Concat`; joined along the samples, all inputs make blocks of all samples, one behind another."""
    blocks = [s for s in inputs if s is not None and s.axis == node.attr("axis") % _rank(node, 0)]
    if len(blocks) == len(inputs) and len({s.inner for s in blocks}) == 1:
        return [replace(blocks[0], outer=dim_add(*(s.outer for s in blocks)))]
    return list(along(axis_attribute)(node, inputs))


def gathered(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow `Gather`: the axis that is gathered is replaced by the axes of the indices."""
    if any(inputs[1:]) or inputs[0] is None:
        raise Mixed("samples reach it through its indices")
    place, axis = inputs[0], node.attr("axis", 0) % node.x.rank
    if place.axis == axis:
        raise Mixed(f"it picks along axis {axis}, on which the samples lie")
    return [replace(place, axis=place.axis + (_rank(node, 1) - 1 if place.axis > axis else 0))]


def through_flow(op: Builder, node: ir.Node, places: dict[ir.Value, Any], walk: Callable[[ir.Graph], None]) -> None:
    """Follow the samples through the bodies of an `If`, `Loop` or `Scan`, and enter where they lie in its outputs.

    Args:
        op: the builder.
        node: the node.
        places: where samples lie, by value; what is found is entered.
        walk: follows them through the nodes of a body.

    Raises:
        Mixed: if they meet inside, or choose what is computed.
    """
    if node.op_type == "If":
        if node.inputs[0] in places:
            raise Mixed("samples choose the branch that is computed")
        for body in bodies_of(op, node):
            walk(body.graph)
            for inside, outside in body.leave:
                _enter(places, outside, places.get(inside))
        return
    it = Iteration.of(node)
    if it.counter is not None and any(v in places for v in node.inputs[:2]):
        raise Mixed("samples choose the number of iterations")
    for s in it.states:
        _enter(places, s.entering, places.get(s.initial))
    for e in it.elements:
        _enter(places, e.slice, _sliced(places.get(e.whole), e.axis))
    before = -1
    while before != sum(s.entering in places for s in it.states):  # what leaves one iteration enters the next
        before = sum(s.entering in places for s in it.states)
        walk(it.graph)
        for s in it.states:
            _enter(places, s.entering, places.get(s.leaving))
    if it.condition is not None and it.condition[1] in places:
        raise Mixed("samples choose the number of iterations")
    for s in it.states:
        _enter(places, s.final, places.get(s.entering))
    for r in it.results:
        place = places.get(r.slice)
        if isinstance(place, Samples):
            place = replace(place, axis=place.axis + (place.axis >= r.axis))
        _enter(places, r.whole, place)


def _enter(places: dict[ir.Value, Any], value: ir.Value, place: Any) -> None:
    if place is not None and places.setdefault(value, place) != place:
        raise Mixed("the samples lie on different axes of what comes together in it")


def _sliced(place: Any, axis: int) -> Any:
    if not isinstance(place, Samples):
        return place
    if place.axis == axis:
        raise Mixed(f"it goes along axis {axis}, on which the samples lie")
    return replace(place, axis=place.axis - (place.axis > axis))
