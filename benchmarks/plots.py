"""Plots of how cost grows: time of a Jacobian by batch, by width, by depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.tasks import GROWTH, Task

if TYPE_CHECKING:
    from benchmarks.run import Line

_INK, _FAINT, _GRID = "#1f2933", "#9aa5b1", "#e4e7eb"
#: Colors and names, in the order of the legend.
_SYSTEMS = {
    "onnxgrad": ("#b2182b", "onnxgrad"),
    "numpy": ("#8c6bb1", "numpy, by hand"),
    "JAX": ("#2166ac", "JAX"),
    "onnx-ad": ("#41ab5d", "onnx-ad"),
    "PyTorch": ("#ef8a62", "PyTorch"),
    "forward": (_FAINT, "forward alone"),
}
#: By label of the tasks: what is on the x axis, and what the networks are.
_PLOTS = {
    "batch": ("samples", "64-64-64-16"),
    "width": ("width of the two hidden layers", "64-width-width-16, 100 samples"),
    "depth": ("hidden layers of width 64", "64-64-…-64-16, 100 samples"),
}


def draw_all(lines: Sequence[Line], folder: Path) -> list[Path]:
    """Draw a plot for each way in which cost grows that was measured, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for label in _PLOTS:
        chosen = [line for line in lines if line.task.part == GROWTH and _value(line.task, label) is not None]
        if len(chosen) > 1:
            files.append(folder / f"benchmark_{label}.png")
            _draw(label, sorted(chosen, key=lambda line, label=label: _value(line.task, label) or 0), files[-1])
    return files


def _value(task: Task, label: str) -> int | None:
    """Return where a task stands on an axis; None if it does not."""
    hidden = task.network.sizes[1:-1]
    match label:
        case "batch":
            return task.batch if task.label == "batch" else None
        case "width":
            return hidden[0] if len(hidden) == 2 and task.batch == 100 else None
        case _:
            return len(hidden) if set(hidden) == {64} and task.batch == 100 else None


def _draw(label: str, lines: Sequence[Line], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    xlabel, networks = _PLOTS[label]
    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": _INK, "axes.labelcolor": _INK})
    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    for system, (color, name) in _SYSTEMS.items():
        xs, middle, low, high = _curve(label, lines, system)
        if not xs:
            continue
        ours = system == "onnxgrad"
        axes.plot(xs, middle, color=color, marker="o", markersize=4, linewidth=2.4 if ours else 1.4, label=name,
                  linestyle="--" if system == "forward" else "-", zorder=3 if ours else 2)  # fmt: skip
        axes.fill_between(xs, low, high, color=color, alpha=0.18, linewidth=0)
    ticks = sorted({_value(line.task, label) or 0 for line in lines})
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="time")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(_spelled))
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=_FAINT, labelcolor=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
    axes.set_title(f"Jacobian of {networks}", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def _curve(label: str, lines: Sequence[Line], system: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return points, medians and quartiles of a system."""
    found = [(_value(line.task, label), t) for line in lines for t in line.timings if t.system == system and t.timed]
    return (
        [x for x, _ in found if x is not None],
        [t.median for _, t in found],
        [t.quartiles[0] for _, t in found],
        [t.quartiles[1] for _, t in found],
    )


def _spelled(seconds: float, _: Any) -> str:
    """Return a power of ten of seconds in a unit."""
    for size, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size * 0.999:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s" if math.isfinite(seconds) else ""
