"""What the formulas for sizes and elements are given of a node, and how they look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.graph.dims import Dim, Shape
from onnxgrad.graph.tensor import Tensor

#: Element type and shape of a tensor; a shape may hold None for a size that is not known.
Type = tuple[ir.DataType, tuple[Dim | None, ...] | None]
#: A shape of which some sizes, or even the rank, are not known.
Partial = tuple[Dim | None, ...] | None

Attrs = Mapping[str, Any]
Inputs = Sequence[Tensor | None]


def shape_of(inputs: Inputs, index: int = 0) -> Shape:
    """Return the shape of an input that is there."""
    tensor = inputs[index]
    assert tensor is not None
    return tensor.shape


def elements_of(inputs: Inputs, index: int) -> tuple[Dim, ...] | None:
    """Return the elements of an input where they are known."""
    tensor = inputs[index] if index < len(inputs) else None
    return None if tensor is None else tensor.content


def elements_or(inputs: Inputs, index: int, default: Sequence[int]) -> tuple[Dim, ...] | None:
    """Return the elements of an optional input: `default` where it is absent, None where they are not known."""
    absent = index >= len(inputs) or inputs[index] is None
    return tuple(default) if absent else elements_of(inputs, index)


def positive_axes(given: Sequence[int], rank: int) -> list[int]:
    """Return axes counted from the left."""
    return [a % rank for a in given]
