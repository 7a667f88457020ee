"""Fourier transforms: linear, so that the adjoint of one is another.

The matrix ``F[k, n] = exp(-2πi kn / L)`` is symmetric, and its adjoint is ``Fᴴ z = conj(F conj(z))``. All is written
with the plain forward transform of all L frequencies, of which runtimes have the surest kernels: onnxruntime (1.32)
loses half of the digits of float64 in the inverse one where L is no power of two.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, dim_mul, dim_sub, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed, linear, not_differentiable
from onnxgrad.rules.scatter import counting, pad, seeds_of


def _axis(node: Node) -> int | None:
    """Return the axis of a transform, counted from the right, or None where it is not known before run time."""
    given, rank = node.input(2), node.x.rank
    if given is None:
        axis = -2 if node.attr("axis") is None else node.attr("axis")  # it became an input in opset 20
    elif given.ints is None:
        return None
    else:
        (axis,) = given.ints
    return int(axis) % rank - rank


def _axes(node: Node) -> list[int]:
    axis = _axis(node)
    if axis is None:
        raise samples.Mixed("the axis that it works along is not known before run time")
    return [axis, -1]


def _lines(op: Builder, node: Node, t: Tensor) -> Shape:
    """Return the shape of the input or output with the axes (what is before, the axis, what is behind, parts)."""
    axis, parts = _axis(node), t.shape[-1]
    if axis is not None:
        return size_of(t.shape[:axis]), t.shape[axis], size_of(t.shape[t.rank + axis + 1 : -1]), parts
    given = node.inputs[2]
    assert given is not None
    place = op.Mod(op.cast(op.reshape(given, (1,)), ir.DataType.INT64), t.rank)
    places, sizes = op.range(t.rank), op.ints(t.shape)
    last = op.Equal(places, t.rank - 1)
    masks = [places < place, op.Equal(places, place), op.And(places > place, op.Not(last)), last]
    target = op.Concat(*(op.ReduceProd(op.Where(m, sizes, 1), [0], keepdims=1) for m in masks), axis=0)
    return op.Reshape(t, target, allowzero=1, shape=(*(op.fresh_dim() for _ in range(3)), parts)).shape


def _transform(op: Builder, z: Tensor, length: Dim, given: Tensor | None = None) -> Tensor:
    """Return F z along axis 1, shape ``(m, length, 2)``, of z, shape ``(m, K, 1 or 2)``, followed by zeros.

    The axis is the default of all versions of the operator.
    """
    size = None if z.shape[1] == length else op.reshape(op.size(length) if given is None else given, ())
    return op.DFT(z, size, shape=(z.shape[0], length, 2))


def _conjugate(op: Builder, z: Tensor) -> Tensor:
    return z * op.constant(np.array([1.0, -1.0]), z.dtype)


def _dft_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``Y = F X`` has the adjoint ``Fᴴ``; the inverse, ``Fᴴ / L``, has ``F / L``. What is cut off gets zeros.

    The one-sided inverse makes real numbers of the lower half of a spectrum, of which the upper is the mirror: so each
    frequency counts twice, but 0 and L/2, which are their own mirrors.
    """
    inverse, onesided, given = node.attr("inverse"), node.attr("onesided"), node.input(1)
    if ct.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        ct = op.cast(ct, ir.DataType.FLOAT)
    seeds, (_, n, _, own) = seeds_of(ct, node.y), _lines(op, node, node.x)
    before, many, behind, parts = _lines(op, node, node.y)
    before = dim_mul(*seeds, before)
    length: Dim = many
    if onesided and not inverse:
        length = counting(op, n if given is None else given).shape[0]
    lines = op.reshape(ct, (before, many, behind, parts))
    z = op.reshape(op.swap(lines, 1, 2), (dim_mul(before, behind), many, parts))
    if inverse:
        z = _transform(op, z, length) * op.one_over(length, z.dtype)
    else:
        z = _conjugate(op, _transform(op, _conjugate(op, z), length, given))
    if inverse and onesided:
        twice = op.range(length) * 2
        limit, zero = op.size(length), op.ints([0])
        times = [op.cast(mask, z.dtype) for mask in (twice < limit, twice <= limit, op.Equal(twice, zero))]
        z = z * op.unsqueeze(times[0] + times[1] - times[2], [-1])
    z = pad(op, z, [0, 0], [dim_sub(n, length), dim_sub(own, 2)], [1, 2], (z.shape[0], n, own))
    z = op.swap(op.reshape(z, (before, behind, n, own)), 1, 2)
    return op.reshape(z, (*seeds, *node.x.shape))


linear("DFT", _dft_back, versions=(17, 20), follow=samples.along(_axes))


def _stft(op: Builder, node: Node) -> Tensor:
    """Frames of the signal, times the window, transformed."""
    window, given = node.input(2), node.input(3)
    batch, n, parts = node.x.shape
    length: Dim | Tensor = n if given is None else given
    inside = counting(op, length if window is None else window.shape[0])
    step = node.inputs[1]
    assert step is not None
    start = op.range(node.y.shape[1]) * op.cast(op.reshape(step, ()), ir.DataType.INT64)
    frames = op.Gather(node.x, op.unsqueeze(start, [-1]) + inside, axis=1)
    if window is not None:
        frames = frames * op.unsqueeze(window, [-1])
    (count, bins), (long,) = node.y.shape[1:3], inside.shape
    z = _transform(op, op.reshape(frames, (dim_mul(batch, count), long, parts)), long)
    z = op.Slice(z, [0], op.ints([bins]), [1], shape=(z.shape[0], bins, 2))
    return op.reshape(z, (batch, count, bins, 2))


composed("STFT", _stft, versions=(17,), follow=samples.first_axis_of_data)

not_differentiable(
    "MelWeightMatrix",
    "the corners of its triangles are whole numbers, rounded down from the edge frequencies: steps",
    versions=(17,),
)
not_differentiable("HannWindow HammingWindow BlackmanWindow", "its input is a size", versions=(17,))
