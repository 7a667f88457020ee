"""Keras' models, as Keras itself exports them, on each of its backends: TensorFlow (by tf2onnx), JAX, PyTorch.

Keras takes its backend once, when it is imported. So each backend has a process of its own, which trains, exports and
differentiates (`tests.frameworks.keras_side`); what comes back is compared here.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.frameworks.comparing import Batch, Case, DType, Export

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
#: By backend. JAX compiles each of its derivatives for seconds, so it has some only; more are among JAX's own models.
MODELS = {
    "tensorflow": ("MLP", "CNN", "1-D CNN", "U-Net", "LSTM", "GRU", "attention"),
    "jax": ("MLP", "CNN", "LSTM"),
    "torch": ("MLP", "CNN", "1-D CNN", "U-Net", "LSTM", "GRU", "attention"),
}


@functools.cache
def process(backend: str) -> ProcessPoolExecutor:
    """Return the process that has Keras on a backend."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_start, initargs=(backend,))


def _start(backend: str) -> None:
    os.environ.update(KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    from tests.frameworks.keras_side import start

    start(backend)


def call(backend: str, function: str, *arguments: Any) -> Any:
    """Return what a function of `tests.frameworks.keras_side` gives on a backend."""
    return process(backend).submit(_call, function, *arguments).result()


def _call(function: str, *arguments: Any) -> Any:
    from tests.frameworks import keras_side

    try:
        return getattr(keras_side, function)(*arguments)
    except Exception as error:  # those of the frameworks do not all travel to another process
        raise RuntimeError(f"{type(error).__name__}: {str(error)[:2000]}") from None


def case(backend: str, name: str, dtype: DType, batch: Batch) -> Case:
    def make() -> Export:
        found: Export = call(backend, "export", name, dtype, batch)
        return found

    return Case("Keras", f"export on {BACKENDS[backend]}", name, dtype, batch, make)


#: What is tried of a model on a backend: types and batches. On JAX, the export has no float64; on PyTorch,
#: Keras multiplies matrices in float32 whatever their type is.
_TRIED: dict[str, tuple[tuple[DType, Batch], ...]] = {
    "tensorflow": (("float64", "dynamic"), ("float32", "static")),
    "jax": (("float32", "dynamic"),),
    "torch": (("float32", "dynamic"),),
}
#: Exported with a fixed batch only: on PyTorch, Keras' normalization of layers.
_STATIC_ONLY = ("torch", "attention")

CASES = [
    *(
        case(backend, name, dtype, batch)
        for backend in BACKENDS
        for name in MODELS[backend]
        for dtype, batch in _TRIED[backend]
        if (backend, name) != _STATIC_ONLY
    ),
    *(case("torch", name, "float32", "static") for name in ("MLP", "attention")),
]
