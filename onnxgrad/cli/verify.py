"""``onnxgrad verify``: a model against its golden file."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxgrad.cli.compare import AtolOption, JsonOption, PlotOption, RtolOption, WorstOption, show, tolerances
from onnxgrad.cli.output import progress
from onnxgrad.comparison import verify as verify_model
from onnxgrad.comparison.plot import check as check_plot


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    golden: Annotated[str, typer.Argument(metavar="GOLDEN", help="The file that `onnxgrad record` wrote.")],
    rtol: RtolOption = None,
    atol: AtolOption = None,
    worst: WorstOption = 5,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold MODEL against the outputs and Jacobians in GOLDEN: what changed, where, and by how much.

    The tolerances are those in the file, unless others are given.

    Exit code 1 if something changed by more than is tolerated, 2 if GOLDEN was made from another model.
    """
    if plot is not None:
        check_plot(plot)
    relative, absolute = tolerances(rtol, "--rtol"), tolerances(atol, "--atol")
    with progress("verifying") as advance:
        found = verify_model(model, golden, rtol=relative, atol=absolute, worst=worst, progress=advance)
    show(found, plot, as_json)
