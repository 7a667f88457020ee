"""Which results are right: those that the most systems agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.tasks import DIFFERENCES

#: Systems whose results are approximate, and the factor by which they may differ more.
_APPROXIMATE = {"differences": DIFFERENCES}

Result = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """Whether a result is right.

    Attributes:
        right: whether it is.
        difference: from the reference, relative; None where shapes or names differ.
        reason: why it is wrong.
    """

    right: bool
    difference: float | None
    reason: str = ""


def judge(results: Mapping[str, Result], tolerance: float) -> dict[str, Verdict]:
    """Return a verdict on each system's result.

    The reference is the exact result that the most others agree with. Where as many agree with another, which differs
    from it, nobody is known to be right.
    """

    def limit(name: str) -> float:
        return tolerance * _APPROXIMATE.get(name, 1)

    found = {(a, b): difference(results[a], results[b]) for a in results for b in results}
    agree = {(a, b): d is not None and d <= max(limit(a), limit(b)) for (a, b), d in found.items()}
    support = {a: sum(agree[a, b] for b in results) for a in results}
    exact = [name for name in results if name not in _APPROXIMATE] or list(results)
    if not exact:
        return {}
    reference = max(exact, key=lambda name: support[name])
    rivals = [a for a in exact if not agree[a, reference] and support[a] >= support[reference]]
    verdicts = {}
    for name in results:
        d = found[name, reference]
        if rivals:
            verdicts[name] = Verdict(False, d, f"{reference} and {rivals[0]} disagree, as many others side with each")
        elif agree[name, reference]:
            verdicts[name] = Verdict(True, d)
        else:
            by = "other shapes" if d is None else f"{d:.1e}"
            verdicts[name] = Verdict(False, d, f"differs from {support[reference]} others: {by}")
    return verdicts


def difference(a: Result, b: Result) -> float | None:
    """Return the largest relative difference of two results, over their arrays; None if they are shaped differently.

    It is that of 2-norms: a rounding error that moves one element across a kink changes a few elements of a gradient
    by much, and the norm by little, while a wrong formula changes the norm.
    """
    if a is b:
        return 0.0
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return None
    return max(_difference(a[name], b[name]) for name in a)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    size = max(float(np.linalg.norm(a.ravel())), float(np.linalg.norm(b.ravel())))
    return float(np.linalg.norm((a - b).ravel())) / size if size else 0.0
