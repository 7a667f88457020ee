"""JAX's models: plain functions, and layers of Flax; trained for a few steps, and exported by jax2onnx."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax2onnx
import numpy as np
import onnx
from flax import nnx
from jax import Array

from tests.frameworks.comparing import Batch, Case, DType, Export

SAMPLES = 3
Model = Callable[[Array], Array]
#: ``model = make(dtype)``: a function, and what can be trained in it.
Maker = Callable[[Any], nnx.Module]


class MLP(nnx.Module):
    """Nothing but arrays and functions of jax.numpy."""

    def __init__(self, dtype: Any) -> None:
        sizes = (4, 8, 6, 2)
        keys = jax.random.split(jax.random.key(0), 3)
        self.weights = nnx.List(
            nnx.Param(jax.random.normal(k, (a, b), dtype) / np.sqrt(a))
            for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
        )
        self.biases = nnx.List(nnx.Param(jnp.zeros(b, dtype)) for b in sizes[1:])

    def __call__(self, x: Array) -> Array:
        h = jnp.tanh(x @ self.weights[0][...] + self.biases[0][...])
        h = jax.nn.softplus(h @ self.weights[1][...] + self.biases[1][...])
        return h @ self.weights[2][...] + self.biases[2][...]


class CNN(nnx.Module):
    """Flax's layers; images are (N, height, width, channels) here."""

    def __init__(self, dtype: Any) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(2, 4, (3, 3), param_dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(4, epsilon=2.0**-17, param_dtype=dtype, rngs=rngs)
        self.second = nnx.Conv(4, 4, (3, 3), strides=2, param_dtype=dtype, rngs=rngs)
        self.last = nnx.Linear(4, 2, param_dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        h = nnx.max_pool(nnx.tanh(self.norm(self.first(x))), window_shape=(2, 2), strides=(2, 2))
        return self.last(jnp.mean(nnx.elu(self.second(h)), axis=(1, 2)))


class Recurrent(nnx.Module):
    """A cell of Flax in `jax.lax.scan`, which becomes a loop."""

    def __init__(self, cell: type, dtype: Any) -> None:
        rngs = nnx.Rngs(0)
        self.cell = cell(3, 4, param_dtype=dtype, rngs=rngs)
        self.last = nnx.Linear(4, 2, param_dtype=dtype, rngs=rngs)
        self.states = 2 if cell is nnx.LSTMCell else 1

    def __call__(self, x: Array) -> Array:
        zeros = jnp.zeros((x.shape[0], 4), x.dtype)
        state, _ = jax.lax.scan(self.cell, (zeros, zeros) if self.states == 2 else zeros, x.swapaxes(0, 1))
        return self.last(state[1] if self.states == 2 else state)


class Transformer(nnx.Module):
    """One block with attention, in Flax's layers."""

    def __init__(self, dtype: Any) -> None:
        rngs = nnx.Rngs(0)
        options = {"param_dtype": dtype, "rngs": rngs}
        self.first, self.last = nnx.Linear(3, 8, **options), nnx.Linear(8, 2, **options)
        self.norms = nnx.List(nnx.LayerNorm(8, **options) for _ in range(2))
        self.qkv, self.out = nnx.Linear(8, 24, **options), nnx.Linear(8, 8, **options)
        self.wide, self.narrow = nnx.Linear(8, 16, **options), nnx.Linear(16, 8, **options)
        self.positions = nnx.Param(jax.random.normal(jax.random.key(1), (5, 8), dtype))

    def __call__(self, x: Array) -> Array:
        h = self.first(x) + self.positions[...]
        h = h + self.out(self.attend(self.qkv(self.norms[0](h))))
        h = h + self.narrow(nnx.gelu(self.wide(self.norms[1](h)), approximate=False))
        return self.last(h.mean(axis=1))

    def attend(self, qkv: Array) -> Array:
        """JAX's own `dot_product_attention` takes its softmax in float32, whatever it is given."""
        n, length, _ = qkv.shape
        q, k, v = (part.reshape(n, length, 2, 4) for part in jnp.split(qkv, 3, axis=-1))
        weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / 2, axis=-1)
        return jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, length, 8)


MODELS: dict[str, tuple[Maker, tuple[int, ...]]] = {
    "MLP": (MLP, (4,)),
    "CNN": (CNN, (6, 6, 2)),
    "LSTM": (functools.partial(Recurrent, nnx.LSTMCell), (5, 3)),
    "GRU": (functools.partial(Recurrent, nnx.GRUCell), (5, 3)),
    "transformer": (Transformer, (5, 3)),
}


@functools.cache
def trained(name: str) -> nnx.Module:
    """Return a model in float64 after some steps down the squared error of a smooth target of its inputs."""
    make, shape = MODELS[name]
    x = np.random.default_rng(0).normal(size=(16, *shape))
    target = np.sin(x.reshape(16, -1).sum(1, keepdims=True))

    def loss(model: Any) -> Array:
        return jnp.mean((model(x) - target) ** 2)

    @nnx.jit
    def step(model: Any) -> None:
        slope = nnx.grad(loss)(model)
        nnx.update(model, jax.tree.map(lambda p, g: p - 0.05 * g, nnx.state(model, nnx.Param), slope))

    with jax.enable_x64(True):
        model = make(jnp.float64)
        model.train()
        for _ in range(10):
            step(model)
    model.eval()
    return model


@functools.cache
def in_type(name: str, dtype: DType) -> nnx.Module:
    """Return a trained model with all its numbers in a type."""
    with jax.enable_x64(dtype == "float64"):
        graph, state = nnx.split(trained(name))
        return nnx.merge(graph, jax.tree.map(lambda a: jnp.asarray(np.asarray(a), dtype), state))


def batch_of(name: str, dtype: DType) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(SAMPLES, *MODELS[name][1])).astype(dtype)


@functools.cache
def own(name: str, dtype: DType) -> dict[str, np.ndarray]:
    """Return what JAX says: value, Jacobian, gradient and Hessian, each sample by itself."""
    model, x = in_type(name, dtype), batch_of(name, dtype)

    def one(x: Array) -> Array:
        return model(x[None])[0]

    def first(x: Array) -> Array:
        return one(x).reshape(-1)[0]

    @jax.jit
    def everything(x: Array) -> dict[str, Array]:
        asked = {"jacobian": jax.jacrev(one), "gradient": jax.grad(first), "hessian": jax.hessian(first)}
        return {"value": model(x), **{name: jax.vmap(derivative)(x) for name, derivative in asked.items()}}

    with jax.enable_x64(dtype == "float64"):
        return {name: np.asarray(found) for name, found in everything(x).items()}


def exported(name: str, dtype: DType, batch: Batch) -> onnx.ModelProto:
    """Return the model as jax2onnx writes it.

    JAX keeps the body of a scan that it has traced, for the next call with the same shapes. One traced under
    jax2onnx's patches is of operators that JAX cannot run, so nothing that is kept goes in here, or out.
    """
    size = "B" if batch == "dynamic" else SAMPLES
    with warnings.catch_warnings():  # what jax2onnx and Flax say of each other, and Flax of its statistics in float32
        warnings.simplefilter("ignore")
        model = in_type(name, dtype)
        jax.clear_caches()
        try:
            return jax2onnx.to_onnx(
                model,
                inputs=[(size, *MODELS[name][1])],
                input_names=["x"],
                output_names=["y"],
                enable_double_precision=dtype == "float64",
            )
        finally:
            jax.clear_caches()


def case(name: str, dtype: DType, batch: Batch) -> Case:
    def make() -> Export:
        return Export(exported(name, dtype, batch), {"x": batch_of(name, dtype)}, **own(name, dtype))

    return Case("JAX", "jax2onnx", name, dtype, batch, make)


CASES = [
    case(name, dtype, batch) for name in MODELS for dtype in ("float64", "float32") for batch in ("dynamic", "static")
]
