"""Products with quantized weights of onnxruntime's own domain, as deployed language models have them.

The weights are integers, which nobody differentiates by; the derivative with respect to the other factor goes through
the weights as they are dequantized: ``(code - zero point) · scale`` for each block. Some kernels round the other
factor, too, if the attribute `accuracy_level` allows it; the derivative is that of the product without this rounding.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_mul
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.contributed import along_last, fixed, given, own, plus, refused

_FLOAT = ir.DataType.FLOAT


def _unpacked(op: Builder, data: Tensor, bits: int, dtype: ir.DataType, high_first: bool = False) -> Tensor:
    """Return the numbers of `bits` bits that bytes hold along the last axis, the lowest bits first (or last)."""
    if bits == 8:
        return op.cast(data, dtype)
    if bits not in (2, 4):
        raise Refusal(f"weights of {bits} bits are not known")
    code, base, parts = op.cast(data, _FLOAT), float(2**bits), []
    for _ in range(8 // bits):
        rest = op.Floor(code * (1 / base))
        parts.append(op.unsqueeze(op.cast(code - rest * base, dtype), [-1]))
        code = rest
    numbers = op.Concat(*(parts[::-1] if high_first else parts), axis=-1)
    return op.reshape(numbers, (*data.shape[:-1], dim_mul(data.shape[-1], 8 // bits)))


def _cut(op: Builder, x: Tensor, size: int, axis: int = -1) -> Tensor:
    """The first `size` elements along an axis."""
    if x.shape[axis] == size:
        return x
    shape = list(x.shape)
    shape[axis] = size
    return op.Slice(x, [0], [size], [axis], shape=shape)


def _matmul_n_bits(op: Builder, node: Node) -> Tensor:
    """``A Wᵀ + bias`` with W of N rows and K columns, in blocks along its rows."""
    a, b, scales, zeros, groups, bias = (node.input(i) for i in range(6))
    assert a is not None
    assert b is not None
    assert scales is not None
    n, k, block, bits = (node.attr(name, 4) for name in ("N", "K", "block_size", "bits"))
    if node.attr("weight_prepacked", 0) or 0 in b.shape:
        raise Refusal("its weights are packed for one kind of device, or left out")
    if groups is not None and zeros is not None:
        raise Refusal("zero points beside groups that columns name are not known: its kernel reads other ones")
    blocks = -(-k // block)
    codes = _unpacked(op, op.reshape(b, (n, blocks, block * bits // 8)), bits, a.dtype)
    scales = op.reshape(scales, (n, blocks))
    if zeros is None:
        offset = op.constant(2 ** (bits - 1), a.dtype)
    elif zeros.dtype == ir.DataType.UINT8:
        packed = op.reshape(zeros, (n, -(-blocks * bits // 8)))
        offset = _cut(op, _unpacked(op, packed, bits, a.dtype), blocks)
    else:
        offset = op.reshape(zeros, (n, blocks))
    if groups is None:
        shifted = codes - (op.unsqueeze(offset, [-1]) if offset.rank else offset)
        weights = _cut(op, op.reshape(shifted * op.unsqueeze(scales, [-1]), (n, blocks * block)), k)
    else:  # each column names its block
        codes = _cut(op, op.reshape(codes, (n, blocks * block)), k)
        weights = (codes - offset) * op.Gather(scales, groups, axis=1)
    return plus(op.MatMul(a, op.swap(weights)), bias)


# QLoRA, Dettmers et al. 2023, and bitsandbytes: the 16 numbers that 4 bits stand for
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4_POSITIVE = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
_FP4 = (*_FP4_POSITIVE, *(-v for v in _FP4_POSITIVE))


def _matmul_4_bits(op: Builder, node: Node) -> Tensor:
    """``A Wᵀ`` with W of N rows and K columns, each element one of 16 numbers times that of its block."""
    if not node.attr("transB", 1):
        raise Refusal("with transB=0, its CPU kernel reads behind its weights", "transpose and quantize them anew")
    a, b, scales = (given(node, i) for i in range(3))
    n, k, block = (node.attr(name) for name in ("N", "K", "block_size"))
    blocks = -(-n * k // block)
    table = op.constant(np.array(_NF4 if node.attr("quant_type") == 1 else _FP4), a.dtype)
    codes = op.cast(_unpacked(op, b, 4, _FLOAT, high_first=True), ir.DataType.INT64)
    numbers = op.Gather(table, _cut(op, codes, n * k))
    if n * k % block:
        numbers = op.Pad(numbers, [0, -n * k % block])
    scaled = op.reshape(numbers, (blocks, block)) * op.reshape(scales, (blocks, 1))
    weights = op.reshape(_cut(op, op.reshape(scaled, (blocks * block,)), n * k), (n, k))
    return op.MatMul(a, op.swap(weights))


def _gather_block_quantized(op: Builder, node: Node) -> Tensor:
    """Rows of a quantized table; zeros for an index that is none of it."""
    data, indices, scales = (given(node, i) for i in range(3))
    zeros, bits, block = node.input(3), node.attr("bits", 4), node.attr("block_size", 128)
    axis, gathered = (node.attr(f"{name}_axis", i) % data.rank for name, i in (("quantize", 1), ("gather", 0)))
    if data.dtype in (ir.DataType.INT4, ir.DataType.UINT4) and op.opset < 21:
        raise Refusal("its table of 4-bit integers cannot be read by standard operators before opset 21")
    byte = data.dtype == ir.DataType.UINT8
    if not byte and data.dtype not in (ir.DataType.INT4, ir.DataType.UINT4):
        raise Refusal(f"a table of {data.dtype.name} is not known")
    table = _unpacked(op, data, bits, scales.dtype) if byte else op.cast(data, scales.dtype)
    size = fixed(table.shape[axis], "elements along the quantized axis")
    if zeros is not None:
        offset = _unpacked(op, zeros, bits, scales.dtype) if byte else op.cast(zeros, scales.dtype)
        table = table - _repeated(op, _cut(op, offset, fixed(scales.shape[-1], "blocks")), axis, block, size)
    elif byte:
        table = table - float(2 ** (bits - 1))
    table = table * _repeated(op, scales, axis, block, size)
    count, indices = op.size(table.shape[gathered]), op.cast(indices, ir.DataType.INT64)
    inside = op.And(indices < count, indices >= -count)
    rows = op.Gather(table, op.Where(inside, indices, 0), axis=gathered)
    return op.Where(op.reshape(inside, (*indices.shape, *[1] * (data.rank - gathered - 1))), rows, 0)


def _repeated(op: Builder, x: Tensor, axis: int, times: int, size: int) -> Tensor:
    """Each element `times` times along an axis, `size` in all."""
    blocks = fixed(x.shape[axis], "blocks")
    apart = op.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    spread = op.spread(apart, (*x.shape[: axis + 1], times, *x.shape[axis + 1 :]))
    return _cut(op, op.reshape(spread, (*x.shape[:axis], blocks * times, *x.shape[axis + 1 :])), size, axis)


_REMARK = "through the dequantized weights; also by scales, floating-point zero points and the bias"
own("MatMulNBits", _matmul_n_bits, wrt=(0, 2, 3, 5), follow=along_last((0,)), remark=_REMARK)
own("MatMulBnb4", _matmul_4_bits, wrt=(0, 2), follow=along_last((0,)), remark="through the dequantized weights")
own("GatherBlockQuantized", _gather_block_quantized, wrt=(2,))
refused(
    "MatMulFpQ4 GatherPacked",
    "its weights are in a private packing of onnxruntime",
    "quantize the model with MatMulNBits",
)
