"""The process of one system for one task: it prepares, chooses the fastest way, and measures when it is told to.

Its parent sends commands, and gets an answer to each:

    prepare          what failed, by way
    choose           the name of the fastest way
    result           the result, as arrays of numpy by name
    measure SECONDS  seconds per call, one number for each block of calls
"""

from __future__ import annotations

import gc
import os
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.systems.registry import SYSTEMS, Unsupported, Way
from benchmarks.tasks import TASKS

#: Calls are timed in blocks of at least this many seconds, against the clock's own cost.
_BLOCK = 0.004
#: Seconds of preparing after which no more ways are tried, if there is one.
_PATIENCE = 40.0
#: Seconds that each way is tried before one is chosen.
_TRIAL = 0.1


def serve(connection: Connection, task_name: str, system_name: str, threads: int, log: str) -> None:
    """Answer commands until the parent hangs up. What libraries print goes to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    warnings.simplefilter("ignore")
    worker = Worker(task_name, system_name, threads)
    while True:
        try:
            command, *args = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, getattr(worker, command)(*args)))
        except Exception as error:  # whatever a system raises is its result
            print(f"{task_name}, {system_name}: {traceback.format_exc()}", flush=True)
            connection.send((False, (describe(error), isinstance(error, Unsupported))))


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 160 else f"{words[:157]}..."


class Worker:
    """Does what the commands say."""

    def __init__(self, task_name: str, system_name: str, threads: int) -> None:
        self._task = next(task for task in TASKS if task.name == task_name)
        self._system = SYSTEMS[system_name]
        self._threads = threads
        self._ways: dict[str, Way] = {}
        self._way: Way = dict
        self._calls = 1

    def prepare(self) -> dict[str, str]:
        """Make all ways and run each once, which compiles what is to be compiled; return what failed, by way."""
        failed = {}
        start = time.monotonic()
        for name, way in self._system.ways()(self._task, self._threads).items():
            if self._ways and time.monotonic() - start > _PATIENCE:
                failed[name] = "not tried, others took long enough"
                continue
            try:
                way()
                self._ways[name] = way
            except Exception as error:  # see above
                print(f"{self._task.name}, {self._system.name}, {name}: {traceback.format_exc()}", flush=True)
                failed[name] = describe(error)
        if not self._ways:
            raise RuntimeError("; ".join(f"{name}: {why}" for name, why in failed.items()))
        return failed

    def choose(self) -> str:
        """Take the fastest way."""
        seconds = {name: fastest(way, _TRIAL) for name, way in self._ways.items()}
        chosen = min(seconds, key=lambda name: seconds[name])
        self._way = self._ways[chosen]
        self._calls = max(round(_BLOCK / seconds[chosen]), 1)
        self._ways = {chosen: self._way}
        return chosen

    def result(self) -> dict[str, np.ndarray]:
        """Run once."""
        return as_arrays(self._way())

    def measure(self, seconds: float) -> list[float]:
        """Run for some time, after a call that is not counted, since others ran before."""
        run, calls, found = self._way, self._calls, []
        run()
        gc.collect()
        gc.disable()
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(calls):
                run()
            found.append((time.perf_counter() - start) / calls)
        gc.enable()
        return found


def fastest(run: Way, seconds: float) -> float:
    """Return the shortest time of a call, among those that some seconds allow."""
    end, best = time.perf_counter() + seconds, np.inf
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return float(best)


def as_arrays(result: Any) -> dict[str, np.ndarray]:
    """Return what a way gave as arrays by name, or by position."""
    if isinstance(result, (tuple, list)):
        result = dict(enumerate(result))
    if not isinstance(result, dict):
        return {"": np.asarray(result)}
    parts = {str(key): as_arrays(value) for key, value in result.items()}
    return {" ".join(filter(None, (key, name))): a for key, part in parts.items() for name, a in part.items()}
