"""Names: every value and every node of a model has one of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator

import onnx_ir as ir

from onnxgrad.model.tensors import scopes_of


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
    nodes = _Claims(node.name for graph in graphs for node in graph)
    values = _Claims(value.name for graph in graphs for value in values_of(graph))
    for graph in graphs:
        for node in graph:
            node.name = nodes.claim(node.name, node.op_type)
        for value in values_of(graph):
            if not _is_left_out(value, functions):
                producer = value.producer()
                stem = f"{producer.name}_output" if producer is not None else "value"
                value.name = values.claim(value.name, stem)


class _Claims:
    """Gives each who asks the name that it has, or else a new one that nobody has."""

    def __init__(self, names: Iterable[str | None]) -> None:
        self._existing = {name for name in names if name}
        self._claimed: set[str] = set()
        self._count: Counter[str] = Counter()

    def claim(self, name: str | None, stem: str) -> str:
        """Return `name` if it is one and not claimed yet, else a new name made of it or of `stem`."""
        if not name or name in self._claimed:
            base = name = name or stem
            while name in self._existing:
                self._count[base] += 1
                name = f"{base}_{self._count[base]}"
            self._existing.add(name)
        self._claimed.add(name)
        return name
