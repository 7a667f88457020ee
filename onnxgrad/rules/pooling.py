"""Pooling: the cotangent of each window goes to its largest element, or is shared among all of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.picked import puts_back
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import vjp
from onnxgrad.rules.samples import Mixed, Samples
from onnxgrad.rules.scatter import scatter_add, seeds_of
from onnxgrad.rules.windows import Windows, folded, is_same, overlay, windowed_axes, windows_of

#: Samples stay apart on the axes of batch and channels.
_FOLLOW = samples.along(lambda node: range(2, node.x.rank))

#: And on those that the windows leave alone: JAX has such, where channels are last.
_FOLLOW_WINDOWS = samples.along(lambda node: windowed_axes(node, node.attr("kernel_shape")))


def _windows(op: Builder, node: Node) -> Windows:
    """Return the windows of a pooling node.

    Raises:
        Refusal: where the ONNX standard and its runtimes differ in where the windows lie.
    """
    kernel = tuple(node.attr("kernel_shape"))
    w = windows_of(op, node, node.x.shape[2:], node.y.shape[2:], kernel)
    if is_same(node):
        if any(d != 1 for d in w.dilations):
            raise Refusal("runtimes differ in what `auto_pad` means for dilated windows", "give the node explicit pads")
        axes = zip(w.excess, kernel, w.strides, strict=True)
        if any(excess < 0 if isinstance(excess, int) else k < s for excess, k, s in axes):
            raise Refusal(
                "runtimes differ in what `auto_pad` means for windows with gaps", "give the node explicit pads"
            )
    return w


# --- the largest element --------------------------------------------------------------------------


@vjp("MaxPool", versions=(12, 22), follow=_FOLLOW_WINDOWS)
def max_pool(op: Builder, node: Node, ct: Tensor, index_ct: None = None) -> Tensor:
    """The cotangent of each window goes to its largest element, the first of them where there are several.

    That element is the one that the operator itself names in its second output, as a position among all elements of x.
    Where windows do not overlap, `MaxUnpool` puts the cotangents there, in a quarter of the time of a sum.
    """
    x, y, w = node.x, node.y, _windows(op, node)
    attributes = {name: node.attr(name) for name in node.ir.attributes if name != "storage_order"}
    largest, index = op.emit("MaxPool", x, outputs=2, **attributes)
    may_be_empty = any(d != 1 for d in w.dilations) and _is_padded(w)
    if may_be_empty:
        # a window may hold nothing but padding; the operator then names no element of it
        found = functools.reduce(op.And, [count > 0 for count in _elements(op, w, padded=False)])
        index, ct = op.Where(found, index, 0), op.masked(found, ct)
    seeds, many = seeds_of(ct, y), size_of(y.shape)
    if not seeds and ct.dtype == ir.DataType.FLOAT and _tiles(w):
        windows = {name: attributes[name] for name in ("kernel_shape", "pads", "strides") if name in attributes}
        back = flat = op.MaxUnpool(ct, index, shape=x.shape, **windows)
    else:
        places = op.reshape(index, (many,))
        flat = scatter_add(op, op.reshape(ct, (*seeds, many)), places, size_of(x.shape))
        back = op.reshape(flat, (*seeds, *x.shape))
    if not may_be_empty:
        puts_back(flat, x, largest)
    return back


def _tiles(w: Windows) -> bool:
    """Whether windows cover all of an image, and no element twice."""
    ones = all(d == 1 for d in w.dilations) and not _is_padded(w)
    return ones and w.extent == w.size and all(s == k for s, k in zip(w.strides, w.kernel, strict=True))


@vjp("GlobalMaxPool", versions=(1, 22), follow=_FOLLOW)
def global_max_pool(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The cotangent goes to the largest element of each channel, the first of them where there are several."""
    x, many = node.x, size_of(node.x.shape[2:])
    largest = op.ArgMax(op.reshape(x, (*x.shape[:2], many)), axis=-1, keepdims=1)
    return op.masked(op.reshape(op.Equal(op.range(many), largest), x.shape), ct)


def _pooled(node: Node) -> tuple[ir.Node, Tensor] | None:
    """Return the pooling that gave a `MaxUnpool` its indices, and what it pooled."""
    index = node.inputs[1]
    assert index is not None
    pool = index.value.producer()
    if pool is None or pool.op_type != "MaxPool" or pool.inputs[0] is None:
        return None
    pooled = index.op.tensor(pool.inputs[0])
    return None if pooled is None else (pool, pooled)


def _unpooled(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Follow `MaxUnpool`: its indices count through the batch, so they must come from pooling one of this shape."""
    found, index = _pooled(node), node.inputs[1]
    assert index is not None
    if found is None or found[1].shape[1:] != node.y.shape[1:] or node.inputs[2:] or node.x.shape != index.shape:
        raise Mixed("its indices may lead from one sample to another")
    return samples.first_axis(node, inputs)


def _undoes_tiles(node: Node) -> bool:
    """Whether a `MaxUnpool` puts elements back to where a pooling without overlaps took them, no two to one place."""
    found = _pooled(node)
    if found is None or found[1].shape != node.y.shape or node.inputs[2:]:
        return False
    view = node.x.op.view(found[0])
    return not view.attr("storage_order") and _tiles(_windows(node.x.op, view))


#: Integers up to its square are exact as two digits in float32, the only type in which onnxruntime has `MaxUnpool`.
_DIGIT = 4096


@vjp("MaxUnpool", versions=(11, 22), wrt=(0,), follow=_unpooled)
def max_unpool(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """Each element comes back from where it went; where several went to one place, the one that stayed.

    Which element is where is found by unpooling their numbers, however a runtime reads `output_shape`. Where the
    indices are those of a pooling whose windows do not overlap (see `max_pool`), they say it themselves.
    """
    x, many = node.x, size_of(node.x.shape)
    index = node.inputs[1]
    assert index is not None
    if _undoes_tiles(node):
        seeds, places = seeds_of(ct, node.y), size_of(node.y.shape)
        flat = op.reshape(ct, (*seeds, places))
        positions = op.spread(op.reshape(index, (many,)), (*seeds, many))
        return op.reshape(op.GatherElements(flat, positions, axis=-1), (*seeds, *x.shape))
    attributes = {name: node.attr(name) for name in node.ir.attributes}
    number = op.reshape(op.range(many) + 1, x.shape)

    def unpooled(digit: Tensor) -> Tensor:
        digit = op.cast(digit, ir.DataType.FLOAT)
        return op.cast(op.MaxUnpool(digit, *node.inputs[1:], shape=node.y.shape, **attributes), ir.DataType.INT64)

    high = number / _DIGIT
    origin = unpooled(high) * _DIGIT + unpooled(number - high * _DIGIT)
    places = size_of(node.y.shape)
    origin, seeds = op.reshape(origin, (places,)), seeds_of(ct, node.y)
    taken = origin > 0
    flat = op.masked(taken, op.reshape(ct, (*seeds, places)))
    back = scatter_add(op, flat, op.Where(taken, origin - 1, 0), many)
    return op.reshape(back, (*seeds, *x.shape))


# --- sums over windows ----------------------------------------------------------------------------


def _hand_out(op: Builder, ct: Tensor, w: Windows) -> Tensor:
    """The adjoint of summing each window, ``(…, *count)`` to ``(…, *size)``: one channel is convolved with ones.

    Where windows cover an image without overlaps, each number is repeated, which keeps the channels together.
    """
    if w.kernel == w.size and all(m == 1 for m in w.count) and not _is_padded(w):
        return ct  # spread by the driver
    if _tiles(w):
        return folded(op, ct, 1 + w.rank, lambda ct: op.repeated(ct, [int(k) for k in w.kernel]))
    ones = op.constant(np.ones((1, 1, *w.kernel)), ct.dtype)

    def spread(ct: Tensor) -> Tensor:
        channel = op.reshape(ct, (ct.shape[0], 1, *ct.shape[1:]))
        image = overlay(op, channel, ones, w, 1, 1)
        return op.reshape(image, (ct.shape[0], *w.size))

    return folded(op, ct, w.rank, spread)


def _is_padded(w: Windows) -> bool:
    return any(p != 0 for p in (*w.before, *w.behind))


def _elements(op: Builder, w: Windows, padded: bool) -> Sequence[Tensor]:
    """Return for each axis how many elements each window has along it, shaped to broadcast over ``(…, *count)``.

    Padding counts if `padded` is set; what lies behind it (a last window cut short by `ceil_mode`) never does.
    """
    result = []
    for axis in range(w.rank):
        start = op.range(w.count[axis]) * w.strides[axis]
        position = op.unsqueeze(start, [-1]) + op.range(w.kernel[axis]) * w.dilations[axis]
        before, behind, size = w.before[axis], w.behind[axis], op.size(w.size[axis])
        low = before if isinstance(before, Tensor) else op.size(before)
        high = low + size
        if padded:
            low, high = op.ints([0]), high + (behind if isinstance(behind, Tensor) else op.size(behind))
        inside = op.cast((position >= low) & (position < high), ir.DataType.INT64)
        count = op.sum(inside, [-1], keepdims=False)
        result.append(op.reshape(count, (w.count[axis], *[1] * (w.rank - 1 - axis))))
    return result


@vjp("AveragePool", versions=(11, 19, 22), follow=_FOLLOW_WINDOWS)
def average_pool(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The elements of each window get equal shares of its cotangent."""
    w, padded = _windows(op, node), bool(node.attr("count_include_pad"))
    cut_short = node.attr("ceil_mode") and not is_same(node)
    if not cut_short and (padded or not _is_padded(w)):
        return _hand_out(op, ct * op.one_over(size_of(w.kernel), ct.dtype), w)
    for count in _elements(op, w, padded):
        ct = ct / op.cast(op.Max(count, 1), ct.dtype)  # a window of padding alone has no elements
    return _hand_out(op, ct, w)


@vjp("GlobalAveragePool", versions=(1, 22), follow=_FOLLOW)
def global_average_pool(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The elements of each channel get equal shares of its cotangent."""
    return ct * op.one_over(size_of(node.x.shape[2:]), ct.dtype)


@vjp("LpPool", versions=(18, 22), follow=_FOLLOW_WINDOWS)
def lp_pool(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``y = (Σ |x|^p)^(1/p)``: ``x̄ = sign(x) |x|^(p-1) Σ ȳ y^(1-p)``, summed over the windows of x; 0 where y is 0."""
    x, y, p = node.x, node.y, node.attr("p")
    if p == 1:
        return op.Sign(x) * _hand_out(op, ct, _windows(op, node))
    empty = op.Equal(y, 0)
    share = op.Where(empty, 0, ct / _power(op, op.Where(empty, 1, y), p - 1))
    power = x if p == 2 else x * _power(op, op.Abs(x), p - 2)
    return power * _hand_out(op, share, _windows(op, node))


@vjp("GlobalLpPool", versions=(2, 22), follow=_FOLLOW)
def global_lp_pool(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``y = (Σ |x|^p)^(1/p)``: ``x̄ = ȳ sign(x) |x/y|^(p-1)``; 0 where y is 0."""
    x, y, p = node.x, node.y, node.attr("p")
    if p == 1:
        return ct * op.Sign(x)
    ratio = x / op.Where(op.Equal(y, 0), 1, y)
    return ct * ratio if p == 2 else ct * ratio * _power(op, op.Abs(ratio), p - 2)


def _power(op: Builder, x: Tensor, p: int) -> Tensor:
    return x if p == 1 else op.Pow(x, float(p))
