"""Fields and expressions of PMML: every treatment of missing, invalid and outlying values, every expression, and every
function, held against the specification in numpy: values, and derivatives by a complex step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxgrad
from fixtures.pmml.files import Categorical, Continuous, Field, Node, derived, e, inputs, layer, linear, names, rng_of
from onnxgrad.importers.pmml import convert
from onnxgrad.importers.pmml.functions import FUNCTIONS
from tests.importers import pmml_by_hand
from tests.importers.pmml_networks import X, Y, assert_near, check, drawn, feeds, network

COLOR = Categorical("color", ("red", "green", "blue"))
NAN = math.nan


def of(
    expressions: Sequence[Node], taken: Sequence[Field] = (X, Y), activation: str = "tanh", **attributes: Any
) -> str:
    """A network of one neuron that takes some expressions."""
    count = len(expressions)
    only = layer(rng_of("one"), ["out"], names(0, count), activationFunction=activation)
    return network(only, taken=taken, scaled=inputs(expressions, names(0, count)), **attributes)


def field(name: str) -> Node:
    return e("FieldRef", field=name)


def constant(value: object, **attributes: object) -> Node:
    node = e("Constant", **attributes)
    node.text = str(value)
    return node


def apply(function: str, *args: Node, **attributes: object) -> Node:
    return e("Apply", *args, function=function, **attributes)


def mining(*nodes: Node) -> Node:
    return e("MiningSchema", *nodes, e("MiningField", name="t", usageType="target"))


# --- NormContinuous -------------------------------------------------------------------------------

TWO, FOUR = [(-0.5, 1.0), (0.5, -2.0)], [(-0.5, 1.0), (-0.1, 1.5), (0.2, 0.0), (0.6, 0.25)]


@pytest.mark.parametrize("points", [TWO, FOUR], ids=["two", "four"])
@pytest.mark.parametrize("outliers", ["asIs", "asExtremeValues", "asMissingValues", None])
@pytest.mark.parametrize("missing", [None, 0.75])
def test_norm_continuous(
    points: list[tuple[float, float]], outliers: str | None, missing: float | None, tmp_path: Path
) -> None:
    attributes = {"outliers": outliers, "mapMissingTo": missing}
    node = linear("x", *points, **{name: value for name, value in attributes.items() if value is not None})
    data = {"x": [NAN, *np.linspace(-1.03, 0.97, 21).tolist()]}
    for activation in ("tanh", "identity"):  # a missing value must not make a derivative of a linear network
        check(of([node], [X], activation), data, tmp_path)


def test_a_point_belongs_to_the_piece_behind_it(tmp_path: Path) -> None:
    """At a bend, the derivative is that of the right; at the ends, that of the inside."""
    data = {"x": [-0.5, -0.1, 0.2, 0.6]}
    check(of([linear("x", *FOUR, outliers="asExtremeValues")], [X]), data, tmp_path)


# --- the mining schema: numbers -------------------------------------------------------------------

INTERVAL = [e("Interval", closure="closedOpen", leftMargin=-0.5, rightMargin=0.5)]
TWO_INTERVALS = [
    e("Interval", closure="openClosed", leftMargin=-0.8, rightMargin=-0.2),
    e("Interval", closure="openOpen", leftMargin=0.2),
    e("Value", value="0.1"),
    e("Value", value="-0.5", property="invalid"),
]
UNBOUNDED = [e("Interval", closure="openOpen"), *INTERVAL, e("Value", value="-0.5", property="invalid")]
CODES = [e("Value", value="-999", property="missing"), e("Value", value="0.1", property="missing"), *INTERVAL]
NUMBERS = [NAN, -999.0, -0.9, -0.8, -0.5, -0.3, -0.2, 0.0, 0.1, 0.2, 0.3, 0.5, 0.9]

TREATMENTS: dict[str, dict[str, object]] = {
    "nothing said": {},
    "as is": {"invalidValueTreatment": "asIs"},
    "as missing": {"invalidValueTreatment": "asMissing"},
    "as a value": {"invalidValueTreatment": "asValue", "invalidValueReplacement": 0.25},
    "replaced": {"missingValueReplacement": -0.125},
    "replaced by the mean": {"missingValueReplacement": -0.125, "missingValueTreatment": "asMean"},
    "missing is invalid": {"missingValueReplacement": -0.125, "missingValueTreatment": "returnInvalid"},
    "invalid is replaced": {"invalidValueTreatment": "asMissing", "missingValueReplacement": 0.5},
    "outliers are clipped": {"outliers": "asExtremeValues", "lowValue": -0.4, "highValue": 0.25},
    "outliers are clipped above": {
        "outliers": "asExtremeValues", "highValue": 0.25, "invalidValueTreatment": "asIs",
    },
    "outliers are missing": {"outliers": "asMissingValues", "lowValue": -0.4, "highValue": 0.25},
    "outliers below are replaced": {
        "outliers": "asMissingValues", "lowValue": -0.4, "missingValueReplacement": 0.5,
        "invalidValueTreatment": "asIs",
    },
    "bounds that do nothing": {"outliers": "asIs", "lowValue": -0.4, "highValue": 0.25},
}  # fmt: skip


@pytest.mark.parametrize("what", TREATMENTS)
@pytest.mark.parametrize(
    "declared",
    [[], INTERVAL, TWO_INTERVALS, UNBOUNDED, CODES],
    ids=["all", "interval", "two", "unbounded", "codes"],
)
def test_treatment_of_numbers(what: str, declared: list[Node], tmp_path: Path) -> None:
    data = [e("DataField", *declared, name="x", optype="continuous", dataType="double")]
    schema = mining(e("MiningField", name="x", **TREATMENTS[what]))
    check(of([field("x")], [X], data=data, schema=schema), {"x": NUMBERS}, tmp_path)


def test_what_becomes_missing_has_no_derivative(tmp_path: Path) -> None:
    """Not zero, as what is replaced has."""
    data = [e("DataField", *INTERVAL, name="x", optype="continuous", dataType="double")]
    given = feeds({"x": [0.9, 0.25]})
    for attributes, expected in (
        ({}, NAN),
        ({"invalidValueTreatment": "asMissing"}, NAN),
        (TREATMENTS["invalid is replaced"], 0.0),
    ):
        path = tmp_path / "net.pmml"
        path.write_text(of([field("x")], [X], data=data, schema=mining(e("MiningField", name="x", **attributes))))
        slope = onnxgrad.load(path).jacobian(given).reshape(-1)
        np.testing.assert_array_equal(slope[0], expected)
        assert abs(slope[1]) > 0


def test_what_is_missing_makes_the_result_missing_whatever_the_layer(tmp_path: Path) -> None:
    """Also behind functions that look at which number is greater."""
    for activation in ("threshold", "rectifier"):
        check(of([field("x")], [X], activation, threshold=0.1), {"x": [NAN, -0.5, 0.5]}, tmp_path)


# --- the mining schema: texts, integers, flags ----------------------------------------------------


@pytest.mark.parametrize(
    "what",
    ["nothing said", "as is", "as missing", "as a value", "replaced", "missing is invalid", "invalid is replaced"],
)
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("missing", [None, 0.5])
def test_treatment_of_texts(what: str, declared: bool, missing: float | None, tmp_path: Path) -> None:
    attributes = TREATMENTS[what] | {k: "green" for k in TREATMENTS[what] if k.endswith("Replacement")}
    values = [e("Value", value=v) for v in COLOR.values] if declared else []
    values += [e("Value", value="none", property="missing"), e("Value", value="grey", property="invalid")]
    data = [X.data_field(), e("DataField", *values, name="color", optype="categorical", dataType="string")]
    schema = mining(e("MiningField", name="x"), e("MiningField", name="color", **attributes))
    mapped = {} if missing is None else {"mapMissingTo": missing}
    expressions = [e("NormDiscrete", field="color", value=v, **mapped) for v in ("green", "blue")]
    text = of([field("x"), *expressions], [X, COLOR], data=data, schema=schema)
    colors = ["red", "green", "blue", "none", "grey", "pink", ""]
    check(text, {"x": drawn("texts", [X])["x"], "color": colors}, tmp_path)


def test_integers_flags_and_numbers_that_are_categories(tmp_path: Path) -> None:
    """They have inputs of their types; flags are true and false."""
    count, flag = Categorical("n", ("1", "2", "3"), "integer"), Categorical("b", ("true", "false"), "boolean")
    level = Categorical("level", ("0.5", "1.5"), "double")
    taken = [X, count, flag, level]
    expressions = [
        apply("*", field("x"), field("n")),
        e("NormDiscrete", field="n", value="2"),
        e("NormDiscrete", field="b", value="true"),
        e("NormDiscrete", field="level", value="1.5"),
        e("NormDiscrete", field="level", value="0.5", mapMissingTo=0.5),
    ]
    data = drawn("types", taken)
    data["n"][3], data["level"][2] = 4, NAN  # the first is not declared
    f = check(of(expressions, taken), data, tmp_path)
    kinds = [np.float64, np.int64, np.bool_, np.float64]
    assert [port.dtype for port in f.inputs] == [np.dtype(kind) for kind in kinds]


def test_dates_are_texts(tmp_path: Path) -> None:
    day = Categorical("day", ("2024-01-01", "2024-01-02"), "date")
    check(
        of([field("x"), e("NormDiscrete", field="day", value="2024-01-02")], [X, day]), drawn("d", [X, day]), tmp_path
    )


# --- functions ------------------------------------------------------------------------------------

#: Arguments by name: numbers, and where they are between; others are between -1 and 1.
ARGUMENTS: dict[str, tuple[int, float, float]] = {
    **dict.fromkeys("+ - * / hypot modulo threshold equal notEqual".split(), (2, -1.0, 1.0)),
    **dict.fromkeys("lessThan lessOrEqual greaterThan greaterOrEqual".split(), (2, -1.0, 1.0)),
    **dict.fromkeys("min max sum avg product isIn isNotIn".split(), (3, -1.0, 1.0)),
    **dict.fromkeys("ln log10 sqrt".split(), (1, 0.1, 4.0)),
    **dict.fromkeys("abs floor ceil rint round".split(), (1, -4.0, 4.0)),
    "pow": (2, 0.1, 2.0),
    "normalPDF": (3, 0.1, 2.0),
    "normalCDF": (3, 0.1, 2.0),
}
#: Those of flags, which `test_conditions` has.
OF_FLAGS = ("if", "and", "or", "not")
#: Those for which onnxruntime has kernels in float32 only.
SINGLE = ("erf", "stdNormalCDF", "normalCDF")


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in (*OF_FLAGS, *SINGLE)])
def test_functions(name: str, tmp_path: Path) -> None:
    """On numbers, with missing ones among them."""
    count, low, high = ARGUMENTS.get(name, (1, -1.0, 1.0))
    taken = [Continuous(f"x{i}", low, high) for i in range(count)]
    data = drawn(name, taken, 12)
    data["x0"][1] = data["x0"][-1]
    if count > 1:
        data["x1"][4] = NAN
        if name not in ("min", "max"):  # at a tie, they have no derivative
            data["x1"][3] = data["x0"][3]
        data["x0"][5] = data["x1"][5] = NAN
    if count > 2:
        data["x2"][5] = NAN  # all are missing
    data["x0"][6] = NAN
    # expm1 and ln1p come to numbers near 0 from such near 1; tan and acos lose a digit near their poles
    near = (1e-14, 1e-12)
    check(of([apply(name, *(field(f.name) for f in taken))], taken), data, tmp_path, near)


@pytest.mark.parametrize("name", SINGLE)
def test_functions_that_are_in_float32_only(name: str, tmp_path: Path) -> None:
    count = FUNCTIONS[name].least
    taken = [Continuous(f"x{i}", 0.1, 2.0) for i in range(count)]
    path = tmp_path / "net.pmml"
    path.write_text(of([apply(name, *(field(f.name) for f in taken))], taken))
    data = drawn(name, taken)
    root, f = pmml_by_hand.load(path), onnxgrad.load(convert(path, dtype="float32"))
    assert_near(f(feeds(data)), pmml_by_hand.evaluate(root, data)["t"], 1e-6)
    assert_near(f.jacobian(feeds(data), wrt="x0"), pmml_by_hand.jacobians(root, data, "x0")["t"], 2e-6)


CONDITIONS = {
    "if": apply("if", apply("lessThan", field("x"), field("y")), apply("*", field("x"), constant(2)), field("y")),
    "if without otherwise": apply("if", apply("greaterThan", field("x"), constant(0)), field("x")),
    "if missing": apply("if", apply("isMissing", field("x")), constant(0.5), apply("exp", field("x"))),
    "and": apply("and", apply("lessThan", field("x"), constant(0.5)), apply("greaterThan", field("y"), constant(-0.5))),
    "or": apply("or", apply("lessThan", field("x"), constant(-0.5)), apply("greaterThan", field("y"), constant(0.5))),
    "not": apply("not", apply("equal", field("x"), field("y"))),
}


@pytest.mark.parametrize("what", CONDITIONS)
def test_conditions(what: str, tmp_path: Path) -> None:
    data = drawn(what, [X, Y], 20)
    data["x"][0] = data["y"][1] = data["x"][2] = data["y"][2] = NAN
    data["x"][3] = data["y"][3]
    check(of([CONDITIONS[what]]), data, tmp_path, by_missing=False)  # NaN passes back through exp


@pytest.mark.parametrize("name", ["equal", "notEqual", "isIn", "isNotIn", "isMissing", "isNotMissing"])
def test_functions_of_texts(name: str, tmp_path: Path) -> None:
    wanted = [] if "Missing" in name else [constant("green", dataType="string")]
    wanted += [constant("pink", dataType="string")] if "In" in name else []
    data = {"x": drawn("x", [X])["x"], "color": ["red", "green", "blue", "pink", "", "green", "red"]}
    values = [X.data_field(), e("DataField", name="color", optype="categorical", dataType="string")]
    check(of([field("x"), apply(name, field("color"), *wanted)], [X, COLOR], data=values), data, tmp_path)


# --- missing values in expressions ----------------------------------------------------------------

WITH_MISSING = {
    "a field": e("FieldRef", field="x", mapMissingTo=0.25),
    "a function": apply("+", field("x"), field("y"), mapMissingTo=0.25),
    "the result of a function": apply("+", field("x"), field("y"), defaultValue=0.25),
    "a missing constant": apply("sum", field("x"), e("Constant", missing="true")),
}


@pytest.mark.parametrize("what", WITH_MISSING)
def test_missing_values_are_mapped(what: str, tmp_path: Path) -> None:
    data = drawn("mapped", [X, Y])
    data["x"][0] = data["x"][1] = data["y"][1] = data["y"][2] = NAN
    check(of([WITH_MISSING[what]]), data, tmp_path)


FLAT = {
    "a flat piece": linear("x", (0.0, 0.5), (1.0, 0.5)),
    "no times": apply("*", field("x"), constant(0)),
    "the power of nothing": apply("pow", field("x"), constant(0)),
    "a difference to itself": apply("-", field("x"), field("x")),
}


@pytest.mark.parametrize("what", FLAT)
def test_what_is_the_same_for_all_numbers_is_missing_all_the_same(what: str, tmp_path: Path) -> None:
    data = {"x": [NAN, 0.25, -0.5], "y": [0.5, NAN, 0.75]}
    check(of([FLAT[what], field("y")]), data, tmp_path)
    nothing = e("Targets", e("Target", rescaleFactor=0, rescaleConstant=2))
    check(of([field("x"), field("y")], before=[nothing]), data, tmp_path)


def test_missing_texts_are_mapped(tmp_path: Path) -> None:
    node = derived(
        e("FieldRef", field="color", mapMissingTo="green"), name="filled", optype="categorical", dataType="string"
    )
    taken = [X, COLOR]
    data = {"x": drawn("x", taken)["x"], "color": ["red", "", "green", "", "blue", "red", "green"]}
    before = [e("LocalTransformations", node)]
    expressions = [field("x"), e("NormDiscrete", field="filled", value="green")]
    check(of(expressions, taken, before=before), data, tmp_path)


# --- tables and bins ------------------------------------------------------------------------------


def table(rows: dict[str, str], of_: str, **attributes: object) -> Node:
    cells = []
    for key, value in rows.items():
        cell = [e("from"), e("to")]
        cell[0].text, cell[1].text = key, value
        cells.append(e("row", *cell))
    pair = e("FieldColumnPair", field=of_, column="from")
    return e("MapValues", pair, e("InlineTable", *cells), outputColumn="to", **attributes)


@pytest.mark.parametrize("default", [{}, {"defaultValue": "0.125"}, {"defaultValue": "0.125", "mapMissingTo": "-1"}])
def test_texts_become_numbers_by_a_table(default: dict[str, str], tmp_path: Path) -> None:
    node = table({"red": "1.5", "pink": "-0.5"}, "color", dataType="double", **default)
    values = [X.data_field(), e("DataField", name="color", optype="categorical", dataType="string")]
    data = {"x": drawn("x", [X])["x"], "color": ["red", "green", "pink", "", "blue", "red", "pink"]}
    check(of([field("x"), node], [X, COLOR], data=values), data, tmp_path)


def test_numbers_become_texts_by_a_table(tmp_path: Path) -> None:
    count = Categorical("n", ("1", "2", "3"), "integer")
    node = derived(
        table({"1": "few", "2": "few", "3": "many"}, "n", dataType="string"), name="amount", optype="categorical",
        dataType="string",
    )  # fmt: skip
    expressions = [field("x"), e("NormDiscrete", field="amount", value="few")]
    check(of(expressions, [X, count], before=[e("LocalTransformations", node)]), drawn("n", [X, count]), tmp_path)


@pytest.mark.parametrize("mapped", [{}, {"defaultValue": "rest", "mapMissingTo": "gone"}])
def test_bins(mapped: dict[str, str], tmp_path: Path) -> None:
    bins = [
        e("DiscretizeBin", e("Interval", closure="openOpen", rightMargin=-0.5), binValue="low"),
        e("DiscretizeBin", e("Interval", closure="closedOpen", leftMargin=-0.5, rightMargin=0.25), binValue="middle"),
        e("DiscretizeBin", e("Interval", closure="closedClosed", leftMargin=0.5, rightMargin=0.75), binValue="high"),
    ]
    node = derived(
        e("Discretize", *bins, field="x", dataType="string", **mapped),
        name="bin",
        optype="categorical",
        dataType="string",
    )
    numbered = [e("DiscretizeBin", each[0], binValue=i) for i, each in enumerate(bins)]
    numbers = e("Discretize", *numbered, field="x", mapMissingTo="9")
    wanted = [e("NormDiscrete", field="bin", value=v) for v in ("low", "middle", "high", "rest", "gone")]
    data = {"x": [NAN, -0.9, -0.5, 0.0, 0.25, 0.5, 0.75, 0.9], "y": drawn("y", [Y], 8)["y"]}
    before = [e("LocalTransformations", node)]
    check(of([field("y"), *wanted], before=before), data, tmp_path)
    check(of([field("y"), numbers]), data, tmp_path)


# --- derived fields and functions of the file -----------------------------------------------------


def dictionary() -> list[Node]:
    """z-scores by a function of its own, a field made of another, and one that is hidden by a local one."""
    score = e(
        "DefineFunction",
        e("ParameterField", name="value"),
        e("ParameterField", name="width", optype="continuous", dataType="double"),
        apply("/", apply("-", field("value"), constant(0.1)), field("width")),
        name="score",
        optype="continuous",
    )
    return [
        e(
            "TransformationDictionary",
            score,
            derived(apply("score", field("x"), constant(0.5, dataType="double")), name="zx"),
            derived(apply("score", field("zx"), apply("exp", field("y"))), name="both"),
            derived(field("x"), name="hidden"),
        )
    ]


def test_derived_fields(tmp_path: Path) -> None:
    local = e("LocalTransformations", derived(apply("sin", field("both")), name="hidden"))
    text = of([field("zx"), field("hidden"), field("both")], dictionary=dictionary(), before=[local])
    f = check(text, drawn("derived", [X, Y]), tmp_path)
    slope = f.jacobian(feeds(drawn("derived", [X, Y])), of="both", wrt="zx")  # fields in between have their names
    np.testing.assert_allclose(slope[:, 0, 0], 1 / np.exp(drawn("derived", [X, Y])["y"]), rtol=1e-15)


def test_a_constant_is_an_input_too(tmp_path: Path) -> None:
    check(of([constant(0.75), field("x"), apply("pow", constant(0.5), constant(2))]), drawn("c", [X, Y]), tmp_path)


def test_fields_that_are_not_used_stay(tmp_path: Path) -> None:
    """An input is each active field, and no other one."""
    extra = Continuous("id", 0.0, 1.0)
    schema = mining(
        e("MiningField", name="color"),
        e("MiningField", name="x"),
        e("MiningField", name="id", usageType="supplementary"),
    )
    values = [X.data_field(), COLOR.data_field(), extra.data_field()]
    f = check(of([field("x")], [X], schema=schema, data=values), drawn("unused", [COLOR, X]), tmp_path)
    assert [port.name for port in f.inputs] == ["color", "x"]


def test_names_that_the_model_uses_itself(tmp_path: Path) -> None:
    taken = [Continuous(name, -1.0, 1.0) for name in ("W1_0", "b1", "layer1", "constant", "Tanh")]
    f = check(of([field(x.name) for x in taken], taken), drawn("taken", taken), tmp_path)
    assert [port.name for port in f.inputs] == [x.name for x in taken]
