"""Derivatives of one subject, in a form in which those of another can be put beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onnxgrad.comparison.differences import Axes, is_float
from onnxgrad.comparison.subjects import Array, Result, Subject
from onnxgrad.errors import MixedSamplesError, OnnxgradError
from onnxgrad.model.signature import Port

#: Number of random cotangents, where a Jacobian would be too large.
SEEDS = 8


@dataclass(frozen=True)
class Entry:
    """The derivative of an output with respect to an input.

    Attributes:
        kind: "jacobian", or "vjp" along random cotangents.
        of: the output.
        wrt: the input.
        result: the derivative, or why there is none.
        per_sample: for a Jacobian, whether it is one per sample; for a VJP, whether the first axis of the input is that
            of samples.
        of_rank: number of axes of the output.
        elements: number of elements that the Jacobian has, or would have.
    """

    kind: Literal["jacobian", "vjp"]
    of: str
    wrt: str
    result: Result
    per_sample: bool
    of_rank: int
    elements: int

    @property
    def axes(self) -> Axes:
        """What the axes of the derivative stand for."""
        rank = np.ndim(self.result) if not isinstance(self.result, OnnxgradError) else 0
        if self.kind == "vjp":  # (seeds, *x)
            return Axes((), tuple(range(2 if self.per_sample else 1, rank)), 1 if self.per_sample else None)
        start = 1 if self.per_sample else 0
        return Axes(tuple(range(start, self.of_rank)), tuple(range(self.of_rank, rank)), 0 if self.per_sample else None)

    @property
    def detail(self) -> str:
        """What there is to say of it."""
        if self.kind == "jacobian":
            return ""
        return f"along {SEEDS} random cotangents, since the Jacobian would have {self.elements} elements"


def has_samples(port: Port, value: Any, samples: int | None) -> bool:
    """Whether axis 0 of a tensor is that of samples: of open size, and as long as there are samples."""
    return bool(
        samples is not None
        and port.shape
        and not isinstance(port.shape[0], int)
        and np.ndim(value)
        and np.shape(value)[0] == samples
    )


def sample_count(inputs: Sequence[Port], feeds: Mapping[str, Any]) -> int | None:
    """Return the number of samples: the size of axis 0 of the first input in which that is open."""
    for port in inputs:
        if port.kind == "tensor" and port.shape and not isinstance(port.shape[0], int) and port.name in feeds:
            return int(np.shape(feeds[port.name])[0])
    return None


def derived(
    subject: Subject,
    feeds: Mapping[str, Any],
    values: Mapping[str, Any],
    of: Sequence[Port],
    wrt: Sequence[Port],
    max_elements: int,
    seed: int,
) -> Iterator[list[Entry]]:
    """Yield, for each output, its derivatives with respect to all inputs.

    Args:
        subject: what is differentiated.
        feeds: its inputs.
        values: its outputs for them.
        of: the outputs; those that are no floating-point tensors are passed over.
        wrt: the inputs; the same.
        max_elements: Jacobians with more elements than this are replaced by products with random cotangents.
        seed: seed of these.
    """
    samples = sample_count(subject.inputs, feeds)
    xs = [x for x in wrt if x.kind == "tensor" and is_float(x.dtype)]
    for y in of:
        value = values[y.name]
        if y.kind == "tensor" and is_float(y.dtype) and isinstance(value, np.ndarray) and xs:
            yield _derived(subject, feeds, y, value, xs, samples, max_elements, seed)


def _derived(
    subject: Subject,
    feeds: Mapping[str, Any],
    y: Port,
    value: Array,
    xs: Sequence[Port],
    samples: int | None,
    max_elements: int,
    seed: int,
) -> list[Entry]:
    found: dict[str, Entry] = {}

    def entry(kind: Literal["jacobian", "vjp"], x: Port, flag: bool) -> Entry:
        elements = value.size * int(np.size(feeds[x.name])) // (max(samples or 1, 1) if flag else 1)
        unknown = OnnxgradError("not computed")
        return Entry(kind, y.name, x.name, unknown, flag, value.ndim, elements)

    def run(entries: Sequence[Entry]) -> Iterator[Entry]:
        results = again(subject, feeds, y.name, value, entries, {e.wrt: e.wrt for e in entries}, seed)
        return (replace(e, result=results[e.wrt]) for e in entries)

    apart = [has_samples(y, value, samples) and has_samples(x, feeds[x.name], samples) for x in xs]
    first = [entry("jacobian", x, flag) for x, flag in zip(xs, apart, strict=True)]
    for e in run([e for e in first if e.elements <= max_elements]):
        found[e.wrt] = e
    mixed = [x for x in xs if x.name in found and isinstance(found[x.name].result, MixedSamplesError)]
    full = [e for x in mixed if (e := entry("jacobian", x, False)).elements <= max_elements]
    for e in run(full):
        found[e.wrt] = e
    wide = [x for x in xs if x.name not in found or isinstance(found[x.name].result, MixedSamplesError)]
    of_samples = {x.name: has_samples(x, feeds[x.name], samples) for x in wide}
    for e in run([replace(entry("vjp", x, False), per_sample=of_samples[x.name]) for x in wide]):
        found[e.wrt] = e
    return [found[x.name] for x in xs]


def again(
    subject: Subject,
    feeds: Mapping[str, Any],
    y: str,
    value: Any,
    entries: Sequence[Entry],
    names: Mapping[str, str],
    seed: int,
) -> dict[str, Result]:
    """Return the derivatives of an output which stand beside given ones, by the input of those.

    Args:
        subject: what is differentiated.
        feeds: its inputs.
        y: the output.
        value: its value.
        entries: the derivatives, all of one output.
        names: for the input of each, that of the subject.
        seed: seed of random cotangents.
    """
    results: dict[str, Result] = {}
    for kind, flag in dict.fromkeys((e.kind, e.per_sample and e.kind == "jacobian") for e in entries):
        group = [e for e in entries if e.kind == kind and (kind == "vjp" or e.per_sample == flag)]
        xs = [names[e.wrt] for e in group]
        if kind == "jacobian":
            found = subject.jacobians(feeds, y, xs, flag)
        else:
            found = subject.vjps(feeds, y, xs, cotangents(np.shape(value), seed))
        results.update({e.wrt: found[x] for e, x in zip(group, xs, strict=True)})
    return results


def cotangents(shape: tuple[int, ...], seed: int) -> Array:
    """Return random cotangents for an output, with seeds in front: signs, which any type holds exactly."""
    drawn = np.random.default_rng(seed).integers(0, 2, size=SEEDS * math.prod(shape))
    return (2.0 * drawn - 1.0).reshape(SEEDS, *shape)
