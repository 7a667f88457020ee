"""Golden files: values and derivatives of a model, written down to be held against later versions of it.

A golden file is one ``.npz`` file. Its entry ``onnxgrad`` holds JSON: the signature of the model, what each array is,
the tolerances, and what versions of software it was made with. The arrays are inputs, outputs and derivatives.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from onnxgrad.comparison.compare import (
    Progress,
    Tolerance,
    as_array,
    chosen_inputs,
    derivative_row,
    names_of,
    notes_on,
    output_axes,
    tensor_names,
)
from onnxgrad.comparison.derive import Entry, again, derived, sample_count
from onnxgrad.comparison.differences import Tolerances, coarser, compared
from onnxgrad.comparison.matching import feeds_of, match, spelled
from onnxgrad.comparison.portions import in_portions
from onnxgrad.comparison.report import Comparison, Row
from onnxgrad.comparison.subjects import Array, ModelSubject
from onnxgrad.errors import GoldenError, OnnxgradError
from onnxgrad.model.signature import Port
from onnxgrad.model.write import write_all_or_nothing
from onnxgrad.runtime.feeds import Feeds

#: Key of the JSON in the file.
KEY = "onnxgrad"
#: Golden files live in repositories: Jacobians with more elements than this are recorded along random cotangents.
MAX_ELEMENTS = 2**18

_FORMAT = 1


@dataclass(frozen=True)
class Recorded:
    """One tensor in a golden file: an output (`entry` is None) or a derivative, and its tolerance."""

    of: str
    wrt: str | None
    value: Array | None
    entry: Entry | None
    rtol: float
    atol: float


@dataclass(frozen=True)
class Golden:
    """The content of a golden file.

    Attributes:
        path: the file.
        model: what the model was called.
        signature: what it takes and returns, as ``{"inputs": [[name, type and shape], …], "outputs": …}``.
        feeds: what it was fed.
        tensors: what came out.
        seed: seed of random cotangents.
        straight_through: whether gradients passed straight through roundings; None: in a quantized model.
        data: where the inputs came from.
        made_with: versions of software.
    """

    path: str
    model: str
    signature: dict[str, list[list[str]]]
    feeds: dict[str, Array]
    tensors: tuple[Recorded, ...]
    seed: int
    straight_through: bool | None
    data: str
    made_with: dict[str, str]


def record(
    model: Any,
    data: Any,
    path: str | os.PathLike[str],
    *,
    of: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    straight_through: bool | None = None,
    max_elements: int = MAX_ELEMENTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Golden:
    """Write values and derivatives of a model to a golden file, for `verify`.

    The file appears whole or not at all. Derivatives that are refused are recorded as refused.

    Args:
        model: what `load` takes, or a `Function`.
        data: what is fed, as for `compare`; None: random numbers.
        path: the ``.npz`` file to write.
        of: the outputs to record; None: all.
        wrt: the inputs to differentiate by; None: all that are floating-point.
        rtol: relative tolerance that `verify` shall use, for all tensors or by name, as for `compare`.
        atol: absolute tolerance. None: `rtol` times the root mean square of the tensor as it is now.
        straight_through: as for `compare`.
        max_elements: Jacobians with more elements are recorded along random cotangents.
        seed: seed of random numbers.
        progress: called with the number of steps done and of all steps.

    Raises:
        GoldenError: if `path` does not end in .npz, an output is no array, or all derivatives are refused.
        ModelWriteError: if the file cannot be written.
        OnnxgradError: what `compare` raises.
    """
    target = os.fspath(path)
    if not target.lower().endswith(".npz"):
        raise GoldenError(f"{target!r} is no name of a golden file; give one that ends in .npz")
    subject = in_portions(ModelSubject(model, "the model", straight_through), data)
    matched = match(subject, subject, names_of(of))
    outputs, inputs = [p for p, _ in matched.outputs], chosen_inputs(subject, wrt)
    tolerances = Tolerances(rtol, atol)
    tolerances.check(tensor_names(outputs, inputs))
    feeds, _, values, _, note = feeds_of(subject, subject, matched.inputs, data, seed)
    arrays: dict[str, Array] = {}
    records: list[dict[str, Any]] = []

    def add(fields: dict[str, Any], name: str, value: Array, dtype: np.dtype[Any]) -> None:
        scale = 0.0
        if dtype.kind not in "OUS" and value.size:
            finite = np.abs(np.where(np.isfinite(value), value, 0).astype(np.float64))
            scale = float(np.sqrt(np.mean(np.square(finite))))
        used = dict(zip(("rtol", "atol"), tolerances.of(name, dtype, scale), strict=True))
        records.append({**fields, "array": f"t{len(records)}", "dtype": dtype.name, **used})
        arrays[f"t{len(records) - 1}"] = _storable(value)

    for i, (name, value) in enumerate(feeds.items()):
        arrays[f"x{i}"] = _storable(_fed(name, value))
    for p in outputs:
        value = as_array(values[p.name])
        if value is None:
            raise GoldenError(f"output {p.name!r} is no array and cannot be recorded; choose others, by `of`")
        add({"kind": "output", "of": p.name}, p.name, value, value.dtype)
    for done, entries in enumerate(derived(subject, feeds, values, outputs, inputs, max_elements, seed)):
        if progress is not None:
            progress(done, len(outputs))
        for e in entries:
            fields = {"kind": e.kind, "of": e.of, "wrt": e.wrt, "per_sample": e.per_sample, "elements": e.elements}
            if isinstance(e.result, OnnxgradError):
                records.append({**fields, "refused": str(e.result)})
            else:
                kinds = (np.asarray(values[e.of]).dtype, np.asarray(feeds[e.wrt]).dtype)
                add(fields, f"{e.of}:{e.wrt}", e.result, coarser(*kinds))
    refusals = [r["refused"] for r in records if "refused" in r]
    if refusals and len(refusals) == sum(r["kind"] != "output" for r in records):
        raise GoldenError("there is no derivative to record: " + "; ".join(dict.fromkeys(refusals)))
    content = {
        "format": _FORMAT,
        "model": subject.name,
        "signature": _signature(subject),
        "inputs": list(feeds),
        "tensors": records,
        "seed": seed,
        "straight_through": straight_through,
        "data": "the given data" if data is not None and note == "the given data" else note,
        "made_with": _versions(),
    }
    arrays[KEY] = np.array(json.dumps(content, ensure_ascii=False))
    with write_all_or_nothing(target) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return read_golden(target)


def verify(
    model: Any,
    path: str | os.PathLike[str],
    *,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    worst: int = 5,
    progress: Progress | None = None,
) -> Comparison:
    """Hold a model against a golden file that `record` made: `a` is the file, `b` the model.

    Args:
        model: what `load` takes, or a `Function`.
        path: the golden file.
        rtol: relative tolerance, instead of those in the file, for all tensors or by name.
        atol: absolute tolerance, likewise.
        worst: number of the worst samples to list.
        progress: called with the number of steps done and of all steps.

    Raises:
        GoldenError: if the file is none, is damaged, or was made from a model with another signature.
        OnnxgradError: what `compare` raises.
    """
    golden = read_golden(path)
    subject = in_portions(ModelSubject(model, "the model", golden.straight_through), golden.feeds)
    _check_signature(golden, subject)
    names = [t.of if t.wrt is None else f"{t.of}:{t.wrt}" for t in golden.tensors]
    Tolerances(rtol, atol).check(names)
    tolerances = Tolerances(
        _overridden(rtol, {name: t.rtol for name, t in zip(names, golden.tensors, strict=True)}),
        _overridden(atol, {name: t.atol for name, t in zip(names, golden.tensors, strict=True)}),
    )
    feeds = Feeds(subject.inputs).bind((golden.feeds,), {})
    values = subject.values(feeds)
    ports = {port.name: port for port in subject.outputs}
    samples = sample_count(subject.inputs, feeds)
    rows: list[Row] = []
    for t in golden.tensors:
        if t.value is None or t.entry is not None:
            continue
        found = as_array(values[t.of])
        if found is None:
            raise GoldenError(
                f"output {t.of!r} of the model is no array any more, and was one when {golden.path!r} was made"
            )
        axes = output_axes(ports[t.of], t.value, samples)
        dtype = coarser(found.dtype, t.value.dtype)
        rows.append(compared("output", t.of, None, t.value, found, axes, dtype, tolerances, worst))
    by_output: dict[str, list[Recorded]] = {}
    for t in golden.tensors:
        if t.entry is not None:
            by_output.setdefault(t.of, []).append(t)
    for done, (y, group) in enumerate(by_output.items()):
        if progress is not None:
            progress(done, len(by_output))
        entries = [t.entry for t in group if t.entry is not None]
        live = [e for e in entries if not isinstance(e.result, OnnxgradError)]
        if live and np.ndim(values[y]) != live[0].of_rank:
            continue  # which the row of the output says
        found_by = again(subject, feeds, y, values[y], live, {e.wrt: e.wrt for e in live}, golden.seed)
        for e in entries:
            kinds = (np.asarray(values[y]).dtype, np.asarray(feeds[e.wrt]).dtype)
            rows.append(
                derivative_row(e, found_by.get(e.wrt), coarser(*kinds), tolerances, worst, (golden.path, subject.name))
            )
    return Comparison(golden.path, subject.name, tuple(rows), tuple(notes_on(subject)), f"those in {golden.path}")


def _overridden(given: Tolerance, kept: dict[str, float]) -> dict[str, float]:
    if given is None:
        return kept
    if isinstance(given, Mapping):
        return {name: given.get(name, given.get("", value)) for name, value in kept.items()}
    return dict.fromkeys(kept, float(given))


# --- what is stored ----------------------------------------------------------------------------


def _fed(name: str, value: Any) -> Array:
    if isinstance(value, (list, dict)) or value is None:
        raise GoldenError(f"input {name!r} is no array, and a golden file holds arrays only; use `compare` instead")
    return np.asarray(value)


def _storable(value: Array) -> Array:
    """Return an array in a type that numpy's files hold."""
    if value.dtype.kind in "OS":
        return value.astype(np.str_)
    return value.astype(np.float32) if value.dtype.kind == "V" else value  # bfloat16 and smaller: float32 holds them


def _signature(subject: ModelSubject) -> dict[str, list[list[str]]]:
    return {
        "inputs": [[port.name, _fixed(port)] for port in subject.inputs],
        "outputs": [[port.name, _fixed(port)] for port in subject.outputs],
    }


def _fixed(port: Port) -> str:
    """Return what a port is, whatever its open sizes are called."""
    shape = None if port.shape is None else tuple(d if isinstance(d, int) and d >= 0 else None for d in port.shape)
    return spelled(Port(port.name, port.kind, port.dtype, shape))


def _check_signature(golden: Golden, subject: ModelSubject) -> None:
    now = _signature(subject)
    for what in ("inputs", "outputs"):
        if sorted(golden.signature[what]) != sorted(now[what]):  # in whatever order: they are known by name
            then, today = (", ".join(f"{n} {t}" for n, t in s[what]) or "none" for s in (golden.signature, now))
            raise GoldenError(
                f"{golden.path!r} was made from another model ({golden.model}): its {what} are {then}, and those of "
                f"{subject.name} are {today}; give the golden file of this model, or record a new one (models of other "
                "names and types are put side by side by `onnxgrad compare`)"
            )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("onnxgrad", "onnx", "onnxruntime", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # of another name, such as onnxruntime-gpu
            continue
    return found


def read_golden(path: str | os.PathLike[str]) -> Golden:
    """Read a golden file.

    Raises:
        GoldenError: if it is none, is damaged, or was made by a newer onnxgrad.
    """
    target = os.fspath(path)
    try:
        with open(target, "rb") as file:  # numpy leaves a damaged one open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds one array")
            arrays = dict(loaded)
    except FileNotFoundError:
        raise GoldenError(f"{target!r}: there is no such file; make it with `onnxgrad record`") from None
    except Exception as error:  # zipfile, zlib, pickle and numpy each have their own
        raise GoldenError(
            f"{target!r} cannot be read as a golden file: {error}; make it anew with `onnxgrad record`"
        ) from error
    if KEY not in arrays:
        raise GoldenError(f"{target!r} is no golden file, but other arrays of numpy; make one with `onnxgrad record`")
    try:
        content = json.loads(str(arrays[KEY]))
        if content["format"] > _FORMAT:
            raise GoldenError(f"{target!r} was made by a newer onnxgrad (format {content['format']}); upgrade onnxgrad")
        return _golden(target, content, arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GoldenError(f"{target!r} is damaged ({error!r}); make it anew with `onnxgrad record`") from error


def _golden(path: str, content: Mapping[str, Any], arrays: Mapping[str, Array]) -> Golden:
    ranks = {t["of"]: arrays[t["array"]].ndim for t in content["tensors"] if t["kind"] == "output"}
    tensors = []
    for t in content["tensors"]:
        value = arrays[t["array"]] if "array" in t else None
        entry = None
        if t["kind"] != "output":
            result = OnnxgradError(t["refused"]) if value is None else value
            entry = Entry(t["kind"], t["of"], t["wrt"], result, t["per_sample"], ranks[t["of"]], t["elements"])
        rtol, atol = float(t.get("rtol", 0)), float(t.get("atol", 0))
        tensors.append(Recorded(t["of"], t.get("wrt"), value, entry, rtol, atol))
    feeds = {name: arrays[f"x{i}"] for i, name in enumerate(content["inputs"])}
    return Golden(
        path,
        content["model"],
        content["signature"],
        feeds,
        tuple(tensors),
        content["seed"],
        content["straight_through"],
        content["data"],
        content["made_with"],
    )
