"""The outputs of a network: which neurons they are, how they are scaled back, and what the targets make of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.pmml.arithmetic import Arithmetic
from onnxgrad.importers.pmml.document import Element
from onnxgrad.importers.pmml.expressions import points_of, the_expression
from onnxgrad.importers.pmml.fields import OUTLIERS, Fields
from onnxgrad.importers.pmml.network import Place, check_count


@dataclass(frozen=True)
class Neuron:
    """An output neuron.

    Attributes:
        place: where it is.
        expression: what its value is of the target: FieldRef, NormContinuous, or NormDiscrete.
    """

    place: Place
    expression: Element

    @property
    def is_category(self) -> bool:
        """Whether it stands for a category of the target."""
        return self.expression.name == "NormDiscrete"


@dataclass(frozen=True)
class Output:
    """An output of the model: all that the network says of one target.

    Attributes:
        field: name of the target.
        neurons: a single one, or one for each category.
        target: what is done with the value in the end, if anything.
    """

    field: str
    neurons: Sequence[Neuron]
    target: Element | None

    @property
    def categories(self) -> list[str]:
        """The categories that the columns are for; none of a continuous target."""
        return [neuron.expression.required("value") for neuron in self.neurons if neuron.is_category]

    def compute(self, a: Arithmetic, outputs: Sequence[Tensor]) -> Tensor:
        """Return the output: (N, categories), or (N, 1).

        Args:
            a: what the network is computed with.
            outputs: those of the inputs and of all layers.
        """
        if self.categories:
            return self._prior(a, _columns(a, outputs, [neuron.place for neuron in self.neurons]))
        (neuron,) = self.neurons
        return self._target(a, _scaled_back(a, _columns(a, outputs, [neuron.place]), neuron.expression))

    def _prior(self, a: Arithmetic, y: Tensor) -> Tensor:
        """Return the prior probabilities where there is no result."""
        stated = {} if self.target is None else {v.get("value"): v for v in self.target.all("TargetValue")}
        chosen = [stated[category] for category in self.categories if category in stated]
        if len(chosen) < len(self.categories) or any(v.get("priorProbability") is None for v in chosen):
            return y
        priors = a.constant([[value.number("priorProbability") for value in chosen]])
        return a.op.Where(a.is_missing(y), priors, y)

    def _target(self, a: Arithmetic, y: Tensor) -> Tensor:
        """Bound, then rescale, then round; a missing result is replaced in the end."""
        target = self.target
        if target is None:
            return y
        low, high = target.maybe_number("min"), target.maybe_number("max")
        if low is not None and high is not None and low > high:
            raise target.refusal("min is above max")
        y = a.clip(y, low, high)
        factor, constant = target.maybe_number("rescaleFactor"), target.maybe_number("rescaleConstant")
        y = y if factor in (None, 1.0) else a.of([y], y * factor)
        y = y if constant in (None, 0.0) else y + constant
        match target.choice("castInteger", ("round", "ceiling", "floor", ""), ""):
            case "round":
                y = a.op.Floor(y + 0.5)
            case "ceiling":
                y = a.op.Ceil(y)
            case "floor":
                y = a.op.Floor(y)
        default = target.maybe("TargetValue")
        return y if default is None else a.fill(y, None, default.maybe_number("defaultValue"))


def _columns(a: Arithmetic, outputs: Sequence[Tensor], places: Sequence[Place]) -> Tensor:
    """Return the activations of some neurons, as columns."""
    (layer, *others) = {place.layer for place in places}
    numbers = [place.number for place in places]
    if others:
        return a.op.Concat(*(_columns(a, outputs, [place]) for place in places), axis=1)
    y = outputs[layer]
    return y if numbers == list(range(int(y.shape[1]))) else a.op.Gather(y, numbers, axis=1)


def _scaled_back(a: Arithmetic, y: Tensor, e: Element) -> Tensor:
    """Return the inverse of a normalization."""
    if e.name == "FieldRef":
        return y
    points = [(norm, orig) for orig, norm in points_of(e)]
    points = points if points[0] < points[-1] else points[::-1]
    for before, after in itertools.pairwise(points):
        if not before[0] < after[0]:
            raise e.refusal(
                "the normalization of the output cannot be inverted, since norm does not always rise or fall"
            )
    return a.piecewise(y, points, e.choice("outliers", OUTLIERS, "asIs"))


def outputs_of(
    model: Element, fields: Fields, derived: Mapping[str, Element], places: Mapping[str, Place]
) -> list[Output]:
    """Return the outputs of a network.

    Raises:
        ModelReadError: if there are none, or they are not fields that are predicted.
    """
    parent = model.maybe("NeuralOutputs")
    if parent is None or not parent.all("NeuralOutput"):
        raise (parent or model).refusal("there is no <NeuralOutput>, so it is not said which neurons are outputs")
    check_count(parent, "numberOfOutputs", len(parent.all("NeuralOutput")))
    neurons: dict[str, list[Neuron]] = {}
    for element in parent.all("NeuralOutput"):
        neuron = _neuron(element, derived, places)
        neurons.setdefault(neuron.expression.required("field"), []).append(neuron)
    targets = _targets(model, fields)
    if None in targets and len(neurons) > 1:
        raise targets[None].refusal(f"it does not say for which field it is: {', '.join(map(repr, neurons))}")
    for name, found in neurons.items():
        _check(name, found, model, fields)
    return [Output(name, found, targets.get(name, targets.get(None))) for name, found in neurons.items()]


def _neuron(element: Element, derived: Mapping[str, Element], places: Mapping[str, Place]) -> Neuron:
    identity = element.required("outputNeuron")
    if identity not in places:
        raise element.refusal(f"there is no neuron with the id {identity!r}")
    expression = the_expression(element.one("DerivedField"))
    seen: list[str] = []
    while expression.name == "FieldRef" and expression.required("field") in derived:
        name = expression.required("field")
        if name in seen:
            raise element.refusal(f"{name!r} is computed from itself")
        seen.append(name)
        expression = the_expression(derived[name])
    if expression.name not in ("FieldRef", "NormContinuous", "NormDiscrete"):
        raise expression.refusal(
            f"the output is a <{expression.name}> of the target, of which the inverse is not known",
            "let it be a FieldRef, a NormContinuous, or a NormDiscrete",
        )
    return Neuron(places[identity], expression)


def _check(name: str, neurons: Sequence[Neuron], model: Element, fields: Fields) -> None:
    """Check that all that is said of one target makes sense together."""
    first = neurons[0].expression
    if name not in fields.data:
        raise first.refusal(f"the target {name!r} is no field of the <DataDictionary>")
    if name in fields.active:
        raise first.refusal(f"{name!r} is an output and an active field, which is an input")
    categories = [neuron for neuron in neurons if neuron.is_category]
    if categories and len(categories) < len(neurons):
        raise first.refusal(f"{name!r} is both a number and one of several categories")
    if not categories and len(neurons) > 1:
        raise neurons[1].expression.refusal(f"there are several values for the target {name!r}")
    if not categories and fields.data[name].get("optype") == "categorical":
        raise first.refusal(
            f"the target {name!r} is categorical, so there must be a NormDiscrete for each of its categories"
        )
    values = [neuron.expression.required("value") for neuron in categories]
    if len(set(values)) < len(values):
        raise first.refusal(f"there are several neurons for one category of {name!r}")
    if categories and model.get("functionName") == "regression":
        raise first.refusal("the model is a regression, and its output is one of several categories")


def _targets(model: Element, fields: Fields) -> dict[str | None, Element]:
    """Return what is done with each target; a Target without a field is that of the only one."""
    parent = model.maybe("Targets")
    targets: dict[str | None, Element] = {}
    for element in [] if parent is None else parent.all("Target"):
        name = element.get("field")
        if name in targets:
            raise element.refusal(f"there are several <Target> for {name!r}")
        if name is not None and name not in fields.data:
            raise element.refusal(f"the target {name!r} is no field of the <DataDictionary>")
        targets[name] = element
    return targets


__all__ = ["Neuron", "Output", "outputs_of"]
