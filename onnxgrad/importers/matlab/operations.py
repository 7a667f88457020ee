"""What operators and functions make of the values of variables: on known matrices numbers, else expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from onnxgrad.importers.matlab import arithmetic
from onnxgrad.importers.matlab.arithmetic import ArgumentError
from onnxgrad.importers.matlab.network import Array, Product, SizeError, Vector, Weights, join
from onnxgrad.importers.matlab.source import GENERATE
from onnxgrad.importers.matlab.values import About, Cell, Known, Signals, Value, number, related


class Unsupported(Exception):  # noqa: N818 - becomes a ModelReadError, with the line
    """Something is outside of the language.

    Args:
        why: what.
        remedy: what to do, if that is not to generate the file again.
    """

    def __init__(self, why: str, remedy: str = GENERATE) -> None:
        super().__init__(why)
        self.remedy = remedy


# --- arithmetic -----------------------------------------------------------------------------------


def flag(value: bool) -> Known:
    """Return true or false."""
    return Known(np.array([[value]]))


def named(value: Value, name: str) -> Value:
    """Give a value the name of the variable that it is assigned to first."""
    if isinstance(value, Known) and not value.name:
        return replace(value, name=name)
    if isinstance(value, Signals) and len(value.columns) == 1:
        vector = value.columns[0]
        if isinstance(vector, Vector) and not vector.label:
            vector.label = name
    return value


def operator_of(function: str) -> str:
    """Return the operator that a function of two matrices stands for."""
    for operator, name in arithmetic.OPERATORS.items():
        if name == function:
            return operator
    raise Unsupported(f"the function {function!r} is unknown")


def combine(operator: str, a: Value, b: Value) -> Value:
    """Return ``a operator b``."""
    if isinstance(a, Known) and isinstance(b, Known):
        name = arithmetic.OPERATORS.get(operator)
        if operator in ("/", "^") and b.array.size == 1 and (operator == "/" or a.array.size == 1):
            name = {"/": "rdivide", "^": "power"}[operator]
        if name is None:
            raise Unsupported(f"the operator {operator!r} does not occur between matrices in what genFunction writes")
        return Known(arithmetic.apply(name, [a.array, b.array]), related(a, b))
    for value in (a, b):
        if not isinstance(value, (Known, Signals)):
            raise Unsupported(f"the operator {operator!r} is applied to what is no matrix")
        if isinstance(value, Known) and value.about is About.COUNT:
            raise Unsupported("the number of samples or time steps enters the arithmetic")
    if operator == "*" and (product := _product(a, b)):
        return product
    function = _ARITHMETIC.get(operator)
    if function is None or (operator == "/" and not (isinstance(b, Known) and b.array.size == 1)):
        raise Unsupported(f"the operator {operator!r} is applied to what depends on the inputs")
    if isinstance(a, Signals) and isinstance(b, Signals):
        if a.transposed != b.transposed or len(a.columns) != len(b.columns):
            raise SizeError("rows and columns do not fit together")
        columns = tuple(function(x, y) for x, y in zip(a.columns, b.columns, strict=True))
        return Signals(columns, a.transposed)
    if isinstance(a, Signals):
        assert isinstance(b, Known)
        return a.map(lambda x: function(x, _term(b, a, x)))
    assert isinstance(a, Known)
    assert isinstance(b, Signals)
    return b.map(lambda x: function(_term(a, b, x), x))


_ARITHMETIC = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    ".*": lambda a, b: a * b,
    "*": lambda a, b: a * b,
    "./": lambda a, b: a / b,
    "/": lambda a, b: a / b,
    ".^": lambda a, b: a**b,
}


def _term(known: Known, signals: Signals, column: Any) -> Any:
    """Return a known matrix as an operand for a column of what depends on the inputs.

    A bias, and what has a column for each sample, must have as many rows: a single number is not spread.
    """
    array = known.array.T if signals.transposed else known.array
    if array.shape[1] != 1:
        rows, columns = known.array.shape
        raise SizeError(f"a matrix of {rows} x {columns} does not fit to a vector for each sample")
    strict = known.about is About.COLUMNS or re.fullmatch(r"b\d+", known.name)
    if strict and isinstance(column, Vector):
        column.size.be(len(array))
    return Weights(array, known.name) if known.name and isinstance(column, Vector) else array


def _product(a: Value, b: Value) -> Signals | None:
    """``W * x``, or ``x * W`` where samples are rows; None where one factor is a mere number."""
    for signals, known, transposed in ((b, a, False), (a, b, True)):
        if isinstance(signals, Signals) and isinstance(known, Known):
            is_weight = re.fullmatch(r"[IL]W\d+_\d+", known.name)
            if known.array.size == 1 and not is_weight:
                return None
            if signals.transposed != transposed:
                raise SizeError("the product of a matrix and a vector has the vector's samples in its place")
            return signals.map(partial(_times, Weights(known.array.T if transposed else known.array, known.name)))
    raise Unsupported("what depends on the inputs is multiplied, as a matrix, with what does too")


def _times(weights: Weights, x: Any) -> Any:
    return Product(weights, x) if isinstance(x, Vector) else weights.array @ x


def signed(operator: str, value: Value) -> Value:
    """Return ``operator value``."""
    match operator, value:
        case "+", _:
            return value
        case "-", Known(array=array, about=about):
            return Known(-array.astype(np.float64), about)
        case "-", Signals():
            return value.map(lambda column: -column)
        case "~", Known(array=array, about=about):
            return Known(array == 0, about)
    raise Unsupported(f"the operator {operator!r} is applied to what depends on the inputs, or is no matrix")


def transposed_of(value: Value) -> Value:
    """Return the transpose of a matrix."""
    if isinstance(value, Known):
        return replace(value, array=value.array.T)
    if isinstance(value, Signals):
        return replace(value, transposed=not value.transposed)
    raise Unsupported("what is no matrix is transposed")


def beside(parts: Sequence[Value]) -> Value:
    """``[a b]``."""
    if len(parts) == 1:
        return parts[0]
    cells = [part for part in parts if isinstance(part, Cell)]
    if cells and len(cells) == len(parts):
        filled = [cell for cell in cells if 0 not in cell.shape]
        if any(cell.shape[0] != filled[0].shape[0] for cell in filled):
            raise SizeError("cell arrays of different heights are put beside each other")
        return Cell(
            tuple(sum((cell.rows[i] for cell in filled), ()) for i in range(filled[0].shape[0] if filled else 0))
        )
    if any(isinstance(part, Signals) and part.transposed for part in parts):
        return transposed_of(_stacked_columns([transposed_of(part) for part in parts]))
    if any(isinstance(part, Signals) for part in parts):
        columns: list[Vector | Array] = []
        for part in parts:
            if isinstance(part, Signals):
                columns += part.columns
            elif isinstance(part, Known):
                columns += [column.reshape(-1, 1) for column in part.array.T]
            else:
                raise Unsupported("what is no matrix is put beside one")
        return Signals(tuple(columns))
    return _joined("horzcat", parts)


def stacked(parts: Sequence[Value]) -> Value:
    """``[a; b]``."""
    if not parts:
        return Known(np.zeros((0, 0)))
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, Signals) and part.transposed for part in parts):
        return transposed_of(beside([transposed_of(part) for part in parts]))
    if any(isinstance(part, Signals) for part in parts):
        return _stacked_columns(parts)
    return _joined("vertcat", parts)


def _stacked_columns(parts: Sequence[Value]) -> Value:
    vectors: list[Vector] = []
    for part in parts:
        if not isinstance(part, Signals) or len(part.columns) != 1 or not isinstance(part.columns[0], Vector):
            raise Unsupported("what depends on the inputs is joined with what does not")
        vectors.append(part.columns[0])
    return Signals((join(vectors),))


def _joined(name: str, parts: Sequence[Value]) -> Known:
    known = [part for part in parts if isinstance(part, Known)]
    if len(known) != len(parts):
        raise Unsupported("what is no matrix is joined with one")
    flags = all(part.array.dtype == bool for part in known)
    arrays = [part.array if flags else part.array.astype(np.float64) for part in known]
    return Known(arithmetic.apply(name, arrays), related(*known))


def extent(signals: Signals, dim: int, known: bool = True) -> Known:
    """``size(signals, dim)``; where that is a number of inputs that is not known yet, a number that must not be used.

    Raises:
        Unsupported: in its place, if it has to be `known`.
    """
    if (dim == 1) == signals.transposed:
        return Known(np.array([[float(len(signals.columns))]]), About.COUNT)
    column = signals.columns[0]
    rows = column.size.value if isinstance(column, Vector) else len(column)
    if rows is None and not known:
        return Known(np.array([[np.nan]]), About.COUNT)
    if rows is None:
        raise Unsupported("the number of inputs is asked for before it is known")
    return number(rows)


# --- parts ----------------------------------------------------------------------------------------


def part_of(array: Array, indices: Sequence[Array | None]) -> Array:
    """Return the elements at some indices.

    Raises:
        ArgumentError: if there are fewer elements.
    """
    for index, length in zip(indices, array.shape if len(indices) == 2 else (array.size,), strict=True):
        if index is not None and index.size and index.max() >= length:
            raise ArgumentError(f"element {index.max() + 1} is used, and there are {length}")
    if len(indices) == 2:
        rows, columns = (slice(None) if index is None else index for index in indices)
        return array[rows][:, columns]
    flat = array.reshape(-1, order="F")
    if indices[0] is None:
        return flat.reshape(-1, 1)
    picked: Array = flat[indices[0]]
    return picked.reshape((1, -1) if array.shape[0] == 1 else (-1, 1))


def positions(indices: Sequence[Array | None], shape: tuple[int, ...]) -> Any:
    """Return what numpy takes as the index for an assignment."""
    if len(indices) == 2:
        return np.ix_(*(np.arange(n) if index is None else index for index, n in zip(indices, shape, strict=True)))
    flat = np.arange(shape[0] * shape[1]) if indices[0] is None else indices[0]
    return np.unravel_index(flat, shape, order="F")


def grown(array: Array, indices: Sequence[Array | None], filling: object) -> Array:
    """Return an array that has the elements of some indices; new ones are `filling`."""
    ends = [0 if index is None else int(index.max(initial=-1)) + 1 for index in indices]
    if len(indices) == 1:
        if ends[0] <= array.size:
            return array.copy()
        if array.size and 1 not in array.shape:
            raise ArgumentError(f"element {ends[0]} is assigned to, and there are {array.size}")
        shape = (ends[0], 1) if array.shape[1] == 1 and array.shape[0] > 1 else (1, ends[0])
    else:
        shape = (max(ends[0], array.shape[0]), max(ends[1], array.shape[1]))
    larger = np.full(shape, filling, dtype=array.dtype)
    larger[: array.shape[0], : array.shape[1]] = array
    return larger


__all__ = [
    "Unsupported",
    "beside",
    "combine",
    "extent",
    "flag",
    "grown",
    "named",
    "operator_of",
    "part_of",
    "positions",
    "signed",
    "stacked",
    "transposed_of",
]
