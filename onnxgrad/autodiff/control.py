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

import onnx_ir as ir

from onnxgrad.autodiff.activity import Within, through_bodies
from onnxgrad.autodiff.loops import Carried, Sliced, Writer, moved, origin, tensor_of
from onnxgrad.autodiff.sweep import SWEEPS, Seeded, Sweeps, accumulate, sweep_back, sweep_forward
from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, atoms_of, dim_mul, elements
from onnxgrad.graph.flow import CHANGES_SHAPE, Iteration, Slices, State, branches_of, captured_values
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor

Values = Collection[ir.Value]


def _lead(seeds: Dim | None) -> Shape:
    return () if seeds is None else (seeds,)


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
    wrt = [tensor_of(op, v) for v in captured_values(node.ir) if v in wanted]

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
    of = [tensor_of(op, node.ir.outputs[i]) for i in places]

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
    loop = Writer(op, node)
    with op.body():
        loop.run_along()
        loop.outside[0] = number
        wanted = []
        for s in states:
            (carried,) = (c for c in loop.states if c.entering is loop.inside[s.entering])
            sizes = zip(carried.initial.shape, tensor_of(op, s.entering).shape, strict=True)
            carried.final, carried.wanted = tuple(a if a == b else op.fresh_dim() for a, b in sizes), True
            wanted.append(carried)
        loop.close()
    loop.emit(0)
    return [c.out for c in wanted if c.out is not None]


def _keep(
    op: Builder, node: Node, states: Sequence[State], known: Mapping[State, Sliced], length: Dim | None
) -> tuple[Sequence[Sliced], Dim, Tensor | None]:
    """Run the loop with further results.

    Returns results that are what `states` were at the beginning of each iteration, along a new axis 0; the number of
    iterations; and for a `Loop`, the numbers of all iterations. States that are `known` are not run anew.
    """
    loop = Writer(op, node)
    with op.body():
        loop.run_along()
        backward = bool(loop.elements) and loop.elements[0].backward
        results = [Sliced(loop.inside[s.entering], tensor_of(op, s.initial).shape, None, 0, backward) for s in states]
        if loop.it.counter is not None:
            results.append(Sliced(op.reshape(loop.inside[loop.it.counter], ())))
        else:
            inside = {loop.inside[s.entering]: each for s, each in known.items()}
            loop.states = [s for s in loop.states if s.entering not in inside]
            loop.elements += [Sliced(t, (), each.whole, 0, each.backward) for t, each in inside.items()]
        loop.results = results
        loop.close()
    length = op.fresh_dim() if length is None else length
    loop.emit(length)
    return results[: len(states)], length, results[-1].out if loop.it.counter is not None else None


def _restore(op: Builder, node: Node, kept: Mapping[State, Sliced], numbers: Sliced) -> Dim:
    """Give elements of a loop that runs backward their wholes: what states were at the beginning of each iteration, and
    the numbers of the iterations; return how many there are.
    """
    it = Iteration.of(node.ir)
    length, known = _length(op, it), _known(op, it)
    for s in (s for s in kept if s in known):
        kept[s].whole, kept[s].backward = known[s].whole, not known[s].backward
    unknown = [s for s in kept if s not in known]
    if unknown or length is None:
        stacks, length, numbers.whole = _keep(op, node, unknown, known, length)
        for s, stack in zip(unknown, stacks, strict=True):
            kept[s].whole, kept[s].backward = stack.out, not stack.backward
    elif it.counter is not None:
        numbers.whole = op.range(length)
    return length


def _known(op: Builder, it: Iteration) -> dict[State, Sliced]:
    """Return, of states that are also results, what they were at the beginning of each iteration."""
    results = {origin(r.slice): (r, whole) for r in it.results if (whole := op.known(r.whole)) is not None}
    found = {}
    for s in it.states:
        initial = op.tensor(s.initial)
        if origin(s.leaving) not in results or initial is None:
            continue
        r, whole = results[origin(s.leaving)]
        whole = moved(op, whole, r.axis, 0)
        first, shape = op.reshape(initial, (1, *initial.shape)), (whole.shape[0], *initial.shape)
        if r.backward:
            whole = op.Slice(op.Concat(whole, first, axis=0), [1], [2**62], [0], shape=shape)
        else:
            whole = op.Slice(op.Concat(first, whole, axis=0), [0], [-1], [0], shape=shape)
        found[s] = Sliced(first, (), whole, 0, r.backward)
    return found


def _matter(it: Iteration, within: Within) -> list[State]:
    """Return the states that have tangents, or cotangents."""
    return [s for s in it.states if {s.entering, s.leaving} & within.values or s.initial in within.entered]


def _beside(op: Builder, s: Slices, part: Tensor, whole: Tensor | None, seeds: Dim | None) -> Sliced:
    """Return the tangent or cotangent `part` of a slice, in the place of the slice."""
    lead, shape = _lead(seeds), tensor_of(op, s.whole).shape
    axis = s.axis % len(shape)
    return Sliced(part, (*lead, *shape[:axis], *shape[axis + 1 :]), whole, axis + len(lead), s.backward)


def _zeros(op: Builder, x: Tensor, seeds: Dim | None) -> Tensor:
    return op.full((*_lead(seeds), *x.shape), 0, x.cotangent_dtype)


def _local(op: Builder, kind: str, x: Tensor, seeds: Dim | None) -> Tensor:
    """Return a new input of the body: a tangent or cotangent of `x`."""
    return op.local(x, f"{kind}_{x.value.name}", _lead(seeds), dtype=x.cotangent_dtype)


def _loop_back(
    op: Builder, node: Node, cts: Sequence[Tensor | None], wanted: Values, seeds: Dim | None
) -> Iterator[tuple[ir.Value, Tensor]]:
    loop, lead = Writer(op, node), _lead(seeds)
    it, inside = loop.it, loop.inside
    given = {v: ct for v, ct in zip(node.ir.outputs, cts, strict=True) if ct is not None and ct.scalar != 0}
    within = through_bodies(op, node.ir, wanted, given.keys())
    states = _matter(it, within)
    sliced = [e for e in it.elements if e.slice in within.values]
    stacked = [r for r in it.results if r.slice in within.values and r.whole in given]
    around = [tensor_of(op, v) for v in captured_values(node.ir) if v in within.values]
    growing = [s for s in it.states if _changes_shape(op, node, s)]
    initial = [given.get(s.final, _zeros(op, tensor_of(op, s.final), seeds)) for s in states]
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

        shapes = [(*lead, *tensor_of(op, s.initial).shape) for s in states]
        ct_states = [Carried(*each) for each in zip(initial, ct_ys, ct_xs, shapes, strict=False)]
        sums, products = [], []
        for x in (x for x in around if x.value in found):
            factors = None if open_cts else _factors(op, found[x.value])
            if factors is not None:
                products.append((x, [Sliced(t, t.shape) for t in factors]))
                continue
            total = _local(op, "adj", x, seeds)
            sums.append((x, Carried(nothing[x.value], total, total + found[x.value], (*lead, *x.shape))))
        kept = {s: Sliced(inside[s.entering]) for s in it.states if s.entering in inside and s not in growing}
        old_slices = [Sliced(inside[e.slice], (), tensor_of(op, e.whole), e.axis, e.backward) for e in it.elements]
        ct_slices = zip(stacked, ct_ys[len(states) :], strict=True)
        loop.op_type, loop.states = "Scan", [*ct_states, *(carried for _, carried in sums)]
        ct_sliced = [_beside(op, e, ct, None, seeds) for e, ct in zip(sliced, ct_xs[len(states) :], strict=True)]
        loop.results = [*ct_sliced, *(factor for _, factors in products for factor in factors)]
        loop.elements = [*old_slices, *([numbers] if it.counter is not None else []), *kept.values()]
        loop.elements += [_beside(op, r, ct, given[r.whole], seeds) for r, ct in ct_slices]
        for each in (*loop.elements, *loop.results):
            each.backward = not each.backward
        loop.settle()
        with op.around():
            length = _restore(op, node, {s: e for s, e in kept.items() if e in loop.elements}, numbers)
        loop.close()
    loop.may_be_empty |= it.counter is not None and not (isinstance(length, int) and length > 0)
    loop.changes_shape |= bool(growing)
    loop.emit(length)
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


def _numbers(op: Builder, loop: Writer) -> Sliced:
    """Let the old body have the number of its iteration from an element, and run in any case."""
    if loop.it.counter is None or loop.it.condition is None:
        return Sliced(op.constant(0, ir.DataType.INT64))
    counter, runs = loop.inside[loop.it.counter], loop.inside[loop.it.condition[0]]
    numbers = Sliced(op.local(counter, "iteration", shape=()))
    loop.inside[loop.it.condition[0]] = op.full(runs.shape, True, ir.DataType.BOOL)
    loop.inside[loop.it.counter] = op.reshape(numbers.slice, counter.shape)
    return numbers


def _loop_forward(
    op: Builder, node: Node, tangents: Mapping[ir.Value, Tensor], wanted: Values, seeds: Dim | None
) -> Seeded:
    loop, lead = Writer(op, node), _lead(seeds)
    it = loop.it
    within = through_bodies(op, node.ir, tangents.keys(), [v for v in node.ir.outputs if v in wanted])
    states = _matter(it, within)
    sliced = [e for e in it.elements if e.whole in tangents and e.slice in within.values]
    stacked = [r for r in it.results if r.slice in within.values and r.whole in wanted]
    initial = [tangents.get(s.initial, _zeros(op, tensor_of(op, s.initial), seeds)) for s in states]
    with op.body():
        old = loop.run_along()
        xs = [loop.inside[v] for v in (*(s.entering for s in states), *(e.slice for e in sliced))]
        ys = [loop.after[v] for v in (*(s.leaving for s in states), *(r.slice for r in stacked))]
        t_xs = [_local(op, "fwd", x, seeds) for x in xs]
        seeded = {v: t for v, t in tangents.items() if v in within.values}  # what the body captures
        seeded.update((x.value, t) for x, t in zip(xs, t_xs, strict=True))
        found = sweep_forward(op, old, seeded, [y.value for y in ys], seeds)
        t_ys = [found.get(y.value, _zeros(op, y, seeds)) for y in ys]

        shapes = [(*lead, *tensor_of(op, s.final).shape) for s in states]
        needed = [s.final in wanted for s in states]
        t_states = [Carried(*each) for each in zip(initial, t_xs, t_ys, shapes, needed, strict=False)]
        loop.states += t_states
        loop.elements += [
            _beside(op, e, t, tangents[e.whole], seeds) for e, t in zip(sliced, t_xs[len(states) :], strict=True)
        ]
        t_stacked = [_beside(op, r, t, None, seeds) for r, t in zip(stacked, t_ys[len(states) :], strict=True)]
        loop.results = t_stacked
        loop.close()
    length = _length(op, it)
    loop.emit(op.fresh_dim() if length is None else length)
    values = [*(s.final for s in states), *(r.whole for r in stacked)]
    written = [*(t.out for t in t_states), *(r.out for r in t_stacked)]
    return {value: t for value, t in zip(values, written, strict=True) if value in wanted and t is not None}


SWEEPS["If"] = Sweeps(_if_back, _if_forward)
SWEEPS["Loop"] = SWEEPS["Scan"] = Sweeps(_loop_back, _loop_forward)
