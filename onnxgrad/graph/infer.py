"""Types of a node's outputs, with exact symbolic sizes.

ONNX's own inference (one node at a time) gives types, ranks and the sizes that it knows. Where it leaves a size open,
the formulas here give it in terms of the input's symbolic sizes; what remains open becomes a fresh name. Elements of
small integer tensors (results of `Shape` and arithmetic on them) are followed symbolically, since they decide the
shapes of `Reshape`, `Expand`, `Slice` and others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.graph import attention, foreign
from onnxgrad.graph.content import FOLLOWED
from onnxgrad.graph.dims import Dim
from onnxgrad.graph.node import attribute_defaults
from onnxgrad.graph.operands import Attrs, Inputs, Type
from onnxgrad.graph.sizes import SHAPES
from onnxgrad.graph.tensor import Tensor

#: Operators without inference of their own, and with bodies that do not suit all types: the output is like input 0.
_LIKE_FIRST_INPUT = {"GroupNormalization", "MeanVarianceNormalization"}

#: Operators of which ONNX's inference states sizes that need not be right: those of an `Einsum` whose operands are
#: broadcast, those of a `Resize` that depend on rounding, those of a `DFT` of a length that is not known before run
#: time, and those of an `STFT` that leaves `onesided` to its default.
_BETTER_KNOWN = {"DFT", "Einsum", "Resize", "STFT"}


class InferenceError(Exception):
    """ONNX's inference refused the node; the message is its own."""


def infer_types(
    node: ir.Node,
    inputs: Inputs,
    attrs: Attrs,
    opset: int,
    outer: Mapping[str, Tensor] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> list[Type | None]:
    """Return the type of each output of a node; None for what is no tensor.

    Args:
        node: the node.
        inputs: its inputs.
        attrs: its attributes as Python values.
        opset: version of the node's domain.
        outer: by name, the values around that subgraphs in its attributes may capture.
        functions: functions of the model, which the node may call.

    Raises:
        InferenceError: if the inputs do not fit the operator, or nothing is known of it.
    """
    if node.domain == "" and node.op_type in _LIKE_FIRST_INPUT and inputs[0] is not None:
        return [(inputs[0].dtype, inputs[0].shape)]
    called = any((f.domain, f.name) == (node.domain, node.op_type) for f in functions)
    own = None if called else _OWN.get(f"{node.domain}::{node.op_type}")
    if own is not None:
        found_own = [*own(attrs, inputs), *[None] * len(node.outputs)]
        return [t if value.name else None for t, value in zip(found_own, node.outputs, strict=False)]
    try:
        schema = None if called else onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError as error:
        raise InferenceError(str(error)) from None
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name="n")
    types: dict[str, onnx.TypeProto] = {name: _type_proto(t) for name, t in (outer or {}).items()}
    data: dict[str, onnx.TensorProto] = {}
    for i, tensor in enumerate(inputs):
        name = "" if tensor is None else f"i{i}"
        proto.input.append(name)
        if tensor is not None:
            types[name] = _type_proto(tensor)
            values = _known_values(tensor)
            if node.op_type == "Range":  # lists of one number are taken, too; but inference takes none of them
                values = None if values is None else values.reshape(())
                types[name].tensor_type.shape.ClearField("dim")
            if values is not None:
                data[name] = onnx.numpy_helper.from_array(values)
    proto.output.extend(f"o{i}" if value.name else "" for i, value in enumerate(node.outputs))
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values() if not a.is_ref())
    try:
        found: Mapping[str, onnx.TypeProto] = {}
        if schema is not None:
            found = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, data, opset_imports=[onnx.helper.make_opsetid(node.domain, opset)]
            )
        if schema is None or ("o0" not in found and (_has_body(schema))):
            found = _infer_through_body(proto, types, data, opset, functions)
    except Exception as error:
        raise InferenceError(str(error).strip()) from None
    result = [_type(found.get(f"o{i}")) for i in range(len(node.outputs))]
    formula = SHAPES.get(node.op_type) if node.domain == "" else None
    if formula is None:
        return result
    for i, found_type in enumerate(result if node.op_type in ("Split", "MaxPool") else result[:1]):
        if found_type is None:
            continue
        dtype, shape = found_type
        if node.op_type in _BETTER_KNOWN:
            shape = None
        if shape is None or None in shape:
            exact = formula({**attribute_defaults("", node.op_type, opset), **attrs}, inputs, shape)
            if exact is not None:
                result[i] = dtype, tuple(e if s is None else s for e, s in zip(exact, shape or exact, strict=True))
    return result


def _infer_through_body(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    data: Mapping[str, onnx.TensorProto],
    opset: int,
    functions: Sequence[onnx.FunctionProto],
) -> Mapping[str, onnx.TypeProto]:
    """Types of an operator that is defined by others and has no inference of its own: ONNX expands only whole
    models.
    """
    inputs = [onnx.helper.make_value_info(name, types[name]) for name in node.input if name]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    constants = []
    for name, tensor in data.items():
        constants.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
        constants[-1].name = name
    imports = {node.domain: opset, **{i.domain: i.version for f in functions for i in f.opset_import}}
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", inputs, outputs, constants),
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()],
        functions=functions,
    )
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return {value.name: value.type for value in inferred.graph.output}


def _has_body(schema: Any) -> bool:
    return bool(schema.has_function or schema.has_context_dependent_function)


def _type_proto(tensor: Tensor) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    proto.tensor_type.elem_type = tensor.dtype.value
    shape = proto.tensor_type.shape
    shape.SetInParent()
    for dim in tensor.shape:
        if isinstance(dim, int):
            shape.dim.add().dim_value = dim
        else:
            shape.dim.add().dim_param = dim
    return proto


def _type(proto: onnx.TypeProto | None) -> Type | None:
    if proto is None or proto.WhichOneof("value") != "tensor_type" or not proto.tensor_type.elem_type:
        return None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return ir.DataType(tensor.elem_type), None
    dims: list[Dim | None] = []
    for dim in tensor.shape.dim:
        kind = dim.WhichOneof("value")
        dims.append(None if kind is None else dim.dim_value if kind == "dim_value" else dim.dim_param)
    return ir.DataType(tensor.elem_type), tuple(dims)


def _known_values(tensor: Tensor) -> np.ndarray | None:
    """Values that ONNX's inference may look at."""
    if tensor.ints is not None and tensor.dtype in FOLLOWED and all(isinstance(d, int) for d in tensor.shape):
        return np.array(tensor.ints, dtype=tensor.dtype.numpy()).reshape(tensor.shape)  # type: ignore[arg-type]
    const = tensor.const
    return const if const is not None and const.ndim <= 1 and const.size <= 64 else None


def _fused_window(attrs: Attrs, inputs: Inputs) -> list[Type | None]:
    """A convolution with more inputs than its own."""
    x, weight = inputs[0], inputs[1]
    return [None if x is None else (x.dtype, SHAPES["Conv"](attrs, (x, weight), None))]


_OWN: dict[str, foreign.Formula] = {**foreign.TYPES, **attention.TYPES, "com.microsoft::FusedConv": _fused_window}
