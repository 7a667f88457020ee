"""What the commands print: tables and JSON on stdout, messages and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from onnxgrad.model.metadata import Derivative

#: Width for output that is no terminal: wide enough that no table is ever folded or cut.
_UNBOUNDED = 100_000


def stdout() -> Console:
    """Return the console for results."""
    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False)


def stderr() -> Console:
    """Return the console for messages."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else _UNBOUNDED, highlight=False)


def say(kind: str, style: str, message: str) -> None:
    """Print a message to stderr, e.g. ``error: …``."""
    stderr().print(Text.assemble((f"{kind}:", style), " ", message), soft_wrap=True)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Sequence[str] = (),
    styles: Mapping[str, Callable[[str], str]] | None = None,
) -> None:
    """Print a table, unless it has no rows.

    Columns named in `right` are aligned to the right; `styles` gives, by column, the style of a cell.
    """
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        cells = dict(zip(columns, map(str, row), strict=True))
        table.add_row(*(Text(cell, _style(styles, name, cell)) for name, cell in cells.items()))
    if table.row_count:
        stdout().print(table)


def _style(styles: Mapping[str, Callable[[str], str]] | None, column: str, cell: str) -> str:
    return styles[column](cell) if styles and column in styles else ""


def print_text(text: str = "", style: str = "") -> None:
    """Print a line, as it is."""
    stdout().print(Text(text, style), soft_wrap=True)


def print_json(data: Any) -> None:
    """Print data for a program to read."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr, if that is a terminal, for as long as the body runs.

    The body gets a function to call with what is done and what there is to do.
    """
    console = stderr()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def bytes_text(count: float) -> str:
    """Return a size such as ``1.4 MB``."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def operations_text(count: float) -> str:
    """Return a number of operations such as ``1.4 M``."""
    return _scaled(count, ("", "k", "M", "G", "T", "P")).rstrip()


def shape_text(shape: Sequence[object] | None) -> str:
    """Return a shape such as ``N x 10``; ``?`` is a size that is not known."""
    if shape is None:
        return "unknown rank"
    return " x ".join("?" if size is None else str(size) for size in shape) or "scalar"


def _scaled(count: float, units: Sequence[str]) -> str:
    power = 0
    while count >= 999.5 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {units[power]}"


def derivatives_table(title: str, records: Sequence[Derivative], shapes: Mapping[str, Sequence[object] | None]) -> None:
    """Print what derivatives a model returns; `shapes` are those of its outputs, by name."""
    print_table(
        title,
        ("kind", "of", "wrt", "output", "shape", "seed", "per sample", "mode", "remark"),
        [
            (
                record.kind,
                record.of if record.index is None else f"{record.of}[{_index_text(record.index)}]",
                record.wrt if isinstance(record.wrt, str) else ", ".join(record.wrt),
                record.output,
                shape_text(shapes.get(record.output)),
                record.seed or "",
                "yes" if record.batched else "",
                record.mode,
                f"zero: {record.zero}" if record.zero else "straight through" if record.straight_through else "",
            )
            for record in records
        ],
    )


def _index_text(index: int | tuple[int, ...] | str) -> str:
    return ",".join(map(str, index)) if isinstance(index, tuple) else str(index)
