"""Products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import vjp


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
        result = op.MatMul(ct, op.swap(b))
        return op.sum(result, [-2], keepdims=False) if row else result

    def right() -> Tensor:
        result = op.MatMul(op.swap(a), ct)
        return op.sum(result, [-1], keepdims=False) if column else result

    return left, right


@vjp("Gemm", versions=(13,), follow=samples.gemm)
def gemm(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """``Y = α A' B' + β C``, with A' and B' transposed where `transA` and `transB` say so."""
    a, b = node.inputs[:2]
    assert a is not None
    assert b is not None
    left = b if node.attr("transB") else op.swap(b)
    right = a if node.attr("transA") else op.swap(a)

    def product(x: Tensor, y: Tensor, transposed: bool) -> Tensor:
        result = op.MatMul(op.swap(y), op.swap(x)) if transposed else op.MatMul(x, y)
        return result * node.attr("alpha")

    return (
        lambda: product(ct, left, node.attr("transA")),
        lambda: product(right, ct, node.attr("transB")),
        lambda: ct * node.attr("beta"),
    )
