"""The proof that samples do not mix on their way from an input to an output."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxgrad.autodiff.activity import Activity, analyze
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim
from onnxgrad.graph.flow import is_flow
from onnxgrad.rules.registry import rule_of
from onnxgrad.rules.samples import Mixed, Samples, through_flow


def follow_samples(op: Builder, activity: Activity, wrt: ir.Value) -> tuple[dict[ir.Value, Samples], str | None]:
    """Follow axis 0 of `wrt` through the nodes of `activity`.

    Returns where the samples lie in each value they reach, and, if they meet somewhere, the node and how.
    """
    places: dict[ir.Value, Samples] = {wrt: Samples(0)}
    try:
        _follow(op, activity.nodes, places)
    except Mixed as mixed:
        return places, str(mixed)
    return places, None


def _follow(op: Builder, nodes: Iterable[ir.Node], places: dict[ir.Value, Samples]) -> None:
    """Enter where the samples lie in what the nodes give.

    Raises:
        Mixed: if they meet somewhere; the message names the node.
    """

    def walk(graph: ir.Graph) -> None:
        _follow(op, analyze(op, graph, list(places), graph.outputs).nodes, places)

    for node in nodes:
        view = op.view(node)
        where = f"node {view.name!r} ({view.operator})"
        if is_flow(node):
            try:
                through_flow(op, node, places, walk)
            except Mixed as mixed:
                raise Mixed(f"{where}: {mixed}") from None
            continue
        rule = rule_of(op, view.operator)
        entering = [
            places.get(v) if v is not None and not (rule and rule.is_zero(i)) else None
            for i, v in enumerate(node.inputs)
        ]
        if not any(entering):
            continue
        if rule is None or rule.follow is None:
            raise Mixed(f"{where}: how samples pass through this operator is not known")
        if None in [op.tensor(v) for v in (*node.inputs, *node.outputs) if v is not None and v.name]:
            raise Mixed(f"{where}: the type or rank of what it takes or gives is not known")
        try:
            places.update((v, s) for v, s in zip(node.outputs, rule.follow(view, entering), strict=True) if s)
        except Mixed as mixed:
            raise Mixed(f"{where}: {mixed}") from None


def mixing_node(op: Builder, activity: Activity, wrt: ir.Value, of: ir.Value) -> str | None:
    """Return None if sample i of `of` depends on sample i of `wrt` alone (axis 0 of both), else where that fails.

    `activity` is that of the two values.
    """
    places, mixed = follow_samples(op, activity, wrt)
    if mixed is not None:
        return mixed
    arrived = places.get(of)
    if arrived is None or arrived == Samples(0):
        return None
    return f"the samples arrive on axis {arrived.axis} of {of.name!r}, merged with others or not in front"


def symbolic_batch(shape: tuple[Dim, ...]) -> bool:
    """Whether axis 0 has a size that is known only at run time."""
    return bool(shape) and isinstance(shape[0], str)
