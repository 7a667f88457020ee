"""Resizing by interpolation: linear, and the same along each axis for itself.

``Y = X · (M_1 ⊗ M_2 ⊗ …)`` with one matrix M per resized axis, so the adjoint multiplies by their transposes. M is found
by resizing an identity matrix along one axis: whatever mode, coordinates and rounding the node has, M has them, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_div, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import linear

_ROUND = ("round_prefer_floor", "round_prefer_ceil")
#: Coordinates and roundings with which ``y[k i + j] = x[i]`` for ``0 <= j < k``, for every integer scale k.
_REPEATS = {
    ("asymmetric", "floor"),
    ("tf_half_pixel_for_nn", "floor"),
    *((mode, rounding) for mode in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel") for rounding in _ROUND),
}
_COMMON = (
    "antialias",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "mode",
    "nearest_mode",
)


def _given(node: Node, index: int) -> Tensor | None:
    """Return an optional input; an empty one is as good as none."""
    tensor = node.input(index)
    return None if tensor is None or tensor.shape == (0,) else tensor


def _axes(node: Node) -> list[int]:
    """Return the axes that roi, scales and sizes are about, counted from the left."""
    return [a % node.x.rank for a in node.attr("axes") or range(node.x.rank)]


def _crops(node: Node) -> bool:
    return bool(node.attr("coordinate_transformation_mode") == "tf_crop_and_resize")


def _keeps_ratio(node: Node) -> bool:
    return _given(node, 2) is None and node.attr("keep_aspect_ratio_policy") != "stretch"


def _resized(node: Node) -> list[int]:
    """Return those of the axes that may change."""
    axes = _axes(node)
    roi, scales = _given(node, 1), _given(node, 2)
    ends = None if roi is None else roi.const
    factors = None if scales is None else scales.const

    def stays(i: int, axis: int) -> bool:
        if _crops(node) and (ends is None or ends[i] != 0 or ends[len(axes) + i] != 1):
            return False
        if scales is None:
            return not _keeps_ratio(node) and node.x.shape[axis] == node.y.shape[axis]
        return factors is not None and factors[i] == 1

    return [axis for i, axis in enumerate(axes) if not stays(i, axis)]


def _repeats(node: Node, axis: int) -> int | None:
    """Return k if the axis is resized to k times its size, each element repeated k times, else None."""
    coordinates, rounding = node.attr("coordinate_transformation_mode"), node.attr("nearest_mode")
    factor: float | Dim | None
    scales = _given(node, 2)
    if scales is None:
        factor = None if _keeps_ratio(node) else dim_div(node.y.shape[axis], node.x.shape[axis])
    else:
        factor = None if scales.const is None else float(scales.const[_axes(node).index(axis)])
    if node.attr("mode") != "nearest" or not isinstance(factor, (int, float)) or factor != int(factor):
        return None
    # halves are rounded down
    exact = factor == 2 and (coordinates, rounding) == ("asymmetric", "round_prefer_floor")
    return int(factor) if exact or (coordinates, rounding) in _REPEATS else None


def _other_axes_change(op: Builder, node: Node, axis: int) -> Tensor:
    """Return 2 if the node changes any size, else 1, in float32 and shape ``(1,)``."""
    x, y = node.x, node.y
    rest = [a for a in range(x.rank) if a != axis and x.shape[a] != y.shape[a]]
    if any(isinstance(x.shape[a], int) and isinstance(y.shape[a], int) for a in rest):
        return op.constant([2.0], _FLOAT)
    differ = op.Not(op.Equal(op.ints(x.shape), op.ints(y.shape)))
    return op.ReduceMax(op.cast(differ, _FLOAT), [0], keepdims=1) + 1.0


def _part(op: Builder, tensor: Tensor, *places: int) -> Tensor:
    """Pick elements of a vector, now if it is constant."""
    if tensor.const is not None:
        return op.constant(tensor.const[list(places)], tensor.dtype)
    return op.Gather(tensor, list(places))


def _matrix(op: Builder, node: Node, axis: int) -> Tensor:
    """Return the matrix of one axis, shape ``(in, out)``, by resizing the rows of an identity."""
    x, y = node.x, node.y
    n, m = x.shape[axis], y.shape[axis]
    axes = _axes(node)
    place = axes.index(axis)
    roi, scales, sizes = _given(node, 1), _given(node, 2), _given(node, 3)
    attrs: dict[str, Any] = {name: node.attr(name) for name in _COMMON}
    if isinstance(n, int):
        rows = op.eye(n, x.dtype)
    else:
        rows = op.EyeLike(op.ConstantOfShape(op.ints([n, n])), dtype=x.dtype, shape=(n, n))
    if _keeps_ratio(node):
        # all axes decide on the scale together, so all are there, and the result does not vary along the others
        lead = len(axes)
        wide = [x.shape[a] if a != axis else 1 for a in axes]
        source = op.reshape(rows, (1, n, *(n if a == axis else 1 for a in axes)))
        source = op.spread(source, (1, n, *x.shape[a] for a in axes))
    return source


linear
