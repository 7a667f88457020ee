"""The equation of an `Einsum`, with one letter for every axis."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence

from onnxgrad.graph.dims import Dim, Shape, broadcast


def terms_of(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return the terms of the operands and of the output, with one letter per axis.

    The axes of an ellipsis, aligned from the right as in broadcasting, get letters that the equation does not use.
    Without an output term, the output has the axes of the ellipsis, then the letters that occur once, in ASCII order.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    given = left.split(",")
    counts = [rank - len(term.replace("...", "")) for term, rank in zip(given, ranks, strict=True)]
    hidden = unused(left, max(counts, default=0))
    terms = [term.replace("...", hidden[len(hidden) - n :]) for term, n in zip(given, counts, strict=True)]
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        right = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return terms, right.replace("...", hidden)


def unused(letters: str, count: int) -> str:
    """Return `count` letters that are not among `letters`."""
    return "".join([c for c in string.ascii_letters if c not in letters][:count])


def equation_of(terms: Iterable[str], output: str) -> str:
    """Write an equation down."""
    return f"{','.join(terms)}->{output}"


def sizes_of(terms: Sequence[str], shapes: Sequence[Shape]) -> dict[str, Dim]:
    """Return the size of each letter; a letter may have size 1 in one operand and more in another."""
    found: dict[str, list[Dim]] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, dim in zip(term, shape, strict=True):
            found.setdefault(letter, []).append(dim)
    return {letter: broadcast(*((d,) for d in dims))[0] for letter, dims in found.items()}
