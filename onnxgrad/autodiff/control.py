"""The sweeps through control flow: `If`, `Loop` and `Scan`.

Forward, tangents ride along: the new node has the body of the old one, and beside each value in it the tangent of
that value. Backward, an `If` becomes an `If` whose branches sweep back; what they need of the branch they compute
again. A `Loop` or `Scan` becomes a `Scan` from the last iteration to the first: the states that entered each iteration
are kept by running the loop with them as further results, and what an iteration needs beside them it computes again
(checkpointing at every iteration; A. Griewank, A. Walther, *Evaluating Derivatives*, 2nd ed., chapter 12). Its states
are the cotangents of the states, and the sums of those of what the body captures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.autodiff.activity import Within, through_bodies
from onnxgrad.autodiff.sweep import SWEEPS, Seeded, Sweeps, accumulate, sweep_back, sweep_forward
from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, atoms_of
from onnxgrad.graph.flow import MAY_BE_EMPTY, Iteration, Slices, State, branches_of, captured_values
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor

Values = Collection[ir.Value]


def _lead(seeds: Dim | None) -> Shape:
    return () if seeds is None else (seeds,)


def _tensor(op: Builder, value: ir.Value) -> Tensor:
    tensor = op.tensor(value)
    assert tensor is not None, value.name
    return tensor


def _named(op: Builder, x: Tensor, shape: Shape) -> Tensor:
    """Return `x` with its sizes named as inside of a body, where they have names of their own."""
    return x if x.shape == shape else op.Identity(x, shape=shape)


def _seeded(op: Builder, pairs: Iterable[tuple[Tensor, Tensor]], seeds: Dim | None) -> Seeded:
    """Return cotangents by value; one that is several outputs gets the sum of theirs."""
    found: Seeded = {}
    for y, ct in pairs:
        accumulate(op, found, y.value, _named(op, ct, (*_lead(seeds), *y.shape)), seeds)
    return found


# --- If ----------------------------------------------------------------------------------------


def _if_back(
    op: Builder, node: Node, cts: Sequence[Tensor | None], wanted: Values, seeds: Dim | None
) -> Iterator[tuple[ir.Value, Tensor]]:
    wrt = [_tensor(op, v) for v in captured_values(node.ir) if v in wanted]

    def sweep(branch: ir.Graph) -> list[Tensor]:
        start = len(op.nodes)
        outputs = op.inline(branch, {})
        pairs = [(y, ct) for y, ct in zip(outputs, cts, strict=True) if y is not None and ct is not None]
        found = sweep_back(op, op.nodes[start:], _seeded(op, pairs, seeds), [x.value for x in wrt], seeds)
        return [found.get(x.value, op.full((*_lead(seeds), *x.shape), 0, x.dtype)) for x in wrt]

    yield from zip([x.value for x in wrt], _either(op, node, wrt, seeds, sweep), strict=True)


def _if_forward(
    op: Builder, node: Node, tangents: Mapping[ir.Value, Tensor], wanted: Values, seeds: Dim | None
) -> Seeded:
    places = [i for i, v in enumerate(node.ir.outputs) if v in wanted]
    of = [_tensor(op, node.ir.outputs[i]) for i in places]

    def sweep(branch: ir.Graph) -> list[Tensor]:
        start = len(op.nodes)
        outputs = op.inline(branch, {})
        ys = [y for i in places if (y := outputs[i]) is not None]
        found = sweep_forward(op, op.nodes[start:], tangents, [y.value for y in ys], seeds)
        return [found.get(y.value, op.full((*_lead(seeds), *y.shape), 0, y.dtype)) for y in ys]

    return dict(zip([y.value for y in of], _either(op, node, of, seeds, sweep), strict=True))


def _either(
    op: Builder, node: Node, like: Sequence[Tensor], seeds: Dim | None, sweep: Callable[[ir.Graph], list[Tensor]]
) -> list[Tensor]:
    """Sweep through both branches, or, without an `If`, through the one that is known to be taken.

    The results are cotangents or tangents of `like`.
    """
    branches = branches_of(op, node.ir)
    shapes = [(*_lead(seeds), *x.shape) for x in like]
    if len(branches) == 1:
        with op.unshared():  # a node outside could hide that the branch depends on something
            (found,) = map(sweep, branches.values())
            return [_named(op, t, shape) for t, shape in zip(found, shapes, strict=True)]
    graphs = {}
    for name, branch in branches.items():
        with op.body():
            graphs[name] = op.close([], sweep(branch))
    return op.emit_flow("If", node.inputs, graphs, [(x.dtype, shape) for x, shape in zip(like, shapes, strict=True)])


# --- Loop and Scan -----------------------------------------------------------------------------


@dataclass
class _Carried:
    """A state of a loop that is being written: before the first iteration, in and out of each, after the last."""

    initial: Tensor
    entering: Tensor
    leaving: Tensor
    final: Shape
    wanted: bool = True


@dataclass
class _Sliced:
    """An element or result of a loop that is being written; `whole` may be known later than its slice, of which
    `shape` is the shape as seen from outside.
    """

    slice: Tensor
    shape: Shape
    whole: Tensor | None = None
    axis: int = 0
    backward: bool = False


def _enter(op: Builder, it: Iteration) -> dict[ir.Value, Tensor]:
    """Return new inputs for the body, by the old ones."""
    return {v: op.local(t, v.name or "state") for v in it.graph.inputs if (t := op.tensor(v)) is not None}


def _inlined(op: Builder, it: Iteration, inside: Mapping[ir.Value, Tensor]) -> dict[ir.Value, Tensor]:
    """Emit the body anew; return its outputs, by the old ones."""
    outputs = op.inline(it.graph, inside)
    return {old: new for old, new in zip(it.graph.outputs, outputs, strict=True) if new is not None}


def _carried(
    op: Builder, it: Iteration, inside: Mapping[ir.Value, Tensor], after: Mapping[ir.Value, Tensor]
) -> list[_Carried]:
    """Return the states of the old loop as states of a new one, which keeps those that it needs."""
    return [
        _Carried(_tensor(op, s.initial), inside[s.entering], after[s.leaving], _tensor(op, s.final).shape, wanted=False)
        for s in it.states
        if s.entering in inside and s.leaving in after and op.tensor(s.final) is not None
    ]


def _close(
    op: Builder,
    it: Iteration,
    head: Sequence[Tensor],
    condition: Sequence[Tensor],
    states: Sequence[_Carried],
    elements: Sequence[_Sliced],
    results: Sequence[_Sliced],
) -> tuple[ir.Graph, list[_Carried], list[_Sliced]]:
    """Make a graph of the body that is being built; return it with the states and elements that it needs."""
    roots = [*condition, *(r.slice for r in results)]
    live = [s for s in states if s.wanted]
    while True:  # a state is needed if a state that is needed depends on it
        needed = op.needed([*roots, *(s.leaving for s in live)])
        more = [s for s in states if s not in live and s.entering.value in needed]
        if not more:
            break
        live += more
    astray = [v.name for v in it.graph.inputs if v in needed]
    if astray:
        raise Refusal(f"what is carried in {', '.join(map(repr, astray))} is no tensor, or its rank is not known")
    used = [e for e in elements if e.slice.value in needed] or list(elements[:1])  # one says how often to run
    entering = [*head, *(s.entering for s in live), *(e.slice for e in used)]
    leaving = [*condition, *(s.leaving for s in live), *(r.slice for r in results)]
    return op.close(entering, leaving, hoist=True), live, used


def _emit(
    op: Builder,
    op_type: str,
    head: Sequence[Tensor | None],
    graph: ir.Graph,
    states: Sequence[_Carried],
    elements: Sequence[_Sliced],
    results: Sequence[_Sliced],
    length: Dim,
    may_be_empty: bool,
) -> list[Tensor]:
    """Emit a `Loop` or `Scan`; return its outputs."""
    types = [(s.initial.dtype, s.final) for s in states]
    axes = [r.axis if op_type == "Scan" else 0 for r in results]  # a `Loop` knows no other
    for r, axis in zip(results, axes, strict=True):
        types.append((r.slice.dtype, (*r.shape[:axis], length, *r.shape[axis:])))
    attributes: dict[str, int | list[int]] = {}
    if op_type == "Scan":
        attributes["num_scan_inputs"] = len(elements)
        for kind, slices in (("input", elements), ("output", results)):
            attributes[f"scan_{kind}_axes"] = [s.axis for s in slices]
            attributes[f"scan_{kind}_directions"] = [int(s.backward) for s in slices]
    inputs = [*head, *(s.initial for s in states), *(e.whole for e in elements)]
    outputs = op.emit_flow(op_type, inputs, {"body": graph}, types, **{k: v for k, v in attributes.items() if v})
    op.nodes[-1].meta[MAY_BE_EMPTY] = may_be_empty
    return [*outputs[: len(states)], *map(functools.partial(_at, op), results, axes, outputs[len(states) :])]


def _at(op: Builder, result: _Sliced, axis: int, stacked: Tensor) -> Tensor:
    """Bring the axis of iterations of a result to its place."""
    order = [i for i in range(stacked.rank) if i != axis]
    return op.Transpose(stacked, perm=[*order[: result.axis], axis, *order[result.axis :]])


def _length(op: Builder, it: Iteration) -> Dim | None:
    """Return the number of iterations where there is a tensor to read it from."""
    for slices in (*it.elements, *it.results):
        whole = op.tensor(slices.whole)
        if whole is not None:
            return whole.shape[slices.axis]
    return None


def _elements(op: Builder, it: Iteration, inside: Mapping[ir.Value, Tensor]) -> list[_Sliced]:
    """Return the elements of the old loop as elements of a new one."""
    return [_Sliced(inside[e.slice], (), _tensor(op, e.whole), e.axis, e.backward) for e in it.elements]


def _check_shape(op: Builder, state: State) -> None:
    """Refuse to keep a state whose shape is known to change. Where it is not known, onnxruntime refuses it if it does.

    Raises:
        Refusal: if it changes.
    """
    before, after = _tensor(op, state.entering).shape, _tensor(op, state.leaving).shape
    if any(a != b and atoms_of(b) <= atoms_of(a) for a, b in zip(before, after, strict=True)):
        raise Refusal(
            f"the shape of the state {state.entering.name!r} changes from one iteration to the next, so that its "
            "values cannot be kept in one tensor",
            "let it have a fixed shape (filled up to the largest size), or differentiate in forward mode",
        )


def _keep(
    op: Builder, node: Node, it: Iteration, states: Sequence[State], length: Dim | None
) -> tuple[list[Tensor], Dim, Tensor | None]:
    """Run the loop with further results.

    Returns what `states` were at the beginning of each iteration, along a new axis 0; the number of iterations; and for
    a `Loop`, the numbers of all iterations.
    """
    for s in states:
        _check_shape(op, s)
    with op.body():
        inside = _enter(op, it)
        after = _inlined(op, it, inside)
        results = [_Sliced(inside[s.entering], _tensor(op, s.initial).shape) for s in states]
        head, condition = [], []
        if it.counter is not None and it.condition is not None:
            head, condition = [inside[it.counter], inside[it.condition[0]]], [after[it.condition[1]]]
            results.append(_Sliced(op.reshape(inside[it.counter], ()), ()))
        states_too, elements = _carried(op, it, inside, after), _elements(op, it, inside)
        graph, live, used = _close(op, it, head, condition, states_too, elements, results)
    length = op.fresh_dim() if length is None else length
    outside = node.inputs[:2] if head else ()
    empty = bool(node.ir.meta.get(MAY_BE_EMPTY))
    outputs = _emit(op, node.op_type, outside, graph, live, used, results, length, empty)[len(live) :]
    return outputs[: len(states)], length, outputs[-1] if head else None


def _matter(it: Iteration, within: Within) -> list[State]:
    """Return the states that have tangents, or cotangents."""
    return [s for s in it.states if {s.entering, s.leaving} & within.values or s.initial in within.entered]


def _loop_back(
    op: Builder, node: Node, cts: Sequence[Tensor | None], wanted: Values, seeds: Dim | None
) -> Iterator[tuple[ir.Value, Tensor]]:
    it, lead = Iteration.of(node.ir), _lead(seeds)
    given = {v: ct for v, ct in zip(node.ir.outputs, cts, strict=True) if ct is not None and ct.scalar != 0}
    within = through_bodies(op, node.ir, wanted, given.keys())
    states = _matter(it, within)
    sliced = [e for e in it.elements if e.slice in within.values]
    stacked = [r for r in it.results if r.slice in within.values and r.whole in given]
    around = [_tensor(op, v) for v in captured_values(node.ir) if v in within.values]

    def zeros(x: Tensor) -> Tensor:
        return op.full((*lead, *x.shape), 0, x.dtype)

    def mirrored(s: Slices, part: Tensor, whole: Tensor | None, shift: int) -> _Sliced:
        shape = _tensor(op, s.whole).shape
        axis = s.axis % len(shape)
        return _Sliced(part, (*lead, *shape[:axis], *shape[axis + 1 :]), whole, axis + shift, not s.backward)

    before = {s: given.get(s.final, zeros(_tensor(op, s.final))) for s in states}
    nothing = {x.value: zeros(x) for x in around}
    with op.body() as nodes:
        inside = _enter(op, it)
        numbers = _Sliced(op.constant(0, ir.DataType.INT64), ())
        if it.counter is not None and it.condition is not None:
            inside[it.condition[0]] = op.full(inside[it.condition[0]].shape, True, ir.DataType.BOOL)
            numbers = _Sliced(op.local(inside[it.counter], "iteration", shape=()), (), backward=True)
            inside[it.counter] = op.reshape(numbers.slice, inside[it.counter].shape)
        after = _inlined(op, it, inside)
        old = list(nodes)
        ys = [after[v] for v in (*(s.leaving for s in states), *(r.slice for r in stacked))]
        xs = [*(inside[s.entering] for s in states), *(inside[e.slice] for e in sliced), *around]
        ct_ys = [op.local(y, f"adj_{y.value.name}", lead) for y in ys]
        found = sweep_back(op, old, _seeded(op, zip(ys, ct_ys, strict=True), seeds), [x.value for x in xs], seeds)

        carried = [
            _Carried(before[s], ct, found.get(x.value, zeros(x)), (*lead, *_tensor(op, s.initial).shape))
            for s, x, ct in zip(states, xs, ct_ys, strict=False)
        ]
        reached = [x for x in around if x.value in found]
        for x in reached:
            total = op.local(x, f"adj_{x.value.name}", lead)
            carried.append(_Carried(nothing[x.value], total, total + found[x.value], (*lead, *x.shape)))
        results = [
            mirrored(e, found.get(x.value, zeros(x)), None, len(lead))
            for e, x in zip(sliced, xs[len(states) :], strict=False)
        ]
        kept = {s: _Sliced(inside[s.entering], (), backward=True) for s in it.states if s.entering in inside}
        elements = [
            *(mirrored(e, inside[e.slice], _tensor(op, e.whole), 0) for e in it.elements),
            *([numbers] if it.counter is not None else []),
            *kept.values(),
            *(mirrored(r, ct, given[r.whole], len(lead)) for r, ct in zip(stacked, ct_ys[len(states) :], strict=True)),
        ]
        graph, live, used = _close(op, it, [], [], carried, elements, results)
    length = _length(op, it)
    keep = [s for s, e in kept.items() if e in used]
    if keep or length is None:
        stacks, length, numbers.whole = _keep(op, node, it, keep, length)
        for s, stack in zip(keep, stacks, strict=True):
            kept[s].whole = stack
    elif it.counter is not None:
        numbers.whole = op.range(length)
    counted = isinstance(length, int) and length > 0
    empty = bool(node.ir.meta.get(MAY_BE_EMPTY)) or (it.counter is not None and not counted)
    outputs = _emit(op, "Scan", [], graph, live, used, results, length, empty)
    values = [*(s.initial for s in states), *(x.value for x in reached), *(e.whole for e in sliced)]
    yield from ((value, ct) for value, ct in zip(values, outputs, strict=True) if value in wanted)


def _loop_forward(
    op: Builder, node: Node, tangents: Mapping[ir.Value, Tensor], wanted: Values, seeds: Dim | None
) -> Seeded:
    it, lead = Iteration.of(node.ir), _lead(seeds)
    within = through_bodies(op, node.ir, tangents.keys(), [v for v in node.ir.outputs if v in wanted])
    states = _matter(it, within)
    stacked = [r for r in it.results if r.slice in within.values and r.whole in wanted]

    def zeros(x: Tensor) -> Tensor:
        return op.full((*lead, *x.shape), 0, x.dtype)

    before = {s: tangents.get(s.initial, zeros(_tensor(op, s.initial))) for s in states}
    with op.body() as nodes:
        inside = _enter(op, it)
        after = _inlined(op, it, inside)
        old = list(nodes)
        entering = {v: t for v, t in tangents.items() if v in within.values}  # what the body captures
        elements = _elements(op, it, inside)
        for e in it.elements:
            if e.whole in tangents and e.slice in within.values:
                t = op.local(inside[e.slice], f"fwd_{e.slice.name}", lead)
                entering[inside[e.slice].value] = t
                elements.append(_Sliced(t, (), tangents[e.whole], e.axis + len(lead), e.backward))
        for s in states:
            entering[inside[s.entering].value] = op.local(inside[s.entering], f"fwd_{s.entering.name}", lead)
        ys = [after[v] for v in (*(s.leaving for s in states), *(r.slice for r in stacked))]
        found = sweep_forward(op, old, entering, [y.value for y in ys], seeds)
        ts = [found.get(y.value, zeros(y)) for y in ys]
        beside = [
            _Carried(
                before[s],
                entering[inside[s.entering].value],
                t,
                (*lead, *_tensor(op, s.final).shape),
                s.final in wanted,
            )
            for s, t in zip(states, ts, strict=False)
        ]
        results = []
        for r, t in zip(stacked, ts[len(states) :], strict=True):
            shape = _tensor(op, r.whole).shape
            axis = r.axis % len(shape)
            results.append(_Sliced(t, (*lead, *shape[:axis], *shape[axis + 1 :]), None, axis + len(lead), r.backward))
        head, condition = [], []
        if it.counter is not None and it.condition is not None:
            head, condition = [inside[it.counter], inside[it.condition[0]]], [after[it.condition[1]]]
        carried = [*_carried(op, it, inside, after), *beside]
        graph, live, used = _close(op, it, head, condition, carried, elements, results)
    length = _length(op, it)
    length = op.fresh_dim() if length is None else length
    outside = node.inputs[:2] if head else ()
    empty = bool(node.ir.meta.get(MAY_BE_EMPTY))
    outputs = _emit(op, node.op_type, outside, graph, live, used, results, length, empty)
    at = {id(s): t for s, t in zip(live, outputs, strict=False)}
    result = {s.final: at[id(c)] for s, c in zip(states, beside, strict=True) if c.wanted}
    result.update((r.whole, t) for r, t in zip(stacked, outputs[len(live) :], strict=True))
    return result


SWEEPS["If"] = Sweeps(_if_back, _if_forward)
SWEEPS["Loop"] = SWEEPS["Scan"] = Sweeps(_loop_back, _loop_forward)
