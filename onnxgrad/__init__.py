"""A trained network goes in as ONNX; the same network comes out with its exact derivatives."""

import onnxgrad.importers  # noqa: F401 - lets `load` take what is no ONNX model yet
from onnxgrad.comparison import Comparison, compare, record, verify
from onnxgrad.errors import (
    DisconnectedWarning,
    FeedError,
    GoldenError,
    MemoryBoundError,
    MixedSamplesError,
    ModelReadError,
    ModelWriteError,
    NotDifferentiableError,
    Obstacle,
    OnnxgradError,
    Refusal,
    RunError,
    SignatureError,
    TensorTypeError,
    UnknownNameError,
)
from onnxgrad.model.metadata import Derivative
from onnxgrad.rules import register
from onnxgrad.runtime import Function, load
from onnxgrad.sensitivities import Sensitivity, sensitivity
from onnxgrad.transforms import (
    add_cost,
    compose,
    derivatives,
    fix_sizes,
    gradient,
    hessian,
    hvp,
    jacobian,
    jvp,
    lower_gradients,
    vjp,
)

__all__ = [
    "Comparison",
    "Derivative",
    "DisconnectedWarning",
    "FeedError",
    "Function",
    "GoldenError",
    "MemoryBoundError",
    "MixedSamplesError",
    "ModelReadError",
    "ModelWriteError",
    "NotDifferentiableError",
    "Obstacle",
    "OnnxgradError",
    "Refusal",
    "RunError",
    "Sensitivity",
    "SignatureError",
    "TensorTypeError",
    "UnknownNameError",
    "add_cost",
    "compare",
    "compose",
    "derivatives",
    "fix_sizes",
    "gradient",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "load",
    "lower_gradients",
    "record",
    "register",
    "sensitivity",
    "verify",
    "vjp",
]

__version__ = "0.1.0"
