"""Runs in parts: which sizes a run can be split along, how large a part may be, and putting the parts together."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import MemoryBoundError, RunError
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.random import drawing_node
from onnxgrad.runtime.buffers import BufferPool
from onnxgrad.runtime.memory import Footprint, in_bytes
from onnxgrad.runtime.parallel import side_by_side
from onnxgrad.runtime.rows import Split, find_split
from onnxgrad.runtime.session import Sessions

#: Working memory of what is run at once by all threads where there is a choice, and of a part that one thread runs
#: beside others: what is near to the caches. Milliseconds of Jacobians of 10-64-64-4 and 64-64-64-16 for 10,000 samples
#: and of 64-256-256-32 for 1,024, with two threads: 4.2, 19.9 and 19.9 in parts of 16 MB by both threads; 3.2, 17.1 and
#: 17.5 in parts of 2 MB side by side. With less than 8 MB in all, what it takes to start them is more.
WHOLE_BYTES, PART_BYTES = 8 * 2**20, 2 * 2**20
#: What a part must be worth: each reads the weights anew, and starts each node anew, in the time in which so many
#: bytes are written.
WEIGHT_FACTOR, NODE_BYTES = 2, 32 * 2**10
#: More working memory than this is not faster, and what is not needed stays free.
MOST_BYTES = 128 * 2**20

#: Cached portions are forgotten when there are so many, one for each combination of sizes.
_MOST_CACHED = 4096


Array = np.ndarray[Any, Any]
#: How to split, the bounds of the parts, and the size of the whole.
Parts = tuple[Split, Sequence[tuple[int, int]], int]
#: Runs a model on what is fed.
Run = Callable[[Mapping[str, Any]], list[Any]]


class Portion(NamedTuple):
    """How many rows are run together.

    Attributes:
        whole: the most that are run at once by all threads; 0 if not even one can be.
        part: the most in one part of more than that.
        workers: how many parts are run side by side, by one thread each; 1: one after another, by all threads.
    """

    whole: int
    part: int
    workers: int


class Plan:
    """How much of a model can be run at once.

    Args:
        op: the builder of the model, which is finished.
        inputs: its inputs.
        outputs: those of its outputs that are computed.
        max_bytes: bound of the results, and of the working memory of what is run at a time.
        workers: how many threads could run parts side by side; None: the sessions do not leave that to us.
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
        workers: int | None,
        seeds: Split | None = None,
    ) -> None:
        self.draws = drawing_node(op.model.graph) is not None
        self.rows = None if self.draws else find_split(op, inputs, outputs)
        self.footprint = Footprint(op, inputs, outputs)
        self.seeds = None if self.draws else seeds
        self._max_bytes = max_bytes
        self._workers = workers
        self._worth = _worth(op.model.graph)
        self._row_size = None if self.rows is None else self.rows.size
        self._cached: dict[tuple[int, ...], Portion] = {}

    def at_once(self, sizes: Mapping[str, int]) -> Portion:
        """Return how many rows are run together; where rows are not split, 1 stands for all of them."""
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

    def _at_once(self, sizes: Mapping[str, int]) -> Portion:
        name = self._row_size
        if name is None:
            fits = int(self.footprint.working(sizes) <= self._max_bytes)
            return Portion(fits, fits, 1)

        def rows(preferred: int, times: int) -> int:
            budget = min(max(preferred, self._worth), MOST_BYTES, self._max_bytes // times)
            return self.portion(sizes, name, budget)

        workers = self._workers or 1
        whole = rows(MOST_BYTES if self._workers is None else WHOLE_BYTES if workers > 1 else PART_BYTES, 1)
        whole = whole or min(self.portion(sizes, name, self._max_bytes), 1)
        part = rows(PART_BYTES, workers) if workers > 1 else 0
        return Portion(whole, part, workers) if part else Portion(whole, whole, 1)

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


def _worth(graph: ir.Graph) -> int:
    """Return the least working memory that is worth the start of a part."""
    weights = sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)
    return max(WEIGHT_FACTOR * weights, NODE_BYTES * len(graph))


def even_parts(total: int, most: int, workers: int = 1) -> list[tuple[int, int]]:
    """Return the bounds of the fewest parts of at most `most` each, nearly equal, that keep all workers busy; of
    nothing, one empty part.
    """
    count = max(math.ceil(total / most), 1)
    count = min(math.ceil(count / workers) * workers, max(total, 1))
    bounds = [total * i // count for i in range(count + 1)]
    return list(itertools.pairwise(bounds))


def run_in_parts(
    sessions: Sessions,
    outputs: Sequence[str],
    feeds: Mapping[str, Any],
    splits: Sequence[Parts],
    known: Sequence[tuple[Sequence[int], np.dtype[Any]]] | None,
    buffers: BufferPool,
    workers: int = 1,
) -> list[Any]:
    """Run a model in parts and return its results in one piece.

    Args:
        sessions: the model.
        outputs: names of the results.
        feeds: all that is fed.
        splits: what to split along.
        known: shape and type of each result; None: the first part tells what they are.
        buffers: where the results are to lie.
        workers: how many parts to run side by side, by one thread each.

    Raises:
        RunError: if a part does not run, or its results are not those of a part.
    """
    session = sessions.get("alone" if workers > 1 else "as set")
    parts = list(itertools.product(*(bounds for _, bounds, _ in splits)))
    first: list[Any] = []
    if known is None:
        first = session.run(outputs, _fed(feeds, splits, parts[0]))
        known = [(_whole(a, name, splits, parts[0]), a.dtype) for a, name in zip(first, outputs, strict=True)]
    results = [buffers.empty(shape, dtype) for shape, dtype in known]
    if first:
        _put(first, results, outputs, splits, parts.pop(0))

    def run(part: Sequence[tuple[int, int]]) -> None:
        fed = _fed(feeds, splits, part)
        places = [result[_place(name, splits, part)] for result, name in zip(results, outputs, strict=True)]
        if session.can_bind(fed.values(), places):
            session.run_into(outputs, fed, places)
        else:
            _put(session.run(outputs, fed), results, outputs, splits, part)

    side_by_side(run, parts, workers)
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


def _fed(feeds: Mapping[str, Any], splits: Sequence[Parts], part: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return what is fed to a part."""
    fed = dict(feeds)
    for (split, _, _), (start, stop) in zip(splits, part, strict=True):
        for name, axis in split.inputs.items():
            fed[name] = fed[name][_at(axis, start, stop)]
    return fed


def _put(
    found: Sequence[Any],
    results: Sequence[Array],
    outputs: Sequence[str],
    splits: Sequence[Parts],
    part: Sequence[tuple[int, int]],
) -> None:
    """Put what a part gave where it belongs."""
    for array, result, name in zip(found, results, outputs, strict=True):
        place = result[_place(name, splits, part)]
        if array.shape != place.shape:
            raise RunError(f"{name!r} has shape {list(array.shape)} in a part where {list(place.shape)} was expected")
        place[...] = array


def _place(name: str, splits: Sequence[Parts], part: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
    """Return where a part of a result lies in it."""
    split = [(s.outputs[name], slice(*bounds)) for (s, _, _), bounds in zip(splits, part, strict=True)]
    axes = {axis: where for axis, where in split if axis is not None}
    return (*(axes.get(axis, slice(None)) for axis in range(max(axes, default=-1) + 1)), ...)


def _whole(array: Any, name: str, splits: Sequence[Parts], part: Sequence[tuple[int, int]]) -> list[int]:
    """Return the shape of a result of which `array` is one part."""
    shape = list(array.shape)
    for (split, _, total), (start, stop) in zip(splits, part, strict=True):
        axis = split.outputs[name]
        if axis is not None and shape[axis] == stop - start:
            shape[axis] = total
    return shape
