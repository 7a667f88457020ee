"""Which frameworks there are: what they need, and where their models are.

A module of models has `CASES`, its cases in the order of the table. It is imported only where its framework is
installed (``pip install -e '.[frameworks]'``).
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from tests.frameworks.comparing import Case, Differences, compare


@dataclass(frozen=True)
class Framework:
    """A framework that models come from.

    Attributes:
        name: as the documentation says it.
        packages: what must be installed to train and export its models.
        module: where its models are.
    """

    name: str
    packages: tuple[str, ...]
    module: str

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(package) for package in self.packages)

    def cases(self) -> Sequence[Case]:
        """Return its cases, importing the framework."""
        return importlib.import_module(f"tests.frameworks.{self.module}").CASES


FRAMEWORKS = (
    Framework("PyTorch", ("torch", "onnxscript"), "models_torch"),
    Framework("JAX", ("jax", "jax2onnx"), "models_jax"),
    Framework("onnxscript", ("onnxscript",), "models_onnxscript"),
    Framework("spox", ("spox",), "models_spox"),
    Framework("Keras", ("keras", "tensorflow", "tf2onnx", "jax", "jax2onnx", "torch"), "models_keras"),
    Framework("TensorFlow", ("tensorflow", "tf2onnx"), "models_tensorflow"),
    Framework("XGBoost", ("xgboost", "skl2onnx", "onnxmltools"), "models_xgboost"),
    Framework("LightGBM", ("lightgbm", "skl2onnx", "onnxmltools"), "models_lightgbm"),
)


def installed() -> list[Framework]:
    """Return the frameworks that are there."""
    return [framework for framework in FRAMEWORKS if framework.installed]


def measure(name: str) -> list[Differences]:
    """Compare all cases of a framework."""
    (framework,) = (f for f in FRAMEWORKS if f.name == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [compare(case) for case in framework.cases()]
