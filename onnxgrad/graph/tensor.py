"""A typed handle on one value of the graph under construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.dims import Dim, Shape

if TYPE_CHECKING:
    from onnxgrad.graph.builder import Builder

#: What the builder's operators take as an input.
Operand = "Tensor | float | int | bool | list[int] | np.ndarray | None"

#: Number of elements up to which the values of constants are looked at while building.
SMALL = 1024


class Tensor:
    """A value of the graph with its type; arithmetic on it emits nodes.

    Attributes:
        op: the builder that it belongs to.
        dtype: element type.
        shape: one `Dim` per axis.
        spread: the tensor that this one is an (as yet unwritten) broadcast of, else None.
        content: of a small integer or boolean tensor, its elements in row-major order where they are known, possibly
            symbolic (`Shape` of a tensor is such a one), else None.
        is_identity: its first and last axis form an identity matrix; all axes in between have size 1.
        is_literal: it is a constant of the builder's own, which nobody can differentiate by.
        is_variable: it is differentiated by. The elements of an initializer are then not to be relied on: what is
            computed from them now does not depend on them later, when it is differentiated again.
    """

    __slots__ = (
        "_const", "_make", "_value", "content", "dtype", "is_identity", "is_literal", "is_variable", "op", "shape",
        "spread",
    )  # fmt: skip

    def __init__(
        self,
        op: Builder,
        dtype: ir.DataType,
        shape: Shape,
        value: ir.Value | None = None,
        make: Callable[[], ir.Value] | None = None,
    ) -> None:
        self.op = op
        self.dtype = dtype
        self.shape = shape
        self.spread: Tensor | None = None
        self.content: tuple[Dim, ...] | None = None
        self.is_identity = False
        self.is_literal = False
        self.is_variable = False
        self._value = value
        self._make = make
        self._const: np.ndarray | None = None

    @property
    def value(self) -> ir.Value:
        """The value itself; a tensor that was only described so far is written to the graph now."""
        if self._value is None:
            assert self._make is not None
            self._value = self._make()
        return self._value

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype.is_floating_point()

    @property
    def cotangent_dtype(self) -> ir.DataType:
        """Element type of a cotangent or tangent; that of a tensor of integers or narrow floating-point numbers, which
        stand for quantized numbers, is float32.
        """
        return self.dtype if self.is_float and self.dtype.bitwidth >= 16 else ir.DataType.FLOAT

    @property
    def const(self) -> np.ndarray | None:
        """The elements where they are constant and few (at most `SMALL`), else None."""
        if self.is_variable:
            return None
        if self._const is None and self._value is not None:
            tensor = self._value.const_value if self._value.is_initializer() else None
            if tensor is not None and tensor.size <= SMALL and tensor.dtype != ir.DataType.STRING:
                self._const = tensor.numpy()
        return self._const

    @property
    def scalar(self) -> float | None:
        """The one number that all elements are equal to where that is known, else None.

        That of a weight does not count: a formula written without it would not depend on it when differentiated again.
        """
        if self.spread is not None:
            return self.spread.scalar
        const = self.const if self.is_literal or not self.is_float else None
        return const.item() if const is not None and const.size == 1 and const.dtype.kind != "c" else None

    def relied_on(self) -> np.ndarray | None:
        """The elements of a small constant, for a formula that is written for them, or None.

        The builder notes it: such a formula does not depend on the constant any more.
        """
        if self.const is not None and self.is_float and not self.is_literal:
            self.op.relied_on.add(self.value.name or "")
        return self.const

    @property
    def ints(self) -> list[int] | None:
        """The elements where they are known integers, else None."""
        if self.content is not None and all(isinstance(d, int) for d in self.content):
            return [int(d) for d in self.content]
        return None

    def __repr__(self) -> str:
        name = self._value.name if self._value is not None else "…"
        return f"Tensor({name}: {self.dtype.name}{list(self.shape)})"

    def __add__(self, other: Tensor | float) -> Tensor:
        return self.op.Add(self, other)

    def __radd__(self, other: float) -> Tensor:
        return self.op.Add(other, self)

    def __sub__(self, other: Tensor | float) -> Tensor:
        return self.op.Sub(self, other)

    def __rsub__(self, other: float) -> Tensor:
        return self.op.Sub(other, self)

    def __mul__(self, other: Tensor | float) -> Tensor:
        return self.op.Mul(self, other)

    def __rmul__(self, other: float) -> Tensor:
        return self.op.Mul(other, self)

    def __truediv__(self, other: Tensor | float) -> Tensor:
        return self.op.Div(self, other)

    def __rtruediv__(self, other: float) -> Tensor:
        return self.op.Div(other, self)

    def __pow__(self, other: Tensor | float) -> Tensor:
        return self.op.Pow(self, other)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.op.MatMul(self, other)

    def __neg__(self) -> Tensor:
        return self.op.Neg(self)

    def __gt__(self, other: Tensor | float) -> Tensor:
        return self.op.Greater(self, other)

    def __ge__(self, other: Tensor | float) -> Tensor:
        return self.op.GreaterOrEqual(self, other)

    def __lt__(self, other: Tensor | float) -> Tensor:
        return self.op.Less(self, other)

    def __le__(self, other: Tensor | float) -> Tensor:
        return self.op.LessOrEqual(self, other)

    def __and__(self, other: Tensor) -> Tensor:
        return self.op.And(self, other)

    def __or__(self, other: Tensor) -> Tensor:
        return self.op.Or(self, other)

    def __invert__(self) -> Tensor:
        return self.op.Not(self)
