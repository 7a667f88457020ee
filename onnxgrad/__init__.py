"""A trained network goes in as ONNX; the same network comes out with its exact derivatives."""

import onnxgrad.importers  # noqa: F401 - lets `load` take what is no ONNX model yet
from onnxgrad.errors import (
    DisconnectedWarning,
    FeedError,
    MemoryBoundError,
    MixedSamplesError,
    ModelReadError,
    ModelWriteError,
    NotDifferentiableError,
    Obstacle,
    OnnxgradError,
    Refusal,
    RunError,
    TensorTypeError,
    UnknownNameError,
)
from onnxgrad.model.metadata import Derivative
from onnxgrad.rules import register
from onnxgrad.runtime import Function, load
from onnxgrad.transforms import derivatives, fix_sizes, gradient, hessian, hvp, jacobian, jvp, lower_gradients, vjp

__all__ = [
    "Derivative",
    "DisconnectedWarning",
    "FeedError",
    "Function",
    "MemoryBoundError",
    "MixedSamplesError",
    "ModelReadError",
    "ModelWriteError",
    "NotDifferentiableError",
    "Obstacle",
    "OnnxgradError",
    "Refusal",
    "RunError",
    "TensorTypeError",
    "UnknownNameError",
    "derivatives",
    "fix_sizes",
    "gradient",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "load",
    "lower_gradients",
    "register",
    "vjp",
]

__version__ = "0.1.0"
