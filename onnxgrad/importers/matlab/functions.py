"""Transfer, weight and processing functions of shallow networks, by MATLAB's public documentation.

Each works on a matrix of samples as columns, in numpy, and on a `Vector` alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgrad.importers.matlab.network import Array, Size, Vector, Weights, Writer

# --- transfer functions ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """What a layer does with its net input.

    Attributes:
        compute: the function, on columns.
        emit: the function in ONNX, on rows; None: it returns what it gets.
        joint: whether each of its elements depends on all of the net input.
    """

    compute: Callable[[Array], Any]
    emit: Callable[[Writer, str], str] | None
    joint: bool = False

    def __call__(self, n: Vector) -> Vector:
        """Return the same for a vector."""
        return n if self.emit is None else n.map(self.emit)


def _softmax(n: Array) -> Any:
    raised = np.exp(n - n.max(axis=0, keepdims=True))
    return raised / raised.sum(axis=0, keepdims=True)


def _compet(n: Array) -> Any:
    return (np.arange(len(n))[:, None] == n.argmax(axis=0)) * 1.0


def _emit_compet(to: Writer, n: str) -> str:
    """A one for the first of the largest elements."""
    largest = to.emit("ArgMax", n, axis=1, keepdims=1)
    width = to.emit("Shape", n, start=1, end=2)
    scalar = to.emit("Squeeze", width, to.ints(0))
    places = to.emit("Range", to.constant(np.array(0)), scalar, to.constant(np.array(1)))
    return _flag(to, to.emit("Equal", places, largest))


def _flag(to: Writer, condition: str) -> str:
    from onnx import helper

    return to.emit("Cast", condition, to=helper.np_dtype_to_tensor_dtype(to.dtype))


def _clip(low: float, high: float) -> Callable[[Writer, str], str]:
    return lambda to, n: to.emit("Clip", n, to.number(low), to.number(high))


def _emit_hardlim(to: Writer, n: str) -> str:
    return _flag(to, to.emit("GreaterOrEqual", n, to.number(0)))


def _emit_hardlims(to: Writer, n: str) -> str:
    return to.emit("Sub", to.emit("Mul", _emit_hardlim(to, n), to.number(2)), to.number(1))


def _square(to: Writer, n: str) -> str:
    return to.emit("Neg", to.emit("Mul", n, n))


def _emit_tribas(to: Writer, n: str) -> str:
    return to.emit("Relu", to.emit("Sub", to.number(1), to.emit("Abs", n)))


def _emit_elliotsig(to: Writer, n: str) -> str:
    return to.emit("Div", n, to.emit("Add", to.number(1), to.emit("Abs", n)))


#: By name. tansig and logsig are the operators that do not overflow.
TRANSFER = {
    "purelin": Transfer(lambda n: n, None),
    "tansig": Transfer(np.tanh, lambda to, n: to.emit("Tanh", n)),
    "logsig": Transfer(lambda n: 1 / (1 + np.exp(-n)), lambda to, n: to.emit("Sigmoid", n)),
    "poslin": Transfer(lambda n: np.maximum(n, 0), lambda to, n: to.emit("Relu", n)),
    "satlin": Transfer(lambda n: np.clip(n, 0, 1), _clip(0, 1)),
    "satlins": Transfer(lambda n: np.clip(n, -1, 1), _clip(-1, 1)),
    "hardlim": Transfer(lambda n: (n >= 0) * 1.0, _emit_hardlim),
    "hardlims": Transfer(lambda n: (n >= 0) * 2.0 - 1, _emit_hardlims),
    "radbas": Transfer(lambda n: np.exp(-n * n), lambda to, n: to.emit("Exp", _square(to, n))),
    "radbasn": Transfer(lambda n: _softmax(-n * n), lambda to, n: to.emit("Softmax", _square(to, n), axis=1), True),
    "tribas": Transfer(lambda n: np.maximum(1 - abs(n), 0), _emit_tribas),
    "netinv": Transfer(lambda n: 1 / n, lambda to, n: to.emit("Reciprocal", n)),
    "elliotsig": Transfer(lambda n: n / (1 + abs(n)), _emit_elliotsig),
    "softmax": Transfer(_softmax, lambda to, n: to.emit("Softmax", n, axis=1), True),
    "compet": Transfer(_compet, _emit_compet, True),
}

# --- weight functions -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """How far an input is from each row of the weights: a norm of the differences, and its sign."""

    norm: str
    sign: int = 1

    def compute(self, w: Array, p: Array) -> Any:
        """Return the distances from the rows of `w` (S, r) to the columns of `p` (r, Q): (S, Q)."""
        differences = w[:, :, None] - p[None]
        if self.norm == "ReduceL2":
            return self.sign * np.sqrt((differences**2).sum(axis=1))
        absolute = abs(differences)
        return absolute.sum(axis=1) if self.norm == "ReduceL1" else absolute.max(axis=1, initial=0)

    def of(self, w: Weights, p: Vector) -> Vector:
        """Return the same for a vector."""
        p.size.be(w.array.shape[1])

        def emit(to: Writer, x: str) -> str:
            row = to.emit("Unsqueeze", x, to.ints(1))
            differences = to.emit("Sub", row, to.weight(w))
            if self.norm == "ReduceMax":
                differences = to.emit("Abs", differences)
            found = to.emit(self.norm, differences, to.ints(2), keepdims=0)
            return found if self.sign > 0 else to.emit("Neg", found)

        return p.map(emit, Size(w.array.shape[0]))


#: By name; besides, there is dotprod, which is the product.
DISTANCES = {
    "dist": Distance("ReduceL2"),
    "negdist": Distance("ReduceL2", -1),
    "mandist": Distance("ReduceL1"),
    "boxdist": Distance("ReduceMax"),
}

# --- processing functions -------------------------------------------------------------------------


class SettingsError(Exception):
    """What a processing function needs is not among its settings."""


class Settings:
    """The settings of a processing function, as columns (r, 1)."""

    def __init__(self, values: Mapping[str, Array]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def matrix(self, name: str) -> Array:
        """Return a setting as it is.

        Raises:
            SettingsError: if there is none of that name.
        """
        if name not in self._values:
            raise SettingsError(f"the setting {name!r} is missing; there is {', '.join(self._values) or 'none'}")
        return np.asarray(self._values[name], dtype=np.float64)

    def column(self, name: str) -> Array:
        """Return a setting as a column."""
        return self.matrix(name).reshape(-1, 1)

    def indices(self, name: str) -> Array:
        """Return a setting as indices, which count from 1 there and from 0 here."""
        values = self.matrix(name).reshape(-1)
        if (values != np.round(values)).any() or (values < 1).any():
            raise SettingsError(f"the setting {name!r} holds no indices")
        return values.astype(np.int64) - 1

    def number(self, name: str) -> int:
        """Return a setting that is one number."""
        return int(self.matrix(name).reshape(()))


def _mapminmax(s: Settings) -> tuple[Array, Array, Array]:
    """Return xoffset, gain and ymin; early versions store the bounds only."""
    if "gain" in s or "xmin" not in s:
        return s.column("xoffset"), s.column("gain"), s.column("ymin")
    low, high = s.column("xmin"), s.column("xmax")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise SettingsError("mapminmax has rows without a range, and no setting 'gain' that says what becomes of them")
    return low, (s.column("ymax") - s.column("ymin")) / (high - low), s.column("ymin")


def mapminmax_apply(x: Any, s: Settings) -> Any:
    """``(x - xoffset) · gain + ymin``."""
    xoffset, gain, ymin = _mapminmax(s)
    return (x - xoffset) * gain + ymin


def mapminmax_reverse(y: Any, s: Settings) -> Any:
    """``(y - ymin) / gain + xoffset``."""
    xoffset, gain, ymin = _mapminmax(s)
    return (y - ymin) / gain + xoffset


def _mapstd(s: Settings) -> tuple[Array, Array, Array]:
    if "gain" in s:
        return s.column("xoffset" if "xoffset" in s else "xmean"), s.column("gain"), s.column("ymean")
    spread = s.column("xstd")
    if not (spread > 0).all():
        raise SettingsError("mapstd has rows without a spread, and no setting 'gain' that says what becomes of them")
    return s.column("xmean"), s.column("ystd") / spread, s.column("ymean")


def mapstd_apply(x: Any, s: Settings) -> Any:
    """``(x - xmean) · ystd / xstd + ymean``."""
    xmean, gain, ymean = _mapstd(s)
    return (x - xmean) * gain + ymean


def mapstd_reverse(y: Any, s: Settings) -> Any:
    """``(y - ymean) · xstd / ystd + xmean``."""
    xmean, gain, ymean = _mapstd(s)
    return (y - ymean) / gain + xmean


def _removed(s: Settings) -> Array:
    for name in ("remove", "remove_ind", "ind"):
        if name in s:
            return s.indices(name)
    raise SettingsError("which rows are removed is missing among the settings")


def _kept(s: Settings) -> tuple[Array, int | None]:
    """Return the rows that stay, and how many there are in all, if that is known."""
    names = [name for name in ("keep", "keep_ind") if name in s]
    known = any(name in s for name in ("remove", "remove_ind", "ind"))
    rows = s.number("xrows") if "xrows" in s else None
    if names:
        kept = s.indices(names[0])
        return kept, rows if rows is not None else len(kept) + len(_removed(s)) if known else None
    removed = _removed(s)
    if rows is None:
        raise SettingsError("the setting 'keep' or 'xrows' is missing")
    return np.setdiff1d(np.arange(rows), removed), rows


def removerows_apply(x: Any, s: Settings) -> Any:
    """The rows that are kept."""
    kept, rows = _kept(s)
    if isinstance(x, Vector):
        if rows is not None:
            x.size.be(rows)
        return x.take(kept)
    return x[kept]


def removerows_reverse(y: Any, s: Settings) -> Any:
    """The rows that are kept in their places, and in the others the constants that were there."""
    kept, rows = _kept(s)
    if rows is None or len(kept) > rows or kept.max(initial=-1) >= rows:
        raise SettingsError("the rows that are kept do not fit to their number 'xrows'")
    column = np.full((rows, 1), np.nan)
    column[kept] = 0
    removed = np.setdiff1d(np.arange(rows), kept)
    for name in ("constants", "value"):
        if name in s:
            column[removed] = s.column(name)
    if not len(removed) and isinstance(y, Vector) and (kept == np.arange(rows)).all():
        y.size.be(rows)
        return y
    return np.eye(rows)[:, kept] @ y + column


def processpca_apply(x: Any, s: Settings) -> Any:
    """``transform · x``."""
    return s.matrix("transform") @ x


def processpca_reverse(y: Any, s: Settings) -> Any:
    """``inverseTransform · y``."""
    return s.matrix("inverseTransform") @ y


def fixunknowns(x: Any, s: Settings) -> Any:
    """``x``, where no row had unknown values in training."""
    recoded = "xrows" in s and "yrows" in s and s.number("xrows") != s.number("yrows")
    for name in ("unknown", "unknown_ind", "yrows"):
        if name in s and (recoded if name == "yrows" else s.matrix(name).size):
            raise SettingsError(
                "fixunknowns recodes rows that had unknown values (NaN) in training, which is no differentiable "
                "arithmetic"
            )
    return x


Process = Callable[[Any, Settings], Any]

#: By name: what is applied to inputs, and what is reversed on outputs.
PROCESSING: dict[str, tuple[Process, Process]] = {
    "mapminmax": (mapminmax_apply, mapminmax_reverse),
    "mapstd": (mapstd_apply, mapstd_reverse),
    "removeconstantrows": (removerows_apply, removerows_reverse),
    "removerows": (removerows_apply, removerows_reverse),
    "processpca": (processpca_apply, processpca_reverse),
    "fixunknowns": (fixunknowns, fixunknowns),
}

__all__ = ["DISTANCES", "PROCESSING", "TRANSFER", "Distance", "Settings", "SettingsError", "Transfer"]
