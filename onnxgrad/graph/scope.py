"""Where nodes are emitted: the model's graph, or a body inside it, which sees what is around it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, MutableMapping
from typing import Any

import onnx_ir as ir

from onnxgrad.graph.dims import Dim, broadcast_of, division_of, terms_of
from onnxgrad.graph.flow import graphs_in, reads
from onnxgrad.graph.tensor import Tensor

#: Operators that are taken out of loops: those that cannot fail, even where no iteration would have run them.
_HOISTED = frozenset(
    "Add Cast Concat Cos Exp Expand Identity Mul Neg Reciprocal Reshape Shape Sigmoid Sin Sub Tanh Transpose".split()
)


class Scope:
    """What was emitted at one place, and what is known there.

    Attributes:
        outer: the scope around it.
        nodes: the nodes emitted so far.
        memo: what was emitted, to be found again.
        sources: where each size can be read.

    Args:
        outer: the scope around it.
        beside: whether only the nodes are kept apart, and what is emitted can be used in `outer`.
    """

    def __init__(self, outer: Scope | None = None, beside: bool = False) -> None:
        self.outer = outer
        self.nodes: list[ir.Node] = []
        self.memo: MutableMapping[tuple[Any, ...], tuple[Tensor | None, ...]] = {}
        self.sources: MutableMapping[Dim, tuple[Tensor, int]] = {}
        if beside and outer is not None:
            self.memo, self.sources = outer.memo, outer.sources
        elif outer is not None:
            self.memo = ChainMap({}, outer.memo)
            self.sources = ChainMap({}, outer.sources)

    def knows(self, dim: Dim | None) -> bool:
        """Whether a size can be read here."""
        if dim is None or isinstance(dim, int) or dim in self.sources:
            return dim is not None
        return all(self._knows_atom(atom) for _, atoms in terms_of(dim) for atom in atoms)

    def _knows_atom(self, atom: str) -> bool:
        if atom in self.sources:
            return True
        division = division_of(atom)
        parts = [division[0]] if division is not None else broadcast_of(atom)
        return parts is not None and all(part != atom and self.knows(part) for part in parts)

    def is_size_of(self, dim: Dim, values: Iterable[ir.Value]) -> bool:
        """Whether a size is one of values that are the only place to read it from."""
        source = self.sources.get(dim)
        return source is not None and source[0].value in set(values)

    def needed(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        """Return the values on which others depend within this scope, and these themselves."""
        found = set(values)
        for node in reversed(self.nodes):
            if not found.isdisjoint(node.outputs):
                found.update(reads(node))
        return found

    def live(self, needed: set[ir.Value]) -> list[ir.Node]:
        """Return the nodes that lead to `needed` values, to which what they read is added, and discard the others."""
        live: list[ir.Node] = []
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.outputs):
                _discard(node)
            else:
                needed.update(reads(node))
                live.append(node)
        return live[::-1]

    def hoist(self, outputs: Iterable[ir.Value], inputs: Iterable[ir.Value]) -> None:
        """Leave here only what `outputs` need; what does not depend on `inputs` goes to what is around, except for
        `outputs` themselves.
        """
        assert self.outer is not None
        stay = set(outputs)
        live = self.live(set(stay))
        inside = {*stay, *inputs}.union(*(node.outputs for node in live))
        self.nodes.clear()
        for node in live:
            if (
                node.op_type in _HOISTED
                and not node.domain
                and inside.isdisjoint(node.inputs)
                and stay.isdisjoint(node.outputs)
            ):
                self.outer.nodes.append(node)
                inside.difference_update(node.outputs)
            else:
                self.nodes.append(node)


def _discard(node: ir.Node) -> None:
    """Let a node use nothing any more."""
    for i in range(len(node.inputs)):
        node.replace_input_with(i, None)
    for _, graph in graphs_in(node):
        for inner in graph:
            _discard(inner)
