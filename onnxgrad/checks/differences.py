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
    "float64": tuple(0.02 / 6**k for k in range(10)),
    "float32": tuple(0.16 / 2**k for k in range(9)),
}
#: A short ladder, where values are dear: less exact for smooth functions, and as good for those of many pieces.
_FEW_STEPS = {"float64": tuple(3e-6 / 6**k for k in range(5)), "float32": _STEPS["float32"]}
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
        step: the step of each.
    """

    value: Vector
    error: Vector
    step: Vector

    def doubted(self, line: Line, precision: str) -> Difference:
        """Return it with the noise of `line` in its error, for when something disagrees; it takes more values."""
        jitter = _jitter(line, precision)
        with np.errstate(all="ignore"):
            error = np.where(jitter > 0.01 * np.abs(line(0.0)), np.inf, np.maximum(self.error, jitter / self.step))
        return Difference(self.value, error, self.step)


def central(line: Line, precision: str, dear: bool = False) -> Difference:
    """Return the derivative of `line` at 0, by five-point central differences.

    Args:
        line: the function.
        precision: ``"float64"`` or ``"float32"``: what it is computed in.
        dear: whether it takes its time, so that fewer values have to do.
    """
    rungs: list[Vector] = []
    own: list[
        Vector
    ] = []  # what a rung tells of its error by itself: rounding, and the distance of a simpler difference
    best = error = step = np.zeros(0)
    steps, goal, share = (_FEW_STEPS[precision], 1e-4, 0.9) if dear else (_STEPS[precision], 1e-8, 1.0)
    for k, h in enumerate(steps):
        left, right = (line(-2 * h), line(-h)), (line(h), line(2 * h))
        with np.errstate(all="ignore"):
            rungs.append((left[0] - right[1] + 8 * (right[0] - left[1])) / (12 * h))
            rounding = 2 * EPS[precision] / h * np.maximum.reduce(list(map(np.abs, (*left, *right))))
            own.append(np.maximum(rounding, np.abs(rungs[-1] - (right[0] - left[1]) / (2 * h))))
            if k == 0:
                best, error, step = rungs[0], np.full(rungs[0].shape, np.inf), np.full(rungs[0].shape, h)
            if k < 2:
                continue
            before, middle, behind = rungs[-3:]
            found = np.maximum.reduce([np.abs(middle - before), np.abs(behind - middle), own[-2]])
        found = np.where(np.isfinite(found), found, np.inf)
        best, step = np.where(found < error, middle, best), np.where(found < error, steps[k - 1], step)
        error = np.minimum(found, error)
        sizes = np.abs(np.where(np.isfinite(best), best, 0))
        done = error <= goal * (sizes + 1e-3 * np.max(sizes, initial=0))
        if done[:1].all() and np.mean(done) >= share:  # the first number counts most
            break
    return Difference(best, error, step)


def _jitter(line: Line, precision: str) -> Vector:
    """Return how much each number jitters, from fourth differences at a tiny spacing.

    The fourth difference of independent noise has 70 times its variance (Moré & Wild, *Estimating computational noise*,
    2011). What is several times as large at a larger spacing is no noise but a joint nearby.
    """

    def at(spacing: float) -> Vector:
        values = np.array([line(i * spacing) for i in range(-3, 4)])
        with np.errstate(all="ignore"):
            return np.asarray(np.sqrt(np.mean(np.diff(values, n=4, axis=0) ** 2, axis=0) / 70))

    near, far = at(_SPACING[precision]), at(10 * _SPACING[precision])
    return np.where(np.isfinite(near) & (far < 4 * near), near, 0.0)


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
