"""Types of a node's outputs, with exact symbolic sizes.

ONNX's own inference (one node at a time) gives types, ranks and the sizes that it knows. Where it leaves a size open,
the formulas here give it in terms of the input's symbolic sizes; what remains open becomes a fresh name. Elements of
small integer tensors (results of `Shape` and arithmetic on them) are followed symbolically, since they decide the
shapes of `Reshape`, `Expand`, `Slice` and others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.graph import foreign
from onnxgrad.graph.dims import Dim, Shape, broadcast, dim_add, dim_div, dim_floordiv, dim_mul, dim_sub, size_of
from onnxgrad.graph.equation import sizes_of, terms_of
from onnxgrad.graph.tensor import SMALL, Tensor

#: Element type and shape of a tensor; a shape may hold None for a size that is not known.
Type = tuple[ir.DataType, tuple[Dim | None, ...] | None]

Attrs = Mapping[str, Any]
Inputs = Sequence[Tensor | None]


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
        return [*own(attrs, inputs), *[None] * len(node.outputs)][: len(node.outputs)]
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
            exact = formula(attrs, inputs, shape)
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


def infer_content(node: ir.Node, inputs: Inputs, attrs: Attrs, output: Type | None) -> tuple[Dim, ...] | None:
    """Return the elements of a node's small integer output where they follow from what is known of its inputs."""
    follow = CONTENTS.get(node.op_type) if node.domain == "" else None
    if follow is None or output is None or output[0] not in _FOLLOWED or not inputs or inputs[0] is None:
        return None
    if node.op_type == "Cast" and output[0] == ir.DataType.BOOL:
        return None
    return follow(attrs, inputs)


_FOLLOWED = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


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
    if tensor.ints is not None and tensor.dtype in _FOLLOWED and all(isinstance(d, int) for d in tensor.shape):
        return np.array(tensor.ints, dtype=tensor.dtype.numpy()).reshape(tensor.shape)  # type: ignore[arg-type]
    const = tensor.const
    return const if const is not None and const.ndim <= 1 and const.size <= 64 else None


# --- sizes that ONNX's inference leaves open ---------------------------------------------------

ShapeFormula = Callable[[Attrs, Inputs, tuple[Dim | None, ...] | None], "tuple[Dim | None, ...] | None"]


def _shape(inputs: Inputs, index: int = 0) -> Shape:
    tensor = inputs[index]
    assert tensor is not None
    return tensor.shape


def _elements(inputs: Inputs, index: int) -> tuple[Dim, ...] | None:
    tensor = inputs[index] if index < len(inputs) else None
    return None if tensor is None else tensor.content


def _optional(inputs: Inputs, index: int, default: Sequence[int]) -> tuple[Dim, ...] | None:
    """Elements of an optional input: `default` where it is absent, None where they are not known."""
    absent = index >= len(inputs) or inputs[index] is None
    return tuple(default) if absent else _elements(inputs, index)


def _window(attrs: Attrs, inputs: Inputs, _: object) -> tuple[Dim | None, ...] | None:
    """Convolution and pooling: ``floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1``."""
    x = _shape(inputs)
    spatial = len(x) - 2
    weight = _shape(inputs, 1) if len(inputs) > 1 and inputs[1] is not None else None
    kernel = attrs.get("kernel_shape") or (weight[2:] if weight else None)
    channels = weight[0] if weight else x[1]
    if kernel is None:
        return None
    strides = attrs.get("strides") or [1] * spatial
    dilations = attrs.get("dilations") or [1] * spatial
    auto_pad = attrs.get("auto_pad", "NOTSET")
    pads = attrs.get("pads") or [0] * (2 * spatial)
    dims: list[Dim | None] = []
    for i, size in enumerate(x[2:]):
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            dims.append(dim_floordiv(dim_add(size, strides[i] - 1), strides[i]))
        elif attrs.get("ceil_mode", 0) and strides[i] != 1:
            dims.append(None)  # the last window may be dropped, depending on the size
        else:
            reach = dim_add(dim_mul(dilations[i], dim_sub(kernel[i], 1)), 1)
            padding = 0 if auto_pad == "VALID" else pads[i] + pads[i + spatial]
            dims.append(dim_add(dim_floordiv(dim_sub(dim_add(size, padding), reach), strides[i]), 1))
    return (x[0], channels, *dims)


def _transposed_window(attrs: Attrs, inputs: Inputs, found: tuple[Dim | None, ...] | None) -> Any:
    x, weight = _shape(inputs), _shape(inputs, 1)
    spatial = len(x) - 2
    if attrs.get("output_shape"):
        return (x[0], dim_mul(weight[1], attrs.get("group", 1)), *attrs["output_shape"][-spatial:])
    strides = attrs.get("strides") or [1] * spatial
    dilations = attrs.get("dilations") or [1] * spatial
    pads = attrs.get("pads") or [0] * (2 * spatial)
    extra = attrs.get("output_padding") or [0] * spatial
    kernel = attrs.get("kernel_shape") or weight[2:]
    same = attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    dims = []
    for i, size in enumerate(x[2:]):
        reach = dim_add(dim_mul(dilations[i], dim_sub(kernel[i], 1)), 1)
        full = dim_add(dim_mul(strides[i], dim_sub(size, 1)), extra[i], reach, -(pads[i] + pads[i + spatial]))
        cropped = dim_mul(size, strides[i])  # not padded where that would be more than there is
        beyond = dim_sub(full, cropped)
        dims.append(cropped if same and not (isinstance(beyond, int) and beyond < 0) else full)
    return (x[0], dim_mul(weight[1], attrs.get("group", 1)), *dims)


def _unpooled(attrs: Attrs, inputs: Inputs, _: object) -> tuple[Dim | None, ...] | None:
    x = _shape(inputs)
    spatial = len(x) - 2
    if len(inputs) > 2 and inputs[2] is not None:
        return _elements(inputs, 2) or (*x[:2], *[None] * spatial)
    strides = attrs.get("strides") or [1] * spatial
    pads = attrs.get("pads") or [0] * (2 * spatial)
    dims = [
        dim_add(dim_mul(strides[i], dim_sub(size, 1)), attrs["kernel_shape"][i], -(pads[i] + pads[i + spatial]))
        for i, size in enumerate(x[2:])
    ]
    return (*x[:2], *dims)


def _reshape(attrs: Attrs, inputs: Inputs, _: object) -> tuple[Dim | None, ...] | None:
    x, target = _shape(inputs), _elements(inputs, 1)
    if target is None:
        return None
    dims = [x[i] if d == 0 and not attrs.get("allowzero", 0) else d for i, d in enumerate(target)]
    if -1 not in dims:
        return tuple(dims)
    return tuple(dim_div(size_of(x), size_of(d for d in dims if d != -1)) if d == -1 else d for d in dims)


def _flatten(attrs: Attrs, inputs: Inputs, _: object) -> Shape:
    x = _shape(inputs)
    axis = attrs.get("axis", 1)
    axis += len(x) if axis < 0 else 0
    return size_of(x[:axis]), size_of(x[axis:])


def _axes(given: Sequence[int], rank: int) -> list[int]:
    return [a % rank for a in given]


def _slice(_: Attrs, inputs: Inputs, found: tuple[Dim | None, ...] | None) -> tuple[Dim | None, ...] | None:
    x, starts, ends = _shape(inputs), _elements(inputs, 1), _elements(inputs, 2)
    if starts is None or ends is None:
        return None
    axes = _optional(inputs, 3, range(len(starts)))
    steps = _optional(inputs, 4, [1] * len(starts))
    if axes is None or steps is None:
        return None
    dims = list(found or [None] * len(x)) if found else list[Dim | None](x)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        assert isinstance(axis, int)
        size = x[axis]
        if dims[axis] is None:
            dims[axis] = _sliced(size, start, end, step)
    return tuple(dims)


_FAR = 2**31 - 1


def _sliced(size: Dim, start: Dim, end: Dim, step: Dim) -> Dim | None:
    """Size of one sliced axis where no clamping is in question."""
    if step == -1:
        whole = start in (-1, dim_sub(size, 1)) or (isinstance(start, int) and start >= _FAR)
        return size if whole and isinstance(end, int) and end <= -_FAR else None
    if step != 1:
        return None
    to_end = end == size or (isinstance(end, int) and end >= _FAR)
    if isinstance(start, int) and start >= 0 and (to_end or (isinstance(end, int) and end < 0)):
        return dim_sub(dim_add(size, 0 if to_end else end), start)
    return end if start == 0 and isinstance(end, str) and dim_sub(size, end) == 0 else None


def _concat(attrs: Attrs, inputs: Inputs, found: tuple[Dim | None, ...] | None) -> tuple[Dim | None, ...]:
    shapes = [t.shape for t in inputs if t is not None]
    axis = attrs["axis"] % len(shapes[0])
    dims = list(found or shapes[0])
    for i, dim in enumerate(dims):
        if dim is None and i != axis:
            dims[i] = next((s[i] for s in shapes if isinstance(s[i], int)), shapes[0][i])
    dims[axis] = dim_add(*(s[axis] for s in shapes))
    return tuple(dims)


def _pad(_: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...] | None:
    x, pads = _shape(inputs), _elements(inputs, 1)
    axes = _optional(inputs, 3, range(len(x)))
    if axes is None:
        return (None,) * len(x)
    if pads is None:
        return tuple(None if i in _axes(axes, len(x)) else d for i, d in enumerate(x))  # type: ignore[arg-type]
    dims = list(x)
    for i, axis in enumerate(axes):
        assert isinstance(axis, int)
        dims[axis] = dim_add(dims[axis], pads[i], pads[i + len(axes)])
    return tuple(dims)


def _split(attrs: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...]:
    """Equal parts, where the number divides the size; else their sizes are not known before run time."""
    x, parts = _shape(inputs), attrs.get("num_outputs")
    part = [None if parts is None else dim_div(d, parts) for d in x]
    return tuple(part[i] if i == attrs.get("axis", 0) % len(x) else d for i, d in enumerate(x))


def _center_crop_pad(attrs: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...]:
    x, target = _shape(inputs), _elements(inputs, 1)
    dims = list[Dim | None](x)
    for i, axis in enumerate(_axes(attrs.get("axes", range(len(x))), len(x))):
        dims[axis] = None if target is None else target[i]
    return tuple(dims)


def _gather_nd(attrs: Attrs, inputs: Inputs, found: object) -> Shape | None:
    x, index, batch = _shape(inputs), _shape(inputs, 1), attrs.get("batch_dims", 0)
    depth = index[-1]
    return (*index[:-1], *x[batch + depth :]) if isinstance(depth, int) else None


def _rank_changed(sign: int) -> ShapeFormula:
    """`Squeeze` and `Unsqueeze` by axes that are not known before run time: their number decides the rank."""

    def formula(_: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...] | None:
        count = _shape(inputs, 1)[0] if len(inputs) > 1 else None
        return (None,) * (len(_shape(inputs)) + sign * count) if isinstance(count, int) else None

    return formula


def _tile(_: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...] | None:
    repeats = _elements(inputs, 1)
    return None if repeats is None else tuple(map(dim_mul, _shape(inputs), repeats))


def _expand(_: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...] | None:
    target = _elements(inputs, 1)
    return None if target is None else broadcast(_shape(inputs), target)


def _constant_of_shape(_: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...] | None:
    return _elements(inputs, 0)


def _resize(attrs: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...] | None:
    x = _shape(inputs)
    axes = _axes(attrs.get("axes") or range(len(x)), len(x))
    sizes = _elements(inputs, 3)
    scales = inputs[2].const if len(inputs) > 2 and inputs[2] is not None else None
    result: list[Dim | None] = list(x)
    if sizes is not None and len(sizes) == len(axes) and attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch":
        targets: Sequence[Dim | None] = sizes
    elif scales is not None and len(scales) == len(axes):
        targets = [_scaled(x[axis], float(scale)) for axis, scale in zip(axes, scales, strict=True)]
    else:
        return None
    for axis, size in zip(axes, targets, strict=True):
        result[axis] = size
    return tuple(result)


def _scaled(size: Dim, scale: float) -> Dim | None:
    """``floor(size * scale)``, or None where that depends on rounding (onnxruntime multiplies in float32)."""
    p, q = scale.as_integer_ratio()
    if isinstance(size, int):
        exact = size * p // q
        return exact if exact == int(np.float32(size) * np.float32(scale)) else None
    return dim_floordiv(dim_mul(size, p), q) if p < 4096 else None


def _blocks(attrs: Attrs, inputs: Inputs, found: object) -> Shape:
    n, c, h, w = _shape(inputs)
    b = attrs["blocksize"]
    return n, dim_floordiv(c, b * b), dim_mul(h, b), dim_mul(w, b)


def _unblocks(attrs: Attrs, inputs: Inputs, found: object) -> Shape:
    n, c, h, w = _shape(inputs)
    b = attrs["blocksize"]
    return n, dim_mul(c, b * b), dim_floordiv(h, b), dim_floordiv(w, b)


def _einsum(attrs: Attrs, inputs: Inputs, found: object) -> Shape:
    shapes = [_shape(inputs, i) for i in range(len(inputs))]
    terms, output = terms_of(attrs["equation"], [len(s) for s in shapes])
    sizes = sizes_of(terms, shapes)
    return tuple(sizes[letter] for letter in output)


def _reduced(attrs: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...] | None:
    """A reduction over axes that are not known before run time: its rank, if it follows from their number."""
    x, axes = _shape(inputs), inputs[1] if len(inputs) > 1 else None
    if axes is None:
        return None
    if attrs.get("keepdims", 1):
        return tuple(1 if d == 1 else None for d in x)
    count = axes.shape[0] if axes.rank else 1
    return (None,) * (len(x) - count) if isinstance(count, int) and count else None


def _broadcast(_: Attrs, inputs: Inputs, found: object) -> Shape:
    return broadcast(*(t.shape for t in inputs if t is not None))


def _matmul(_: Attrs, inputs: Inputs, found: object) -> Shape:
    a, b = _shape(inputs), _shape(inputs, 1)
    batch = broadcast(a[:-2], b[:-2])
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


#: Operators that act on each element alone, with ONNX's broadcasting among their inputs.
POINTWISE = frozenset(
    """Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu
    Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul
    Neg Not Or Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh
    ThresholdedRelu Where Xor""".split()
)

REDUCTIONS = """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare""".split()

#: Operators without inference of their own, and with bodies that do not suit all types: the output is like input 0.
_LIKE_FIRST_INPUT = {"GroupNormalization", "MeanVarianceNormalization"}

#: Operators of which ONNX's inference states sizes that need not be right: those of an `Einsum` whose operands are
#: broadcast, and those of a `Resize` that depend on rounding.
_BETTER_KNOWN = {"Einsum", "Resize"}

SHAPES: dict[str, ShapeFormula] = {
    **dict.fromkeys(POINTWISE, _broadcast),
    "MatMul": _matmul,
    "Einsum": _einsum,
    **dict.fromkeys(REDUCTIONS, _reduced),
    "PRelu": lambda attrs, inputs, found: _shape(inputs),
    "Conv": _window,
    "MaxPool": _window,
    "AveragePool": _window,
    "LpPool": _window,
    "ConvTranspose": _transposed_window,
    "MaxUnpool": _unpooled,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "Concat": _concat,
    "Pad": _pad,
    "Split": _split,
    "CenterCropPad": _center_crop_pad,
    "GatherND": _gather_nd,
    "Squeeze": _rank_changed(-1),
    "Unsqueeze": _rank_changed(1),
    "Tile": _tile,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Resize": _resize,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _unblocks,
}



def _fused_window(attrs: Attrs, inputs: Inputs) -> list[Type | None]:
    """A convolution with more inputs than its own."""
    x, weight = inputs[0], inputs[1]
    return [None if x is None else (x.dtype, _window(attrs, (x, weight), None))]


_OWN: dict[str, foreign.Formula] = {**foreign.TYPES, "com.microsoft::FusedConv": _fused_window}


# --- elements of small integer tensors -----------------------------------------------------------

Content = tuple[Dim, ...] | None
ContentFormula = Callable[[Attrs, Inputs], Content]


def _shape_elements(attrs: Attrs, inputs: Inputs) -> Content:
    return _shape(inputs)[attrs.get("start", 0) : attrs.get("end")]


def _same_elements(_: Attrs, inputs: Inputs) -> Content:
    return _elements(inputs, 0)


def _gathered(attrs: Attrs, inputs: Inputs) -> Content:
    elements, index = _elements(inputs, 0), _elements(inputs, 1)
    if elements is None or index is None or len(_shape(inputs)) != 1:
        return None
    return tuple(elements[i] for i in index if isinstance(i, int))


def _sliced_elements(_: Attrs, inputs: Inputs) -> Content:
    elements = _elements(inputs, 0)
    bounds = [_elements(inputs, i) for i in (1, 2)]
    step = _optional(inputs, 4, [1])
    if elements is None or None in bounds or step is None or len(_shape(inputs)) != 1:
        return None
    start, end = (b[0] for b in bounds if b)
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(step[0], int)):
        return None
    if step[0] < 0 and end < -len(elements):
        return elements[start :: step[0]]
    return elements[start : end : step[0]]


def _joined(_: Attrs, inputs: Inputs) -> Content:
    parts = [_elements(inputs, i) for i in range(len(inputs))]
    if any(p is None for p in parts) or len(_shape(inputs)) != 1:
        return None
    return tuple(d for part in parts if part for d in part)


def _pointwise(function: Callable[..., Dim | None]) -> ContentFormula:
    def apply(_: Attrs, inputs: Inputs) -> Content:
        parts = [_elements(inputs, i) for i in range(len(inputs))]
        if any(p is None or len(_shape(inputs, i)) > 1 for i, p in enumerate(parts)):
            return None
        known = [p for p in parts if p is not None]
        length = max(map(len, known)) if all(known) else 0
        if any(len(p) not in (1, length) for p in known):
            return None
        results = [function(*(p[i % len(p)] for p in known)) for i in range(length)]
        return None if None in results else tuple(r for r in results if r is not None)

    return apply


def _divided(a: Dim, b: Dim) -> Dim | None:
    exact = dim_div(a, b)
    if exact is not None or not isinstance(b, int) or b <= 0:
        return exact
    return None if isinstance(a, int) and a < 0 else dim_floordiv(a, b)


def _equal(a: Dim, b: Dim) -> Dim | None:
    if a == b:
        return 1
    sizes_never_negative = any(isinstance(d, int) and d < 0 for d in (a, b))
    both_known = isinstance(a, int) and isinstance(b, int)
    return 0 if both_known or sizes_never_negative else None


def _chosen(condition: Dim, a: Dim, b: Dim) -> Dim | None:
    return (a if condition else b) if isinstance(condition, int) else None


def _among_numbers(choose: Callable[[list[int]], int]) -> Callable[..., Dim | None]:
    def apply(*dims: Dim) -> Dim | None:
        numbers = [d for d in dims if isinstance(d, int)]
        return choose(numbers) if len(numbers) == len(dims) else None

    return apply


def _filled(attrs: Attrs, inputs: Inputs) -> Content:
    shape, value = _elements(inputs, 0), attrs.get("value")
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] > SMALL:
        return None
    return (0 if value is None else int(value.numpy().item()),) * shape[0]


def _ranged(_: Attrs, inputs: Inputs) -> Content:
    bounds = [_elements(inputs, i) for i in range(3)]
    known = [int(b[0]) for b in bounds if b and isinstance(b[0], int)]
    if len(known) != 3 or not known[2] or len(range(*known)) > SMALL:
        return None
    return tuple(range(*known))


CONTENTS: dict[str, ContentFormula] = {
    "Shape": _shape_elements,
    "Size": lambda attrs, inputs: (size_of(_shape(inputs)),),
    "Identity": _same_elements,
    "Cast": _same_elements,
    "Reshape": _same_elements,
    "Squeeze": _same_elements,
    "Unsqueeze": _same_elements,
    "Flatten": _same_elements,
    "Gather": _gathered,
    "Slice": _sliced_elements,
    "Concat": _joined,
    "Add": _pointwise(dim_add),
    "Sub": _pointwise(dim_sub),
    "Mul": _pointwise(dim_mul),
    "Div": _pointwise(_divided),
    "Neg": _pointwise(lambda a: dim_mul(-1, a)),
    "Equal": _pointwise(_equal),
    "Where": _pointwise(_chosen),
    "Min": _pointwise(_among_numbers(min)),
    "Max": _pointwise(_among_numbers(max)),
    "ReduceProd": lambda attrs, inputs: None if (e := _elements(inputs, 0)) is None else (size_of(e),),
    "ConstantOfShape": _filled,
    "Range": _ranged,
}
