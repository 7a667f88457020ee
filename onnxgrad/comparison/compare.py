"""Two models side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxgrad.comparison.derive import Entry, again, derived, has_samples, sample_count
from onnxgrad.comparison.differences import Axes, Tolerances, coarser, compared
from onnxgrad.comparison.matching import Match, feeds_of, match
from onnxgrad.comparison.portions import PortionedSubject, in_portions
from onnxgrad.comparison.report import Comparison, Row
from onnxgrad.comparison.subjects import Array, ModelSubject, Subject
from onnxgrad.errors import MixedSamplesError, OnnxgradError, UnknownNameError
from onnxgrad.model.signature import Port

#: Jacobians with more elements than this are compared along random cotangents.
MAX_ELEMENTS = 2**22
#: A tolerance for all tensors, or tolerances by name (``y``, ``y:x``; an empty name for all others).
Tolerance = float | Mapping[str, float] | None
#: Called with the number of steps done and of all steps.
Progress = Callable[[int, int], None]


def compare(
    a: Any,
    b: Any,
    data: Any = None,
    *,
    of: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    derivatives: bool = True,
    straight_through: bool | None = None,
    max_elements: int = MAX_ELEMENTS,
    worst: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Put two models side by side: two exports of one network, float32 and quantized, old and new.

    Their outputs are compared, and their Jacobians: of each floating-point output with respect to each floating-point
    input, per sample where samples do not mix. Where a Jacobian would be too large, products with eight random
    cotangents take its place, which the row says. An element agrees if ``|b - a| ≤ atol + rtol · max(|a|, |b|)``.

    Example:
        >>> print(onnxgrad.compare("old.onnx", "new.onnx", {"x": x}))       # doctest: +SKIP

    Args:
        a: a model: what `load` takes, or a `Function`.
        b: the other one. Its inputs and outputs are matched with those of `a` by name, or by order where names differ.
        data: what is fed: a dictionary of arrays by name of an input, an array or a data frame for a single input. What
            is missing is random. Numbers are rounded to the coarser of both types of an input. A model of a fixed
            number of samples is run on a multiple of it in portions.
        of: the outputs (of `a`) to compare; None: all.
        wrt: the inputs (of `a`) to differentiate by; None: all that are floating-point.
        rtol: relative tolerance, for all tensors or by name: ``{"y": 1e-5, "y:x": 1e-3}``, with ``""`` for all others.
            None: by the coarser of both types, 5e-6 for float32 and 1e-12 for float64. Other types than floating-point
            must be equal.
        atol: absolute tolerance. None: `rtol` times the root mean square of the tensor.
        derivatives: whether derivatives are compared.
        straight_through: whether gradients pass straight through the roundings of quantized operators. None: in a model
            that has those.
        max_elements: Jacobians with more elements are compared along random cotangents.
        worst: number of the worst samples to list.
        seed: seed of random numbers.
        progress: called with the number of steps done and of all steps.

    Raises:
        SignatureError: if the two do not take and return the same things.
        UnknownNameError: if there is no such output or input, or no tensor of a name in a tolerance.
        ModelReadError: if there is no model to be read.
        FeedError: if the data do not fit.
        RunError: if one of the models does not run.
    """
    subjects = (ModelSubject(source, name, straight_through) for source, name in ((a, "a"), (b, "b")))
    first, second = (in_portions(subject, data) for subject in subjects)
    tolerances = Tolerances(rtol, atol)
    return compare_subjects(first, second, data, of, wrt, tolerances, derivatives, max_elements, worst, seed, progress)


def compare_subjects(
    a: ModelSubject,
    b: Subject,
    data: Any,
    of: str | Sequence[str] | None,
    wrt: str | Sequence[str] | None,
    tolerances: Tolerances,
    derivatives: bool,
    max_elements: int,
    worst: int,
    seed: int,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a model with something else; the arguments are those of `compare`."""
    matched = match(a, b, names_of(of))
    inputs = chosen_inputs(a, wrt)
    tolerances.check(tensor_names([p for p, _ in matched.outputs], inputs))
    feeds_a, feeds_b, values_a, values_b, note = feeds_of(a, b, matched.inputs, data, seed)
    samples = sample_count(a.inputs, feeds_a)
    rows, notes = [], [*matched.notes, *notes_on(a, b)]
    for p, q in matched.outputs:
        ours, theirs = as_array(values_a[p.name]), as_array(values_b[q.name])
        if ours is None or theirs is None:
            notes.append(f"output {p.name} is no array, and was not compared")
            continue
        dtype = coarser(ours.dtype, theirs.dtype)
        rows.append(
            compared("output", p.name, None, ours, theirs, output_axes(p, ours, samples), dtype, tolerances, worst)
        )
    if derivatives:
        ports = [p for p, _ in matched.outputs]
        rows += _derivatives(
            a,
            b,
            matched,
            ports,
            inputs,
            (feeds_a, feeds_b),
            (values_a, values_b),
            tolerances,
            max_elements,
            worst,
            seed,
            progress,
        )
        if all(row.kind == "output" and row.absolute is not None for row in rows):  # of shapes that differ, it is said
            notes.append("there is no derivative to compare: no floating-point output, or no such input")
    return Comparison(a.name, b.name, tuple(rows), tuple(notes), note)


def _derivatives(
    a: ModelSubject,
    b: Subject,
    matched: Match,
    of: Sequence[Port],
    wrt: Sequence[Port],
    feeds: tuple[Mapping[str, Any], Mapping[str, Any]],
    values: tuple[Mapping[str, Any], Mapping[str, Any]],
    tolerances: Tolerances,
    max_elements: int,
    worst: int,
    seed: int,
    progress: Progress | None,
) -> list[Row]:
    names = {p.name: q.name for p, q in matched.inputs}
    outputs = {p.name: q.name for p, q in matched.outputs}
    rows: list[Row] = []
    for done, entries in enumerate(derived(a, feeds[0], values[0], of, wrt, max_elements, seed)):
        if progress is not None:
            progress(done, len(of))
        y = outputs[entries[0].of]
        live = [e for e in entries if not isinstance(e.result, OnnxgradError)]
        if np.shape(values[0][entries[0].of]) != np.shape(values[1][y]):
            continue  # which the row of the output says
        found = again(b, feeds[1], y, values[1][y], entries, names, seed)
        mixing = [e for e in live if e.kind == "jacobian" and isinstance(found[e.wrt], MixedSamplesError)]
        if mixing:  # samples mix in the second one: both in full
            full = [replace(e, per_sample=False) for e in mixing]
            shape = values[0][entries[0].of]
            ours = again(a, feeds[0], entries[0].of, shape, full, {e.wrt: e.wrt for e in full}, seed)
            found.update(again(b, feeds[1], y, values[1][y], full, names, seed))
            replaced = {e.wrt: replace(e, result=ours[e.wrt]) for e in full}
            entries = [replaced.get(e.wrt, e) for e in entries]
        for e in entries:
            coarse = coarser(
                *(np.asarray(v).dtype for v in (values[0][e.of], values[1][y], feeds[0][e.wrt], feeds[1][names[e.wrt]]))
            )
            rows.append(derivative_row(e, found.get(e.wrt), coarse, tolerances, worst, (a.name, b.name)))
    return rows


def derivative_row(
    entry: Entry,
    other: Array | OnnxgradError | None,
    dtype: np.dtype[Any],
    tolerances: Tolerances,
    worst: int,
    names: tuple[str, str],
) -> Row:
    """Return what is to be said of a derivative; where there is none, why.

    A derivative that one of the two has and the other has not is a difference. `other` is None where it was not tried.
    """
    refusals = [
        f"in {name}: {result}"
        for name, result in zip(names, (entry.result, other), strict=True)
        if isinstance(result, OnnxgradError)
    ]
    if refusals:
        in_one = len(refusals) == 1 and other is not None
        return Row(entry.kind, entry.of, entry.wrt, "differs" if in_one else "refused", "; ".join(refusals), dtype.name)
    assert isinstance(entry.result, np.ndarray)
    assert isinstance(other, np.ndarray)
    axes = entry.axes
    return compared(entry.kind, entry.of, entry.wrt, entry.result, other, axes, dtype, tolerances, worst, entry.detail)


def names_of(names: str | Sequence[str] | None) -> list[str] | None:
    """Return names as a list."""
    return [names] if isinstance(names, str) else None if names is None else list(dict.fromkeys(names))


def chosen_inputs(subject: Subject, wrt: str | Sequence[str] | None) -> list[Port]:
    """Return the inputs to differentiate by.

    Raises:
        UnknownNameError: if there is none of a name in `wrt`.
    """
    names = names_of(wrt)
    known = {port.name: port for port in subject.inputs}
    for name in names or ():
        if name not in known:
            raise UnknownNameError.among("an input of the model", name, known)
    return list(subject.inputs) if names is None else [known[name] for name in names]


def tensor_names(of: Sequence[Port], wrt: Sequence[Port]) -> list[str]:
    """Return what tensors are called in tolerances."""
    return [*(y.name for y in of), *(f"{y.name}:{x.name}" for y in of for x in wrt)]


def notes_on(*subjects: Subject) -> list[str]:
    """Return what is to be said of models that are run in a way that nobody asked for."""
    straight = [
        f"{s.name} is quantized: its gradients pass straight through roundings (see docs/quantized.md)"
        for s in subjects
        if isinstance(s, ModelSubject) and s.straight_through
    ]
    portions = [
        f"{s.name} takes {s.size} at a time, and was run on the samples in such portions"
        for s in subjects
        if isinstance(s, PortionedSubject)
    ]
    return straight + portions


def output_axes(port: Port, value: Array, samples: int | None) -> Axes:
    """Return what the axes of an output stand for."""
    if has_samples(port, value, samples):
        return Axes(tuple(range(1, value.ndim)), sample=0)
    return Axes(tuple(range(value.ndim)))


def as_array(value: Any) -> Array | None:
    """Return an output as an array: a sequence of arrays of one shape, or of maps with the same keys, too."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        keys = list(value[0])
        same = all(set(item) == set(keys) for item in value)
        return np.array([[item[key] for key in sorted(keys, key=str)] for item in value]) if same else None
    if isinstance(value, (list, dict)):
        shapes = {np.shape(item) for item in value}
        return np.stack([np.asarray(item) for item in value]) if isinstance(value, list) and len(shapes) == 1 else None
    return np.asarray(value)
