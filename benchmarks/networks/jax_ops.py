"""The operations of the networks, in JAX."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import Array, lax
from jax import numpy as jnp

tanh = jnp.tanh
relu = jax.nn.relu
relu6 = jax.nn.relu6

#: Added to variances, as PyTorch does.
_EPSILON = 1e-5


def linear(x: Array, w: Array, b: Array) -> Array:
    """Return ``x wᵀ + b``."""
    return x @ w.T + b


def gelu(x: Array) -> Array:
    """Return ``x Φ(x)``, exactly."""
    return jax.nn.gelu(x, approximate=False)


def convolve(x: Array, w: Array, stride: int = 1, padding: int = 0, groups: int = 1) -> Array:
    """Return the cross-correlation of images ``(N, C, H, W)`` with filters ``(D, C / groups, h, w)``."""
    layout = ("NCHW", "OIHW", "NCHW")
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=layout, feature_group_count=groups)


def normalize(x: Array, mean: Array, var: Array, scale: Array, bias: Array) -> Array:
    """Return a batch normalization as at inference."""
    factor = scale * lax.rsqrt(var + _EPSILON)
    return x * factor[:, None, None] + (bias - mean * factor)[:, None, None]


def norm(x: Array, scale: Array, bias: Array) -> Array:
    """Return a layer normalization over the last axis."""
    return jax.nn.standardize(x, epsilon=_EPSILON) * scale + bias


def max_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    """Return the largest element of each window."""
    pad = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, size, size), (1, 1, stride, stride), pad)


def double(x: Array) -> Array:
    """Return images of twice the height and width, each pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, -1), 2, -2)


def attend(x: Array, heads: int) -> Array:
    """Return the attention of queries, keys and values, which lie side by side in the last axis of ``(N, T, 3 C)``."""
    q, k, v = (part.reshape(*part.shape[:-1], heads, -1) for part in jnp.split(x, 3, -1))
    return jax.nn.dot_product_attention(q, k, v).reshape(*x.shape[:-1], -1)


def lstm(x: Array, w_in: Array, w_state: Array, bias: Array) -> Array:
    """Return the states ``(N, T, H)`` of an LSTM over ``(N, T, C)``, from zero; gates in the order i, f, g, o."""

    def step(carry: tuple[Array, Array], at: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = carry
        i, f, g, o = jnp.split(at + h @ w_state.T, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[0], w_state.shape[1]), x.dtype)
    _, states = lax.scan(step, (zero, zero), jnp.swapaxes(x @ w_in.T + bias, 0, 1))
    return jnp.swapaxes(states, 0, 1)


def mean(x: Array, axes: Sequence[int]) -> Array:
    """Return the mean over some axes."""
    return x.mean(tuple(axes))


def concat(*x: Array) -> Array:
    """Return images side by side in their channels."""
    return jnp.concatenate(x, 1)
