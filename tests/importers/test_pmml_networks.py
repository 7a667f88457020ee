"""Neural networks in PMML compute what the specification says, written down in numpy, and have its derivatives by a
complex step.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad
from fixtures.pmml.files import AGE, FILES, SMOKER, Continuous, e, indicators, layer, linear, outputs, rng_of, text_of
from onnxgrad.errors import DisconnectedWarning
from onnxgrad.importers.pmml import convert
from onnxgrad.importers.pmml.network import ACTIVATION_NAMES
from tests.importers import pmml_by_hand
from tests.importers.pmml_networks import (
    COLOR,
    FOLDER,
    JACOBIANS,
    ROWS,
    VALUES,
    T,
    X,
    Y,
    assert_near,
    check,
    drawn,
    feeds,
    network,
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_as_programs_write_them(name: str, tmp_path: Path) -> None:
    fields = FILES[name]().inputs
    f = check(FOLDER / f"{name}.pmml", drawn(name, fields), tmp_path)
    assert [port.name for port in f.inputs] == [field.name for field in fields]
    assert all(port.shape == ("N", 1) for port in f.inputs)


@pytest.mark.parametrize("name", FILES)
def test_the_fixtures_are_those_of_the_script(name: str) -> None:
    assert (FOLDER / f"{name}.pmml").read_text(encoding="utf-8") == text_of(FILES[name]().document)


@pytest.mark.parametrize("name", FILES)
def test_the_derivatives_are_no_zeros(name: str) -> None:
    """Apart from decisions and fields that nothing depends on, there is something to compare."""
    data = drawn(name, FILES[name]().inputs)
    root = pmml_by_hand.load(FOLDER / f"{name}.pmml")
    for field in FILES[name]().inputs:
        if isinstance(field, Continuous):
            (slope,) = pmml_by_hand.jacobians(root, data, field.name).values()
            assert abs(slope).min() > 0 or name == "r_binary"


@pytest.mark.parametrize("name", FILES)
def test_float32(name: str) -> None:
    path, fields = FOLDER / f"{name}.pmml", FILES[name]().inputs
    model = convert(path, dtype="float32")
    onnx.checker.check_model(model, full_check=True)
    data = drawn(name, fields)
    f = onnxgrad.load(model)
    numbers = [p.dtype for p, field in zip(f.inputs, fields, strict=True) if isinstance(field, Continuous)]
    assert {np.dtype(np.float32)} == {*numbers, *(port.dtype for port in f.outputs)}
    (expected,) = pmml_by_hand.evaluate(pmml_by_hand.load(path), data).values()
    assert_near(f(feeds(data)), expected, 1e-5)  # a dozen roundings at 6e-8


def test_the_decision_of_r_has_a_layer_with_the_probability() -> None:
    """Its output is a step, and says so; the layer below it has the derivative."""
    f = onnxgrad.load(FOLDER / "r_binary.pmml")
    data = feeds(drawn("r_binary", FILES["r_binary"]().inputs))
    with pytest.warns(DisconnectedWarning):
        assert not f.jacobian(data, of="smoker", wrt="x1").any()
    slope = f.jacobian(data, of="layer2", wrt="x1")
    above, below = (
        pmml_by_hand.activations_of(FOLDER / "r_binary.pmml", data | {"x1": data["x1"] + step}, "7")
        for step in (1e-20j, 0)
    )
    np.testing.assert_allclose(slope[:, 0, 0], (above - below).imag / 1e-20, rtol=1e-13)
    np.testing.assert_array_equal(f(data)[:, 1], below.real > 0.5)


# --- networks of every kind -----------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_activation_functions(activation: str, tmp_path: Path) -> None:
    rng = rng_of(activation)
    hidden = layer(rng, ["2", "3"], ["0", "1"], activationFunction=activation, threshold=0.1)
    if activation == "radialBasis":
        hidden = layer(rng, ["2", "3"], ["0", "1"], False, activationFunction=activation, width=0.8, altitude=1.5)
    last = layer(rng, ["4"], ["2", "3"], activationFunction="identity")
    near = (2e-14, 1e-12) if activation == "reciprocal" else (VALUES, JACOBIANS)  # near its pole, digits are lost
    check(network(hidden, last), drawn(activation, [X, Y], 20), tmp_path, near)


@pytest.mark.parametrize("place", ["network", "layer"])
def test_activation_functions_are_inherited(place: str, tmp_path: Path) -> None:
    """What the network says is for all layers that say nothing else."""
    rng = rng_of("inherited")
    stated: dict[str, object] = {"activationFunction": "threshold", "threshold": 0.25, "normalizationMethod": "softmax"}
    other = {"activationFunction": "tanh", "normalizationMethod": "none"}
    first = layer(rng, ["2", "3"], ["0", "1"], **(stated if place == "layer" else {}))
    last = layer(rng, ["4"], ["2", "3"], **other)
    check(network(first, last, **(other if place == "layer" else stated)), drawn("i", [X, Y], 20), tmp_path)


@pytest.mark.parametrize("normalization", ["softmax", "simplemax"])
@pytest.mark.parametrize("activation", ["identity", "logistic"])
def test_normalizations(activation: str, normalization: str, tmp_path: Path) -> None:
    rng = rng_of(activation + normalization)
    last = layer(rng, ["2", "3", "4"], ["0", "1"], activationFunction=activation, normalizationMethod=normalization)
    out = outputs(indicators(COLOR), ["2", "3", "4"])
    text = network(last, targets=[COLOR], out=out, functionName="classification")
    near = (1e-12, 1e-11) if activation == "identity" and normalization == "simplemax" else (VALUES, JACOBIANS)
    check(text, drawn("normalized", [X, Y]), tmp_path, near)  # a sum of numbers of either sign may be near 0


def test_radial_basis_with_missing_connections(tmp_path: Path) -> None:
    """A neuron has no distance to an input that it is not connected with."""
    rng = rng_of("sparse")
    hidden = layer(rng, ["2", "3", "4"], ["0", "1"], False, activationFunction="radialBasis", altitude=1.2)
    hidden[0].remove(hidden[0][1])
    for neuron, width in zip(hidden, (0.5, 0.9, 2.0), strict=True):
        neuron.attrib |= {"width": str(width), "altitude": str(1 + width / 10)}
    again = layer(rng, ["5"], ["0", "2", "3"], False, activationFunction="radialBasis", width=1.1)
    last = layer(rng, ["6"], ["1", "4", "5"], activationFunction="identity")
    check(network(hidden, again, last), drawn("sparse", [X, Y]), tmp_path)


def test_connections_from_any_earlier_layer(tmp_path: Path) -> None:
    rng = rng_of("cascade")
    layers = [layer(rng, ["a"], ["0", "1"]), layer(rng, ["b", "c"], ["0", "a"]), layer(rng, ["d"], ["1", "a", "c"])]
    layers[1][1].remove(layers[1][1][0])
    f = check(network(*layers), drawn("cascade", [X, Y]), tmp_path)
    data = feeds(drawn("cascade", [X, Y]))
    shapes = {"W1_0": (1, 2), "b1": (1,), "W2_0": (2, 2), "W2_1": (2, 1), "W3_0": (1, 2), "W3_2": (1, 2), "b3": (1,)}
    for name, shape in shapes.items():
        assert f.jacobian(data, wrt=name).shape == (ROWS, 1, *shape)


def test_several_targets(tmp_path: Path) -> None:
    """Numbers and categories, in the order of the outputs; each has its own scaling."""
    rng = rng_of("targets")
    layers = [layer(rng, ["2", "3"], ["0", "1"]), layer(rng, ["4", "5", "6", "7"], ["2", "3"])]
    expressions = [*indicators(SMOKER), linear("t", (-4.0, 1.0), (2.0, -1.0)), e("FieldRef", field="age")]
    targets = [SMOKER, T, AGE]
    out = outputs(expressions, ["5", "2", "4", "7"])
    text = network(*layers, targets=targets, out=out, functionName="mixed")
    f = check(text, drawn("targets", [X, Y]), tmp_path)
    assert [(port.name, port.shape) for port in f.outputs] == [("smoker", ("N", 2)), ("t", ("N", 1)), ("age", ("N", 1))]


def test_the_categories_stand_in_the_model() -> None:
    model = convert(FOLDER / "r_softmax.pmml")
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {"categories:choice": ["bus", "car", "bike"]}
    assert model.graph.output[0].doc_string == "one column for each category: bus, car, bike"


@pytest.mark.parametrize("outliers", ["asIs", "asExtremeValues", "asMissingValues"])
@pytest.mark.parametrize("rising", [True, False])
def test_outputs_in_several_pieces(outliers: str, rising: bool, tmp_path: Path) -> None:
    """The inverse of a normalization that rises, or falls, in several pieces."""
    points = [(-3.0, -0.5), (1.0, 0.0), (2.0, 0.2), (9.0, 0.6)]
    points = points if rising else [(a, -b) for a, b in points]
    last = layer(rng_of("pieces"), ["2"], ["0", "1"])
    out = outputs([linear("t", *points, outliers=outliers)], ["2"])
    check(network(last, out=out), drawn("pieces", [X, Y], 25), tmp_path)


TARGETS: dict[str, dict[str, object]] = {
    "rescaled": {"rescaleFactor": -2.5, "rescaleConstant": 0.5},
    "bounded before it is rescaled": {"min": -0.2, "max": 0.3, "rescaleFactor": 10},
    "bounded below": {"min": 0.1},
    "rounded": {"castInteger": "round", "rescaleFactor": 10},
    "up": {"castInteger": "ceiling", "rescaleFactor": 10},
    "down": {"castInteger": "floor", "rescaleFactor": 10},
}


@pytest.mark.parametrize("what", TARGETS)
@pytest.mark.parametrize("field", ["t", None])
def test_targets(what: str, field: str | None, tmp_path: Path) -> None:
    target = e("Targets", e("Target", **({"field": field} if field else {}), **TARGETS[what]))
    text = network(layer(rng_of("target"), ["2"], ["0", "1"]), before=[target])
    check(text, drawn("target", [X, Y], 25), tmp_path)


def test_without_a_result_there_are_defaults(tmp_path: Path) -> None:
    data = drawn("defaults", [X, Y])
    data["x"][2] = math.nan
    target = e("Targets", e("Target", e("TargetValue", defaultValue=7.5), field="t"))
    path = tmp_path / "net.pmml"
    path.write_text(network(layer(rng_of("target"), ["2"], ["0", "1"]), before=[target]))
    found = onnxgrad.load(path)(feeds(data))
    assert_near(found, pmml_by_hand.evaluate(pmml_by_hand.load(path), data)["t"], VALUES)
    assert found[2] == 7.5
    priors = [e("TargetValue", value=v, priorProbability=p) for v, p in zip(COLOR.values, (0.2, 0.3, 0.5), strict=True)]
    last = layer(
        rng_of("priors"), ["2", "3", "4"], ["0", "1"], activationFunction="identity", normalizationMethod="softmax"
    )
    out, before = outputs(indicators(COLOR), ["2", "3", "4"]), [e("Targets", e("Target", *priors, field="color"))]
    path.write_text(network(last, targets=[COLOR], out=out, before=before, functionName="classification"))
    np.testing.assert_array_equal(onnxgrad.load(path)(feeds(data))[2], [0.2, 0.3, 0.5])


def test_second_order(tmp_path: Path) -> None:
    """arctan in float64 is composed: its second derivative must be as exact as the first."""
    path = tmp_path / "net.pmml"
    hidden = layer(rng_of("arctan"), ["2", "3"], ["0", "1"], activationFunction="arctan")
    path.write_text(network(hidden, layer(rng_of("second"), ["4"], ["2", "3"], activationFunction="identity")))
    model = convert(path)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    data = feeds(drawn("second", [X, Y]))
    z = np.hstack([data["x"], data["y"]]) @ weights["W1_0"].T + weights["b1"]
    expected = (weights["W2_1"] * 2 / np.pi * -2 * z / (1 + z**2) ** 2) @ (
        weights["W1_0"][:, :1] * weights["W1_0"][:, 1:]
    )
    hessian = onnxgrad.load(model).hessian(data)
    np.testing.assert_allclose(hessian["x"]["y"].reshape(-1, 1), expected, rtol=1e-12)


@pytest.mark.parametrize("x", [0.0, 1e-9, 0.3, -1.0, 7.0, -4e3, 1e9, 1e300])
def test_arctan_is_exact_everywhere(x: float, tmp_path: Path) -> None:
    path = tmp_path / "net.pmml"
    only = e("NeuralLayer", e("Neuron", e("Con", from_="0", weight=1.0), id="1"), activationFunction="arctan")
    path.write_text(network(only, taken=[X]))
    f, given = onnxgrad.load(path), {"x": np.array([[x]])}
    np.testing.assert_allclose(f(given), 2 / np.pi * np.arctan([[x]]), rtol=4e-16)
    # |x| · 1e-22; what is below the normal numbers is none
    np.testing.assert_allclose(f.jacobian(given), [[[2 / np.pi / (1 + x * x)]]], rtol=1e-13, atol=2.3e-308)
