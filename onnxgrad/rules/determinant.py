"""Determinants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import vjp


def _cofactors(op: Builder, a: Tensor) -> Tensor:
    """Return the matrix of cofactors, the transpose of the adjugate; a polynomial in the elements, singular or not.

    Entry (i, j) is the determinant of the matrix with its row i replaced by the unit vector j. Up to three rows this is
    written out. (``det(A) · A⁻ᵀ`` would divide 0 by 0 where the matrix is singular, as would every derivative of it.)
    """
    n = a.shape[-1] if isinstance(a.shape[-1], int) else a.shape[-2]
    if n == 1:
        return op.full(a.shape, 1, a.dtype)
    if n in (2, 3):

        def rolled(rows: int, columns: int) -> Tensor:
            """Element (i, j) is that at (i + rows, j + columns), counted in a circle."""
            order = [[(i + by) % int(n) for i in range(int(n))] for by in (rows, columns)]
            return op.Gather(op.Gather(a, order[0], axis=a.rank - 2), order[1], axis=a.rank - 1)

        if n == 2:
            return rolled(1, 1) * op.constant(np.array([[1.0, -1.0], [-1.0, 1.0]]), a.dtype)
        return rolled(1, 1) * rolled(2, 2) - rolled(1, 2) * rolled(2, 1)
    place = op.range(n)
    same = op.Equal(op.unsqueeze(place, [-1]), place)
    row, unit = op.reshape(same, (n, 1, n, 1)), op.cast(op.reshape(same, (1, n, 1, n)), a.dtype)
    return op.Det(op.Where(row, unit, op.unsqueeze(a, [-4, -3])))


@vjp(
    "Det",
    versions=(11, 22),
    follow=samples.along(lambda node: [-2, -1]),
    remark="exact for singular matrices too; with n > 3 rows, in memory that grows with the fourth power of n",
)
def det(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``Ā = ȳ · cof(A)`` (Jacobi's formula)."""
    x = node.x
    if x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):  # products of many elements
        x = op.cast(x, ir.DataType.FLOAT)
    return op.unsqueeze(op.cast(ct, x.dtype), [-2, -1]) * _cofactors(op, x)
