"""What works on texts, bytes and bits: no functions of real numbers."""

from __future__ import annotations

from onnxgrad.rules.registry import REGISTRY, Rule, not_differentiable

not_differentiable("RegexFullMatch StringConcat StringSplit", "it works on texts", versions=(20,))
not_differentiable("StringNormalizer", "it works on texts", versions=(10,))
not_differentiable("TfIdfVectorizer", "it counts integers or texts", versions=(9,))
not_differentiable("ImageDecoder", "it decodes bytes", versions=(20,))


not_differentiable("BitCast", "it takes the bits of a number for another number: refused", versions=(26,))

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
