"""Draw docs/images/diabetes_jacobian.png: the Jacobian of the diabetes model, patient by patient.

Run with ``python docs/plot_diabetes.py [FILE]``; needs the extra ``docs``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

import onnxgrad

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

ROOT = Path(__file__).parents[1]
INK, FAINT = "#1f2933", "#9aa5b1"
LOW_TO_HIGH = LinearSegmentedColormap.from_list("low to high", ["#2166ac", "#67a9cf", "#c9c3d6", "#ef8a62", "#b2182b"])

#: By column: what is measured, and the unit.
MEASUREMENTS = {
    "age": ("age", "year"),
    "sex": ("sex", "step"),
    "bmi": ("body mass index", "kg/m²"),
    "bp": ("mean blood pressure", "mmHg"),
    "s1": ("total cholesterol", "mg/dl"),
    "s2": ("LDL cholesterol", "mg/dl"),
    "s3": ("HDL cholesterol", "mg/dl"),
    "s4": ("total / HDL cholesterol", "unit"),
    "s5": ("log of triglycerides", "unit"),
    "s6": ("blood sugar", "mg/dl"),
}


def heights(values: np.ndarray, width: float) -> np.ndarray:
    """Return a height in -1 … 1 for each value, such that points fill the shape of their density."""
    density = np.exp(-0.5 * ((values[:, None] - values) / width) ** 2).sum(axis=1)
    turn = (np.argsort(np.argsort(values)) * 0.6180339887) % 1  # neighbours lie far apart
    return (2 * turn - 1) * density / density.max()


def main(path: Path) -> None:
    """Draw the picture."""
    with open(ROOT / "fixtures" / "diabetes.csv") as file:
        names = file.readline().strip().split(",")
    features = np.loadtxt(ROOT / "fixtures" / "diabetes.csv", delimiter=",", skiprows=1)
    model = onnxgrad.load(ROOT / "fixtures" / "diabetes.onnx")
    _, jacobian = model.value_and_jacobian(features)
    slopes = jacobian[:, 0, :]
    per_deviation = slopes * features.std(axis=0)

    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK})
    figure, axes = plt.subplots(figsize=(9.6, 6.6), layout=None)
    figure.subplots_adjust(left=0.225, right=0.81, top=0.83, bottom=0.12)
    order = np.argsort(np.abs(per_deviation).mean(axis=0))
    axes.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    reach = np.abs(per_deviation).max()
    for row, i in enumerate(order):
        rank = np.argsort(np.argsort(features[:, i])) / (len(features) - 1)
        if len(np.unique(features[:, i])) == 2:
            rank = (features[:, i] > features[:, i].min()).astype(float)
        height = row + 0.36 * heights(per_deviation[:, i], width=reach / 60)
        axes.scatter(per_deviation[:, i], height, c=rank, cmap=LOW_TO_HIGH, s=9, alpha=0.8, linewidths=0, zorder=2)
        mean = per_deviation[:, i].mean()
        axes.plot([mean, mean], [row - 0.42, row + 0.42], color=INK, linewidth=1.4, zorder=3, solid_capstyle="round")
        text, unit = MEASUREMENTS[names[i]]
        axes.text(-0.02, row, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=10)
        slope = f"{slopes[:, i].mean():+.2g}".replace("-", "\N{MINUS SIGN}")
        axes.text(1.02, row, slope, transform=axes.get_yaxis_transform(), ha="left", va="center", fontsize=10)
        axes.text(
            1.105, row, f"per {unit}", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=FAINT
        )
    axes.text(1.02, len(order) - 0.32, "mean slope", transform=axes.get_yaxis_transform(), fontsize=8.5, color=FAINT)
    axes.set(ylim=(-0.65, len(order) - 0.35), yticks=[])
    axes.set_xlabel("slope of the predicted progression, per standard deviation of the measurement", labelpad=8)
    axes.tick_params(axis="x", color=FAINT, labelcolor=INK, length=3)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.6, zorder=-1)
    axes.set_axisbelow(True)

    figure.text(
        0.035, 0.945, "What moves the prediction, patient by patient", fontsize=15, fontweight="bold", va="center"
    )
    figure.text(
        0.035, 0.895,
        "The Jacobian of a neural network for the progression of diabetes: one dot for each of 442 patients",
        fontsize=10, color="#52606d", va="center",
    )  # fmt: skip
    bar = figure.add_axes((0.84, 0.935, 0.09, 0.016))
    bar.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=LOW_TO_HIGH)
    bar.set_axis_off()
    figure.text(0.835, 0.943, "low", fontsize=8.5, ha="right", va="center", color="#52606d")
    figure.text(0.935, 0.943, "high", fontsize=8.5, ha="left", va="center", color="#52606d")
    figure.text(0.885, 0.905, "measured value", fontsize=8.5, ha="center", va="center", color="#52606d")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "diabetes_jacobian.png")
