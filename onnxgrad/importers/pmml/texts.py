"""Columns of texts: what is known of them while a model is built."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from onnxgrad.graph.tensor import Tensor


class Special(enum.Enum):
    """What is no text that the model knows."""

    MISSING = "a missing text"
    INVALID = "an invalid text, for which there is no result"
    OTHER = "a text that the model does not know"


MISSING, INVALID, OTHER = Special.MISSING, Special.INVALID, Special.OTHER


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of texts, each of which is one of a few.

    Attributes:
        codes: int64 (N, 1); which of `texts` each one is.
        texts: what it can be.
        field: name of the input that it comes from.
    """

    codes: Tensor
    texts: tuple[str | Special, ...]
    field: str

    def map(self, function: Callable[[str | Special], str | Special]) -> Texts:
        """Return the column of what a function makes of each text."""
        return Texts(self.codes, tuple(map(function, self.texts)), self.field)


__all__ = ["INVALID", "MISSING", "OTHER", "Special", "Texts"]
