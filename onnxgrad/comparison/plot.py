"""A picture of a comparison."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgrad.errors import ModelWriteError, OnnxgradError
from onnxgrad.model.write import write_all_or_nothing

if TYPE_CHECKING:
    from onnxgrad.comparison.report import Comparison

#: Formats of an image.
SUFFIXES = (".png", ".svg", ".pdf", ".jpg")
#: So many tensors are drawn, those farthest off.
_ROWS = 20


def check(path: str | os.PathLike[str] | None = None) -> None:
    """Check that a plot can be drawn.

    Raises:
        OnnxgradError: if matplotlib is not installed.
        ModelWriteError: if `path` is no name of an image.
    """
    try:
        import matplotlib as _  # noqa: F401
    except ImportError:
        raise OnnxgradError("a plot needs matplotlib, which is not installed: pip install 'onnxgrad[plot]'") from None
    if path is not None and not os.fspath(path).lower().endswith(SUFFIXES):
        raise ModelWriteError(
            f"{os.fspath(path)!r} is no name of an image; give one that ends in {', '.join(SUFFIXES)}"
        )


def plot(comparison: Comparison, path: str | os.PathLike[str] | None = None) -> Any:
    """Return a figure; see `Comparison.plot`. Left: the largest difference of each tensor as a multiple of what is
    tolerated; right: the difference of each element over its size.
    """
    check(path)
    from matplotlib.figure import Figure

    rows = sorted((row for row in comparison.rows if row.elements), key=lambda row: row.excess)[-_ROWS:]
    figure = Figure(figsize=(11, 1.8 + 0.28 * max(len(rows), 8)), layout="constrained")
    bars, dots = figure.subplots(1, 2)
    finite = [row.excess for row in rows if np.isfinite(row.excess) and row.excess > 0]
    low, high = min([1e-3, *finite]) / 2, max([10.0, *finite]) * 2  # infinite ones reach the edge
    lengths = [min(max(row.excess, low), high) for row in rows]
    colors = ["tab:red" if row.verdict == "differs" else "tab:green" for row in rows]
    bars.barh(range(len(rows)), lengths, color=colors)
    bars.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    bars.set_xscale("log")
    bars.set_xlim(low, high)
    bars.axvline(1, color="black", linewidth=1)
    bars.set_xlabel("largest difference / tolerance")
    for i, row in enumerate(rows):
        if row.points is None or i < len(rows) - 10:
            continue
        size, difference = row.points
        shown = (difference > 0) & (size > 0)
        if shown.any():
            dots.plot(size[shown], difference[shown], ".", markersize=3, label=row.name.lstrip("_"))
    if dots.lines:
        dots.set_xscale("log")
        dots.set_yscale("log")
        dots.legend(fontsize="small", markerscale=3)
    else:
        dots.text(0.5, 0.5, "no element differs", ha="center", va="center", transform=dots.transAxes)
    dots.set_xlabel("larger absolute value")
    dots.set_ylabel("absolute difference")
    figure.suptitle(f"{comparison.a} and {comparison.b}: {comparison.verdict}", parse_math=False)
    if path is not None:
        with write_all_or_nothing(path) as temporary:
            figure.savefig(temporary)
    return figure
