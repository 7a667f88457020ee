"""Functions run in a fresh process."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")

_STATUS = Path("/proc/self/status")


def in_process(function: Callable[..., Result], *args: Any) -> Result:
    """Return ``function(*args)`` from a process that does nothing else.

    Raises:
        RuntimeError: if the process ended, as onnxruntime's may.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise RuntimeError("the process ended") from error


def peak_memory() -> int:
    """Return the largest number of bytes that this process ever had in memory."""
    if _STATUS.exists():  # what getrusage says on Linux includes the memory of the parent at the time of the fork
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
