"""What variables hold while a file is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from onnxgrad.importers.matlab.network import Array, SizeError, Vector


class About(Enum):
    """How a known matrix is related to the samples. The file is read for one sample, which stands for all of them.

    NOTHING: not at all. COLUMNS: it has one column for each sample, all alike. COUNT: it is, or depends on, their
    number, so it must not enter the arithmetic.
    """

    NOTHING = 0
    COLUMNS = 1
    COUNT = 2


@dataclass(frozen=True, eq=False)
class Known:
    """A matrix of numbers or flags.

    Attributes:
        array: the matrix, always of two dimensions.
        about: how it is related to the samples.
        name: the variable that it was first assigned to.
    """

    array: Array
    about: About = About.NOTHING
    name: str = ""


@dataclass(frozen=True)
class Text:
    """A string."""

    text: str


@dataclass(frozen=True)
class FunctionHandle:
    """``@name``."""

    name: str


@dataclass
class Struct:
    """A struct with fields of values."""

    fields: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A cell array: rows of values, where None is empty."""

    rows: tuple[tuple[Value | None, ...], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self.rows), len(self.rows[0]) if self.rows else 0

    def array(self) -> Array:
        """Return an array of the values."""
        found = np.empty(self.shape, dtype=object)
        for i, row in enumerate(self.rows):
            for j, value in enumerate(row):
                found[i, j] = value
        return found

    @classmethod
    def of(cls, array: Array) -> Cell:
        """Return the cell array of an array of values."""
        return cls(tuple(map(tuple, array)))


@dataclass(frozen=True)
class Signals:
    """A matrix that depends on the inputs: columns, each a vector, or numbers that take the place of one.

    Attributes:
        columns: the columns; a known one is an array (r, 1).
        transposed: whether these are rows instead.
    """

    columns: tuple[Vector | Array, ...]
    transposed: bool = False

    def map(self, function: Callable[[Any], Any]) -> Signals:
        """Return what a function makes of each column."""
        return Signals(tuple(map(function, self.columns)), self.transposed)

    @property
    def vector(self) -> Vector:
        """Its only column.

        Raises:
            SizeError: if it has several, or depends on no input.
        """
        if len(self.columns) != 1 or not isinstance(self.columns[0], Vector):
            raise SizeError("there should be one vector, and there are several")
        return self.columns[0]


Value = Known | Text | FunctionHandle | Struct | Cell | Signals


def number(value: float) -> Known:
    """Return a number."""
    return Known(np.array([[value]], dtype=np.float64))


def related(*values: Value) -> About:
    """Return how what is computed from values is related to the samples."""
    return About(max((value.about.value for value in values if isinstance(value, Known)), default=0))


__all__ = ["About", "Cell", "FunctionHandle", "Known", "Signals", "Struct", "Text", "Value", "number", "related"]
