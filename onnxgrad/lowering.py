"""The standard's own `Gradient` operator: each such node is replaced by the derivative that it asks for.

A node ``Gradient(inputs…, xs=[…], zs=[…], y=…)`` of the domain ai.onnx.preview.training names tensors of the graph
around it: y is a function of xs and zs, and the node gives the gradient of y by each of xs, at the values that are its
inputs (first those of xs, then those of zs). Where an input is the named tensor itself, what the graph has computed
already is used; else the part of the graph between the named tensors and y is there a second time, at those values.

The named tensors are taken as independent: what computes one of them is not looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import cast

import onnx_ir as ir

from onnxgrad.autodiff.sweep import sweep_back
from onnxgrad.errors import (
    DisconnectedWarning,
    ModelReadError,
    NotDifferentiableError,
    Obstacle,
    TensorTypeError,
    UnknownNameError,
    level_outside,
)
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import size_of
from onnxgrad.graph.flow import reads
from onnxgrad.graph.random import drawing_node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.model.metadata import record
from onnxgrad.model.names import values_of
from onnxgrad.model.normalize import normalize
from onnxgrad.model.tensors import graphs_of, scopes_of
from onnxgrad.rules import REGISTRY

OPERATOR = "ai.onnx.preview.training::Gradient"


def has_gradients(model: ir.Model) -> bool:
    """Return whether there are `Gradient` nodes in a model, in its graph or functions or anything inside."""
    return any(_is_gradient(node) for graph in graphs_of(model) for node in graph)


def working_form(model: ir.Model, straight_through: bool = False) -> ir.Model:
    """Bring a model, in place, into the working form of `onnxgrad.model.normalize`, with no `Gradient` node left.

    Functions that have a rule are kept.

    Args:
        model: a model as `onnxgrad.model.read.read` returns it.
        straight_through: whether gradients pass straight through roundings.

    Returns:
        The same object.

    Raises:
        ModelReadError: if the model cannot be normalized, or a `Gradient` node is malformed.
        UnknownNameError: if such a node names a tensor that its graph does not have.
        TensorTypeError: if the gradient is that of more than one number, or of or by no floating-point numbers.
        NotDifferentiableError: with every node in the way.
    """
    keep = {key for key in model.functions if _has_rule(key)}
    found = [_bound(scope, node) for scope in scopes_of(model) for node in _gradients(scope)]
    if not found:
        return normalize(model, keep)
    for node in found:
        _check_order(node)
    normalize(model, keep)
    for scope in scopes_of(model)[1:]:
        for node in _gradients(scope):
            raise _refused(node, "it stands in a function that has a rule of its own", "put it outside")
    while pending := list(_gradients(model.graph)):
        _lower(model, pending, straight_through)
    return normalize(model, keep)


# --- names become inputs -----------------------------------------------------------------------
#
# Names in attributes would not outlive the inlining and renaming of normalization. So xs, zs and y become further
# inputs of the node, behind its own.


def _is_gradient(node: ir.Node) -> bool:
    return f"{node.domain}::{node.op_type}" == OPERATOR


def _gradients(graph: ir.Graph) -> Iterable[ir.Node]:
    yield from filter(_is_gradient, graph)
    for inner in graph.subgraphs():
        for node in filter(_is_gradient, inner):
            raise _refused(node, "it stands in the body of another node", "put it in the graph around that node")


def _bound(scope: ir.Graph, node: ir.Node) -> ir.Node:
    """Append the named tensors to the inputs of a node.

    Raises:
        ModelReadError: if the node is malformed.
        UnknownNameError: if it names what the graph does not have.
    """
    xs, zs, y = _strings(node, "xs"), _strings(node, "zs"), _strings(node, "y")
    if not xs or len(y) != 1:
        raise _malformed(node, "it needs the attributes `xs`, a list of names, and `y`, a name")
    if len({*xs, *zs}) < len(xs) + len(zs):
        raise _malformed(node, "`xs` and `zs` name a tensor twice")
    if None in node.inputs:
        raise _malformed(node, "an input is left out")
    if len(node.inputs) != len(xs) + len(zs):
        raise _malformed(
            node, f"it has {len(node.inputs)} inputs for the {len(xs) + len(zs)} tensors that `xs` and `zs` name"
        )
    if len(node.outputs) > len(xs):
        raise _malformed(node, f"it has {len(node.outputs)} outputs for the {len(xs)} tensors that `xs` names")
    values = {value.name: value for value in values_of(scope) if value.name}
    count = len(node.inputs)
    node.resize_inputs(2 * count + 1)
    for i, name in enumerate([*xs, *zs, *y]):
        if name not in values:
            where = f"a tensor of the graph of node {node.name!r} ({OPERATOR}), which names it"
            raise UnknownNameError.among(where, name, values)
        node.replace_input_with(count + i, values[name])
    return node


def _strings(node: ir.Node, name: str) -> list[str]:
    attribute = node.attributes.get(name)
    if attribute is None or attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.STRING:
        return [attribute.as_string()]
    return list(attribute.as_strings()) if attribute.type == ir.AttributeType.STRINGS else []


def _check_order(node: ir.Node) -> None:
    """Raise a `ModelReadError` if a node asks for the gradient of what depends on that gradient."""
    seen: set[ir.Node] = set()
    pending = [value.producer() for value in reads(node)]
    while pending:
        producer = pending.pop()
        if producer is node:
            raise _malformed(node, "`y`, or an input, depends on its own output")
        if producer is not None and producer not in seen:
            seen.add(producer)
            pending.extend(value.producer() for value in reads(producer))


def _has_rule(key: ir.OperatorIdentifier) -> bool:
    domain, name, _ = key
    return REGISTRY.get(f"{domain}::{name}" if domain else name) is not None


def _malformed(node: ir.Node, why: str) -> ModelReadError:
    return ModelReadError(f"node {node.name!r} ({OPERATOR}) is malformed: {why}")


def _refused(node: ir.Node, why: str, remedy: str) -> NotDifferentiableError:
    return NotDifferentiableError([Obstacle(node.name or "", OPERATOR, 1, why, remedy)])


# --- nodes become derivatives ------------------------------------------------------------------


def _lower(model: ir.Model, pending: Sequence[ir.Node], straight_through: bool) -> None:
    """Replace those nodes of which nothing that they need depends on another one."""
    op = Builder(model, straight_through)
    for node in pending:
        for x in _named(node)[: len(_strings(node, "xs"))]:
            tensor = op.tensor(x)
            if tensor is not None:
                tensor.is_variable = True  # a formula must not be written for its number: others differentiate by it
    late: set[ir.Value] = set()
    ready: list[ir.Node] = []
    for node in model.graph:
        waits = not late.isdisjoint(reads(node))
        if _is_gradient(node) and not waits:
            ready.append(node)
        if _is_gradient(node) or waits:
            late.update(node.outputs)
    written: list[ir.Value] = []
    for node in ready:
        with op.named_after(node.name or "Gradient"):
            _replace(op, node, written)
    op.finish(written)
    model.graph.remove(ready)
    model.graph.sort()
    if op.relied_on:
        record(model, [], op.relied_on)


def _named(node: ir.Node) -> list[ir.Value]:
    """Return the tensors that a node names in `xs` and `zs`."""
    count = len(node.inputs) // 2
    return [v for v in node.inputs[count : 2 * count] if v is not None]


def _replace(op: Builder, node: ir.Node, written: list[ir.Value]) -> None:
    """Write the derivative that a node asks for, let it take the place of its outputs, and cut the node off.

    What takes their place is appended to `written`.
    """
    xs, named = _strings(node, "xs"), _named(node)
    y = node.inputs[-1]
    assert y is not None
    for i, x in enumerate(named[: len(xs)]):
        others = set(named[: len(xs)]) - {x}
        mixed = [v.name for n in _between([x], others) for v in reads(n) if v in others]
        if mixed:
            raise _malformed(node, f"`xs` names {xs[i]!r}, which is computed from {mixed[0]!r}, named there, too")
    points, y = _at_inputs(op, node, named, y)
    wanted = [i for i, out in enumerate(node.outputs) if out.name]
    gradients = _gradients_at(op, node, [points[i] for i in wanted], points, y)
    for i, gradient in zip(wanted, gradients, strict=True):
        old, value = node.outputs[i], gradient.value
        producer = value.producer()
        if producer is None or producer.graph is not None or value in written:
            value = op.named_identity(gradient)
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        value.meta.update(old.meta)
        value.doc_string = old.doc_string
        old.name, value.name = None, old.name
        written.append(value)
    for i in range(len(node.inputs)):
        node.replace_input_with(i, None)


def _at_inputs(op: Builder, node: ir.Node, named: Sequence[ir.Value], y: ir.Value) -> tuple[list[ir.Value], ir.Value]:
    """Return the points that the gradient is taken at, and y as a function of them."""
    points: list[ir.Value] = []
    moved: dict[ir.Value, Tensor] = {}
    for name, given in zip(named, node.inputs, strict=False):
        assert given is not None
        if given is name:
            points.append(name)
            continue
        tensor, like = op.tensor(given), op.tensor(name)
        if tensor is None or like is None or tensor.dtype != like.dtype or tensor.rank != like.rank:
            raise TensorTypeError(
                f"node {node.name!r} ({OPERATOR}) puts {given.name!r} in the place of {name.name!r}, and these are no "
                f"tensors of one type and rank: {tensor or 'unknown'}, {like or 'unknown'}"
            )
        points.append(op.named_identity(tensor))  # of its own: two tensors may be given one value
        point = op.tensor(points[-1])
        assert point is not None
        moved[name] = point
    if not moved:
        return points, y
    if y in moved:
        return points, moved[y].value
    changed = set(moved)
    nodes = []
    for between in _between([y], named):
        if not changed.isdisjoint(reads(between)):
            nodes.append(between)
            changed.update(between.outputs)
    if y not in changed:
        return points, y
    random = drawing_node(nodes)
    if random is not None:
        raise _refused(
            node,
            f"it asks for values other than those of the tensors that it names, and {random.op_type} on the way to "
            f"{y.name!r} (node {random.name!r}) would draw other random numbers for them",
            "give it the named tensors themselves, or take out the random operator",
        )
    (result,) = op.inline(cast(ir.Graph, ir.GraphView([], [y], nodes=nodes)), moved)
    return points, y if result is None else result.value


def _gradients_at(
    op: Builder, node: ir.Node, xs: Sequence[ir.Value], points: Collection[ir.Value], y: ir.Value
) -> list[Tensor]:
    """Return the gradients of y by `xs`, with all of `points` independent."""
    of, by = op.tensor(y), [op.tensor(x) for x in xs]
    for value, tensor in zip([y, *xs], [of, *by], strict=True):
        if tensor is None or not tensor.is_float:
            what = "whose type or rank is not known" if tensor is None else f"of type {tensor.dtype.name.lower()}"
            raise TensorTypeError(f"node {node.name!r} ({OPERATOR}) cannot differentiate {value.name!r}, {what}")
    assert of is not None
    if size_of(of.shape) != 1:
        raise TensorTypeError(
            f"node {node.name!r} ({OPERATOR}) asks for the gradient of {y.name!r}, which has shape {list(of.shape)}; a "
            "gradient is that of one number: reduce it, e.g. by a ReduceSum, and name the result as `y`"
        )
    nodes = _between([y], points)
    found = sweep_back(op, nodes, {y: op.full(of.shape, 1, of.dtype)}, xs)
    result = []
    for x, tensor in zip(xs, by, strict=True):
        assert tensor is not None
        if x not in found:
            warnings.warn(
                f"node {node.name!r} ({OPERATOR}): {y.name!r} does not depend on {x.name!r}, or only in steps; the "
                "derivative is zero",
                DisconnectedWarning,
                stacklevel=level_outside(),
            )
        result.append(found[x] if x in found else op.zeros_like(tensor))
    return result


def _between(outputs: Iterable[ir.Value], cut: Collection[ir.Value]) -> list[ir.Node]:
    """Return the nodes that `outputs` depend on, up to the values `cut`, in topological order."""
    found: list[ir.Node] = []
    seen: set[ir.Node] = set()
    stack = [(v.producer(), False) for v in outputs if v not in cut]
    while stack:
        node, entered = stack.pop()
        if node is None or (node in seen and not entered):
            continue
        if entered:
            found.append(node)
            continue
        seen.add(node)
        stack.append((node, True))
        stack.extend((v.producer(), False) for v in reads(node) if v not in cut)
    return found
