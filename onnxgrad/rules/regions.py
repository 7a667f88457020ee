"""Regions of images that are sampled and pooled, and convolution with sampled windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_floordiv, dim_mul, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed
from onnxgrad.rules.samples import Mixed, Samples
from onnxgrad.rules.sampling import Tap, corners, linear_taps, pixels, rows_of, zero_outside
from onnxgrad.rules.scatter import counting

# --- regions of interest --------------------------------------------------------------------------


class _Bins(NamedTuple):
    """What the bins of regions hold along one axis of the image; all tensors are ``(regions, bins, places)``.

    Attributes:
        taps: the pixels at each place, with their weights.
        taken: whether the place is one of the bin. (The widest bin of all decides how many there are.)
    """

    taps: list[Tap]
    taken: Tensor


def _most(op: Builder, counts: Tensor) -> Tensor:
    """Return the indices ``0, 1, …`` of the places in the bin that has most of them, at least one, in its dtype."""
    flat = op.reshape(counts, (size_of(counts.shape),))
    most = op.ReduceMax(op.Concat(flat, op.constant(np.ones(1), flat.dtype), axis=0), [0], keepdims=0)
    return op.cast(counting(op, op.cast(most, ir.DataType.INT64)), counts.dtype)


def _column(op: Builder, rois: Tensor, index: int) -> Tensor:
    """Return one number of each region, shape ``(regions, 1, 1)``."""
    return op.reshape(op.Gather(rois, [index], axis=1), (rois.shape[0], 1, 1))


def _values(op: Builder, x: Tensor, image: Tensor, rows: _Bins, columns: _Bins) -> Iterator[Tensor]:
    """Yield what each region has at each place of each bin, ``(regions, bins, places, bins, places, channels)``.

    There is one such tensor for every combination of pixels that a place is interpolated from. `image` says which image
    each region is of.
    """
    picture, space = rows_of(op, x), x.shape[2:]
    start = op.reshape(op.cast(image, ir.DataType.INT64) * op.size(size_of(space)), (image.shape[0], 1, 1, 1, 1))

    def laid_out(bins: _Bins, axes: list[int]) -> list[Tap]:
        return [(op.unsqueeze(i, axes), None if w is None else op.unsqueeze(w, axes)) for i, w in bins.taps]

    for place, weight in corners(op, [laid_out(rows, [-2, -1]), laid_out(columns, [-4, -3])], space):
        yield pixels(op, picture, place + start, weight)


def _largest(op: Builder, values: Sequence[Tensor], rows: _Bins, columns: _Bins) -> Tensor:
    """Return the largest of all values in each bin, the first where there are several; 0 where there is none."""
    taken = op.And(op.unsqueeze(rows.taken, [-2, -1]), op.unsqueeze(columns.taken, [-4, -3]))
    stacked = op.Concat(*(op.unsqueeze(v, [-1]) for v in values), axis=-1)
    regions, high, _, wide, _, channels, _ = stacked.shape
    lowest = op.constant(-np.inf, stacked.dtype)
    stacked = op.Transpose(op.Where(op.unsqueeze(taken, [-2, -1]), stacked, lowest), perm=[0, 5, 1, 3, 2, 4, 6])
    flat = op.reshape(stacked, (*stacked.shape[:4], size_of(stacked.shape[4:])))
    found = op.GatherElements(flat, op.ArgMax(flat, axis=-1, keepdims=1), axis=-1)
    some = op.cast(op.ReduceMax(op.cast(taken, ir.DataType.FLOAT), [2, 4], keepdims=0), ir.DataType.BOOL)
    result = op.reshape(found, (regions, channels, high, wide))
    return op.Where(op.reshape(some, (regions, 1, high, wide)), result, 0)


def _align(op: Builder, node: Node, start: Tensor, end: Tensor, bins: int, length: Dim) -> _Bins:
    """Place the samples of `RoiAlign`, spread evenly over each bin."""
    half, ratio = node.attr("coordinate_transformation_mode") == "half_pixel", node.attr("sampling_ratio")
    extent = end - start
    if not half:
        extent = op.Max(extent, op.constant(1, extent.dtype))
    width = extent * (1 / bins)
    count = op.full(width.shape, ratio, width.dtype) if ratio > 0 else op.Ceil(extent / float(bins))
    place = op.cast(op.range(ratio), width.dtype) if ratio > 0 else _most(op, count)
    share = op.Reciprocal(op.Max(count, op.constant(1, width.dtype)))
    bin_ = op.cast(op.unsqueeze(op.range(bins), [-1]), width.dtype)
    u = start + (bin_ + (place + 0.5) * share) * width
    last = op.cast(op.size(length), u.dtype) - 1.0
    taken = op.And(place < count, bin_ >= 0)
    weight = op.cast(op.And(op.And(u >= -1, u <= last + 1.0), taken), u.dtype)
    if node.attr("mode") == "avg":
        weight = weight * share
    inside = op.Clip(u, 0, op.reshape(last, ()))
    taps = [(op.Min(index, last), None if w is None else w * weight) for index, w in linear_taps(op, inside)]
    return _Bins(taps, taken)


def _roi_align(op: Builder, node: Node) -> Tensor:
    """Means, or maxima, over samples in each bin.

    Like onnxruntime and ONNX's reference, the maximum is over the single products of pixels and weights.
    """
    x, rois, image = node.inputs
    assert rois is not None
    assert image is not None
    rois = op.cast(rois, x.dtype) * float(node.attr("spatial_scale")) if x is not None else rois
    assert x is not None
    if node.attr("coordinate_transformation_mode") == "half_pixel":
        rois = rois - 0.5
    rows, columns = (
        _align(op, node, _column(op, rois, axis), _column(op, rois, axis + 2), node.attr(name), x.shape[3 - axis])
        for axis, name in ((1, "output_height"), (0, "output_width"))
    )
    values = list(_values(op, x, image, rows, columns))
    if node.attr("mode") == "max":
        return _largest(op, values, rows, columns)
    total = op.sum(op.Sum(*values), [2, 4], keepdims=False)
    return op.Transpose(total, perm=[0, 3, 1, 2])


def _regions(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
    """Follow the channels of the image, or the regions."""
    image, regions = inputs[0], inputs[1]
    if image is not None and (regions is not None or image.axis != 1):
        raise Mixed("each region is of the image that its index names")
    return samples.first_axis(node, inputs) if image is None else [image]


composed(
    "RoiAlign",
    _roi_align,
    versions=(16, 22),
    follow=_regions,
    remark="where `sampling_ratio` is 0, memory grows with the widest region of all",
)


def _rounded(op: Builder, x: Tensor) -> Tensor:
    """Round halves away from zero (`Round` takes them to the even number)."""
    return op.Sign(x) * op.Floor(op.Abs(x) + 0.5)


def _pool(op: Builder, start: Tensor, end: Tensor, bins: int, length: Dim) -> _Bins:
    """Take all pixels of each bin of `MaxRoiPool`; bins may overlap."""
    one, zero = (op.constant(i, start.dtype) for i in (1, 0))
    size = op.cast(op.reshape(op.size(length), ()), start.dtype)
    width = op.Max(end - start + 1.0, one) / float(bins)
    bin_ = op.cast(op.unsqueeze(op.range(bins), [-1]), start.dtype)
    low = op.Clip(op.Floor(bin_ * width) + start, zero, size)
    high = op.Clip(op.Ceil((bin_ + 1.0) * width) + start, zero, size)
    index = low + _most(op, high - low)
    return _Bins([(op.Min(index, size - 1.0), None)], index < high)


def _max_roi_pool(op: Builder, node: Node) -> Tensor:
    """The largest pixel in each bin, whose edges are whole pixels, as in Girshick, *Fast R-CNN*, 2015."""
    x, rois = node.inputs
    assert x is not None
    assert rois is not None
    edges = _rounded(op, rois * float(node.attr("spatial_scale")))
    rows, columns = (
        _pool(op, _column(op, edges, axis), _column(op, edges, axis + 2), bins, x.shape[4 - axis])
        for axis, bins in zip((2, 1), node.attr("pooled_shape"), strict=True)
    )
    image = op.reshape(op.Gather(rois, [0], axis=1), (rois.shape[0],))
    return _largest(op, list(_values(op, x, image, rows, columns)), rows, columns)


composed(
    "MaxRoiPool",
    _max_roi_pool,
    versions=(1, 22),
    zero={1: "the edges of its bins are rounded to whole pixels: steps"},
    follow=_regions,
)

# --- deformable convolution -----------------------------------------------------------------------


def _sampled_windows(op: Builder, node: Node) -> Tensor:
    """Return the pixels of all windows, ``(N, sets, *kernel, *count, C / sets)``, times the mask."""
    x, w, offset, _, mask = (node.input(i) for i in range(5))
    assert x is not None
    assert w is not None
    assert offset is not None
    (batch, _), space, sets = x.shape[:2], x.shape[2:], node.attr("offset_group")
    kernel, out, many = w.shape[2:], offset.shape[2:], len(space)
    strides, dilations = (node.attr(name) or [1] * many for name in ("strides", "dilations"))
    pads = node.attr("pads") or [0] * many
    windows = (batch, sets, *kernel, *out)
    shift = op.reshape(offset, (batch, sets, *kernel, many, *out))

    def taps(axis: int) -> list[Tap]:
        inside = op.unsqueeze(op.range(kernel[axis]) * dilations[axis], range(axis - 2 * many + 1, 0))
        first = op.unsqueeze(op.range(out[axis]) * strides[axis] - pads[axis], range(axis - many + 1, 0))
        one = op.reshape(op.Gather(shift, [axis], axis=2 + many), windows)
        last = op.cast(op.size(space[axis]), one.dtype) - 1.0
        return [zero_outside(op, tap, last) for tap in linear_taps(op, one + op.cast(inside + first, one.dtype))]

    start = op.range(dim_mul(batch, sets)) * op.size(size_of(space))
    start, rows = op.reshape(start, (batch, sets, *[1] * (2 * many))), rows_of(op, x, sets)
    along = [taps(axis) for axis in range(many)]
    sampled = op.Sum(*(pixels(op, rows, place + start, weight) for place, weight in corners(op, along, space)))
    return sampled if mask is None else sampled * op.reshape(mask, (*windows, 1))


def _deform_conv(op: Builder, node: Node) -> Tensor:
    """A convolution whose windows hold pixels sampled at ``s·i + d·k - p + offset``, times the mask.

    Sampling is linear, with zeros around the image (Dai et al., *Deformable convolutional networks*, 2017, and Zhu et
    al., *Deformable ConvNets v2*, 2019).
    """
    w, bias, group = node.inputs[1], node.input(3), node.attr("group")
    assert w is not None
    batch, many, *out = node.y.shape
    inside, count = size_of(w.shape[2:]), size_of(out)
    sampled = _sampled_windows(op, node)
    sampled = op.reshape(sampled, (*sampled.shape[:2], inside, count, sampled.shape[-1]))
    columns = op.Transpose(sampled, perm=[0, 1, 4, 2, 3])
    long = dim_mul(w.shape[1], inside)
    weight = op.reshape(w, (group, dim_floordiv(many, group), long))
    result = op.MatMul(weight, op.reshape(columns, (batch, group, long, count)))
    result = op.reshape(result, (batch, many, *out))
    return result if bias is None else result + op.unsqueeze(bias, range(-len(out), 0))


def _apart(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    if any(inputs[i] for i in (1, 3) if i < len(inputs)):
        raise Mixed("samples reach it through a weight, which all samples share")
    return samples.first_axis(node, inputs)


composed("DeformConv", _deform_conv, versions=(19, 22), follow=_apart)
