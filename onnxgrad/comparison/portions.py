"""Models of a fixed number of samples, on data that have a multiple of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxgrad.comparison.subjects import Array, ModelSubject, Result
from onnxgrad.errors import OnnxgradError
from onnxgrad.model.signature import Port


def in_portions(subject: ModelSubject, data: Any) -> ModelSubject:
    """Return a model so that it takes all of the data, if it can be given them in portions.

    That is so if all its inputs and outputs have several axes, and the same fixed size on axis 0, and the data have a
    multiple of it.

    Args:
        subject: the model.
        data: arrays by name of an input, an array or a data frame for the only one, or None.
    """
    ports = (*subject.inputs, *subject.outputs)
    sizes = {p.shape[0] if p.kind == "tensor" and p.shape is not None and len(p.shape) > 1 else None for p in ports}
    size, rows = sizes.pop(), _rows(data)
    if sizes or not isinstance(size, int) or size < 1 or rows is None or rows <= size or rows % size:
        return subject
    return PortionedSubject(subject, size)


def _rows(data: Any) -> int | None:
    """Return how many samples there are, if all data have the same number."""
    values = list(data.values()) if isinstance(data, Mapping) else [] if data is None else [data]
    found = {np.shape(value)[0] if np.ndim(value) else None for value in values}
    return found.pop() if len(found) == 1 else None


class PortionedSubject(ModelSubject):
    """A model of a fixed number of samples, which is run once for each portion of the data.

    Between portions nothing depends on anything, whatever the model does, since each is a run of its own.

    Args:
        subject: the model.
        size: how many samples it takes.
    """

    def __init__(self, subject: ModelSubject, size: int) -> None:
        self.function, self.name = subject.function, subject.name
        self.straight_through = subject.straight_through
        self.size = size
        self.inputs = tuple(map(_opened, subject.inputs))
        self.outputs = tuple(map(_opened, subject.outputs))

    def values(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """See `Subject.values`."""
        parts = [ModelSubject.values(self, portion) for portion in self._portions(feeds)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def jacobians(self, feeds: Mapping[str, Any], y: str, xs: Sequence[str], per_sample: bool) -> dict[str, Result]:
        """See `Subject.jacobians`."""
        rank = next(len(port.shape or ()) for port in self.outputs if port.name == y)
        alone = per_sample and self.size == 1  # there is nothing to prove, then

        def join(parts: list[Array]) -> Array:
            if alone:
                return np.concatenate([np.squeeze(part, rank) for part in parts])
            return np.concatenate(parts) if per_sample else _diagonal(parts, rank)

        flag = per_sample and not alone
        return _joined(xs, [ModelSubject.jacobians(self, p, y, xs, flag) for p in self._portions(feeds)], join)

    def vjps(self, feeds: Mapping[str, Any], y: str, xs: Sequence[str], cotangents: Array) -> dict[str, Result]:
        """See `Subject.vjps`."""
        cts = np.split(cotangents, cotangents.shape[1] // self.size, axis=1)
        portions = zip(self._portions(feeds), cts, strict=True)
        parts = [ModelSubject.vjps(self, portion, y, xs, ct) for portion, ct in portions]
        return _joined(xs, parts, lambda found: np.concatenate(found, axis=1))

    def _portions(self, feeds: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        rows = len(next(iter(feeds.values())))
        for start in range(0, rows, self.size):
            yield {name: value[start : start + self.size] for name, value in feeds.items()}


def _opened(port: Port) -> Port:
    assert port.shape is not None
    return Port(port.name, port.kind, port.dtype, ("samples", *port.shape[1:]))


def _joined(
    xs: Sequence[str], parts: Sequence[Mapping[str, Result]], join: Callable[[list[Array]], Array]
) -> dict[str, Result]:
    """Return the derivatives of all portions, by input; the first refusal where there is one."""
    found: dict[str, Result] = {}
    for x in xs:
        of_x = [part[x] for part in parts]
        refusal = next((part for part in of_x if isinstance(part, OnnxgradError)), None)
        found[x] = refusal or join([part for part in of_x if not isinstance(part, OnnxgradError)])
    return found


def _diagonal(parts: Sequence[Array], rank: int) -> Array:
    """Return Jacobians ``(n, *y, n, *x)`` of portions, `rank` the axis of the second n, as one with zeros between."""
    n, (first, *_) = len(parts[0]), parts
    shape = list(first.shape)
    shape[0] = shape[rank] = n * len(parts)
    whole = np.zeros(shape, first.dtype)
    for k, part in enumerate(parts):
        place: list[Any] = [slice(None)] * whole.ndim
        place[0] = place[rank] = slice(k * n, (k + 1) * n)
        whole[tuple(place)] = part
    return whole


__all__ = ["PortionedSubject", "in_portions"]
