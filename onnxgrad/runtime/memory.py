"""How much memory a run needs, from the shapes of what it computes.

The estimate counts the tensors that are alive at once, in the order of the graph. It does not know what a kernel
needs besides (the columns of a convolution), nor which nodes onnxruntime fuses, and weights are not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, broadcast_of, division_of, terms_of
from onnxgrad.graph.flow import captured_values
from onnxgrad.graph.sizes import POINTWISE

#: Stands for a size that nothing is known of.
_NOMINAL = 64
#: Operators whose result lies where their input does.
_VIEWS = frozenset("Reshape Flatten Squeeze Unsqueeze Identity".split())

#: Bytes per element, and the shape.
_Extent = tuple[int, Shape]


class Footprint:
    """The memory of one run, as a function of the symbolic sizes.

    Args:
        op: the builder of the model, which is finished.
        inputs: its inputs.
        outputs: those of its outputs that are computed.
    """

    def __init__(self, op: Builder, inputs: Iterable[ir.Value], outputs: Sequence[ir.Value]) -> None:
        self._outputs = [extent for value in outputs if (extent := _extent(op, value)) is not None]
        self._results = [op.tensor(value) for value in outputs]
        nodes = _live_nodes(op.model.graph, outputs)
        owner: dict[ir.Value, ir.Value] = {}
        last: dict[ir.Value, int] = {}
        for i, node in enumerate(nodes):
            for value in _read(node):
                last[owner.get(value, value)] = i
            if node.op_type in _VIEWS and node.domain == "" and node.inputs[0] is not None:
                owner[node.outputs[0]] = owner.get(node.inputs[0], node.inputs[0])
        for value in outputs:
            last[owner.get(value, value)] = len(nodes)
        dying: list[list[ir.Value]] = [[] for _ in range(len(nodes) + 1)]
        for value, i in last.items():
            dying[i].append(value)
        held = {value: extent for value in inputs if (extent := _extent(op, value)) is not None}
        # what each step adds, what is gone, and whether it is gone before the results are there
        self._start = list(held.values())
        self._steps: list[tuple[list[_Extent], list[_Extent], bool]] = []
        folded = _folded(op, nodes)
        for node, gone in zip(nodes, dying, strict=False):
            new = {}
            if node not in folded:
                new = {v: e for v in node.outputs if v not in owner and (e := _extent(op, v)) is not None}
            held.update(new)
            freed = [held.pop(v) for v in gone if v in held]
            freed += [held.pop(v) for v in new if v not in last]
            in_place = node.op_type in POINTWISE and node.domain == ""
            self._steps.append((list(new.values()), freed, in_place))

    def results(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes of all results, as far as their shapes follow from `sizes`."""
        shapes = (numbers(shape, sizes) for _, shape in self._outputs)
        return sum(each * math.prod(s) for (each, _), s in zip(self._outputs, shapes, strict=True) if s is not None)

    def shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """Return the shapes of the results, as far as they follow from `sizes`."""
        return [s for _, shape in self._outputs if (s := numbers(shape, sizes)) is not None]

    def arrays(self, sizes: Mapping[str, int]) -> list[tuple[tuple[int, ...], np.dtype[Any]]] | None:
        """Return shape and type of each result, if all of them follow from `sizes`."""
        found = []
        for tensor in self._results:
            shape = None if tensor is None or tensor.dtype.name == "STRING" else numbers(tensor.shape, sizes)
            if tensor is None or shape is None:
                return None
            found.append((shape, np.dtype(tensor.dtype.numpy())))
        return found

    def working(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes that a run needs at most at once: inputs, results, and what lies in between."""
        estimate = _Estimate(sizes)
        alive = peak = sum(map(estimate.bytes, self._start))
        for new, freed, in_place in self._steps:
            added, removed = sum(map(estimate.bytes, new)), sum(map(estimate.bytes, freed))
            peak = max(peak, alive + added - (min(added, removed) if in_place else 0))
            alive += added - removed
        return peak


def numbers(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return a shape in numbers, or None where it depends on more than `sizes`."""
    estimate = _Estimate(sizes)
    found = tuple(map(estimate.number, shape))
    return found if estimate.exact else None


def in_bytes(size: int) -> str:
    """Return a number of bytes as people write it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


class _Estimate:
    """Sizes in numbers; where one depends on the data, a guess.

    Attributes:
        exact: whether there was nothing to guess.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._known = dict(sizes)
        self._guess = max(sizes.values(), default=_NOMINAL)
        self.exact = True

    def bytes(self, extent: _Extent) -> int:
        return extent[0] * math.prod(map(self.number, extent[1]))

    def number(self, dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        known = self._known.get(dim)
        if known is None:
            known = self._known[dim] = sum(c * math.prod(map(self._atom, atoms)) for c, atoms in terms_of(dim))
        return known

    def _atom(self, atom: str) -> int:
        if atom in self._known:
            return self._known[atom]
        division, parts = division_of(atom), broadcast_of(atom)
        if division is not None:
            return self.number(division[0]) // division[1]
        if parts is not None:
            found = [self.number(part) for part in parts]
            return 0 if 0 in found else max(found)
        self.exact = False
        return self._guess


def _extent(op: Builder, value: ir.Value) -> _Extent | None:
    tensor = op.tensor(value)
    if tensor is None or value.is_initializer() or tensor.dtype.name == "STRING":
        return None
    return math.ceil(tensor.dtype.itemsize), tensor.shape


def _folded(op: Builder, nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """Return the nodes that compute with weights alone, which is done once, when the session is made.

    Those that make more of it than there was (a large identity) are left out: then it does take memory.
    """
    constant: set[ir.Value] = set()
    folded = set()
    for node in nodes:
        read = _read(node)
        if read and all(v.is_initializer() or v in constant for v in read):
            constant.update(node.outputs)
            if _static_bytes(op, node.outputs) <= _static_bytes(op, read):
                folded.add(node)
    return folded


def _static_bytes(op: Builder, values: Iterable[ir.Value]) -> float:
    shapes = [(t.dtype.itemsize, numbers(t.shape, {})) for v in values if (t := op.tensor(v)) is not None]
    return sum(each * math.prod(shape) for each, shape in shapes if shape is not None)


def _live_nodes(graph: ir.Graph, outputs: Iterable[ir.Value]) -> list[ir.Node]:
    """Return the nodes that `outputs` need, in order."""
    needed = set(outputs)
    live = []
    for node in reversed(list(graph)):
        if not needed.isdisjoint(node.outputs):
            live.append(node)
            needed.update(_read(node))
    return live[::-1]


def _read(node: ir.Node) -> set[ir.Value]:
    return {v for v in node.inputs if v is not None} | captured_values(node)
