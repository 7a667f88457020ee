"""The sweeps through control flow: `If`, `Loop` and `Scan`.

Forward, tangents ride along: the new node has the body of the old one, and beside each value in it the tangent of
that value. Backward, an `If` becomes an `If` whose branches sweep back; what they need of the branch they compute
again. A `Loop` or `Scan` becomes a `Scan` from the last iteration to the first. Its states are the cotangents of the
states, and the sums of those of what the body captures. What the states were at the beginning of each iteration is kept
by running the loop with them as further results, and what an iteration needs beside them it computes again
(checkpointing at every iteration; A. Griewank, A. Walther, *Evaluating Derivatives*, 2nd ed., chapter 12). A state
whose shape changes cannot be stacked: it is computed again from the beginning for each iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.autodiff.activity import Within, through_bodies
from onnxgrad.autodiff.cost import elements
from onnxgrad.autodiff.sweep import SWEEPS, Seeded, Sweeps, accumulate, sweep_back, sweep_forward
from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, atoms_of, dim_mul
from onnxgrad.graph.flow import CHANGES_SHAPE, MAY_BE_EMPTY, Iteration, Slices, State, branches_of, captured_values
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
        return [found.get(x.value, op.full((*_lead(seeds), *x.shape), 0, x.cotangent_dtype)) for x in wrt]

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
        return [found.get(y.value, op.full((*_lead(seeds), *y.shape), 0, y.cotangent_dtype)) for y in ys]

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
    return op.emit_flow(
        "If", node.inputs, graphs, [(x.cotangent_dtype, shape) for x, shape in zip(like, shapes, strict=True)]
    )


# --- Loop and Scan -----------------------------------------------------------------------------


@dataclass(eq=False)
class _Carried:
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
class _Sliced:
    """An element, or result, of a loop that is being written: a slice of `whole`, or of what is `out` once it is
    written; `shape` is that of a slice as seen from outside.
    """

    slice: Tensor
    shape: Shape = ()
    whole: Tensor | None = None
    axis: int = 0
    backward: bool = False
    out: Tensor | None = None


class _Writer:
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
        self.states: list[_Carried] = []
        self.elements: list[_Sliced] = []
        self.results: list[_Sliced] = []
        self.inside: dict[ir.Value, Tensor] = {}
        self.after: dict[ir.Value, Tensor] = {}
        self.may_be_empty = bool(node.ir.meta.get(MAY_BE_EMPTY))

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
                initial = _tensor(self.op, s.initial)
                old = _Carried(initial, self.inside[s.entering], self.after[s.leaving], final.shape, wanted=False)
                self.states.append(old)
        for e in self.it.elements:
            whole = _tensor(self.op, e.whole)
            self.elements.append(_Sliced(self.inside[e.slice], (), whole, e.axis, e.backward))
        return nodes

    def close(self) -> None:
        """Make a graph of the body, with those of the states and elements that it needs."""
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
        entering = [*self.head, *(s.entering for s in live), *(e.slice for e in self.elements)]
        leaving = [*self.condition, *(s.leaving for s in live), *(r.slice for r in self.results)]
        self.graph = self.op.close(entering, leaving, hoist=True)

    def emit(self, length: Dim) -> None:
        """Emit the loop of so many iterations; states and results get what is `out`."""
        types = [(s.initial.dtype, s.final) for s in self.states]
        types += [(r.slice.dtype, (length, *r.shape)) for r in self.results]
        attributes: dict[str, int | list[int]] = {}
        if self.op_type == "Scan":
            attributes["num_scan_inputs"] = len(self.elements)
            for kind, slices in (("input", self.elements), ("output", self.results)):
                attributes[f"scan_{kind}_directions"] = [int(s.backward) for s in slices]
        wholes = [_moved(self.op, e.whole, e.axis, 0) for e in self.elements if e.whole is not None]
        inputs = [*self.outside, *(s.initial for s in self.states), *wholes]
        given = {name: value for name, value in attributes.items() if value}
        outputs = iter(self.op.emit_flow(self.op_type, inputs, {"body": self.graph}, types, **given))
        self.op.nodes[-1].meta[MAY_BE_EMPTY] = self.may_be_empty
        for s in self.states:
            s.out = next(outputs)
        for r in self.results:
            r.out = _moved(self.op, next(outputs), 0, r.axis)


def _moved(op: Builder, x: Tensor, axis: int, to: int) -> Tensor:
    """Move an axis. All loops here go along axis 0: along another one, onnxruntime's `Scan` ends the process where some
    size is 0, and a `Loop` cannot go.
    """
    order = [i for i in range(x.rank) if i != axis % x.rank]
    return op.Transpose(x, perm=[*order[:to], axis % x.rank, *order[to:]])


def _length(op: Builder, it: Iteration) -> Dim | None:
    """Return the number of iterations where there is a tensor to read it from."""
    for slices in (*it.elements, *it.results):
        whole = op.tensor(slices.whole)
        if whole is not None:
            return whole.shape[slices.axis]
    return None


def _changes_shape(op: Builder, node: Node, state: State) -> bool:
    """Whether the shape of a state is known to change. Where it is not known, onnxruntime refuses to stack it if it
    does.

    Raises:
        Refusal: if it changes in a loop that has no counter, so that it cannot be run up to some iteration.
    """
    before, after = op.tensor(state.entering), op.tensor(state.leaving)
    if before is None or after is None or not (node.op_type == "Loop" or node.ir.meta.get(CHANGES_SHAPE)):
        return False
    changes = any(a != b and atoms_of(b) <= atoms_of(a) for a, b in zip(before.shape, after.shape, strict=True))
    if changes and node.op_type == "Scan":
        raise Refusal(
            f"the shape of {state.entering.name!r} changes from iteration to iteration of a loop that is itself a "
            "derivative",
            "ask for the second derivative in forward mode",
        )
    return changes


def _from_the_beginning(op: Builder, node: Node, states: Sequence[State], number: Tensor) -> list[Tensor]:
    """Run a `Loop` from its beginning, and return what `states` are after so many iterations."""
    loop = _Writer(op, node)
    with op.body():
        loop.run_along()
        loop.outside[0] = number
        wanted = []
        for s in states:
            (carried,) = (c for c in loop.states if c.entering is loop.inside[s.entering])
            sizes = zip(carried.initial.shape, _tensor(op, s.entering).shape, strict=True)
            carried.final, carried.wanted = tuple(a if a == b else op.fresh_dim() for a, b in sizes), True
            wanted.append(carried)
        loop.close()
    loop.emit(0)
    return [c.out for c in wanted if c.out is not None]


def _keep(
    op: Builder, node: Node, states: Sequence[State], length: Dim | None
) -> tuple[list[Tensor], Dim, Tensor | None]:
    """Run the loop with further results.

    Returns what `states` were at the beginning of each iteration, along a new axis 0; the number of iterations; and for
    a `Loop`, the numbers of all iterations.
    """
    loop = _Writer(op, node)
    with op.body():
        loop.run_along()
        loop.results = [_Sliced(loop.inside[s.entering], _tensor(op, s.initial).shape) for s in states]
        if loop.it.counter is not None:
            loop.results.append(_Sliced(op.reshape(loop.inside[loop.it.counter], ())))
        loop.close()
    length = op.fresh_dim() if length is None else length
    loop.emit(length)
    outs = [r.out for r in loop.results if r.out is not None]
    return outs[: len(states)], length, outs[-1] if loop.it.counter is not None else None


def _matter(it: Iteration, within: Within) -> list[State]:
    """Return the states that have tangents, or cotangents."""
    return [s for s in it.states if {s.entering, s.leaving} & within.values or s.initial in within.entered]


def _beside(op: Builder, s: Slices, part: Tensor, whole: Tensor | None, seeds: Dim | None) -> _Sliced:
    """Return the tangent or cotangent `part` of a slice, in the place of the slice."""
    lead, shape = _lead(seeds), _tensor(op, s.whole).shape
    axis = s.axis % len(shape)
    return _Sliced(part, (*lead, *shape[:axis], *shape[axis + 1 :]), whole, axis + len(lead), s.backward)


def _zeros(op: Builder, x: Tensor, seeds: Dim | None) -> Tensor:
    return op.full((*_lead(seeds), *x.shape), 0, x.cotangent_dtype)


def _local(op: Builder, kind: str, x: Tensor, seeds: Dim | None) -> Tensor:
    """Return a new input of the body: a tangent or cotangent of `x`."""
    return op.local(x, f"{kind}_{x.value.name}", _lead(seeds), dtype=x.cotangent_dtype)


def _loop_back(
    op: Builder, node: Node, cts: Sequence[Tensor | None], wanted: Values, seeds: Dim | None
) -> Iterator[tuple[ir.Value, Tensor]]:
    loop, lead = _Writer(op, node), _lead(seeds)
    it, inside = loop.it, loop.inside
    given = {v: ct for v, ct in zip(node.ir.outputs, cts, strict=True) if ct is not None and ct.scalar != 0}
    within = through_bodies(op, node.ir, wanted, given.keys())
    states = _matter(it, within)
    sliced = [e for e in it.elements if e.slice in within.values]
    stacked = [r for r in it.results if r.slice in within.values and r.whole in given]
    around = [_tensor(op, v) for v in captured_values(node.ir) if v in within.values]
    growing = [s for s in it.states if _changes_shape(op, node, s)]
    initial = [given.get(s.final, _zeros(op, _tensor(op, s.final), seeds)) for s in states]
    nothing = {x.value: _zeros(op, x, seeds) for x in around}
    # where a cotangent is a placeholder, nothing that does not depend on it may come out of the loop
    open_cts = any(op.is_placeholder(ct) for ct in given.values())
    with op.body():
        loop.enter()
        inside, numbers = loop.inside, _numbers(op, loop)
        if growing:
            found_again = _from_the_beginning(op, node, growing, numbers.slice)
            inside.update(zip([s.entering for s in growing], found_again, strict=True))
        old = loop.inline()
        ys = [loop.after[v] for v in (*(s.leaving for s in states), *(r.slice for r in stacked))]
        xs = [inside[v] for v in (*(s.entering for s in states), *(e.slice for e in sliced))]
        ct_ys = [_local(op, "adj", y, seeds) for y in ys]
        seeded = _seeded(op, zip(ys, ct_ys, strict=True), seeds)
        found = sweep_back(op, old, seeded, [x.value for x in (*xs, *around)], seeds)
        ct_xs = [found.get(x.value, _zeros(op, x, seeds)) for x in xs]

        shapes = [(*lead, *_tensor(op, s.initial).shape) for s in states]
        ct_states = [_Carried(*each) for each in zip(initial, ct_ys, ct_xs, shapes, strict=False)]
        sums, products = [], []
        for x in (x for x in around if x.value in found):
            factors = None if open_cts else _factors(op, found[x.value])
            if factors is not None:
                products.append((x, [_Sliced(t, t.shape) for t in factors]))
                continue
            total = _local(op, "adj", x, seeds)
            sums.append((x, _Carried(nothing[x.value], total, total + found[x.value], (*lead, *x.shape))))
        kept = {s: _Sliced(inside[s.entering]) for s in it.states if s.entering in inside and s not in growing}
        old_slices = [_Sliced(inside[e.slice], (), _tensor(op, e.whole), e.axis, e.backward) for e in it.elements]
        ct_slices = zip(stacked, ct_ys[len(states) :], strict=True)
        loop.op_type, loop.states = "Scan", [*ct_states, *(carried for _, carried in sums)]
        ct_sliced = [_beside(op, e, ct, None, seeds) for e, ct in zip(sliced, ct_xs[len(states) :], strict=True)]
        loop.results = [*ct_sliced, *(factor for _, factors in products for factor in factors)]
        loop.elements = [*old_slices, *([numbers] if it.counter is not None else []), *kept.values()]
        loop.elements += [_beside(op, r, ct, given[r.whole], seeds) for r, ct in ct_slices]
        for each in (*loop.elements, *loop.results):
            each.backward = not each.backward
        loop.close()
    length = _length(op, it)
    keep = [s for s, e in kept.items() if e in loop.elements]
    if keep or length is None:
        stacks, length, numbers.whole = _keep(op, node, keep, length)
        for s, stack in zip(keep, stacks, strict=True):
            kept[s].whole = stack
    elif it.counter is not None:
        numbers.whole = op.range(length)
    loop.may_be_empty |= it.counter is not None and not (isinstance(length, int) and length > 0)
    loop.emit(length)
    if growing:
        op.nodes[-1].meta[CHANGES_SHAPE] = True
    values = [*(s.initial for s in states), *(x.value for x, _ in sums), *(e.whole for e in sliced)]
    written = [*(c.out for c in ct_states), *(c.out for _, c in sums), *(r.out for r in ct_sliced)]
    yield from ((value, ct) for value, ct in zip(values, written, strict=True) if value in wanted and ct is not None)
    for x, (a, b) in products:
        if a.out is not None and b.out is not None:
            yield x.value, op.reshape(_sum_of_products(op, a.out, b.out), (*lead, *x.shape))


def _factors(op: Builder, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return a and b of a product of matrices ``x = a @ b``, where keeping these is not dearer than summing up x."""
    node = x.value.producer()
    if node is None or node.op_type != "MatMul" or node not in op.nodes:
        return None
    a, b = (op.tensor(v) for v in node.inputs if v is not None)
    if a is None or b is None or a.rank != b.rank or a.rank < 2 or a.shape[:-2] != b.shape[:-2]:
        return None
    small = elements(a.shape) + elements(b.shape) <= 2 * elements(x.shape)
    return (a, b) if small and all(map(op.is_known_around, (*a.shape, *b.shape))) else None


def _sum_of_products(op: Builder, a: Tensor, b: Tensor) -> Tensor:
    """``Σ_t a[t] @ b[t]``, as one product of matrices."""
    lead = list(range(1, a.rank - 2))
    steps, rows, inner, columns = a.shape[0], a.shape[-2], a.shape[-1], b.shape[-1]
    a = op.Transpose(a, perm=[*lead, a.rank - 2, 0, a.rank - 1])
    b = op.Transpose(b, perm=[*lead, 0, b.rank - 2, b.rank - 1])
    front, both = a.shape[: len(lead)], dim_mul(steps, inner)
    return op.MatMul(op.reshape(a, (*front, rows, both)), op.reshape(b, (*front, both, columns)))


def _numbers(op: Builder, loop: _Writer) -> _Sliced:
    """Let the old body have the number of its iteration from an element, and run in any case."""
    if loop.it.counter is None or loop.it.condition is None:
        return _Sliced(op.constant(0, ir.DataType.INT64))
    counter, runs = loop.inside[loop.it.counter], loop.inside[loop.it.condition[0]]
    numbers = _Sliced(op.local(counter, "iteration", shape=()))
    loop.inside[loop.it.condition[0]] = op.full(runs.shape, True, ir.DataType.BOOL)
    loop.inside[loop.it.counter] = op.reshape(numbers.slice, counter.shape)
    return numbers


def _loop_forward(
    op: Builder, node: Node, tangents: Mapping[ir.Value, Tensor], wanted: Values, seeds: Dim | None
) -> Seeded:
    loop, lead = _Writer(op, node), _lead(seeds)
    it = loop.it
    within = through_bodies(op, node.ir, tangents.keys(), [v for v in node.ir.outputs if v in wanted])
    states = _matter(it, within)
    sliced = [e for e in it.elements if e.whole in tangents and e.slice in within.values]
    stacked = [r for r in it.results if r.slice in within.values and r.whole in wanted]
    initial = [tangents.get(s.initial, _zeros(op, _tensor(op, s.initial), seeds)) for s in states]
    with op.body():
        old = loop.run_along()
        xs = [loop.inside[v] for v in (*(s.entering for s in states), *(e.slice for e in sliced))]
        ys = [loop.after[v] for v in (*(s.leaving for s in states), *(r.slice for r in stacked))]
        t_xs = [_local(op, "fwd", x, seeds) for x in xs]
        seeded = {v: t for v, t in tangents.items() if v in within.values}  # what the body captures
        seeded.update((x.value, t) for x, t in zip(xs, t_xs, strict=True))
        found = sweep_forward(op, old, seeded, [y.value for y in ys], seeds)
        t_ys = [found.get(y.value, _zeros(op, y, seeds)) for y in ys]

        shapes = [(*lead, *_tensor(op, s.final).shape) for s in states]
        needed = [s.final in wanted for s in states]
        t_states = [_Carried(*each) for each in zip(initial, t_xs, t_ys, shapes, needed, strict=False)]
        loop.states += t_states
        loop.elements += [
            _beside(op, e, t, tangents[e.whole], seeds) for e, t in zip(sliced, t_xs[len(states) :], strict=True)
        ]
        loop.results = [_beside(op, r, t, None, seeds) for r, t in zip(stacked, t_ys[len(states) :], strict=True)]
        loop.close()
    length = _length(op, it)
    loop.emit(op.fresh_dim() if length is None else length)
    values = [*(s.final for s in states), *(r.whole for r in stacked)]
    written = [*(t.out for t in t_states), *(r.out for r in loop.results)]
    return {value: t for value, t in zip(values, written, strict=True) if value in wanted and t is not None}


SWEEPS["If"] = Sweeps(_if_back, _if_forward)
SWEEPS["Loop"] = SWEEPS["Scan"] = Sweeps(_loop_back, _loop_forward)
