"""Resizing by interpolation: linear, and done along each axis for itself.

``Y = X · (M_1 ⊗ M_2 ⊗ …)`` with one matrix M per resized axis, so the adjoint multiplies by their transposes. M is
found by resizing an identity matrix along one axis: whatever mode, coordinates and rounding the node has, M has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_div, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import linear

_HALF_PIXEL = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
#: Coordinates and roundings with which ``y[k i + j] = x[i]``, ``0 <= j < k``, for every integer scale k.
_REPEATING = {
    ("asymmetric", "floor"),
    ("tf_half_pixel_for_nn", "floor"),
    *((coordinates, f"round_prefer_{side}") for coordinates in _HALF_PIXEL for side in ("floor", "ceil")),
}
#: Attributes that hold along every axis. (The value outside a crop does not: it is no part of the linear map.)
_SHARED = (
    "antialias",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "mode",
    "nearest_mode",
)


class _Resize:
    """What a `Resize` node says about its axes.

    Attributes:
        axes: the axes that roi, scales and sizes are about, counted from the left.
        roi: the part to be resized, or None where it has no effect.
        scales: the scales, or None where sizes are given.
        sizes: the sizes, or None where scales are given.
        joint: whether the axes decide on one scale together.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.axes = [a % node.x.rank for a in node.attr("axes") or range(node.x.rank)]
        given = [None if t is None or t.shape == (0,) else t for t in (node.input(i) for i in range(4))]
        crops = node.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
        self.roi = given[1] if crops else None
        self.scales, self.sizes = given[2:]
        self.joint = self.scales is None and node.attr("keep_aspect_ratio_policy") != "stretch"

    def scale(self, axis: int) -> float | Dim | None:
        """Return the scale of an axis where it is known."""
        place = self.axes.index(axis)
        if self.scales is not None:
            known = self.scales.relied_on()
            return None if known is None else float(known[place])
        return None if self.joint else dim_div(self.node.y.shape[axis], self.node.x.shape[axis])

    def changed(self) -> list[int]:
        """Return those of the axes that may change."""
        return [axis for axis in self.axes if self.scale(axis) != 1 or not self._is_whole(axis)]

    def _is_whole(self, axis: int) -> bool:
        if self.roi is None:
            return True
        ends, place = self.roi.relied_on(), self.axes.index(axis)
        return ends is not None and ends[place] == 0 and ends[place + len(self.axes)] == 1

    def repeats(self, axis: int) -> int | None:
        """Return k if all that happens along an axis is that each element is repeated k times, else None."""
        scale = self.scale(axis)
        if self.node.attr("mode") != "nearest" or not isinstance(scale, (int, float)) or scale != int(scale):
            return None
        how = self.node.attr("coordinate_transformation_mode"), self.node.attr("nearest_mode")
        halves = scale == 2 and how == ("asymmetric", "round_prefer_floor")
        return int(scale) if halves or how in _REPEATING else None


def _picked(op: Builder, vector: Tensor, places: Sequence[int]) -> Tensor:
    """Return elements of a vector; of a constant one, as a constant."""
    known = vector.relied_on()
    if known is not None:
        return op.constant(known[list(places)], vector.dtype)
    return op.Gather(vector, list(places))


def _after(op: Builder, front: Sequence[float], last: Tensor) -> Tensor:
    """Return numbers and a last one as one vector."""
    return op.Concat(op.constant(np.array(front), last.dtype), last, axis=0)


def _height(op: Builder, r: _Resize, axis: int) -> Tensor:
    """Return the scale for an axis of size 1 beside the one of which the matrix is sought: 2 or 1, shape ``(1,)``.

    onnxruntime (1.32) copies what it should resize if no size changes, as with 3 elements and scale 1.3. So where sizes
    of the node change, they must change here, too, and where they do not, they must not.
    """
    x, y, scale = r.node.x, r.node.y, r.scale(axis)
    if r.scales is None or (isinstance(scale, (int, float)) and (scale <= 1 or scale >= 2)):
        return op.constant(np.ones(1), ir.DataType.FLOAT)
    if all(isinstance(d, int) for d in (*x.shape, *y.shape)):
        return op.constant(np.array([1 + (x.shape != y.shape)]), ir.DataType.FLOAT)
    differ = op.Not(op.Equal(op.ints(x.shape), op.ints(y.shape)))
    return op.ReduceMax(op.cast(differ, ir.DataType.FLOAT), [0], keepdims=1) + 1.0


def _matrix(op: Builder, r: _Resize, axis: int) -> Tensor:
    """Return the matrix of one axis, shape ``(in, out)``.

    The identity lies on axis 1 and the last one, where onnxruntime has kernels for all modes. In between are an axis of
    size 1, or the other axes if all together decide on the scale; the result does not vary along them.
    """
    x, y = r.node.x, r.node.y
    n, m, place = x.shape[axis], y.shape[axis], r.axes.index(axis)
    others = [a for a in r.axes if a != axis] if r.joint else []
    between = [x.shape[a] for a in others] or [1]
    rows = op.eye(n, x.dtype) if isinstance(n, int) else _identity(op, n, x.dtype)
    rows = op.spread(op.reshape(rows, (1, n, *[1] * len(between), n)), (1, n, *between, n))

    attrs: dict[str, Any] = {name: r.node.attr(name) for name in _SHARED}
    roi = scales = sizes = None
    if r.roi is not None:
        front = len(others) if r.joint else 3
        start, end = (_picked(op, r.roi, [p]) for p in (place, place + len(r.axes)))
        roi = op.Concat(_after(op, [0.0] * front, start), _after(op, [1.0] * front, end), axis=0)
    height: Dim = 1
    if r.joint:
        assert r.sizes is not None
        sizes = _picked(op, r.sizes, [*(r.axes.index(a) for a in others), place])
        first = 2 + len(between) - len(others)
        attrs |= {"axes": list(range(first, first + len(r.axes)))}
        attrs |= {"keep_aspect_ratio_policy": r.node.attr("keep_aspect_ratio_policy")}
    elif r.scales is not None:
        factor = _height(op, r, axis)
        height = op.fresh_dim() if factor.scalar is None else int(factor.scalar)
        front_scales = op.Concat(op.constant(np.ones(2), ir.DataType.FLOAT), factor, axis=0)
        scales = op.Concat(front_scales, _picked(op, r.scales, [place]), axis=0)
    else:
        sizes = op.ints([1, n, 1, m])
    after = [y.shape[a] for a in others] or [height]
    result = op.Resize(rows, roi, scales, sizes, shape=(1, n, *after, m), **attrs)
    if after != [1]:
        inner = list(range(2, 2 + len(after)))
        result = op.Slice(result, [0] * len(inner), [1] * len(inner), inner, shape=(1, n, *[1] * len(inner), m))
    return op.reshape(result, (n, m))


def _identity(op: Builder, n: Dim, dtype: ir.DataType) -> Tensor:
    return op.EyeLike(op.ConstantOfShape(op.ints([n, n])), dtype=dtype, shape=(n, n))


def _sum_repeated(op: Builder, x: Tensor, times: dict[int, tuple[Dim, int]]) -> Tensor:
    """Sum, along axes counted from the right, n runs of k elements each; ``times[axis]`` is ``(n, k)``."""
    shape: list[Dim] = []
    places = []
    for axis in range(-x.rank, 0):
        shape += times.get(axis, [x.shape[axis]])
        if axis in times:
            places.append(len(shape) - 1)
    return op.sum(op.reshape(x, shape), places, keepdims=False)


def _along(op: Builder, matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply by a matrix along an axis, counted from the right."""
    if axis == -1:
        return op.MatMul(x, op.swap(matrix))
    lead, behind = x.shape[:axis], x.shape[axis + 1 :]
    result = op.MatMul(matrix, op.reshape(x, (*lead, x.shape[axis], size_of(behind))))
    return op.reshape(result, (*lead, matrix.shape[0], *behind))


def _resize_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``X̄ = Ȳ · (M_1ᵀ ⊗ M_2ᵀ ⊗ …)``; where elements were repeated, that is the sum over each run of equal ones."""
    r = _Resize(node)
    changed = r.changed()
    repeated = {axis: k for axis in changed if (k := r.repeats(axis)) is not None}
    ct = _sum_repeated(op, ct, {axis - node.x.rank: (node.x.shape[axis], k) for axis, k in repeated.items()})
    for axis in changed:
        if axis not in repeated:
            ct = _along(op, _matrix(op, r, axis), ct, axis - node.x.rank)
    return ct


linear("Resize", _resize_back, versions=(18, 19), follow=samples.along(lambda node: _Resize(node).changed()))
