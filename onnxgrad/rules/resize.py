"""Resizing by interpolation: linear, and done along each axis for itself.

``Y = X · (M_1 ⊗ M_2 ⊗ …)`` with one matrix M per resized axis, so the adjoint multiplies by their transposes. M is
found by resizing an identity matrix along one axis: whatever mode, coordinates and rounding the node has, M has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_div, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import vjp
from onnxgrad.rules.sampling import cubic_weights

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

_PLAIN = {"mode": "linear", "exclude_outside": 0}


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


def _crop(op: Builder, r: _Resize, place: int, front: int, whole: bool) -> Tensor | None:
    """Return the ends of the crop along one axis, behind `front` axes that are not cropped; None without a crop."""
    if r.roi is None:
        return None
    start, end = (_picked(op, r.roi, [p]) for p in (place, place + len(r.axes)))
    if whole:
        start, end = (op.constant(np.array([i]), r.roi.dtype) for i in (0, 1))
    return op.Concat(_after(op, [0.0] * front, start), _after(op, [1.0] * front, end), axis=0)


def _matrix(op: Builder, r: _Resize, axis: int, whole: bool = False) -> Tensor:
    """Return the matrix of one axis, shape ``(in, out)``; if `whole`, that of linear interpolation without a crop.

    The identity lies on axis 1 and the last one, where onnxruntime has kernels for all modes. In between are an axis of
    size 1, or the other axes if all together decide on the scale; the result does not vary along them.
    """
    x, y = r.node.x, r.node.y
    n, m, place = x.shape[axis], y.shape[axis], r.axes.index(axis)
    others = [a for a in r.axes if a != axis] if r.joint else []
    between = [x.shape[a] for a in others] or [1]
    rows = op.eye(n, x.dtype) if isinstance(n, int) else _identity(op, n, x.dtype)
    rows = op.spread(op.reshape(rows, (1, n, *[1] * len(between), n)), (1, n, *between, n))

    attrs: dict[str, Any] = {name: r.node.attr(name) for name in _SHARED} | (_PLAIN if whole else {})
    roi, scales, sizes = _crop(op, r, place, len(others) if r.joint else 3, whole), None, None
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


def _back(op: Builder, r: _Resize, ct: Tensor, axes: Sequence[int]) -> Tensor:
    """``X̄ = Ȳ · (M_1ᵀ ⊗ M_2ᵀ ⊗ …)``; where elements were repeated, that is the sum over each run of equal ones."""
    x = r.node.x
    repeated = {axis: k for axis in axes if (k := r.repeats(axis)) is not None}
    ct = _sum_repeated(op, ct, {axis - x.rank: (x.shape[axis], k) for axis, k in repeated.items()})
    for axis in axes:
        if axis not in repeated:
            ct = _along(op, _matrix(op, r, axis), ct, axis - x.rank)
    return ct


# --- the crop -------------------------------------------------------------------------------------


def _slopes(op: Builder, r: _Resize, u: Tensor, length: Dim) -> Tensor:
    """Return how the weights of all elements of an axis change with the coordinate u, shape ``(in, out)``.

    Outside of the image the output is a constant.
    """
    last, first = op.cast(op.reshape(op.size(length), ()), u.dtype) - 1.0, op.Floor(u)
    inside = op.cast(op.And(u >= 0, u <= last), u.dtype)
    one = op.full(u.shape, 1, u.dtype)
    weights = [(first, 1.0 - (u - first), -one), (first + 1.0, u - first, one)]
    if r.node.attr("mode") == "cubic":
        cubic = cubic_weights(u - first, r.node.attr("cubic_coeff_a"))
        weights = [(first + float(k - 1), w, slope) for k, (w, slope) in enumerate(cubic)]
        if r.node.attr("exclude_outside"):  # w / Σ w has the slope (w' - w Σ w' / Σ w) / Σ w
            known = [op.cast(op.And(i >= 0, i <= last), u.dtype) for i, _, _ in weights]
            total = op.Sum(*(w * k for (_, w, _), k in zip(weights, known, strict=True)))
            drift = op.Sum(*(s * k for (_, _, s), k in zip(weights, known, strict=True))) / total
            weights = [(i, w, k * (s - w * drift) / total) for (i, w, s), k in zip(weights, known, strict=True)]
    place = op.unsqueeze(op.cast(op.range(length), u.dtype), [-1])
    zero = op.constant(0, u.dtype)
    parts = [op.cast(op.Equal(place, op.Clip(i, zero, last)), u.dtype) * (s * inside) for i, _, s in weights]
    return op.Sum(*parts)


def _ends_back(op: Builder, r: _Resize, ct: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the cotangents of where the crop starts and ends along an axis.

    The coordinate of an output is ``u = start · (in - 1) + (end - start) · v``, with v what it would be without a crop:
    linear interpolation of the coordinates themselves.
    """
    x, place = r.node.x, r.axes.index(axis)
    assert r.roi is not None
    start, end = (op.cast(op.Gather(r.roi, [place + i]), x.dtype) for i in (0, len(r.axes)))
    coordinates = op.cast(op.range(x.shape[axis]), x.dtype)
    v = op.MatMul(coordinates, _matrix(op, r, axis, whole=True))
    reach = op.cast(op.size(x.shape[axis]), x.dtype) - 1.0
    ct = _back(op, r, ct, [a for a in r.changed() if a != axis])
    front = ct.rank - x.rank
    ct = op.Transpose(ct, perm=[*range(front), *(front + a for a in _last(axis, x.rank))])
    image = op.Transpose(x, perm=_last(axis, x.rank))
    many, (n, m) = size_of(image.shape[:-1]), (x.shape[axis], ct.shape[-1])
    ct = op.reshape(ct, (*ct.shape[:front], many, m))
    meeting = op.MatMul(op.swap(ct), op.reshape(image, (many, n)))  # (…, out, in)
    slopes = _slopes(op, r, start * reach + (end - start) * v, x.shape[axis])
    by_u = op.sum(meeting * op.swap(slopes), [-1], keepdims=False)
    return op.sum(by_u * (reach - v), [-1]), op.sum(by_u * v, [-1])


def _last(axis: int, rank: int) -> list[int]:
    return [*(a for a in range(rank) if a != axis), axis]


@vjp("Resize", versions=(18, 19), wrt=(0, 1, 2), follow=samples.along_data(lambda node: _Resize(node).changed()))
def resize(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor] | None]:
    """The adjoint of the interpolation; and the derivative by a crop, which moves the points that are interpolated."""
    r, given = _Resize(node), [node.input(i) for i in (1, 2)]
    nearest, seeds = node.attr("mode") == "nearest", ct.shape[: ct.rank - node.y.rank]

    def by_roi() -> Tensor:
        assert given[0] is not None
        if r.roi is None or nearest:  # used for nothing, or rounded
            return op.zeros_like(given[0])
        if node.attr("antialias"):
            raise Refusal("a crop that is smoothed by `antialias` has no derivative by its ends here", _REMEDY)
        starts, ends = zip(*(_ends_back(op, r, ct, axis) for axis in r.axes), strict=True)
        return op.reshape(op.Concat(*starts, *ends, axis=-1), (*seeds, *given[0].shape))

    def by_scales() -> Tensor:
        assert given[1] is not None
        if nearest or r.scales is None:
            return op.zeros_like(given[1])
        raise Refusal(
            "the size of its output is the scale times the size of its input, rounded down: it jumps just where the "
            "product is a whole number, as with every scale of 1, so there is no derivative by the scales",
            "compute `sizes` instead, or take what the scales are computed from out of `wrt`",
        )

    return lambda: _back(op, r, ct, r.changed()), by_roi, by_scales


_REMEDY = "set `antialias` to 0, or take what the crop is computed from out of `wrt`"
