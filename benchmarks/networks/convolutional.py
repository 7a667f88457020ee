"""Networks of convolutions: ResNet-18, MobileNetV2, a U-Net, and a small classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.networks.base import Network, Weights


def _conv(rng: np.random.Generator, out: int, into: int, size: int) -> np.ndarray:
    """Return filters that keep the size of numbers through a Relu."""
    return rng.standard_normal((out, into, size, size)) * np.sqrt(2 / (into * size * size))


def _linear(rng: np.random.Generator, name: str, out: int, into: int) -> Weights:
    return {f"{name}_w": rng.standard_normal((out, into)) / np.sqrt(into), f"{name}_b": 0.1 * rng.standard_normal(out)}


def _statistics(rng: np.random.Generator, name: str, channels: int) -> Weights:
    return {
        f"{name}_scale": rng.uniform(0.5, 1.0, channels),
        f"{name}_bias": 0.1 * rng.standard_normal(channels),
        f"{name}_mean": 0.1 * rng.standard_normal(channels),
        f"{name}_var": rng.uniform(0.8, 1.2, channels),
    }


def _normalized(ops: Any, w: Any, name: str, x: Any, stride: int = 1, padding: int = 1, groups: int = 1) -> Any:
    x = ops.convolve(x, w[f"{name}_w"], stride, padding, groups)
    return ops.normalize(x, *(w[f"{name}_{what}"] for what in ("mean", "var", "scale", "bias")))


# --- ResNet-18 (He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2015) --------------------

#: Of each of the eight blocks: channels that come in, channels that go out, stride.
_BLOCKS = (
    (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1),
    (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1),
)  # fmt: skip


def resnet18() -> Network:
    """Return ResNet-18 for images of 224 × 224 and 1000 classes."""

    def draw(rng: np.random.Generator) -> Weights:
        weights: Weights = {"stem_w": _conv(rng, 64, 3, 7), **_statistics(rng, "stem", 64)}
        for i, (into, out, stride) in enumerate(_BLOCKS):
            convolutions = {f"block{i}a": (out, into, 3), f"block{i}b": (out, out, 3)}
            if stride > 1:
                convolutions[f"block{i}s"] = (out, into, 1)
            for name, (channels, before, size) in convolutions.items():
                weights[f"{name}_w"] = _conv(rng, channels, before, size)
                weights |= _statistics(rng, name, channels)
        return weights | _linear(rng, "classes", 1000, 512)

    def forward(ops: Any, w: Any, x: Any) -> Any:
        x = ops.relu(_normalized(ops, w, "stem", x, 2, 3))
        x = ops.max_pool(x, 3, 2, 1)
        for i, (_, _, stride) in enumerate(_BLOCKS):
            y = ops.relu(_normalized(ops, w, f"block{i}a", x, stride))
            y = _normalized(ops, w, f"block{i}b", y)
            shortcut = x if stride == 1 else _normalized(ops, w, f"block{i}s", x, stride, 0)
            x = ops.relu(y + shortcut)
        return ops.linear(ops.mean(x, (2, 3)), w["classes_w"], w["classes_b"])

    return Network("resnet18", (3, 224, 224), (1000,), draw, forward)


# --- MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov & Chen, Inverted residuals and linear bottlenecks, 2018) ----------

#: Of each group of blocks: how much wider one is inside, channels that go out, number of blocks, stride of the first.
_INVERTED = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def mobilenet() -> Network:
    """Return MobileNetV2 for images of 224 × 224 and 1000 classes."""
    blocks, into = [], 32
    for wider, out, count, stride in _INVERTED:
        for i in range(count):
            blocks.append((into, wider * into, out, stride if i == 0 else 1))
            into = out

    def draw(rng: np.random.Generator) -> Weights:
        weights: Weights = {"stem_w": _conv(rng, 32, 3, 3), **_statistics(rng, "stem", 32)}
        for i, (into, inside, out, _) in enumerate(blocks):
            convolutions = {"a": (inside, into, 1), "b": (inside, 1, 3), "c": (out, inside, 1)}
            for name, (channels, before, size) in convolutions.items():
                weights[f"block{i}{name}_w"] = _conv(rng, channels, before, size)
                weights |= _statistics(rng, f"block{i}{name}", channels)
        weights |= {"head_w": _conv(rng, 1280, 320, 1), **_statistics(rng, "head", 1280)}
        return weights | _linear(rng, "classes", 1000, 1280)

    def forward(ops: Any, w: Any, x: Any) -> Any:
        x = ops.relu6(_normalized(ops, w, "stem", x, 2))
        for i, (into, inside, out, stride) in enumerate(blocks):
            y = ops.relu6(_normalized(ops, w, f"block{i}a", x, 1, 0)) if inside > into else x
            y = ops.relu6(_normalized(ops, w, f"block{i}b", y, stride, 1, inside))
            y = _normalized(ops, w, f"block{i}c", y, 1, 0)
            x = x + y if stride == 1 and into == out else y
        x = ops.relu6(_normalized(ops, w, "head", x, 1, 0))
        return ops.linear(ops.mean(x, (2, 3)), w["classes_w"], w["classes_b"])

    return Network("mobilenet", (3, 224, 224), (1000,), draw, forward)


# --- U-Net (Ronneberger, Fischer & Brox, U-Net: convolutional networks for biomedical image segmentation, 2015) ---


def unet(size: int = 128, channels: int = 16, depth: int = 3) -> Network:
    """Return a U-Net for gray images: two convolutions at each of several scales, down and up again."""
    widths = [channels << i for i in range(depth + 1)]

    def pair(name: str) -> Callable[[Any, Any, Any], Any]:
        def apply(ops: Any, w: Any, x: Any) -> Any:
            return ops.relu(_normalized(ops, w, f"{name}b", ops.relu(_normalized(ops, w, f"{name}a", x))))

        return apply

    def draw(rng: np.random.Generator) -> Weights:
        weights: Weights = {}
        pairs = [(f"down{i}", widths[i], widths[i - 1] if i else 1) for i in range(depth + 1)]
        pairs += [(f"up{i}", widths[i], widths[i] + widths[i + 1]) for i in range(depth)]
        for name, out, into in pairs:
            weights |= {f"{name}a_w": _conv(rng, out, into, 3), f"{name}b_w": _conv(rng, out, out, 3)}
            weights |= _statistics(rng, f"{name}a", out) | _statistics(rng, f"{name}b", out)
        return weights | {"last_w": _conv(rng, 1, channels, 1)}

    def forward(ops: Any, w: Any, x: Any) -> Any:
        skipped = []
        for i in range(depth):
            x = pair(f"down{i}")(ops, w, x)
            skipped.append(x)
            x = ops.max_pool(x, 2, 2)
        x = pair(f"down{depth}")(ops, w, x)
        for i in reversed(range(depth)):
            x = pair(f"up{i}")(ops, w, ops.concat(skipped[i], ops.double(x)))
        return ops.convolve(x, w["last_w"])

    return Network("unet", (1, size, size), (1, size, size), draw, forward)


# --- a small classifier -----------------------------------------------------------------------------


def cnn() -> Network:
    """Return a classifier of gray images of 28 × 28 in 10 classes: two convolutions, each pooled, and two layers."""

    def draw(rng: np.random.Generator) -> Weights:
        return {
            "conv1_w": _conv(rng, 8, 1, 3),
            "conv2_w": _conv(rng, 16, 8, 3),
            **_linear(rng, "hidden", 64, 16 * 7 * 7),
            **_linear(rng, "classes", 10, 64),
        }

    def forward(ops: Any, w: Any, x: Any) -> Any:
        x = ops.max_pool(ops.relu(ops.convolve(x, w["conv1_w"], 1, 1)), 2, 2)
        x = ops.max_pool(ops.relu(ops.convolve(x, w["conv2_w"], 1, 1)), 2, 2)
        x = x.reshape(x.shape[0], 16 * 7 * 7)
        x = ops.relu(ops.linear(x, w["hidden_w"], w["hidden_b"]))
        return ops.linear(x, w["classes_w"], w["classes_b"])

    return Network("cnn", (1, 28, 28), (10,), draw, forward)
