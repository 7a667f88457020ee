"""The fields of a model: what the data dictionary and the mining schema say of them, and what becomes of their values.

Each value passes the mining schema in this order: it is missing (NaN, an empty text, or a value that is declared to
stand for a missing one), invalid (outside of what is declared), or valid; then come outliers; in the end, what is
missing is replaced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.pmml.arithmetic import SAMPLES, Arithmetic
from onnxgrad.importers.pmml.document import Element
from onnxgrad.importers.pmml.texts import INVALID, MISSING, Special

#: What a field is in the model: a floating-point number, an integer, a flag, a text.
Kind = Literal["number", "integer", "flag", "text"]

_KINDS: dict[str, Kind] = {"double": "number", "float": "number", "integer": "integer", "boolean": "flag"}
#: Types of data that are texts here: dates and times have no arithmetic.
_TEXTS = (
    "string date time dateTime timeSeconds dateDaysSince[0] dateDaysSince[1960] dateDaysSince[1970] "
    "dateDaysSince[1980] dateTimeSecondsSince[0] dateTimeSecondsSince[1960] dateTimeSecondsSince[1970] "
    "dateTimeSecondsSince[1980]"
).split()
_FLAGS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}
_CLOSURES = {
    "openOpen": (True, True),
    "openClosed": (True, False),
    "closedOpen": (False, True),
    "closedClosed": (False, False),
}

OUTLIERS = ("asIs", "asMissingValues", "asExtremeValues")
_INVALID = ("returnInvalid", "asIs", "asMissing", "asValue")
_USAGES = (
    "active", "predicted", "target", "supplementary", "group", "order", "frequencyWeight", "analysisWeight",
)  # fmt: skip
_OPTYPES = ("continuous", "categorical", "ordinal")


@dataclass(frozen=True, eq=False)
class Field:
    """A field of the data.

    Attributes:
        data: its element in the data dictionary.
        mining: its element in the mining schema.
        kind: what it is.
    """

    data: Element
    mining: Element
    kind: Kind

    @property
    def name(self) -> str:
        """Its name."""
        return self.data.required("name")

    # --- the input ---------------------------------------------------------------------------------

    def declare(self, a: Arithmetic) -> Tensor:
        """Add the input, of shape (N, 1), to the model."""
        types = {"integer": ir.DataType.INT64, "flag": ir.DataType.BOOL, "text": ir.DataType.STRING}
        return a.op.input(a.op.unique_name(self.name), types.get(self.kind, a.dtype), (SAMPLES, 1))

    # --- what is declared --------------------------------------------------------------------------

    def values(self, state: str) -> list[str]:
        """Return the values that are declared to be ``"valid"``, ``"invalid"`` or ``"missing"``."""
        states = ("valid", "invalid", "missing")
        values = self.data.all("Value")
        return [v.required("value") for v in values if v.choice("property", states, "valid") == state]

    def parse(self, element: Element, text: str, what: str) -> float:
        """Return a value of the field as a number.

        Raises:
            ModelReadError: if it is none.
        """
        if self.kind == "flag" and text in _FLAGS:
            return _FLAGS[text]
        return element.as_number(text, what)

    def _numbers(self, state: str) -> list[float]:
        return [self.parse(self.data, value, "a <Value> in it") for value in self.values(state)]

    @property
    def _on_invalid(self) -> str:
        return self.mining.choice("invalidValueTreatment", _INVALID, "returnInvalid")

    @property
    def _replacement(self) -> str | None:
        if self.mining.get("missingValueTreatment") == "returnInvalid":
            return None
        return self.mining.get("missingValueReplacement")

    # --- numbers -----------------------------------------------------------------------------------

    def number(self, a: Arithmetic, raw: Tensor) -> Tensor:
        """Return the numbers behind the mining schema.

        Raises:
            ModelReadError: if what is said of them makes no sense.
        """
        x = a.op.cast(raw, a.dtype)
        listed = self._numbers("missing")
        missing = [a.among(x, listed)] if listed else []
        invalid = self._invalid(a, x)
        if invalid is not None and missing:
            invalid = invalid & ~missing[0]
        returned = None
        if invalid is not None:
            match self._on_invalid:
                case "returnInvalid":
                    returned = invalid
                case "asMissing":
                    missing.append(invalid)
                case "asValue":
                    value = self.mining.required("invalidValueReplacement")
                    number = self.parse(self.mining, value, "invalidValueReplacement")
                    x = a.op.Where(invalid, a.constant(number), x)
        x = self._outliers(a, x, missing)
        text = self._replacement
        replacement = None if text is None else self.parse(self.mining, text, "missingValueReplacement")
        return a.without(a.fill(x, a.any_of(missing), replacement), returned)

    def _outliers(self, a: Arithmetic, x: Tensor, missing: list[Tensor]) -> Tensor:
        """Return the numbers with outliers treated; where they are missing, a condition is added to those."""
        treatment = self.mining.choice("outliers", OUTLIERS, "asIs")
        if treatment == "asIs":
            return x
        low, high = (self.mining.maybe_number(name) for name in ("lowValue", "highValue"))
        if low is not None and high is not None and low > high:
            raise self.mining.refusal("lowValue is above highValue")
        outside = a.outside(x, low, high, (False, False))
        if outside is None:
            raise self.mining.refusal("outliers are to be treated, and neither lowValue nor highValue says which ones")
        if treatment == "asExtremeValues":
            return a.clip(x, low, high)
        missing.append(outside)
        return x

    def _invalid(self, a: Arithmetic, x: Tensor) -> Tensor | None:
        """Return where a number is not among those that are declared; None where all are. What is missing is valid."""
        outside = [a.outside(x, *interval_of(interval)) for interval in self.data.all("Interval")]
        valid, invalid = self._numbers("valid"), self._numbers("invalid")
        if valid:
            outside.append(~a.among(x, valid) & ~a.is_missing(x))
        found = None if None in outside else a.all_of([each for each in outside if each is not None])
        if not invalid:
            return found
        return a.among(x, invalid) if found is None else found | a.among(x, invalid)

    # --- texts -------------------------------------------------------------------------------------

    def text(self, text: str | Special) -> str | Special:
        """Return what becomes of a text, or of one that the model does not know, behind the mining schema."""
        valid = self.values("valid")
        if text in self.values("missing") or (text == "" and text not in valid):
            text = MISSING
        elif text in self.values("invalid") or (valid and text not in valid):
            match self._on_invalid:
                case "returnInvalid":
                    return INVALID
                case "asMissing":
                    text = MISSING
                case "asValue":
                    return self.mining.required("invalidValueReplacement")
        replacement = self._replacement
        return replacement if text is MISSING and replacement is not None else text

    def known_texts(self) -> list[str]:
        """Return the texts that the field's declaration speaks of."""
        return [*self.values("valid"), *self.values("invalid"), *self.values("missing"), ""]


def interval_of(element: Element) -> tuple[float | None, float | None, tuple[bool, bool]]:
    """Return the ends of an interval, None for one that is not there, and whether each is no part of it.

    Raises:
        ModelReadError: if it is none.
    """
    open_ = _CLOSURES[element.choice("closure", _CLOSURES)]
    ends = []
    for name, infinite in (("leftMargin", -math.inf), ("rightMargin", math.inf)):
        text = element.get(name)
        unbounded = text is None or text.lstrip("+-").lower() in ("inf", "infinity")
        if unbounded and text is not None and float(text) != infinite:
            raise element.refusal(f"no number lies in an interval with {name}={text!r}")
        ends.append(None if unbounded else element.number(name))
    low, high = ends
    if low is not None and high is not None and low > high:
        raise element.refusal("leftMargin is above rightMargin")
    return low, high, open_


class Fields:
    """The fields of a model.

    Args:
        root: the root of the file.
        model: the model's element.

    Attributes:
        active: the fields that are inputs, by name, in the order of the mining schema.
        targets: the names of the fields that are predicted.
        others: further names that the file knows, with what they are.

    Raises:
        ModelReadError: if there are none, or they are not declared.
    """

    def __init__(self, root: Element, model: Element) -> None:
        data = root.one("DataDictionary").by_name("DataField")
        self.active: dict[str, Field] = {}
        self.targets: list[str] = []
        self.others = dict.fromkeys(data, "no active field of the <MiningSchema>")
        self.data = data
        for mining in model.one("MiningSchema").all("MiningField"):
            name = mining.required("name")
            usage = mining.choice("usageType", _USAGES, "active")
            self.others[name] = f"a field with usageType={usage!r}"
            if usage in ("predicted", "target"):
                self.targets.append(name)
            elif usage == "active":
                if name not in data:
                    raise mining.refusal(f"{name!r} is no field of the <DataDictionary>")
                if name in self.active:
                    raise mining.refusal(f"{name!r} is listed twice")
                self.active[name] = Field(data[name], mining, _kind(data[name], mining))
        if not self.active:
            raise model.one("MiningSchema").refusal("there is no active field, so the model has no inputs")


def _kind(data: Element, mining: Element) -> Kind:
    kind = _KINDS.get(data.choice("dataType", (*_KINDS, *_TEXTS)), "text")
    optype = mining.choice("optype", _OPTYPES, data.choice("optype", _OPTYPES))
    return "number" if kind == "integer" and optype == "continuous" else kind


__all__ = ["OUTLIERS", "Field", "Fields", "Kind", "interval_of"]
