"""A whole run: which tasks and systems, one after another, and what is done with the results."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from benchmarks import report
from benchmarks.export import make_all
from benchmarks.folders import fingerprint, version
from benchmarks.measure import Effort, Timing, measure
from benchmarks.systems.registry import SYSTEMS, System, of
from benchmarks.tasks import TASKS, Task


@dataclass(frozen=True)
class Line:
    """What came of a task."""

    task: Task
    timings: list[Timing]


def choose_tasks(only: Sequence[str], quick: bool) -> list[Task]:
    """Return the tasks whose name contains one of the texts; without texts all, or the quick ones."""
    if only:
        return [task for task in TASKS if any(text in task.name for text in only)]
    return [task for task in TASKS if task.quick or not quick]


def choose_systems(names: Sequence[str], console: Console) -> list[System]:
    """Return the systems of these names (none: all) that are installed, and say which are not."""
    chosen = []
    for name in names or SYSTEMS:
        missing = SYSTEMS[name].missing()
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
    return lines


def _export(tasks: Sequence[Task]) -> None:
    """Make the models in a process of their own, so that this one stays small."""
    fingerprint()
    process = multiprocessing.get_context("spawn").Process(target=make_all, args=([t.name for t in tasks],))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the models could not be exported: see above")


def as_json(lines: Sequence[Line]) -> str:
    """Return all times."""
    found = [{"task": line.task.name, "systems": [asdict(t) for t in line.timings]} for line in lines]
    return json.dumps(found, indent=1)


__all__ = ["Line", "as_json", "choose_systems", "choose_tasks", "measure_all", "version"]
