"""Fully connected networks: tanh between the layers, linear at the end."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

import numpy as np

from benchmarks.networks.base import Network, Weights


def mlp(*sizes: int) -> Network:
    """Return a network with layers of these widths, the input first."""

    def draw(rng: np.random.Generator) -> Weights:
        weights = {}
        for i, (before, after) in enumerate(pairwise(sizes), 1):
            weights[f"w{i}"] = rng.standard_normal((after, before)) / np.sqrt(before)
            weights[f"b{i}"] = 0.1 * rng.standard_normal(after)
        return weights

    def forward(ops: Any, w: Any, x: Any) -> Any:
        last = len(sizes) - 1
        for i in range(1, last):
            x = ops.tanh(ops.linear(x, w[f"w{i}"], w[f"b{i}"]))
        return ops.linear(x, w[f"w{last}"], w[f"b{last}"])

    return Network(f"mlp-{_spelled(sizes)}", sizes[:1], sizes[-1:], draw, forward, sizes, needs=())


def _spelled(sizes: tuple[int, ...]) -> str:
    """Return ``10-20-1``; many equal widths in a row as ``64x9``."""
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    return "-".join(f"{size}x{n}" if n > 4 else "-".join([str(size)] * n) for size, n in runs)
