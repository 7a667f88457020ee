"""Measuring a task: a process for each system, results compared, then turns of all systems, again and again."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.folders import BUILD
from benchmarks.systems.registry import SYSTEMS, System
from benchmarks.tasks import Task
from benchmarks.verdict import judge
from benchmarks.worker import serve

#: Seconds that a system may take to make itself ready; torch.compile takes a minute and more for large networks.
_READY = 180.0
#: How often each system gets a turn.
ROUNDS = 5
#: Seconds of measuring after which a system gets no more turns, if it had some.
_ENOUGH = 3.0
_FEWEST = 3
#: Seconds between two turns: threads that wait for work in a busy loop go to sleep.
_PAUSE = 0.01

_CONTEXT = multiprocessing.get_context("spawn")


@dataclass
class Timing:
    """What came of one system in one task.

    Attributes:
        system: its name.
        way: how it did the task.
        status: "timed", "wrong" (its result is not that of the others), "failed", or "left out".
        note: why it was not timed, or which of its ways failed.
        difference: of its result from the one that most agree with, relative.
        times: seconds per call, in the order in which they were measured.
    """

    system: str
    way: str = ""
    status: str = "timed"
    note: str = ""
    difference: float | None = None
    times: list[float] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        """Whether there are times."""
        return self.status == "timed"

    @property
    def median(self) -> float:
        """Median of the times."""
        return float(np.median(self.times)) if self.times else float("nan")

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the times."""
        low, high = np.quantile(self.times, [0.25, 0.75]) if self.times else (np.nan, np.nan)
        return float(low), float(high)


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure.

    Attributes:
        threads: threads of each system.
        rounds: how often each system gets a turn.
        seconds: length of a turn; at least one block of calls is timed.
    """

    threads: int
    rounds: int = ROUNDS
    seconds: float = 0.1


class Process:
    """The process of one system for one task."""

    def __init__(self, task: str, system: str, threads: int) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        log = str(BUILD / "log.txt")
        self._process = _CONTEXT.Process(target=serve, args=(theirs, task, system, threads, log), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, command: str, *args: Any) -> None:
        """Send a command."""
        self._connection.send((command, *args))

    def answer(self, limit: float | None = None) -> Any:
        """Return the answer to the last command.

        Raises:
            Failed: if there is none in time, the process died, or the system failed.
        """
        try:
            if not self._connection.poll(limit):
                raise Failed(f"not ready after {limit:.0f} s")
            fine, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise Failed(f"the process ended (exit code {self._process.exitcode})") from None
        if not fine:
            raise Failed(*answer)
        return answer

    def ask(self, command: str, *args: Any) -> Any:
        """Send a command and return the answer."""
        self.tell(command, *args)
        return self.answer()

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(0.5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Failed(Exception):  # noqa: N818 - a result, of another system
    """A system did not do what it was told: the reason, and whether it declined."""

    def __init__(self, reason: str, declined: bool = False) -> None:
        super().__init__(reason)
        self.declined = declined


def use_threads(threads: int) -> None:
    """Let this process and those that it starts run on so many cores, with so many threads.

    Some systems take their number of threads from the environment, some from the cores that they may run on.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(BUILD / "inductor"))


def measure(task: Task, systems: Sequence[System], effort: Effort) -> list[Timing]:
    """Return what came of each system."""
    BUILD.mkdir(parents=True, exist_ok=True)
    timings = {system.name: Timing(system.name) for system in systems}
    processes: dict[str, Process] = {}
    try:
        _prepare(task, timings, processes, effort.threads)
        results = {}
        for name, process in processes.items():
            with _noted(timings[name]):
                timings[name].way = process.ask("choose")
                if SYSTEMS[name].compared:
                    results[name] = process.ask("result")
        _judge(results, timings, task.tolerance)
        results.clear()
        for _ in range(effort.rounds):
            for name, process in processes.items():
                _turn(process, timings[name], effort.seconds)
    finally:
        for process in processes.values():
            process.stop()
    return list(timings.values())


def _prepare(task: Task, timings: Mapping[str, Timing], processes: dict[str, Process], at_once: int) -> None:
    """Start the processes, some at once, and keep those that get ready."""
    names = list(timings)
    for start in range(0, len(names), at_once):
        for name in names[start : start + at_once]:
            processes[name] = Process(task.name, name, at_once)
            processes[name].tell("prepare")
        for name in names[start : start + at_once]:
            with _noted(timings[name]):
                failed = processes[name].answer(_READY)
                timings[name].note = "; ".join(f"{way}: {why}" for way, why in failed.items())
            if timings[name].status != "timed":
                processes.pop(name).stop()


def _judge(results: Mapping[str, dict[str, np.ndarray]], timings: Mapping[str, Timing], tolerance: float) -> None:
    for name, verdict in judge(results, tolerance).items():
        timings[name].difference = verdict.difference
        if not verdict.right:
            timings[name].status, timings[name].note = "wrong", verdict.reason


def _turn(process: Process, timing: Timing, seconds: float) -> None:
    spent = sum(timing.times)
    if timing.status != "timed" or (spent > _ENOUGH and len(timing.times) >= _FEWEST):
        return
    with _noted(timing):
        timing.times += process.ask("measure", seconds)
    time.sleep(_PAUSE)


@contextmanager
def _noted(timing: Timing) -> Iterator[None]:
    """Write down a failure where it belongs."""
    try:
        yield
    except Failed as failure:
        timing.status = "left out" if failure.declined else "failed"
        timing.note = str(failure)
