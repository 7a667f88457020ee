"""Plain functions of TensorFlow, trained for a few steps by hand, and exported by tf2onnx."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable

import numpy as np
import onnx

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow as tf
    import tf2onnx

from tests.frameworks.comparing import Batch, Case, DType, Export

SAMPLES = 3
Parameters = dict[str, tf.Variable]
#: ``f(parameters, x)``
Function = Callable[[Parameters, tf.Tensor], tf.Tensor]


def mlp(p: Parameters, x: tf.Tensor) -> tf.Tensor:
    """Scaled as engineers do it, in the function."""
    h = tf.tanh((x - 0.3) / 1.7 @ p["w0"] + p["b0"])
    return tf.nn.softplus(h @ p["w1"] + p["b1"]) @ p["w2"]


def cnn(p: Parameters, x: tf.Tensor) -> tf.Tensor:
    """Channels last. TensorFlow's own second derivative through `tf.image.resize` is wrong, so it is not in here."""
    h = tf.nn.softplus(tf.nn.conv2d(x, p["w0"], strides=1, padding="SAME") + p["b0"])
    h = tf.nn.max_pool2d(h, 2, 2, "VALID")
    h = tf.nn.depthwise_conv2d(h, p["w1"], [1, 1, 1, 1], "SAME")
    mean, variance = tf.constant(0.1, x.dtype), tf.constant(1.3, x.dtype)
    h = tf.nn.batch_normalization(h, mean, variance, p["b1"], p["s1"], 1e-3)
    h = tf.repeat(tf.repeat(h, 2, axis=1), 2, axis=2)
    return tf.reduce_mean(tf.nn.elu(h), axis=[1, 2]) @ p["w2"]


def recurrence(p: Parameters, x: tf.Tensor) -> tf.Tensor:
    """Written as a loop over time, with a number of steps that is known at run time only."""
    steps = tf.transpose(x, [1, 0, 2])
    h = tf.zeros([tf.shape(x)[0], 3], x.dtype)

    def step(i: tf.Tensor, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return i + 1, tf.tanh(tf.gather(steps, i) @ p["w0"] + h @ p["w1"] + p["b0"])

    return tf.while_loop(lambda i, _: i < tf.shape(steps)[0], step, (0, h))[1] @ p["w2"]


def attention(p: Parameters, x: tf.Tensor) -> tf.Tensor:
    """One head, and a normalization without `tf.nn.moments`, of which TensorFlow's second derivative is wrong."""
    q, k, v = (tf.einsum("nsd,de->nse", x, p[name]) for name in ("q", "k", "v"))
    weights = tf.nn.softmax(tf.einsum("nse,nte->nst", q, k) / 2.0)
    h = x + tf.einsum("nst,nte->nse", weights, v)
    centered = h - tf.reduce_mean(h, -1, keepdims=True)
    h = centered * tf.math.rsqrt(tf.reduce_mean(tf.square(centered), -1, keepdims=True) + 1e-5)
    return tf.reduce_sum(tf.nn.gelu(h, approximate=True), axis=1) @ p["w2"]


#: The function, the shape of one sample, and the shapes of its parameters, by what the row is called.
MODELS: dict[str, tuple[Function, tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "MLP": (mlp, (5,), {"w0": (5, 8), "b0": (8,), "w1": (8, 6), "b1": (6,), "w2": (6, 2)}),
    "CNN": (
        cnn,
        (6, 6, 2),
        {"w0": (3, 3, 2, 3), "b0": (3,), "w1": (3, 3, 3, 2), "b1": (6,), "s1": (6,), "w2": (6, 2)},
    ),
    "loop": (recurrence, (4, 2), {"w0": (2, 3), "w1": (3, 3), "b0": (3,), "w2": (3, 2)}),
    "attention": (attention, (3, 4), {"q": (4, 4), "k": (4, 4), "v": (4, 4), "w2": (4, 2)}),
}


@functools.cache
def trained(name: str, dtype: DType) -> Parameters:
    """Return the parameters after some steps of gradient descent toward a smooth target."""
    function, shape, shapes = MODELS[name]
    rng = np.random.default_rng(0)
    p = {key: tf.Variable((rng.normal(size=s) / np.sqrt(s[0])).astype(dtype)) for key, s in shapes.items()}
    x = rng.normal(size=(8, *shape)).astype(dtype)
    target = np.sin(x.reshape(8, -1).sum(1, keepdims=True))
    for _ in range(3):
        with tf.GradientTape() as tape:
            cost = tf.reduce_mean(tf.square(function(p, tf.constant(x)) - target))
        for variable, slope in zip(p.values(), tape.gradient(cost, list(p.values())), strict=True):
            variable.assign_sub(0.05 * slope)
    return p


def batch_of(name: str, dtype: DType) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(SAMPLES, *MODELS[name][1])).astype(dtype)


@functools.cache
def own(name: str, dtype: DType) -> dict[str, np.ndarray]:
    """Return what TensorFlow says: value, Jacobian, gradient and Hessian, each sample by itself."""
    p, function = trained(name, dtype), MODELS[name][0]

    @tf.function
    def all_at_once(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(x)
                y = function(p, x)
                first = y[:, 0]
            gradient = inner.gradient(first, x)
        return {
            "value": y,
            "jacobian": inner.batch_jacobian(y, x, experimental_use_pfor=False),
            "gradient": gradient,
            "hessian": outer.batch_jacobian(gradient, x, experimental_use_pfor=False),
        }

    return {key: found.numpy() for key, found in all_at_once(tf.constant(batch_of(name, dtype))).items()}


def exported(name: str, dtype: DType, batch: Batch) -> onnx.ModelProto:
    """Return the function as tf2onnx writes it."""
    p, (function, shape, _) = trained(name, dtype), MODELS[name]
    size = SAMPLES if batch == "static" else None
    signature = [tf.TensorSpec((size, *shape), dtype, name="x")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf2onnx.convert.from_function(tf.function(lambda x: function(p, x)), signature, opset=18)[0]


def case(name: str, dtype: DType, batch: Batch) -> Case:
    def make() -> Export:
        return Export(exported(name, dtype, batch), {"x": batch_of(name, dtype)}, **own(name, dtype))

    return Case("TensorFlow", "tf2onnx", name, dtype, batch, make)


CASES = [
    case(name, dtype, batch)
    for name in MODELS
    for dtype, batch in (("float64", "dynamic"), ("float64", "static"), ("float32", "dynamic"))
]
