"""Writing loops: a `Loop` or `Scan` that has the body of an old one in it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.autodiff.factors import collect
from onnxgrad.autodiff.fission import stack
from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape
from onnxgrad.graph.flow import CHANGES_SHAPE, MAY_BE_EMPTY, Iteration, reads
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor


def tensor_of(op: Builder, value: ir.Value) -> Tensor:
    """Return the tensor of a value that has one."""
    tensor = op.tensor(value)
    assert tensor is not None, value.name
    return tensor


@dataclass(eq=False)
class Carried:
    """A state of a loop that is being written: before the first iteration, in and out of each, after the last.

    `final` is the shape of the last, which is `out` once it is written.
    """

    initial: Tensor
    entering: Tensor
    leaving: Tensor
    final: Shape
    wanted: bool = True
    out: Tensor | None = None


@dataclass(eq=False)
class Sliced:
    """An element, or result, of a loop that is being written: a slice of `whole`, or of what is `out` once it is
    written; `shape` is that of a slice as seen from outside.
    """

    slice: Tensor
    shape: Shape = ()
    whole: Tensor | None = None
    axis: int = 0
    backward: bool = False
    out: Tensor | None = None


class Writer:
    """Writes a `Loop` or `Scan` that has the body of an old one in it.

    First `inline`, then what is further carried, sliced and stacked, then `close`, all of that inside of a body of the
    builder; at last `emit` outside of it.
    """

    def __init__(self, op: Builder, node: Node) -> None:
        self.op, self.node, self.it = op, node, Iteration.of(node.ir)
        self.op_type = node.op_type
        self.head: list[Tensor] = []
        self.condition: list[Tensor] = []
        self.outside: list[Tensor | None] = []
        self.states: list[Carried] = []
        self.elements: list[Sliced] = []
        self.results: list[Sliced] = []
        self.twins: list[tuple[Sliced, Sliced]] = []  # results that are the same as others
        self.inside: dict[ir.Value, Tensor] = {}
        self.after: dict[ir.Value, Tensor] = {}
        self.may_be_empty = bool(node.ir.meta.get(MAY_BE_EMPTY))
        self.changes_shape = bool(node.ir.meta.get(CHANGES_SHAPE))

    def enter(self) -> None:
        """Make inputs for the old body."""
        values = self.it.graph.inputs
        self.inside = {v: self.op.local(t, v.name or "state") for v in values if (t := self.op.tensor(v)) is not None}

    def inline(self) -> list[ir.Node]:
        """Emit the old body; return its nodes."""
        start = len(self.op.nodes)
        outputs = self.op.inline(self.it.graph, self.inside)
        self.after = {v: t for v, t in zip(self.it.graph.outputs, outputs, strict=True) if t is not None}
        return self.op.nodes[start:]

    def run_along(self) -> list[ir.Node]:
        """Emit the old body to run as it did, with its condition, states and elements; return its nodes."""
        self.enter()
        nodes = self.inline()
        if self.it.counter is not None and self.it.condition is not None:
            runs, goes_on = self.it.condition
            self.head, self.condition = [self.inside[self.it.counter], self.inside[runs]], [self.after[goes_on]]
            self.outside = list(self.node.inputs[:2])
        for s in self.it.states:
            if s.entering in self.inside and s.leaving in self.after and (final := self.op.tensor(s.final)) is not None:
                initial = tensor_of(self.op, s.initial)
                old = Carried(initial, self.inside[s.entering], self.after[s.leaving], final.shape, wanted=False)
                self.states.append(old)
        for e in self.it.elements:
            whole = tensor_of(self.op, e.whole)
            self.elements.append(Sliced(self.inside[e.slice], (), whole, e.axis, e.backward))
        return nodes

    def settle(self) -> None:
        """Leave the states and elements that are needed, and of the body what leads to what it gives."""
        roots = [*self.condition, *(r.slice for r in self.results)]
        live = [s for s in self.states if s.wanted]
        while True:  # a state is needed if a state that is needed depends on it
            needed = self.op.needed([*roots, *(s.leaving for s in live)])
            more = [s for s in self.states if s not in live and s.entering.value in needed]
            if not more:
                break
            live += more
        astray = [v.name for v in self.it.graph.inputs if v in needed]
        if astray:
            raise Refusal(f"what is carried in {', '.join(map(repr, astray))} is no tensor, or its rank is not known")
        self.states = live
        # at least one says how often to run
        self.elements = [e for e in self.elements if e.slice.value in needed] or self.elements[:1]
        self.op.hoist([t.value for t in self._leaving()], self._entering())

    def _entering(self) -> list[Tensor]:
        return [*self.head, *(s.entering for s in self.states), *(e.slice for e in self.elements)]

    def _leaving(self) -> list[Tensor]:
        return [*self.condition, *(s.leaving for s in self.states), *(r.slice for r in self.results)]

    def close(self) -> None:
        """Make a graph of the body, without what can be computed outside of it for all iterations at once."""
        self.settle()
        if self.op_type == "Scan" and self.elements:
            self._split()
            self.settle()
        first = {(origin(r.slice.value), r.backward): r for r in reversed(self.results)}
        self.twins = [(r, twin) for r in self.results if (twin := first[origin(r.slice.value), r.backward]) is not r]
        self.results = [r for r in self.results if r in first.values()]
        self.graph = self.op.close(self._entering(), self._leaving(), hoist=True)

    def _split(self) -> None:
        """Take out of the body what depends on slices only, and let the rest have it as further slices."""
        op, backward = self.op, self.elements[0].backward
        with op.around():
            for e in self.elements:
                assert e.whole is not None
                e.whole, e.axis = moved(op, e.whole, e.axis, 0), 0
        wholes = {
            e.slice.value: e.whole
            for e in self.elements
            if e.backward == backward and e.whole is not None and e.whole.shape[1:] == e.slice.shape
        }
        if not wholes:
            return
        found = stack(op, op.nodes, wholes, [t.value for t in self._entering()])
        for r in self.results:
            value = origin(r.slice.value)
            if value in found and r.backward == backward:
                with op.around():
                    r.out = moved(op, op.reshape(found[value], (found[value].shape[0], *r.shape)), 0, r.axis)
        self.results = [r for r in self.results if r.out is None]
        for s in self.states:
            addend = self._addend(s)
            if addend in found:
                with op.around():
                    s.out = s.initial + op.sum(found[addend], [0], keepdims=False)
        self.states = [s for s in self.states if s.out is None]
        self.settle()
        collect(self, found)
        left = (v for node in op.nodes if found.keys().isdisjoint(node.outputs) for v in reads(node))
        given = {t.value for t in self._entering()}
        for value in dict.fromkeys([*left, *(t.value for t in self._leaving())]):
            if value in found and value not in given:
                self.replace(value, self.slice_of(found[value]))

    def _addend(self, state: Carried) -> ir.Value | None:
        """Return what each iteration adds to a state that is nothing but a sum."""
        total, after = state.entering.value, state.leaving.value
        node = after.producer()
        if node is None or node.op_type != "Add" or node.domain or total not in node.inputs:
            return None
        leaving = [t.value for t in self._leaving()]
        alone = len(total.uses()) == 1 and not after.uses() and total not in leaving and leaving.count(after) == 1
        return next((v for v in node.inputs if v is not total), None) if alone else None

    def slice_of(self, whole: Tensor) -> Tensor:
        """Return what an iteration has of a tensor outside."""
        result = self.op.local(whole, "element", shape=whole.shape[1:])
        self.elements.append(Sliced(result, (), whole, 0, self.elements[0].backward))
        return result

    def replace(self, value: ir.Value, by: Tensor) -> None:
        """Let another value take the place of one inside."""
        ir.convenience.replace_all_uses_with(value, by.value, replace_graph_outputs=True)
        for s in (s for s in self.states if s.leaving.value is value):
            s.leaving = by
        for r in (r for r in self.results if r.slice.value is value):
            r.slice = by

    def leaves(self, value: ir.Value) -> bool:
        """Whether a value inside leaves the iteration."""
        return any(t.value is value for t in self._leaving())

    def emit(self, length: Dim) -> None:
        """Emit the loop of so many iterations; states and results get what is `out`."""
        if not self.states and not self.results:
            return
        types = [(s.initial.dtype, s.final) for s in self.states]
        types += [(r.slice.dtype, (length, *r.shape)) for r in self.results]
        attributes: dict[str, int | list[int]] = {}
        if self.op_type == "Scan":
            attributes["num_scan_inputs"] = len(self.elements)
            for kind, slices in (("input", self.elements), ("output", self.results)):
                attributes[f"scan_{kind}_directions"] = [int(s.backward) for s in slices]
        wholes = [moved(self.op, e.whole, e.axis, 0) for e in self.elements if e.whole is not None]
        inputs = [*self.outside, *(s.initial for s in self.states), *wholes]
        given = {name: value for name, value in attributes.items() if value}
        outputs = iter(self.op.emit_flow(self.op_type, inputs, {"body": self.graph}, types, **given))
        self.op.nodes[-1].meta.update({MAY_BE_EMPTY: self.may_be_empty, CHANGES_SHAPE: self.changes_shape})
        for s in self.states:
            s.out = next(outputs)
        for r in self.results:
            r.out = moved(self.op, next(outputs), 0, r.axis)
        for r, twin in self.twins:
            assert twin.out is not None
            r.out = moved(
                self.op, self.op.reshape(moved(self.op, twin.out, twin.axis, 0), (length, *r.shape)), 0, r.axis
            )


def origin(value: ir.Value) -> ir.Value:
    """Return the value that this one is equal to by `Identity` nodes."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and not node.domain and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def moved(op: Builder, x: Tensor, axis: int, to: int) -> Tensor:
    """Move an axis. All loops here go along axis 0: along another one, onnxruntime's `Scan` ends the process where some
    size is 0, and a `Loop` cannot go.
    """
    order = [i for i in range(x.rank) if i != axis % x.rank]
    return op.Transpose(x, perm=[*order[:to], axis % x.rank, *order[to:]])
