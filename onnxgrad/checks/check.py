"""A whole model against numbers: every derivative, the adjoint identity, and the outputs that must not change."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxgrad.augmentation import Augmentation, Names
from onnxgrad.autodiff.activity import Activity, analyze
from onnxgrad.checks.derived import Array, Derivatives
from onnxgrad.checks.inputs import Trial, trials
from onnxgrad.checks.precision import NARROW, CannotWidenError, to_float64
from onnxgrad.checks.probe import probe, with_seeds
from onnxgrad.checks.report import CheckReport, Primal, Row
from onnxgrad.checks.verify import Remembering, Setting, verify, verify_zero
from onnxgrad.errors import NotDifferentiableError, RunError
from onnxgrad.lowering import has_gradients, working_form
from onnxgrad.model.opsets import WORKING_OPSET
from onnxgrad.model.read import Source, read
from onnxgrad.model.signature import signature
from onnxgrad.model.write import to_proto
from onnxgrad.runtime.evaluate import REFERENCE, Evaluator
from onnxgrad.transforms import lower_gradients

#: Called with the number of steps done and of all steps.
Progress = Callable[[int, int], None]
Pair = tuple[str, str]

#: A run in float64 may take this long; a model that takes longer is checked in its own type.
_SECONDS_PER_RUN = 2.0
#: How far the derivative in the model's own type may be from that in float64, relative to its norm.
_IMPRECISE = 1e-2
_FLOATS = ("float64", "float32", "float16", "bfloat16")
#: Types whose numbers are dense enough for differences; narrower ones are there to be rounded to.
_CHECKED = NARROW | {ir.DataType.DOUBLE}


def check_model(
    source: Source,
    of: Names = None,
    wrt: Names = None,
    *,
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    threads: int = 0,
    progress: Progress | None = None,
) -> CheckReport:
    """Hold the derivatives of a model against differences.

    For every floating-point output and input: the vector-Jacobian product against central differences along random
    directions, in float64 where a runtime has the kernels for that, else in the model's own type; the adjoint identity
    of VJP and JVP; a derivative that is zero by nature, too; and the derivative in the model's own type against that in
    float64. And the model's own outputs are compared with those of the model that has derivatives.

    Args:
        source: the model.
        of: what is differentiated; None: every floating-point output.
        wrt: what it is differentiated by (inputs, weights, values inside); None: every floating-point input.
        data: input arrays by name. For inputs that are missing, random ones are made up, of several ranges and sizes
            until the model accepts them.
        seed: seed of all random numbers.
        threads: number of threads of onnxruntime (0: its own choice).
        progress: called with the number of steps done and of all steps.

    Raises:
        UnknownNameError, TensorTypeError: as the transforms do.
        FeedError: if inputs cannot be made up.
        RunError: if no runtime runs the model at all.
    """
    with np.errstate(all="ignore"):
        return _Check(source, of, wrt, seed, threads, progress).report(data)


class _Check:
    """One check of a model; the arguments are those of `check_model`."""

    def __init__(
        self, source: Source, of: Names, wrt: Names, seed: int, threads: int, progress: Progress | None
    ) -> None:
        self.start = time.perf_counter()
        model = read(source)
        if has_gradients(model):  # no runtime has that operator
            model = read(lower_gradients(model))
        self.model = with_seeds(model, seed)
        self.seed, self.threads, self.progress = seed, threads, progress
        augmentation = Augmentation(self.model)
        ys, xs = ([t for t in ts if t.dtype in _CHECKED] for ts in (augmentation.of(of), augmentation.wrt(wrt)))
        self.of, self.wrt = [y.value.name or "" for y in ys], [x.value.name or "" for x in xs]
        nodes = list(augmentation.model.graph)
        self.activities: dict[Pair, Activity] = {
            (y.value.name or "", x.value.name or ""): analyze(augmentation.op, nodes, [x.value], [y.value])
            for y in ys
            for x in xs
        }
        self.same = {(y.value.name, x.value.name) for y in ys for x in xs if y.value is x.value}
        self.opset = self.model.opset_imports.get("", WORKING_OPSET)
        self.has_functions = bool(self.model.functions)

    def report(self, data: Mapping[str, Any] | None) -> CheckReport:
        self.plain = Evaluator(to_proto(self.model), threads=self.threads)
        probed = self._normalized()
        self.shifts = probe(probed, self.of, self.wrt)
        self.native = Evaluator(probed, threads=self.threads)
        best: tuple[list[Row], Primal, str, str, str] | None = None
        for trial in self._runnable(data):
            found = self._at(trial)
            flat = any(row.verdict == "undecided" or row.detail.startswith("zero at this") for row in found[0])
            if best is None or not flat:
                best = found
            if not flat or any(row.verdict == "wrong" for row in found[0]):
                break
        assert best is not None
        rows, primal, precision, engine, note = best
        return CheckReport(tuple(rows), primal, precision, engine, note, time.perf_counter() - self.start)

    def _normalized(self) -> ir.Model:
        return working_form(read(self.model))

    # --- inputs ------------------------------------------------------------------------------------

    def _runnable(self, data: Mapping[str, Any] | None) -> Any:
        """Yield up to three sets of inputs that the model accepts, and for which its outputs are finite."""
        said: list[str] = []
        kept = 0
        fallback: Trial | None = None
        for trial in trials(signature(self.model).inputs, data, self.seed):
            try:
                outputs = self.plain(trial.feeds)
            except RunError as error:
                said.append(str(error))
                continue
            finite = all(_is_finite(value) for value in outputs.values())
            if not finite:
                fallback = fallback or trial
                continue
            kept += 1
            yield trial
            if kept == 3:
                return
        if kept == 0 and fallback is not None:
            yield fallback
        elif kept == 0:
            raise RunError(f"the model does not run on any inputs that were tried; on the first: {said[0]}")

    # --- one set of inputs ---------------------------------------------------------------------------

    def _at(self, trial: Trial) -> tuple[list[Row], Primal, str, str, str]:
        self.base = self._bases(trial)
        feeds, points = self._own_point(trial)
        self.dtypes = {name: array.dtype for name, array in points.items()}
        live = [pair for pair, activity in self.activities.items() if activity.nodes or pair in self.same]
        possible = [pair for pair in live if not self.activities[pair].obstacles]
        modes = ("vjp", "jvp")
        wide = self._wide(feeds, points)
        own = Derivatives(self.model, possible, points, ("vjp",) if wide is not None else modes, self.threads)
        if wide is None:
            run, derivatives, precision, engine = self.native, own, "float32", self.native.engine
            if points and all(array.dtype == np.float64 for array in points.values()):
                precision = "float64"
        else:
            model, run, feeds, points, precision = wide
            engine = run.engine
            possible = [pair for pair in possible if pair not in own.refused]
            derivatives = Derivatives(model, possible, points, modes, self.threads)
        rows: dict[Pair, Row] = {}
        for k, x in enumerate(self.wrt):
            setting = self._setting(x, k, run, derivatives, feeds, trial, precision)
            for pair in [pair for pair in self.activities if pair[1] == x]:
                if self.progress is not None:
                    self.progress(len(rows), len(self.activities) + 1)
                refused = self._refused(pair) or own.refused.get(pair) or derivatives.refused.get(pair)
                if refused:
                    rows[pair] = Row(*pair, "refused", refused)
                elif pair not in live:
                    rows[pair] = verify_zero(*pair, self._why_zero(pair), setting)
                else:
                    rows[pair] = row = verify(*pair, setting)
                    if wide is not None and row.verdict == "not runnable":
                        rows[pair] = self._without_float64(pair, k, trial, row)
                    elif wide is not None:
                        rows[pair] = self._in_own_type(row, own, derivatives, trial, setting, points)
        primal = self._primal(trial, own)
        if self.progress is not None:
            self.progress(len(self.activities) + 1, len(self.activities) + 1)
        return [rows[pair] for pair in self.activities], primal, precision, engine or "", trial.note

    def _bases(self, trial: Trial) -> dict[str, Array]:
        """Return the values of `wrt` at the point."""
        inside = list(self.shifts)
        arrays = {name: np.asarray(trial.feeds[name]) for name in self.wrt if name not in self.shifts}
        if inside:
            reader = self._normalized()
            probe(reader, inside, [])
            arrays.update(zip(inside, Evaluator(reader, threads=self.threads)(trial.feeds).values(), strict=True))
        return arrays

    def _own_point(self, trial: Trial) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the feeds of the probe, and the values of `wrt` and `of`, in the model's own type."""
        shifts = {shift: np.zeros_like(self.base[name]) for name, shift in self.shifts.items()}
        feeds = {**trial.feeds, **shifts}
        return feeds, {**self.base, **self._read(self.native, feeds)}

    def _read(self, run: Evaluator, feeds: Mapping[str, Any]) -> dict[str, Array]:
        return dict(zip(self.of, map(np.asarray, run(feeds).values()), strict=True))

    def _wide(
        self, feeds: Mapping[str, Any], points: Mapping[str, Array]
    ) -> tuple[ir.Model, Evaluator, dict[str, Any], dict[str, Array], str] | None:
        """Return the model in float64 with what runs it, feeds, points and digits; None where it has no such form."""
        try:
            model = self._normalized()
            precision = "float64" if to_float64(model) else "float32"
            probed = model.clone()
            probe(probed, self.of, self.wrt)
            run = Evaluator(probed, threads=self.threads)
            wide_feeds = {name: _widened(value) for name, value in feeds.items()}
            start = time.perf_counter()
            read_out = self._read(run, wide_feeds)
            seconds = time.perf_counter() - start
        except (CannotWidenError, RunError):
            return None
        wide_points = {**{name: _widened(value) for name, value in points.items()}, **read_out}
        for name in self.of:
            if not _agree(points[name], wide_points[name]):
                return None
        if run.engine == REFERENCE and seconds > _SECONDS_PER_RUN:
            return None
        return model, run, wide_feeds, wide_points, precision

    def _setting(
        self,
        x: str,
        k: int,
        run: Evaluator,
        derivatives: Derivatives,
        feeds: Mapping[str, Any],
        trial: Trial,
        precision: str,
    ) -> Setting:
        fed = self.shifts.get(x, x)
        return Setting(
            Remembering(lambda value: self._read(run, {**feeds, fed: value})),
            derivatives,
            {name: value for name, value in feeds.items() if name in trial.feeds},
            x if fed == x else None,
            np.asarray(feeds[fed]),
            _scale(self.base[x].astype(np.float64)),
            precision,
            (self.seed, k),
        )

    def _without_float64(self, pair: Pair, k: int, trial: Trial, row: Row) -> Row:
        """Check a pair in the model's own type, since its derivative does not run in float64."""
        feeds, points = self._own_point(trial)
        derivatives = Derivatives(self.model, [pair], points, threads=self.threads)
        again = verify(*pair, self._setting(pair[1], k, self.native, derivatives, feeds, trial, "float32"))
        return replace(again, detail=f"{again.detail}; in the model's own type, since {row.detail}".removeprefix("; "))

    def _refused(self, pair: Pair) -> str:
        obstacles = self.activities[pair].obstacles
        return str(NotDifferentiableError(obstacles)) if obstacles else ""

    def _why_zero(self, pair: Pair) -> str:
        stops = self.activities[pair].stops
        return f"only through steps: {'; '.join(stops)}" if stops else "no path leads from the input to the output"

    # --- in the model's own type ---------------------------------------------------------------------

    def _in_own_type(
        self,
        row: Row,
        own: Derivatives,
        wide: Derivatives,
        trial: Trial,
        setting: Setting,
        points: Mapping[str, Array],
    ) -> Row:
        """Run the derivative as a user would, and compare it with that in float64."""
        if row.verdict not in ("right", "kink"):
            return row
        pair = row.of, row.wrt
        rng = np.random.default_rng(setting.seed)
        ct = rng.normal(size=points[row.of].shape) * np.isfinite(points[row.of])
        try:
            exact = wide.vjp(*pair, setting.feeds, ct)
            found = own.vjp(*pair, trial.feeds, ct.astype(self.dtypes[row.of])).astype(np.float64)
        except RunError as error:
            if self.plain.engine == REFERENCE:  # no wonder: the model itself does not run in onnxruntime
                return replace(row, detail=f"{row.detail}; in float64 only".removeprefix("; "))
            return replace(row, verdict="not runnable", detail=f"right in float64, but: {error}")
        finite = np.isfinite(exact)
        off, norm = np.where(finite, found - exact, 0), float(np.linalg.norm(exact[finite]))
        gap = float(np.linalg.norm(off)) / max(norm, np.finfo(np.float64).tiny)
        row = replace(row, rounding=gap if norm else None)
        eps = max(_eps(self.dtypes[name]) for name in pair)
        # so little, for a change of the input by its own size, that it is lost in the rounding of the output
        lost = np.linalg.norm(off * _scale(points[row.wrt])) <= 100 * eps * np.linalg.norm(ct * points[row.of])
        if row.verdict == "right" and not gap <= max(_IMPRECISE, 30 * eps) and not lost:
            detail = f"in the model's own type the derivative is off by {gap:.1e} of its norm"
            return replace(row, verdict="imprecise", detail=detail)
        if own.engine(*pair) == REFERENCE:
            return replace(row, detail=f"{row.detail}; runs in {REFERENCE} only".removeprefix("; "))
        return row

    # --- the primal outputs ---------------------------------------------------------------------------

    def _primal(self, trial: Trial, own: Derivatives) -> Primal:
        """Compare the outputs of the model with those of the model that has derivatives, both run node by node."""
        made = own.any_vjp()
        if made is None:
            return Primal("not compared", "there is no derivative to add")
        prefer: Literal["onnxruntime", "reference"] = "reference" if self.plain.engine == REFERENCE else "onnxruntime"
        plain = Evaluator(to_proto(self.model), optimize=False, prefer=prefer, only=True, threads=self.threads)
        made.evaluator = Evaluator(made.proto, optimize=False, prefer=prefer, only=True, threads=self.threads)
        try:
            before, again = plain(trial.feeds), plain(trial.feeds)
            after = made.all_outputs(trial.feeds, {})
        except RunError as error:
            return Primal("not compared", str(error))
        changed = [name for name, value in before.items() if not _same(value, after[name])]
        if not changed:
            return Primal("same bits")
        if any(not _same(value, again[name]) for name, value in before.items()):
            return Primal("not compared", "the outputs of the model are random")
        far = [name for name in changed if not _agree(before[name], after[name], 1e-4)]
        if far or self.opset >= WORKING_OPSET:
            return Primal("changed", f"with derivatives added, {', '.join(map(repr, far or changed))} changed")
        return Primal("same to rounding", f"lifted from opset {self.opset}")


def _is_finite(value: Any) -> bool:
    array = np.asarray(value) if not isinstance(value, list) else np.zeros(0)
    return array.dtype.name not in _FLOATS or bool(np.isfinite(array.astype(np.float64)).all())


def _widened(value: Any) -> Any:
    if isinstance(value, list):
        return [_widened(v) for v in value]
    array = np.asarray(value)
    return array.astype(np.float64) if array.dtype.name in _FLOATS else array


def _same(a: Any, b: Any) -> bool:
    """Whether two outputs are equal to the last bit."""
    if isinstance(a, (list, dict)) or isinstance(b, (list, dict)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, _items(a), _items(b)))
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return x.tobytes() == y.tobytes() or bool(np.array_equal(x, y, equal_nan=x.dtype.name in _FLOATS))


def _items(value: Any) -> list[Any]:
    return [part for item in value.items() for part in item] if isinstance(value, dict) else list(value)


def _agree(a: Any, b: Any, rounding: float = 1e-3) -> bool:
    """Whether two outputs agree but for rounding, relative to the largest element; float16 and bfloat16 round more."""
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype.name not in _FLOATS:
        return False
    tolerance = max(rounding, 30 * _eps(x.dtype))
    x, y = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(x)
    if not np.array_equal(finite, np.isfinite(y)):
        return False
    scale = float(np.max(np.abs(x[finite]), initial=0))
    return bool(np.all(np.abs(x[finite] - y[finite]) <= tolerance * scale))


def _eps(dtype: np.dtype[Any]) -> float:
    return {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype.name]


def _scale(x: Array) -> Array:
    """Return how far each element may move: by its own size, or a tenth of the typical one; infinite ones stay."""
    finite = np.isfinite(x)
    sizes = np.abs(np.where(finite, x, 0))
    typical = float(np.sqrt(np.mean(sizes**2))) if x.size else 0.0
    return np.where(finite, np.maximum(sizes, 0.1 * typical if typical else 1.0), 0.0)
