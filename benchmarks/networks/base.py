"""What a network is here."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

#: Arrays by name, all float32.
Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Network:
    """A network that every system can run.

    Attributes:
        name: its name, also that of its file.
        sample: shape of one sample of its input.
        output: shape of one sample of its output.
        draw: makes its weights from random numbers.
        forward: ``forward(ops, weights, x)`` is the network, with the operations of `benchmarks.networks.torch_ops`
            or `benchmarks.networks.jax_ops`.
        sizes: widths of the layers, where it is fully connected with tanh between the layers.
        needs: what must be installed to make a model of it.
    """

    name: str
    sample: tuple[int, ...]
    output: tuple[int, ...]
    draw: Callable[[np.random.Generator], Weights]
    forward: Callable[[Any, Any, Any], Any]
    sizes: tuple[int, ...] = ()
    needs: tuple[str, ...] = ("torch", "onnxscript")

    @cached_property
    def weights(self) -> Weights:
        """The weights, the same in every process."""
        return {name: np.asarray(w, np.float32) for name, w in self.draw(self._random("weights")).items()}

    def input(self, batch: int) -> np.ndarray:
        """Return samples of the input, the same in every process."""
        return self._random("input").standard_normal((batch, *self.sample), np.float32)

    def cotangent(self, batch: int) -> np.ndarray:
        """Return an array shaped like the output."""
        return self._random("cotangent").standard_normal((batch, *self.output), np.float32)

    def direction(self, batch: int) -> np.ndarray:
        """Return an array shaped like the input."""
        return self._random("direction").standard_normal((batch, *self.sample), np.float32)

    def _random(self, what: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{self.name} {what}".encode()))


def is_statistic(name: str) -> bool:
    """Whether a weight is a mean or variance of a batch normalization, which no training step changes."""
    return name.endswith(("_mean", "_var"))
