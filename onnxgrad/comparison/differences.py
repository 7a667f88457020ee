"""The arithmetic of differences between two arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from onnxgrad.comparison.report import NAMED, Place, Row, Spread, Verdict
from onnxgrad.errors import UnknownNameError

Array = np.ndarray[Any, Any]
Kind = Literal["output", "jacobian", "vjp"]

#: Relative tolerances by the bits of the significand, of the coarser of both types: some forty roundings in float32 and
#: fewer bits, where that many occur in a deep network; some thousand in float64, where they cost nothing.
_RTOL = {52: 1e-12, 23: 5e-6, 10: 2e-2, 7: 1e-1}
#: For the types of 8 bits and fewer.
_RTOL_NARROW = 0.25
#: At most so many elements of a tensor are kept for a plot.
_POINTS = 2000


@dataclass(frozen=True)
class Tolerances:
    """Tolerances by name of a tensor (``y``, or ``y:x`` for a derivative), and for all others.

    Attributes:
        rtol: relative; None in general: by the coarser of both types.
        atol: absolute; None in general: `rtol` times the root mean square of the tensor.
    """

    rtol: float | Mapping[str, float] | None = None
    atol: float | Mapping[str, float] | None = None

    def of(self, name: str, dtype: np.dtype[Any], scale: float) -> tuple[float, float]:
        """Return ``(rtol, atol)`` of a tensor of a type, with a root mean square of `scale`."""
        exact = dtype.kind in "biuOUS"
        rtol = _given(self.rtol, name)
        if rtol is None:
            rtol = 0.0 if exact else _RTOL.get(significand(dtype), _RTOL_NARROW)
        atol = _given(self.atol, name)
        if atol is None:
            atol = 0.0 if exact else rtol * scale
        return rtol, atol

    def check(self, names: Sequence[str]) -> None:
        """Raise an error for a name that no tensor has, or for a tolerance that is none.

        Raises:
            UnknownNameError: for the name.
            ValueError: for the number.
        """
        for given in (self.rtol, self.atol):
            by_name = given if isinstance(given, Mapping) else {"": given}
            for name, value in by_name.items():
                if name and name not in names:
                    raise UnknownNameError.among("a tensor that is compared", name, names)
                if value is not None and not 0 <= value < math.inf:
                    raise ValueError(f"{value} is no tolerance; give a number that is 0 or larger")


def _given(given: float | Mapping[str, float] | None, name: str) -> float | None:
    return given.get(name, given.get("")) if isinstance(given, Mapping) else given


def is_float(dtype: np.dtype[Any] | None) -> bool:
    """Whether elements are floating-point numbers, of numpy or `ml_dtypes`."""
    return dtype is not None and (dtype.kind in "fc" or (dtype.kind == "V" and "float" in dtype.name))


def _finfo(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


def significand(dtype: np.dtype[Any]) -> int:
    """Return the number of bits of the significand that are stored."""
    return int(_finfo(dtype).nmant)


def coarser(*dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """Return the floating-point type with the fewest bits in the significand, or the first if there is none."""
    return min(filter(is_float, dtypes), key=significand, default=dtypes[0])


def unit_in_last_place(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return the distance of neighboring numbers of a type at `x` (float64, not negative)."""
    info = _finfo(dtype)
    exponent = np.where(x > 0, np.frexp(x)[1] - 1, int(info.minexp))
    return np.asarray(np.ldexp(1.0, np.maximum(exponent, int(info.minexp)) - int(info.nmant)))


@dataclass(frozen=True)
class Axes:
    """What the axes of a tensor stand for.

    Attributes:
        of, wrt: the axes of elements of the output, and of the input.
        sample: the axis of samples.
    """

    of: tuple[int, ...]
    wrt: tuple[int, ...] = ()
    sample: int | None = None


def compared(
    kind: Kind,
    of: str,
    wrt: str | None,
    a: Array,
    b: Array,
    axes: Axes,
    dtype: np.dtype[Any],
    tolerances: Tolerances,
    worst: int,
    detail: str = "",
) -> Row:
    """Return what is to be said of a tensor.

    Args:
        kind: what it is.
        of: the output.
        wrt: the input.
        a: it, of the first model.
        b: the same of the second.
        axes: its axes.
        dtype: the coarser of both types.
        tolerances: what is tolerated.
        worst: how many elements or samples to list.
        detail: what there is to say besides.
    """
    if a.shape != b.shape:
        shapes = f"shape {list(a.shape)} against {list(b.shape)}"
        return Row(kind, of, wrt, "differs", shapes, dtype.name, a.shape)
    numeric = not any(x.dtype.kind in "OUS" for x in (a, b))
    with np.errstate(all="ignore"):
        found = _Numbers.of(a, b, dtype) if numeric else _texts(a, b)
        name = of if wrt is None else f"{of}:{wrt}"
        rtol, atol = tolerances.of(name, dtype, found.scale)
        tolerated = atol + rtol * found.size
        excess = np.where(found.odd, np.inf, np.where(found.absolute > 0, found.absolute / tolerated, 0.0))
    beyond = (found.absolute > tolerated) | found.odd
    verdict: Verdict = "differs" if beyond.any() else "agrees" if found.absolute.any() else "identical"
    if found.lost:
        said = f"{found.lost} of {a.size} elements are NaN or infinite in both, which is taken for equal"
        detail = f"{detail}; {said}" if detail else said
    over = np.where(beyond, np.maximum(excess, 1), 0.0)
    order = list(_worst(excess, axes, worst))
    return Row(
        kind,
        of,
        wrt,
        verdict,
        detail,
        dtype.name if dtype.kind not in "OU" else "string",
        a.shape,
        rtol,
        atol,
        _spread(found.absolute, found.odd) if numeric else None,
        _spread(found.relative, found.odd) if numeric else None,
        None if found.ulps is None else _spread(found.ulps, found.odd),
        a.size,
        int(beyond.sum()),
        int(found.odd.sum()),
        float(excess.max(initial=0.0)),
        _moved(over, axes.of, of),
        () if wrt is None else _moved(over, axes.wrt, wrt),
        tuple(_place(index, of, wrt, a, b, found, excess, axes) for index in order),
        _points(found, order),
    )


@dataclass(frozen=True)
class _Numbers:
    """Differences by element; those at `odd` ones are 0.

    Attributes:
        size: ``max(|a|, |b|)``, 0 where one is not finite.
        scale: root mean square of the larger of both tensors.
        odd: where an element is NaN or infinite in one only.
        lost: how many elements are NaN, or the same infinity, in both.
    """

    size: Array
    scale: float
    odd: Array
    absolute: Array
    relative: Array
    ulps: Array | None
    lost: int = 0

    @classmethod
    def of(cls, a: Array, b: Array, dtype: np.dtype[Any]) -> _Numbers:
        wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
        same = (a == b) | ((a != a) & (b != b))  # NaN is like NaN, an infinity like itself
        a, b = a.astype(wide), b.astype(wide)
        finite = np.isfinite(a) & np.isfinite(b)
        odd = ~finite & ~same
        absolute = np.where(finite & ~same, np.abs(b - a), 0.0)
        if dtype.kind in "iu":  # beyond 2**53, integers that differ may be one number in float64
            absolute = np.where(same, 0.0, np.maximum(absolute, 1.0))
        size = np.where(finite, np.maximum(np.abs(a), np.abs(b)), 0.0)
        relative = np.divide(absolute, size, where=size > 0, out=np.zeros_like(absolute))
        ulps = absolute / unit_in_last_place(size, dtype) if is_float(dtype) and wide is np.float64 else None
        largest = float(size.max(initial=0.0)) or 1.0  # against overflow
        scale = largest * math.sqrt(float(np.mean(np.square(size / largest)))) if size.size else 0.0
        return cls(size, scale, odd, absolute, relative, ulps, int((same & ~finite).sum()))


def _texts(a: Array, b: Array) -> _Numbers:
    """Texts are equal, or they differ by 1."""
    differs = np.asarray(a.astype(str) != b.astype(str)).astype(np.float64)
    zero = np.zeros(a.shape)
    return _Numbers(zero, 0.0, zero.astype(bool), differs, differs, None)


def _spread(values: Array, odd: Array) -> Spread:
    kept = values[~odd]
    return Spread(float(kept.max()), float(np.median(kept))) if kept.size else Spread(0.0, 0.0)


def _moved(over: Array, axes: tuple[int, ...], name: str) -> tuple[str, ...]:
    """Return the elements, along some axes, that are beyond the tolerance: those farthest off first."""
    if not over.size or (not axes and not over.any()):
        return ()
    largest = np.asarray(over.max(axis=tuple(i for i in range(over.ndim) if i not in axes)))
    order = np.argsort(-largest.ravel(), kind="stable")[:NAMED]
    return tuple(
        element(name, np.unravel_index(i, largest.shape), largest.shape) for i in order if largest.ravel()[i] > 0
    )


def element(name: str, index: Sequence[Any], shape: Sequence[int]) -> str:
    """Return the name of an element: ``x[0,3]``, or ``x`` where there is only one."""
    return name if math.prod(shape) == 1 else f"{name}[{','.join(str(int(i)) for i in index)}]"


def _worst(excess: Array, axes: Axes, count: int) -> Iterator[tuple[int, ...]]:
    """Yield the indices of the elements that are farthest off, at most one per sample."""
    if not excess.size:
        return
    if axes.sample is None:
        for i in np.argsort(-excess.ravel(), kind="stable")[:count]:
            index = tuple(map(int, np.unravel_index(i, excess.shape)))
            if excess[index] > 0:
                yield index
        return
    by_sample = np.moveaxis(excess, axes.sample, 0).reshape(excess.shape[axes.sample], -1)
    rest = excess.shape[: axes.sample] + excess.shape[axes.sample + 1 :]
    for sample in np.argsort(-by_sample.max(axis=1), kind="stable")[:count]:
        inner = list(map(int, np.unravel_index(by_sample[sample].argmax(), rest)))
        inner.insert(axes.sample, int(sample))
        if excess[tuple(inner)] > 0:
            yield tuple(inner)


def _place(
    index: tuple[int, ...], of: str, wrt: str | None, a: Array, b: Array, found: _Numbers, excess: Array, axes: Axes
) -> Place:
    def named(name: str, chosen: tuple[int, ...]) -> str:
        return element(name, [index[i] for i in chosen], [a.shape[i] for i in chosen])

    return Place(
        None if axes.sample is None else index[axes.sample],
        named(of, axes.of),
        None if wrt is None else named(wrt, axes.wrt),
        _scalar(a[index]),
        _scalar(b[index]),
        float(found.absolute[index]),
        float(found.relative[index]),
        None if found.ulps is None else float(found.ulps[index]),
        float(excess[index]),
    )


def _scalar(value: Any) -> float | str:
    if isinstance(value, (str, bytes, complex, np.complexfloating)):
        return str(value)
    return float(value)


def _points(found: _Numbers, worst: Sequence[tuple[int, ...]]) -> Array:
    flat = np.unique(np.linspace(0, found.size.size - 1, min(_POINTS, found.size.size)).astype(np.int64))
    extra = [int(np.ravel_multi_index(index, found.size.shape)) for index in worst if index]
    chosen = np.unique(np.concatenate([flat, np.array(extra, np.int64)]))
    return np.stack([found.size.ravel()[chosen], found.absolute.ravel()[chosen]])


_ASSIGNMENT = re.compile(r"(?s)(?:(?P<name>.+)=)?(?P<value>[^=]+)")


def parse_tolerances(words: Sequence[str]) -> dict[str, float] | None:
    """Read ``1e-5`` (for all tensors) and ``y=1e-5``, ``y:x=1e-5`` (for one).

    Raises:
        ValueError: if that is not what is written.
    """
    found: dict[str, float] = {}
    for word in words:
        match = _ASSIGNMENT.fullmatch(word)
        try:
            value = float(match["value"]) if match else math.nan
        except ValueError:
            value = math.nan
        if match is None or not 0 <= value < math.inf:
            raise ValueError(
                f"{word!r} is no tolerance; give a number such as 1e-5, or one for a tensor such as y=1e-5 or y:x=1e-5"
            )
        found[match["name"] or ""] = value
    return found or None
