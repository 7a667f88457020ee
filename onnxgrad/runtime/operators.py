"""Operators that ONNX's reference evaluator computes in too few digits, too slowly, or wrongly, written anew in numpy.

They take the place of its own in `onnxgrad.runtime.evaluate`. All keep the element type of their input.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxgrad.runtime.loops import Loop, Scan

Array = np.ndarray[Any, Any]


class Erf(OpRun):
    """The reference computes it in float32 whatever the input is."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x).astype(x.dtype),)


_erf = np.vectorize(math.erf, otypes=[np.float64])


class Gelu(OpRun):
    """The reference computes it through its own `Erf`."""

    op_domain = ""

    def _run(self, x: Array, approximate: str | None = None) -> tuple[Array]:
        if approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return ((0.5 * x * (1 + np.tanh(inner))).astype(x.dtype),)
        return ((0.5 * x * (1 + _erf(x / math.sqrt(2)))).astype(x.dtype),)


def _under(x: Array, spatial: Sequence[slice]) -> Array:
    """Return a part of the last axes of an array, as a view."""
    where: Any = (..., *spatial)
    return np.asarray(x[where])


class Window:
    """Sizes of a convolution or a pooling.

    Attributes:
        out: number of windows along each spatial axis.
        before, after: padding, as far as the windows reach.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        auto_pad: str | None,
        ceil_mode: int = 0,
    ) -> None:
        n = len(sizes)
        self.kernel = tuple(kernel)
        self.strides = tuple(strides or [1] * n)
        self.dilations = tuple(dilations or [1] * n)
        self.before, self.after = tuple((pads or [0] * 2 * n)[:n]), tuple((pads or [0] * 2 * n)[n:])
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilations, kernel, strict=True)]
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            self.out = tuple(-(-size // s) for size, s in zip(sizes, self.strides, strict=True))
            total = [
                max((o - 1) * s + r - size, 0)
                for o, s, r, size in zip(self.out, self.strides, reach, sizes, strict=True)
            ]
            small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
            self.before, self.after = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
            return
        if auto_pad == "VALID":
            self.before = self.after = (0,) * n
        out = []
        for size, r, s, b, a in zip(sizes, reach, self.strides, self.before, self.after, strict=True):
            free = size + b + a - r
            if free < 0:
                raise ValueError(f"a kernel that reaches over {r} elements, on {size + b + a}")
            count = (-(-free // s) if ceil_mode else free // s) + 1
            if ceil_mode and (count - 1) * s >= size + b:
                count -= 1  # the last window must begin inside
            out.append(count)
        self.out = tuple(out)

    def padded(self, x: Array, value: float) -> Array:
        """Return `x` with so much padding that every window is whole."""
        width = [(0, 0), (0, 0)]
        for size, k, s, d, b, o in zip(
            x.shape[2:], self.kernel, self.strides, self.dilations, self.before, self.out, strict=True
        ):
            width.append((b, max((o - 1) * s + d * (k - 1) + 1 - size - b, 0)))
        return np.pad(x, width, constant_values=value)

    def windows(self, padded: Array) -> Iterator[Array]:
        """Yield for each position in the kernel the elements of padded input that come under it."""
        for place in itertools.product(*map(range, self.kernel)):
            sizes = zip(place, self.dilations, self.out, self.strides, strict=True)
            yield _under(padded, [slice(p * d, p * d + (o - 1) * s + 1, s) for p, d, o, s in sizes])


class Conv(OpRun):
    """The reference multiplies through an index array, which takes ten times as long."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,  # noqa: ARG002 - the weight has it
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        window = Window(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
        parts = window.windows(window.padded(x, 0))
        g, (n, c), m = group or 1, x.shape[:2], w.shape[0]
        kernel = w.reshape(g, m // g, c // g, -1)
        if c == g == m:  # one channel each
            y = functools.reduce(np.add, (part * k for part, k in zip(parts, _channels(kernel, x.ndim), strict=True)))
        elif c // g >= 16:  # as many products as the kernel has places
            flat = (np.ascontiguousarray(part).reshape(n, g, c // g, -1) for part in parts)
            y = functools.reduce(np.add, (kernel[..., i] @ part for i, part in enumerate(flat)))
        else:  # one product
            columns = np.empty((n, g, c // g, kernel.shape[-1], math.prod(window.out)), x.dtype)
            for i, part in enumerate(parts):
                columns[:, :, :, i] = part.reshape(n, g, c // g, -1)
            y = kernel.reshape(g, m // g, -1) @ columns.reshape(n, g, -1, columns.shape[-1])
        y = y.reshape(n, m, *window.out)
        return (y if b is None else y + b.reshape(-1, *[1] * len(window.out)),)


def _channels(kernel: Array, rank: int) -> Iterator[Array]:
    """Yield for each place of a kernel with one input channel per group its factors, along axis 1."""
    for i in range(kernel.shape[-1]):
        yield kernel[..., i].reshape(-1, *[1] * (rank - 2))


class ConvTranspose(OpRun):
    """The reference mixes up channels where there are several groups."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,  # noqa: ARG002 - the weight has it
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        g, kernel, spatial = group or 1, w.shape[2:], x.shape[2:]
        rank = len(kernel)
        stride, dilation = strides or [1] * rank, dilations or [1] * rank
        extra = output_padding or [0] * rank
        whole = [
            s * (size - 1) + e + d * (k - 1) + 1
            for s, size, e, d, k in zip(stride, spatial, extra, dilation, kernel, strict=True)
        ]
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            out = list(output_shape or [size * s for size, s in zip(spatial, stride, strict=True)])[-rank:]
            total = [f - o for f, o in zip(whole, out, strict=True)]
            before = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total]
        else:
            pads = pads or [0] * 2 * rank
            before = list(pads[:rank])
            out = [f - a - z for f, a, z in zip(whole, pads[:rank], pads[rank:], strict=True)]
        n, c = x.shape[:2]
        parts = np.einsum(
            "ngip,giok->ngokp", x.reshape(n, g, c // g, -1), w.reshape(g, c // g, w.shape[1], -1), optimize=True
        )
        room = [max(f, a + o) for f, a, o in zip(whole, before, out, strict=True)]
        y = np.zeros((n, g * w.shape[1], *room), x.dtype)
        for i, place in enumerate(itertools.product(*map(range, kernel))):
            sizes = zip(place, dilation, stride, spatial, strict=True)
            part = _under(y, [slice(p * d, p * d + s * (size - 1) + 1, s) for p, d, s, size in sizes])
            part += parts[:, :, :, i].reshape(n, -1, *spatial)
        y = _under(y, [slice(a, a + o) for a, o in zip(before, out, strict=True)])
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


def _sum(arrays: Iterator[Array]) -> Array:
    return functools.reduce(np.add, arrays)


class AveragePool(OpRun):
    """The reference looks at each window in a Python loop."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        count_include_pad: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        window = Window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode or 0)
        inside = np.ones((1, 1, *x.shape[2:]), x.dtype)
        if count_include_pad:  # the padding that was asked for counts, what ceil_mode adds does not
            width = [(0, 0), (0, 0), *zip(window.before, window.after, strict=True)]
            counted = np.pad(inside, width, constant_values=1)
            bare = Window(counted.shape[2:], kernel_shape, strides, dilations, None, None, ceil_mode or 0)
            bare.out = window.out
            counted = bare.padded(counted, 0)
        else:
            counted = window.padded(inside, 0)
        total, count = (_sum(window.windows(padded)) for padded in (window.padded(x, 0), counted))
        return (np.asarray(total / count, x.dtype),)


class LpPool(OpRun):
    """The reference looks at each window in a Python loop."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        p: int | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        window = Window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode or 0)
        powers = window.padded(np.abs(x) ** (p or 2), 0)
        total = _sum(window.windows(powers))
        return (np.asarray(total ** (1 / (p or 2)), x.dtype),)


class MaxPool(OpRun):
    """The reference looks at each window in a Python loop, and mistakes the positions of maxima."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        storage_order: int | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array, ...]:
        window = Window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode or 0)
        least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        parts = window.windows(window.padded(x, least))
        if len(self.output) == 1:
            return (functools.reduce(np.maximum, parts),)
        within = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:], order="F" if storage_order else "C")
        places = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * (x.ndim - 2)) * within.size + within
        y, where = next(parts).copy(), window.windows(window.padded(places, -1))
        indices = next(where).copy()
        for part, place in zip(parts, where, strict=True):
            better = (part > y) | ((indices < 0) & (place >= 0))  # the first of equal ones, and never padding
            y, indices = np.where(better, part, y), np.where(better, place, indices)
        return y, indices


class GlobalMaxPool(OpRun):
    """The reference takes two axes in all, which is right for images only."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array, ...]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class Flatten(OpRun):
    """The reference cannot flatten what has no elements."""

    op_domain = ""

    def _run(self, x: Array, axis: int | None = None) -> tuple[Array, ...]:
        front = x.shape[: 1 if axis is None else axis]
        return (x.reshape(math.prod(front), math.prod(x.shape[len(front) :])),)


class Pad(OpRun):
    """The reference does not know negative widths, which take away."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        pads: Array,
        value: Array | None = None,
        axes: Array | None = None,
        mode: str | None = None,
    ) -> tuple[Array]:
        width = np.zeros((x.ndim, 2), np.int64)
        width[slice(None) if axes is None else axes] = np.reshape(pads, (2, -1)).T
        kept = tuple(slice(max(-a, 0), max(size + min(z, 0), 0)) for size, (a, z) in zip(x.shape, width, strict=True))
        constant: dict[str, Any] = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        return (np.pad(x[kept], np.maximum(width, 0), mode, **constant).astype(x.dtype),)  # type: ignore[call-overload]


class GatherElements(OpRun):
    """The reference takes a negative axis for another one, and has no more than 64 places to choose from."""

    op_domain = ""

    def _run(self, x: Array, indices: Array, axis: int | None = None) -> tuple[Array]:
        axis = (axis or 0) % x.ndim
        part = x[tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(indices.shape))]
        return (np.take_along_axis(part, np.where(indices < 0, indices + x.shape[axis], indices), axis),)


class Dropout(OpRun):
    """The reference does not know a ratio that is left out where there is a training mode."""

    op_domain = ""

    def _run(
        self, x: Array, ratio: Array | None = None, training: Array | None = None, seed: int | None = None
    ) -> tuple[Array, ...]:
        share = 0.5 if ratio is None else float(ratio)
        mask: Array = np.ones(x.shape, bool)
        if training is not None and training and share:
            mask = np.asarray(np.random.RandomState(seed).uniform(0, 1, x.shape)) >= share
            x = (x * mask / (1 - share)).astype(x.dtype)
        return (x, mask)[: len(self.onnx_node.output)]


class Adam(OpRun):
    """The reference gives float32 whatever the inputs are, if it updates more than one tensor."""

    op_domain = "ai.onnx.preview.training"

    def _run(
        self,
        rate: Array,
        count: Array,
        *inputs: Array,
        alpha: float | None = None,
        beta: float | None = None,
        epsilon: float | None = None,
        norm_coefficient: float | None = None,
        norm_coefficient_post: float | None = None,
    ) -> tuple[Array, ...]:
        a, b, tiny, before, behind = (
            float(value or 0) for value in (alpha, beta, epsilon, norm_coefficient, norm_coefficient_post)
        )
        n = len(inputs) // 4
        bias = np.sqrt(1 - b**count) / (1 - a**count) if count > 0 else 1.0
        new: list[list[Array]] = [[], [], []]
        for x, g, v, h in zip(*(inputs[i * n : (i + 1) * n] for i in range(4)), strict=True):
            slope = before * x + g
            v, h = a * v + (1 - a) * slope, b * h + (1 - b) * slope * slope
            moved = (1 - behind) * (x - rate * bias * v / (np.sqrt(h) + tiny))
            for kind, value in zip(new, (moved, v, h), strict=True):
                kind.append(np.asarray(value, x.dtype))
        return tuple(value for kind in new for value in kind)


OPERATORS: tuple[type[OpRun], ...] = (
    *(Erf, Flatten, Gelu, Conv, ConvTranspose, AveragePool, LpPool, MaxPool, GlobalMaxPool, Pad, GatherElements),
    *(Dropout, Adam),
    *(Loop, Scan),
)
