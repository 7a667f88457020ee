"""Inputs to check a model with, where the user gives none: arrays of sensible ranges, several kinds to try in turn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from onnxgrad.errors import FeedError, UnknownNameError
from onnxgrad.model.signature import Port

#: Sizes for axes whose size is open, in the order in which they are tried: small ones, then what a network of
#: convolutions or a spectrum needs at least. The first axis, if it is open, holds samples: two of them.
_OPEN_SIZES = (3, 8, 32, 64, 224, 512, 1)
_SAMPLES = 2

_RATE = re.compile(r"(^|[^a-z])(sr|rate|sampl(e|ing)_?rate)($|[^a-z])", re.IGNORECASE)
_LENGTH = re.compile(r"len|count|num|size", re.IGNORECASE)
_MASK = re.compile(r"mask", re.IGNORECASE)


@dataclass(frozen=True)
class Trial:
    """One set of inputs.

    Attributes:
        feeds: the inputs by name.
        note: how they were chosen, in words.
    """

    feeds: dict[str, Any]
    note: str


def trials(ports: tuple[Port, ...], data: Mapping[str, Any] | None, seed: int) -> Iterator[Trial]:
    """Yield inputs for a model, the likeliest first; a single one if `data` gives them all.

    Args:
        ports: the inputs of the model.
        data: arrays by name, for all or some inputs.
        seed: seed of the random numbers.

    Raises:
        UnknownNameError: if `data` has a name that is no input.
        FeedError: if an input that is no tensor is missing in `data`.
    """
    given = {name: _as_given(value) for name, value in (data or {}).items()}
    for name in given:
        if name not in {port.name for port in ports}:
            raise UnknownNameError.among("an input of the model", name, [port.name for port in ports])
    missing = [port for port in ports if port.name not in given]
    for port in missing:
        if port.kind != "tensor" or port.dtype is None or port.shape is None or port.dtype.kind in "OUS":
            raise FeedError(
                f"no input can be made up for {port.name!r} ({port.kind} of {port.dtype}, shape {port.shape}); "
                "give it in `data`"
            )
    if not missing:
        yield Trial(given, "the given data")
        return
    is_open = any(not _is_size(d) for port in missing for d in port.shape or ())
    for size in _OPEN_SIZES if is_open else (0,):
        for note, draw in _RANGES.items():
            rng = np.random.default_rng(seed)
            sizes = _bound_sizes(ports, given)
            feeds = dict(given)
            for port in missing:
                feeds[port.name] = _array(port, draw, rng, sizes, size)
            words = f"random, {note}" + (f", open sizes {size}" if is_open else "")
            yield Trial(feeds, words + (" (beside the given data)" if given else ""))


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.normal(size=shape)


def _unit(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.uniform(0.05, 0.95, size=shape)


def _small(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return 0.1 * rng.normal(size=shape)


def _large(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.uniform(1, 50, size=shape)


_RANGES = {
    "normal numbers": _normal,
    "numbers between 0 and 1": _unit,
    "normal numbers / 10": _small,
    "numbers between 1 and 50": _large,
}


def _as_given(value: Any) -> Any:
    return [np.asarray(v) for v in value] if isinstance(value, list) else np.asarray(value)


def _bound_sizes(ports: tuple[Port, ...], given: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes by name that the given data settles."""
    sizes: dict[str, int] = {}
    for port in ports:
        array = given.get(port.name)
        if isinstance(array, np.ndarray) and port.shape is not None:
            for dim, size in zip(port.shape, array.shape, strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
    return sizes


def _is_size(dim: int | str | None) -> TypeGuard[int]:
    """Whether an axis has a size that is a number: some files say -1 where it is open."""
    return isinstance(dim, int) and dim >= 0


def _array(port: Port, draw: Any, rng: np.random.Generator, sizes: dict[str, int], open_size: int) -> Any:
    assert port.shape is not None
    assert port.dtype is not None
    shape = []
    for axis, dim in enumerate(port.shape):
        if _is_size(dim):
            shape.append(dim)
        else:
            default = _SAMPLES if axis == 0 and open_size > 1 else open_size
            shape.append(sizes.setdefault(dim, default) if isinstance(dim, str) else default)
    dtype, dims = port.dtype, tuple(shape)
    if dtype.kind == "b":
        return np.ones(dims, bool) if _MASK.search(port.name) else rng.random(dims) < 0.5
    if dtype.kind in "iu":
        if _RATE.search(port.name):
            return np.full(dims, 16000, dtype)
        if _MASK.search(port.name):
            return np.ones(dims, dtype)
        if _LENGTH.search(port.name) and open_size:
            return rng.integers(1, open_size, size=dims, endpoint=True).astype(dtype)
        return rng.integers(0, 2, size=dims).astype(dtype)
    if dtype.kind == "c":
        return (draw(rng, dims) + 1j * draw(rng, dims)).astype(dtype)
    return np.asarray(draw(rng, dims)).astype(dtype)
