"""``onnxgrad check``: derivatives against differences."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from onnxgrad.checks import CheckReport, Row, check_model
from onnxgrad.cli.data import read_feeds
from onnxgrad.cli.output import print_json, print_table, print_text, progress, say
from onnxgrad.model.read import read
from onnxgrad.model.signature import signature

_COLORS = {"right": "green", "kink": "green", "zero": "green", "refused": "yellow"}


def check(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX model.")],
    of: Annotated[
        list[str] | None,
        typer.Option("--of", metavar="NAME", help="What is differentiated (repeatable); by default every output."),
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option(
            "--wrt", metavar="NAME", help="What it is differentiated by (repeatable); by default every input."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="X", help="Where to check: a .csv, .npz or .npy file. By default at random points."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Hold every derivative of MODEL against central differences.

    In float64 where that is possible. Also checked: the adjoint identity between forward and reverse mode, and that the
    model's own outputs stay as they are.

    Exit code 1 if anything disagrees or stays open, 2 if there is nothing to check because all derivatives are refused.
    """
    with progress("checking") as advance:
        feeds = None if data is None else read_feeds(data, signature(read(model)).inputs, partial=True)
        report = check_model(model, of, wrt, data=feeds, seed=seed, progress=advance)
    refused = bool(report.rows) and all(row.verdict == "refused" for row in report.rows)
    if as_json:
        print_json(
            {"file": model, "ok": report.ok, "verdict": report.verdict, "counts": report.counts, **asdict(report)}
        )
    else:
        _print(report, refused)
    if refused:
        for reason in dict.fromkeys(row.detail for row in report.rows):
            say("error", "bold red", reason)
        raise typer.Exit(2)
    raise typer.Exit(0 if report.ok else 1)


def _print(report: CheckReport, refused: bool) -> None:
    print_table(
        "derivatives",
        ("of", "wrt", "verdict", "derivative", "difference", "tolerance", "adjoint", "rounding"),
        [_row(row) for row in report.rows],
        right=("derivative", "difference", "tolerance", "adjoint", "rounding"),
        styles={"verdict": lambda verdict: _COLORS.get(verdict, "bold red")},
    )
    for row in report.rows:
        if row.detail and not refused:
            print_text(f"{row.of}:{row.wrt} {row.verdict}: {row.detail}")
    detail = f" ({report.primal.detail})" if report.primal.detail else ""
    print_text(f"the model's own outputs: {report.primal.verdict}{detail}")
    print_text(f"differences in {report.precision} by {report.engine}, inputs: {report.data}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
    print_text(f"{counts} in {report.seconds:.1f} s", "bold green" if report.ok else "bold red")


def _row(row: Row) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        row.of,
        row.wrt,
        row.verdict,
        number(row.derivative, ".6g"),
        number(row.difference, ".6g"),
        number(row.tolerance, ".1e"),
        number(row.adjoint, ".1e"),
        number(row.rounding, ".1e"),
    )
