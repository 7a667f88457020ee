"""A whole run: which tasks and systems, one after another, and what is done with the results."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import document, report
from benchmarks.export import make_all
from benchmarks.facts import Facts
from benchmarks.folders import BUILD, DOCS, fingerprint
from benchmarks.measure import Effort, Timing, measure
from benchmarks.plots import draw_all
from benchmarks.systems.registry import SYSTEMS, System, missing_packages, of
from benchmarks.tasks import TASKS, Task


@dataclass(frozen=True)
class Line:
    """What came of a task."""

    task: Task
    timings: list[Timing]


def choose_tasks(only: Sequence[str], quick: bool, console: Console) -> list[Task]:
    """Return the tasks whose name contains one of the texts; without texts all, or the quick ones.

    Those whose model cannot be made are left out, which is said.

    Raises:
        SystemExit: if there is no such task.
    """
    wanted = [t for t in TASKS if any(text in t.name for text in only) or (not only and (t.quick or not quick))]
    chosen = []
    for task in wanted:
        missing = missing_packages(task.network.needs)
        if missing:
            console.print(f"{task.name} is left out: {', '.join(missing)} is not installed")
        else:
            chosen.append(task)
    if not wanted:
        names = ", ".join(task.name for task in TASKS)
        raise SystemExit(f"no task has {' or '.join(map(repr, only))} in its name; there are {names}")
    return chosen


def choose_systems(names: Sequence[str], console: Console) -> list[System]:
    """Return the systems of these names (none: all) that are installed, and say which are not.

    Raises:
        SystemExit: if there is no such system.
    """
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise SystemExit(f"no system is called {unknown[0]!r}; there are {', '.join(SYSTEMS)}")
    chosen = []
    for name in names or SYSTEMS:
        missing = missing_packages(SYSTEMS[name].needs)
        if missing:
            console.print(f"{name} is left out: {', '.join(missing)} is not installed")
        else:
            chosen.append(SYSTEMS[name])
    return chosen


def measure_all(tasks: Sequence[Task], systems: Sequence[System], effort: Effort, console: Console) -> list[Line]:
    """Measure task by task, and print each when it is done."""
    _export(tasks)
    lines = []
    for task in tasks:
        lines.append(Line(task, measure(task, of(task, systems), effort)))
        console.print(report.task_table(lines[-1]))
        (BUILD / "results.json").write_text(as_json(lines, None))  # what is there if the run is cut short
    return lines


def _export(tasks: Sequence[Task]) -> None:
    """Make the models in a process of their own, so that this one stays small."""
    fingerprint()
    process = multiprocessing.get_context("spawn").Process(target=make_all, args=([t.name for t in tasks],))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the models could not be exported: see above")


def as_json(lines: Sequence[Line], facts: Facts | None) -> str:
    """Return all figures."""
    tasks = [{"task": line.task.name, "systems": [asdict(t) for t in line.timings]} for line in lines]
    return json.dumps({"tasks": tasks, "facts": None if facts is None else asdict(facts)}, indent=1)


def write_page(lines: Sequence[Line], facts: Facts, threads: int) -> list[Path]:
    """Write docs/benchmarks.md and its plots, and return the files."""
    images = draw_all(lines, DOCS / "images")
    page = DOCS / "benchmarks.md"
    page.write_text(document.write(lines, facts, threads, [image.name for image in images]), encoding="utf-8")
    return [page, *images]
