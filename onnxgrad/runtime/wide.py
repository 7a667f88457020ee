"""Jacobians too wide to be computed at once: some rows or columns at a time, as products with unit vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgrad.model.metadata import Derivative
from onnxgrad.runtime.chunks import even_parts
from onnxgrad.runtime.memory import numbers
from onnxgrad.runtime.request import SEEDS, Request

if TYPE_CHECKING:
    from onnxgrad.runtime.program import Program

Array = np.ndarray[Any, Any]


def jacobians_by_seeds(program: Program, feeds: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Array]:
    """Return the Jacobians of a program, in order.

    Each is filled, through `vjp` or `jvp`, with as many rows or columns at a time as the bound of memory allows, and
    if one of them is too much for all samples, with some samples at a time.

    Args:
        program: the program, of kind "jacobian".
        feeds: what is fed.
        sizes: the symbolic sizes in numbers.

    Raises:
        MemoryBoundError: if a single row or column, of a single sample where samples stay apart, exceeds the bound.
    """
    return [_jacobian(program, record, feeds, sizes) for record in program.records]


def _jacobian(program: Program, record: Derivative, feeds: Mapping[str, Any], sizes: Mapping[str, int]) -> Array:
    y, x = record.of, str(record.wrt)
    y_shape, x_shape = (numbers(program.types[name][1], sizes) for name in (y, x))
    if y_shape is None or x_shape is None:
        raise program.too_large(sizes)
    lead = 1 if record.batched else 0
    samples = y_shape[0] if record.batched else 1
    y_count, x_count = math.prod(y_shape[lead:]), math.prod(x_shape[lead:])
    forward = record.mode == "forward" or (record.mode != "reverse" and x_count < y_count)
    straight = program.request.straight_through
    products = program.other(Request("jvp" if forward else "vjp", (y,), (x,), seeds=True, straight_through=straight))
    count, inner = (x_count, x_shape[lead:]) if forward else (y_count, y_shape[lead:])

    split = products.plan.rows if record.batched else None
    least = {**sizes, SEEDS: 1}
    if split is not None:
        least[split.size] = 1
    seeds_at_once = min(products.plan.portion(least, SEEDS, program.max_bytes), count)
    if seeds_at_once == 0:
        raise products.too_large(least)
    samples_at_once = samples
    if split is not None:
        samples_at_once = products.plan.portion({**sizes, SEEDS: seeds_at_once}, split.size, program.max_bytes)

    dtype = program.types[record.output][0]
    result = np.empty((samples, y_count, x_count), dtype)
    for (row, next_row), (seed, next_seed) in itertools.product(
        even_parts(samples, samples_at_once), even_parts(count, seeds_at_once)
    ):
        rows, seeds = next_row - row, next_seed - seed
        unit = np.zeros((seeds, rows, count), products.seed_dtype)
        unit[np.arange(seeds), :, np.arange(seed, next_seed)] = 1
        portion = dict(feeds)
        if split is not None:
            for name, axis in split.inputs.items():
                if name in portion:
                    portion[name] = portion[name][(*(slice(None),) * axis, slice(row, next_row))]
        portion[products.seed_inputs[x if forward else y]] = unit.reshape(seeds, *(rows,) * lead, *inner)
        (part,) = products.run_at_once(portion)
        part = part.reshape(seeds, rows, y_count if forward else x_count)
        if forward:
            result[row:next_row, :, seed:next_seed] = part.transpose(1, 2, 0)
        else:
            result[row:next_row, seed:next_seed] = part.transpose(1, 0, 2)
    return result.reshape(*y_shape, *x_shape[lead:])
