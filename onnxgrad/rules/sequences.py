"""Sequences and optionals: `onnxgrad.graph.sequences` puts tensors in their place; here is what remains of them."""

from __future__ import annotations

from onnxgrad.rules.registry import REGISTRY, Rule

#: Why one that is met in a derivative was not resolved.
WHY = (
    "it cannot be said which tensors the sequence holds: that takes a fixed length, or tensors of one shape that are "
    "only split, mapped, appended and joined"
)

for _operator, _versions in {
    "ConcatFromSequence": (11,),
    "Optional": (15, 28),
    "OptionalGetElement": (18, 28),
    "OptionalHasElement": (18, 28),
    "SequenceAt": (11,),
    "SequenceConstruct": (11,),
    "SequenceEmpty": (11,),
    "SequenceErase": (11,),
    "SequenceInsert": (11,),
    "SequenceLength": (11,),
    "SequenceMap": (17,),
    "SplitToSequence": (11, 24),
}.items():
    REGISTRY.add(Rule(_operator, "resolved", frozenset(_versions), None, remark=WHY))
