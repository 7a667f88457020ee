"""Types of the outputs of onnxruntime's own operators on quantized numbers, in com.microsoft."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxgrad.graph.dims import Dim, broadcast, dim_add, dim_div
from onnxgrad.graph.foreign_microsoft import Formula, Found, optional, same, tensor
from onnxgrad.graph.operands import Attrs, Inputs
from onnxgrad.graph.sizes import SHAPES
from onnxgrad.graph.tensor import Tensor

_FLOAT = ir.DataType.FLOAT


def _quantized(_: Attrs, inputs: Inputs) -> list[Found]:
    """Shaped like the first input, in the type of the zero point."""
    zero = optional(inputs, 2)
    return [(ir.DataType.UINT8 if zero is None else zero.dtype, tensor(inputs).shape)]


def _dequantized(_: Attrs, inputs: Inputs) -> list[Found]:
    return [(tensor(inputs, 1).dtype, tensor(inputs).shape)]


def _broadcast(*indices: int) -> Formula:
    """The inputs at these places are broadcast to each other; the last one has the type of the result."""

    def formula(_: Attrs, inputs: Inputs) -> list[Found]:
        return [(tensor(inputs, indices[-1]).dtype, broadcast(*(tensor(inputs, i).shape for i in indices)))]

    return formula


def _joined(attrs: Attrs, inputs: Inputs) -> list[Found]:
    """Every third input from the third on is concatenated."""
    parts = [tensor(inputs, i) for i in range(2, len(inputs), 3)]
    axis, shape = attrs["axis"] % parts[0].rank, list(parts[0].shape)
    shape[axis] = dim_add(*(part.shape[axis] for part in parts))
    return [(parts[0].dtype, tuple(shape))]


def _channels_first(
    formula: Callable[[Attrs, Tensor, Inputs], tuple[Dim | None, ...] | None],
) -> Formula:
    """Sizes by a formula for channels on axis 1, also where `channels_last` is set."""

    def either(attrs: Attrs, inputs: Inputs) -> list[Found]:
        x = tensor(inputs)
        if not attrs.get("channels_last"):
            return [(x.dtype, formula(attrs, x, inputs))]
        turned = Tensor(x.op, x.dtype, (x.shape[0], x.shape[-1], *x.shape[1:-1]))
        shape = formula(attrs, turned, inputs)
        return [(x.dtype, None if shape is None else (shape[0], *shape[2:], shape[1]))]

    return either


def _pooled(attrs: Attrs, x: Tensor, _: Inputs) -> tuple[Dim | None, ...] | None:
    return SHAPES["AveragePool"](attrs, (x,), None)


def _pooled_to_one(_: Attrs, x: Tensor, __: Inputs) -> tuple[Dim | None, ...]:
    return (*x.shape[:2], *[1] * (x.rank - 2))


def _convolved(attrs: Attrs, x: Tensor, inputs: Inputs) -> tuple[Dim | None, ...] | None:
    return SHAPES["Conv"](attrs, (x, tensor(inputs, 3)), None)


def _gemm(attrs: Attrs, inputs: Inputs) -> list[Found]:
    """In floating point, unless there is a scale to quantize by."""
    a, b, scale, zero = tensor(inputs), tensor(inputs, 3), optional(inputs, 7), optional(inputs, 8)
    kind = _FLOAT if scale is None else a.dtype if zero is None else zero.dtype
    return [(kind, (a.shape[1 if attrs.get("transA") else 0], b.shape[0 if attrs.get("transB") else 1]))]


def _reduced(attrs: Attrs, inputs: Inputs) -> list[Found]:
    x = tensor(inputs)
    axes = {a % x.rank for a in attrs.get("axes") or range(x.rank)}
    if attrs.get("keepdims", 1):
        return [(x.dtype, tuple(1 if i in axes else d for i, d in enumerate(x.shape)))]
    return [(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in axes))]


def _product(_: Attrs, inputs: Inputs) -> list[Found]:
    """A product of matrices in floating point."""
    a, b = tensor(inputs), tensor(inputs, 1)
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.rank > 1 else ()
    return [(_FLOAT, (*broadcast(a.shape[:-2], b.shape[:-2]), *rows, *columns))]


def _attention(attrs: Attrs, inputs: Inputs) -> list[Found]:
    x, weights, bias, past = tensor(inputs), tensor(inputs, 1), tensor(inputs, 2), optional(inputs, 8)
    width, heads = dim_div(weights.shape[1], 3), attrs["num_heads"]
    keys = x.shape[1] if past is None else dim_add(past.shape[3], x.shape[1])
    size = None if width is None else dim_div(width, heads)
    return [(bias.dtype, (*x.shape[:2], width)), (bias.dtype, (2, x.shape[0], heads, keys, size))]


def _lstm(attrs: Attrs, inputs: Inputs) -> list[Found]:
    x, directions, hidden = tensor(inputs), tensor(inputs, 1).shape[0], attrs.get("hidden_size")
    state = (x.dtype, (directions, x.shape[1], hidden))
    return [(x.dtype, (x.shape[0], directions, x.shape[1], hidden)), state, state]


#: Formulas by ``domain::Op``.
TYPES: dict[str, Formula] = {
    f"com.microsoft::{name}": formula
    for name, formula in {
        "QuantizeLinear": _quantized,
        "DequantizeLinear": _dequantized,
        "QLinearAdd": _broadcast(0, 3),
        "QLinearMul": _broadcast(0, 3),
        "QLinearWhere": _broadcast(0, 1, 4),
        "QLinearSigmoid": same,
        "QLinearLeakyRelu": same,
        "QLinearSoftmax": same,
        "QLinearConcat": _joined,
        "QLinearAveragePool": _channels_first(_pooled),
        "QLinearGlobalAveragePool": _channels_first(_pooled_to_one),
        "QLinearConv": _channels_first(_convolved),
        "QLinearReduceMean": _reduced,
        "QGemm": _gemm,
        "QAttention": _attention,
        "MatMulIntegerToFloat": _product,
        "DynamicQuantizeMatMul": _product,
        "DynamicQuantizeLSTM": _lstm,
    }.items()
}
