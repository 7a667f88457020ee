"""What a PMML neural network computes, by the specification of PMML 4.4, one sample after the other.

Nothing of onnxgrad or ONNX is used in it. Numbers may be complex: derivatives are ``imag(f(x + 1e-20 i)) / 1e-20``,
which is exact to rounding for functions that are analytic; the others look at the real part, and choose a branch by it.
A missing value is None. The attributes and elements of the specification are read where they are used, so that the text
of the specification can be held against it.
"""

from __future__ import annotations

import cmath
import functools
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

STEP = 1e-20
Element = ElementTree.Element
Value = Any  # complex, str, or None


class InvalidError(Exception):
    """A value is invalid, so there is no result."""


def load(source: str | Path) -> Element:
    """Return the root of a document, without namespaces."""
    text = source.read_bytes() if isinstance(source, Path) else source
    root = ElementTree.fromstring(text)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
    return root


def real(x: Value) -> float:
    return complex(x).real


def children(node: Element | None, *tags: str) -> list[Element]:
    return [] if node is None else [child for child in node if child.tag in tags]


# --- fields ---------------------------------------------------------------------------------------


def parsed(text: str, data: Element) -> Value:
    """A value in the document, in the type of a field."""
    if data.get("dataType") == "boolean":
        return complex(text in ("true", "1"))
    return complex(float(text)) if data.get("dataType") in ("double", "float", "integer") else text


def same(a: Value, b: Value) -> bool:
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return a == b
    return real(a) == real(b)


def inside(x: float, interval: Element) -> bool:
    low, high = float(interval.get("leftMargin", "-inf")), float(interval.get("rightMargin", "inf"))
    closure = interval.get("closure", "")
    left = x > low if closure.startswith("open") else x >= low
    return left and (x < high if closure.endswith("Open") else x <= high)


def is_valid(value: Value, data: Element) -> bool:
    listed: dict[str | None, list[Value]] = {"valid": [], "invalid": [], "missing": []}
    for node in data.iter("Value"):
        listed[node.get("property", "valid")].append(parsed(node.get("value", ""), data))
    if any(same(value, v) for v in listed["invalid"]):
        return False
    intervals = data.findall("Interval")
    if not listed["valid"] and not intervals:
        return True
    by_interval = not isinstance(value, str) and any(inside(real(value), i) for i in intervals)
    return by_interval or any(same(value, v) for v in listed["valid"])


def through_schema(value: Value, data: Element, mining: Element) -> Value:
    """What becomes of a value in the mining schema."""
    if value is not None and not isinstance(value, str) and math.isnan(real(value)):
        value = None
    missing = [parsed(v.get("value", ""), data) for v in data.iter("Value") if v.get("property") == "missing"]
    if value is not None and any(same(value, m) for m in missing):
        value = None
    declared = [v.get("value") for v in data.iter("Value") if v.get("property", "valid") == "valid"]
    if value == "" and "" not in declared:
        value = None
    if value is not None and not is_valid(value, data):
        match mining.get("invalidValueTreatment", "returnInvalid"):
            case "returnInvalid":
                raise InvalidError
            case "asMissing":
                value = None
            case "asValue":
                value = parsed(mining.get("invalidValueReplacement", ""), data)
    if value is not None and not isinstance(value, str):
        low, high = float(mining.get("lowValue", "-inf")), float(mining.get("highValue", "inf"))
        match mining.get("outliers", "asIs"):
            case "asMissingValues" if not low <= real(value) <= high:
                value = None
            case "asExtremeValues" if not low <= real(value) <= high:
                value = complex(low if real(value) < low else high)
    if value is None and mining.get("missingValueTreatment") != "returnInvalid":
        replacement = mining.get("missingValueReplacement")
        value = None if replacement is None else parsed(replacement, data)
    return value


# --- expressions ----------------------------------------------------------------------------------


def interpolated(x: complex, points: list[tuple[float, float]], outliers: str) -> Value:
    """Stepwise linear interpolation; beyond the ends as the outliers are treated."""
    if not points[0][0] <= real(x) <= points[-1][0]:
        if outliers == "asMissingValues":
            return None
        if outliers == "asExtremeValues":
            return complex(points[0][1] if real(x) < points[0][0] else points[-1][1])
    k = next((k for k in range(1, len(points) - 1) if real(x) < points[k][0]), len(points) - 1)
    (a1, b1), (a2, b2) = points[k - 1], points[k]
    return b1 + (x - a1) / (a2 - a1) * (b2 - b1)


def points_of(node: Element) -> list[tuple[float, float]]:
    return [(float(p.get("orig", "")), float(p.get("norm", ""))) for p in node.findall("LinearNorm")]


def number_or_none(text: str | None) -> Value:
    return None if text is None else complex(float(text))


EXPRESSIONS = ("Constant", "FieldRef", "NormContinuous", "NormDiscrete", "Discretize", "MapValues", "Apply")


class Record:
    """One sample of a model."""

    def __init__(self, root: Element, model: Element, values: dict[str, Value]) -> None:
        self.root, self.model, self.values = root, model, values

    def field(self, name: str, local: dict[str, Value]) -> Value:
        if name in local:
            return local[name]
        for parent in (self.model.find("LocalTransformations"), self.root.find("TransformationDictionary")):
            for derived in children(parent, "DerivedField"):
                if derived.get("name") == name:
                    return self.content(derived, {})
        (data,) = [d for d in self.root.iter("DataField") if d.get("name") == name]
        (mining,) = [m for m in self.model.iter("MiningField") if m.get("name") == name]
        return through_schema(self.values[name], data, mining)

    def content(self, parent: Element, local: dict[str, Value]) -> Value:
        (expression,) = children(parent, *EXPRESSIONS)
        return self.value(expression, local)

    def value(self, node: Element, local: dict[str, Value]) -> Value:
        mapped = node.get("mapMissingTo")
        match node.tag:
            case "Constant":
                text = (node.text or "").strip()
                if node.get("missing") == "true":
                    return None
                try:
                    return text if node.get("dataType") == "string" else complex(float(text))
                except ValueError:
                    return text
            case "Apply":
                return self.applied(node, local)
            case "MapValues":
                pair = node.find("FieldColumnPair")
                x = self.field(pair.get("field"), local)  # type: ignore[union-attr, arg-type]
                return self.table(node, pair.get("column"), x)  # type: ignore[union-attr]
        x = self.field(node.get("field", ""), local)
        if node.tag == "FieldRef":
            return x if x is not None or mapped is None else (mapped if self.is_text(node) else complex(float(mapped)))
        if node.tag == "NormDiscrete":
            if x is None:
                return number_or_none(mapped)
            wanted = node.get("value", "")
            return complex(x == wanted if isinstance(x, str) else real(x) == self.category(node, wanted))
        if node.tag == "NormContinuous":
            y = None if x is None else interpolated(x, points_of(node), node.get("outliers", "asIs"))
            return number_or_none(mapped) if y is None else y
        assert node.tag == "Discretize"
        if x is None:
            return self.typed(node, mapped)
        for each in node.findall("DiscretizeBin"):
            if inside(real(x), each.find("Interval")):  # type: ignore[arg-type]
                return self.typed(node, each.get("binValue"))
        return self.typed(node, node.get("defaultValue"))

    def is_text(self, node: Element) -> bool:
        return any(
            d.get("dataType") == "string" for d in self.root.iter("DataField") if d.get("name") == node.get("field")
        )

    def category(self, node: Element, wanted: str) -> float:
        return {"true": 1.0, "false": 0.0}[wanted] if wanted in ("true", "false") else float(wanted)

    def table(self, node: Element, column: str | None, x: Value) -> Value:
        if x is None:
            return self.typed(node, node.get("mapMissingTo"))
        for row in node.iter("row"):
            cells = {cell.tag: (cell.text or "").strip() for cell in row}
            if cells[column] == x if isinstance(x, str) else float(cells[column]) == real(x):
                return self.typed(node, cells[node.get("outputColumn")])
        return self.typed(node, node.get("defaultValue"))

    def typed(self, node: Element, text: str | None) -> Value:
        if text is None or node.get("dataType") == "string":
            return text
        try:
            return complex(float(text))
        except ValueError:
            return text

    def applied(self, node: Element, local: dict[str, Value]) -> Value:
        name = node.get("function", "")
        args = [self.value(arg, local) for arg in children(node, *EXPRESSIONS)]
        if node.get("mapMissingTo") is not None and None in args:
            return complex(float(node.get("mapMissingTo")))  # type: ignore[arg-type]
        for function in self.root.iter("DefineFunction"):
            if function.get("name") == name:
                names = [p.get("name", "") for p in function.findall("ParameterField")]
                result = self.content(function, dict(zip(names, args, strict=True)))
                break
        else:
            result = built_in(name, args)
        return number_or_none(node.get("defaultValue")) if result is None else result


def built_in(name: str, args: list[Value]) -> Value:
    """The built-in functions; a missing argument makes the result missing, unless it is said otherwise."""
    there = [arg for arg in args if arg is not None]
    if name in AGGREGATES:
        return AGGREGATES[name](there) if there else None
    match name:
        case "isMissing" | "isNotMissing":
            return complex((args[0] is None) == (name == "isMissing"))
        case "and":
            return complex(0) if any(real(x) == 0 for x in there) else (complex(1) if len(there) == len(args) else None)
        case "or":
            return complex(1) if any(real(x) == 1 for x in there) else (complex(0) if len(there) == len(args) else None)
        case "if":
            if args[0] is None:
                return None
            return args[1] if real(args[0]) == 1 else (args[2] if len(args) > 2 else None)
        case "isIn" | "isNotIn":
            return None if args[0] is None else complex(any(same(args[0], x) for x in args[1:]) == (name == "isIn"))
    return None if len(there) < len(args) else complex(FUNCTIONS[name](*args))


AGGREGATES = {
    "min": lambda xs: min(xs, key=real),
    "max": lambda xs: max(xs, key=real),
    "sum": sum,
    "avg": lambda xs: sum(xs) / len(xs),
    "product": lambda xs: functools.reduce(lambda a, b: a * b, xs),
}
FUNCTIONS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "hypot": lambda x, y: cmath.sqrt(x * x + y * y),
    "modulo": lambda x, y: x - y * math.floor(real(x) / real(y)),
    "abs": lambda x: x if real(x) >= 0 else -x,
    "exp": cmath.exp,
    "ln": cmath.log,
    "log10": lambda x: cmath.log(x) / math.log(10),
    "sqrt": cmath.sqrt,
    "expm1": lambda x: complex(math.expm1(real(x)), complex(x).imag * math.exp(real(x))),
    "ln1p": lambda x: complex(math.log1p(real(x)), complex(x).imag / (1 + real(x))),
    "floor": lambda x: math.floor(real(x)),
    "ceil": lambda x: math.ceil(real(x)),
    "rint": lambda x: round(real(x)),
    "round": lambda x: math.floor(real(x) + 0.5),
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "asin": cmath.asin,
    "acos": cmath.acos,
    "atan": cmath.atan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "normalPDF": lambda x, m, s: cmath.exp(-(((x - m) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi)),
    "stdNormalPDF": lambda x: cmath.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "normalCDF": lambda x, m, s: FUNCTIONS["stdNormalCDF"]((x - m) / s),
    "stdNormalCDF": lambda x: (1 + FUNCTIONS["erf"](x / math.sqrt(2))) / 2,
    "erf": lambda x: complex(math.erf(real(x)), complex(x).imag * 2 / math.sqrt(math.pi) * math.exp(-(real(x) ** 2))),
    "equal": same,
    "notEqual": lambda x, y: not same(x, y),
    "lessThan": lambda x, y: real(x) < real(y),
    "lessOrEqual": lambda x, y: real(x) <= real(y),
    "greaterThan": lambda x, y: real(x) > real(y),
    "greaterOrEqual": lambda x, y: real(x) >= real(y),
    "threshold": lambda x, y: real(x) > real(y),
    "not": lambda x: 1 - real(x),
}

# --- networks -------------------------------------------------------------------------------------

ACTIVATIONS = {
    "logistic": lambda z: 1 / (1 + cmath.exp(-z)),
    "tanh": cmath.tanh,
    "identity": lambda z: z,
    "exponential": cmath.exp,
    "reciprocal": lambda z: 1 / z,
    "square": lambda z: z * z,
    "Gauss": lambda z: cmath.exp(-(z * z)),
    "sine": cmath.sin,
    "cosine": cmath.cos,
    "Elliott": lambda z: z / (1 + (z if real(z) >= 0 else -z)),
    "arctan": lambda z: 2 * cmath.atan(z) / math.pi,
    "rectifier": lambda z: z if real(z) > 0 else complex(0),
}


def activations(record: Record) -> dict[str, complex] | None:
    """The value of each input and neuron; None where an input is missing."""
    model = record.model
    found: dict[str, Value] = {}
    for node in model.iter("NeuralInput"):
        found[node.get("id", "")] = record.content(node.find("DerivedField"), {})  # type: ignore[arg-type]
    if None in found.values():
        return None
    for layer in model.findall("NeuralLayer"):

        def stated(name: str, *holders: Element) -> str | None:
            return next((holder.get(name) for holder in holders if holder.get(name) is not None), None)

        function = stated("activationFunction", layer, model)
        ids = []
        for neuron in layer.findall("Neuron"):
            terms = [(found[c.get("from", "")], float(c.get("weight", ""))) for c in neuron.findall("Con")]
            if function == "radialBasis":
                width = float(stated("width", neuron, layer, model))  # type: ignore[arg-type]
                altitude = float(stated("altitude", neuron, layer, model) or 1)
                z = sum((x - w) ** 2 for x, w in terms) / (2 * width**2)
                y = cmath.exp(len(terms) * math.log(altitude) - z)
            else:
                z = sum(w * x for x, w in terms) + float(neuron.get("bias", 0))
                if function == "threshold":
                    y = complex(real(z) > float(stated("threshold", layer, model)))  # type: ignore[arg-type]
                else:
                    y = ACTIVATIONS[function](z)  # type: ignore[index]
            ids.append(neuron.get("id", ""))
            found[ids[-1]] = y
        match stated("normalizationMethod", layer, model):
            case "simplemax":
                total = sum(found[i] for i in ids)
                found |= {i: found[i] / total for i in ids}
            case "softmax":
                total = sum(cmath.exp(found[i]) for i in ids)
                found |= {i: cmath.exp(found[i]) / total for i in ids}
    return found


def evaluate_record(root: Element, values: dict[str, Value]) -> dict[str, list[Value]]:
    """The values of each target: one, or one for each category."""
    (model,) = root.findall("NeuralNetwork")
    record = Record(root, model, values)
    try:
        found = activations(record)
    except InvalidError:
        found = None
    result: dict[str, list[Value]] = {}
    for node in model.iter("NeuralOutput"):
        (expression,) = children(node.find("DerivedField"), *EXPRESSIONS)
        parents = [model.find("LocalTransformations"), root.find("TransformationDictionary")]
        derived = {d.get("name"): d for parent in parents[::-1] for d in children(parent, "DerivedField")}
        while expression.tag == "FieldRef" and expression.get("field") in derived:
            (expression,) = children(derived[expression.get("field")], *EXPRESSIONS)
        name = expression.get("field", "")
        y: Value = None if found is None else found[node.get("outputNeuron", "")]
        targets = [t for t in model.iter("Target") if t.get("field") in (name, None)]
        target = targets[0] if targets else None
        if expression.tag == "NormDiscrete":
            if y is None and target is not None:
                priors = [v.get("priorProbability") for v in target if v.get("value") == expression.get("value")]
                y = number_or_none(priors[0]) if priors else None
        else:
            if expression.tag == "NormContinuous" and y is not None:
                inverse = [(norm, orig) for orig, norm in points_of(expression)]
                y = interpolated(y, sorted(inverse), expression.get("outliers", "asIs"))
            y = through_target(y, target)
        result.setdefault(name, []).append(y)
    return result


def through_target(y: Value, target: Element | None) -> Value:
    if target is None:
        return y
    if y is None:
        default = target.find("TargetValue")
        return number_or_none(None if default is None else default.get("defaultValue"))
    low, high = float(target.get("min", "-inf")), float(target.get("max", "inf"))
    y = y if low <= real(y) <= high else complex(low if real(y) < low else high)
    y = y * float(target.get("rescaleFactor", 1)) + float(target.get("rescaleConstant", 0))
    cast = {"round": lambda v: math.floor(v + 0.5), "ceiling": math.ceil, "floor": math.floor}
    return complex(cast[target.get("castInteger", "")](real(y))) if target.get("castInteger") else y


# --- samples --------------------------------------------------------------------------------------


def evaluate(root: Element, data: dict[str, list[Value]]) -> dict[str, np.ndarray]:
    """Values by target, (samples, 1) or (samples, categories); NaN where they are missing."""
    rows = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    results = [evaluate_record(root, row) for row in rows]
    return {name: np.array([[_plain(y).real for y in r[name]] for r in results]) for name in results[0]}


def jacobians(root: Element, data: dict[str, list[Value]], by: str) -> dict[str, np.ndarray]:
    """Derivatives by a field, (samples, values, 1); NaN where the value is missing."""
    rows = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    results = [evaluate_record(root, row | {by: row[by] + STEP * 1j}) for row in rows]
    return {name: np.array([[[_slope(y)] for y in r[name]] for r in results]) for name in results[0]}


def _plain(y: Value) -> complex:
    return complex(math.nan) if y is None else complex(y)


def _slope(y: Value) -> float:
    return math.nan if y is None else complex(y).imag / STEP


def activations_of(path: Path, data: dict[str, np.ndarray], neuron: str) -> np.ndarray:
    """The value of a neuron for each sample; complex."""
    root = load(path)
    (model,) = root.findall("NeuralNetwork")
    rows = [dict(zip(data, row, strict=True)) for row in zip(*(column[:, 0] for column in data.values()), strict=True)]
    return np.array([activations(Record(root, model, row))[neuron] for row in rows])  # type: ignore[index]
