"""Memory for results that is used again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class BufferPool:
    """Gives arrays for results, in memory that earlier results left when nobody held them any more.

    The system hands out large memory in pages that it clears one by one at the first touch: for 33 MB 8 ms, in which
    the results themselves are written five times. Of each size that the last results had, one buffer stays in the pool.
    """

    def __init__(self) -> None:
        self._free: dict[int, Array] = {}

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return an array whose elements are not set, as `numpy.empty` does."""
        if dtype.hasobject:  # texts are not in the array
            return np.empty(shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        memory = self._free.pop(size, None)
        if memory is None:
            self._free.clear()  # results have other sizes now
            memory = np.empty(size, np.uint8)
        return np.asarray(_Lent(memory, self._free)).view(dtype).reshape(shape)


class _Lent:
    """A buffer that goes back to its pool with the last array that lies in it, which keeps this object alive."""

    def __init__(self, memory: Array, free: dict[int, Array]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._free = memory, free

    def __del__(self) -> None:
        self._free[self._memory.nbytes] = self._memory
