"""Arithmetic on columns of numbers of which some are missing.

A column is a tensor of shape (N, 1), one number for each sample, and a missing number is NaN. Where a number is
replaced by another one, the result does not depend on it, so its derivative is zero there. Where a number *becomes*
missing, it is multiplied by NaN, so that its derivative is NaN like its value, and not zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.tensor import Tensor

#: Name of the size of the axis of samples.
SAMPLES = "N"


@dataclass(frozen=True)
class Arithmetic:
    """What columns are computed with.

    Attributes:
        op: the builder of the model.
        dtype: float64 or float32.
    """

    op: Builder
    dtype: ir.DataType

    # --- constants ---------------------------------------------------------------------------------

    def constant(self, value: Any) -> Tensor:
        """Return a number, or an array of numbers, of the model's type."""
        return self.op.constant(value, self.dtype)

    @property
    def missing(self) -> Tensor:
        """A missing number."""
        return self.constant(math.nan)

    def column(self, x: Tensor) -> Tensor:
        """Return a column, also of a constant."""
        return x if x.rank == 2 else self.op.spread(x, (SAMPLES, 1))

    # --- conditions --------------------------------------------------------------------------------

    def flag(self, condition: Tensor) -> Tensor:
        """Return 1 where a condition holds, else 0."""
        return self.op.cast(condition, self.dtype)

    def is_missing(self, x: Tensor) -> Tensor:
        """Return where a number is missing."""
        return self.op.IsNaN(x)

    def among(self, x: Tensor, values: Sequence[float]) -> Tensor:
        """Return where a number is one of some."""
        if len(values) == 1:
            return self.op.Equal(x, self.constant(values[0]))
        equal = self.op.Equal(x, self.constant([list(values)]))
        return self.op.Greater(self.op.sum(self.op.cast(equal, ir.DataType.INT64), [1]), 0)

    def any_of(self, conditions: Sequence[Tensor]) -> Tensor | None:
        """Return where one of some conditions holds; None if there are none."""
        return functools.reduce(self.op.Or, conditions) if conditions else None

    def all_of(self, conditions: Sequence[Tensor]) -> Tensor | None:
        """Return where all of some conditions hold; None if there are none."""
        return functools.reduce(self.op.And, conditions) if conditions else None

    def outside(self, x: Tensor, low: float | None, high: float | None, open_: tuple[bool, bool]) -> Tensor | None:
        """Return where a number lies outside of an interval; None if nowhere.

        Args:
            x: the numbers.
            low: its left end; None if there is none.
            high: its right end; None if there is none.
            open_: whether each is no part of it.
        """
        beyond = []
        if low is not None:
            beyond.append(x <= low if open_[0] else x < low)
        if high is not None:
            beyond.append(x >= high if open_[1] else x > high)
        return self.any_of(beyond)

    # --- missing numbers ---------------------------------------------------------------------------

    def without(self, x: Tensor, where: Tensor | None) -> Tensor:
        """Return x, which is missing where a condition holds."""
        return x if where is None else x * self.op.Where(where, self.missing, self.constant(1.0))

    def fill(self, x: Tensor, where: Tensor | None, replacement: float | None) -> Tensor:
        """Return x, which is missing where a condition holds, too; what is missing is replaced if there is by what."""
        if replacement is None:
            return self.without(x, where)
        missing = self.is_missing(x)
        return self.op.Where(missing if where is None else missing | where, self.constant(replacement), x)

    def unless_missing(self, args: Sequence[Tensor], value: Tensor) -> Tensor:
        """Return a value that knows of no missing numbers; it is missing where one of the arguments is."""
        missing = self.any_of([self.is_missing(x) for x in args])
        assert missing is not None
        return self.op.Where(missing, self.missing, value)

    def of(self, args: Sequence[Tensor], value: Tensor) -> Tensor:
        """Return a function of some columns, which is missing where one of them is.

        Arithmetic sees to that by itself, but where the builder finds that the value is the same for all numbers, as in
        ``0 x``.
        """
        return value if value.scalar is None else self.unless_missing(args, value)

    # --- functions ---------------------------------------------------------------------------------

    def clip(self, x: Tensor, low: float | None, high: float | None) -> Tensor:
        """Return x, or the nearest end of an interval."""
        for bound, beyond in ((low, self.op.Less), (high, self.op.Greater)):
            if bound is not None:
                x = self.op.Where(beyond(x, bound), self.constant(bound), x)
        return x

    def piecewise(
        self, x: Tensor, points: Sequence[tuple[float, float]], outliers: str, replacement: float | None = None
    ) -> Tensor:
        """Return the piecewise linear function through some points.

        Args:
            x: the argument.
            points: pairs (a, b), by ascending a; at least two.
            outliers: what becomes of arguments beyond the first and the last point: ``"asIs"``: the lines go on,
                ``"asExtremeValues"``: the value is that of the nearest point, ``"asMissingValues"``: it is missing.
            replacement: what takes the place of missing values, if anything.
        """
        a, b = np.array(points, dtype=np.float64).T
        slopes = np.diff(b) / np.diff(a)
        beyond = self.outside(x, a[0], a[-1], (False, False)) if outliers == "asMissingValues" else None
        if outliers == "asExtremeValues":
            x = self.clip(x, a[0], a[-1])
        if len(slopes) == 1:
            y = self.of([x], (x - a[0]) * slopes[0]) + b[0]
        else:
            passed = self.op.cast(x >= self.constant([a[1:-1]]), ir.DataType.INT64)
            piece = self.op.sum(passed, [1])
            at, slope, height = (self.op.Gather(self.constant(table), piece) for table in (a[:-1], slopes, b[:-1]))
            y = (x - at) * slope + height
        return self.fill(y, beyond, replacement)

    def ignoring_missing(self, args: Sequence[Tensor], neutral: float, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a reduction along axis 1 makes of those arguments that are there; missing if none is."""
        stacked = self.op.Concat(*map(self.column, args), axis=1)
        missing = self.is_missing(stacked)
        value = reduce(self.op.Where(missing, self.constant(neutral), stacked))
        return self.op.Where(self.count(missing) < float(len(args)), value, self.missing)

    def count(self, conditions: Tensor) -> Tensor:
        """Return how many conditions hold along axis 1, as a number (N, 1)."""
        return self.op.sum(self.flag(conditions), [1])

    def arctan(self, x: Tensor) -> Tensor:
        """Return the angle whose tangent is x, in float64 too, for which onnxruntime has no Atan.

        With t near the angle, the rest is ``arctan r`` with ``r = (x cos t - sin t) / (cos t + x sin t)`` by the
        theorem of addition. Here t is the angle in float32, rounded to steps of 2⁻²⁰, in which it does not depend on
        x; so r is below 1e-6, and ``arctan r = r - r³/3`` to the last digit, as its derivative ``1 / (1 + x²)`` is.
        """
        if self.dtype == ir.DataType.FLOAT:
            return self.op.Atan(x)
        single = self.op.cast(self.op.Atan(self.op.cast(x, ir.DataType.FLOAT)), self.dtype)
        t = self.op.Round(single * 2.0**20) * 2.0**-20
        sine, cosine = self.op.Sin(t), self.op.Cos(t)
        rest = (x * cosine - sine) / (cosine + x * sine)
        return t + (rest - rest * rest * rest / 3.0)


__all__ = ["SAMPLES", "Arithmetic"]
