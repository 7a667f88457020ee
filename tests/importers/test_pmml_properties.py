"""Random networks in PMML compute what the specification says, and have the derivatives by a complex step."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.pmml.files import Categorical, Continuous, Field, Node, e, indicators, inputs, linear, names, outputs
from tests.importers.pmml_networks import check, network

#: Without reciprocal, threshold and simplemax of either sign: near poles and jumps, the order of a sum decides.
ACTIVATIONS = "logistic tanh identity exponential square Gauss sine cosine Elliott arctan rectifier radialBasis".split()
POSITIVE = ("logistic", "exponential", "Gauss", "radialBasis")
T = Continuous("t", -10.0, 10.0)
SAMPLES = 4


@st.composite
def fields(draw: Any) -> list[Field]:
    numbers = [Continuous(f"x{i}", -2.0, 2.0) for i in range(draw(st.integers(1, 3)))]
    letters = [Categorical(f"c{i}", "abcd"[: draw(st.integers(2, 4))]) for i in range(draw(st.integers(0, 2)))]
    return [*numbers, *letters]


def points(draw: Any, rng: np.random.Generator, rising: bool = False) -> list[tuple[float, float]]:
    count = draw(st.integers(2, 4))
    heights = rng.normal(size=count)
    if rising:
        heights = np.cumsum(0.1 + abs(heights)) * draw(st.sampled_from([-1, 1]))
    places = np.cumsum(0.2 + rng.uniform(size=count)) - 1.5
    return [(float(a), float(b)) for a, b in zip(places, heights, strict=True)]


def expression(draw: Any, rng: np.random.Generator, field: Continuous) -> Node:
    match draw(st.sampled_from(["field", "norm", "apply"])):
        case "norm":
            return linear(field.name, *points(draw, rng), outliers=draw(st.sampled_from(["asIs", "asExtremeValues"])))
        case "apply":
            inner = e("Apply", e("FieldRef", field=field.name), function=draw(st.sampled_from(["sin", "tanh", "cosh"])))
            return e("Apply", inner, e("FieldRef", field=field.name), function=draw(st.sampled_from(["+", "*", "-"])))
    return e("FieldRef", field=field.name)


def layer(draw: Any, rng: np.random.Generator, number: int, size: int, earlier: Sequence[str]) -> Node:
    """A layer that is connected to some of all earlier neurons; each of its neurons to one at least."""
    activation = draw(st.sampled_from(ACTIVATIONS))
    normalizations = ["none", "softmax"] + ["simplemax"] * (activation in POSITIVE)
    attributes = {"activationFunction": activation, "normalizationMethod": draw(st.sampled_from(normalizations))}
    neurons = []
    for i in range(size):
        sources = sorted(draw(st.sets(st.sampled_from(list(earlier)), min_size=1)))
        weights = rng.normal(size=len(sources)) / np.sqrt(len(sources))
        connections = [e("Con", from_=s, weight=float(w)) for s, w in zip(sources, weights, strict=True)]
        neurons.append(e("Neuron", *connections, id=f"{number},{i}", bias=float(rng.normal())))
    if activation == "radialBasis":
        attributes |= {"width": str(rng.uniform(0.7, 2)), "altitude": str(rng.uniform(0.8, 1.2))}
    return e("NeuralLayer", *neurons, **attributes)


@st.composite
def documents(draw: Any) -> tuple[str, dict[str, list[Any]]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    taken = draw(fields())
    expressions: list[Node] = []
    for field in taken:
        expressions += indicators(field) if isinstance(field, Categorical) else [expression(draw, rng, field)]
    earlier, layers = names(0, len(expressions)), []
    for number, size in enumerate(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)), 1):
        layers.append(layer(draw, rng, number, size, earlier))
        earlier += [f"{number},{i}" for i in range(size)]
    last = [neuron.get("id") or "" for neuron in layers[-1]]
    target = Categorical("k", "pqrs"[: len(last)]) if draw(st.booleans()) else T
    out = indicators(target) if isinstance(target, Categorical) else [linear("t", *points(draw, rng, True))]
    kind = "classification" if isinstance(target, Categorical) else "regression"
    scaled = inputs(expressions, names(0, len(expressions)))
    text = network(
        *layers, taken=taken, targets=[target], scaled=scaled, out=outputs(out, last[: len(out)]), functionName=kind
    )
    return text, {field.name: field.draw(rng, SAMPLES) for field in taken}


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(documents())
def test_random_networks(drawn: tuple[str, dict[str, list[Any]]]) -> None:
    text, data = drawn
    with tempfile.TemporaryDirectory() as folder:
        # squares and exponentials of exponentials amplify the rounding of a sum by their size; where layers saturate,
        # derivatives are differences of numbers as large as the values
        check(text, data, Path(folder), near=(1e-12, 1e-11), floor=1.0)
