"""The command line of the benchmarks."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.facts import find_all
from benchmarks.folder import SECONDS, measure_folder
from benchmarks.measure import ROUNDS, Effort, use_threads
from benchmarks.report import facts_tables, find, summary
from benchmarks.run import Line, as_json, choose_systems, choose_tasks, measure_all, write_page
from benchmarks.systems.registry import OURS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    only: Annotated[list[str] | None, typer.Option(help="Tasks whose name contains this; may be repeated.")] = None,
    systems: Annotated[str, typer.Option(help="Systems, separated by commas.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often each system gets a turn.")] = ROUNDS,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each system; 0: one per core.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="One short round of a few tasks; writes no files.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print all times as JSON.")] = False,
) -> None:
    """Measure every task for every system in turn, print tables, and write docs/benchmarks.md after a full run."""
    if context.invoked_subcommand is not None:
        return
    start = time.monotonic()
    threads = threads or len(os.sched_getaffinity(0))
    use_threads(threads)
    console = _console(json)
    effort = Effort(threads, 1, 0.03) if quick else Effort(threads, rounds)
    chosen = choose_systems([name.strip() for name in systems.split(",") if name], console)
    lines = measure_all(choose_tasks(only or (), quick, console), chosen, effort, console)
    console.print(summary(lines))
    facts = None if only or systems else find_all(threads, quick)
    if facts is not None:
        console.print(*facts_tables(facts), sep="\n")
        if not quick:
            for path in write_page(lines, facts, threads):
                console.print(f"wrote {path}")
    console.print(f"{time.monotonic() - start:.0f} s in all")
    if json:
        print(as_json(lines, facts))
    _check(lines)


def _check(lines: Sequence[Line]) -> None:
    """End with exit code 1 where onnxgrad itself was not timed."""
    missing = [line.task.name for line in lines if (t := find(line, OURS)) is not None and not t.timed]
    if missing:
        raise SystemExit(f"{OURS} was not timed in {', '.join(missing)}")


@app.command()
def models(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A folder with ONNX models.")],
    seconds: Annotated[float, typer.Option(min=0, help="How long each model is measured.")] = SECONDS,
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measure value and vector-Jacobian product against forward, for any models, in one thread."""
    use_threads(1)
    found = measure_folder(folder, seconds, _console(json))
    if json:
        print(dumps([asdict(one) for one in found], indent=1))


def _console(json: bool) -> Console:
    """Return where tables go: not between the JSON."""
    return Console(stderr=json, width=None if Console().is_terminal else 160)


if __name__ == "__main__":
    app()
