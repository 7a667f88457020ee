"""The command line of the benchmarks."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.measure import Effort, use_threads
from benchmarks.run import as_json, choose_systems, choose_tasks, measure_all

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    only: Annotated[list[str] | None, typer.Option(help="Tasks whose name contains this; may be repeated.")] = None,
    systems: Annotated[str, typer.Option(help="Systems, separated by commas.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often each system gets a turn.")] = 7,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each system; 0: one per core.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="One short round of a few tasks; writes no files.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print all times as JSON.")] = False,
) -> None:
    """Measure every task for every system in turn, print tables, and write docs/benchmarks.md after a full run."""
    if context.invoked_subcommand is not None:
        return
    threads = threads or len(os.sched_getaffinity(0))
    use_threads(threads)
    console = Console(stderr=json, width=None if Console().is_terminal else 150)
    effort = Effort(threads, 1, 0.03) if quick else Effort(threads, rounds)
    chosen = choose_systems([name.strip() for name in systems.split(",") if name], console)
    lines = measure_all(choose_tasks(only or (), quick), chosen, effort, console)
    if json:
        print(as_json(lines))


if __name__ == "__main__":
    app()
