"""Products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, broadcast, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import vjp


def _product(op: Builder, a: Tensor, b: Tensor, rows: Dim, columns: Dim) -> Tensor:
    """``a @ b``, of which the sizes are stated: two names may stand for one size that was summed over before."""
    return op.MatMul(a, b, shape=(*broadcast(a.shape[:-2], b.shape[:-2]), rows, columns))


@vjp("MatMul", versions=(13,), follow=samples.matmul)
def matmul(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """``Ā = Ȳ Bᵀ``, ``B̄ = Aᵀ Ȳ``; a vector is a matrix with one row (on the left) or one column (on the right)."""
    a, b = node.inputs
    assert a is not None
    assert b is not None
    row, column = a.rank == 1, b.rank == 1
    if column:
        b, ct = op.unsqueeze(b, [-1]), op.unsqueeze(ct, [-1])
    if row:
        a, ct = op.unsqueeze(a, [-2]), op.unsqueeze(ct, [-2])

    def left() -> Tensor:
        result = _product(op, ct, op.swap(b), ct.shape[-2], a.shape[-1])
        return op.sum(result, [-2], keepdims=False) if row else result

    def right() -> Tensor:
        rows, y = (a, ct) if b.rank > 2 else _as_matrices(op, a, ct)
        result = _product(op, op.swap(rows), y, b.shape[-2], ct.shape[-1])
        return op.sum(result, [-1], keepdims=False) if column else result

    return left, right


def _as_matrices(op: Builder, a: Tensor, ct: Tensor) -> tuple[Tensor, Tensor]:
    """Return all rows of `a` as one matrix, and those of `ct`, so that a sum of products, ``Σ_i A_iᵀ Ȳ_i``, is one
    product. Of a broadcast that is not written, the sum is cheaper.
    """
    if a.rank == 2 or ct.spread is not None or a.spread is not None:
        return a, ct
    rows, seeds = size_of(a.shape[:-1]), ct.shape[: ct.rank - a.rank]
    return op.reshape(a, (rows, a.shape[-1])), op.reshape(ct, (*seeds, rows, ct.shape[-1]))


@vjp("Gemm", versions=(13,), follow=samples.gemm)
def gemm(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """``Y = α A' B' + β C``, with A' and B' transposed where `transA` and `transB` say so."""
    a, b = node.inputs[:2]
    assert a is not None
    assert b is not None
    if node.attr("transA"):
        a = op.swap(a)
    if node.attr("transB"):
        b = op.swap(b)

    def left() -> Tensor:
        return _product(op, ct, op.swap(b), ct.shape[-2], a.shape[-1]) * float(node.attr("alpha"))

    def right() -> Tensor:
        return _product(op, op.swap(a), ct, b.shape[-2], ct.shape[-1]) * float(node.attr("alpha"))

    return (
        lambda: op.swap(left()) if node.attr("transA") else left(),
        lambda: op.swap(right()) if node.attr("transB") else right(),
        lambda: ct * node.attr("beta"),
    )
