"""Which inputs and outputs of two models belong together, and what is fed to both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgrad.checks.inputs import trials
from onnxgrad.comparison.derive import sample_count
from onnxgrad.comparison.differences import coarser, is_float
from onnxgrad.comparison.subjects import Subject
from onnxgrad.errors import FeedError, RunError, SignatureError, UnknownNameError
from onnxgrad.model.signature import Port
from onnxgrad.runtime.feeds import Feeds

Pairs = list[tuple[Port, Port]]


@dataclass(frozen=True)
class Match:
    """Inputs and outputs of two models that belong together, and how they were found."""

    inputs: Pairs
    outputs: Pairs
    notes: tuple[str, ...]


def match(a: Subject, b: Subject, of: Sequence[str] | None = None) -> Match:
    """Match inputs and outputs by name, or by order where names differ.

    Args:
        a: one model.
        b: the other.
        of: names of the outputs of `a` that are compared; None: all.

    Raises:
        SignatureError: if they do not fit.
        UnknownNameError: if there is no output of a name in `of`.
    """
    notes: list[str] = []
    outputs = list(a.outputs)
    if of is not None:
        known = {port.name: port for port in outputs}
        for name in of:
            if name not in known:
                raise UnknownNameError.among("an output of the model", name, known)
        outputs = [known[name] for name in of]
    inputs = _paired("inputs", a, b, a.inputs, a.inputs, b.inputs, notes)
    return Match(inputs, _paired("outputs", a, b, outputs, a.outputs, b.outputs, notes), tuple(notes))


def _paired(
    what: str,
    a: Subject,
    b: Subject,
    wanted: Sequence[Port],
    ours: Sequence[Port],
    theirs: Sequence[Port],
    notes: list[str],
) -> Pairs:
    by_name = {port.name: port for port in theirs}
    whole = what == "outputs" and len(wanted) < len(ours)
    if all(port.name in by_name for port in wanted) and (whole or len(ours) == len(theirs)):
        pairs = [(port, by_name[port.name]) for port in wanted]
    elif len(ours) == len(theirs):
        pairs = [(p, q) for p, q in zip(ours, theirs, strict=True) if p in wanted]
        notes.append(f"{what} are matched by order: " + ", ".join(f"{p.name} with {q.name}" for p, q in pairs))
    else:
        remedy = "choose the outputs to compare, by `of`" if what == "outputs" else "give models of one signature"
        raise SignatureError(
            f"the {what} of the two models do not match: {a.name} has {_listed(ours)}, and {b.name} has "
            f"{_listed(theirs)}; {remedy}"
        )
    for p, q in pairs:
        why = _unlike(p, q)
        if why:
            raise SignatureError(
                f"{what[:-1]} {p.name!r} of {a.name} is {spelled(p)}, and "
                f"{'it' if p.name == q.name else repr(q.name)} of {b.name} is {spelled(q)}: {why}; "
                "only models of one signature can be compared"
                + ("" if p.name == q.name else ", by the names of their inputs and outputs, or else in their order")
            )
    return pairs


def _unlike(p: Port, q: Port) -> str:
    """Return why two ports cannot stand for one another, if they cannot."""
    if "unknown" not in (p.kind, q.kind) and p.kind != q.kind:
        return "they are of different kinds"
    if p.dtype is not None and q.dtype is not None and _sort(p) != _sort(q):
        return "their elements are of different kinds"
    if p.shape is not None and q.shape is not None:
        if len(p.shape) != len(q.shape):
            return "they have different numbers of axes"
        for axis, (m, n) in enumerate(zip(p.shape, q.shape, strict=True)):
            if isinstance(m, int) and isinstance(n, int) and m != n and min(m, n) >= 0:
                return f"axis {axis} has different sizes"
    return ""


def _sort(port: Port) -> str:
    assert port.dtype is not None
    if is_float(port.dtype):
        return "float"
    return {"u": "integer", "i": "integer", "O": "text", "U": "text", "S": "text"}.get(port.dtype.kind, port.dtype.kind)


def spelled(port: Port) -> str:
    """Return what a port is, e.g. ``float32[N, 3]``."""
    kind = port.kind if port.kind != "tensor" else "?" if port.dtype is None else port.dtype.name
    return kind if port.shape is None else f"{kind}[{', '.join('?' if d is None else str(d) for d in port.shape)}]"


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(f"{port.name} {spelled(port)}" for port in ports) or "none"


# --- what is fed -------------------------------------------------------------------------------


def feeds_of(
    a: Subject, b: Subject, inputs: Pairs, data: Any, seed: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """Return what is fed to both models, what both return for it, and where it came from.

    Numbers are rounded to the coarser of both types of an input, so that both models get the same ones.

    Args:
        a: one model.
        b: the other.
        inputs: their inputs.
        data: a dictionary of arrays by name of an input of `a` (or of `b`), an array or a data frame for a single
            input; what is missing is random.
        seed: seed of random numbers.

    Raises:
        FeedError, UnknownNameError: if the data do not fit.
        RunError: if one of the models does not run.
    """
    given = _by_name(a, inputs, data)
    merged = _merged(inputs)
    both = {port.name for port in merged} <= set(given)
    if sample_count(merged, given) == 0:
        raise FeedError("there are no samples in the data, so there is nothing to compare; give some")
    said: list[str] = []
    fallback = None
    for trial in trials(merged, given, seed):
        first, second = _converted(inputs, trial.feeds)
        first, second = Feeds(a.inputs).bind((first,), {}), Feeds(b.inputs).bind((second,), {})
        try:
            found = first, second, a.values(first), b.values(second), trial.note
        except RunError as error:
            if both:
                raise
            said.append(str(error))
            continue
        if both or all(map(_is_finite, [*found[2].values(), *found[3].values()])):
            return found
        fallback = fallback or found
    if fallback is None:
        raise RunError(f"the models do not run on any inputs that were tried; give data. On the first: {said[0]}")
    return fallback


def _by_name(a: Subject, inputs: Pairs, data: Any) -> dict[str, Any]:
    """Return data by the names of the first model."""
    if data is None:
        return {}
    if isinstance(data, Mapping):
        ours = {p.name for p, _ in inputs}
        theirs = {q.name: p.name for p, q in inputs}
        if not set(data) & ours and set(data) <= set(theirs):
            return {theirs[name]: value for name, value in data.items()}
        return dict(data)
    return Feeds(a.inputs).bind((data,), {})


def _merged(inputs: Pairs) -> tuple[Port, ...]:
    """Return the inputs of the first model, with sizes that only the second one fixes."""
    fixed = {
        m: n
        for p, q in inputs
        for m, n in zip(p.shape or (), q.shape or (), strict=False)
        if isinstance(m, str) and isinstance(n, int) and n >= 0
    }

    def size(m: int | str | None, n: int | str | None) -> int | str | None:
        if isinstance(m, str):
            return fixed.get(m, m)
        return n if m is None and isinstance(n, int) and n >= 0 else m

    return tuple(
        Port(
            p.name,
            p.kind,
            p.dtype,
            p.shape if p.shape is None or q.shape is None else tuple(map(size, p.shape, q.shape)),
        )
        for p, q in inputs
    )


def _converted(inputs: Pairs, feeds: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the feeds by the names of both models, in the coarser type."""
    first, second = {}, {}
    for p, q in inputs:
        if p.name not in feeds:  # an optional one
            continue
        value = feeds[p.name]
        if p.dtype is not None and q.dtype is not None and is_float(p.dtype) and isinstance(value, np.ndarray):
            coarse = coarser(p.dtype, q.dtype)
            if is_float(value.dtype) and value.dtype != coarse and p.kind == "tensor":
                with np.errstate(over="ignore"):
                    value = value.astype(coarse)
        first[p.name] = second[q.name] = value
    return first, second


def _is_finite(value: Any) -> bool:
    array = np.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else None
    return array is None or array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
