"""Operators on quantized numbers: integers q that stand for real numbers ``(q - zero point) · scale``.

A rounding is constant between its jumps, so the derivative across it is zero; what is smooth beside it is
differentiated: `DequantizeLinear` by its scale, and the scale that `DynamicQuantizeLinear` finds by x. With
`straight_through` the rules of the second table hold: a rounding is differentiated as the identity where the result is
inside of the range of its type, and as a constant where it saturates (Bengio, Léonard, Courville 2013, *Estimating or
Propagating Gradients Through Stochastic Neurons*; with respect to scales this is Esser et al. 2020, *Learned Step Size
Quantization*). Cotangents of a quantized tensor are with respect to its numbers q, in float32.

Each operator is an expression in floating point: its inputs dequantized, the operator without quantization, and the
result as a number of the output's type, before it is rounded. docs/quantized.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_mul, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.contributed import DOMAIN, along_last, data_first, given, own, plus, refused
from onnxgrad.rules.microsoft_attention import _attention
from onnxgrad.rules.registry import REGISTRY, STRAIGHT_THROUGH, Expression, Rule, composed
from onnxgrad.rules.samples import Following, Mixed, Samples

#: Smallest and largest number by element type; for floating-point ones, the largest finite one and its negative.
_RANGES: dict[str, tuple[float, float]] = {
    **{f"INT{n}": (-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (2, 4, 8, 16)},
    **{f"UINT{n}": (0, 2**n - 1) for n in (2, 4, 8, 16)},
    **{
        f"FLOAT{name}": (-largest, largest)
        for name, largest in {
            "8E4M3FN": 448, "8E4M3FNUZ": 240, "8E5M2": 57344, "8E5M2FNUZ": 57344, "6E2M3": 7.5, "6E3M2": 28, "4E2M1": 6,
        }.items()
    },
}  # fmt: skip

#: Why the derivative is zero without `straight_through`.
_ROUNDED = "it rounds, and is constant between the jumps; straight_through=True passes gradients through"
_INTEGERS = "it works on integers; straight_through=True passes gradients through"


def rounded(
    names: str,
    expression: Expression,
    *,
    versions: Collection[int] = (),
    domain: str = "",
    follow: Following | None = None,
    why: str = _ROUNDED,
) -> None:
    """Enter operators with rounded outputs: no derivative, and that of an expression straight through the rounding."""
    for name in names.split():  # samples are followed in either case, to run a model some rows at a time
        operator, of = f"{domain}::{name}" if domain else name, frozenset(versions)
        REGISTRY.add(Rule(operator, "not differentiable", of, None, follow=follow, remark=why))
    _straight_through(names, expression, versions, domain, follow)


def _straight_through(
    names: str, expression: Expression, versions: Collection[int], domain: str, follow: Following | None
) -> None:
    for name in names.split():
        operator, of = f"{domain}::{name}" if domain else name, frozenset(versions)
        rule = Rule(operator, "composed", of, None, follow=follow, expression=expression, quantizes=True)
        STRAIGHT_THROUGH.add(rule)


# --- from numbers to what they stand for, and back -------------------------------------------------------


def _in_float(op: Builder, x: Tensor) -> Tensor:
    """Return x in float64 if it is that, else in float32, which holds all numbers of narrow types."""
    return x if x.dtype == ir.DataType.DOUBLE else op.cast(x, ir.DataType.FLOAT)


def _per_element(op: Builder, p: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Lay out a scale or zero point so that it is broadcast to x: one in all, one per index along an axis, or one per
    block along it.
    """
    axis %= max(x.rank, 1)
    if block and p.rank == x.rank:
        apart = op.unsqueeze(p, [axis - x.rank])
        sizes = list(p.shape)
        apart = op.spread(apart, (*sizes[: axis + 1], block, *sizes[axis + 1 :]))
        sizes[axis] = dim_mul(sizes[axis], block)
        whole = op.reshape(apart, sizes)
        if sizes[axis] == x.shape[axis]:
            return whole
        sizes[axis] = x.shape[axis]
        return op.Slice(whole, [0], op.size(x.shape[axis]), [axis], shape=sizes)
    if size_of(p.shape) == 1:
        return op.reshape(p, ())
    return op.reshape(p, (*p.shape, *[1] * (x.rank - axis - 1))) if p.rank == 1 else p


def _offset(op: Builder, node: Node, x: Tensor, zero: Tensor | None, axis: int = 1) -> Tensor | None:
    return None if zero is None else _per_element(op, _in_float(op, zero), x, axis, node.attr("block_size", 0))


def _real(op: Builder, node: Node, start: int, axis: int = 1, x: Tensor | None = None) -> Tensor:
    """``(x - zero point) · scale`` for x, scale and zero point among the inputs, from `start` on."""
    x = given(node, start) if x is None else x
    scale = _per_element(op, _in_float(op, given(node, start + 1)), x, axis, node.attr("block_size", 0))
    return _shifted(op, x, _offset(op, node, x, node.input(start + 2), axis)) * scale


def _shifted(op: Builder, x: Tensor, zero: Tensor | None) -> Tensor:
    x = _in_float(op, x)
    return x if zero is None else x - zero


def _number(op: Builder, v: Tensor, zero: Tensor | None, dtype: ir.DataType) -> Tensor:
    """The number that v is rounded to, without the rounding: ``v + zero point``; where it saturates, a constant.

    Integers saturate where the rounded number is out of range, as in PyTorch's quantization-aware training.
    """
    low, high = _RANGES[dtype.name]
    whole = v if dtype.is_floating_point() else plus(op.Round(v), zero)
    return op.Where(op.Or(whole < low, whole > high), 0, plus(v, zero))


def _quantized(op: Builder, node: Node, real: Tensor, start: int, axis: int = 1) -> Tensor:
    """A real number in the type of the output, by scale and zero point among the inputs, from `start` on."""
    scale = _per_element(op, _in_float(op, given(node, start)), real, axis, node.attr("block_size", 0))
    zero = _offset(op, node, real, node.input(start + 1), axis)
    return _number(op, _in_float(op, real) / scale, zero, node.y.dtype)


def _first(follow: Following, *data: int) -> Following:
    """Follow an operator by what follows its inputs `data`; samples share all others."""

    def only(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
        if any(s for i, s in enumerate(inputs) if i not in (data or (0,))):
            raise Mixed("samples reach it through a scale, zero point or weight, which all samples share")
        return follow(node, inputs)

    return only


_VERSIONS = (13, 19, 21, 23, 24, 25, 28)
_ALIGNED = _first(samples.aligned)


def _quantize_linear(op: Builder, node: Node) -> Tensor:
    """``round(x / scale) + zero point``, saturated."""
    return _quantized(op, node, node.x, 1, node.attr("axis", 1))


def _dequantize_linear(op: Builder, node: Node) -> Tensor:
    """``(x - zero point) · scale``."""
    return op.cast(_real(op, node, 0, node.attr("axis", 1)), node.y.dtype)


for _domain, _versions in (("", _VERSIONS), (DOMAIN, ())):
    rounded("QuantizeLinear", _quantize_linear, versions=_versions, domain=_domain, follow=_ALIGNED)
    composed("DequantizeLinear", _dequantize_linear, versions=_versions, domain=_domain, follow=_ALIGNED)


def _dynamic_quantize(op: Builder, node: Node, straight: bool) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Numbers, scale and zero point: ``scale = (max(x, 0) - min(x, 0)) / 255``, ``zero point = round(-min / scale)``.

    Where the scale is 0 all x are, and both other outputs are a constant.
    """
    x = _in_float(op, node.x)
    low, high = (op.Min(op.ReduceMin(x, keepdims=0), 0), op.Max(op.ReduceMax(x, keepdims=0), 0))
    scale = (high - low) * (1 / 255)
    if not straight:
        return None, scale, None
    some = op.Not(op.Equal(scale, 0))
    by = op.Where(some, scale, 1)
    exact = -low / by
    v, zero = x / by, op.Round(exact)
    whole = op.Round(v) + zero
    numbers = op.Where(op.Or(whole < 0, whole > 255), 0, v + exact)
    return op.Where(some, numbers, 0), scale, op.Where(some, exact, 0)


composed(
    "DynamicQuantizeLinear",
    lambda op, node: _dynamic_quantize(op, node, straight=False),
    versions=(11,),
    remark="its scale; ties of the largest or smallest elements share; the numbers and the zero point are rounded",
)
_straight_through("DynamicQuantizeLinear", lambda op, node: _dynamic_quantize(op, node, straight=True), (11,), "", None)

# --- products and convolutions ---------------------------------------------------------------------------


def _rows(op: Builder, x: Tensor, p: Tensor | None) -> Tensor | None:
    """Lay out what may be given for each row of a matrix on the left."""
    many = p is not None and p.rank == 1 and p.shape != (1,) and x.rank > 1
    return op.unsqueeze(p, [-1]) if many and p is not None else p


def _scaled(op: Builder, x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    return _shifted(op, x, None if zero is None else _in_float(op, zero)) * _in_float(op, scale)


def _left(op: Builder, node: Node, start: int = 0) -> Tensor:
    x = given(node, start)
    scale, zero = (_rows(op, x, node.input(start + i)) for i in (1, 2))
    assert scale is not None
    return _scaled(op, x, scale, zero)


def _right(op: Builder, node: Node, start: int = 3) -> Tensor:
    """A matrix on the right, quantized as a whole or per column."""
    return _scaled(op, given(node, start), given(node, start + 1), node.input(start + 2))


def _qlinear_matmul(op: Builder, node: Node) -> Tensor:
    product = op.MatMul(_left(op, node), _right(op, node))
    scale, zero = (_rows(op, product, node.input(i)) for i in (6, 7))
    assert scale is not None
    return _number(op, product / _in_float(op, scale), None if zero is None else _in_float(op, zero), node.y.dtype)


def _matmul_integer(op: Builder, node: Node) -> Tensor:
    a, b = given(node, 0), given(node, 1)
    zero_a, zero_b = _rows(op, a, node.input(2)), node.input(3)
    left, right = ((x, None if z is None else _in_float(op, z)) for x, z in ((a, zero_a), (b, zero_b)))
    return op.MatMul(_shifted(op, *left), _shifted(op, *right))


_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


def _attributes(node: Node, names: Sequence[str]) -> dict[str, Any]:
    return {name: node.attr(name) for name in names if name in node.ir.attributes}


def _channels_first(op: Builder, node: Node, x: Tensor) -> Tensor:
    last = node.attr("channels_last", 0)
    return op.Transpose(x, perm=[0, x.rank - 1, *range(1, x.rank - 1)]) if last else x


def _channels_back(op: Builder, node: Node, y: Tensor) -> Tensor:
    last = node.attr("channels_last", 0)
    return op.Transpose(y, perm=[0, *range(2, y.rank), 1]) if last else y


def _qlinear_conv(op: Builder, node: Node) -> Tensor:
    """The scale of the bias is the product of those of x and W; W may have one per output channel."""
    x, bias = _channels_first(op, node, _real(op, node, 0)), node.input(8)
    if bias is not None:
        scales = (_in_float(op, op.reshape(s, ()) if size_of(s.shape) == 1 else s) for s in _scales(node, 1, 4))
        bias = _in_float(op, bias) * next(scales) * next(scales)
    y = op.Conv(x, _real(op, node, 3, axis=0), bias, **_attributes(node, _WINDOW))
    return _quantized(op, node, _channels_back(op, node, y), 6)


def _scales(node: Node, *indices: int) -> list[Tensor]:
    return [given(node, i) for i in indices]


def _conv_integer(op: Builder, node: Node) -> Tensor:
    x, w = given(node, 0), given(node, 1)
    zeros = _offset(op, node, x, node.input(2)), _offset(op, node, w, node.input(3), axis=0)
    return op.Conv(_shifted(op, x, zeros[0]), _shifted(op, w, zeros[1]), **_attributes(node, _WINDOW))


rounded("QLinearMatMul", _qlinear_matmul, versions=(10, 21), follow=along_last((0,)))
rounded("QLinearConv", _qlinear_conv, versions=(10,), follow=data_first(0))
rounded("QLinearConv", _qlinear_conv, domain=DOMAIN, follow=data_first(0))
rounded("MatMulInteger", _matmul_integer, versions=(10,), follow=along_last((0,)), why=_INTEGERS)
rounded("ConvInteger", _conv_integer, versions=(10,), follow=data_first(0), why=_INTEGERS)


def _qgemm(op: Builder, node: Node) -> Tensor:
    """``alpha · (A B · scales + C · scales)`` with C in the scale of the product; rounded only if y has a scale."""
    a, b, c = _real(op, node, 0), given(node, 3), node.input(6)
    b, zero = op.swap(b) if node.attr("transB", 0) else b, node.input(5)
    y = op.MatMul(op.swap(a) if node.attr("transA", 0) else a, _scaled(op, b, given(node, 4), zero))
    if c is not None:
        scales = [_in_float(op, op.reshape(s, ()) if size_of(s.shape) == 1 else s) for s in _scales(node, 1, 4)]
        y = y + _in_float(op, c) * scales[0] * scales[1]
    y = y * float(node.attr("alpha", 1.0))
    return y if node.input(7) is None else _quantized(op, node, y, 7)


def _gemm_rows(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    (place,) = {s for s in inputs if s is not None}
    if place.axis != (1 if node.attr("transA", 0) else 0):
        raise Mixed(f"it sums over axis {place.axis}, on which the samples lie")
    return [replace(place, axis=0)]


_REMARK = "rounded if it has a scale of y; without one, also by the scales"
own("QGemm", _qgemm, follow=_first(_gemm_rows), remark=_REMARK)
_straight_through("QGemm", _qgemm, (), DOMAIN, _first(_gemm_rows))


def _matmul_integer_to_float(op: Builder, node: Node) -> Tensor:
    a, b = given(node, 0), given(node, 1)
    zero = _rows(op, a, node.input(4))
    scale = _rows(op, a, node.input(2))
    assert scale is not None
    left = _scaled(op, a, scale, zero)
    right = _scaled(op, b, given(node, 3), node.input(5))
    return op.cast(plus(op.MatMul(left, right), node.input(6)), node.y.dtype)


def _dynamic_quantize_matmul(op: Builder, node: Node) -> Tensor:
    """The product of A as `DynamicQuantizeLinear` quantizes it and B; the sweep goes by the rule of that operator."""
    numbers, scale, zero = op.emit("DynamicQuantizeLinear", node.x, outputs=3)
    product = op.MatMul(_scaled(op, numbers, scale, zero), _right(op, replace(node, inputs=_shift(node)), 3))
    return plus(product, node.input(4))


def _shift(node: Node) -> tuple[Tensor | None, ...]:
    """Inputs of `DynamicQuantizeMatMul` in the places of those of `QLinearMatMul`."""
    return (node.x, None, None, given(node, 1), given(node, 2), node.input(3))


own("MatMulIntegerToFloat", _matmul_integer_to_float, follow=along_last((0,)), remark="by the scales and the bias")
own(
    "DynamicQuantizeMatMul",
    _dynamic_quantize_matmul,
    remark="its rounding has derivative zero, so by A only through the scale of A",
)

# --- elementwise, pooling and others of onnxruntime -------------------------------------------------------


def _like_float(
    names: str, expression: Callable[[Builder, Node], Tensor], output: int, follow: Following | None
) -> None:
    """Enter operators that quantize an expression in dequantized inputs; the scale of y is input `output`."""
    rounded(names, lambda op, node: _quantized(op, node, expression(op, node), output), domain=DOMAIN, follow=follow)


def _average_pool(op: Builder, node: Node) -> Tensor:
    x = _channels_first(op, node, _real(op, node, 0))
    return _channels_back(op, node, op.AveragePool(x, **_attributes(node, _POOL)))


def _global_average_pool(op: Builder, node: Node) -> Tensor:
    x = _real(op, node, 0)
    start = 1 if node.attr("channels_last", 0) else 2
    return op.mean(x, range(start, start + x.rank - 2))


def _concat(op: Builder, node: Node) -> Tensor:
    parts = [_real(op, node, i) for i in range(2, len(node.inputs), 3)]
    return op.Concat(*parts, axis=node.attr("axis"))


def _softmax(op: Builder, node: Node) -> Tensor:
    """Before opset 13 of the attribute, over all axes from `axis` on."""
    x, axis = _real(op, node, 0), node.attr("axis", -1)
    if node.attr("opset", 13) >= 13:
        return op.Softmax(x, axis=axis)
    start = axis % x.rank
    flat = op.reshape(x, (size_of(x.shape[:start]), size_of(x.shape[start:])))
    return op.reshape(op.Softmax(flat, axis=-1), x.shape)


def _softmax_axis(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if node.attr("opset", 13) < 13:
        return along_last((0,))(node, inputs)
    return samples.along(lambda node: [node.attr("axis", -1)])(node, inputs[:1])


def _concat_axis(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    places = {s for s in inputs if s is not None}
    if len(places) > 1 or any(s for i, s in enumerate(inputs) if i % 3 != 2):
        raise Mixed("the samples of its inputs lie on different axes, or in a scale")
    return samples.along(lambda node: [node.attr("axis") % node.y.rank])(
        replace(node, inputs=node.inputs[2:]), [*places]
    )


def _reduce_mean(op: Builder, node: Node) -> Tensor:
    x = _real(op, node, 0)
    axes = [a % x.rank - x.rank for a in node.attr("axes") or range(x.rank)]
    return op.ReduceMean(x, axes, keepdims=node.attr("keepdims", 1))


def _keeps_mean(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    return samples.reduced(lambda node: node.attr("axes") or range(node.x.rank))(node, inputs)


_BOTH = _first(samples.aligned, 0, 3)
_like_float("QLinearAdd", lambda op, node: _real(op, node, 0) + _real(op, node, 3), 6, _BOTH)
_like_float("QLinearMul", lambda op, node: _real(op, node, 0) * _real(op, node, 3), 6, _BOTH)
_like_float("QLinearSigmoid", lambda op, node: op.Sigmoid(_real(op, node, 0)), 3, _ALIGNED)
_like_float(
    "QLinearLeakyRelu",
    lambda op, node: op.LeakyRelu(_real(op, node, 0), alpha=node.attr("alpha", 0.01)),
    3,
    _ALIGNED,
)
_like_float("QLinearAveragePool", _average_pool, 3, data_first(0))
_like_float("QLinearGlobalAveragePool", _global_average_pool, 3, data_first(0))
_like_float("QLinearConcat", _concat, 0, _concat_axis)
_like_float("QLinearSoftmax", _softmax, 3, _first(_softmax_axis))
_like_float("QLinearReduceMean", _reduce_mean, 3, _first(_keeps_mean))
_like_float(
    "QLinearWhere",
    lambda op, node: op.Where(given(node, 0), _real(op, node, 1), _real(op, node, 4)),
    7,
    _first(samples.aligned, 1, 4),
)


def _qattention(op: Builder, node: Node) -> Sequence[Tensor]:
    """`Attention` of a dequantized sequence with a dequantized projection."""
    x = _scaled(op, given(node, 0), given(node, 3), node.input(6))
    weights = _scaled(op, given(node, 1), given(node, 4), node.input(7))
    inputs = (x, weights, given(node, 2), node.input(5), node.input(8))
    return _attention(op, replace(node, inputs=inputs))


own("QAttention", _qattention, remark="by the scales, the bias and the past")

refused(
    "DynamicQuantizeLSTM",
    "it quantizes its state anew at every step, with a scale of that step, and no rule follows this",
    "differentiate the model before it is quantized, or leave its LSTM nodes out of the quantization",
)
