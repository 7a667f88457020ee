"""Derivatives straight through roundings for the tests, by differences in float64.

At a point, every rounding is replaced by the shift that it makes there, and every saturated number by its bound. The
function that comes out is smooth, has the values of the quantized one at that point, and its derivatives are those that
`straight_through` promises.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
#: A quantized function in float64: ``f(quantize, *inputs)``.
Function = Callable[..., Array]

RANGES = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int4": (-8, 7),
    "uint4": (0, 15),
}


class Roundings:
    """The roundings of a function, in the order in which it comes to them; the first evaluation fixes them."""

    def __init__(self) -> None:
        self._fixed: list[tuple[Array, Array, Array]] = []
        self._next: int | None = None

    def __call__(self, v: Array, zero: Array | float = 0, low: float = -np.inf, high: float = np.inf) -> Array:
        """``clip(round(v) + zero, low, high)``."""
        if self._next is None:
            whole = np.rint(v) + zero
            saturated = (whole < low) | (whole > high)
            self._fixed.append((np.rint(v) - v, saturated, np.clip(whole, low, high)))
            return self._fixed[-1][2]
        shift, saturated, bound = self._fixed[self._next]
        self._next += 1
        return np.where(saturated, bound, v + shift + zero)

    def again(self) -> None:
        self._next = 0


def smooth(f: Function, point: list[Array]) -> Callable[..., Array]:
    """Return the smooth function that stands for f at a point."""
    roundings = Roundings()
    f(roundings, *point)

    def fixed(*inputs: Array) -> Array:
        roundings.again()
        return f(roundings, *inputs)

    return fixed


def gradients(g: Callable[..., Array], point: list[Array], ct: Array, step: float = 1e-5) -> list[Array]:
    """Return the gradients of ``⟨ct, g⟩`` by each input, by central differences of fourth order."""
    result = []
    for i, x in enumerate(point):
        gradient = np.zeros(x.shape)
        for place in np.ndindex(x.shape):
            values = []
            h = step * max(1.0, abs(float(x[place])))
            for k in (1, -1, 2, -2):
                moved = np.array(x)
                moved[place] += k * h
                values.append((ct * g(*point[:i], moved, *point[i + 1 :])).sum())
            gradient[place] = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * h)
        result.append(gradient)
    return result
