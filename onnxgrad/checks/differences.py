"""Differences of a function along a line, with an estimate of their own error.

A central difference with step h is wrong by what the function curves within the step, which shrinks with h, and by
rounding, which grows as 1/h. Neither is known beforehand. So the difference is taken with a ladder of steps: where
three neighbors agree, they agree to about their error. This also copes with functions of many pieces (networks of
Relu): between large steps, which cross many joints, and small ones, in which rounding is all, there is a range in which
neighbors agree. A difference of a lower order from the same values must agree, too, lest two be near each other by
chance, and the noise of the function is measured by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Vector = np.ndarray[Any, np.dtype[np.float64]]
#: A function on a line: ``f(t)`` gives all numbers that are looked at, as one vector.
Line = Callable[[float], Vector]

#: Ladders of steps by the digits that the function is computed in. In the smallest, t is far from lost in rounding.
_STEPS = {
    "float64": tuple(0.02 / 6**k for k in range(8)),
    "float32": tuple(0.16 / 2**k for k in range(9)),
}
EPS = {"float64": 2.0**-52, "float32": 2.0**-23}
#: Spacing at which noise is measured: so small that only noise is left of differences of higher order, and no smaller,
#: since what is rounded to float32 on the way must not stay the same.
_SPACING = {"float64": 3e-7, "float32": 2e-4}


@dataclass(frozen=True)
class Difference:
    """Derivatives of several numbers along a line, by differences.

    Attributes:
        value: the central differences.
        error: how far off they are, by their own estimate; inf where nothing was found.
    """

    value: Vector
    error: Vector


def central(line: Line, precision: str, goal: float = 1e-8) -> Difference:
    """Return the derivative of `line` at 0, by five-point central differences.

    Args:
        line: the function.
        precision: ``"float64"`` or ``"float32"``: what it is computed in.
        goal: relative error at which no smaller steps are tried.
    """
    noise = _noise(line, precision)
    rungs: list[Vector] = []
    own: list[
        Vector
    ] = []  # what each rung can tell of its error: rounding, and how far it is from a simpler difference
    best = error = np.zeros(0)
    for h in _STEPS[precision]:
        left, right = (line(-2 * h), line(-h)), (line(h), line(2 * h))
        with np.errstate(all="ignore"):
            rungs.append((left[0] - right[1] + 8 * (right[0] - left[1])) / (12 * h))
            size = np.maximum.reduce(list(map(np.abs, (*left, *right))))
            rounding = np.maximum(2 * EPS[precision] * size, noise) / h
            own.append(np.maximum(rounding, np.abs(rungs[-1] - (right[0] - left[1]) / (2 * h))))
            if len(rungs) == 1:
                best, error = rungs[0], np.full(rungs[0].shape, np.inf)
            if len(rungs) < 3:
                continue
            before, middle, behind = rungs[-3:]
            found = np.maximum.reduce([np.abs(middle - before), np.abs(behind - middle), own[-2]])
        found = np.where(np.isfinite(found), found, np.inf)
        best, error = np.where(found < error, middle, best), np.minimum(found, error)
        sizes = np.abs(np.where(np.isfinite(best), best, 0))
        if np.all(error <= goal * (sizes + 1e-3 * np.max(sizes, initial=0))):
            break
    return Difference(best, error)


def _noise(line: Line, precision: str) -> Vector:
    """Return how much each number jitters, from its fourth differences at a tiny spacing.

    The fourth difference of independent noise has 70 times its variance (Moré & Wild, *Estimating computational noise*,
    2011).
    """
    values = np.array([line(i * _SPACING[precision]) for i in range(-3, 4)])
    with np.errstate(all="ignore"):
        fourth = np.diff(values, n=4, axis=0)
        noise = np.sqrt(np.mean(fourth**2, axis=0) / 70)
    return np.where(np.isfinite(noise), noise, 0.0)


@dataclass(frozen=True)
class Sides:
    """How a number changes on either side of a point.

    Attributes:
        behind, ahead: derivative from the left and from the right.
        error: how far off they are, by their own estimate.
        jump: whether they grow without bound as the step shrinks, as at a jump or where the slope is infinite.
    """

    behind: float
    ahead: float
    error: float
    jump: bool

    def differ(self) -> bool:
        """Whether the derivative is not the same on both sides, or is none at all."""
        scale = max(abs(self.behind), abs(self.ahead))
        return self.jump or abs(self.ahead - self.behind) > max(10 * self.error, 1e-3 * scale)

    def admit(self, derivative: float) -> bool:
        """Whether `derivative` is one that may be chosen at such a point: between both sides, with them included."""
        if self.jump:
            return True
        room = max(10 * self.error, 1e-3 * max(abs(self.behind), abs(self.ahead)))
        return min(self.behind, self.ahead) - room <= derivative <= max(self.behind, self.ahead) + room


def one_sided(line: Line, precision: str) -> list[Sides]:
    """Return for each number of `line` how it changes on either side of 0."""
    middle = line(0.0)
    steps = _STEPS[precision]
    noise = 1000 * EPS[precision] * np.abs(middle)
    ladders: list[list[Vector]] = [[], []]
    for h in steps:
        for ladder, sign in zip(ladders, (-1, 1), strict=True):
            with np.errstate(all="ignore"):
                one, two = line(sign * h), line(2 * sign * h)
                ladder.append(sign * (4 * one - two - 3 * middle) / (2 * h))
    return [
        _sides([float(v[i]) for v in ladders[0]], [float(v[i]) for v in ladders[1]], steps, float(noise[i]))
        for i in range(len(middle))
    ]


def _sides(left: list[float], right: list[float], steps: tuple[float, ...], noise: float) -> Sides:
    behind, off_behind = _settled(left)
    ahead, off_ahead = _settled(right)
    jump = any(_grows(ladder, steps, noise) for ladder in (left, right))
    return Sides(behind, ahead, max(off_behind, off_ahead), jump)


def _settled(ladder: list[float]) -> tuple[float, float]:
    """Return the rung of a ladder that agrees best with both of its neighbors, and how well."""
    found = [
        (max(abs(b - a), abs(c - b)), b)
        for a, b, c in zip(ladder, ladder[1:], ladder[2:], strict=False)
        if np.isfinite([a, b, c]).all()
    ]
    error, value = min(found, default=(np.inf, np.nan))
    return value, error


def _grows(ladder: list[float], steps: tuple[float, ...], noise: float) -> bool:
    """Whether differences keep growing as the step shrinks, and by more than rounding can explain."""
    half = len(steps) // 2
    tail = [abs(v) for v in ladder[half:]]
    if not np.isfinite(tail).all():
        return True
    rungs = list(zip(tail, steps[half:], strict=True))
    return all(b > a * (s / t) ** 0.3 and b * t > noise for (a, s), (b, t) in itertools.pairwise(rungs))
