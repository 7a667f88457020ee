"""The operations of the networks, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import (
    batch_norm,
    conv2d,
    gelu,
    layer_norm,
    linear,
    max_pool2d,
    relu,
    relu6,
    scaled_dot_product_attention,
)

tanh = torch.tanh


def convolve(x: Tensor, w: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """Return the cross-correlation of images ``(N, C, H, W)`` with filters ``(D, C / groups, h, w)``."""
    return conv2d(x, w, None, stride, padding, groups=groups)


def normalize(x: Tensor, mean: Tensor, var: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return a batch normalization as at inference."""
    return batch_norm(x, mean, var, scale, bias)


def norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return a layer normalization over the last axis."""
    return layer_norm(x, x.shape[-1:], scale, bias)


def max_pool(x: Tensor, size: int, stride: int, padding: int = 0) -> Tensor:
    """Return the largest element of each window."""
    return max_pool2d(x, size, stride, padding)


def double(x: Tensor) -> Tensor:
    """Return images of twice the height and width, each pixel four times."""
    return torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def attend(x: Tensor, heads: int) -> Tensor:
    """Return the attention of queries, keys and values, which lie side by side in the last axis of ``(N, T, 3 C)``."""
    split = [part.unflatten(-1, (heads, -1)).transpose(-3, -2) for part in x.chunk(3, -1)]
    return scaled_dot_product_attention(*split).transpose(-3, -2).flatten(-2)


def lstm(x: Tensor, w_in: Tensor, w_state: Tensor, bias: Tensor) -> Tensor:
    """Return the states ``(N, T, H)`` of an LSTM over ``(N, T, C)``, from zero; gates in the order i, f, g, o."""
    zero = x.new_zeros(1, x.shape[0], w_state.shape[1])
    weights = [w_in, w_state, bias, torch.zeros_like(bias)]
    states, _, _ = torch.lstm(x, (zero, zero), weights, True, 1, 0.0, False, False, batch_first=True)
    return states


def mean(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the mean over some axes."""
    return x.mean(tuple(axes))


def concat(*x: Tensor) -> Tensor:
    """Return images side by side in their channels."""
    return torch.cat(x, 1)


__all__ = [
    "attend",
    "concat",
    "convolve",
    "double",
    "gelu",
    "linear",
    "lstm",
    "max_pool",
    "mean",
    "norm",
    "normalize",
    "relu",
    "relu6",
    "tanh",
]
