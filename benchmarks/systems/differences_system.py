"""Central differences through onnxruntime: what is left without derivatives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.export import model_of
from benchmarks.systems.registry import Unsupported, Way
from benchmarks.systems.sessions import Session
from benchmarks.tasks import INDEX, Task

Array = np.ndarray[Any, Any]

#: Step for inputs of size 1: rounding errors, eps / h, and what is cut off, h², are about the same at eps^(1/3).
STEP = np.float32(2 ** (-23 / 3))
#: Bytes of input for one run, where the model takes any number of samples.
_AT_ONCE = 4 * 2**20
#: Seconds above which nobody would wait for one derivative.
_PATIENCE = 20.0

#: What is not tried, and why.
_NOT = {
    "weights": "two forward runs for each weight",
    "hessian": "differences of differences have no digits left in float32",
    "hvp": "differences of differences have no digits left in float32",
}


def ways(task: Task, threads: int) -> dict[str, Way]:
    """Return the only way: many displaced samples in one run if the model takes them, else one run for each."""
    session = Session(model_of(task), threads)
    x, (x_name,) = task.network.input(task.batch), session.inputs
    if task.asked not in ("jacobian", "gradient", "vjp"):
        raise Unsupported(_NOT[task.asked])

    def run(x: Array) -> Array:
        return session.run(None, {x_name: x})[0]

    run(x)
    start = time.perf_counter()
    run(x)
    count = math.prod(task.network.sample)
    expected = 2 * count * (time.perf_counter() - start)
    if expected > _PATIENCE and count > 10_000:
        raise Unsupported(f"{2 * count:,} forward runs, about {expected:.0f} s")

    at_once = max(_AT_ONCE // x.nbytes, 1)
    match task.asked:
        case "jacobian":
            return {"central": lambda: jacobian(run, x, at_once)}
        case "gradient":
            return {
                "central": lambda: (
                    run(x),
                    jacobian(run, x, at_once).reshape(task.batch, -1, count)[:, INDEX].reshape(x.shape),
                )
            }
        case _:
            ct = task.network.cotangent(task.batch).reshape(task.batch, 1, -1)
            return {"central": lambda: (ct @ jacobian(run, x, at_once).reshape(task.batch, -1, count)).reshape(x.shape)}


def jacobian(run: Callable[[Array], Array], x: Array, at_once: int) -> Array:
    """Return ``(f(x + h) - f(x - h)) / 2h`` for each element of each sample: ``(N, *y, *x)``.

    Args:
        run: the model.
        x: the samples.
        at_once: how many elements are displaced in one run.
    """
    n, count = len(x), x[0].size
    flat = x.reshape(n, count)
    columns: list[Array] = []
    for start in range(0, count, at_once):
        some = np.arange(start, min(start + at_once, count))
        moved = np.broadcast_to(flat, (2, len(some), n, count)).copy()
        moved[0, some - start, :, some] += STEP
        moved[1, some - start, :, some] -= STEP
        up, down = moved.reshape(2, -1, *x.shape[1:])
        y = run(up) - run(down)
        columns.append(y.reshape(len(some), n, *y.shape[1:]) / (2 * STEP))
    found = np.concatenate(columns)
    return np.moveaxis(found, 0, -1).reshape(*found.shape[1:], *x.shape[1:])
