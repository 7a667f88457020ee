"""Windows that slide over an image: the geometry and the linear maps that convolution and pooling have in common.

Window i covers the elements ``s·i + d·k - p``, ``k = 0 … K-1``, of each spatial axis, with a stride s, a dilation d
and p elements of padding in front. Sizes may be symbolic, and padding may depend on sizes that only a run knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, dim_add, dim_floordiv, dim_mul, dim_sub, elements, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.scatter import joined, pad

#: Kernels up to this size are unrolled into slices.
_FEW = 64
#: Channels of images are in blocks of so many in onnxruntime, and what is missing of the last one is computed, too. Of
#: what is read, this is so from one block on.
_BLOCK = 16
#: How many multiplications take as long as adding one number to an image, or moving it: 0.3 ns against 0.01. They take
#: twice as long where the result has one block of channels.
_MOVING = 30


@dataclass(frozen=True)
class Windows:
    """How windows lie on an image; every attribute has one entry per spatial axis.

    Attributes:
        size: size of the image.
        count: number of windows.
        kernel: number of elements of a window.
        strides: distance between windows.
        dilations: distance between the elements of a window.
        before: padding in front of the image; a tensor of shape ``(1,)`` where it depends on sizes at run time.
        behind: padding behind the image, likewise. (A tensor may be negative.)
    """

    size: Shape
    count: Shape
    kernel: Shape
    strides: Sequence[int]
    dilations: Sequence[int]
    before: Sequence[int | Tensor] = ()
    behind: Sequence[int | Tensor] = ()

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def extent(self) -> Shape:
        """Size of the part of the padded image that windows cover."""
        axes = zip(self.count, self.kernel, self.strides, self.dilations, strict=True)
        return tuple(dim_add(dim_mul(s, dim_sub(m, 1)), dim_mul(d, dim_sub(k, 1)), 1) for m, k, s, d in axes)

    @property
    def excess(self) -> Shape:
        """How far windows reach beyond an image without padding (less than 0: they leave elements out)."""
        return tuple(dim_sub(e, n) for e, n in zip(self.extent, self.size, strict=True))


def windows_of(op: Builder, node: Node, size: Shape, count: Shape, kernel: Shape) -> Windows:
    """Read strides, dilations and padding from the attributes of a node."""
    ones = [1] * len(size)
    bare = Windows(size, count, kernel, node.attr("strides") or ones, node.attr("dilations") or ones)
    pads = node.attr("pads") or [0] * (2 * len(size))
    if is_same(node) or node.attr("output_shape"):
        extra = node.attr("output_padding") or [0] * len(size)
        upper = node.attr("auto_pad") == "SAME_UPPER"
        sides = [_sides(op, e, x, upper) for e, x in zip(bare.excess, extra, strict=True)]
    else:
        pads = [0] * len(pads) if node.attr("auto_pad") == "VALID" else pads
        sides = list(zip(pads[: len(size)], pads[len(size) :], strict=True))
    before, behind = zip(*sides, strict=True)
    return Windows(size, count, kernel, bare.strides, bare.dilations, before, behind)


def windowed_axes(node: Node, kernel: Shape) -> list[int]:
    """Return the axes of an image along which windows are longer than one element, or do not lie on each element."""
    none = [0] * 2 * len(kernel)
    pads = none if is_same(node) else node.attr("pads") or none  # "SAME" pads no window of one element
    strides = node.attr("strides") or [1] * len(kernel)
    windows = zip(kernel, strides, pads[: len(kernel)], pads[len(kernel) :], strict=True)
    return [axis for axis, window in enumerate(windows, 2) if window != (1, 1, 0, 0)]


def is_same(node: Node) -> bool:
    """Whether padding is chosen so that the sizes of input and output differ by the strides alone."""
    return node.attr("auto_pad") in ("SAME_UPPER", "SAME_LOWER")


def _sides(op: Builder, excess: Dim, extra: int, upper: bool) -> tuple[int | Tensor, int | Tensor]:
    """Divide ``max(excess + extra, 0)`` elements of padding between two sides, more of them behind if `upper` is set.

    Where this is decided at run time, the image is padded, or cropped, to just what the windows cover: a known size.
    """
    total = dim_add(excess, extra)
    if isinstance(total, int):
        total = max(total, 0)
        before = total // 2 if upper else total - total // 2
        return before, total - before
    missing = op.Max(op.size(total), 0)
    half = missing / 2
    start = half if upper else missing - half
    return start, op.size(excess) - start


def folded(op: Builder, ct: Tensor, kept: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `function`, which wants one axis in front of the last `kept` axes, to a cotangent with any number of them.

    Seeds and samples (and channels) so become one batch. What the cotangent repeats along them is computed once.
    """
    lead, source = ct.rank - kept, ct
    if ct.spread is not None:
        full = (1,) * (ct.rank - ct.spread.rank) + ct.spread.shape
        if full[lead:] == ct.shape[lead:]:
            source = op.reshape(ct.spread, full)
    result = function(op.reshape(source, (size_of(source.shape[:lead]), *source.shape[lead:])))
    result = op.reshape(result, (*source.shape[:lead], *result.shape[1:]))
    return op.spread(result, (*ct.shape[:lead], *result.shape[lead:]))


# --- three linear maps, of which each two are adjoint to the third's arguments ---------------------


def slide(op: Builder, image: Tensor, weight: Tensor, w: Windows, group: int, channels: Dim) -> Tensor:
    """Multiply a kernel, shape ``(channels, C / group, *kernel)``, with every window of an image ``(N, C, *size)``."""
    before, behind = w.before, w.behind
    if any(isinstance(p, Tensor) for p in (*before, *behind)):
        image, before, behind = padded(op, image, w), [0] * w.rank, [0] * w.rank
    result = op.Conv(image, weight, pads=[*before, *behind], group=group, **_spacing(w))
    if result.shape[2:] != w.count:  # more windows may fit behind the last one
        result = op.Slice(result, [0] * w.rank, op.ints(w.count), _axes(w), shape=(*result.shape[:2], *w.count))
    op.retype(result, (image.shape[0], channels, *w.count))
    return result


def overlay(op: Builder, ct: Tensor, weight: Tensor, w: Windows, group: int, channels: Dim) -> Tensor:
    """Add, for every window, its multiple of a kernel, shape ``(C, channels / group, *kernel)``, to an image of zeros.

    The multiples are `ct`, shape ``(N, C, *count)``, and the image is ``(N, channels, *size)``.
    """
    result = (ct.shape[0], channels, *w.size)
    tails = [
        None if isinstance(p, Tensor) else dim_sub(e, dim_add(p, n))
        for e, p, n in zip(w.extent, w.before, w.size, strict=True)
    ]
    known = [tail for tail in tails if isinstance(tail, int)]
    ct, weight = _scaled_kernel(op, ct, weight)
    if len(known) == w.rank:
        mirrored = _as_convolution(op, ct, weight, w, known, group)
        if mirrored is not None:
            op.retype(mirrored, result)
            return mirrored
        crop = [*w.before, *(max(tail, 0) for tail in known)]
        extra = [max(-tail, 0) for tail in known]
        return op.ConvTranspose(ct, weight, pads=crop, output_padding=extra, group=group, **_spacing(w), shape=result)
    # strides leave out fewer elements than one stride behind the last window
    extra = [s - 1 for s in w.strides]
    whole = op.ConvTranspose(ct, weight, output_padding=extra, group=group, **_spacing(w))
    start = joined(op, w.before)
    return op.Slice(whole, start, start + op.ints(w.size), _axes(w), shape=result)


def _as_convolution(
    op: Builder, ct: Tensor, weight: Tensor, w: Windows, tails: Sequence[int], group: int
) -> Tensor | None:
    """Write the overlay as a `Conv` with the kernel mirrored, where windows lie at every element.

    A constant kernel is mirrored before the first run. Then this is the faster one in onnxruntime (1.32) wherever
    channels fill blocks, or are few in `ct` (see `_pays`), and where it is depthwise.
    """
    if any(s != 1 for s in w.strides) or not op.is_fixed(weight) or not _known(weight.shape):
        return None
    if group == 1 and not _pays(weight.shape, w):
        return None
    reach = [d * (int(k) - 1) for k, d in zip(weight.shape[2:], w.dilations, strict=True)]
    before = [r - p for r, p in zip(reach, w.before, strict=True) if isinstance(p, int)]
    behind = [r - tail for r, tail in zip(reach, tails, strict=True)]
    if min(*before, *behind) < 0:
        return None
    return op.Conv(ct, _mirrored(op, weight, group), pads=[*before, *behind], group=group, **_spacing(w))


def _pays(weight: Shape, w: Windows) -> bool:
    """Whether a `Conv` takes less time than a `ConvTranspose`, as counted in multiplications.

    The counts order these two as their times do wherever these differ by a third or more (docs/performance.md has
    some), and by a few microseconds.
    """
    read, made, *kernel = (int(size) for size in weight)
    taps, image, windows = math.prod(kernel), elements(w.size), elements(w.count)
    transposed = windows * taps * made * (read + _MOVING)
    if w.rank != 2:  # no blocks, but each window is written down
        return image * taps * read * (made + _MOVING) <= transposed
    # out of the blocked layout, and into it again
    transposed += sum(size * n for size, n in ((windows, read), (image, made)) if n >= _BLOCK) * _MOVING
    filled = read if read < _BLOCK else _in_blocks(read)
    return image * taps * filled * _in_blocks(made) * (2 if made <= _BLOCK else 1) <= transposed


def _in_blocks(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK


def _scaled_kernel(op: Builder, ct: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Let the kernel take a constant factor of each channel of `ct`, as from a normalization behind a convolution."""
    node = None if ct.spread is not None else ct.value.producer()
    if node is None or node.op_type != "Mul" or node.domain or not op.is_fixed(weight):
        return ct, weight
    for data, factor in (node.inputs, node.inputs[::-1]):
        x, scale = (None if v is None else op.tensor(v) for v in (data, factor))
        if x is None or scale is None or x.shape != ct.shape or not op.is_fixed(scale):
            continue
        channels = (weight.shape[0], *[1] * (ct.rank - 2))
        if scale.shape in (channels, (1, *channels)):
            return x, weight * op.reshape(scale, (*channels, 1))
    return ct, weight


_MIRROR = "onnxgrad: mirror of"


def _mirrored(op: Builder, weight: Tensor, group: int) -> Tensor:
    """Reverse the axes of a kernel and exchange channels: ``(O, C / group, *kernel)`` to ``(C, O / group, *kernel)``.

    The mirror of a mirror is the kernel itself, so that forward mode is the plain convolution again.
    """
    source, groups = weight.value.meta.get(_MIRROR, (None, 0))
    if isinstance(source, Tensor) and groups == group:
        return source
    rows, columns, *kernel = (int(d) for d in weight.shape)
    split = op.reshape(weight, (group, rows // group, columns, *kernel))
    result = op.reshape(op.swap(split, 1 - split.rank, 2 - split.rank), (group * columns, rows // group, *kernel))
    axes = [2 + i for i, k in enumerate(kernel) if k > 1]
    if axes:
        first, end = [-1] * len(axes), [-1 - kernel[i - 2] for i in axes]
        result = op.Slice(result, first, end, axes, first, shape=result.shape)
    result.value.meta[_MIRROR] = (weight, group)
    return result


def correlate(op: Builder, image: Tensor, ct: Tensor, w: Windows, group: int, weight: Tensor) -> Tensor:
    """Sum, over all windows, the products of an image ``(…, N, C, *size)`` and multiples ``(…, N, O, *count)``.

    The result has the shape of `weight`, ``(O, C / group, *kernel)``, with the axes in front of the batch in front. It
    is written as one product of matrices (per group), of which the second holds all windows: as a `Conv` in which batch
    and channels change places (and `count` becomes the kernel), it takes 1.5 to 10 times as long in onnxruntime (1.32).
    """
    patches = unfold(op, op.swap(image, -w.rank - 2, -w.rank - 1), w)
    ct = op.swap(ct, -w.rank - 2, -w.rank - 1)
    lead, front = patches.shape[: -2 * w.rank - 2], ct.shape[: -w.rank - 2]
    inside, windows = size_of(w.kernel), size_of(ct.shape[-w.rank - 1 :])
    patches = op.reshape(patches, (*lead, group, dim_mul(weight.shape[1], inside), windows))
    ct = op.reshape(ct, (*front, group, dim_floordiv(weight.shape[0], group), windows))
    product = op.MatMul(ct, op.swap(patches))
    return op.reshape(product, (*product.shape[:-3], *weight.shape))


def unfold(op: Builder, image: Tensor, w: Windows) -> Tensor:
    """Write down every window of an image: ``(…, C, N, *size)`` becomes ``(…, C, *kernel, N, *count)``."""
    x = padded(op, image, w)
    for axis in reversed(range(w.rank)):  # the last axis first, so that most of what is copied is in long runs
        k, m, s, d = w.kernel[axis], w.count[axis], w.strides[axis], w.dilations[axis]
        place, new = axis - w.rank, axis - 2 * w.rank - 1  # of the axis, and of that of a window's elements
        if not isinstance(k, int) or k > _FEW:
            index = op.unsqueeze(op.range(k) * d, [-1]) + op.range(m) * s
            x = op.Gather(x, index, axis=place)
            order = list(range(x.rank))
            order.insert(x.rank + new, order.pop(x.rank + place - 1))
            x = op.Transpose(x, perm=order)
            continue
        if k == s == 1 and x.shape[place] == m:
            x = op.unsqueeze(x, [new])
            continue
        shape = [*x.shape[: x.rank + place], m, *x.shape[x.rank + place + 1 :]]
        span = dim_add(dim_mul(s, dim_sub(m, 1)), 1)
        parts = [
            op.unsqueeze(op.Slice(x, [d * i], op.ints([dim_add(d * i, span)]), [place], [s], shape=shape), [new])
            for i in range(k)
        ]
        x = op.Concat(*parts, axis=new) if k > 1 else parts[0]
    return x


def padded(op: Builder, image: Tensor, w: Windows) -> Tensor:
    """Put the padding around an image."""
    axes = range(image.rank - w.rank, image.rank)
    shape = [
        e if isinstance(p, Tensor) or isinstance(q, Tensor) else dim_add(n, p, q)
        for n, p, q, e in zip(w.size, w.before, w.behind, w.extent, strict=True)
    ]
    return pad(op, image, w.before, w.behind, list(axes), (*image.shape[: axes[0]], *shape))


def _axes(w: Windows) -> list[int]:
    return list(range(2, 2 + w.rank))


def _spacing(w: Windows) -> dict[str, list[int]]:
    """Return the attributes that convolutions both ways have in common."""
    spacing = {"strides": list(w.strides), "dilations": list(w.dilations)}
    return spacing | {"kernel_shape": [k for k in w.kernel if isinstance(k, int)]} if _known(w.kernel) else spacing


def _known(shape: Shape) -> bool:
    return all(isinstance(d, int) for d in shape)
