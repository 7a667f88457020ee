"""Control flow: graphs in the attributes of a node, how values pass into and out of them, and their types.

`If`, `Loop` and `Scan` have bodies. Values pass into a body by its inputs, or because it captures them from around;
they pass out by its outputs; and what leaves one iteration of a loop may enter the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxgrad.graph.dims import Dim
from onnxgrad.graph.operands import Inputs, Type
from onnxgrad.graph.tensor import Tensor

if TYPE_CHECKING:
    from onnxgrad.graph.builder import Builder

#: The operators of control flow.
FLOW = ("If", "Loop", "Scan")

#: Key in the `meta` of a `Scan` that may have no iteration, which onnxruntime refuses: it is written as a `Loop`.
MAY_BE_EMPTY = "onnxgrad.may_be_empty"
#: Key in the `meta` of a `Scan` with states whose shapes change, which is against its definition: so is this.
CHANGES_SHAPE = "onnxgrad.changes_shape"


def is_flow(node: ir.Node) -> bool:
    """Whether a node is one of control flow."""
    return node.domain == "" and node.op_type in FLOW


def graphs_in(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """Yield the graphs in a node's attributes, with the names of these."""
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from ((name, graph) for graph in attribute.as_graphs())


def captured_values(node: ir.Node) -> KeysView[ir.Value]:
    """Return the values around a node that graphs in its attributes use, in the order of their first use."""
    captured: dict[ir.Value, None] = {}
    for _, graph in graphs_in(node):
        inside: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
        used: dict[ir.Value, None] = {}
        for inner in graph:
            used.update(dict.fromkeys(reads(inner)))
            inside.update(inner.outputs)
        used.update(dict.fromkeys(graph.outputs))
        captured.update((v, None) for v in used if v not in inside)
    return captured.keys()


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values that a node needs: its inputs, and what graphs in its attributes capture."""
    yield from (v for v in node.inputs if v is not None)
    if node.attributes:
        yield from captured_values(node)


@dataclass(frozen=True)
class Body:
    """A graph in a node of control flow, and the ways of values through it.

    Attributes:
        graph: the graph.
        enter: pairs of a value outside and the one inside that it becomes.
        leave: pairs of a value inside and the one outside that it becomes.
        back: pairs of what leaves an iteration and what it is in the next.
        past: pairs of a value outside and another that it becomes where there is no iteration.
        decides: values inside that decide whether there is a next iteration.
    """

    graph: ir.Graph
    enter: Sequence[tuple[ir.Value, ir.Value]]
    leave: Sequence[tuple[ir.Value, ir.Value]]
    back: Sequence[tuple[ir.Value, ir.Value]] = ()
    past: Sequence[tuple[ir.Value, ir.Value]] = ()
    decides: Sequence[ir.Value] = ()


@dataclass(frozen=True)
class Slices:
    """A tensor of which each iteration takes, or gives, one slice.

    Attributes:
        whole: the tensor outside.
        slice: the value inside.
        axis: the axis of iterations in `whole`.
        backward: whether the first iteration has the last slice.
    """

    whole: ir.Value
    slice: ir.Value
    axis: int = 0
    backward: bool = False


@dataclass(frozen=True)
class State:
    """What is carried from iteration to iteration: its value before the first, in, out of one, and after the last."""

    initial: ir.Value
    entering: ir.Value
    leaving: ir.Value
    final: ir.Value


@dataclass(frozen=True)
class Iteration:
    """A `Loop` or `Scan`, seen alike.

    Attributes:
        graph: the body.
        states: what is carried.
        elements: inputs of which each iteration takes one slice (`Scan` only).
        results: outputs of which each iteration gives one slice.
        counter: the number of the iteration inside (`Loop` only).
        condition: inside, whether the iteration is run, and whether there is to be a next one (`Loop` only).
    """

    graph: ir.Graph
    states: Sequence[State]
    elements: Sequence[Slices]
    results: Sequence[Slices]
    counter: ir.Value | None = None
    condition: tuple[ir.Value, ir.Value] | None = None

    @classmethod
    def of(cls, node: ir.Node) -> Iteration:
        """Return the view of a `Loop` or `Scan` node (of opset 11 or above)."""
        body = node.attributes["body"].as_graph()
        if node.op_type == "Loop":
            inputs, first, last = list(node.inputs[2:]), 2, 1
            scanned = 0
        else:
            inputs, first, last = list(node.inputs), 0, 0
            scanned = node.attributes["num_scan_inputs"].as_int()
        carried = len(inputs) - scanned
        states = [
            State(initial, body.inputs[first + i], body.outputs[last + i], node.outputs[i])
            for i, initial in enumerate(inputs[:carried])
            if initial is not None
        ]
        wholes = [v for v in inputs[carried:] if v is not None]
        slices = list(body.inputs)[first + carried :]
        given, stacked = list(body.outputs)[last + carried :], list(node.outputs)[carried:]
        return cls(
            body,
            states,
            [
                Slices(w, s, _from_left(w, axis), back)
                for (w, s), axis, back in zip(
                    zip(wholes, slices, strict=True),
                    _ints(node, "scan_input_axes", len(wholes)),
                    map(bool, _ints(node, "scan_input_directions", len(wholes))),
                    strict=True,
                )
            ],
            [
                Slices(w, s, _from_left(w, axis), back)
                for (w, s), axis, back in zip(
                    zip(stacked, given, strict=True),
                    _ints(node, "scan_output_axes", len(stacked)),
                    map(bool, _ints(node, "scan_output_directions", len(stacked))),
                    strict=True,
                )
            ],
            body.inputs[0] if node.op_type == "Loop" else None,
            (body.inputs[1], body.outputs[0]) if node.op_type == "Loop" else None,
        )


def _from_left(whole: ir.Value, axis: int) -> int:
    return axis if axis >= 0 or whole.shape is None else axis + len(whole.shape)


def _ints(node: ir.Node, name: str, count: int) -> Sequence[int]:
    attribute = node.attributes.get(name)
    return [0] * count if attribute is None else attribute.as_ints()


def branches_of(op: Builder, node: ir.Node) -> dict[str, ir.Graph]:
    """Return the branches of an `If`, by the names of their attributes; the one that is taken if that is known."""
    branches = dict(graphs_in(node))
    condition = None if node.inputs[0] is None else op.tensor(node.inputs[0])
    if condition is None or condition.ints is None:
        return branches
    taken = "then_branch" if condition.ints[0] else "else_branch"
    return {taken: branches[taken]}


def bodies_of(op: Builder, node: ir.Node) -> list[Body]:
    """Return the bodies of a node of control flow that may be run."""
    if node.op_type == "If":
        branches = branches_of(op, node).values()
        return [Body(graph, (), tuple(zip(graph.outputs, node.outputs, strict=True))) for graph in branches]
    it = Iteration.of(node)
    return [
        Body(
            it.graph,
            (*((s.initial, s.entering) for s in it.states), *((e.whole, e.slice) for e in it.elements)),
            (*((s.leaving, s.final) for s in it.states), *((r.slice, r.whole) for r in it.results)),
            tuple((s.leaving, s.entering) for s in it.states),
            tuple((s.initial, s.final) for s in it.states),
            () if it.condition is None else (it.condition[1],),
        )
    ]


# --- copies ------------------------------------------------------------------------------------


#: Key in the `meta` of a node of the shape that its emitter stated for its output.
STATED_SHAPE = "onnxgrad.stated_shape"


def clone_node(node: ir.Node, mapping: dict[ir.Value, ir.Value], name: Callable[[str], str]) -> ir.Node:
    """Return a copy of a node, bodies included.

    Args:
        node: the node.
        mapping: values to be replaced; the copy's outputs are entered.
        name: makes a new name of an old one.
    """
    attributes = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            attribute = ir.AttrGraph(attribute.name, clone_graph(attribute.as_graph(), dict(mapping), name))
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = [clone_graph(graph, dict(mapping), name) for graph in attribute.as_graphs()]
            attribute = ir.AttrGraphs(attribute.name, graphs)
        attributes.append(attribute)
    inputs = [None if v is None else mapping.get(v, v) for v in node.inputs]
    copy = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        attributes,
        overload=node.overload,
        num_outputs=len(node.outputs),
        name=name(node.name or node.op_type),
    )
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.name = name(old.name) if old.name else ""
        new.type, new.shape = old.type, old.shape
        new.meta.update(old.meta)
        mapping[old] = new
    copy.meta.update(node.meta)
    return copy


def clone_graph(graph: ir.Graph, mapping: dict[ir.Value, ir.Value], name: Callable[[str], str]) -> ir.Graph:
    """Return a copy of a body; its initializers must have been taken out of it (they are mapped already)."""
    inputs = []
    for value in graph.inputs:
        mapping[value] = copy = ir.Value(name=name(value.name or "input"), type=value.type, shape=value.shape)
        inputs.append(copy)
    nodes = [clone_node(node, mapping, name) for node in graph]
    return ir.Graph(inputs, [mapping.get(v, v) for v in graph.outputs], nodes=nodes, name=name(graph.name or "body"))


# --- types -------------------------------------------------------------------------------------


def infer_flow(op: Builder, node: ir.Node, inputs: Inputs) -> list[Type | None]:
    """Return the types of the outputs of a node of control flow, and give types to all values in its bodies.

    A size of a state that changes from iteration to iteration is open.
    """
    if node.op_type == "If":
        return _branch_types(op, node)
    return _iteration_types(op, node, inputs)


def _branch_types(op: Builder, node: ir.Node) -> list[Type | None]:
    found: list[list[Type | None]] = []
    for body in bodies_of(op, node):
        with op.body():
            op.type_body(body.graph)
            found.append([_type_of(op.tensor(v)) for v in body.graph.outputs])
    return [_outside(op, _common(types[0], types[1:])) for types in zip(*found, strict=True)]


def contents_of_branches(op: Builder, node: ir.Node) -> list[tuple[Dim, ...] | None]:
    """Return the elements of the small integer outputs of an `If` where they are known, whichever branch is taken."""
    found = []
    for values in zip(*(body.graph.outputs for body in bodies_of(op, node)), strict=True):
        contents = {None if (t := op.tensor(v)) is None else t.content for v in values}
        content = contents.pop() if len(contents) == 1 else None
        found.append(content if content is not None and all(map(op.is_known, content)) else None)
    return found


def _iteration_types(op: Builder, node: ir.Node, inputs: Inputs) -> list[Type | None]:
    it = Iteration.of(node)
    states = [_type_of(op.tensor(s.initial)) for s in it.states]
    length = _length(op, it)
    final = op.settled
    op.settled = final and (node.op_type == "Scan" or not op.has_sequences)
    while True:
        with op.body():
            for slices in it.elements:
                whole = op.tensor(slices.whole)
                op.declare(slices.slice, None if whole is None else (whole.dtype, _without(whole.shape, slices.axis)))
            for state, known in zip(it.states, states, strict=True):
                op.declare(state.entering, known)
            if it.counter is not None and it.condition is not None:
                op.declare(it.counter, (ir.DataType.INT64, _scalar_shape(it.counter)))
                runs = op.declare(it.condition[0], (ir.DataType.BOOL, _scalar_shape(it.condition[0])))
                assert runs is not None
                runs.content = (1,)  # else the iteration would not be run
            op.type_body(it.graph)
            leaving = states
            if node.op_type == "Loop" or node.meta.get(CHANGES_SHAPE):  # the states of a `Scan` keep their shapes
                found = [_type_of(op.tensor(s.leaving)) for s in it.states]
                leaving = [_common(known, [after]) for known, after in zip(states, found, strict=True)]
            results = [(r, _type_of(op.tensor(r.slice))) for r in it.results]
            after = None if it.condition is None else op.tensor(it.condition[1])
        if leaving == states and op.settled == final:
            break
        op.settled = final and leaving == states  # once more, to settle what was only tried
        states = leaving
    op.settled = final
    if node.op_type == "Loop":
        endless = node.inputs[1] is None or (inputs[1] is not None and inputs[1].content == (1,))
        trips = None if inputs[0] is None else inputs[0].content
        counted = endless and after is not None and after.content == (1,) and trips is not None
        length = op.trips(trips[0]) if counted and trips is not None else op.fresh_dim()
    stacked: list[Type | None] = []
    for r, each in results:
        if each is None or each[1] is None:
            stacked.append(each)
        else:
            axis = r.axis % (len(each[1]) + 1)
            stacked.append((each[0], (*each[1][:axis], length, *each[1][axis:])))
    return [_outside(op, t, keep=length) for t in (*states, *stacked)]


def _length(op: Builder, it: Iteration) -> Dim | None:
    """Return the number of iterations of a `Scan`."""
    for slices in it.elements:
        whole = op.tensor(slices.whole)
        if whole is not None:
            return whole.shape[slices.axis]
    return None


def _without(shape: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def _scalar_shape(value: ir.Value) -> tuple[Dim, ...]:
    """Onnxruntime gives the counter and the condition the rank that the body declares: none, or one."""
    return (1,) if value.shape is not None and len(value.shape) == 1 else ()


def _type_of(tensor: Tensor | None) -> Type | None:
    return None if tensor is None else (tensor.dtype, tensor.shape)


def _common(first: Type | None, others: Sequence[Type | None]) -> Type | None:
    """Return what several types have in common: sizes that differ are open."""
    for other in others:
        if first is None or other is None or first[1] is None or other[1] is None:
            return None
        if first[0] != other[0] or len(first[1]) != len(other[1]):
            return None
        first = first[0], tuple(a if a == b else None for a, b in zip(first[1], other[1], strict=True))
    return first


def _outside(op: Builder, found: Type | None, keep: Dim | None = None) -> Type | None:
    """Return a type as seen from outside of the body: a size that is only known inside is open."""
    if found is None or found[1] is None:
        return found
    return found[0], tuple(d if d is not None and (d == keep or op.is_known(d)) else None for d in found[1])


# --- writing a scan ------------------------------------------------------------------------------

#: ``f(states, elements)`` of one iteration gives the states after it, and its results.
Step = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Sequence[Tensor], Sequence[Tensor]]]


def scan(
    op: Builder,
    step: Step,
    states: Sequence[Tensor],
    elements: Sequence[Tensor],
    *,
    backward: bool = False,
    known: Sequence[Tensor] = (),
) -> tuple[list[Tensor], list[Tensor]]:
    """Emit a `Scan`: run `step` for each slice of `elements` in turn.

    Args:
        op: the builder.
        step: emits one iteration; it may use any tensor from around.
        states: what is carried, before the first iteration; its shapes stay the same.
        elements: at least one tensor, of which each iteration takes a slice along axis 0.
        backward: whether the last slice comes first, and the first iteration gives the last slice of the results.
        known: tensors that the first of the results are known to be equal to, so that derivatives need not run the loop
            for them.

    Returns:
        The states after the last iteration, and the results of all iterations along axis 0. For no iterations these are
        the initial states, and empty tensors.
    """
    length = elements[0].shape[0]
    with op.body():
        entering = [op.local(s, "state") for s in states]
        slices = [op.local(e, "element", shape=e.shape[1:]) for e in elements]
        leaving, results = step(entering, slices)
        types: list[Type] = [(s.dtype, s.shape) for s in states]
        types += [(r.dtype, (length, *r.shape)) for r in results]
        graph = op.close([*entering, *slices], [*leaving, *results], hoist=True)
    attributes: dict[str, int | list[int]] = {"num_scan_inputs": len(elements)}
    for kind, count in (("input", len(elements)), ("output", len(results))):
        if count and backward:
            attributes[f"scan_{kind}_directions"] = [1] * count
    outputs = op.emit_flow("Scan", [*states, *elements], {"body": graph}, types, **attributes)
    op.nodes[-1].meta[MAY_BE_EMPTY] = not isinstance(length, int) or length == 0
    op.equals.update((r.value, t) for r, t in zip(outputs[len(states) :], known, strict=False))
    return outputs[: len(states)], outputs[len(states) :]


# --- what onnxruntime cannot run -----------------------------------------------------------------


def without_empty_scans(op: Builder, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Return the nodes with each `Scan` that may have no iteration, in any body, in a branch that is taken if it has
    some; one with states whose shapes change is written as a `Loop`.
    """
    result: list[ir.Node] = []
    for node in nodes:
        new = [node]
        if node.op_type == "Scan" and node.meta.get(CHANGES_SHAPE):
            new = _as_loop(op, node)
        elif node.op_type == "Scan" and node.meta.get(MAY_BE_EMPTY):
            new = _if_any(op, node)
        for each in new:
            for _, graph in graphs_in(each):
                inner = list(graph)
                graph.remove(inner)
                graph.extend(without_empty_scans(op, inner))
        result += new
    return result


def _if_any(op: Builder, node: ir.Node) -> list[ir.Node]:
    """Write a `Scan` as an `If` that runs it unless there is no iteration: then its states stay, its results are empty.

    A `Loop`, which may have none, would have to gather the slices of each iteration: that takes up to half as long
    again.
    """
    it = Iteration.of(node)
    finals = [t for t in map(op.tensor, node.outputs) if t is not None]
    with op.body() as nodes, op.unshared():  # equal nodes around may have been dropped
        whole, axis = next((t, e.axis) for e in it.elements if (t := op.tensor(e.whole)) is not None)
        some = op.reshape(op.Greater(op.Shape(whole, start=axis, end=axis + 1), 0), ())
        with op.body() as inner:
            scan = clone_node(node, {}, op.unique_name)
            scan.meta.pop(MAY_BE_EMPTY)
            inner.append(scan)
            outputs = [op.declare(v, (t.dtype, t.shape)) for v, t in zip(scan.outputs, finals, strict=True)]
            run = op.close([], [t for t in outputs if t is not None])
        with op.body():
            states = [t for s in it.states if (t := op.tensor(s.initial)) is not None]
            empty = []
            for t, r in zip(finals[len(states) :], it.results, strict=True):
                # a size that can be read from nothing but the result itself can be anything
                sizes = [0 if op.is_size_of(d, node.outputs) else d for d in t.shape]
                sizes[r.axis % t.rank] = 0
                empty.append(op.full(sizes, 0, t.dtype))
            stay = op.close([], [*states, *empty])
        graphs = {"then_branch": run, "else_branch": stay}
        chosen = op.emit_flow("If", [some], graphs, [(t.dtype, t.shape) for t in finals])
    for old, new in zip(node.outputs, chosen, strict=True):
        name, value = old.name, new.value
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        old.name, value.name = None, name
    for i in range(len(node.inputs)):
        node.replace_input_with(i, None)
    return nodes


def _as_loop(op: Builder, node: ir.Node) -> list[ir.Node]:
    """Write a `Scan` as a `Loop` that gathers the slices of each iteration."""
    it = Iteration.of(node)
    states = [op.tensor(s.initial) for s in it.states]
    with op.body() as nodes, op.unshared():  # equal nodes around may have been dropped
        wholes = {e: op.tensor(e.whole) for e in it.elements}
        whole, axis = next((t, e.axis) for e, t in wholes.items() if t is not None)
        always = op.constant(True, ir.DataType.BOOL)
        length = op.reshape(op.Shape(whole, start=axis, end=axis + 1), ())
        with op.body():
            number = op.local(length, "iteration")
            goes_on = op.local(always, "goes_on")
            back = op.Sub(op.Sub(length, 1), number)
            inside = {
                e.slice: op.Gather(t, back if e.backward else number, axis=e.axis)
                for e, t in wholes.items()
                if t is not None
            }
            entering = {}
            for s, t in zip(it.states, states, strict=True):
                if t is not None:
                    shape = [None] * t.rank if node.meta.get(CHANGES_SHAPE) else t.shape
                    entering[s.entering] = op.local(t, s.entering.name or "state", shape=shape)
            outputs = [t for t in op.inline(it.graph, {**inside, **entering}) if t is not None]
            graph = op.close([number, goes_on, *entering.values()], [op.Identity(goes_on), *outputs])
        finals = [t for t in map(op.tensor, node.outputs) if t is not None]
        types: list[Type] = [(t.dtype, t.shape) for t in finals[: len(states)]]
        known = {d for t in (*states, *wholes.values()) if t is not None for d in t.shape}
        for r, t in zip(it.results, finals[len(states) :], strict=True):
            # of no iteration, onnxruntime gives a size of 0 where the body leaves it open: it is put right below
            sizes = (None if isinstance(d, str) and d in known else d for d in _without(t.shape, r.axis))
            types.append((t.dtype, (t.shape[r.axis], *sizes)))
        looped = op.emit_flow("Loop", [length, always, *states], {"body": graph}, types)
        for i, r in enumerate(it.results, len(states)):
            y = looped[i]
            if r.backward:
                y = op.Slice(y, [-1], [-(2**62)], [0], [-1], shape=y.shape)
            order = list(range(1, y.rank))
            order.insert(r.axis % y.rank, 0)
            looped[i] = op.reshape(op.Transpose(y, perm=order), finals[i].shape)
    for old, new in zip(node.outputs, looped, strict=True):
        name, value = old.name, new.value
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        old.name, value.name = None, name
    for i in range(len(node.inputs)):
        node.replace_input_with(i, None)
    return nodes
