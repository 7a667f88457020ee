"""Which values a derivative passes through, and what stands in its way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.errors import NotDifferentiableError, Obstacle
from onnxgrad.graph.builder import Builder, captured_values
from onnxgrad.graph.node import Node
from onnxgrad.rules.registry import REGISTRY, Rule


@dataclass(frozen=True)
class Activity:
    """What lies between `wrt` and `of`.

    Attributes:
        values: values that depend on `wrt` and that `of` depends on, both included.
        nodes: the nodes in between, in the order of the graph.
        obstacles: what is in the way.
        stops: texts on nodes at which the dependence ends, because their derivative is zero.
    """

    values: frozenset[ir.Value]
    nodes: Sequence[ir.Node]
    obstacles: Sequence[Obstacle]
    stops: Sequence[str]

    def check(self) -> None:
        """Raise the report of all obstacles, if there are any.

        Raises:
            NotDifferentiableError: naming every node in the way.
        """
        if self.obstacles:
            raise NotDifferentiableError(self.obstacles)


def analyze(op: Builder, nodes: Iterable[ir.Node], wrt: Collection[ir.Value], of: Collection[ir.Value]) -> Activity:
    """Find the nodes through which `of` depends, differentiably, on `wrt`."""
    varied: set[ir.Value] = set(wrt)
    reached: list[ir.Node] = []
    stops: list[str] = []
    for node in nodes:
        if not _reads(node, varied):
            continue
        view = op.view(node)
        rule = REGISTRY.get(view.operator)
        entering = [i for i, v in enumerate(node.inputs) if v in varied]
        if rule is not None and entering and all(rule.is_zero(i) for i in entering):
            if any(t is not None and t.is_float for t in view.outputs):
                why = rule.remark if rule.kind == "not differentiable" else rule.zero[entering[0]]
                stops.append(f"{view.operator} (node {view.name!r}): {why}")
            continue
        differentiable = [v for v, t in zip(node.outputs, view.outputs, strict=True) if t is None or t.is_float]
        if differentiable:
            varied.update(v for v in differentiable if v.name)
            reached.append(node)

    useful: set[ir.Value] = set(of)
    active: list[ir.Node] = []
    obstacles: list[Obstacle] = []
    for node in reversed(reached):
        if useful.isdisjoint(node.outputs):
            continue
        active.append(node)
        view = op.view(node)
        rule = REGISTRY.get(view.operator)
        useful.update(v for i, v in enumerate(node.inputs) if v in varied and not (rule and rule.is_zero(i)))
        useful.update(captured_values(node) & varied)
        obstacles.extend(_obstacles(view, rule, varied))
    return Activity(frozenset(varied & useful), active[::-1], obstacles[::-1], stops)


def _reads(node: ir.Node, values: set[ir.Value]) -> bool:
    if any(v in values for v in node.inputs):
        return True
    has_graphs = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
    return has_graphs and not captured_values(node).isdisjoint(values)


def _obstacles(view: Node, rule: Rule | None, varied: set[ir.Value]) -> Iterable[Obstacle]:
    def obstacle(why: str, **remedy: str) -> Obstacle:
        return Obstacle(view.name, view.operator, view.version, why, **remedy)

    if rule is None:
        yield obstacle("there is no rule for this operator")
        return
    if rule.versions and view.version not in rule.versions:
        known = ", ".join(map(str, sorted(rule.versions)))
        yield obstacle(f"its rule is written for versions {known} only")
    for i, value in enumerate(view.ir.inputs):
        if value not in varied or rule.is_zero(i):
            continue
        if not rule.differentiates(i):
            yield obstacle(f"its rule has no derivative with respect to input {i} ({value.name!r})")
    yield from _unknown_types(view, varied, obstacle)
    if captured_values(view.ir) & varied and not rule.differentiates_captured:
        yield obstacle("values from around it enter its body, and its rule does not follow them")


def _unknown_types(view: Node, varied: set[ir.Value], obstacle: Callable[..., Obstacle]) -> Iterable[Obstacle]:
    """Name the values whose rank is lost in this node, or before any node; behind it, nothing else can be known."""
    incoming = [v for v, t in zip(view.ir.inputs, view.inputs, strict=True) if v is not None and t is None]
    outgoing = [v for v, t in zip(view.ir.outputs, view.outputs, strict=True) if v.name and t is None]
    for value in [v for v in incoming if v.producer() is None or v not in varied] if incoming else outgoing:
        if value in varied or (value in incoming and value.type is None):
            yield obstacle(
                f"the type or rank of {value.name!r} is not known",
                remedy="export the model with shape information, or choose another `wrt` or `of`",
            )
