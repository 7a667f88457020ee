"""The proof that a model may be run a few rows at a time.

That sample i of a result depends on sample i of the inputs alone, and how, is not enough: it must not depend on the
*number* of samples either, and no path may be left out, whether numbers pass on it or integers, flags and sizes. So
the samples are followed here through every node, by the same rules as in `onnxgrad.autodiff.proof`, and whatever is
not known to keep them apart counts as mixing them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, atoms_of, dim_div, dim_mul, size_of
from onnxgrad.graph.flow import captured_values, is_flow, reads
from onnxgrad.graph.node import Node
from onnxgrad.graph.sizes import POINTWISE
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import REGISTRY, samples
from onnxgrad.rules.samples import Mixed, Samples


@dataclass(frozen=True)
class Split:
    """A symbolic size along which a run can be split into several.

    Attributes:
        size: its name.
        inputs: the axis of each input that has it; inputs without it are the same in every part.
        outputs: the axis of each output; None for an output that is the same in every part.
    """

    size: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int | None]


@dataclass(frozen=True)
class _Positions:
    """Integers that count the elements of a tensor, all its samples through, as the indices from `MaxPool` do.

    Attributes:
        place: where the samples lie among these integers.
        span: number of elements of one sample; those of sample i are from ``i * span`` on.
    """

    place: Samples
    span: Dim


#: What is known of a value that the samples reach: the axis on which they lie; that it holds positions in them; that it
#: follows from their number alone; or that they may be mixed in it. A value that they do not reach is not there.
_State = Samples | _Positions | Literal["size", "mixed"]


def find_split(op: Builder, inputs: Iterable[ir.Value], outputs: Sequence[ir.Value]) -> Split | None:
    """Return how a model can be run a few samples at a time, or None where that is not proven.

    The samples are those of axis 0 of the first input in which that has a symbolic size, and lie wherever else this
    size occurs.

    Args:
        op: the builder of the model, which is finished.
        inputs: its inputs.
        outputs: those of its outputs that are of interest.
    """
    shapes = {v: t.shape for v in inputs if (t := op.tensor(v)) is not None}
    size = next((shape[0] for shape in shapes.values() if shape and isinstance(shape[0], str)), None)
    if size is None:
        return None
    axes: dict[ir.Value, int] = {}
    for value, shape in shapes.items():
        places = [i for i, dim in enumerate(shape) if size in _names(dim)]
        if len(places) > 1 or any(shape[i] != size for i in places):
            return None
        axes.update((value, i) for i in places)
    states: dict[ir.Value, _State] = {value: Samples(axis) for value, axis in axes.items()}
    for node in op.model.graph:
        _follow(op, node, states, size)
    found: dict[str, int | None] = {}
    for value in outputs:
        state = states.get(value)
        tensor = op.tensor(value)
        if state is None:
            found[value.name or ""] = None
        elif isinstance(state, Samples) and tensor is not None and tensor.shape[state.axis] == size:
            found[value.name or ""] = state.axis
        else:
            return None
    if all(axis is None for axis in found.values()):
        return None
    return Split(size, {v.name or "": axis for v, axis in axes.items()}, found)


def _follow(op: Builder, node: ir.Node, states: dict[ir.Value, _State], size: str) -> None:
    """Enter the states of a node's outputs."""
    if is_flow(node):
        _follow_flow(op, node, states, size)
        return
    captured = {states[v] for v in captured_values(node) if v in states}
    entering = [None if v is None else states.get(v) for v in node.inputs]
    if not captured and not any(entering):
        return
    found: Sequence[_State | None] = ["mixed"] * len(node.outputs)
    known = all(op.tensor(v) is not None for v in (*node.inputs, *node.outputs) if v is not None and v.name)
    if known and not captured and "mixed" not in entering:
        with contextlib.suppress(Mixed):
            view = op.view(node)
            entering += [None] * (len(view.inputs) - len(entering))  # see below: absent inputs at its end, too
            found = [_checked(s, t, size) for s, t in zip(_through(view, entering, size), view.outputs, strict=True)]
    # a node may have lost outputs at its end that nobody used, after the builder saw it
    states.update((v, s) for v, s in zip(node.outputs, found, strict=False) if s is not None)


def _follow_flow(op: Builder, node: ir.Node, states: dict[ir.Value, _State], size: str) -> None:
    def walk(graph: ir.Graph) -> None:
        for inner in graph:
            _follow(op, inner, states, size)

    if not any(v in states for v in reads(node)):
        return
    try:
        if any(isinstance(states.get(v), _Positions) for v in reads(node)):
            raise Mixed("positions among all samples are used in a way that is not followed")
        samples.through_flow(op, node, states, walk)
    except Mixed:
        states.update((v, "mixed") for v in node.outputs)


def _checked(state: _State | None, tensor: Tensor | None, size: str) -> _State | None:
    """Return the state of a value, but "mixed" if the axis of its samples has another size than they fill."""
    place = state.place if isinstance(state, _Positions) else state
    if not isinstance(place, Samples) or tensor is None:
        return state
    return state if tensor.shape[place.axis] == dim_mul(place.outer, size, place.inner) else "mixed"


def _through(node: Node, entering: Sequence[_State | None], size: str) -> Sequence[_State | None]:
    places = [s if isinstance(s, Samples) else None for s in entering]
    if node.operator == "Shape":
        start, end, _ = slice(node.attr("start", 0), node.attr("end")).indices(node.x.rank)
        place = places[0]
        return [None if place is not None and not start <= place.axis < end else "size"]
    if set(entering) <= {None, "size"}:
        return _from_size(node, entering[0] is None, size)
    if any(isinstance(s, _Positions) for s in entering):
        return _by_position(node, entering)
    sized = {i for i, s in enumerate(entering) if s == "size"}
    if sized and sized != _TARGETS.get(node.operator):
        raise Mixed("the number of samples enters the computation")
    if node.operator in POINTWISE or node.operator in _MORE_POINTWISE:
        return _aligned(node, places)
    if node.operator in ("ArgMax", "ArgMin"):
        return samples.reduced(samples.axis_attribute)(node, places)
    if node.operator == "Gather" and places[0] is None and places[1] is not None:  # as of embeddings
        axis = node.attr("axis", 0) % node.x.rank
        return [Samples(places[1].axis + axis, places[1].outer, places[1].inner)]
    if node.operator in ("GatherElements", "ScatterElements"):  # each element has an index, of the same sample
        if not all(places):
            raise Mixed("something is meant for some of the samples")
    elif any(place and i and t is not None and not t.is_float for i, (t, place) in _numbered(node.inputs, places)):
        raise Mixed("samples choose what is computed of others")
    rule = REGISTRY.get(node.operator)
    if rule is None or rule.follow is None:
        raise Mixed("how samples pass through this operator is not known")
    found = rule.follow(node, places)
    if node.operator == "MaxPool" and found[0] is not None:
        return [found[0], *(_Positions(found[0], size_of(node.x.shape[1:])) for _ in found[1:])]
    return found


def _by_position(node: Node, entering: Sequence[_State | None]) -> Sequence[_State | None]:
    """Follow positions to where they pick elements, or put them: of the same sample, if their spans are equal."""
    if isinstance(entering[0], _Positions) and node.operator in ("Reshape", "Expand", "Identity"):
        (moved,) = (samples.reshaped if node.operator == "Reshape" else samples.aligned)(node, [entering[0].place])
        return [None if moved is None else _Positions(moved, entering[0].span)]
    if node.operator in ("ScatterElements", "GatherElements") and isinstance(entering[1], _Positions):
        data, place = entering[0], entering[1].place
        axis = node.attr("axis") % node.x.rank
        matching = data == Samples(axis, 1, entering[1].span) and place.axis == axis and place.outer == 1
        if matching and all(s == place for s in entering[2:]):
            return [data if node.operator == "ScatterElements" else place]
    raise Mixed("positions among all samples are used in a way that is not followed")


def _aligned(node: Node, places: Sequence[Samples | None]) -> Sequence[_State | None]:
    """Follow an elementwise operator, in which what is no sample must be the same for all of them."""
    found = samples.aligned(node, places)
    assert found[0] is not None
    from_right = found[0].axis - node.y.rank
    for tensor, place in zip(node.inputs, places, strict=True):
        if place is None and tensor is not None and tensor.rank >= -from_right and tensor.shape[from_right] != 1:
            raise Mixed("something is meant for some of the samples")
    return found


def _numbered(*columns: Sequence[Any]) -> Iterable[tuple[int, tuple[Any, ...]]]:
    return enumerate(zip(*columns, strict=True))


def _from_size(node: Node, constant: bool, size: str) -> Sequence[_State | None]:
    """Follow a node that the number of samples reaches, but no sample does; `constant`: nor its first input."""
    if node.operator == "ConstantOfShape" or (node.operator == "Expand" and constant and node.x.rank <= node.y.rank):
        old = () if node.operator == "ConstantOfShape" else node.x.shape
        before: tuple[Dim, ...] = (1,) * (node.y.rank - len(old)) + tuple(old)
        axes = [i for i, dim in enumerate(node.y.shape) if size in _names(dim)]
        each = dim_div(node.y.shape[axes[0]], size) if len(axes) == 1 else None
        if each is not None and size not in _names(each) and before[axes[0]] == 1:
            return [Samples(axes[0], 1, each)]  # the same everywhere
    return ["size"] * len(node.outputs)


def _names(dim: Dim) -> frozenset[str]:
    """Return the names in a size; one that is computed in other ways may hold any."""
    return frozenset({dim}) | atoms_of(dim) if isinstance(dim, str) else frozenset()


#: Operators that may get the number of samples in the given input: all it does there is to give the result its shape.
_TARGETS = {"Reshape": {1}, "Expand": {1}}
#: Operators that act on each element alone, besides those of which the shape is known that way.
_MORE_POINTWISE = frozenset("BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CastLike Identity PRelu".split())
