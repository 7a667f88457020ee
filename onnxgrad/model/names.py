"""Names: every value and every node of a model has one of its own."""

from __future__ import annotations

from collections.abc import Container, Iterator

import onnx_ir as ir

from onnxgrad.model.tensors import scopes_of


def unused(base: str, taken: set[str]) -> str:
    """Return `base`, or `base` with the first number that makes it a name not in `taken`; add it to `taken`."""
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def value_names(graph: ir.Graph) -> set[str]:
    """Return the names of all values in a graph and its subgraphs."""
    return {value.name for g in (graph, *graph.subgraphs()) for value in values_of(g) if value.name}


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values that a graph itself defines, each once: inputs, outputs, initializers, nodes' results."""
    seen = dict.fromkeys((*graph.inputs, *graph.outputs, *graph.initializers.values()))
    for node in graph:
        seen.update(dict.fromkeys(node.outputs))
    yield from seen


def give_names(model: ir.Model) -> None:
    """Give every value and node of `model`, in place, a name that no other has.

    A name stands unless it is empty or taken, and the outer graph's names take precedence over those in subgraphs.
    Inputs and outputs of the model thus keep theirs. (`onnx_ir` has a pass for names, but it leaves a subgraph the name
    of an outer value that comes later, and it names optional outputs that are left out, which would switch them on.)
    """
    for scope in scopes_of(model):
        _give_names(scope, model.functions.keys())


def _is_left_out(value: ir.Value, functions: Container[ir.OperatorIdentifier]) -> bool:
    """Return whether `value` is an optional output that its operator leaves out; a function has all of its own."""
    node = value.producer()
    if value.name or value.uses() or value.is_graph_output() or node is None:
        return False
    return node.op_identifier() not in functions


def _give_names(scope: ir.Graph, functions: Container[ir.OperatorIdentifier]) -> None:
    graphs = (scope, *scope.subgraphs())
    taken_nodes = {node.name for graph in graphs for node in graph if node.name}
    taken_values = value_names(scope)
    claimed_nodes: set[str] = set()
    claimed_values: set[str] = set()
    for graph in graphs:
        for node in graph:
            if not node.name or node.name in claimed_nodes:
                node.name = unused(node.name or node.op_type, taken_nodes)
            claimed_nodes.add(node.name)
        for value in values_of(graph):
            if _is_left_out(value, functions):
                continue
            if not value.name or value.name in claimed_values:
                producer = value.producer()
                stem = f"{producer.name}_output" if producer is not None else "value"
                value.name = unused(value.name or stem, taken_values)
            claimed_values.add(value.name)
