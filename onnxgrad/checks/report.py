"""What a check finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

#: What can be said of the derivative of one output by one input.
Verdict = Literal["right", "kink", "zero", "refused", "not runnable", "undecided", "imprecise", "wrong"]

#: A report as a whole gets the last of these that one of its rows has. The first three are good, the last four are not.
VERDICTS: tuple[Verdict, ...] = ("zero", "kink", "right", "refused", "not runnable", "undecided", "imprecise", "wrong")


@dataclass(frozen=True)
class Row:
    """The derivative of one output with respect to one input.

    Attributes:
        of, wrt: names of the two.
        verdict:
            - "right": it agrees with differences, which are sharp enough to show an error of half a percent.
            - "kink": the point is one without a derivative, the value there is one that may be chosen, and beside the
              point the derivative is right.
            - "zero": zero wherever it exists, by the nature of the model, which differences confirm.
            - "refused": a node is in the way; the detail is the report.
            - "not runnable": no runtime runs what is needed; the detail has their words.
            - "undecided": differences are too blurred to tell.
            - "imprecise": right in float64, but far off in the model's own type.
            - "wrong": it disagrees with differences.
        detail: what there is to say.
        derivative: the derivative along the last direction that was looked at, contracted with a random cotangent.
        difference: the same by differences.
        tolerance: how far apart the two may be, from the error of the difference and rounding.
        adjoint: relative gap between ``⟨ct, J t⟩`` and ``⟨Jᵀ ct, t⟩``; None if there is no forward mode.
        rounding: relative distance of the derivative in the model's own type from that in float64.
    """

    of: str
    wrt: str
    verdict: Verdict
    detail: str = ""
    derivative: float | None = None
    difference: float | None = None
    tolerance: float | None = None
    adjoint: float | None = None
    rounding: float | None = None


@dataclass(frozen=True)
class Primal:
    """Whether the outputs of the model survive the addition of derivatives.

    Attributes:
        verdict: "same bits", "same to rounding" (where the model was lifted to a newer opset), "changed", or
            "not compared".
        detail: what there is to say.
    """

    verdict: Literal["same bits", "same to rounding", "changed", "not compared"]
    detail: str = ""


@dataclass(frozen=True)
class CheckReport:
    """What a check of a model found.

    Attributes:
        rows: one for each output and input.
        primal: about the outputs of the model itself.
        precision: what differences were taken in, "float64" or "float32".
        engine: what ran the model for differences.
        data: how the inputs were chosen.
        seconds: how long it took.
    """

    rows: tuple[Row, ...]
    primal: Primal
    precision: str
    engine: str
    data: str
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all rows, as `VERDICTS` go; "wrong" too if the primal outputs changed."""
        if self.primal.verdict == "changed":
            return "wrong"
        return max((row.verdict for row in self.rows), key=VERDICTS.index, default="right")

    @property
    def ok(self) -> bool:
        """Whether nothing disagrees and nothing is left open: each row is right, zero, a kink, or refused."""
        return VERDICTS.index(self.verdict) <= VERDICTS.index("refused")

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by verdict, in the order of `VERDICTS`."""
        found = Counter(row.verdict for row in self.rows)
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}
