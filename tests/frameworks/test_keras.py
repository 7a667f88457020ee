"""Keras' export: the recipe, and what is known of its limits. Models are compared in test_models.py."""

from __future__ import annotations

import numpy as np

from tests.frameworks.models_keras import call


def test_recipe() -> None:
    found, own = call("tensorflow", "recipe")
    np.testing.assert_allclose(found, own, rtol=0, atol=1e-6)  # slopes of about 0.1, in float32


def test_statistics_of_a_normalization_layer_become_inputs_unless_they_are_constants() -> None:
    assert len(call("tensorflow", "inputs_with_normalization", False)) > 1
    assert call("tensorflow", "inputs_with_normalization", True) == ["x"]


def test_a_model_is_told_how_to_be_exported() -> None:
    assert "export(" in call("tensorflow", "refusal_of_a_model")
