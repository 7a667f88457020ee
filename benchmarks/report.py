"""Results as tables, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.measure import Timing
from benchmarks.systems.registry import OURS, SYSTEMS

if TYPE_CHECKING:
    from benchmarks.facts import Facts
    from benchmarks.run import Line
    from benchmarks.tasks import Task

_ASKED = {
    "jacobian": "Jacobian",
    "gradient": "value and gradient",
    "vjp": "vector-Jacobian product",
    "weights": "gradient by weights",
    "hessian": "Hessian",
    "hvp": "Hessian times vector",
}


def task_table(line: Line) -> Table:
    """Return what came of a task: one row for each system."""
    table = Table(
        title=f"{line.task.name}: {in_words(line.task)}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("system", min_width=17)
    table.add_column("way", min_width=22)
    for heading in ("median", "quartiles", f"× {OURS}"):
        table.add_column(heading, justify="right", min_width=9)
    table.add_column("difference", justify="right")
    table.add_column("", overflow="fold")
    ours = median(line, OURS)
    for timing in line.timings:
        low, high = timing.quartiles
        timed = timing.timed
        table.add_row(
            timing.system,
            timing.way,
            duration(timing.median) if timed else timing.status,
            f"{duration(low)} … {duration(high)}" if timed else "",
            ratio(timing.median / ours) if timed else "",
            "" if timing.difference is None else f"{timing.difference:.0e}",
            timing.note,
        )
    return table


def summary(lines: Sequence[Line]) -> Table:
    """Return the ratios of all tasks and systems, and the time of onnxgrad."""
    systems = [s for s in SYSTEMS if s != OURS and any(not math.isnan(median(line, s)) for line in lines)]
    table = _table(f"times, × {OURS}", "task", OURS, *systems)
    for line in lines:
        ours = median(line, OURS)
        statuses = [ratio(median(line, s) / ours) if _timed(line, s) else _status(line, s) for s in systems]
        table.add_row(in_words(line.task), duration(ours), *statuses)
    return table


def _timed(line: Line, system: str) -> bool:
    timing = find(line, system)
    return timing is not None and timing.timed


def _status(line: Line, system: str) -> str:
    timing = find(line, system)
    return "" if timing is None or timing.status == "left out" else timing.status


def facts_tables(facts: Facts) -> list[Table]:
    """Return what is no time per call."""
    overhead = _table("overhead of a call", "network", "f.jacobian(x)", "session.run", "difference")
    for o in facts.overhead:
        overhead.add_row(o.name, duration(o.call), duration(o.run), duration(o.call - o.run))
    transforms = _table("time of the transform", "nodes", "onnxgrad", "each node", "onnx-ad")
    for t in facts.transforms:
        other = "–" if t.onnx_ad is None else duration(t.onnx_ad)
        transforms.add_row(f"{t.nodes:,}", duration(t.seconds), duration(t.seconds / t.nodes), other)
    models = _table("files and sessions", "task", "file", "derivative", "transform", "loading", "derivative")
    for m in facts.models:
        times = map(duration, (m.transform, m.plain_load, m.load))
        models.add_row(m.name, size(m.plain_bytes), size(m.bytes), *times)
    memory = _table("peak memory", "process", "peak", "beyond loading", "result")
    for p in facts.memory:
        memory.add_row(p.what, size(p.peak), size(p.more), size(p.result))
    return [overhead, transforms, models, memory]


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column(first, min_width=17)
    for column in columns:
        table.add_column(column, justify="right", min_width=9)
    return table


def median(line: Line, system: str) -> float:
    """Return the median time of a system; NaN if it has none."""
    return next((t.median for t in line.timings if t.system == system and t.timed), math.nan)


def find(line: Line, system: str) -> Timing | None:
    """Return what came of a system."""
    return next((t for t in line.timings if t.system == system), None)


def duration(seconds: float) -> str:
    """Return a time in a unit of its size, with three digits."""
    if math.isnan(seconds):
        return "–"
    unit, size = next((u for u in (("s", 1.0), ("ms", 1e-3)) if seconds >= u[1]), ("µs", 1e-6))
    number = seconds / size
    return f"{number:.{max(2 - int(math.log10(max(number, 1))), 0)}f} {unit}"


def size(number: float) -> str:
    """Return a number of bytes in a unit of its size."""
    unit, each = next((u for u in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if abs(number) >= u[1]), ("B", 1.0))
    return f"{number / each:.3g} {unit}"


def in_words(task: Task) -> str:
    """Return what a task is."""
    name = task.network.name
    name = name.removeprefix("mlp-").replace("x", "×") if task.network.sizes else name
    samples = f"{task.batch:,} sample{'s' if task.batch > 1 else ''}"
    kind = "" if task.label in ("", "batch", "width", "depth") else f" ({task.label})"
    return f"{name}{kind}, {_ASKED[task.asked]}, {samples}"


def ratio(number: float) -> str:
    """Return a ratio with two or three digits."""
    return "–" if math.isnan(number) else f"{number:.2f}" if number < 10 else f"{number:.0f}"
