"""Operators on regions of images for the tests, straight from their definitions.

ONNX's reference has no `MaxRoiPool`, and a `DeformConv` for two axes only, which divides by zero where one has size 1.
The tests of the rules hold what is here to onnxruntime in float32.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_resize


def half_up(x: float) -> int:
    """Round halves away from zero, as C does."""
    return int(np.sign(x) * np.floor(abs(x) + 0.5))


class MaxRoiPool(OpRun):
    op_domain = ""

    def _run(self, x: np.ndarray, rois: np.ndarray, pooled_shape: Any, spatial_scale: float = 1.0) -> Any:
        sizes = x.shape[2:]
        y = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
        for r, (image, *corners) in enumerate(rois):
            x1, y1, x2, y2 = (half_up(c * spatial_scale) for c in corners)
            width = [max(y2 - y1 + 1, 1) / pooled_shape[0], max(x2 - x1 + 1, 1) / pooled_shape[1]]
            for at in itertools.product(*map(range, pooled_shape)):
                bins = []
                for p, w, first, size in zip(at, width, (y1, x1), sizes, strict=True):
                    ends = int(np.floor(p * w)) + first, int(np.ceil((p + 1) * w)) + first
                    bins.append(slice(*np.clip(ends, 0, size)))
                part = x[int(image), :, bins[0], bins[1]]
                if part.size:
                    y[r, :, at[0], at[1]] = part.max(axis=(1, 2))
        return (y,)


class DeformConv(OpRun):
    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        w,
        offset,
        bias=None,
        mask=None,
        dilations=None,
        group=1,
        kernel_shape=None,
        offset_group=1,
        pads=None,
        strides=None,
    ):
        space, kernel, out = x.shape[2:], w.shape[2:], offset.shape[2:]
        n = len(space)
        strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * 2 * n
        shift = offset.reshape(x.shape[0], offset_group, *kernel, n, *out)
        factor = np.ones((x.shape[0], offset_group, *kernel, *out)) if mask is None else mask
        factor = factor.reshape(x.shape[0], offset_group, *kernel, *out)
        y = np.zeros((x.shape[0], w.shape[0], *out), x.dtype)
        inputs, outputs, shared = w.shape[1], w.shape[0] // group, x.shape[1] // offset_group
        for b, o, c in np.ndindex(x.shape[0], w.shape[0], inputs):
            channel = o // outputs * inputs + c
            for i in np.ndindex(*out):
                for k in np.ndindex(*kernel):
                    place = (b, channel // shared, *k)
                    at = [strides[d] * i[d] + dilations[d] * k[d] - pads[d] + shift[(*place, d, *i)] for d in range(n)]
                    y[(b, o, *i)] += w[(o, c, *k)] * factor[(*place, *i)] * _interpolated(x[b, channel], at)
        return (y if bias is None else y + bias.reshape(-1, *[1] * n),)


def _interpolated(image: np.ndarray, at: list[float]) -> float:
    """Linear interpolation, with zeros around the image."""
    total = 0.0
    for corner in itertools.product((0, 1), repeat=len(at)):
        first = [int(np.floor(u)) for u in at]
        index = tuple(f + c for f, c in zip(first, corner, strict=True))
        if all(0 <= i < size for i, size in zip(index, image.shape, strict=True)):
            weights = [u - f if c else 1 - (u - f) for u, f, c in zip(at, first, corner, strict=True)]
            total += float(np.prod(weights)) * float(image[index])
    return total


class Resize(op_resize.Resize):
    """ONNX's reference computes the weights of cubic interpolation in float32, the type of the attribute."""

    op_domain = ""

    def _run(self, *inputs: Any, cubic_coeff_a: float = -0.75, **attrs: Any) -> Any:
        return super()._run(*inputs, cubic_coeff_a=float(cubic_coeff_a), **attrs)


OPERATORS = [MaxRoiPool, DeformConv, Resize]
