"""The expressions of PMML: what is computed from fields, by its specification, version 4.4.

The value of an expression is a column of numbers (a tensor of the model), a column of texts, or one constant text.
What is done with texts is done once for each text that there is, while the model is built; a table remains of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxgrad.errors import UnknownNameError
from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.pmml.arithmetic import Arithmetic
from onnxgrad.importers.pmml.document import Element
from onnxgrad.importers.pmml.fields import OUTLIERS, Fields, interval_of
from onnxgrad.importers.pmml.functions import FUNCTIONS, supports
from onnxgrad.importers.pmml.texts import INVALID, MISSING, OTHER, Special, Texts

Value = Tensor | Texts | str

#: The elements that are expressions here.
EXPRESSIONS = ("Constant", "FieldRef", "NormContinuous", "NormDiscrete", "Discretize", "MapValues", "Apply")
#: Those of the specification that are none.
_OTHERS = ("TextIndex", "Aggregate", "Lag")

#: Functions that also compare texts, and whether they ask for equality.
_TEXT_COMPARISONS = {"equal": True, "notEqual": False, "isIn": True, "isNotIn": False}
_NUMERIC = ("double", "float", "integer")


class Expressions:
    """Writes expressions as nodes of a model; the value of each field is written once.

    Args:
        a: what columns are computed with.
        fields: the fields.
        derived: derived fields by name.
        functions: functions that the file defines, by name.
        texts: the texts that the model is to know of each field; unknown ones that turn up are added.
        known: for each field of texts, the constant (1, K) that holds those it knows now.

    Attributes:
        is_complete: whether all texts that turned up were known.
    """

    def __init__(
        self,
        a: Arithmetic,
        fields: Fields,
        derived: Mapping[str, Element],
        functions: Mapping[str, Element],
        texts: dict[str, list[str]],
        known: Mapping[str, Tensor],
    ) -> None:
        self.a = a
        self.fields = fields
        self.derived = derived
        self.functions = functions
        self.texts = texts
        self.known = known
        self.is_complete = True
        self.inputs = {name: field.declare(a) for name, field in fields.active.items()}
        self._values: dict[str, Value] = {}
        self._open: list[str] = []

    # --- names -------------------------------------------------------------------------------------

    def named(self, name: str, at: Element, local: Mapping[str, Value]) -> Value:
        """Return the value of a parameter, a derived field, or a field.

        Raises:
            ModelReadError: if there is none, or it depends on itself.
        """
        if name in local:
            return local[name]
        if name not in self._values:
            if name in self._open:
                raise at.refusal(f"{name!r} is computed from itself: {' → '.join([*self._open, name])}")
            self._open.append(name)
            self._values[name] = self._computed(name, at)
            self._open.pop()
        return self._values[name]

    def _computed(self, name: str, at: Element) -> Value:
        if name in self.derived:
            value = self.content(self.derived[name])
            if isinstance(value, Tensor):
                self._call(value, name)
            return value
        field = self.fields.active.get(name)
        if field is None:
            if name in self.fields.others:
                raise at.refusal(f"{name!r} is used, and it is {self.fields.others[name]}")
            error = UnknownNameError.among("a field", name, [*self.derived, *self.fields.active])
            raise at.refusal(str(error).rstrip("."))
        if field.kind != "text":
            return field.number(self.a, self.inputs[name])
        op = self.a.op
        numbers = op.constant(np.arange(1, len(self.texts[name]) + 1))
        found = op.Where(op.Equal(self.inputs[name], self.known[name]), numbers, op.constant(np.int64(0)))
        return Texts(op.sum(found, [1]), (OTHER, *self.texts[name]), name).map(field.text)

    def _call(self, x: Tensor, name: str) -> None:
        """Give a value the name of the derived field."""
        value = x.value
        if value.producer() is not None and value.name not in self.derived:
            value.name = self.a.op.unique_name(name)

    # --- expressions -------------------------------------------------------------------------------

    def content(self, parent: Element, local: Mapping[str, Value] | None = None) -> Value:
        """Return the value of the only expression in an element.

        Raises:
            ModelReadError: if there is not exactly one, or it has something that is not supported.
        """
        return self.value(the_expression(parent), local or {})

    def value(self, e: Element, local: Mapping[str, Value]) -> Value:
        """Return the value of an expression.

        Raises:
            ModelReadError: if it has something that is not supported.
        """
        match e.name:
            case "Constant":
                return self._constant(e)
            case "FieldRef":
                return self._filled(self._field(e, local), e)
            case "NormContinuous":
                x = self.number(self._field(e, local), e)
                outliers = e.choice("outliers", OUTLIERS, "asIs")
                return self.a.piecewise(x, points_of(e), outliers, e.maybe_number("mapMissingTo"))
            case "NormDiscrete":
                return self._indicator(e, local)
            case "Discretize":
                return self._discretized(e, local)
            case "MapValues":
                return self._mapped(e, local)
            case "Apply":
                return self._applied(e, local)
        raise e.refusal(f"<{e.name}> is not supported", f"use {', '.join(EXPRESSIONS)}")

    def number(self, value: Value, at: Element) -> Tensor:
        """Return a value as numbers.

        Raises:
            ModelReadError: if it is text.
        """
        if isinstance(value, Tensor):
            return value
        what = f"the text {value!r}" if isinstance(value, str) else f"the texts of {value.field!r}"
        raise at.refusal(f"{what} stand where a number should", "turn texts into numbers by NormDiscrete or MapValues")

    def _field(self, e: Element, local: Mapping[str, Value]) -> Value:
        return self.named(e.required("field"), e, local)

    def _filled(self, value: Value, e: Element) -> Value:
        replacement = e.get("mapMissingTo")
        if replacement is None or isinstance(value, str):
            return value
        if isinstance(value, Texts):
            return value.map(lambda text: replacement if text is MISSING else text)
        return self.a.fill(value, None, e.number("mapMissingTo"))

    def _constant(self, e: Element) -> Value:
        text, kind = e.text.strip(), e.get("dataType")
        if e.get("missing") == "true":
            return self.a.missing
        if kind == "boolean" and text in ("true", "false"):
            return self.a.constant(float(text == "true"))
        if kind in _NUMERIC or (kind is None and _is_number(text)):
            return self.a.constant(e.as_number(text, "the constant"))
        if kind in (None, "string"):
            return e.text if kind else text
        raise e.refusal(f"a constant of dataType={kind!r} is not supported", f"use {', '.join(_NUMERIC)} or string")

    # --- texts -------------------------------------------------------------------------------------

    def _table(self, texts: Texts, number: Callable[[str | Special], float]) -> Tensor:
        """Return the column of what a function makes of each text."""
        table = self.a.constant([number(text) for text in texts.texts])
        return self.a.op.Gather(table, texts.codes)

    def _ask(self, texts: Texts, text: str) -> None:
        """See to it that a text that is asked for is known."""
        if OTHER in texts.texts and text not in self.texts[texts.field]:
            self.texts[texts.field].append(text)
            self.is_complete = False

    def _indicator(self, e: Element, local: Mapping[str, Value]) -> Tensor:
        """Return 1 where a field has a value, 0 where it has another one."""
        e.choice("method", ("indicator",), "indicator")
        value, wanted, missing = self._field(e, local), e.required("value"), e.maybe_number("mapMissingTo")
        if isinstance(value, Texts):
            self._ask(value, wanted)
            special = {MISSING: math.nan if missing is None else missing, INVALID: math.nan}
            return self._table(value, lambda t: special[t] if t in special else float(t == wanted))
        x = self.number(value, e)
        field = self.fields.active.get(e.required("field"))
        number = e.number("value") if field is None else field.parse(e, wanted, "the attribute 'value'")
        return self.a.fill(self.a.unless_missing([x], self.a.flag(self.a.among(x, [number]))), None, missing)

    def _mapped(self, e: Element, local: Mapping[str, Value]) -> Value:
        """Return what a table has for each value."""
        pairs = e.all("FieldColumnPair")
        if len(pairs) != 1:
            raise e.refusal(f"a table of {len(pairs)} columns is not supported", "map one field by one column")
        value, rows = self._field(pairs[0], local), _rows(e, pairs[0].required("column"))
        outputs: dict[str | Special, str | Special] = dict(reversed(rows))  # the first row counts
        default, missing = e.get("defaultValue") or MISSING, e.get("mapMissingTo") or MISSING
        if isinstance(value, Texts):
            for key, _ in rows:
                self._ask(value, key)
            texts = value.map(
                lambda text: INVALID if text is INVALID else missing if text is MISSING else outputs.get(text, default)
            )
        else:
            x = self.number(value, pairs[0])
            masks = [self.a.among(x, [pairs[0].as_number(str(key), "a value in the table")]) for key in outputs]
            texts = self._chosen(x, masks, (default, *outputs.values(), missing), pairs[0].required("field"))
        return self._typed(texts, e)

    def _discretized(self, e: Element, local: Mapping[str, Value]) -> Value:
        """Return the name of the bin that a number lies in."""
        x = self.number(self._field(e, local), e)
        bins = e.all("DiscretizeBin")
        if not bins:
            raise e.refusal("there is no <DiscretizeBin> in it")
        masks = []
        for each in bins:
            interval = each.one("Interval")
            outside = self.a.outside(x, *interval_of(interval))
            if outside is None:
                raise interval.refusal("an interval without ends has all numbers in it")
            masks.append(~outside & ~self.a.is_missing(x))
        default, missing = e.get("defaultValue") or MISSING, e.get("mapMissingTo") or MISSING
        names = (default, *(each.required("binValue") for each in bins), missing)
        texts = self._chosen(x, masks, names, e.required("field"))
        return self._typed(texts, e)

    def _chosen(self, x: Tensor, masks: Sequence[Tensor], texts: tuple[str | Special, ...], field: str) -> Texts:
        """Return the text of the first condition that holds; the first text where none does, the last where x is
        missing.
        """
        op = self.a.op
        codes = op.constant(np.int64(0))
        for number, mask in reversed(list(enumerate(masks, 1))):
            codes = op.Where(mask, op.constant(np.int64(number)), codes)
        codes = op.Where(self.a.is_missing(x), op.constant(np.int64(len(masks) + 1)), codes)
        return Texts(codes, texts, field)

    def _typed(self, texts: Texts, e: Element) -> Value:
        """Return texts as the numbers that they are to be."""
        if e.get("dataType") not in (*_NUMERIC, None):
            return texts
        if e.get("dataType") is None and not all(_is_number(t) for t in texts.texts if isinstance(t, str)):
            return texts
        return self._table(texts, lambda t: e.as_number(t, "a value in it") if isinstance(t, str) else math.nan)

    # --- functions ---------------------------------------------------------------------------------

    def _applied(self, e: Element, local: Mapping[str, Value]) -> Value:
        name = e.required("function")
        e.choice("invalidValueTreatment", ("returnInvalid", "asIs", "asMissing"), "returnInvalid")
        args = [self.value(arg, local) for arg in e.children if arg.name in (*EXPRESSIONS, *_OTHERS)]
        if name in self.functions:
            value = self._called(self.functions[name], args, e)
        elif name in _TEXT_COMPARISONS and any(not isinstance(arg, Tensor) for arg in args):
            value = self._compared(name, args, e)
        elif name in ("isMissing", "isNotMissing") and len(args) == 1 and isinstance(args[0], Texts):
            value = self._table(args[0], lambda text: float((text is MISSING) == (name == "isMissing")))
        else:
            value = self._built_in(name, args, e)
        return self._with_defaults(value, args, e)

    def _built_in(self, name: str, args: Sequence[Value], e: Element) -> Tensor:
        function = FUNCTIONS.get(name)
        if function is None:
            known = ", ".join([*self.functions, *FUNCTIONS])
            raise e.refusal(f"the function {name!r} is not supported", f"supported are {known}")
        if not supports(name, self.a.dtype):
            raise e.refusal(
                f"onnxruntime computes the function {name!r} in float32 only",
                "import the model in float32 (dtype='float32', on the command line --dtype float32)",
            )
        if len(args) < function.least or (function.most is not None and len(args) > function.most):
            most = (
                ""
                if function.most == function.least
                else " or more"
                if function.most is None
                else f" to {function.most}"
            )
            raise e.refusal(f"the function {name!r} takes {function.least}{most} arguments, and there are {len(args)}")
        return function.compute(self.a, *(self.number(arg, e) for arg in args))

    def _called(self, function: Element, args: Sequence[Value], e: Element) -> Value:
        """Return what a function of the file makes of arguments."""
        parameters = [parameter.required("name") for parameter in function.all("ParameterField")]
        if len(parameters) != len(args):
            raise e.refusal(f"{e.get('function')!r} takes {len(parameters)} arguments, and there are {len(args)}")
        name = f"{function.get('name')}()"
        if name in self._open:
            raise e.refusal(f"{name} calls itself: {' → '.join([*self._open, name])}")
        self._open.append(name)
        value = self.content(function, dict(zip(parameters, args, strict=True)))
        self._open.pop()
        return value

    def _compared(self, name: str, args: Sequence[Value], e: Element) -> Tensor:
        """Return whether texts are (or are not) some constants."""
        columns = [arg for arg in args if isinstance(arg, Texts)]
        wanted = [arg for arg in args if isinstance(arg, str)]
        if len(columns) != 1 or len(wanted) != len(args) - 1 or not wanted:
            raise e.refusal(f"{name!r} compares something else than a field of texts and constant texts")
        for text in wanted:
            self._ask(columns[0], text)
        yes = _TEXT_COMPARISONS[name]
        return self._table(columns[0], lambda t: math.nan if t in (MISSING, INVALID) else float((t in wanted) == yes))

    def _with_defaults(self, value: Value, args: Sequence[Value], e: Element) -> Value:
        """Replace what is missing: `mapMissingTo` where an argument is, `defaultValue` where the result is."""
        if not isinstance(value, Tensor):
            return value
        numbers = [arg for arg in args if isinstance(arg, Tensor)]
        if e.get("mapMissingTo") is not None and numbers:
            missing = self.a.any_of([self.a.is_missing(arg) for arg in numbers])
            assert missing is not None
            value = self.a.op.Where(missing, self.a.constant(e.number("mapMissingTo")), value)
        return self.a.fill(value, None, e.maybe_number("defaultValue"))


def the_expression(parent: Element) -> Element:
    """Return the only expression in an element.

    Raises:
        ModelReadError: if there is not exactly one.
    """
    found = parent.all(*EXPRESSIONS, *_OTHERS)
    if len(found) != 1:
        raise parent.refusal(f"there are {len(found)} expressions in it, and there should be one")
    return found[0]


def points_of(e: Element) -> list[tuple[float, float]]:
    """Return the points (orig, norm) of a NormContinuous.

    Raises:
        ModelReadError: if there are not two at least, or they do not ascend.
    """
    points = [(p.number("orig"), p.number("norm")) for p in e.all("LinearNorm")]
    if len(points) < 2:
        raise e.refusal(f"there are {len(points)} <LinearNorm> in it, and there should be two at least")
    for before, after in itertools.pairwise(points):
        if not before[0] < after[0]:
            raise e.refusal(f"the values of orig do not ascend: {after[0]} comes behind {before[0]}")
    return points


def _rows(e: Element, column: str) -> list[tuple[str, str]]:
    """Return what the table of a MapValues has in the given column, and in that of the output."""
    table, output = e.one("InlineTable"), e.required("outputColumn")
    found = []
    for row in table.all("row"):
        cells = {cell.name: cell.text.strip() for cell in row.children}
        if column not in cells or output not in cells:
            raise row.refusal(f"the row has no {column if column not in cells else output!r}")
        found.append((cells[column], cells[output]))
    return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


__all__ = ["EXPRESSIONS", "Expressions", "Value", "points_of", "the_expression"]
