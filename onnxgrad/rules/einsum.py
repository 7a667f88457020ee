"""Sums of products, written as an equation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim
from onnxgrad.graph.equation import equation_of, sizes_of, terms_of, unused
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import vjp


def _identity(op: Builder, rows: Dim, columns: Dim, like: Tensor) -> Tensor:
    if rows == columns and isinstance(rows, int):
        return op.eye(rows, like.dtype)
    return op.EyeLike(op.ConstantOfShape(op.ints([rows, columns])), dtype=like.dtype, shape=(rows, columns))


@vjp("Einsum", versions=(12, 28), follow=samples.einsum)
def einsum(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """``Y[out] = Σ Π X_i[term_i]`` is linear in each operand, so ``X̄_k[term_k] = Σ Ȳ[out] Π_{i≠k} X_i[term_i]``.

    A letter that term_k repeats stands for a diagonal, and the cotangent belongs there: further occurrences get letters
    of their own and an identity matrix that ties them to the first. A letter found nowhere else was summed alone: its
    cotangent is spread.
    """
    operands = [t for t in node.inputs if t is not None]
    terms, output = terms_of(node.attr("equation"), [t.rank for t in operands])
    seed = unused("".join(terms), 1) if ct.rank > len(output) else ""

    def cotangent(k: int) -> Tensor:
        x = operands[k]
        # Ȳ takes the place of X_k: forward mode transposes this once more, and so ends at the node's own equation
        factors = [*operands[:k], ct, *operands[k + 1 :]]
        spelled = [*terms[:k], seed + output, *terms[k + 1 :]]
        fresh = iter(unused("".join([seed, *terms]), len(terms[k])))
        result = ""
        for axis, letter in enumerate(terms[k]):
            first = terms[k].index(letter)
            if first != axis:
                letter = next(fresh)
                spelled.append(terms[k][first] + letter)
                factors.append(_identity(op, x.shape[first], x.shape[axis], x))
            result += letter
        there = "".join(spelled)
        kept = seed + "".join(c for c in result if c in there)
        product = op.Einsum(*factors, equation=equation_of(spelled, kept))
        sizes = sizes_of([*spelled, result], [*(f.shape for f in factors), x.shape])
        product = op.unsqueeze(product, [i - len(result) for i, c in enumerate(result) if c not in there])
        return op.spread(product, [sizes[c] for c in seed + result])

    return [lambda k=k: cotangent(k) for k in range(len(operands))]  # type: ignore[misc]
