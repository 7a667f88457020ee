"""Keras' models on one backend, trained for a few steps, exported, and differentiated by the backend itself.

This is imported in processes of their own, one for each backend (see `tests.frameworks.models_keras`), since Keras
takes its backend from the environment variable KERAS_BACKEND, once.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import onnx
from keras import layers

import onnxgrad
from tests.frameworks import recipes
from tests.frameworks.comparing import Batch, DType, Export

BACKEND = keras.backend.backend()
SAMPLES = 3


def _normalization(shape: tuple[int, ...]) -> layers.Layer:
    """A layer that has its means and variances from data."""
    layer = layers.Normalization(name="normalization")
    layer.adapt(np.random.default_rng(2).normal(1, 2, size=(64, *shape)))
    return layer


def _mlp() -> keras.Model:
    return keras.Sequential(
        [
            layers.Input((5,)),
            _normalization((5,)),
            layers.Dense(8, "tanh"),
            layers.Dropout(0.2),
            layers.Dense(7, "gelu"),
            layers.BatchNormalization(),
            layers.Dense(3, "softmax"),
        ]
    )


def _images() -> keras.Model:
    """Channels are last. The exporter of JAX writes pooling as onnxruntime cannot run it, so it is left out there."""
    pooling = [] if BACKEND == "jax" else [layers.MaxPooling2D(), layers.AveragePooling2D(2, strides=1, padding="same")]
    return keras.Sequential(
        [
            layers.Input((8, 6, 2)),
            layers.Rescaling(0.5, offset=0.1),
            layers.Conv2D(4, 3, padding="same", activation="silu"),
            layers.BatchNormalization(),
            *pooling,
            layers.SeparableConv2D(5, 3, strides=2, padding="same", activation="elu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )


def _series() -> keras.Model:
    return keras.Sequential(
        [
            layers.Input((9, 2)),
            layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="silu"),
            layers.SeparableConv1D(5, 3, activation="softplus"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(2),
        ]
    )


def _segments() -> keras.Model:
    """A small U-Net."""
    x = layers.Input((4, 4, 1))
    fine = layers.Conv2D(3, 3, padding="same", activation="tanh")(x)
    coarse = layers.Conv2D(4, 3, strides=2, padding="same", activation="tanh")(fine)
    up = layers.Conv2DTranspose(3, 3, strides=2, padding="same")(coarse)
    both = layers.Concatenate()([fine, up])
    return keras.Model(x, layers.Flatten()(layers.Conv2D(1, 1)(both)))


def _lstm() -> keras.Model:
    return keras.Sequential(
        [layers.Input((4, 2)), layers.LSTM(3, return_sequences=True), layers.LSTM(3), layers.Dense(2)]
    )


def _gru() -> keras.Model:
    """JAX's exporter knows no layer that goes backward."""
    gru = layers.GRU(3)
    return keras.Sequential(
        [layers.Input((4, 2)), gru if BACKEND == "jax" else layers.Bidirectional(gru), layers.Dense(2)]
    )


def _attention() -> keras.Model:
    x = layers.Input((4, 6))
    attended = layers.MultiHeadAttention(2, 3)(x, x)
    h = layers.LayerNormalization()(x + attended)
    h = layers.LayerNormalization()(h + layers.Dense(6)(layers.Dense(8, "gelu")(h)))
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))


#: What makes a model, by what its row is called.
MODELS: dict[str, Callable[[], keras.Model]] = {
    "MLP": _mlp,
    "CNN": _images,
    "1-D CNN": _series,
    "U-Net": _segments,
    "LSTM": _lstm,
    "GRU": _gru,
    "attention": _attention,
}


def set_type(dtype: DType) -> None:
    """Set the type of what is made from here on: the default of numbers, and that of layers."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@functools.cache
def trained(name: str, dtype: DType) -> keras.Model:
    """Return a model after some steps toward a smooth target of its inputs; the target is the same for all types."""
    keras.utils.set_random_seed(0)
    set_type(dtype)
    model = MODELS[name]()
    x = np.random.default_rng(3).normal(size=(16, *model.input_shape[1:]))
    wanted = np.sin(x.reshape(16, -1).sum(1) / np.sqrt(x[0].size))
    target = np.repeat(wanted[:, None], model.output_shape[1], axis=1)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    model.fit(x.astype(dtype), target.astype(dtype), batch_size=4, epochs=1, verbose=0)
    return model


def export(name: str, dtype: DType, batch: Batch) -> Export:
    """Return a model as Keras exports it, and what the backend says of it."""
    set_type(dtype)
    model = trained(name, dtype)
    x = np.random.default_rng(1).normal(size=(SAMPLES, *model.input_shape[1:])).astype(dtype)
    return Export(exported(model, dtype, batch), {"x": x}, **own(name, dtype, x.tobytes()))


def exported(model: keras.Model, dtype: DType, batch: Batch) -> onnx.ModelProto:
    """Return a model as Keras exports it; the input is called x."""
    size = SAMPLES if batch == "static" else None
    if BACKEND == "tensorflow":
        keep_statistics(model)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's tracing, and of names that numpy is to have
        file = str(Path(folder) / "model.onnx")
        shape = (size, *model.input_shape[1:])
        model.export(
            file, format="onnx", verbose=False, input_signature=[keras.InputSpec(shape=shape, dtype=dtype, name="x")]
        )
        return onnx.load(file)


def keep_statistics(model: keras.Model) -> None:
    """Make the statistics of `Normalization` layers constants: tf2onnx makes inputs of the tensors that they are."""
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.mean, layer.variance = np.array(layer.mean), np.array(layer.variance)


# --- derivatives by the backends ------------------------------------------------------------------


@functools.cache
def own(name: str, dtype: DType, data: bytes) -> dict[str, np.ndarray]:
    """Return what the backend says: value, Jacobian, gradient and Hessian, each sample by itself."""
    model = trained(name, dtype)
    x = np.frombuffer(data, dtype).reshape(SAMPLES, *model.input_shape[1:])
    found = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}[BACKEND](model, x)
    return {key: np.asarray(array) for key, array in found.items()}


def _by_tensorflow(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    import tensorflow as tf

    @tf.function
    def all_at_once(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(x)
                y = model(x, training=False)
                first = y[:, 0]
            gradient = inner.gradient(first, x)
        return {
            "value": y,
            "jacobian": inner.batch_jacobian(y, x, experimental_use_pfor=False),
            "gradient": gradient,
            "hessian": outer.batch_jacobian(gradient, x, experimental_use_pfor=False),
        }

    with mock.patch.object(tf.nn, "moments", _moments):
        return {key: found.numpy() for key, found in all_at_once(tf.constant(x)).items()}


def _moments(x: Any, axes: Any, keepdims: bool = False) -> Any:
    """Mean and variance, as `tf.nn.moments` gives them, which stops the gradient of the mean in the variance.

    That is right for first derivatives, and wrong for second ones: those through a `LayerNormalization` are off.
    """
    import tensorflow as tf

    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return (mean if keepdims else tf.squeeze(mean, axes)), variance


def _by_jax(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    import jax

    def one(sample: jax.Array) -> jax.Array:
        return model(sample[None], training=False)[0]

    def first(sample: jax.Array) -> jax.Array:
        return one(sample)[0]

    each = {"jacobian": jax.jacrev(one), "gradient": jax.grad(first), "hessian": jax.jacfwd(jax.grad(first))}
    all_at_once = jax.jit(jax.vmap(lambda sample: {key: function(sample) for key, function in each.items()}))
    return {"value": model(x, training=False), **all_at_once(x)}


def _by_torch(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    import torch

    def one(sample: torch.Tensor) -> torch.Tensor:
        return model(sample[None], training=False)[0]

    def first(sample: torch.Tensor) -> torch.Tensor:
        return one(sample)[0]

    rev = torch.func.jacrev
    each = {"jacobian": rev(one), "gradient": torch.func.grad(first), "hessian": rev(rev(first))}
    tensor = torch.from_numpy(np.array(x))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # others have no second derivative
        stacked = {key: torch.stack([function(s) for s in tensor]) for key, function in each.items()}
    return {k: v.detach().numpy() for k, v in {"value": model(tensor, training=False), **stacked}.items()}


# --- what tests ask besides ----------------------------------------------------------------------


def recipe() -> tuple[np.ndarray, np.ndarray]:
    """Run the recipe of docs/frameworks.md; return its Jacobian, and that by the backend."""
    set_type("float32")
    model = MODELS["MLP"]()
    x = np.random.default_rng(1).normal(size=(SAMPLES, 5)).astype("float32")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = recipes.run("Keras", model=model, x=x)
    return names["jacobian"], _by_tensorflow(model, x)["jacobian"]


def inputs_with_normalization(keep: bool) -> list[str]:
    """Return the inputs of an exported model that has a `Normalization` layer."""
    set_type("float32")
    model = keras.Sequential([layers.Input((5,)), _normalization((5,)), layers.Dense(2)])
    with mock.patch(f"{__name__}.keep_statistics", keep_statistics if keep else lambda _: None):
        return [value.name for value in exported(model, "float32", "dynamic").graph.input]


def refusal_of_a_model() -> str:
    """Return what is said of a model that is loaded as it is."""
    try:
        onnxgrad.load(MODELS["LSTM"]())
    except onnxgrad.ModelReadError as error:
        return str(error)
    raise AssertionError("it was loaded")


def start(backend: str) -> None:
    """Prepare a process for a backend that it has been started for."""
    assert backend == BACKEND
    if backend == "tensorflow":
        import tests.frameworks.erfc  # noqa: F401 - tf2onnx lacks the operator
