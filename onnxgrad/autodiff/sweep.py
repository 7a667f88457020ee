"""The two sweeps: cotangents backward, tangents forward; both by the same rules.

A rule maps cotangents of outputs to cotangents of inputs, and this map is linear. So the tangent of an output is
found by transposing it once more: write the map down with a symbol for the cotangent, then sweep backward through
*that*, from the tangents of the inputs to the symbol. What was written for the symbol alone is needed by nobody and
vanishes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import onnx_ir as ir

from onnxgrad.autodiff.activity import analyze
from onnxgrad.errors import NotDifferentiableError, Obstacle, Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, broadcast
from onnxgrad.graph.flow import reads
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.registry import rule_of

#: Cotangents or tangents by the value that they belong to.
Seeded = dict[ir.Value, Tensor]


class Sweeps(NamedTuple):
    """How the sweeps pass through one operator of control flow: the arguments are those of `pull_back` and
    `push_forward`.
    """

    back: Callable[
        [Builder, Node, Sequence[Tensor | None], Collection[ir.Value], Dim | None], Iterable[tuple[ir.Value, Tensor]]
    ]
    forward: Callable[[Builder, Node, Mapping[ir.Value, Tensor], Collection[ir.Value], Dim | None], Seeded]


#: By operator; `onnxgrad.autodiff.control` enters them.
SWEEPS: dict[str, Sweeps] = {}


def sweep_back(
    op: Builder,
    nodes: Sequence[ir.Node],
    cotangents: Mapping[ir.Value, Tensor],
    wrt: Collection[ir.Value],
    seeds: Dim | None = None,
) -> Seeded:
    """Return the cotangents of `wrt` that follow from those of other values; what is missing is zero.

    Args:
        op: the builder.
        nodes: nodes that hold all paths in question, in topological order.
        cotangents: shaped like their values, with one more leading axis of size `seeds` if that is given.
        wrt: values to arrive at.
        seeds: number of seeds.

    Raises:
        NotDifferentiableError: naming every node in the way.
    """
    activity = analyze(op, nodes, wrt, cotangents.keys())
    activity.check()
    found: Seeded = {}
    for value, ct in cotangents.items():
        accumulate(op, found, value, ct, seeds)
    refused: list[Obstacle] = []
    for node in reversed(activity.nodes):
        cts = [found.get(v) for v in node.outputs]
        if all(ct is None or ct.scalar == 0 for ct in cts):
            continue
        view = op.view(node)
        try:
            with op.named_after(view.name):
                for value, ct in pull_back(op, view, cts, activity.values, seeds):
                    accumulate(op, found, value, ct, seeds, view)
        except Refusal as refusal:
            refused.append(_obstacle(view, refusal))
        except NotDifferentiableError as error:  # inside its bodies
            refused.extend(reversed(error.obstacles))
    if refused:
        raise NotDifferentiableError(refused[::-1])
    return found


def sweep_forward(
    op: Builder,
    nodes: Sequence[ir.Node],
    tangents: Mapping[ir.Value, Tensor],
    of: Collection[ir.Value],
    seeds: Dim | None = None,
) -> Seeded:
    """Return the tangents of `of` that follow from those of other values; what is missing is zero.

    The arguments are those of `sweep_back`, with tangents for cotangents.

    Raises:
        NotDifferentiableError: naming every node in the way.
    """
    activity = analyze(op, nodes, tangents.keys(), of)
    activity.check()
    found: Seeded = dict(tangents)
    refused: list[Obstacle] = []
    for node in activity.nodes:
        entering = {v: found[v] for v in reads(node) if v in found and v in activity.values}
        if all(t.scalar == 0 for t in entering.values()):
            continue
        view = op.view(node)
        try:
            with op.named_after(view.name):
                for output, t in push_forward(op, view, entering, activity.values, seeds).items():
                    accumulate(op, found, output, t, seeds, view)
        except Refusal as refusal:
            refused.append(_obstacle(view, refusal))
        except NotDifferentiableError as error:  # inside its bodies
            refused.extend(error.obstacles)
    if refused:
        raise NotDifferentiableError(refused)
    return found


def pull_back(
    op: Builder,
    node: Node,
    cts: Sequence[Tensor | None],
    wanted: Collection[ir.Value],
    seeds: Dim | None,
) -> Iterable[tuple[ir.Value, Tensor]]:
    """Yield ``(value, its cotangent)`` for the values that one node reads and that are wanted; one may come twice."""
    rule = rule_of(op, node.operator)
    assert rule is not None
    if rule.kind == "control flow":
        yield from SWEEPS[node.operator].back(op, node, cts, wanted, seeds)
        return
    positions = [i for i, v in enumerate(node.ir.inputs) if v in wanted and rule.differentiates(i)]
    full = [
        op.full(y.shape, 0, y.cotangent_dtype) if ct is None and y is not None and (y.is_float or v in wanted) else ct
        for ct, y, v in zip(cts, node.outputs, node.ir.outputs, strict=True)
    ]
    if rule.expression is not None:
        values = [node.ir.inputs[i] for i in positions]
        found = _through_expression(op, node, full, [v for v in values if v is not None], seeds)
        yield from ((v, found[v]) for v in dict.fromkeys(values) if v is not None and v in found)
        return
    assert rule.vjp is not None
    result = rule.vjp(op, node, *full)
    if isinstance(result, (tuple, list)):
        result = dict(enumerate(result))
    else:
        result = {min(rule.wrt or (0,)): result}
    for i in positions:
        ct, value = result.get(i), node.ir.inputs[i]
        assert value is not None
        assert ct is not None, f"the rule of {node.operator} gives nothing for input {i}"
        yield value, ct if isinstance(ct, Tensor) else ct()


def push_forward(
    op: Builder,
    node: Node,
    tangents: Mapping[ir.Value, Tensor],
    wanted: Collection[ir.Value],
    seeds: Dim | None,
) -> Seeded:
    """Return the tangents of the wanted outputs of one node, from those of what it reads."""
    if node.operator in SWEEPS:
        return SWEEPS[node.operator].forward(op, node, tangents, wanted, seeds)
    start = len(op.nodes)
    symbols = {
        value: op.symbol(y)
        for value, y in zip(node.ir.outputs, node.outputs, strict=True)
        if y is not None and value in wanted
    }
    cts = [symbols.get(v) for v in node.ir.outputs]
    adjoint: Seeded = {}
    for value, ct in pull_back(op, node, cts, tangents.keys(), None):
        accumulate(op, adjoint, value, ct, None, node)
    seeded: Seeded = {}
    for value, ct in adjoint.items():
        if ct.scalar != 0:
            # two inputs may have the very same cotangent, as in x1 + x2
            accumulate(op, seeded, ct.value, tangents[value], seeds)
    back = sweep_back(op, op.nodes[start:], seeded, [s.value for s in symbols.values()], seeds)
    return {value: back[s.value] for value, s in symbols.items() if s.value in back}


def _through_expression(
    op: Builder, node: Node, cts: Sequence[Tensor | None], wrt: Collection[ir.Value], seeds: Dim | None
) -> Seeded:
    """Differentiate the expression that equals a node's outputs."""
    rule = rule_of(op, node.operator)
    assert rule is not None
    assert rule.expression is not None
    start = len(op.nodes)
    with op.unshared():  # a node outside could hide that the expression depends on an input of this one
        outputs = rule.expression(op, node)
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        seeded: Seeded = {}
        for out, y, ct in zip(outputs, node.outputs, cts, strict=False):
            if out is not None and y is not None and ct is not None and ct.scalar != 0:
                op.retype(out, y.shape)
                accumulate(op, seeded, out.value, ct, seeds)
    return sweep_back(op, op.nodes[start:], seeded, wrt, seeds)


def accumulate(
    op: Builder, found: Seeded, value: ir.Value, ct: Tensor, seeds: Dim | None, node: Node | None = None
) -> None:
    """Add a contribution, in the type and shape of its value, to what was found of it."""
    x = op.tensor(value)
    assert x is not None
    ct = _conform(op, ct, x, seeds, node)
    found[value] = found[value] + ct if value in found else ct


def _conform(op: Builder, ct: Tensor, x: Tensor, seeds: Dim | None, node: Node | None) -> Tensor:
    """Bring a cotangent to the type and shape of its value: sum where the value was broadcast, spread where it is
    smaller.
    """
    target = x.shape if seeds is None else (seeds, *x.shape)
    dtype = x.cotangent_dtype
    ct = op.cast(ct, max(dtype, ct.dtype, key=lambda dtype: dtype.itemsize))  # sums are taken in the wider type
    if ct.shape == target:
        return op.cast(ct, dtype)
    extra = ct.rank - len(target)
    if extra > 0 and seeds is not None:  # broadcast axes lie behind the seeds
        ct = op.sum(ct, [i - ct.rank for i in range(1, 1 + extra)], keepdims=False)
    ct = op.sum_to(ct, target) if ct.rank >= len(target) else ct
    assert broadcast(ct.shape, target) == target, (
        f"the rule of {node.operator if node else 'the seed'} gives a cotangent of shape {ct.shape} for {x}"
    )
    return op.spread(op.cast(ct, dtype), target)


def _obstacle(node: Node, refusal: Refusal) -> Obstacle:
    remedy = {} if refusal.remedy is None else {"remedy": refusal.remedy}
    return Obstacle(node.name, node.operator, node.version, refusal.why, **remedy)
