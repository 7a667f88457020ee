"""The layers of a network, by the specification of PMML, version 4.4: what they are made of, and what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.pmml.arithmetic import Arithmetic
from onnxgrad.importers.pmml.document import Element

Array = np.ndarray[Any, Any]

# --- functions ------------------------------------------------------------------------------------

#: What becomes of the net input Z of a neuron, by name; ``threshold`` and ``radialBasis`` have parameters.
ACTIVATIONS: dict[str, Callable[[Arithmetic, Tensor], Tensor]] = {
    "logistic": lambda a, z: a.op.Sigmoid(z),
    "tanh": lambda a, z: a.op.Tanh(z),
    "identity": lambda _, z: z,
    "exponential": lambda a, z: a.op.Exp(z),
    "reciprocal": lambda a, z: a.op.Reciprocal(z),
    "square": lambda _, z: z * z,
    "Gauss": lambda a, z: a.op.Exp(-(z * z)),
    "sine": lambda a, z: a.op.Sin(z),
    "cosine": lambda a, z: a.op.Cos(z),
    "Elliott": lambda a, z: z / (1.0 + a.op.Abs(z)),
    "arctan": lambda a, z: a.arctan(z) * (2.0 / math.pi),
    "rectifier": lambda a, z: a.op.Relu(z),
}
ACTIVATION_NAMES = (*ACTIVATIONS, "threshold", "radialBasis")

#: What becomes of the activations of a layer, by name.
NORMALIZATIONS: dict[str, Callable[[Arithmetic, Tensor], Tensor]] = {
    "none": lambda _, y: y,
    "simplemax": lambda a, y: y / a.op.sum(y, [1]),
    "softmax": lambda a, y: a.op.Softmax(y, axis=1),
}


# --- layers ---------------------------------------------------------------------------------------


@dataclass
class Weights:
    """The connections of a layer from an earlier one.

    Attributes:
        array: (neurons, neurons of the earlier layer); 0 where there is no connection.
        connected: the same shape; where there is one.
    """

    array: Array
    connected: Array


@dataclass
class Layer:
    """A layer.

    Attributes:
        element: its element.
        activation: name of its activation function.
        normalization: name of its normalization.
        weights: by the number of the earlier layer, from 0, which are the inputs.
        bias: (neurons,).
        threshold: above it, ``threshold`` gives 1.
        widths: (neurons,) of ``radialBasis``.
        altitudes: (neurons,) of ``radialBasis``.
    """

    element: Element
    activation: str
    normalization: str
    threshold: float = 0.0
    weights: dict[int, Weights] = field(default_factory=dict)
    bias: Array = field(default_factory=lambda: np.zeros(0))
    widths: Array = field(default_factory=lambda: np.zeros(0))
    altitudes: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def fan_in(self) -> Array:
        """How many connections lead to each neuron."""
        connected = np.concatenate([w.connected for w in self.weights.values()], axis=1)
        return np.asarray(np.count_nonzero(connected, axis=1))

    def compute(self, a: Arithmetic, outputs: Sequence[Tensor], weights: Mapping[int, Tensor], bias: Tensor) -> Tensor:
        """Return the activations, of shape (N, neurons).

        Args:
            a: what the network is computed with.
            outputs: those of the inputs and of all earlier layers.
            weights: the arrays of `weights`, as weights of the model.
            bias: `bias`, as a weight of the model.
        """
        if self.activation == "radialBasis":
            y = self._radial(a, outputs, weights)
        else:
            z = bias
            for layer, array in weights.items():
                z = a.op.Gemm(outputs[layer], array, z, transB=1)
            if self.activation == "threshold":
                y = a.unless_missing([z], a.flag(z > self.threshold))
            else:
                y = ACTIVATIONS[self.activation](a, z)
        return NORMALIZATIONS[self.normalization](a, y)

    def _radial(self, a: Arithmetic, outputs: Sequence[Tensor], weights: Mapping[int, Tensor]) -> Tensor:
        """exp(f log(altitude) - Z) with Z = Σ (output - weight)² / (2 width²), and f the number of connections."""
        squares = None
        for layer, array in weights.items():
            off = a.op.unsqueeze(outputs[layer], [1]) - array
            if not self.weights[layer].connected.all():
                off = off * a.constant(self.weights[layer].connected)
            part = a.op.sum(off * off, [2], keepdims=False)
            squares = part if squares is None else squares + part
        assert squares is not None
        z = squares * a.constant(0.5 / self.widths**2)
        height = self.fan_in * np.log(self.altitudes)
        return a.op.Exp(a.constant(height) - z if height.any() else -z)


@dataclass(frozen=True)
class Place:
    """Where a neuron is: its layer, from 0, which are the inputs, and its number in that, from 0."""

    layer: int
    number: int


def places_of(model: Element) -> dict[str, Place]:
    """Return where each input and neuron is, by its id.

    Raises:
        ModelReadError: if two have the same, or there are not as many as the file says.
    """
    inputs = model.one("NeuralInputs")
    layers = model.all("NeuralLayer")
    if not layers:
        raise model.refusal("there is no <NeuralLayer> in it")
    places: dict[str, Place] = {}
    for number, (parent, name, count) in enumerate(
        [(inputs, "NeuralInput", "numberOfInputs"), *((layer, "Neuron", "numberOfNeurons") for layer in layers)]
    ):
        elements = parent.all(name)
        if not elements:
            raise parent.refusal(f"there is no <{name}> in it")
        check_count(parent, count, len(elements))
        for i, element in enumerate(elements):
            identity = element.required("id")
            if identity in places:
                raise element.refusal(f"the id {identity!r} occurs twice")
            places[identity] = Place(number, i)
    stated = model.maybe_number("numberOfLayers")
    if stated is not None and stated not in (len(layers), len(layers) + 1):  # some count the inputs as a layer
        raise model.refusal(f"numberOfLayers says {stated:g}, and there are {len(layers)}")
    return places


def check_count(parent: Element, attribute: str, count: int) -> None:
    """Check that there are as many elements as an attribute says.

    Raises:
        ModelReadError: if not.
    """
    stated = parent.maybe_number(attribute)
    if stated is not None and stated != count:
        raise parent.refusal(
            f"{attribute} says {stated:g}, and there are {count}: the file is incomplete, or was edited"
        )


def layers_of(model: Element, places: Mapping[str, Place]) -> list[Layer]:
    """Return the layers of a network.

    Raises:
        ModelReadError: if something is missing, or makes no sense.
    """
    sizes = np.bincount([place.layer for place in places.values()])
    return [_layer(model, e, number, places, sizes) for number, e in enumerate(model.all("NeuralLayer"), 1)]


def _layer(model: Element, e: Element, number: int, places: Mapping[str, Place], sizes: Array) -> Layer:
    activation = _inherited(e, model, "activationFunction").choice("activationFunction", ACTIVATION_NAMES)
    normalization = _inherited(e, model, "normalizationMethod").choice("normalizationMethod", NORMALIZATIONS, "none")
    layer = Layer(e, activation, normalization)
    neurons = e.all("Neuron")
    for i, neuron in enumerate(neurons):
        if not neuron.all("Con"):
            raise neuron.refusal("no connection leads to the neuron")
        for connection in neuron.all("Con"):
            source = _source(connection, number, places)
            if source.layer not in layer.weights:
                shape = (len(neurons), int(sizes[source.layer]))
                layer.weights[source.layer] = Weights(np.zeros(shape), np.zeros(shape, bool))
            weights = layer.weights[source.layer]
            if weights.connected[i, source.number]:
                raise connection.refusal(f"the neuron has a second connection from {connection.get('from')!r}")
            weights.array[i, source.number] = connection.number("weight")
            weights.connected[i, source.number] = True
    layer.weights = dict(sorted(layer.weights.items()))
    layer.bias = np.array([neuron.maybe_number("bias") or 0.0 for neuron in neurons])
    if activation == "threshold":
        layer.threshold = _inherited(e, model, "threshold").number("threshold")
    if activation == "radialBasis":
        layer.widths = np.array([_positive("width", neuron, e, model) for neuron in neurons])
        layer.altitudes = np.array([_positive("altitude", neuron, e, model, 1.0) for neuron in neurons])
    return layer


def _source(connection: Element, layer: int, places: Mapping[str, Place]) -> Place:
    identity = connection.required("from")
    place = places.get(identity)
    if place is None:
        raise connection.refusal(f"it comes from {identity!r}, and there is no input and no neuron with that id")
    if place.layer >= layer:
        which = "the same" if place.layer == layer else "a later"
        raise connection.refusal(
            f"it comes from {identity!r} in {which} layer: the network is recurrent, and what it computes depends on "
            "earlier samples",
            "recurrent networks are not supported",
        )
    return place


def _inherited(e: Element, model: Element, attribute: str) -> Element:
    """Return the element that states an attribute of a layer: its own, or that of the network."""
    return e if e.get(attribute) is not None else model


def _positive(attribute: str, neuron: Element, layer: Element, model: Element, default: float | None = None) -> float:
    holder = neuron if neuron.get(attribute) is not None else _inherited(layer, model, attribute)
    value = default if default is not None and holder.get(attribute) is None else holder.number(attribute)
    if value <= 0:
        raise holder.refusal(f"the {attribute} of a neuron with radialBasis is {value:g}, and must be positive")
    return value


__all__ = [
    "ACTIVATIONS", "ACTIVATION_NAMES", "NORMALIZATIONS", "Layer", "Place", "Weights", "check_count", "layers_of",
    "places_of",
]  # fmt: skip
