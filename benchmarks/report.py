"""Results as tables, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.measure import Timing
from benchmarks.systems.registry import OURS

if TYPE_CHECKING:
    from benchmarks.run import Line


def task_table(line: Line) -> Table:
    """Return what came of a task: one row for each system."""
    label = f" ({line.task.label})" if line.task.label else ""
    table = Table(title=f"{line.task.name}{label}", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("system", min_width=17)
    table.add_column("way", min_width=22)
    for heading in ("median", "quartiles", f"× {OURS}"):
        table.add_column(heading, justify="right", min_width=9)
    table.add_column("difference", justify="right")
    table.add_column("", overflow="fold")
    ours = _median(line, OURS)
    for timing in line.timings:
        low, high = timing.quartiles
        timed = timing.status == "timed"
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


def _median(line: Line, system: str) -> float:
    return next((t.median for t in line.timings if t.system == system), math.nan)


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


def ratio(number: float) -> str:
    """Return a ratio with two or three digits."""
    return "–" if math.isnan(number) else f"{number:.2f}" if number < 10 else f"{number:.0f}"
