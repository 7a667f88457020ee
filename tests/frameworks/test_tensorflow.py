"""tf2onnx: the recipe, and what is known of its limits. Models are compared in test_models.py."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.frameworks import recipes
from tests.frameworks.models_tensorflow import tf, tf2onnx


def converted(function: Any, *shapes: tuple[int | None, ...]) -> onnx.ModelProto:
    """Return a function in float64 as tf2onnx writes it; inputs are x0, x1, …"""
    signature = [tf.TensorSpec(shape, tf.float64, name=f"x{i}") for i, shape in enumerate(shapes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf2onnx.convert.from_function(tf.function(function), signature, opset=18)[0]


def test_recipe() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = recipes.run("TensorFlow", function=lambda x: tf.tanh(x * 2), x=x)
    own = np.eye(4) * (2 * (1 - np.tanh(2 * x.astype(float)) ** 2))[:, :, None]
    # 2 (1 - t²) is off by four times what t = tanh(2x) is off by, some 2e-7 in float32
    np.testing.assert_allclose(names["jacobian"], own, rtol=0, atol=1e-6)


def test_batches_of_several_inputs_are_one_only_if_that_is_said() -> None:
    model = converted(lambda a, b: tf.sin(a * b), (None, 2), (None, 2))
    with pytest.raises(onnxgrad.MixedSamplesError, match=r"--size x0\[0\]=batch --size x1\[0\]=batch"):
        onnxgrad.jacobian(model)
    f = onnxgrad.load(onnxgrad.fix_sizes(model, {"x0[0]": "batch", "x1[0]": "batch"}))
    a, b = np.random.default_rng(0).normal(size=(2, 3, 2))
    found = f.jacobian({"x0": a, "x1": b})
    for wrt, slope in (("x0", b), ("x1", a)):
        (own,) = [found[key] for key in found if wrt in str(key)]
        np.testing.assert_allclose(own, np.eye(2) * (slope * np.cos(a * b))[:, :, None], rtol=1e-14)


def test_the_second_derivative_of_a_variance() -> None:
    """TensorFlow's own is ``2/n I``: it stops the gradient of the mean, which vanishes in first derivatives only."""
    model = converted(lambda x: tf.nn.moments(x, [1])[1], (None, 4))
    found = onnxgrad.load(model).hessian(np.random.default_rng(0).normal(size=(2, 4)))
    np.testing.assert_allclose(found, np.broadcast_to((np.eye(4) - 1 / 4) / 2, (2, 4, 4)), atol=1e-15)


def test_an_operator_that_tf2onnx_leaves_as_it_is() -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"Erfc.* ONNX has none of this name"):
        onnxgrad.jacobian(converted(tf.math.erfc, (None, 2)))


@pytest.mark.parametrize("source", [tf.function(tf.sin), tf.Module()])
def test_what_is_told_how_to_be_exported(source: Any) -> None:
    with pytest.raises(onnxgrad.ModelReadError, match=r"tf2onnx\.convert\.from_function"):
        onnxgrad.load(source)
