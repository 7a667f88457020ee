"""Convolution and pooling in float64 for the tests, straight from the definitions in the ONNX standard.

onnxruntime has no kernels of them in float64, and those of ONNX's reference are wrong in places: grouped
`ConvTranspose`, `AveragePool` and `LpPool` where padding or `ceil_mode` cut windows short, `GlobalMaxPool` in one
dimension; and there is no `GlobalLpPool`. The tests of the rules hold what is here to onnxruntime in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Ints = Sequence[int] | None


def geometry(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Ints,
    dilations: Ints,
    pads: Ints,
    auto_pad: str | None,
    ceil: bool,
) -> list[dict[str, Any]]:
    """Return, for each spatial axis, the elements of each window (positions in the input, which may lie outside it)."""
    n = len(size)
    result = []
    for a, (length, k) in enumerate(zip(size, kernel, strict=True)):
        s, d = (strides or [1] * n)[a], (dilations or [1] * n)[a]
        reach = d * (k - 1) + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-length // s)
            total = max(0, (count - 1) * s + reach - length)
            small, large = total // 2, total - total // 2
            p, q = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        else:
            p, q = (0, 0) if auto_pad == "VALID" or not pads else (pads[a], pads[a + n])
            room = length + p + q - reach
            count = (-(-room // s) if ceil else room // s) + 1
            if ceil and (count - 1) * s >= length + p:
                count -= 1
        position = s * np.arange(count)[:, None] + d * np.arange(k) - p
        inside = (position >= 0) & (position < length)
        result.append({"position": position, "inside": inside, "padded": position < length + q, "before": p})
    return result


def windows(x: np.ndarray, axes: list[dict[str, Any]], fill: float) -> np.ndarray:
    """Return all windows, shape ``(N, C, *count, *kernel)``."""
    n = len(axes)
    for a, axis in enumerate(axes):
        place = 2 + 2 * a
        length = x.shape[place]
        x = np.concatenate([x, np.full((*x.shape[:place], 1, *x.shape[place + 1 :]), fill, x.dtype)], axis=place)
        x = np.take(x, np.where(axis["inside"], axis["position"], length), axis=place)
    return x.transpose(0, 1, *range(2, 2 + 2 * n, 2), *range(3, 3 + 2 * n, 2))


def outer(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the product of arrays ``(count, kernel)``, shape ``(*counts, *kernels)``, as the windows have it."""
    n = len(arrays)
    result = np.ones(())
    for a, array in enumerate(arrays):
        shape = [1] * (2 * n)
        shape[a], shape[n + a] = array.shape
        result = result * array.reshape(shape)
    return result


class Conv(OpRun):
    op_domain = ""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=1, kernel_shape=None, pads=None, strides=None):
        axes = geometry(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad, False)
        n = len(axes)
        cols = windows(x, axes, 0.0)
        cols = cols.reshape(x.shape[0], group, x.shape[1] // group, *cols.shape[2:])
        kernels = w.reshape(group, w.shape[0] // group, *w.shape[1:])
        m, k = list(range(10, 10 + n)), list(range(20, 20 + n))
        y = np.einsum(cols, [0, 1, 2, *m, *k], kernels, [1, 3, 2, *k], [0, 1, 3, *m])
        y = y.reshape(x.shape[0], w.shape[0], *y.shape[3:])
        return (y if b is None else y + b.reshape(-1, *[1] * n),)


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(
        self, x, w, b=None, auto_pad=None, dilations=None, group=1, kernel_shape=None, output_padding=None,
        output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        n = x.ndim - 2
        s, d, extra = strides or [1] * n, dilations or [1] * n, output_padding or [0] * n
        size, kernel = x.shape[2:], w.shape[2:]
        full = [s[a] * (size[a] - 1) + d[a] * (kernel[a] - 1) + 1 + extra[a] for a in range(n)]
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            target = list(output_shape) if output_shape else [min(size[a] * s[a], full[a]) for a in range(n)]
            total = [max(0, full[a] - target[a]) for a in range(n)]
            before = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total]
        else:
            pads = [0] * 2 * n if auto_pad == "VALID" or not pads else pads
            target, before = [full[a] - pads[a] - pads[a + n] for a in range(n)], pads[:n]
        images = x.reshape(x.shape[0], group, x.shape[1] // group, *size)
        kernels = w.reshape(group, w.shape[0] // group, *w.shape[1:])
        whole = np.zeros(
            (x.shape[0], group, w.shape[1], *(max(f, t + p) for f, t, p in zip(full, target, before, strict=True)))
        )
        for k in itertools.product(*map(range, kernel)):
            part = np.einsum("ngc...,gco->ngo...", images, kernels[(..., *k)])
            where = (slice(d[a] * k[a], d[a] * k[a] + s[a] * (size[a] - 1) + 1, s[a]) for a in range(n))
            whole[(..., *where)] += part
        y = whole[(..., *(slice(p, p + t) for p, t in zip(before, target, strict=True)))]
        y = y.reshape(x.shape[0], group * w.shape[1], *target)
        return (y if b is None else y + b.reshape(-1, *[1] * n),)


class AveragePool(OpRun):
    op_domain = ""

    def _run(
        self, x, auto_pad=None, ceil_mode=0, count_include_pad=0, dilations=None, kernel_shape=None, pads=None,
        strides=None,
    ):  # fmt: skip
        axes = geometry(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
        n = len(axes)
        inside = outer([axis["padded" if count_include_pad else "inside"] for axis in axes])
        over = tuple(range(-n, 0))
        return (windows(x, axes, 0.0).sum(over) / inside.sum(over),)


class LpPool(OpRun):
    op_domain = ""

    def _run(self, x, auto_pad=None, ceil_mode=0, dilations=None, kernel_shape=None, p=2, pads=None, strides=None):
        axes = geometry(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
        return ((windows(np.abs(x) ** p, axes, 0.0).sum(tuple(range(-len(axes), 0)))) ** (1 / p),)


class GlobalMaxPool(OpRun):
    op_domain = ""

    def _run(self, x):
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


class GlobalAveragePool(OpRun):
    op_domain = ""

    def _run(self, x):
        return (x.mean(tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):
    op_domain = ""

    def _run(self, x, p=2):
        return ((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


OPERATORS = [Conv, ConvTranspose, AveragePool, LpPool, GlobalMaxPool, GlobalAveragePool, GlobalLpPool]
