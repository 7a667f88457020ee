"""Rules: one formula per operator. Importing this package enters them all into the registry."""

from onnxgrad.rules import (
    control,
    convolution,
    einsum,
    indexing,
    linalg,
    microsoft,
    ml,
    movement,
    normalization,
    pointwise,
    pooling,
    recurrent,
    reduction,
    resize,
    sampling,
    sequences,
)
from onnxgrad.rules.registry import REGISTRY, Registry, Rule, register

__all__ = [
    "REGISTRY",
    "Registry",
    "Rule",
    "control",
    "convolution",
    "einsum",
    "indexing",
    "linalg",
    "microsoft",
    "ml",
    "movement",
    "normalization",
    "pointwise",
    "pooling",
    "recurrent",
    "reduction",
    "register",
    "resize",
    "sampling",
    "sequences",
]
