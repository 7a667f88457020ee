"""A file becomes a model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.errors import ModelReadError
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.pmml import document
from onnxgrad.importers.pmml.arithmetic import Arithmetic
from onnxgrad.importers.pmml.document import EXPORT, Element
from onnxgrad.importers.pmml.expressions import Expressions
from onnxgrad.importers.pmml.fields import Fields
from onnxgrad.importers.pmml.network import layers_of, places_of
from onnxgrad.importers.pmml.outputs import outputs_of
from onnxgrad.model.write import to_proto

#: Opset 19 is the first in which texts can be compared.
_OPSET, _IR_VERSION = 19, 10

_NAMESPACE = re.compile(r"http://www\.dmg\.org/PMML-(\d)_\d(_\d)?")
_VERSIONS = "3", "4"

#: How the builder calls constants.
_CONSTANT = "onnxgrad/"

#: Key of the metadata in which the categories of an output stand.
CATEGORIES = "categories:"

_NO_MODELS = {
    "MiningBuildTask", "DataDictionary", "TransformationDictionary", "Header", "Extension",
}  # fmt: skip
_FUNCTIONS = ("regression", "classification", "mixed")


def read(path: Path, name: str | None, dtype: np.dtype[Any]) -> onnx.ModelProto:
    """Return the network of a file as a model.

    Args:
        path: the file.
        name: the modelName of the network that is meant; None: the only model.
        dtype: float64 or float32.

    Raises:
        ModelReadError: if there is none, or it has something that is not supported.
    """
    root = document.read(path)
    _check_root(root)
    try:
        with np.errstate(over="raise"):
            return _Network(root, _chosen(root, name)).to_model(dtype)
    except RecursionError as error:
        raise ModelReadError(
            f"{str(path)!r}: derived fields are computed from each other in too long a chain; write them as one"
        ) from error
    except FloatingPointError as error:
        raise ModelReadError(
            f"{str(path)!r} has numbers beyond the range of {dtype.name}, or quotients that are; import it in float64"
        ) from error


def _check_root(root: Element) -> None:
    if root.name != "PMML":
        raise root.refusal(
            f"this is no PMML file: its root is <{root.name}>", "give a PMML file, as programs export it"
        )
    found = _NAMESPACE.fullmatch(root.required("xmlns"))
    if root.required("xmlns") and found is None:
        raise root.refusal(f"the namespace {root.get('xmlns')!r} is not that of a version of PMML")
    version = root.get("version") or (found[1] if found else "")
    if not version.startswith(_VERSIONS):
        stated = f"it is of version {version}" if version else "its version is not stated"
        raise root.refusal(f"versions 3 and 4 of PMML are supported, and {stated}", f"{EXPORT}, in version 4.4")


def _chosen(root: Element, name: str | None) -> Element:
    """Return the network that is meant."""
    models = [element for element in root.children if element.name not in _NO_MODELS]
    if not models:
        raise root.refusal("there is no model in it")
    called = [model for model in models if model.get("modelName") == name] if name is not None else models
    listed = ", ".join(f"{model.get('modelName')!r} (<{model.name}>)" for model in models)
    if not called:
        raise root.refusal(f"there is no model with the modelName {name!r}", f"there is {listed}")
    if len(called) > 1:
        names = [model.get("modelName") for model in called]
        chooses = name is None and None not in names and len(set(names)) == len(names)
        remedy = (
            f"variable={names[0]!r} (on the command line --variable {names[0]})" if chooses else "remove the others"
        )
        raise called[1].refusal(f"there are several models: {listed}", f"choose one: {remedy}" if chooses else remedy)
    (model,) = called
    if model.name != "NeuralNetwork":
        raise model.refusal(
            f"the model is a <{model.name}>, and only <NeuralNetwork> is supported",
            "export a neural network that stands by itself",
        )
    if model.get("isScorable") == "false":
        raise model.refusal("isScorable='false' says that the model is incomplete, and computes nothing")
    if model.choice("functionName", (*_FUNCTIONS, "clustering")) == "clustering":
        raise model.refusal("functionName='clustering' is not supported", f"supported are {', '.join(_FUNCTIONS)}")
    return model


class _Network:
    """A network of a file.

    Args:
        root: the root of the file.
        model: its element.
    """

    def __init__(self, root: Element, model: Element) -> None:
        self.fields = Fields(root, model)
        dictionary, local = root.maybe("TransformationDictionary"), model.maybe("LocalTransformations")
        self.derived: dict[str, Element] = {}
        self.functions: dict[str, Element] = {}
        if dictionary is not None:
            self.derived |= dictionary.by_name("DerivedField")
            self.functions |= dictionary.by_name("DefineFunction")
        if local is not None:
            self.derived |= local.by_name("DerivedField")
        self.inputs = model.one("NeuralInputs").all("NeuralInput")
        places = places_of(model)
        self.layers = layers_of(model, places)
        self.outputs = outputs_of(model, self.fields, self.derived, places)
        self.name = model.get("modelName") or "network"
        self.texts = {
            name: list(dict.fromkeys(field.known_texts()))
            for name, field in self.fields.active.items()
            if field.kind == "text"
        }

    def to_model(self, dtype: np.dtype[Any]) -> onnx.ModelProto:
        """Return the model."""
        while True:
            op, initializers = self._builder(dtype)
            for output in self.outputs:
                op.unique_name(output.field)  # no other value gets it
            a = Arithmetic(op, ir.DataType.from_numpy(dtype))
            known = {name: initializers[f"texts of {name}"] for name in self.texts}
            expressions = Expressions(a, self.fields, self.derived, self.functions, self.texts, known)
            numbers = [self._input(expressions, element) for element in self.inputs]
            if expressions.is_complete:  # else there are texts in expressions that were not known
                break
        values = [op.Concat(*numbers, axis=1) if len(numbers) > 1 else numbers[0]]
        for i, layer in enumerate(self.layers, 1):
            weights = {k: initializers[_weight(i, k)] for k in layer.weights}
            with op.named_after(f"layer{i}"):
                values.append(layer.compute(a, values, weights, initializers[f"b{i}"]))
            values[-1].value.name = op.unique_name(f"layer{i}")
        self._finish(a, values)
        return to_proto(op.model)

    def _input(self, expressions: Expressions, element: Element) -> Tensor:
        field = element.one("DerivedField")
        return expressions.a.column(expressions.number(expressions.content(field), field))

    def _builder(self, dtype: np.dtype[Any]) -> tuple[Builder, Mapping[str, Tensor]]:
        """Return a model that has nothing but weights, and these by what they are."""
        arrays: dict[str, Any] = {}
        for i, layer in enumerate(self.layers, 1):
            arrays |= {_weight(i, k): weights.array.astype(dtype) for k, weights in layer.weights.items()}
            arrays[f"b{i}"] = layer.bias.astype(dtype)
        arrays |= {f"texts of {name}": np.array([texts], dtype=object) for name, texts in self.texts.items()}
        taken = {*self.fields.active, *(output.field for output in self.outputs), *self.derived}
        names = {what: _free(what, taken) for what in arrays}
        values = {what: _initializer(names[what], array) for what, array in arrays.items()}
        graph = ir.Graph(
            [], [], nodes=[], initializers=list(values.values()), name=self.name, opset_imports={"": _OPSET}
        )
        op = Builder(ir.Model(graph, ir_version=_IR_VERSION, producer_name="onnxgrad"))
        tensors = {what: op.tensor(value) for what, value in values.items()}
        return op, {what: tensor for what, tensor in tensors.items() if tensor is not None}

    def _finish(self, a: Arithmetic, values: list[Tensor]) -> None:
        graph = a.op.model.graph
        for output in self.outputs:
            with a.op.named_after(output.field):
                value = a.op.named_identity(output.compute(a, values))
            value.name = output.field
            if output.categories:
                value.doc_string = f"one column for each category: {', '.join(output.categories)}"
                a.op.model.metadata_props[CATEGORIES + output.field] = json.dumps(output.categories)
            graph.outputs.append(value)
        a.op.finish(graph.outputs)
        for name, value in list(graph.initializers.items()):
            if not value.uses():
                del graph.initializers[name]
            elif name.startswith(_CONSTANT):
                value.name = a.op.unique_name("constant")


def _weight(layer: int, earlier: int) -> str:
    return f"W{layer}_{earlier}"


def _free(name: str, taken: set[str]) -> str:
    """Return a name that is not taken; from now on it is."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def _initializer(name: str, array: Any) -> ir.Value:
    if array.dtype == object:
        tensor: ir.TensorProtocol = ir.StringTensor([t.encode() for t in array.flat], shape=ir.Shape(array.shape))
    else:
        tensor = ir.tensor(array)
    return ir.Value(name=name, const_value=tensor)


__all__ = ["CATEGORIES", "read"]
