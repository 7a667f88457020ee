"""``onnxgrad compare``: two models side by side."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import typer

from onnxgrad.cli.data import read_feeds
from onnxgrad.cli.output import print_json, print_table, print_text, progress, say
from onnxgrad.comparison import Comparison, Row, compare
from onnxgrad.comparison.compare import MAX_ELEMENTS
from onnxgrad.comparison.differences import parse_tolerances
from onnxgrad.comparison.plot import check as check_plot
from onnxgrad.comparison.report import shortened
from onnxgrad.errors import FeedError, OnnxgradError
from onnxgrad.runtime import load

RtolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rtol",
        metavar="NUMBER | NAME=NUMBER",
        help="Relative tolerance, for all tensors or for one: y=1e-5, y:x=1e-3 (repeatable).",
    ),
]
AtolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--atol",
        metavar="NUMBER | NAME=NUMBER",
        help="Absolute tolerance; by default the relative one times the root mean square of the tensor.",
    ),
]
OfOption = Annotated[
    list[str] | None,
    typer.Option("--of", metavar="NAME", help="An output to look at (repeatable); by default all."),
]
WrtOption = Annotated[
    list[str] | None,
    typer.Option("--wrt", metavar="NAME", help="An input to differentiate by (repeatable); by default all."),
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="X", help="What to feed: a .csv, .npz or .npy file. By default random numbers."),
]
StraightOption = Annotated[
    bool | None,
    typer.Option(
        "--straight-through/--no-straight-through",
        help="Whether gradients pass straight through the roundings of quantized operators; by default in models that "
        "have those.",
    ),
]
MaxElementsOption = Annotated[
    int,
    typer.Option("--max-elements", min=0, help="Jacobians with more elements are taken along random cotangents."),
]
WorstOption = Annotated[int, typer.Option("--worst", min=0, help="How many of the worst samples to list.")]
PlotOption = Annotated[
    str | None, typer.Option("--plot", metavar="IMAGE", help="A .png, .svg, .pdf or .jpg file to draw (matplotlib).")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def compare_command(
    a: Annotated[str, typer.Argument(metavar="A", help="A model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    data: DataOption = None,
    of: OfOption = None,
    wrt: WrtOption = None,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    derivatives: Annotated[
        bool, typer.Option("--derivatives/--values-only", help="Whether Jacobians are compared, too.")
    ] = True,
    straight_through: StraightOption = None,
    max_elements: MaxElementsOption = MAX_ELEMENTS,
    worst: WorstOption = 5,
    plot: PlotOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Put models A and B side by side: outputs and Jacobians, two exports of one network, old and new.

    Inputs and outputs are matched by name, or by order where names differ. Differences are absolute, relative, and in
    units in the last place of the coarser of both types. An element agrees if |b - a| <= atol + rtol * max(|a|, |b|).
    Samples and elements count from 0.

    Exit code 1 if they differ, 2 if there is nothing to compare because all derivatives are refused.
    """
    if plot is not None:
        check_plot(plot)
    relative, absolute = tolerances(rtol, "--rtol"), tolerances(atol, "--atol")
    with progress("comparing") as advance:
        found = compare(
            a,
            b,
            None if data is None else _read(data, a, b),
            of=of,
            wrt=wrt,
            rtol=relative,
            atol=absolute,
            derivatives=derivatives,
            straight_through=straight_through,
            max_elements=max_elements,
            worst=worst,
            seed=seed,
            progress=advance,
        )
    show(found, plot, as_json)


def _read(data: str, a: str, b: str) -> dict[str, Any]:
    """Return what a file feeds, by the names of inputs of the first model, or of the second one."""
    try:
        return read_feeds(data, load(a).inputs, partial=True)
    except FeedError:
        with suppress(OnnxgradError):
            return read_feeds(data, load(b).inputs, partial=True)
        raise


def tolerances(words: list[str] | None, option: str) -> dict[str, float] | None:
    """Return the tolerances that are written behind an option.

    Raises:
        typer.BadParameter: if they are none.
    """
    try:
        return parse_tolerances(words or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def show(found: Comparison, plot: str | None, as_json: bool) -> None:
    """Print a comparison, draw it, and exit with its code."""
    if plot is not None:
        found.plot(plot)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
    if found.verdict == "refused":
        for reason in dict.fromkeys(row.detail for row in found.rows if row.verdict == "refused"):
            say("error", "bold red", reason)
    raise typer.Exit({"agrees": 0, "differs": 1, "refused": 2}[found.verdict])


_NUMBERS = ("absolute", "typical", "relative", "typical ", "ulps", "typical  ", "beyond")
_COLORS = {"identical": "green", "agrees": "green", "refused": "yellow", "differs": "bold red"}


def _print(found: Comparison) -> None:
    print_table(
        f"{found.a} and {found.b}: largest and typical differences",
        ("tensor", "kind", "verdict", *_NUMBERS, "tolerance", "of type"),
        [_cells(row) for row in found.rows],
        right=_NUMBERS,
        styles={"verdict": lambda verdict: _COLORS[verdict]},
    )
    print_table(
        "where they differ",
        ("tensor", "output", "by input", "sample", "a", "b", "absolute", "relative", "ulps", "of the tolerance"),
        [
            (
                row.name,
                place.of,
                place.wrt or "",
                "" if place.sample is None else place.sample,
                *(v if isinstance(v, str) else f"{v:.9g}" for v in (place.a, place.b)),
                f"{place.absolute:.2e}",
                f"{place.relative:.2e}",
                "" if place.ulps is None else f"{place.ulps:.3g}",
                f"{place.excess:.3g} x",
            )
            for row in found.rows
            if row.verdict == "differs"
            for place in row.worst
        ],
        right=("sample", "a", "b", "absolute", "relative", "ulps", "of the tolerance"),
    )
    for row in found.rows:
        if row.moved_of or row.moved_wrt:
            moved = " by ".join(shortened(names, 12) for names in (row.moved_of, row.moved_wrt) if names)
            print_text(f"{row.name} moved: {moved}")
        if row.detail and found.verdict != "refused":
            print_text(f"{row.name}: {row.detail}")
    for note in found.notes:
        print_text(note)
    print_text(f"inputs: {found.data}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    print_text(counts, "bold green" if found.ok else "bold red")


def _cells(row: Row) -> tuple[str, ...]:
    pairs = [(s.largest, s.typical) if s else None for s in (row.absolute, row.relative, row.ulps)]
    forms = (".2e", ".2e", ".3g")
    numbers = [
        "" if pair is None else format(n, form)
        for pair, form in zip(pairs, forms, strict=True)
        for n in (pair or (0.0, 0.0))
    ]
    beyond = f"{row.beyond} of {row.elements}" if row.elements else ""
    tolerance = f"{row.rtol:.0e}, {row.atol:.0e}" if row.elements else ""
    return row.name, row.kind, row.verdict, *numbers, beyond, tolerance, row.dtype
