"""What works on texts, bytes and bits: no functions of real numbers."""

from __future__ import annotations

from typing import NoReturn

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.registry import REGISTRY, Rule, not_differentiable, vjp

not_differentiable("RegexFullMatch StringConcat StringSplit", "it works on texts", versions=(20,))
not_differentiable("StringNormalizer", "it works on texts", versions=(10,))
not_differentiable("TfIdfVectorizer", "it counts integers or texts", versions=(9,))
not_differentiable("ImageDecoder", "it decodes bytes", versions=(20,))


@vjp("BitCast", versions=(26,), remark="the bits of a number as another number: refused")
def bit_cast(op: Builder, node: Node, ct: Tensor) -> NoReturn:
    """The bits of a number are no smooth function of it, and no step function either."""
    raise Refusal("it takes the bits of a number for another number", "use Cast to change the type of a number")


# The standard's own derivative: `onnxgrad.lowering` writes it in other operators when a model is read.
REGISTRY.add(
    Rule(
        "ai.onnx.preview.training::Gradient",
        "resolved",
        frozenset({1}),
        None,
        remark="it is written in ordinary operators when the model is read",
    )
)
