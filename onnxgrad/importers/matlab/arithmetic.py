"""MATLAB's functions on known matrices, as far as generated files call them. All matrices have two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxgrad.importers.matlab.network import Array

Function = Callable[..., Any]

#: Elements of the largest matrix.
_LARGEST = 10**8


class ArgumentError(Exception):
    """A function does not take such arguments."""


def _axis(x: Array, dim: Array | None) -> int:
    """Return the axis that a reduction takes: the given one, or the first that is longer than 1."""
    if dim is None:
        return 0 if x.shape[0] != 1 else 1
    if dim.item() not in (1, 2):
        raise ArgumentError("matrices have two dimensions")
    return int(dim.item()) - 1


def _reduction(function: Function) -> Function:
    return lambda x, dim=None: function(x, axis=_axis(x, dim), keepdims=True)


def _extreme(pairwise: Function, arg: Function) -> Function:
    """``max`` or ``min``: of two matrices, or along a dimension, then with the index."""

    def extreme(x: Array, other: Array | None = None, dim: Array | None = None) -> Any:
        if other is not None and other.size:
            return pairwise(x, other)
        axis = _axis(x, dim)
        if not x.shape[axis]:
            return np.zeros((0, 0)), np.zeros((0, 0))
        places = np.expand_dims(arg(np.where(np.isnan(x), -np.inf if pairwise is np.fmax else np.inf, x), axis), axis)
        return np.take_along_axis(x, places, axis), places + 1.0

    return extreme


def _shape(arguments: Sequence[Array]) -> tuple[int, int]:
    sizes = [max(int(n), 0) for argument in arguments for n in argument.reshape(-1)] or [1, 1]
    if len(sizes) == 1:
        sizes *= 2
    if len(sizes) != 2:
        raise ArgumentError("matrices have two dimensions")
    check_count(sizes[0] * sizes[1])
    return sizes[0], sizes[1]


def check_count(count: float) -> None:
    """Check that a matrix is not too large to be one of a generated file.

    Raises:
        ArgumentError: if it is.
    """
    if not count <= _LARGEST:
        raise ArgumentError(f"a matrix would have {count:.3g} elements, which no generated file needs")


def _filled(value: float) -> Function:
    return lambda *sizes: np.full(_shape(sizes), value)


def _size(x: Array, dim: Array | None = None) -> Any:
    if dim is None:
        return np.array([x.shape], dtype=np.float64)
    return np.array([[x.shape[int(dim.item()) - 1] if dim.item() <= 2 else 1]], dtype=np.float64)


def _repmat(x: Array, *sizes: Array) -> Array:
    shape = _shape(sizes)
    check_count(x.size * shape[0] * shape[1])
    return np.tile(x, shape)


def _reshape(x: Array, *sizes: Array) -> Array:
    free = [i for i, size in enumerate(sizes) if not size.size]
    if free:
        rest = int(np.prod([size.item() for size in sizes if size.size]))
        sizes = tuple(size if size.size else np.array([[x.size // max(rest, 1)]]) for size in sizes)
    return x.reshape(_shape(sizes), order="F")


def _cat(dim: Array, *parts: Array) -> Array:
    filled = [part for part in parts if part.shape != (0, 0)]
    return np.concatenate(filled, axis=int(dim.item()) - 1) if filled else np.zeros((0, 0))


def _find(x: Array) -> Array:
    places = np.flatnonzero(x.reshape(-1, order="F")) + 1.0
    return places.reshape(1, -1) if x.shape[0] == 1 and x.shape[1] != 1 else places.reshape(-1, 1)


def _mod(a: Array, b: Array) -> Array:
    return np.where(b == 0, a, np.mod(a, np.where(b == 0, 1, b)))


def _flag(value: Any) -> Array:
    return np.array([[bool(value)]])


#: By name, on matrices. What returns a tuple returns several values.
FUNCTIONS: dict[str, Function] = {
    "abs": abs,
    "all": _reduction(np.all),
    "and": np.logical_and,
    "any": _reduction(np.any),
    "cat": _cat,
    "ceil": np.ceil,
    "cumsum": lambda x, dim=None: np.cumsum(x, axis=_axis(x, dim)),
    "double": lambda x: x.astype(np.float64),
    "eps": lambda: np.full((1, 1), np.finfo(np.float64).eps),
    "eq": np.equal,
    "exp": np.exp,
    "eye": lambda *sizes: np.eye(*_shape(sizes)),
    "false": lambda *sizes: np.full(_shape(sizes), False),
    "find": _find,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "horzcat": lambda *parts: _cat(np.array([[2]]), *parts),
    "inf": _filled(np.inf),
    "Inf": _filled(np.inf),
    "isempty": lambda x: _flag(not x.size),
    "isequal": lambda x, *others: _flag(all(np.array_equal(x, other) for other in others)),
    "isfinite": np.isfinite,
    "isinf": np.isinf,
    "isnan": np.isnan,
    "isscalar": lambda x: _flag(x.size == 1),
    "ldivide": lambda a, b: b / a,
    "le": np.less_equal,
    "length": lambda x: np.array([[max(x.shape) if x.size else 0.0]]),
    "log": np.log,
    "log10": np.log10,
    "log2": np.log2,
    "logical": lambda x: x != 0,
    "lt": np.less,
    "max": _extreme(np.fmax, np.argmax),
    "mean": _reduction(np.mean),
    "min": _extreme(np.fmin, np.argmin),
    "minus": lambda a, b: a - b,
    "mod": _mod,
    "mtimes": lambda a, b: a @ b if 1 not in (a.size, b.size) else a * b,
    "nan": _filled(np.nan),
    "NaN": _filled(np.nan),
    "ne": np.not_equal,
    "not": np.logical_not,
    "numel": lambda x: np.array([[float(x.size)]]),
    "ones": _filled(1.0),
    "or": np.logical_or,
    "pi": lambda: np.full((1, 1), np.pi),
    "plus": lambda a, b: a + b,
    "power": lambda a, b: a**b,
    "prod": _reduction(np.prod),
    "rdivide": lambda a, b: a / b,
    "repmat": _repmat,
    "reshape": _reshape,
    "round": lambda x: np.sign(x) * np.floor(abs(x) + 0.5),
    "sign": np.sign,
    "size": _size,
    "sqrt": np.sqrt,
    "sum": _reduction(np.sum),
    "tanh": np.tanh,
    "times": lambda a, b: a * b,
    "transpose": lambda x: x.T,
    "true": lambda *sizes: np.full(_shape(sizes), True),
    "uminus": lambda x: -x,
    "vertcat": lambda *parts: _cat(np.array([[1]]), *parts),
    "zeros": _filled(0.0),
}

#: Functions whose result has the size of what they are told, so that it may be one column per sample.
SHAPING = frozenset("eye false inf Inf nan NaN ones repmat true zeros".split())

#: What the operators call.
OPERATORS = {
    "+": "plus", "-": "minus", ".*": "times", "./": "rdivide", ".\\": "ldivide", ".^": "power", "*": "mtimes",
    "==": "eq", "~=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "&": "and", "|": "or",
}  # fmt: skip


def apply(name: str, arguments: Sequence[Array]) -> Any:
    """Return what a function gives, an array or a tuple of arrays.

    Raises:
        ArgumentError: if it does not take such arguments.
    """
    numbers = [a.astype(np.float64) if a.dtype == bool and name not in _ON_FLAGS else a for a in arguments]
    try:
        with np.errstate(all="ignore"):
            return FUNCTIONS[name](*numbers)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        shapes = " and ".join(f"{rows}x{columns}" for rows, columns in (a.shape for a in arguments)) or "none"
        raise ArgumentError(f"{name!r} does not take such arguments (of sizes {shapes})") from error


_ON_FLAGS = frozenset("all and any double find isequal logical not or repmat reshape cat horzcat vertcat".split())


def places(index: Array, length: int) -> Array:
    """Return the places, from 0, that an index means on an axis of some length.

    Raises:
        ArgumentError: if it is none.
    """
    flat = index.reshape(-1, order="F")
    if index.dtype == bool:
        if flat[length:].any():
            raise ArgumentError(f"a flag beyond the {length} elements is set")
        return np.flatnonzero(flat)
    if (flat != np.round(flat)).any() or (flat < 1).any():
        raise ArgumentError("an index is no positive integer")
    return flat.astype(np.int64) - 1


__all__ = ["FUNCTIONS", "OPERATORS", "SHAPING", "ArgumentError", "apply", "check_count", "places"]
