"""Rules: one formula per operator. Importing this package enters them all into the registry."""

from onnxgrad.rules import einsum, indexing, linalg, movement, pointwise, reduction
from onnxgrad.rules.registry import REGISTRY, Registry, Rule, register

__all__ = ["REGISTRY", "Registry", "Rule", "einsum", "indexing", "linalg", "movement", "pointwise", "reduction", "register"]
