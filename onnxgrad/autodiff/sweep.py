"""The two sweeps: cotangents backward, tangents forward; both by the same rules.

A rule maps cotangents of outputs to cotangents of inputs, and this map is linear. So the tangent of an output is
found by transposing it once more: write the map down with a symbol for the cotangent, then sweep backward through
*that*, from the tangents of the inputs to the symbol. What was written for the symbol alone is needed by nobody and
vanishes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxgrad.autodiff.activity import analyze
from onnxgrad.errors import NotDifferentiableError, Obstacle, Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, broadcast
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.registry import REGISTRY

#: Cotangents or tangents by the value that they belong to.
Seeded = dict[ir.Value, Tensor]


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
        _accumulate(op, found, value, ct, seeds)
    refused: list[Obstacle] = []
    for node in reversed(activity.nodes):
        cts = [found.get(v) for v in node.outputs]
        if all(ct is None or ct.scalar == 0 for ct in cts):
            continue
        view = op.view(node)
        try:
            with op.named_after(view.name):
                for i, ct in pull_back(op, view, cts, activity.values, seeds):
                    entered = node.inputs[i]
                    assert entered is not None
                    _accumulate(op, found, entered, ct, seeds, view)
        except Refusal as refusal:
            refused.append(_obstacle(view, refusal))
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
        entering = {v: found[v] for v in node.inputs if v is not None and v in found and v in activity.values}
        if all(t.scalar == 0 for t in entering.values()):
            continue
        view = op.view(node)
        try:
            with op.named_after(view.name):
                for output, t in push_forward(op, view, entering, activity.values, seeds).items():
                    _accumulate(op, found, output, t, seeds, view)
        except Refusal as refusal:
            refused.append(_obstacle(view, refusal))
    if refused:
        raise NotDifferentiableError(refused)
    return found


def pull_back(
    op: Builder,
    node: Node,
    cts: Sequence[Tensor | None],
    wanted: Collection[ir.Value],
    seeds: Dim | None,
) -> Iterable[tuple[int, Tensor]]:
    """Yield ``(position of an input, its cotangent)`` for the inputs of one node that are wanted."""
    rule = REGISTRY.get(node.operator)
    assert rule is not None
    positions = [i for i, v in enumerate(node.ir.inputs) if v in wanted and rule.differentiates(i)]
    full = [
        ct if ct is not None or y is None or not y.is_float else op.zeros_like(y)
        for ct, y in zip(cts, node.outputs, strict=True)
    ]
    if rule.expression is not None:
        values = [node.ir.inputs[i] for i in positions]
        found = _through_expression(op, node, full, [v for v in values if v is not None], seeds)
        # a value that enters twice gets its whole cotangent at its first position
        yield from ((node.ir.inputs.index(v), found[v]) for v in dict.fromkeys(values) if v in found)
        return
    assert rule.vjp is not None
    result = rule.vjp(op, node, *full)
    if isinstance(result, (tuple, list)):
        result = dict(enumerate(result))
    else:
        result = {min(rule.wrt or (0,)): result}
    for i in positions:
        ct = result.get(i)
        assert ct is not None, f"the rule of {node.operator} gives nothing for input {i}"
        yield i, ct if isinstance(ct, Tensor) else ct()


def push_forward(
    op: Builder,
    node: Node,
    tangents: Mapping[ir.Value, Tensor],
    wanted: Collection[ir.Value],
    seeds: Dim | None,
) -> Seeded:
    """Return the tangents of the wanted outputs of one node, from those of its inputs."""
    start = len(op.nodes)
    symbols = {
        value: op.symbol(y)
        for value, y in zip(node.ir.outputs, node.outputs, strict=True)
        if y is not None and value in wanted
    }
    cts = [symbols.get(v) for v in node.ir.outputs]
    adjoint: Seeded = {}
    for i, ct in pull_back(op, node, cts, tangents.keys(), None):
        value = node.ir.inputs[i]
        assert value is not None
        _accumulate(op, adjoint, value, ct, None, node)
    seeded: Seeded = {}
    for value, ct in adjoint.items():
        if ct.scalar != 0:
            # two inputs may have the very same cotangent, as in x1 + x2
            _accumulate(op, seeded, ct.value, tangents[value], seeds)
    back = sweep_back(op, op.nodes[start:], seeded, [s.value for s in symbols.values()], seeds)
    return {value: back[s.value] for value, s in symbols.items() if s.value in back}


def _through_expression(
    op: Builder, node: Node, cts: Sequence[Tensor | None], wrt: Collection[ir.Value], seeds: Dim | None
) -> Seeded:
    """Differentiate the expression that equals a node's outputs."""
    rule = REGISTRY.get(node.operator)
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
                _accumulate(op, seeded, out.value, ct, seeds)
    return sweep_back(op, op.nodes[start:], seeded, wrt, seeds)


def _accumulate(
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
    ct = op.cast(ct, max(x.dtype, ct.dtype, key=lambda dtype: dtype.itemsize))  # sums are taken in the wider type
    if ct.shape == target:
        return op.cast(ct, x.dtype)
    extra = ct.rank - len(target)
    if extra > 0 and seeds is not None:  # broadcast axes lie behind the seeds
        ct = op.sum(ct, [i - ct.rank for i in range(1, 1 + extra)], keepdims=False)
    ct = op.sum_to(ct, target) if ct.rank >= len(target) else ct
    assert broadcast(ct.shape, target) == target, (
        f"the rule of {node.operator if node else 'the seed'} gives a cotangent of shape {ct.shape} for {x}"
    )
    return op.spread(op.cast(ct, x.dtype), target)


def _obstacle(node: Node, refusal: Refusal) -> Obstacle:
    remedy = {} if refusal.remedy is None else {"remedy": refusal.remedy}
    return Obstacle(node.name, node.operator, node.version, refusal.why, **remedy)
