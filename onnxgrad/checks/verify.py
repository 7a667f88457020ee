"""One derivative against differences: along random directions, and element by element where those disagree."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxgrad.checks.derived import Array, Derivatives
from onnxgrad.checks.differences import Difference, Sides, central, one_sided
from onnxgrad.checks.report import Row, Verdict
from onnxgrad.errors import RunError

#: How much of the derivative an error may be to go unnoticed.
SHARP = 5e-3
#: Below this share of the output (for a change of the input by its own size) a derivative counts as zero at the point.
_FLAT = {"float64": 1e-6, "float32": 1e-4}
#: Rounding of the derivative itself, relative to the sum of magnitudes.
#: (A few are due to attributes, which are float32 numbers whatever the type of the tensors.)
_ROUNDING = {"float64": 1e-6, "float32": 1e-4}
_ADJOINT = {"float64": 1e-9, "float32": 1e-3}
_DIRECTIONS, _ENOUGH = 8, 2
#: Number of elements of an output that are compared one by one; of more, a random choice.
_ELEMENTS = 100_000
_BISECTIONS = 120
#: Runs that take longer are slow, and fewer of them have to do.
_SLOW = 0.2
#: How long, about, elements at which something is wrong may be searched for.
_SEARCH = 60.0
#: In float32, single elements of more than so many are lost in rounding.
_FEW = 256
_PLACES = 4
_SMALL = 1e-3
_JUMP = "a jump or an infinite slope"


@dataclass(frozen=True)
class Setting:
    """All that is needed to take differences along one input.

    Attributes:
        run: the function: a value of the input, or a shift of it, in; all outputs under test out.
        derivatives: the derivatives under test.
        feeds: the point, as the derivatives take it.
        name: the input, as it is called in `feeds`; None where it is no input but shifted.
        base: its value there, or zeros where it is shifted.
        scale: how far each of its elements is moved, at t = 1, more or less.
        precision: "float64" or "float32".
        seed: of the random directions, which are the same for all outputs, so that `run` may remember what it gave.
    """

    run: Remembering
    derivatives: Derivatives
    feeds: Mapping[str, Any]
    name: str | None
    base: Array
    scale: Array
    precision: str
    seed: tuple[int, ...]

    def direction(self, k: int) -> Array:
        """Return the k-th random direction: each element moves by 0.5 to 1.5 times its scale, up or down."""
        rng = np.random.default_rng([*self.seed, k])
        shape = self.base.shape
        lengths: Array = rng.uniform(0.5, 1.5, size=shape) * rng.choice([-1.0, 1.0], size=shape)
        return self.scale * lengths

    def central(self, line: Callable[[float], Array]) -> Difference:
        """Return differences of a line of `run`."""
        return central(line, self.precision, dear=self.run.seconds > _SLOW)

    def value(self, of: str) -> Array:
        """Return the output at the point."""
        return np.asarray(self.run(self.base)[of])

    def moved_to(self, base: Array) -> Setting:
        """Return the setting at another point."""
        assert self.name is not None
        return replace(self, base=base, feeds={**self.feeds, self.name: base})


class Remembering:
    """A function that keeps its last results.

    Args:
        function: from an array to arrays by name.
        limit: how many bytes of results to keep.

    Attributes:
        seconds: how long the fastest call took.
    """

    def __init__(self, function: Callable[[Array], Mapping[str, Array]], limit: int = 2**28) -> None:
        self._function = function
        self._known: dict[bytes, Mapping[str, Array]] = {}
        self._room = limit
        self.seconds = np.inf

    def __call__(self, x: Array) -> Mapping[str, Array]:
        """Return what the function gives, or gave before, for the same array."""
        key = hashlib.blake2b(x.tobytes()).digest()
        found = self._known.get(key)
        if found is None:
            start = time.perf_counter()
            found = self._function(x)
            self.seconds = min(self.seconds, time.perf_counter() - start)
            self._room -= sum(np.asarray(value).nbytes for value in found.values())
            if self._room > 0:
                self._known[key] = found
        return found


@dataclass
class Evidence:
    """What the directions so far have shown.

    Attributes:
        agreed: number of directions along which the derivative is shown to be right.
        flat: number of those along which it is zero, and so is the difference.
        places: what was found at single elements, in words; at kinks and for errors.
    """

    agreed: int = 0
    flat: int = 0
    blurred: int = 0
    unexplained: int = 0
    kinks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    last: tuple[float, float, float] | None = None
    adjoint: float | None = None


def verify(of: str, wrt: str, setting: Setting) -> Row:
    """Hold the derivative of one output by one input against differences."""
    rng = np.random.default_rng(setting.seed)
    evidence = Evidence()
    try:
        _look(of, wrt, setting, rng, evidence)
        verdict, detail = _judge(evidence, setting.precision)
        if verdict in ("kink", "undecided") and not detail.endswith(_TOO_WIDE):
            verdict, detail = _beside(of, wrt, setting, rng, verdict, detail)
    except RunError as error:
        return Row(of, wrt, "not runnable", str(error))
    without = setting.derivatives.no_jvp.get((of, wrt))
    if without is not None and verdict in ("right", "kink", "undecided"):
        detail = f"{detail}; no forward mode: {without}".removeprefix("; ")
    if evidence.adjoint is not None and not evidence.adjoint <= _ADJOINT[setting.precision]:
        verdict, detail = "wrong", f"⟨ct, J t⟩ and ⟨Jᵀ ct, t⟩ differ by {evidence.adjoint:.1e} of their size"
    derivative, difference, tolerance = evidence.last or (None, None, None)
    return Row(of, wrt, verdict, detail, derivative, difference, tolerance, evidence.adjoint)


def verify_zero(of: str, wrt: str, reason: str, setting: Setting) -> Row:
    """Hold against differences that a derivative is zero by nature.

    Where the steps leave what the model accepts (probabilities, say), smaller ones are taken.
    """
    row = _verify_zero(of, wrt, reason, setting)
    if row.verdict == "not runnable":
        row = _verify_zero(of, wrt, reason, replace(setting, scale=setting.scale * _SMALL))
    return row


def _verify_zero(of: str, wrt: str, reason: str, setting: Setting) -> Row:
    rng = np.random.default_rng(setting.seed)
    try:
        for k in range(_ENOUGH):
            direction = setting.direction(k)
            choice = _choice(setting.value(of), rng)
            difference = setting.central(_line(setting, of, direction, lambda y: y.ravel()[choice]))  # noqa: B023
            moving = _strange(np.zeros(choice.size), difference, setting, 0)
            choice = choice[moving][:_PLACES]
            sides = one_sided(_line(setting, of, direction, lambda y: y.ravel()[choice]), setting.precision)  # noqa: B023
            for s in sides:
                if not s.jump and max(abs(s.behind), abs(s.ahead)) > 10 * s.error:
                    found = f"said to be zero ({reason}), but differences give {s.behind:.6g} and {s.ahead:.6g}"
                    return Row(of, wrt, "wrong", found)
    except RunError as error:
        return Row(of, wrt, "not runnable", str(error))
    return Row(of, wrt, "zero", reason)


def _look(of: str, wrt: str, setting: Setting, rng: np.random.Generator, evidence: Evidence) -> None:
    """Compare along random directions until the case is clear."""
    y = setting.value(of)
    finite = np.isfinite(y)
    for k in range(_DIRECTIONS):
        if evidence.errors or evidence.kinks or max(evidence.agreed, evidence.unexplained) >= _ENOUGH:
            return
        direction = setting.direction(k)
        ct = rng.normal(size=y.shape) * finite
        choice = _choice(y, rng)
        g = setting.derivatives.vjp(of, wrt, setting.feeds, ct.astype(y.dtype)).astype(np.float64)
        if g.shape != direction.shape:
            evidence.errors.append(f"the derivative has shape {list(g.shape)}, the input {list(direction.shape)}")
            return
        if finite.all():
            _not_finite(of, setting, g, direction, evidence)
        direction = np.where(np.isfinite(g), direction, 0.0)
        u = setting.derivatives.jvp(of, wrt, setting.feeds, direction.astype(setting.base.dtype))
        if u is not None and not np.isfinite(g).all():  # 0 · inf, of elements that do not move
            choice = choice[np.isfinite(u.ravel()[choice])]

        def look_at(values: Array, ct: Array = ct, choice: Array = choice) -> Array:
            return np.concatenate([[_contracted(ct, values)], values.ravel()[choice]])

        line = _line(setting, of, direction, look_at)
        difference = setting.central(line)
        exact = _contracted(direction, g)
        size = _contracted(np.abs(direction), np.abs(g))
        natural = _contracted(np.abs(ct), np.abs(y.astype(np.float64)))
        number = float(difference.value[0])
        tolerance = 10 * float(difference.error[0]) + _ROUNDING[setting.precision] * size
        if abs(exact - number) > tolerance:
            difference = difference.doubted(line, setting.precision)
            tolerance = 10 * float(difference.error[0]) + _ROUNDING[setting.precision] * size
        evidence.last = exact, number, tolerance
        if u is not None:
            _adjoint(evidence, _contracted(ct, u), exact, max(size, 1e-6 * natural))
        flat = max(abs(exact), abs(number)) <= tolerance <= _FLAT[setting.precision] * max(natural, size)
        sharp = tolerance <= SHARP * max(abs(exact), abs(number)) or flat or tolerance == exact == number == 0
        agrees = abs(exact - number) <= tolerance or not np.isfinite(tolerance)
        strange = (  # in float32, of very many elements some are always off by chance
            u is not None
            and setting.precision == "float64"
            and bool(_strange(u.ravel()[choice].astype(np.float64), difference, setting, 1).any())
        )
        if agrees and sharp and not strange:
            evidence.agreed += 1
            evidence.flat += flat or tolerance == 0
        elif not agrees or strange:
            found = len(evidence.kinks) + len(evidence.errors)
            _search(of, wrt, setting, direction, ct.astype(y.dtype), evidence)
            if len(evidence.kinks) + len(evidence.errors) == found:
                evidence.unexplained += not agrees
                evidence.agreed += agrees and sharp
        else:
            evidence.blurred += 1


_TOO_WIDE = ", which float32 cannot decide"


def _judge(evidence: Evidence, precision: str) -> tuple[Verdict, str]:
    if evidence.errors:
        return "wrong", "; ".join(evidence.errors[:_PLACES])
    if evidence.kinks:
        return "kink", "; ".join(evidence.kinks[:_PLACES])
    exact, number, tolerance = evidence.last or (0.0, 0.0, 0.0)
    if evidence.unexplained >= _ENOUGH or (evidence.unexplained and not evidence.agreed):
        found = f"along a random direction {exact:.6g}, by differences {number:.6g} ± {tolerance:.1g}"
        if precision == "float64" or tolerance <= SHARP * abs(number):
            return "wrong", found
        # steps that float32 allows may be too wide for the function, and no single element was found to be wrong
        return "undecided", found + _TOO_WIDE
    if evidence.agreed >= _ENOUGH:
        return "right", "zero at this point" if evidence.flat >= evidence.agreed else ""
    return "undecided", f"differences are too blurred: {number:.6g} ± {tolerance:.1g}"


def _adjoint(evidence: Evidence, forward: float, backward: float, size: float) -> None:
    gap = abs(forward - backward)
    if np.isfinite(gap):
        relative = gap / max(size, abs(forward), np.finfo(np.float64).tiny)
        evidence.adjoint = max(relative, evidence.adjoint or 0.0)


# --- lines ------------------------------------------------------------------------------------


def _choice(y: Array, rng: np.random.Generator) -> Array:
    """Return which elements of an output are looked at one by one: the finite ones, or a random choice of many."""
    finite: Array = np.flatnonzero(np.isfinite(y))
    return finite if finite.size <= _ELEMENTS else np.sort(rng.choice(finite, _ELEMENTS, replace=False))


def _contracted(ct: Array, values: Array) -> float:
    """Return the sum of ``ct · values``, without what is infinite where `ct` is 0."""
    with np.errstate(all="ignore"):
        return float(np.sum(np.where(ct == 0, 0.0, ct * values)))


def _line(setting: Setting, of: str, direction: Array, look_at: Callable[[Array], Array]) -> Callable[[float], Array]:
    """Return what is looked at as a function of how far the input moves; NaN where the shape of the output changes."""
    here = setting.value(of).astype(np.float64)
    shape, size = here.shape, look_at(here).shape

    def line(t: float) -> Array:
        moved = np.asarray(setting.base + t * direction, setting.base.dtype)
        y = np.asarray(setting.run(moved)[of]).astype(np.float64)
        return look_at(y) if y.shape == shape else np.full(size, np.nan)

    return line


# --- where it is wrong --------------------------------------------------------------------------


def _not_finite(of: str, setting: Setting, g: Array, direction: Array, evidence: Evidence) -> None:
    """Say for elements of the input whose derivative is infinite or NaN whether there is none, or it is wrong."""
    for element in np.flatnonzero(~np.isfinite(g) & (direction != 0))[:_PLACES]:
        part = np.zeros(direction.size)
        part[element] = length = direction.ravel()[element]
        choice = np.flatnonzero(np.isfinite(setting.value(of)))[:_ELEMENTS]
        line = _line(setting, of, part.reshape(direction.shape), lambda y, choice=choice: y.ravel()[choice])  # type: ignore[misc]
        place = [int(i) for i in np.unravel_index(element, g.shape)]
        if any(sides.jump for sides in one_sided(line, setting.precision)):
            evidence.kinks.append(f"input element {place}: {_JUMP}, derivative {g.ravel()[element]}")
        else:
            largest = float(np.max(np.abs(setting.central(line).value), initial=0)) / abs(length)
            evidence.errors.append(
                f"input element {place}: derivative {g.ravel()[element]}, by differences not above {largest:.3g}"
            )


def _strange(exact: Array, difference: Difference, setting: Setting, start: int) -> Array:
    """Return which elements of a JVP disagree with differences."""
    value, error = difference.value[start:], difference.error[start:]
    finite = np.abs(value[np.isfinite(value)])
    floor = (1e-6 if setting.precision == "float64" else 1e-2) * float(np.max(finite, initial=0))
    with np.errstate(all="ignore"):
        gap = np.abs(exact - value)
    known = np.isfinite(error)
    same = (gap <= 10 * error + floor) | (np.isnan(exact) & np.isnan(value))
    return np.asarray(~same & known)


def _search(of: str, wrt: str, setting: Setting, direction: Array, ct: Array, evidence: Evidence) -> None:
    """Halve a direction until single elements of the input remain along which the derivative disagrees."""
    tests = 0

    def disagrees(part: Array) -> tuple[Array, Array, Array] | None:
        """Return, for a part of the direction, the outputs that disagree, with exact and differences."""
        nonlocal tests
        tests += 1
        u = setting.derivatives.jvp(of, wrt, setting.feeds, part.astype(setting.base.dtype))
        single = u is None or u.size > _ELEMENTS
        if u is None or single:
            g = setting.derivatives.vjp(of, wrt, setting.feeds, ct)
            exact = np.array([_contracted(part, g.astype(np.float64))])
        else:
            exact = u.ravel().astype(np.float64)

        def look_at(values: Array) -> Array:
            return np.array([_contracted(ct, values)]) if single else values.ravel()

        line = _line(setting, of, part, look_at)
        difference = setting.central(line)
        strange = np.flatnonzero(_strange(exact, difference, setting, 0))
        if strange.size and np.count_nonzero(part) == 1:
            strange = np.flatnonzero(_strange(exact, difference.doubted(line, setting.precision), setting, 0))
        if not strange.size:
            return None
        return strange, exact[strange], _sides_along(of, setting, part, lambda y: look_at(y)[strange])

    pending = [np.flatnonzero(direction)]
    clear = setting.precision == "float64" or direction.size <= _FEW
    limit = min(_BISECTIONS, int(_SEARCH / setting.run.seconds / 30)) if clear else 0
    if limit < 2 * math.log2(direction.size + 1):
        return
    while pending and tests < limit and len(evidence.errors) + len(evidence.kinks) < _PLACES:
        support = pending.pop()
        part = np.zeros(direction.size)
        part[support] = direction.ravel()[support]
        part = part.reshape(direction.shape)
        found = disagrees(part)
        if found is None:
            continue
        if len(support) == 1:
            _classify(setting, int(support[0]), float(direction.ravel()[support[0]]), found, evidence)
        else:
            pending += [support[: len(support) // 2], support[len(support) // 2 :]]


def _sides_along(of: str, setting: Setting, part: Array, look_at: Callable[[Array], Array]) -> Any:
    return lambda: one_sided(_line(setting, of, part, look_at), setting.precision)


def _classify(
    setting: Setting, element: int, length: float, found: tuple[Array, Array, Any], evidence: Evidence
) -> None:
    """Say for one element of the input whether it lies at a kink, or the derivative is wrong."""
    outputs, exact, sides_of = found
    place = tuple(int(i) for i in np.unravel_index(element, setting.base.shape))
    for output, derivative, sides in zip(outputs[:_PLACES], exact, sides_of(), strict=False):
        where = f"input element {list(place)}, output element {int(output)}"
        if sides.differ() and (sides.admit(float(derivative)) or (sides.jump and not np.isfinite(derivative))):
            evidence.kinks.append(f"{where}: {_told(sides, length)}, derivative {derivative / length:.6g}")
        else:
            differences = _told(sides, length)
            evidence.errors.append(f"{where}: derivative {derivative / length:.6g}, by differences {differences}")


def _told(sides: Sides, length: float) -> str:
    if sides.jump:
        return _JUMP
    left, right = (side / length + 0.0 for side in (sides.behind, sides.ahead)[:: 1 if length > 0 else -1])
    return f"{left:.6g} on one side and {right:.6g} on the other" if sides.differ() else f"{right:.6g}"


def _beside(
    of: str, wrt: str, setting: Setting, rng: np.random.Generator, verdict: Verdict, detail: str
) -> tuple[Verdict, str]:
    """Where there seems to be no derivative at a point, look whether it is right at points beside it.

    A weight cannot be moved there.
    """
    if setting.name is None:
        return verdict, detail
    if verdict == "undecided":
        choice = _choice(setting.value(of), rng)
        line = _line(setting, of, setting.direction(0), lambda y: y.ravel()[choice])
        if not any(sides.jump for sides in one_sided(line, setting.precision)):
            return verdict, detail
        detail = f"at {_JUMP}"
    for far in (0.01, 0.1, 0.3):
        shift = far * setting.scale * rng.uniform(-1, 1, size=setting.base.shape)
        evidence = Evidence()
        moved = setting.moved_to(np.asarray(setting.base + shift, setting.base.dtype))
        _look(of, wrt, moved, rng, evidence)
        there, why = _judge(evidence, setting.precision)
        if there == "right":
            return "kink", detail
        if there == "wrong":
            return "wrong", f"beside a kink: {why}"
    return "undecided", f"at a kink, and beside it too: {detail}"


__all__ = ["Remembering", "Setting", "verify", "verify_zero"]
