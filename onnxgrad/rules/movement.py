"""Operators that move elements: linear, and their adjoints move them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, dim_add, dim_div, dim_mul, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import linear, not_differentiable, vjp
from onnxgrad.rules.samples import Mixed, Samples
from onnxgrad.rules.scatter import counting, moved_back, pad, seeds_of

Places = Sequence[Samples | None]


def _given(node: Node, index: int, default: Sequence[int]) -> list[int] | None:
    """Return the integers that an optional input holds: `default` where it is absent, None where they are not known."""
    given = node.input(index)
    return list(default) if given is None else given.ints


def _kept(place: Samples | None, axes: Sequence[int], rank: int) -> list[Samples | None]:
    """The samples stay where they are, unless they lie on one of `axes`."""
    assert place is not None
    if place.axis in {a % rank for a in axes}:
        raise Mixed(f"it moves elements along axis {place.axis}, on which the samples lie")
    return [place]


# --- the same elements in the same order ----------------------------------------------------------


def _reshape_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The cotangent in the shape of the input, behind the seeds."""
    return op.reshape(ct, (*seeds_of(ct, node.y), *node.x.shape))


linear("Reshape", _reshape_back, versions=(14, 19, 21, 23, 24, 25), follow=samples.reshaped)
linear("Flatten Unsqueeze", _reshape_back, versions=(13, 21, 23, 24, 25), follow=samples.reshaped)
linear("Squeeze", _reshape_back, versions=(13, 21, 23, 24, 25), follow=samples.squeezed)


# --- the same elements in another order -----------------------------------------------------------


def _transpose_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    rank = node.x.rank
    order = list(node.attr("perm") or reversed(range(rank)))
    inverse = [order.index(i) for i in range(rank)]
    lead = ct.rank - rank
    return op.Transpose(ct, perm=[*range(lead), *(i + lead for i in inverse)])


linear("Transpose", _transpose_back, versions=(13, 21, 23, 24, 25), follow=samples.transposed)


def _permuted(op: Builder, ct: Tensor, shape: Sequence[Dim], order: Sequence[int], result: Sequence[Dim]) -> Tensor:
    """Split the axes behind the seeds into `shape`, permute these by `order`, and merge them into `result`."""
    seeds = ct.shape[: ct.rank - len(result)]
    lead = len(seeds)
    split = op.reshape(ct, (*seeds, *shape))
    moved = op.Transpose(split, perm=[*range(lead), *(i + lead for i in order)])
    return op.reshape(moved, (*seeds, *result))


def _depth_to_space_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """Blocks of space become depth again: (N, C, H, b, W, b) to (N, b, b, C, H, W), in mode CRD (N, C, b, b, H, W)."""
    (n, c, _, _), (_, _, h, w), b = node.y.shape, node.x.shape, node.attr("blocksize")
    order = (0, 3, 5, 1, 2, 4) if node.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return _permuted(op, ct, (n, c, h, b, w, b), order, node.x.shape)


def _space_to_depth_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """Depth becomes blocks of space again: the way of `_depth_to_space_back` in the other direction."""
    (n, c, _, _), (_, _, h, w), b = node.x.shape, node.y.shape, node.attr("blocksize")
    if node.attr("mode", "DCR") == "DCR":
        return _permuted(op, ct, (n, b, b, c, h, w), (0, 3, 4, 1, 5, 2), node.x.shape)
    return _permuted(op, ct, (n, c, b, b, h, w), (0, 1, 4, 2, 5, 3), node.x.shape)


linear("DepthToSpace", _depth_to_space_back, versions=(13, 28), follow=samples.along(lambda node: (1, 2, 3)))
linear("SpaceToDepth", _space_to_depth_back, versions=(13, 28), follow=samples.along(lambda node: (1, 2, 3)))


def _reverse_sequence_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """A reversal undoes itself. The axes of batch and time must be the first two, so seeds go behind all others."""
    axes = {name: node.attr(name) for name in ("batch_axis", "time_axis")}
    if ct.rank == node.y.rank:
        return op.ReverseSequence(ct, node.inputs[1], **axes)
    behind = op.Transpose(ct, perm=[*range(1, ct.rank), 0])
    return op.Transpose(op.ReverseSequence(behind, node.inputs[1], **axes), perm=[ct.rank - 1, *range(ct.rank - 1)])


linear(
    "ReverseSequence",
    _reverse_sequence_back,
    versions=(10, 28),
    follow=samples.along(lambda node: [node.attr("time_axis")]),
)


# --- joining and splitting ------------------------------------------------------------------------


@vjp("Concat", versions=(13,), follow=samples.concatenated)
def concat(op: Builder, node: Node, ct: Tensor) -> Sequence[Tensor]:
    """Each input gets its part of the cotangent."""
    if len(node.inputs) == 1:
        return [ct]
    axis = node.attr("axis") % node.y.rank - node.y.rank
    inputs = [x for x in node.inputs if x is not None]
    sizes = op.ints([x.shape[axis] for x in inputs])
    parts = op.emit("Split", ct, sizes, outputs=len(inputs), axis=axis)
    for part, x in zip(parts, inputs, strict=True):
        op.retype(part, (*seeds_of(ct, node.y), *x.shape))
    return parts


def _split_apart(node: Node, inputs: Places) -> Places:
    """Follow `Split`; along the axis of samples, a part may hold whole blocks of all of them."""
    (place, *_), axis = inputs, node.attr("axis") % node.x.rank
    assert place is not None
    if place.axis != axis:
        return [place] * len(node.outputs)
    samples_in_block = dim_div(node.x.shape[axis], place.outer)
    blocks = [dim_div(y.shape[axis], samples_in_block or 0) if y else None for y in node.outputs]
    if any(not b for b in blocks):
        raise Mixed(f"it splits axis {axis}, on which the samples lie")
    return [replace(place, outer=b) for b in blocks if b]


@vjp("Split", versions=(18,), wrt=(0,), follow=_split_apart)
def split(op: Builder, node: Node, *cts: Tensor | None) -> Tensor:
    """The cotangents of the parts, joined again."""
    parts: list[Tensor] = []
    seeds = max((seeds_of(ct, y) for ct, y in zip(cts, node.outputs, strict=True) if ct and y), key=len)
    for ct, y in zip(cts, node.outputs, strict=True):
        if ct is None or y is None:
            raise Refusal("one of its outputs has no name, so its size is not known", "give every output a name")
        parts.append(op.spread(ct, (*seeds, *y.shape)))
    axis = node.attr("axis") % node.x.rank - node.x.rank
    return op.Concat(*parts, axis=axis, shape=(*seeds, *node.x.shape))


# --- a part of the elements -----------------------------------------------------------------------


def _sliced_axes(node: Node) -> list[int] | None:
    """Return the axes along which `Slice` works, or None where they are not known."""
    starts = node.inputs[1]
    assert starts is not None
    if node.input(3) is None and not isinstance(starts.shape[0], int):
        return None
    return _given(node, 3, range(starts.shape[0] if isinstance(starts.shape[0], int) else 0))


def _sliced(node: Node, inputs: Places) -> Places:
    """Follow `Slice`: a slice that takes all samples in their order keeps them apart."""
    (place, *_), axes = inputs, _sliced_axes(node)
    assert place is not None
    steps = _given(node, 4, [1] * len(axes or ()))
    if axes is None or steps is None:
        raise Mixed("the axes and steps that it works with are not known before run time")
    same = node.x.shape[place.axis] == node.y.shape[place.axis]
    return _kept(place, [a for a, step in zip(axes, steps, strict=True) if step != 1 or not same], node.x.rank)


#: A bound beyond every size, and one that is taken for such.
_ALL, _FAR = 2**62, 2**31 - 1


def _clamped(op: Builder, bound: Tensor, i: int, size: Dim, high: int) -> Tensor:
    """Return element i of a bound of a slice as a position from the front, at least 0 and at most ``size + high``."""
    n, known = op.size(size), None if bound.content is None else bound.content[i]
    if known == 0:
        return op.ints([0])
    if isinstance(known, int):
        if known >= _FAR:
            return n + high
        at = op.ints([known]) if known > 0 else n + known
    else:
        at = op.cast(op.Slice(bound, [i], [i + 1], [0]), ir.DataType.INT64) if known is None else op.size(known)
        at = op.Where(at < 0, at + n, at)
    return op.Min(op.Max(at, 0), n + high)


def _slice_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """Each element goes back: a negative step is reversed, a longer one filled up with zeros, the rest padded."""
    x, y, axes = node.x, node.y, _sliced_axes(node)
    starts, ends = node.inputs[1:3]
    assert starts is not None
    assert ends is not None
    steps = _given(node, 4, [1] * len(axes or ()))
    if axes is None or steps is None:
        return moved_back(op, node, ct)
    before: list[Tensor | Dim] = []
    behind: list[Tensor | Dim] = []
    axes = [a % x.rank - x.rank for a in axes]
    for i, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        n, m = x.shape[axis], y.shape[axis]
        if step < 0:
            ct = op.Slice(ct, [-1], [-_ALL], [axis], [-1], shape=ct.shape)
        if n == m and abs(step) == 1:
            before.append(0)
            behind.append(0)
            continue
        ct = _with_zeros_between(op, ct, axis, abs(step))
        if step > 0:
            first = _clamped(op, starts, i, n, 0)
        else:  # the last element taken, or where there is none, any place
            first = op.Min(_clamped(op, starts, i, n, -1) + (op.size(m) - 1) * step, op.size(n))
        before.append(first)
        if step == 1:
            end = _clamped(op, ends, i, n, 0)
            behind.append(0 if end.content == (n,) else op.size(n) - op.Max(end, first))
        else:
            behind.append(op.size(n) - first - op.size(m) * abs(step))
    return pad(op, ct, before, behind, axes, (*seeds_of(ct, y), *x.shape))


def _with_zeros_between(op: Builder, x: Tensor, axis: int, step: int) -> Tensor:
    """Put ``step - 1`` zeros behind each element along a (negative) axis."""
    if step == 1:
        return x
    front, size, behind = x.shape[:axis], x.shape[axis], x.shape[x.rank + axis + 1 :]
    if axis == -1:  # element by element; in onnxruntime, a transpose does that five times as fast
        n = size_of(x.shape)
        filled = op.swap(pad(op, op.reshape(x, (1, n)), [0], [step - 1], [-2], (step, n)))
    else:
        column = op.reshape(x, (*front, size, 1, *behind))
        filled = pad(op, column, [0], [step - 1], [axis], (*front, size, step, *behind))
    return op.reshape(filled, (*front, dim_mul(size, step), *behind))


linear("Slice", _slice_back, versions=(13,), follow=_sliced)


def _trilu_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The same triangle of the cotangent."""
    return op.Trilu(ct, node.input(1), upper=node.attr("upper"))


linear("Trilu", _trilu_back, versions=(14,), follow=samples.along(lambda node: (-2, -1)))


# --- more than the elements -----------------------------------------------------------------------

linear("Expand", lambda op, node, ct: ct, versions=(13,), follow=samples.aligned)  # the driver sums


def _tiled(node: Node, inputs: Places) -> Places:
    """Follow `Tile`: samples that are not repeated stay where they are."""
    repeats, rank = node.inputs[1], node.x.rank
    known = None if repeats is None else repeats.content
    return _kept(inputs[0], [i for i in range(rank) if known is None or known[i] != 1], rank)


def _tile_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The sum over all copies."""
    x, repeats = node.x, node.inputs[1]
    assert repeats is not None
    if repeats.content is None:
        return moved_back(op, node, ct)
    seeds = seeds_of(ct, node.y)
    split: list[Dim] = list(seeds)
    copies: list[int] = []
    for size, times in zip(x.shape, repeats.content, strict=True):
        if times != 1:
            copies.append(len(split))
            split.append(times)
        if size != 1:  # a last axis of size 1 would make the sum many times slower in onnxruntime
            split.append(size)
    total = op.sum(op.reshape(ct, split), [i - len(split) for i in copies], keepdims=False)
    return op.reshape(total, (*seeds, *x.shape))


linear("Tile", _tile_back, versions=(13,), follow=_tiled)


def _padded(node: Node, inputs: Places) -> Places:
    """Follow `Pad`: the axes that it leaves alone stay apart."""
    pads, rank = node.inputs[1], node.x.rank
    assert pads is not None
    axes = _given(node, 3, range(rank))
    if inputs[2:] and inputs[2] is not None:
        raise Mixed("samples reach it through the number that it pads with")
    if axes is None:
        raise Mixed("the axes that it pads are not known before run time")
    if pads.content is not None:
        amounts = zip(pads.content[: len(axes)], pads.content[len(axes) :], strict=True)
        axes = [a for a, amount in zip(axes, amounts, strict=True) if amount != (0, 0)]
    return _kept(inputs[0], axes, rank)


@vjp("Pad", versions=(18, 19, 21, 23, 24, 25), wrt=(0, 2), follow=_padded)
def pad_(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor] | None]:
    """What was put on is taken off, and what was taken off is filled with zeros; a constant gets what fell on it.

    The other modes repeat elements, each of which gets the sum over its copies.
    """
    x, pads, constant, axes = node.x, node.inputs[1], node.input(2), node.input(3)
    mode = node.attr("mode")
    assert pads is not None
    if mode != "constant":
        return (lambda: moved_back(op, node, ct, [pads, None, axes]),)

    def amounts(rank: int) -> Tensor:
        """The pads as those of all axes of a tensor that has more axes in front."""
        known = _given(node, 3, range(x.rank))
        if known is not None and pads.content is not None:
            sizes: list[Dim] = [0] * (2 * rank)
            for i, axis in enumerate(known):
                first = axis % x.rank + rank - x.rank
                sizes[first], sizes[first + rank] = pads.content[i], pads.content[i + len(known)]
            return op.ints(sizes)
        places = op.range(x.rank) if axes is None else axes
        from_right = op.Where(places < 0, places, places - x.rank)
        parts = op.emit("Split", pads, outputs=2, axis=0, num_outputs=2)
        nothing = op.ints([0] * rank)
        return op.Concat(*(op.ScatterElements(nothing, from_right, part, axis=0) for part in parts), axis=0)

    def by_data() -> Tensor:
        return op.Pad(ct, -amounts(ct.rank), shape=(*seeds_of(ct, node.y), *x.shape))

    def by_constant() -> Tensor:
        assert constant is not None
        outside = op.Pad(op.zeros_like(x), amounts(x.rank), op.constant(1, x.dtype), shape=node.y.shape)
        total = op.sum(ct * outside, list(range(-x.rank, 0)), keepdims=False)
        return op.reshape(total, (*seeds_of(ct, node.y), *constant.shape))

    return by_data, None, by_constant


def _center_crop_pad_axes(node: Node) -> list[int]:
    axes = node.attr("axes")
    return [a % node.x.rank - node.x.rank for a in (range(node.x.rank) if axes is None else axes)]


def _center_cropped(node: Node, inputs: Places) -> Places:
    changed = [a for a in _center_crop_pad_axes(node) if node.x.shape[a] != node.y.shape[a]]
    return _kept(inputs[0], changed, node.x.rank)


def _center_crop_pad_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """Cropping and padding undo each other; both round what they do in front down."""
    x, axes = node.x, _center_crop_pad_axes(node)
    change = [op.size(x.shape[i]) - op.size(node.y.shape[i]) for i in axes]
    before = [op.Max(c, 0) / 2 - op.Max(-c, 0) / 2 for c in change]
    behind = [c - b for c, b in zip(change, before, strict=True)]
    return pad(op, ct, before, behind, axes, (*seeds_of(ct, node.y), *x.shape))


linear("CenterCropPad", _center_crop_pad_back, versions=(18,), follow=_center_cropped)


# --- blocks that overlap --------------------------------------------------------------------------


def _col2im_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``x̄[n, (c, k…), (l…)] = ȳ[n, c, stride · l + dilation · k - pad …]``: each column is read where it was added."""
    block = node.inputs[2]
    assert block is not None
    rank = node.y.rank - 2
    sizes: Sequence[Tensor | int] = block.ints or [op.Gather(block, [i]) for i in range(rank)]
    pads = node.attr("pads") or [0] * (2 * rank)
    dilations, strides = (node.attr(name) or [1] * rank for name in ("dilations", "strides"))
    front = (*seeds_of(ct, node.y), *node.y.shape[:2])
    image = [dim_add(d, pads[i], pads[i + rank]) for i, d in enumerate(node.y.shape[2:])]
    ct = pad(op, ct, pads[:rank], pads[rank:], list(range(-rank, 0)), (*front, *image))
    for i in reversed(range(rank)):  # the axes behind have become two each: one of k, one of l
        inside = counting(op, sizes[i]) * dilations[i]
        room = op.size(image[i]) - (op.size(inside.shape[0]) - 1) * dilations[i] - 1
        start = counting(op, room / strides[i] + 1) * strides[i]
        ct = op.Gather(ct, op.unsqueeze(inside, [-1]) + start, axis=2 * (i - rank) + 1)
    lead = len(front)
    order = [*range(lead), *(lead + 2 * i for i in range(rank)), *(lead + 2 * i + 1 for i in range(rank))]
    return op.reshape(op.Transpose(ct, perm=order), (*front[:-2], *node.x.shape))


linear("Col2Im", _col2im_back, versions=(18,), follow=samples.first_axis)


# --- made from numbers and sizes ------------------------------------------------------------------


@vjp("Range", versions=(11, 27), wrt=(0, 2), zero={1: "it decides only how many elements there are"})
def range_(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor] | None]:
    """``y_i = start + i · delta``."""
    start, _, delta = node.inputs
    assert start is not None
    assert delta is not None
    seeds = seeds_of(ct, node.y)

    def total(x: Tensor, like: Tensor) -> Tensor:
        return op.reshape(op.sum(x, [-1], keepdims=False), (*seeds, *like.shape))

    def by_delta() -> Tensor:
        return total(ct * op.cast(op.range(node.y.shape[0]), ct.dtype), delta)

    return lambda: total(ct, start), None, by_delta


not_differentiable("Shape", "sizes", versions=(15, 19, 21, 23, 24, 25))
not_differentiable("Size", "a size", versions=(13, 19, 21, 23, 24, 25))
not_differentiable("Constant", "it has no inputs", versions=(13, 19, 21, 23, 24, 25))
not_differentiable("ConstantOfShape", "it depends on a shape only", versions=(9, 20, 21, 23, 24, 25))
not_differentiable("EyeLike", "it depends on a shape only", versions=(9, 22))
