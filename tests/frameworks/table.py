"""The table of docs/frameworks.md: the largest differences that were found, one row for each model.

A row has the largest of all its cases (fixed and open batch). Numbers are rounded up to one digit, so a table says
"at most". Rows of frameworks that are not installed are kept as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.frameworks.catalog import FRAMEWORKS
from tests.frameworks.comparing import QUANTITIES, Differences

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
#: What is between these is written by `python -m tests.frameworks`.
BEGIN, END = "<!-- table: written by python -m tests.frameworks -->", "<!-- end of table -->"
DTYPES = ("float64", "float32")
HEADER = (
    "| framework | exporter | model |" + "".join(f" {q} in {d} |" for d in DTYPES for q in QUANTITIES),
    "|---|---|---|" + "---:|" * len(DTYPES) * len(QUANTITIES),
)
#: What stands where no float64 kernel is, and where a model has no case of a type.
BY_REFERENCE, NONE = "¹", "–"

Row = tuple[str, str, str]


def rows_of(page: str) -> dict[Row, list[str]]:
    """Return the cells of a page's table by row."""
    _, table, _ = _parted(page)
    rows = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and line not in HEADER:
            rows[cells[0], cells[1], cells[2]] = cells[3:]
    return rows


def written(page: str, found: Iterable[Differences], measured: Sequence[str]) -> str:
    """Return the page with new rows of the frameworks that were measured."""
    before, _, after = _parted(page)
    rows = {row: cells for row, cells in rows_of(page).items() if row[0] not in measured}
    rows.update(_rows(found))
    order = [framework.name for framework in FRAMEWORKS]
    ordered = sorted(rows, key=lambda row: order.index(row[0]))  # stable: models in the order of their cases
    lines = [BEGIN, *HEADER, *("| " + " | ".join([*row, *rows[row]]) + " |" for row in ordered), END]
    return before + "\n".join(lines) + after


def number(cell: str) -> float:
    """Return the number in a cell, 0 where there is none."""
    match = re.match(r"[\d.]+(e-?\d+)?", cell)
    return float(match.group()) if match else 0.0


def _rows(found: Iterable[Differences]) -> dict[Row, list[str]]:
    gathered: dict[Row, dict[tuple[str, str], float]] = {}
    marks: dict[tuple[Row, str], str] = {}
    for one in found:
        cells = gathered.setdefault(one.row, {})
        for quantity, largest in one.largest.items():
            key = one.dtype, quantity
            cells[key] = max(cells.get(key, 0.0), largest)
        if one.reference:
            marks[one.row, one.dtype] = BY_REFERENCE
    return {row: _cells(row, cells, marks) for row, cells in gathered.items()}


def _cells(row: Row, cells: Mapping[tuple[str, str], float], marks: Mapping[tuple[Row, str], str]) -> list[str]:
    return [
        _spelled(cells[d, q]) + marks.get((row, d), "") if (d, q) in cells else NONE for d in DTYPES for q in QUANTITIES
    ]


def _spelled(largest: float) -> str:
    """Return a number rounded up to one digit."""
    if largest == 0:
        return "0"
    exponent = math.floor(math.log10(largest))
    digit = math.ceil(largest / 10**exponent)
    return f"1e{exponent + 1}" if digit == 10 else f"{digit}e{exponent}"


def _parted(page: str) -> tuple[str, str, str]:
    before, rest = page.split(BEGIN)
    table, after = rest.split(END)
    return before, table, after
