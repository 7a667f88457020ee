"""The syntax tree of the part of MATLAB's language in which genFunction writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from onnxgrad.errors import ModelReadError

# --- expressions ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Expression:
    """An expression; `line` is where it stands."""

    line: int


@dataclass(frozen=True, eq=False)
class Number(Expression):
    """A number, or a matrix of nothing but numbers."""

    value: float | np.ndarray


@dataclass(frozen=True, eq=False)
class String(Expression):
    """``'text'``."""

    text: str


@dataclass(frozen=True, eq=False)
class Name(Expression):
    """A variable, or a function called without arguments."""

    name: str


@dataclass(frozen=True, eq=False)
class Field(Expression):
    """``of.name``."""

    of: Expression
    name: str


@dataclass(frozen=True, eq=False)
class Apply(Expression):
    """``of(arguments)``: a call, or elements of a matrix."""

    of: Expression
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Content(Expression):
    """``of{arguments}``: what is in the elements of a cell array."""

    of: Expression
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Unary(Expression):
    """``-x``, ``+x``, ``~x``."""

    operator: str
    of: Expression


@dataclass(frozen=True, eq=False)
class Binary(Expression):
    """``a operator b``."""

    operator: str
    a: Expression
    b: Expression


@dataclass(frozen=True, eq=False)
class Transpose(Expression):
    """``of'`` or ``of.'``."""

    of: Expression


@dataclass(frozen=True, eq=False)
class Range(Expression):
    """``start:stop`` or ``start:step:stop``."""

    start: Expression
    step: Expression | None
    stop: Expression


@dataclass(frozen=True, eq=False)
class Everything(Expression):
    """``:`` as an index."""


@dataclass(frozen=True, eq=False)
class Matrix(Expression):
    """``[a b; c d]``."""

    rows: tuple[tuple[Expression, ...], ...]


@dataclass(frozen=True, eq=False)
class Cells(Expression):
    """``{a b; c d}``."""

    rows: tuple[tuple[Expression, ...], ...]


@dataclass(frozen=True, eq=False)
class Handle(Expression):
    """``@name``; of a function without a name, only that it is one is kept."""

    name: str


# --- statements -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement; `line` is where it begins."""

    line: int


@dataclass(frozen=True, eq=False)
class Assign(Statement):
    """``[targets] = value``; a target ``~`` is None."""

    targets: tuple[Expression | None, ...]
    value: Expression


@dataclass(frozen=True, eq=False)
class Evaluate(Statement):
    """An expression on its own."""

    value: Expression


@dataclass(frozen=True, eq=False)
class If(Statement):
    """``if``, ``elseif``, ``else``; a condition None is that of ``else``."""

    branches: tuple[tuple[Expression | None, tuple[Statement, ...]], ...]


@dataclass(frozen=True, eq=False)
class For(Statement):
    """``for name = over``."""

    name: str
    over: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True, eq=False)
class Return(Statement):
    """``return``."""


@dataclass(frozen=True, eq=False)
class Foreign(Statement):
    """What is outside of the language: it is skipped, and refused by whoever follows it.

    Attributes:
        refusal: the error that says so.
    """

    refusal: ModelReadError


@dataclass(frozen=True, eq=False)
class Function:
    """``function [returns] = name(parameters)``; a parameter ``~`` stays as it is."""

    line: int
    name: str
    parameters: tuple[str, ...]
    returns: tuple[str, ...]
    body: tuple[Statement, ...]


Node = Expression | Statement | Function


def walk(node: object) -> Iterator[Node]:
    """Yield all nodes in a node, a tuple of nodes, or both mixed; outer ones first."""
    if isinstance(node, tuple):
        for item in node:
            yield from walk(item)
    elif isinstance(node, (Expression, Statement, Function)):
        yield node
        for field in fields(node):
            yield from walk(getattr(node, field.name))
