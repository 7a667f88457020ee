"""Images sampled at given points."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_floordiv, dim_mul, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed, linear

#: Along one axis, an index (whole numbers, in the type of the image) and its weight (None: 1).
Tap = tuple[Tensor, Tensor | None]


def linear_taps(op: Builder, u: Tensor) -> list[Tap]:
    """Return the two pixels along one axis that a coordinate lies between; they may lie outside of the image."""
    first = op.Floor(u)
    return [(first, 1.0 - (u - first)), (first + 1.0, u - first)]


def zero_outside(op: Builder, tap: Tap, last: Tensor) -> Tap:
    """Return a pixel in the image, with a weight of zero if it was none; `last` is the index of the last one."""
    index, weight = tap
    inside = op.cast(op.And(index >= 0, index <= last), index.dtype)
    return op.Clip(index, 0, op.reshape(last, ())), inside if weight is None else weight * inside


def corners(
    op: Builder, along: Sequence[Sequence[Tap]], space: Sequence[Dim]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the row-major position, and the weight, of each combination of one pixel along each axis."""
    for taps in itertools.product(*along):
        place: Tensor | None = None
        weight: Tensor | None = None
        for (index, w), length in zip(taps, space, strict=True):
            index = op.cast(index, ir.DataType.INT64)
            place = index if place is None else place * op.size(length) + index
            if w is not None:
                weight = w if weight is None else weight * w
        assert place is not None
        yield place, weight


def rows_of(op: Builder, x: Tensor, sets: int = 1) -> Tensor:
    """Return images ``(N, C, *space)`` as one row of channels for each pixel, ``(N * sets * pixels, C / sets)``.

    With several sets of channels, those of one set make the rows of one image.
    """
    depth, area = dim_floordiv(x.shape[1], sets), size_of(x.shape[2:])
    image = op.swap(op.reshape(x, (x.shape[0], sets, depth, area)))
    return op.reshape(image, (dim_mul(x.shape[0], sets, area), depth))


def pixels(op: Builder, rows: Tensor, place: Tensor, weight: Tensor | None) -> Tensor:
    """Return the rows at given positions, shape ``(*place, channels)``, times their weights."""
    found = op.Gather(rows, place)
    return found if weight is None else found * op.unsqueeze(weight, [-1])


def _reflected(op: Builder, u: Tensor, low: float, high: Tensor) -> Tensor:
    """Fold a coordinate back and forth into ``[low, high]``, a triangle wave; a single pixel has no room to fold."""
    width = op.Max(high - low, op.constant(1, u.dtype))
    period = width * 2.0
    t = u - low
    t = t - period * op.Floor(t / period)
    return width - op.Abs(t - width) + low


def cubic_weights(f: Tensor, a: float = -0.75) -> list[tuple[Tensor, Tensor]]:
    """Weights of the pixels at -1, 0, 1 and 2 for a point at ``0 <= f < 1``, each with its derivative (Keys 1981)."""

    def near(t: Tensor) -> tuple[Tensor, Tensor]:
        return ((a + 2) * t - (a + 3)) * t * t + 1.0, ((3 * a + 6) * t - (2 * a + 6)) * t

    def far(t: Tensor) -> tuple[Tensor, Tensor]:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a, (3 * a * t - 10 * a) * t + 8 * a

    def mirrored(weight: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        return weight, -slope

    g = 1.0 - f
    return [far(f + 1.0), near(f), mirrored(*near(g)), mirrored(*far(g + 1.0))]


def _taps(op: Builder, node: Node, at: Tensor, length: Dim) -> list[Tap]:
    """Return the pixels along one axis that a coordinate in ``[-1, 1]`` is interpolated from."""
    mode, padding, aligned = node.attr("mode"), node.attr("padding_mode", "zeros"), node.attr("align_corners", 0)
    size = op.cast(op.size(length), at.dtype)
    last, zero = size - 1.0, op.constant(0, at.dtype)
    low = 0.0 if aligned else -0.5
    high = last if aligned else last + 0.5
    u = (at + 1.0) * 0.5 * last if aligned else ((at + 1.0) * size - 1.0) * 0.5
    cubic = mode in ("cubic", "bicubic")
    if not cubic and padding == "border":
        u = op.Clip(u, zero, op.reshape(last, ()))
    elif not cubic and padding == "reflection":
        u = _reflected(op, u, low, high)
    taps: list[Tap]
    if mode == "nearest":
        taps = [(op.Round(u), None)]
    elif cubic:
        first = op.Floor(u)
        taps = [(first + float(k - 1), w) for k, (w, _) in enumerate(cubic_weights(u - first))]
    else:
        taps = linear_taps(op, u)
    if padding == "zeros":
        return [zero_outside(op, tap, last) for tap in taps]
    if padding == "reflection":
        taps = [(_reflected(op, index, low, high), weight) for index, weight in taps]
    return [(op.Clip(index, zero, op.reshape(last, ())), weight) for index, weight in taps]


def grid_sample(op: Builder, node: Node) -> Tensor:
    """``y[n, c, p] = Σ w[n, p, k] x[n, c, i[n, p, k]]``: a weighted sum of the pixels around each point.

    Like onnxruntime (and PyTorch), cubic interpolation pads the image and not the points.
    """
    x, grid = node.x, node.inputs[1]
    assert grid is not None
    batch, channels, space = x.shape[0], x.shape[1], x.shape[2:]
    points = grid.shape[1:-1]
    if len(space) > 2 and node.attr("mode") in ("cubic", "bicubic"):
        raise Refusal("cubic interpolation is defined for images of two axes only")
    grid = op.reshape(op.cast(grid, x.dtype), (batch, size_of(points), len(space)))
    along = [
        _taps(op, node, op.Gather(grid, op.constant(np.int64(len(space) - 1 - j)), axis=2), length)
        for j, length in enumerate(space)
    ]
    count = size_of(space)
    rows = rows_of(op, x)
    zero, one = (op.constant(np.int64(i)) for i in (0, 1))
    start = op.unsqueeze(op.Range(zero, op.reshape(op.size(batch), ()), one, shape=(batch,)), [-1]) * op.size(count)

    total: Tensor | None = None
    for place, weight in corners(op, along, space):
        part = pixels(op, rows, place + start, weight)
        total = part if total is None else total + part
    assert total is not None
    result = op.reshape(total, (batch, *points, channels))
    return op.Transpose(result, perm=[0, result.rank - 1, *range(1, result.rank - 1)])


composed("GridSample", grid_sample, versions=(16, 20, 22), follow=samples.first_axis)


def _affine_grid_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``Y = (P, 1) Θᵀ`` for the points P of a regular grid, so ``Θ̄ = Ȳᵀ (P, 1)``.

    P is what the operator itself makes of an identity.
    """
    sizes = node.inputs[1]
    assert sizes is not None
    dtype, points = node.x.dtype, node.y.shape[1:-1]
    space, count = len(points), size_of(points)
    one = op.constant(np.ones(1, np.int64))
    identity = op.constant(np.eye(space, space + 1)[None], dtype)
    alone = op.Concat(one, op.Slice(sizes, [1], [space + 2], [0]), axis=0)
    grid = op.AffineGrid(identity, alone, align_corners=node.attr("align_corners"), shape=(1, *points, space))
    basis = op.Concat(op.reshape(grid, (count, space)), op.full((count, 1), 1, dtype), axis=1)
    seeds = ct.shape[: ct.rank - node.y.rank]
    return op.MatMul(op.swap(op.reshape(ct, (*seeds, node.x.shape[0], count, space))), basis)


linear("AffineGrid", _affine_grid_back, versions=(20,), follow=samples.first_axis_of_data)
