"""``onnxgrad sensitivity``: what the partial derivatives say about the inputs, over data."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any

import typer

from onnxgrad.cli.data import column_names, read_feeds
from onnxgrad.cli.output import print_json, print_table, print_text, progress
from onnxgrad.errors import ModelWriteError
from onnxgrad.model.write import write_all_or_nothing
from onnxgrad.runtime import load
from onnxgrad.runtime.function import MAX_BYTES
from onnxgrad.sensitivities import STATISTICS, Sensitivity, figure_class
from onnxgrad.sensitivities import sensitivity as compute

#: Formats that matplotlib writes.
_PLOTS = (".png", ".svg", ".pdf")


def sensitivity(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX model.")],
    data: Annotated[str, typer.Option("--data", metavar="X", help="The samples: a .csv, .npz or .npy file.")],
    of: Annotated[
        list[str] | None,
        typer.Option("--of", metavar="NAME", help="Which output (repeatable); by default every one."),
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option("--wrt", metavar="NAME", help="Which input (repeatable); by default every one."),
    ] = None,
    interactions: Annotated[
        bool, typer.Option("--interactions", help="Also second order: mean absolute mixed derivatives.")
    ] = False,
    rank_by: Annotated[
        str, typer.Option("--rank-by", metavar="STATISTIC", help=f"One of {', '.join(STATISTICS)}.")
    ] = "importance",
    top: Annotated[int, typer.Option("--top", min=1, help="How many features and pairs are shown.")] = 20,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="A .csv file to write all statistics to.")
    ] = None,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="A .png, .svg or .pdf file to draw the ranking to.")
    ] = None,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", min=1, help="Bound of the results, and of the working memory of one run.")
    ] = MAX_BYTES,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show how the outputs of MODEL react to each of its inputs, over data.

    For each partial derivative: its mean, mean absolute value and root mean square, how often it is positive, the
    elasticity (the relative change of the output by that of the input), and the change per standard deviation of the
    input. Features are ranked by importance: the mean absolute derivative times the standard deviation of the input.
    """
    _check(rank_by, output, plot)
    function = load(model, max_bytes=max_bytes)
    feeds = read_feeds(data, function.inputs)
    with progress("differentiating") as advance:
        found = compute(
            function,
            feeds,
            of,
            wrt,
            names=_names(data, feeds),
            interactions=interactions,
            max_bytes=max_bytes,
            progress=advance,
        )
    if output is not None:
        found.to_csv(output)
    if plot is not None:
        with write_all_or_nothing(plot) as temporary:
            found.plot(rank_by, top).savefig(temporary)
    if as_json:
        print_json({"file": model, "ranking": {o: found.ranking(o, rank_by) for o in found.outputs}, **found.to_dict()})
        return
    _print(found, rank_by, top)
    for path in (output, plot):
        if path is not None:
            print_text(f"{path}: written")


def _check(rank_by: str, output: str | None, plot: str | None) -> None:
    """Check what can be checked before anything is computed."""
    if rank_by not in STATISTICS:
        raise typer.BadParameter(f"{rank_by!r} is none of {', '.join(STATISTICS)}", param_hint="--rank-by")
    if output is not None and not output.lower().endswith(".csv"):
        raise ModelWriteError(f"{output!r} is no .csv file; give one")
    if plot is not None:
        figure_class()
        if os.path.splitext(plot)[1].lower() not in _PLOTS:
            raise ModelWriteError(f"{plot!r} is no file of a kind that is drawn here; give one of {', '.join(_PLOTS)}")


def _names(path: str, feeds: dict[str, Any]) -> list[str] | None:
    """Return the names of the columns where they were taken in order, as features of the only input."""
    names = column_names(path)
    if names is None or len(feeds) != 1:
        return None
    ((name, array),) = feeds.items()
    in_order = len(names) == math.prod(array.shape[1:]) and not any(
        n == name or n.startswith(f"{name}[") for n in names
    )
    return names if in_order else None


def _print(found: Sensitivity, rank_by: str, top: int) -> None:
    numbers = [name for name in STATISTICS if name != "negative"]
    print_table(
        f"derivatives over {found.samples} samples, by {rank_by}",
        ("output", "feature", *numbers),
        [
            (row["output"], row["feature"], *(_text(row[name]) for name in numbers))
            for row in found.rows(rank_by)
            if row["rank"] <= top
        ],
        right=numbers,
    )
    if found.interactions is not None:
        print_table(
            "interactions: mean absolute mixed derivatives",
            ("output", "feature", "and", "mean_abs"),
            [(o, a, b, _text(value)) for o in found.outputs for a, b, value in found.pairs(o)[:top]],
            right=("mean_abs",),
        )
    left_out = {o: int(n) for o, n in zip(found.outputs, found.undefined, strict=True) if n}
    for name, count in left_out.items():
        print_text(f"{name} is 0 in {count} of {found.samples} samples, which elasticities leave out")


def _text(number: float) -> str:
    return "undefined" if math.isnan(number) else f"{number + 0.0:.4g}"
