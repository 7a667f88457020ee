"""Networks of sequences: a transformer's encoder, and an LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.networks.base import Network, Weights


def _matrix(rng: np.random.Generator, out: int, into: int) -> np.ndarray:
    return rng.standard_normal((out, into)) / np.sqrt(into)


def transformer(layers: int = 4, width: int = 256, tokens: int = 128, heads: int = 8, outputs: int = 8) -> Network:
    """Return the encoder of a transformer, normalized before each part, with a linear layer behind the mean token.

    Vaswani et al., Attention is all you need, 2017; normalization in front: Xiong et al., On layer normalization in
    the transformer architecture, 2020.
    """

    def draw(rng: np.random.Generator) -> Weights:
        weights: Weights = {}
        wide = 4 * width
        shapes = {"qkv": (3 * width, width), "out": (width, width), "up": (wide, width), "down": (width, wide)}
        for i in range(layers):
            for name, (out, into) in shapes.items():
                weights[f"{name}{i}_w"] = _matrix(rng, out, into)
                weights[f"{name}{i}_b"] = 0.1 * rng.standard_normal(out)
            for name in ("first", "second"):
                weights[f"{name}{i}_scale"] = rng.uniform(0.8, 1.2, width)
                weights[f"{name}{i}_bias"] = 0.1 * rng.standard_normal(width)
        return weights | {"last_w": _matrix(rng, outputs, width), "last_b": 0.1 * rng.standard_normal(outputs)}

    def forward(ops: Any, w: Any, x: Any) -> Any:
        def linear(name: str, x: Any) -> Any:
            return ops.linear(x, w[f"{name}_w"], w[f"{name}_b"])

        for i in range(layers):
            y = ops.norm(x, w[f"first{i}_scale"], w[f"first{i}_bias"])
            x = x + linear(f"out{i}", ops.attend(linear(f"qkv{i}", y), heads))
            y = ops.norm(x, w[f"second{i}_scale"], w[f"second{i}_bias"])
            x = x + linear(f"down{i}", ops.gelu(linear(f"up{i}", y)))
        return linear("last", ops.mean(x, (1,)))

    return Network("transformer", (tokens, width), (outputs,), draw, forward)


def lstm(steps: int = 100, width: int = 16, states: int = 64, outputs: int = 4) -> Network:
    """Return an LSTM with a linear layer behind its last state."""

    def draw(rng: np.random.Generator) -> Weights:
        return {
            "w_in": _matrix(rng, 4 * states, width),
            "w_state": _matrix(rng, 4 * states, states),
            "bias": 0.1 * rng.standard_normal(4 * states),
            "last_w": _matrix(rng, outputs, states),
            "last_b": 0.1 * rng.standard_normal(outputs),
        }

    def forward(ops: Any, w: Any, x: Any) -> Any:
        h = ops.lstm(x, w["w_in"], w["w_state"], w["bias"])
        return ops.linear(h[:, -1], w["last_w"], w["last_b"])

    return Network("lstm", (steps, width), (outputs,), draw, forward)
