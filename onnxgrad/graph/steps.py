"""Comparisons with a number, as numbers: each is a `HardSigmoid` so steep that it is a step.

A `HardSigmoid` is ``clip(slope · x + offset, 0, 1)``. The steps here rise (or fall) by 1 from the bound to the next
float32, on the side where the comparison changes. Slopes are powers of two and offsets integers below 2²⁴, so near the
bound all is exact, and far from it the sum is above 1 or below 0 however it is rounded. At 0, where float32 goes on
to far smaller numbers, the slope is the greatest that there is: numbers below 3e-39 are not told from 0.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

#: Slope and offset of the `HardSigmoid` that is ``1 - x`` of a share (see `is_share`).
COMPLEMENT = (-1.0, 1.0)
#: Of each operator that compares: the sign of the slope of its step, and the number at the bound itself.
_STEPS = {"Greater": (1, 0), "GreaterOrEqual": (1, 1), "Less": (-1, 0), "LessOrEqual": (-1, 1)}
#: Slope of a step at 0, and the least one elsewhere: nothing else is to be taken for a step.
_GREATEST, _LEAST = float(np.finfo(np.float32).max), 2.0**10


def step_of(comparison: str, bound: float) -> tuple[float, float] | None:
    """Return the slope and the offset of the step that is 1 where a float32 compares to a bound so, and 0 elsewhere.

    None: there is none, as the operator compares in another way, or the bound is no float32, or has only neighbors
    that are far away.
    """
    if comparison not in _STEPS or not abs(bound) <= _GREATEST or float(np.float32(bound)) != bound:
        return None
    sign, at_bound = _STEPS[comparison]
    if bound == 0:
        return sign * _GREATEST, float(at_bound)
    rises_above = (sign > 0) == (at_bound == 0)
    gap = abs(float(np.nextafter(np.float32(bound), np.float32(np.inf if rises_above else -np.inf))) - bound)
    slope = sign / gap
    return (slope, at_bound - slope * bound) if _LEAST <= abs(slope) <= _GREATEST else None


def comparison_of(slope: float, offset: float) -> tuple[str, float] | None:
    """Return the operator and the bound of the step with a slope and an offset, if it is one of `step_of`.

    Of the two that it may be (above a number, or not below the next one) it is that without the bound.
    """
    if abs(slope) < _LEAST:
        return None
    for comparison, (_, at_bound) in _STEPS.items():
        bound = 0.0 if abs(slope) == _GREATEST else (at_bound - offset) / slope
        if step_of(comparison, bound) == (slope, offset):
            return comparison, bound
    return None


def is_share(value: ir.Value) -> bool:
    """Whether a value is from 0 to 1 by the operator that makes it: a sigmoid, or the square of a tanh."""
    node = value.producer()
    if node is None or node.domain:
        return False
    root = node.inputs[0]
    if node.op_type == "Mul" and root is not None and root is node.inputs[1]:
        made = root.producer()
        return made is not None and not made.domain and made.op_type == "Tanh"
    return node.op_type in ("Sigmoid", "HardSigmoid")
