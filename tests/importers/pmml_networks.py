"""Documents for tests of PMML, and what holds a model against the specification."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import onnxgrad
from fixtures import make_pmml
from fixtures.pmml.files import (
    Categorical,
    Continuous,
    Field,
    Node,
    R,
    e,
    inputs,
    names,
    outputs,
    rng_of,
    text_of,
)  # fmt: skip
from onnxgrad.errors import DisconnectedWarning
from tests.importers import pmml_by_hand

FOLDER = Path(make_pmml.__file__).parent / "pmml"
ROWS = 7

# --- documents ------------------------------------------------------------------------------------

X, Y, Z = (Continuous(name, -1.0, 1.0) for name in "xyz")
T = Continuous("t", -10.0, 10.0)
COLOR = Categorical("color", ("red", "green", "blue"))


def network(
    *layers: Node,
    taken: Sequence[Field] = (X, Y),
    targets: Sequence[Field] = (T,),
    scaled: Node | None = None,
    out: Node | None = None,
    schema: Node | None = None,
    before: Sequence[Node] = (),
    dictionary: Sequence[Node] = (),
    data: Sequence[Node] | None = None,
    **attributes: object,
) -> str:
    """A document; what is not given is as plain as can be. The inputs have the ids 0, 1, …."""
    scaled = inputs([e("FieldRef", field=f.name) for f in taken], names(0, len(taken))) if scaled is None else scaled
    last = layers[-1].findall("Neuron")[-1].get("id") or ""
    out = outputs([e("FieldRef", field=targets[0].name)], [last]) if out is None else out
    schema = R.schema(taken, targets) if schema is None else schema
    stated = {"functionName": "regression", "activationFunction": "tanh"} | attributes
    document = R.document(
        [*taken, *targets], *dictionary, e("NeuralNetwork", schema, *before, scaled, *layers, out, **stated)
    )
    if data is not None:
        dictionary_ = document.find("DataDictionary")
        assert dictionary_ is not None
        dictionary_[:] = [*data, *(f.data_field() for f in targets)]
    return text_of(document)


# --- checks ---------------------------------------------------------------------------------------


def feeds(data: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    return {name: column_of(values) for name, values in data.items()}


def column_of(values: list[Any]) -> np.ndarray:
    return np.array(values, dtype=object if isinstance(values[0], str) else None)[:, None]


def drawn(name: str, fields: list[Field], rows: int = ROWS) -> dict[str, list[Any]]:
    rng = rng_of(name + " data")
    return {field.name: field.draw(rng, rows) for field in fields}


def jacobian(f: onnxgrad.Function, data: dict[str, np.ndarray], of: str, wrt: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DisconnectedWarning)  # steps, and fields that nothing depends on
        return f.jacobian(data, of=of, wrt=wrt)


def assert_near(found: np.ndarray, expected: np.ndarray, near: float, floor: float = 0.0) -> None:
    """Compare, relative to the largest element, or to `floor`; NaN where it is expected, and nowhere else."""
    assert found.shape == expected.shape
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~there)
    assert abs(found - expected)[there].max(initial=0) <= near * max(abs(expected[there]).max(initial=0), floor)


#: Sums of a handful of products in another order than by hand.
VALUES, JACOBIANS = 1e-14, 1e-13


def check(
    source: Path | str,
    data: dict[str, list[Any]],
    tmp_path: Path,
    near: tuple[float, float] = (VALUES, JACOBIANS),
    by_missing: bool = True,
    floor: float = 0.0,
) -> onnxgrad.Function:
    """Hold a model against the specification: values, and derivatives by all fields of numbers.

    `by_missing`: whether the derivative by a missing number is held against that of the specification, too. `floor`:
    the size, in that of the values, that derivatives are compared relative to where they are smaller.
    """
    root = pmml_by_hand.load(source)
    path = source
    if isinstance(source, str):
        path = tmp_path / "net.pmml"
        path.write_text(source, encoding="utf-8")
    f = onnxgrad.load(path)
    given = feeds(data)
    values = f(given)
    values = values if isinstance(values, dict) else {f.outputs[0].name: values}
    expected = pmml_by_hand.evaluate(root, data)
    assert list(values) == list(expected)
    for name, value in expected.items():
        assert_near(values[name], value, near[0])
    for port in f.inputs:
        if port.dtype == np.float64:
            for name, slope in pmml_by_hand.jacobians(root, data, port.name).items():
                found = jacobian(f, given, name, port.name)
                found[np.isnan(expected[name])] = np.nan  # what is missing has no derivative
                if not by_missing:
                    found[np.isnan(given[port.name][:, 0])] = slope[np.isnan(given[port.name][:, 0])]
                assert_near(found, slope, near[1], floor * (1 + abs(values[name]).max(initial=0)))
    return f
