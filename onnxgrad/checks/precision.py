"""A model in float64: the same graph with more digits, in which differences can be taken with small steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.model.tensors import graphs_of

#: Element types that become float64. Float8 and the like are left: they are there to be rounded to.
NARROW = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_DOUBLE = ir.DataType.DOUBLE

#: Attributes that hold an element type, and whether the operator takes float32 if they are absent.
_TYPE_ATTRIBUTES = {
    ("Cast", "to"): False,
    ("EyeLike", "dtype"): False,
    ("RandomNormal", "dtype"): True,
    ("RandomUniform", "dtype"): True,
    ("RandomNormalLike", "dtype"): False,
    ("RandomUniformLike", "dtype"): False,
    ("Bernoulli", "dtype"): False,
    ("SequenceEmpty", "dtype"): True,
    ("HannWindow", "output_datatype"): True,
    ("HammingWindow", "output_datatype"): True,
    ("BlackmanWindow", "output_datatype"): True,
    ("MelWeightMatrix", "output_datatype"): True,
    ("RMSNormalization", "stash_type"): True,
    ("GroupNormalization", "stash_type"): True,
    ("Attention", "softmax_precision"): False,
    ("QuantizeLinear", "precision"): False,
}

#: Operators whose float64 form no runtime has, although their schema allows it.
_WITHOUT_KERNEL = {"MeanVarianceNormalization"}


class CannotWidenError(Exception):
    """The model has a part that looks at the bits of its numbers, or otherwise has no form in float64."""


def to_float64(model: ir.Model) -> bool:
    """Turn all narrower floating-point numbers of a model, in place, into float64.

    Where an operator has no float64 form at all, it computes in float32 between two casts. Differences then show noise
    of that size, which they measure themselves.

    Args:
        model: a model in the working form of `onnxgrad.model.normalize`.

    Returns:
        Whether all of it is: False if some operator computes in float32.

    Raises:
        CannotWidenError: if there is no such form.
    """
    floats = _float_values(model)
    for graph in graphs_of(model):
        for node in graph:
            if node.op_type == "BitCast" and node.domain == "":
                raise CannotWidenError(f"node {node.name!r} (BitCast) looks at the bits of its numbers")
            _widen_attributes(node, model.graph.opset_imports[""])
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in NARROW:
                value.const_value = _wide(value.const_value)
        for value in _values(graph):
            value.type = _wide_type(value.type)
            declared = value.meta.get("declared")
            if declared is not None:
                value.meta["declared"] = declared._replace(type=_wide_type(declared.type))
    wrapped = [_wrap(model, node, floats) for graph in graphs_of(model) for node in list(graph)]
    return not any(wrapped)


def _values(graph: ir.Graph) -> Sequence[ir.Value]:
    results = [value for node in graph for value in node.outputs]
    return list(dict.fromkeys((*graph.inputs, *graph.initializers.values(), *results, *graph.outputs)))


def _float_values(model: ir.Model) -> set[ir.Value]:
    """Return the values that are known to be narrow floating-point tensors."""
    builder = Builder(model)
    found = set()
    for graph in graphs_of(model):
        for value in _values(graph):
            tensor = builder.tensor(value)
            dtype = tensor.dtype if tensor is not None else value.dtype
            if dtype in NARROW:
                found.add(value)
    return found


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float64), dtype=_DOUBLE, name=tensor.name)


def _wide_type(type_: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    if isinstance(type_, (ir.SequenceType, ir.OptionalType)):
        inner = _wide_type(type_.elem_type)
        return type_ if inner is None else type(type_)(inner)
    if isinstance(type_, (ir.TensorType, ir.SparseTensorType)) and type_.dtype in NARROW:
        return type(type_)(_DOUBLE)
    return type_


def _widen_attributes(node: ir.Node, opset: int) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref() or attribute.value is None:
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in NARROW:
            node.attributes.add(ir.AttrTensor(name, _wide(attribute.as_tensor())))
        elif attribute.type == ir.AttributeType.TYPE_PROTO:
            held = attribute.value
            wide = _wide_type(held.type)
            assert wide is not None
            node.attributes.add(ir.AttrTypeProto(name, ir.TypeAndShape(wide, held.shape)))
    if node.domain != "":
        return
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        node.attributes.add(ir.AttrTensor("value", ir.tensor(np.zeros(1))))
    for (operator, name), default in _TYPE_ATTRIBUTES.items():
        if operator == node.op_type:
            given = node.attributes.get(name)
            narrow = default if given is None else ir.DataType(given.as_int()) in NARROW
            if narrow and (given is not None or _has_attribute(opset, node, name)):
                node.attributes.add(ir.AttrInt64(name, int(_DOUBLE)))
    if node.op_type == "Constant":
        for name in ("value_float", "value_floats"):
            if name in node.attributes:
                value = np.array(node.attributes.pop(name).value, np.float64)
                node.attributes.add(ir.AttrTensor("value", ir.tensor(value)))


def _has_attribute(opset: int, node: ir.Node, name: str) -> bool:
    return name in onnx.defs.get_schema(node.op_type, opset, "").attributes


def _wrap(model: ir.Model, node: ir.Node, floats: set[ir.Value]) -> bool:
    """Put casts to float32 before, and to float64 behind, an operator for the tensors that cannot be float64."""
    before, behind = _narrow_places(model, node, floats)
    for index in before:
        cast = ir.node("Cast", [node.inputs[index]], {"to": int(ir.DataType.FLOAT)})
        cast.outputs[0].name = f"{node.name}/narrow_{index}"
        node.prepend(cast)
        node.replace_input_with(index, cast.outputs[0])
    for index in behind:
        value = node.outputs[index]
        wide = ir.Value(name=value.name, type=value.type, shape=value.shape)
        wide.meta.update(value.meta)
        value.name = f"{value.name}/narrow"
        value.type = None if value.type is None else ir.TensorType(ir.DataType.FLOAT)
        value.meta.pop("declared", None)
        ir.convenience.replace_all_uses_with(value, wide, replace_graph_outputs=True)
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(_DOUBLE))], outputs=[wide])
        node.append(cast)
    return bool(behind)  # what goes in is not among the numbers that matter: scales, boxes


def _narrow_places(model: ir.Model, node: ir.Node, floats: set[ir.Value]) -> tuple[list[int], list[int]]:
    """Return the inputs and outputs of a node that are numbers and cannot be float64."""
    version = model.graph.opset_imports.get(node.domain, 1)
    if node.op_identifier() in model.functions:
        return [], []
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:  # a custom operator: it is taken to have float32 kernels only
        return (
            [i for i, value in enumerate(node.inputs) if value in floats],
            [i for i, value in enumerate(node.outputs) if value.name and (value in floats or value.type is None)],
        )
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}

    def narrow(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int, value: ir.Value | None) -> bool:
        if value is None or not value.name or not parameters:
            return False
        parameter = parameters[min(index, len(parameters) - 1)]
        types = allowed.get(parameter.type_str, {parameter.type_str})
        if node.op_type in _WITHOUT_KERNEL:
            return value in floats
        if "tensor(double)" in types or "tensor(float)" not in types:
            return False
        return value in floats or all("float" in t for t in types)

    inputs = [i for i, value in enumerate(node.inputs) if narrow(schema.inputs, i, value)]
    outputs = [i for i, value in enumerate(node.outputs) if narrow(schema.outputs, i, value)]
    return inputs, outputs


__all__ = ["NARROW", "CannotWidenError", "to_float64"]
