"""Control flow: the sweeps go through the bodies (`onnxgrad.autodiff.control`); here are the operators' versions."""

from __future__ import annotations

from onnxgrad.rules.registry import REGISTRY, Rule

for _operator, _versions in {
    "If": (16, 19, 21, 23, 24, 25),
    "Loop": (16, 19, 21, 23, 24, 25),
    "Scan": (16, 19, 21, 23, 24, 25),
}.items():
    REGISTRY.add(Rule(_operator, "control flow", frozenset(_versions), None, differentiates_captured=True))
