"""Work that is done side by side, by threads that stay for the next time."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def cores() -> int:
    """Return the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Windows, macOS
        return os.cpu_count() or 1


def side_by_side(work: Callable[[Item], None], items: Iterable[Item], workers: int) -> None:
    """Do the work for each item: the calling thread, and others, up to `workers` at a time.

    If it fails for one, what has not begun is left, and its error is raised.
    """
    left = deque(items)

    def share() -> None:
        while left:
            try:
                item = left.popleft()
            except IndexError:  # another was faster
                return
            try:
                work(item)
            except BaseException:
                left.clear()
                raise

    shares: list[Future[None]] = []
    helpers = min(workers, len(left)) - 1
    with contextlib.suppress(RuntimeError):  # at the very end of a process there are no new threads
        shares.extend(_pool(workers - 1).submit(share) for _ in range(helpers))
    try:
        share()
    finally:
        begun = [s for s in shares if not s.cancel()]
        errors = [error for s in begun if (error := s.exception()) is not None]
    if errors:
        raise errors[0]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="onnxgrad")


if hasattr(os, "register_at_fork"):  # the threads of a process are not in its copy
    os.register_at_fork(after_in_child=_pool.cache_clear)
