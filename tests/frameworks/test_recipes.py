"""The recipes of docs/frameworks.md run, and what they make is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.frameworks import recipes
from tests.frameworks.catalog import installed

X = np.random.default_rng(0).normal(size=(3, 4))
W = np.array([[1.0, 2.0], [3.0, 4.0]])
#: Of float32.
ROUNDING = 1e-6


def pytorch() -> None:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))
    x = torch.from_numpy(X.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch's exporters say of themselves
        found = recipes.run("PyTorch", module=module, x=x)
    own = torch.stack([torch.func.jacrev(module.eval())(row) for row in x]).detach().numpy()
    for name in ("jacobian", "same", "older"):
        np.testing.assert_allclose(found[name], own, rtol=0, atol=ROUNDING)
    assert [y.name for y in onnx.load("with_jacobian.onnx").graph.output] == ["y", "jac_y_input"]


def jax() -> None:
    import jax
    import jax.numpy as jnp

    def function(x: jax.Array) -> jax.Array:
        return jnp.tanh(x) * jnp.sum(x**2, axis=-1, keepdims=True)

    x = X.astype(np.float32)
    found = recipes.run("JAX", function=function, x=x)
    own = jax.vmap(jax.jacrev(lambda row: function(row[None])[0]))(x)
    np.testing.assert_allclose(found["jacobian"], own, rtol=0, atol=ROUNDING * np.abs(own).max())


def by_hand(heading: str) -> Callable[[], None]:
    def check() -> None:
        x = X[:, :2]
        slopes = 1 - np.tanh(x @ W) ** 2
        found = recipes.run(heading, x=x)["jacobian"]
        np.testing.assert_allclose(found, slopes[:, :, None] * W.T, rtol=0, atol=1e-14)

    return check


RECIPES = {"PyTorch": pytorch, "JAX": jax, "onnxscript": by_hand("onnxscript"), "spox": by_hand("spox")}
HERE = {framework.name for framework in installed()}


@pytest.mark.parametrize("heading", [heading for heading in RECIPES if heading in HERE])
def test_recipe(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RECIPES[heading]()
