"""Runs in parts: which sizes a run can be split along, how large a part may be, and putting the parts together."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import MemoryBoundError, RunError
from onnxgrad.graph.builder import Builder, drawing_node
from onnxgrad.runtime.buffers import BufferPool
from onnxgrad.runtime.memory import Footprint, in_bytes
from onnxgrad.runtime.rows import Split, find_split
from onnxgrad.runtime.session import Session

#: Working memory of a part where there is a choice: near to the caches, and enough for several threads. Milliseconds of
#: Jacobians of 64-64-64-16 for 10,000 samples and of 64-256-256-32 for 1,024, with one thread in parts of 8 / 16 / 32 /
#: 128 MB: 39/39/47/51 and 38/38/39/41; with two threads 28/27/31/26 and 21/21/21/21. Where others use the memory, too,
#: small parts take half the time of large ones.
CACHE_BYTES = 16 * 2**20
#: What a part must be worth: each reads the weights anew, and starts each node anew, in the time in which so many
#: bytes are written.
WEIGHT_FACTOR, NODE_BYTES = 2, 32 * 2**10
#: More working memory than this is not faster, and what is not needed stays free.
PART_BYTES = 128 * 2**20

#: Cached portions are forgotten when there are so many, one for each combination of sizes.
_MOST_CACHED = 4096


#: How to split, the bounds of the parts, and the size of the whole.
Parts = tuple[Split, Sequence[tuple[int, int]], int]
#: Runs a model on what is fed.
Run = Callable[[Mapping[str, Any]], list[Any]]


class Plan:
    """How much of a model can be run at once.

    Args:
        op: the builder of the model, which is finished.
        inputs: its inputs.
        outputs: those of its outputs that are computed.
        max_bytes: bound of the results, and of the working memory of one run.
        seeds: how the run can be split along the seeds, if it has any.

    Attributes:
        rows: how it can be split along the samples, if it can.
        footprint: the memory of a run.
        draws: whether it draws random numbers. Then it is run once, or not at all: each part would draw its own.
    """

    def __init__(
        self,
        op: Builder,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        max_bytes: int,
        seeds: Split | None = None,
    ) -> None:
        self.draws = drawing_node(op.model.graph) is not None
        self.rows = None if self.draws else find_split(op, inputs, outputs)
        self.footprint = Footprint(op, inputs, outputs)
        self.seeds = None if self.draws else seeds
        self._max_bytes = max_bytes
        self._part_bytes = min(_part_bytes(op.model.graph), max_bytes)
        self._row_size = None if self.rows is None else self.rows.size
        self._cached: dict[tuple[int, ...], int] = {}

    def at_once(self, sizes: Mapping[str, int]) -> int:
        """Return how many rows can be run at once: 0 if not even one; where rows are not split, 1 for "all of them"."""
        row_size = self._row_size
        key = tuple([n for name, n in sizes.items() if name != row_size]) if len(sizes) > 1 or row_size is None else ()
        if row_size is None:
            key = tuple(sizes.values())
        found = self._cached.get(key)
        if found is None:
            if len(self._cached) >= _MOST_CACHED:
                self._cached.clear()
            found = self._cached[key] = self._at_once(sizes)
        return found

    def _at_once(self, sizes: Mapping[str, int]) -> int:
        if self._row_size is None:
            return int(self.footprint.working(sizes) <= self._max_bytes)
        preferred = self.portion(sizes, self._row_size, self._part_bytes)
        return preferred or min(self.portion(sizes, self._row_size, self._max_bytes), 1)

    def portion(self, sizes: Mapping[str, int], name: str, budget: int) -> int:
        """Return the largest value of one size with which a run stays within `budget`, or 0 if 1 does not."""

        def need(number: int) -> int:
            return self.footprint.working({**sizes, name: number})

        one = need(1)
        if one > budget:
            return 0
        each = (need(1025) - one) / 1024
        if each <= 0:
            return sys.maxsize
        found = 1 + int((budget - one) / each)
        while found > 1 and need(found) > budget:
            found = found * 3 // 4
        return found

    def check_results(self, sizes: Mapping[str, int], what: str) -> None:
        """Check that all results together stay within the bound.

        Raises:
            MemoryBoundError: if they do not.
        """
        size = self.footprint.results(sizes)
        if size > self._max_bytes:
            shapes = " and ".join(str(list(shape)) for shape in self.footprint.shapes(sizes))
            raise MemoryBoundError(
                f"{what} would take {in_bytes(size)} (of shape {shapes}), "
                f"and max_bytes is {in_bytes(self._max_bytes)}; "
                "feed fewer samples at a time, pass a larger max_bytes to onnxgrad.load, or, of a Jacobian, ask for "
                "products with it instead (vjp, jvp)"
            )


def _part_bytes(graph: ir.Graph) -> int:
    """Return the working memory of a part: little enough to stay in the cache, enough to be worth its start."""
    weights = sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)
    return min(max(CACHE_BYTES, WEIGHT_FACTOR * weights, NODE_BYTES * len(graph)), PART_BYTES)


def even_parts(total: int, most: int) -> list[tuple[int, int]]:
    """Return the bounds of the fewest parts of at most `most` each, nearly equal; of nothing, one empty part."""
    count = max(math.ceil(total / most), 1)
    bounds = [total * i // count for i in range(count + 1)]
    return list(itertools.pairwise(bounds))


def run_in_parts(
    session: Session, outputs: Sequence[str], feeds: Mapping[str, Any], splits: Sequence[Parts], buffers: BufferPool
) -> list[Any]:
    """Run a model in parts and return its results in one piece.

    Args:
        session: the model.
        outputs: names of the results.
        feeds: all that is fed.
        splits: what to split along.
        buffers: where the results are to lie.

    Raises:
        RunError: if a part does not run, or its results are not those of a part.
    """
    results: list[Any] = []
    for part in itertools.product(*(bounds for _, bounds, _ in splits)):
        portion = dict(feeds)
        for (split, _, _), (start, stop) in zip(splits, part, strict=True):
            for name, axis in split.inputs.items():
                portion[name] = portion[name][_at(axis, start, stop)]
        found = None
        if not results:  # the first part tells the shapes
            found = session.run(outputs, portion)
            shapes = [_whole(array, name, splits, part) for array, name in zip(found, outputs, strict=True)]
            results = [buffers.empty(shape, array.dtype) for shape, array in zip(shapes, found, strict=True)]
        places = [result[_place(name, splits, part)] for result, name in zip(results, outputs, strict=True)]
        if found is None and session.can_bind(portion.values(), places):
            session.run_into(outputs, portion, places)
            continue
        for place, array in zip(places, found or session.run(outputs, portion), strict=True):
            place[...] = array
    return results


def run_without_rows(run: Run, feeds: Mapping[str, Any], split: Split, outputs: Sequence[str]) -> list[Any]:
    """Run a model on no rows: on one of zeros, of which nothing is kept.

    Operators of onnxruntime fail on arrays without elements, and some end the process.
    """
    one = dict(feeds)
    for name, axis in split.inputs.items():
        shape = list(one[name].shape)
        shape[axis] = 1
        one[name] = np.full(shape, "", object) if one[name].dtype.kind == "O" else np.zeros(shape, one[name].dtype)
    axes = [split.outputs[name] for name in outputs]
    return [a if axis is None else a[_at(axis, 0, 0)] for a, axis in zip(run(one), axes, strict=True)]


def _at(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(start, stop))


def _place(name: str, splits: Sequence[Parts], part: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
    """Return where a part of a result lies in it."""
    axes = {split.outputs[name]: slice(*bounds) for (split, _, _), bounds in zip(splits, part, strict=True)}
    axes.pop(None, None)
    return (*(axes.get(axis, slice(None)) for axis in range(max(axes, default=-1) + 1)), ...)


def _whole(
    array: Any, name: str, splits: Sequence[Parts], part: Sequence[tuple[int, int]]
) -> list[int]:
    """Return the shape of a result of which `array` is one part."""
    shape = list(array.shape)
    for (split, _, total), (start, stop) in zip(splits, part, strict=True):
        axis = split.outputs[name]
        if axis is not None:
            if shape[axis] != stop - start:
                raise RunError(f"{name!r} has {shape[axis]} rows where {stop - start} were fed")
            shape[axis] = total
    return shape
