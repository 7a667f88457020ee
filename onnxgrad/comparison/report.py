"""What a comparison finds."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

#: What can be said of one tensor of two models.
Verdict = Literal["identical", "agrees", "refused", "differs"]


#: At most so many elements of an output or input are named.
NAMED = 100


@dataclass(frozen=True)
class Spread:
    """Differences of the elements of a tensor: the largest, and the typical one (the median)."""

    largest: float
    typical: float


@dataclass(frozen=True)
class Place:
    """One element that differs.

    Attributes:
        sample: its sample; None where samples are no axis of the tensor.
        of: the element of the output, e.g. ``y[3]``.
        wrt: for derivatives, the element of the input, e.g. ``x[0,2]``.
        a, b: its value in both (text for an element that is no number).
        absolute: ``|b - a|``.
        relative: ``|b - a| / max(|a|, |b|)``.
        ulps: ``|b - a|`` in units in the last place, of the coarser of both types.
        excess: ``|b - a|`` as a multiple of what is tolerated; infinite where nothing is.
    """

    sample: int | None
    of: str
    wrt: str | None
    a: float | str
    b: float | str
    absolute: float
    relative: float
    ulps: float | None
    excess: float

    @property
    def text(self) -> str:
        """Which element it is, in words."""
        element = self.of if self.wrt is None else f"d {self.of} / d {self.wrt}"
        return element if self.sample is None else f"{element}, sample {self.sample}"


@dataclass(frozen=True)
class Row:
    """One tensor of both models: an output, or the derivative of an output with respect to an input.

    Attributes:
        kind: "output", "jacobian", or "vjp" (along random cotangents, where the Jacobian would be too large).
        of: the output.
        wrt: the input; None for an output.
        verdict:
            - "identical": no element differs.
            - "agrees": all elements agree within the tolerance.
            - "differs": some do not, or shapes differ, or only one of the models has this derivative.
            - "refused": the derivative does not exist; the detail says why.
        detail: what there is to say.
        dtype: the coarser of both types.
        shape: shape of the tensor.
        rtol, atol: the tolerance: ``|b - a| ≤ atol + rtol · max(|a|, |b|)``.
        absolute, relative, ulps: differences (see `Place`); None where there are no numbers.
        elements: number of elements.
        beyond: how many of them are beyond the tolerance.
        odd: how many of those are NaN or infinite in one model, and not so in the other.
        excess: the largest difference, as a multiple of what is tolerated.
        moved_of: the elements of the output that are beyond the tolerance in some sample, those farthest off first.
        moved_wrt: the same of the input.
        worst: the elements that are farthest off: one for each of the worst samples, where there are samples.
        points: ``(2, n)``: ``max(|a|, |b|)`` and ``|b - a|`` of some elements, for a plot.
    """

    kind: Literal["output", "jacobian", "vjp"]
    of: str
    wrt: str | None
    verdict: Verdict
    detail: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    rtol: float = 0.0
    atol: float = 0.0
    absolute: Spread | None = None
    relative: Spread | None = None
    ulps: Spread | None = None
    elements: int = 0
    beyond: int = 0
    odd: int = 0
    excess: float = 0.0
    moved_of: tuple[str, ...] = ()
    moved_wrt: tuple[str, ...] = ()
    worst: tuple[Place, ...] = ()
    points: np.ndarray[Any, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the tensor: ``y``, or ``y:x`` for a derivative, as in tolerances."""
        return self.of if self.wrt is None else f"{self.of}:{self.wrt}"

    @property
    def text(self) -> str:
        """The row in words."""
        what = self.name if self.kind == "output" else f"{self.name} ({self.kind})"
        if self.verdict == "refused" or (self.verdict == "differs" and not self.worst):
            return f"{what}: {self.verdict}: {self.detail}"
        if self.verdict == "identical":
            return f"{what}: identical"
        words = f"{what}: {self.verdict}"
        if self.beyond:
            words += f", {self.beyond} of {self.elements} elements beyond the tolerance"
        if self.odd:
            words += f", {self.odd} of them NaN or infinite in one only"
        for place in self.worst[:1]:
            words += f"; worst: {place.text}: {_number(place.a)} against {_number(place.b)}"
            if math.isfinite(place.absolute) and not isinstance(place.a, str):
                ulps = "" if place.ulps is None else f", {place.ulps:.3g} units in the last place of {self.dtype}"
                words += f" (absolute {place.absolute:.2e}, relative {place.relative:.2e}{ulps})"
        moved = [named for named in (self.moved_of, self.moved_wrt) if named]
        if moved:
            words += "; moved: " + " by ".join(shortened(names) for names in moved)
        return words + (f"; {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class Comparison:
    """Two models side by side, or a golden file and a model.

    Attributes:
        a: what was compared.
        b: with what.
        rows: one for each output, then one for each derivative.
        notes: how inputs and outputs were matched, where that needs saying, and the like.
        data: where the inputs came from.
    """

    a: str
    b: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    data: str = ""

    @property
    def verdict(self) -> Literal["agrees", "differs", "refused"]:
        """The whole: "differs" if a tensor does; else "refused" if no derivative could be compared; else "agrees"."""
        if any(row.verdict == "differs" for row in self.rows):
            return "differs"
        derived = [row for row in self.rows if row.kind != "output"]
        return "refused" if derived and all(row.verdict == "refused" for row in derived) else "agrees"

    @property
    def ok(self) -> bool:
        """Whether they agree."""
        return self.verdict == "agrees"

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by verdict."""
        return dict(Counter(row.verdict for row in self.rows))

    def __str__(self) -> str:
        rows = [row for row in self.rows if row.verdict in ("differs", "refused")] or self.rows
        head = {"agrees": "agree", "differs": "differ", "refused": "have no derivatives to compare"}[self.verdict]
        return "\n".join([f"{self.a} and {self.b} {head}:", *(f"  {row.text}" for row in rows), *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON; what is not finite there (an excess, an element) is None."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            del row["points"]
        everything = {
            "a": self.a,
            "b": self.b,
            "ok": self.ok,
            "verdict": self.verdict,
            "counts": self.counts,
            "data": self.data,
            "notes": self.notes,
            "rows": rows,
        }
        plain = _plain(everything)
        assert isinstance(plain, dict)
        return plain

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Return a matplotlib figure: how far each tensor is off, and each element over its size.

        Args:
            path: an image to write, too; it appears whole or not at all.

        Raises:
            OnnxgradError: if matplotlib is not installed.
            ModelWriteError: if the image cannot be written.
        """
        from onnxgrad.comparison.plot import plot

        return plot(self, path)


def shortened(names: tuple[str, ...], most: int = 6) -> str:
    """Return the first names, and how many more there are."""
    count = f"{NAMED} or more" if len(names) >= NAMED else f"{len(names)} in all"
    more = f", … ({count})" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _number(value: float | str) -> str:
    return repr(value) if isinstance(value, str) else f"{value:.9g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
