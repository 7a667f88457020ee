"""Any models in a folder: the time of value and vector-Jacobian product over the time of the model alone."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter
from rich.console import Console
from rich.table import Table

import onnxgrad
from benchmarks.export import OPSET
from benchmarks.processes import in_process
from benchmarks.report import duration, ratio
from benchmarks.systems.sessions import Session
from benchmarks.worker import describe, fastest
from onnxgrad.checks.inputs import trials
from onnxgrad.model.read import read
from onnxgrad.model.signature import signature

#: Seconds that a model is measured, and the least number of rounds.
SECONDS, _ROUNDS = 2.0, 5
#: Calls are timed in blocks of at least so many seconds.
_BLOCK = 0.004


@dataclass(frozen=True)
class Measured:
    """A model.

    Attributes:
        name: name of its file.
        forward: seconds of the model alone.
        product: seconds of value and product by onnxgrad.
        other: the same by onnx-ad.
        why: why it was not measured.
        why_other: the same for onnx-ad.
        difference: of the products, relative.
    """

    name: str
    forward: float | None = None
    product: float | None = None
    other: float | None = None
    why: str = ""
    why_other: str = ""
    difference: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value and product over forward, by onnxgrad."""
        return self.product / self.forward if self.product and self.forward else None

    @property
    def other_ratio(self) -> float | None:
        """The same by onnx-ad."""
        return self.other / self.forward if self.other and self.forward else None


def measure_folder(folder: Path, seconds: float, console: Console) -> list[Measured]:
    """Measure all models, each in a process of its own, in one thread, and print what came of each."""
    found = []
    for path in sorted(folder.glob("**/*.onnx")):
        try:
            found.append(in_process(measure, str(path), seconds))
        except RuntimeError as error:  # the process ended
            found.append(Measured(path.name, why=describe(error)))
        one = found[-1]
        figures = f"{_ratio(one.ratio)} onnxgrad, {_ratio(one.other_ratio)} onnx-ad" if not one.why else one.why
        console.print(f"{one.name}: {figures}", highlight=False, soft_wrap=True)
    console.print(table(found))
    for line in summary(found):
        console.print(line, highlight=False)
    return found


def measure(path: str, seconds: float) -> Measured:
    """Measure one model, in turn without and with derivatives."""
    warnings.simplefilter("ignore")
    name = Path(path).name
    try:
        augmented = onnxgrad.vjp(path)
        plain, ours = Session(path, 1), Session(augmented, 1)
        feeds, values = _inputs(path, plain)
        records = onnxgrad.derivatives(augmented)
        seeds = {str(r.seed): np.ones_like(values[r.of]) for r in records}
        runs = {"forward": (plain, feeds), "product": (ours, _only(ours, feeds | seeds))}
        results = dict(zip(ours.outputs, ours.run(None, runs["product"][1]), strict=True))
    except Exception as error:  # whatever stands in the way is the result
        return Measured(name, why=describe(error))
    why_other, difference = "", None
    try:
        other, other_feeds, products = _onnx_ad(path, feeds, values)
        runs["other"] = (other, other_feeds)
        found = dict(zip(other.outputs, other.run(None, other_feeds), strict=True))
        pairs = [(results[r.output], found[products[str(r.wrt)]][..., 0]) for r in records]
        difference = max(_difference(a, b) for a, b in pairs)
    except Exception as error:  # see above
        runs.pop("other", None)
        why_other = describe(error)
    medians = _in_turn(runs, seconds)
    return Measured(name, medians["forward"], medians["product"], medians.get("other"), "", why_other, difference)


def _inputs(path: str, session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs that the model runs on, and its outputs."""
    error: Exception = ValueError("it has no inputs that can be made up")
    for trial in trials(signature(read(path)).inputs, None, 0):
        feeds = _only(session, trial.feeds)
        try:
            return trial.feeds, dict(zip(session.outputs, session.run(None, feeds), strict=True))
        except Exception as failure:  # the next kind may do
            error = failure
    raise error


def _onnx_ad(
    path: str, feeds: dict[str, Any], values: dict[str, Any]
) -> tuple[Session, dict[str, Any], dict[str, str]]:
    """Return onnx-ad's session, what it is fed, and its outputs by what they are the product for."""
    import onnx_ad

    model = onnx.load(path)
    for value in model.graph.input:  # the sizes of what is fed, without which some operators are refused
        if value.name in feeds:
            for dim, size in zip(value.type.tensor_type.shape.dim, np.shape(feeds[value.name]), strict=True):
                dim.dim_value = size
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    own = {v.name for v in model.graph.input} | {v.name for v in model.graph.output}
    try:
        augmented = onnx_ad.reverse(model, layout="onnx")
    except onnx_ad.UnsupportedOperator:  # some operators only in newer versions
        augmented = onnx_ad.reverse(version_converter.convert_version(model, OPSET), layout="onnx")
    seeds = [v.name for v in augmented.graph.input if v.name not in own]
    products = [v.name for v in augmented.graph.output if v.name not in own]
    session = Session(augmented, 1)
    given = {seed: np.ones((*values[_target(seed)].shape, 1), values[_target(seed)].dtype) for seed in seeds}
    return session, _only(session, feeds | given), {_target(name): name for name in products}


def _target(name: str) -> str:
    return name.split("_", 1)[1]


def _only(session: Session, feeds: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in feeds.items() if name in session.inputs}


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a.ravel()))
    return float(np.linalg.norm((a - b).ravel())) / size if size else float(np.abs(b).max(initial=0))


def _in_turn(runs: dict[str, tuple[Session, dict[str, Any]]], seconds: float) -> dict[str, float]:
    """Return the median time of each run, measured in blocks in turn.

    It is processor time, which in one thread is that of the clock, without what other processes take from it.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    session, feeds = runs["forward"]
    count = max(round(_BLOCK / fastest(lambda: session.run(None, feeds), _BLOCK)), 1)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["forward"]) < _ROUNDS:
        for name, (session, feeds) in runs.items():
            start = time.process_time()
            for _ in range(count):
                session.run(None, feeds)
            times[name].append((time.process_time() - start) / count)
    return {name: statistics.median(values) for name, values in times.items()}


# --- what is told -----------------------------------------------------------------------------------


def table(found: list[Measured]) -> Table:
    """Return all models, those that were measured first, the cheapest first."""
    result = Table(box=None, pad_edge=False)
    result.add_column("model", overflow="fold")
    for heading in ("forward", "onnxgrad", "onnx-ad", "difference"):
        result.add_column(heading, justify="right")
    result.add_column("", overflow="fold")
    for one in sorted(found, key=lambda m: (bool(m.why), m.ratio or 0)):
        forward = "" if one.forward is None else duration(one.forward)
        difference = "" if one.difference is None else f"{one.difference:.0e}"
        notes = one.why or (f"onnx-ad: {one.why_other}" if one.why_other else "")
        result.add_row(one.name, forward, _ratio(one.ratio), _ratio(one.other_ratio), difference, notes)
    return result


def summary(found: list[Measured]) -> Iterator[str]:
    """Yield the figures over all models."""
    ours = [m.ratio for m in found if m.ratio]
    others = [m.other_ratio for m in found if m.other_ratio]
    both = [m.ratio for m in found if m.ratio and m.other_ratio]
    yield f"value and product over forward, by onnxgrad, {_spread(ours)}; refused: {len(found) - len(ours)}"
    if others:
        yield f"by onnx-ad, {_spread(others)}; onnxgrad on these, {_spread(both)}"


def _spread(ratios: list[float]) -> str:
    if not ratios:
        return "no models"
    middle, high = np.quantile(ratios, [0.5, 0.9])
    return f"{len(ratios)} models: median {middle:.2f}, 90th percentile {high:.2f}"


def _ratio(number: float | None) -> str:
    return "" if number is None else ratio(number)
