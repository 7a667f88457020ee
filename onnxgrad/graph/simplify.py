"""Algebra that the builder applies to a node before it is written.

Each rewrite is one function whose docstring is its equation. It takes the builder, the operands and the attributes of
the node asked for and returns a tensor that is equal to the node's output and cheaper, or None.

*Spread* tensors are broadcasts that have not been written: ``spread(a)`` stands for ``Expand(a, shape)``. The
rewrites move them outwards, towards the result, where most of them never need to be written at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.dims import Dim, Shape, broadcast, dim_add, dim_div, dim_mul, size_of
from onnxgrad.graph.equation import equation_of, sizes_of, terms_of
from onnxgrad.graph.sizes import POINTWISE
from onnxgrad.graph.tensor import Tensor

if TYPE_CHECKING:
    from onnxgrad.graph.builder import Builder

Operands = Sequence[Tensor | None]
Rewrite = Callable[["Builder", Operands, dict[str, Any]], Tensor | None]


def simplify(op: Builder, op_type: str, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """Return a simpler tensor that equals the output of the node asked for, or None if there is none."""
    for rewrite in REWRITES.get(op_type, ()):
        result = rewrite(op, operands, attrs)
        if result is not None:
            return result
    if op_type in POINTWISE:
        return spread_pointwise(op, op_type, operands, attrs)
    return None


# --- broadcasts move outwards ----------------------------------------------------------------


def spread_pointwise(op: Builder, op_type: str, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``f(spread(a), b) = f(a, b)`` where the shape is the same, else ``spread(f(a, b))``."""
    tensors = [t for t in operands if t is not None]
    if all(t.spread is None for t in tensors):
        return None
    bare = [t if t is None or t.spread is None else t.spread for t in operands]
    return op.spread(op.emit(op_type, *bare, **attrs)[0], broadcast(*(t.shape for t in tensors)))


def matmul_spread(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``spread(a) @ b = spread(a @ b)`` where the axis that is summed was not spread."""
    a, b = _two(operands)
    if (a.spread is None and b.spread is None) or a.rank < 2 or b.rank < 2:
        return None
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    bare_a, bare_b = _with_rank(op, a, a.shape[-1:], -1), _with_rank(op, b, b.shape[-2:-1], -2)
    if bare_a is None or bare_b is None:
        return None
    return op.spread(op.MatMul(bare_a, bare_b), (*batch, a.shape[-2], b.shape[-1]))


def _with_rank(op: Builder, x: Tensor, kept: Sequence[Dim], axis: int) -> Tensor | None:
    """Return what `x` is a spread of, as a matrix at least, unless the given axis was spread."""
    source = x.spread
    if source is None:
        return x
    if kept[0] == 1 and source.rank < -axis:
        source = op.reshape(source, (*[1] * (-axis - source.rank), *source.shape))
    if source.rank < -axis or source.shape[axis] != kept[0]:
        return None
    return source if source.rank >= 2 else op.unsqueeze(source, [-2])


def matmul_identity(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``I @ b = b`` for an identity of shape ``(n, 1, …, 1, n)`` and a matrix b."""
    a, b = _two(operands)
    if not a.is_identity or b.rank != 2:
        return None
    return op.reshape(b, (*a.shape[:-1], b.shape[-1]))


def matmul_zero(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``0 @ b = 0``, ``a @ 0 = 0``."""
    a, b = _two(operands)
    if a.rank < 2 or b.rank < 2 or (a.scalar != 0 and b.scalar != 0):
        return None
    return op.full((*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), 0, a.dtype)


def einsum_spread(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """An axis that an operand was spread along leaves its term, unless it is summed and no other operand has all of
    it.
    """
    tensors = _tensors(operands)
    if all(t.spread is None for t in tensors):
        return None
    terms, output = terms_of(attrs["equation"], [t.rank for t in tensors])
    sizes = sizes_of(terms, [t.shape for t in tensors])
    before = list(terms)
    for i, x in enumerate(tensors):
        if x.spread is None:
            continue
        full = (1,) * (x.rank - x.spread.rank) + x.spread.shape
        others = [p for k in range(len(tensors)) if k != i for p in zip(terms[k], tensors[k].shape, strict=True)]
        gone = [
            axis
            for axis, c in enumerate(terms[i])
            if full[axis] == 1 != x.shape[axis]
            and terms[i].count(c) == 1
            and (c in output or (c, x.shape[axis]) in others)
        ]
        if gone:
            kept = [a for a in range(x.rank) if a not in gone]
            terms[i] = "".join(terms[i][a] for a in kept)
            tensors[i] = op.spread(op.reshape(x.spread, [full[a] for a in kept]), [x.shape[a] for a in kept])
    if terms == before:
        return None
    rest = "".join(c for c in output if any(c in term for term in terms))
    result = op.Einsum(*tensors, equation=equation_of(terms, rest))
    result = op.unsqueeze(result, [i - len(output) for i, c in enumerate(output) if c not in rest])
    return op.spread(result, [sizes[c] for c in output])


def transpose_spread(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``spread(a)ᵀ = spread(aᵀ)``."""
    (x,) = _tensors(operands)
    if x.spread is None:
        return None
    order = attrs.get("perm", tuple(reversed(range(x.rank))))
    source = op.reshape(x.spread, (1,) * (x.rank - x.spread.rank) + x.spread.shape)
    return op.spread(op.Transpose(source, perm=order), [x.shape[i] for i in order])


def sum_spread(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``Σ spread(a) = n · Σ a`` over an axis that a was spread along by n; ``Σ`` over axes of size 1 is a reshape."""
    return _reduction_of_spread(op, operands, attrs, "ReduceSum")


def mean_spread(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """The mean of ``spread(a)`` over an axis that a was spread along, or over axes of size 1, is a."""
    return _reduction_of_spread(op, operands, attrs, "ReduceMean")


def _reduction_of_spread(op: Builder, operands: Operands, attrs: dict[str, Any], op_type: str) -> Tensor | None:
    x = operands[0]
    axes = operands[1].ints if len(operands) > 1 and operands[1] is not None else None
    if x is None or axes is None or (x.spread is None and not all(x.shape[a] == 1 for a in axes)):
        return None
    source = x if x.spread is None else op.reshape(x.spread, (1,) * (x.rank - x.spread.rank) + x.spread.shape)
    places = {a % x.rank for a in axes}
    trivial = {i for i in places if source.shape[i] == 1}
    times = size_of(x.shape[i] for i in trivial) if op_type == "ReduceSum" else 1
    if any(source.shape[i] != x.shape[i] for i in places - trivial):
        return None  # it may have been spread along this axis, or not
    if not trivial or not (isinstance(times, int) or x.dtype in _EXACT):
        return None
    keep = attrs.get("keepdims", 1)
    rest = sorted(i - x.rank for i in places - trivial)
    result = op.emit(op_type, source, rest, keepdims=1)[0] if rest else source
    factor = times if isinstance(times, int) else op.cast(op.reshape(op.size(times), ()), x.dtype)
    full = [1 if i in places else d for i, d in enumerate(x.shape)]
    result = op.spread(op.Mul(result, factor), full)
    return result if keep else op.squeeze(result, sorted(places))


#: Types in which a count of elements is exact enough to multiply with.
_EXACT = {ir.DataType.FLOAT, ir.DataType.DOUBLE}


def expand_spread(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``Expand(a, shape) = spread(a)``: unwritten until it is needed, where the shape is known."""
    x, target = _two(operands)
    return None if target.content is None else op.spread(x, broadcast(x.shape, target.content))


# --- neutral elements ------------------------------------------------------------------------


def add_zero(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``a + 0 = a``."""
    a, b = _two(operands)
    if b.scalar == 0:
        return _broadcast_to_both(op, a, b)
    return _broadcast_to_both(op, b, a) if a.scalar == 0 else None


def add_pads(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``pad(a) + pad(b) = pad(a | b)`` where b begins at the very place at which a ends, as when a tensor was split."""
    first, second = (_padding_of(op, x) for x in _two(operands))
    if first is None or second is None or first.axis != second.axis:
        return None
    if second.start == first.end:
        pass
    elif first.start == second.end:
        first, second = second, first
    else:
        return None
    joined = op.Concat(first.part, second.part, axis=first.axis - first.part.rank)
    if first.start == 0 and second.behind == 0:
        return joined
    amounts: list[Dim] = [0] * (2 * joined.rank)
    amounts[first.axis], amounts[first.axis + joined.rank] = first.start, second.behind
    return op.Pad(joined, op.ints(amounts), shape=_two(operands)[0].shape)


class _Padding(NamedTuple):
    """A part of a tensor that is zero elsewhere: where along an axis it starts and ends, and how much is behind it."""

    part: Tensor
    axis: int
    start: Dim
    end: Dim
    behind: Dim


def _padding_of(op: Builder, x: Tensor) -> _Padding | None:
    node = _emitted(op, x, "Pad")
    if node is None or len(node.inputs) != 2 or node.attributes:
        return None
    part, amounts = (op.tensor(v) for v in node.inputs)
    if part is None or amounts is None or amounts.content is None:
        return None
    axes = {i % x.rank for i, n in enumerate(amounts.content) if n != 0}
    if len(axes) != 1 or any(isinstance(n, int) and n < 0 for n in amounts.content):
        return None
    (axis,) = axes
    start = amounts.content[axis]
    return _Padding(part, axis, start, dim_add(start, part.shape[axis]), amounts.content[axis + x.rank])


def sub_zero(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``a - 0 = a``, ``0 - a = -a``."""
    a, b = _two(operands)
    if b.scalar == 0:
        return _broadcast_to_both(op, a, b)
    return _broadcast_to_both(op, -b, a) if a.scalar == 0 else None


def mul_scalar(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``1 · a = a``, ``-1 · a = -a``, ``0 · a = 0``, and products of numbers."""
    a, b = _two(operands)
    if a.scalar is not None and b.scalar is not None and a.is_float:
        return op.full(broadcast(a.shape, b.shape), a.scalar * b.scalar, a.dtype)
    for x, factor in ((a, b), (b, a)):
        if factor.scalar == 1:
            return _broadcast_to_both(op, x, factor)
        if factor.scalar == -1 and x.is_float:
            return _broadcast_to_both(op, -x, factor)
        if factor.scalar == 0 and x.is_float:
            return _broadcast_to_both(op, op.constant(0, x.dtype), factor, x)
    return None


def div_scalar(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``a / 1 = a``, ``0 / a = 0``."""
    a, b = _two(operands)
    if b.scalar == 1:
        return _broadcast_to_both(op, a, b)
    return _broadcast_to_both(op, a, b) if a.scalar == 0 and a.is_float else None


def neg_neg(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``-(-a) = a``."""
    (x,) = _tensors(operands)
    node = _emitted(op, x, "Neg")
    if node is not None:
        return op.tensor(node.inputs[0])
    return op.full(x.shape, -x.scalar, x.dtype) if x.scalar is not None and x.is_float else None


def where_scalar(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``where(m, a, a) = a`` for a number a, ``where(true, a, b) = a``, ``where(false, a, b) = b``."""
    mask, a, b = _tensors(operands)
    if mask.scalar is not None:
        return _broadcast_to_both(op, a if mask.scalar else b, mask, a, b)
    same = a.scalar is not None and a.scalar == b.scalar
    return _broadcast_to_both(op, op.constant(a.scalar, a.dtype), mask, a, b) if same else None


def or_false(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``a ∨ false = a``."""
    a, b = _two(operands)
    if b.scalar is False:
        return _broadcast_to_both(op, a, b)
    return _broadcast_to_both(op, b, a) if a.scalar is False else None


def and_false(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``a ∧ false = false``."""
    a, b = _two(operands)
    return _broadcast_to_both(op, op.constant(False), a, b) if a.scalar is False or b.scalar is False else None


def not_constant(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """The negation of a constant is one."""
    (x,) = _tensors(operands)
    return None if x.scalar is None else op.spread(op.constant(not x.scalar), x.shape)


def cast_same(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """A cast to the type that a tensor has is the tensor."""
    (x,) = _tensors(operands)
    return x if x.dtype == attrs["to"] else None


def _broadcast_to_both(op: Builder, x: Tensor, *others: Tensor) -> Tensor:
    return op.spread(x, broadcast(x.shape, *(t.shape for t in others)))


# --- movements -------------------------------------------------------------------------------


def transpose_transpose(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``(aᵀ)ᵀ = a``; a permutation that moves nothing, or only axes of size 1, is none."""
    (x,) = _tensors(operands)
    order = list(attrs.get("perm", reversed(range(x.rank))))
    if order == list(range(x.rank)):
        return x
    node = _emitted(op, x, "Transpose")
    if node is not None:
        given = node.attributes.get("perm")
        before = list(reversed(range(x.rank))) if given is None else given.as_ints()
        source = op.tensor(node.inputs[0])
        assert source is not None
        return op.Transpose(source, perm=[before[i] for i in order])
    moved = [i for i in order if x.shape[i] != 1]
    return op.reshape(x, [x.shape[i] for i in order]) if moved == sorted(moved) else None


def transpose_product(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``(aᵀ @ b)ᵀ = bᵀ @ a``: of products of what varies, which take a transposed factor as it is."""
    (x,) = _tensors(operands)
    order = list(attrs.get("perm", reversed(range(x.rank))))
    if x.rank < 2 or order != [*range(x.rank - 2), x.rank - 1, x.rank - 2]:
        return None
    return _transposed_product(op, x)


def _transposed_product(op: Builder, x: Tensor) -> Tensor | None:
    """Return the transpose of a product, or of a multiple of one, if one of the factors is there transposed."""
    reshaped, multiple, product = (_emitted(op, x, op_type) for op_type in ("Reshape", "Mul", "MatMul"))
    if reshaped is not None:
        inner = op.tensor(reshaped.inputs[0])
        if inner is None or inner.shape[-2:] != x.shape[-2:]:
            return None
        found = _transposed_product(op, inner)
        return None if found is None else op.reshape(found, (*x.shape[:-2], x.shape[-1], x.shape[-2]))
    if multiple is not None:
        a, b = (op.tensor(v) for v in multiple.inputs)
        for inner, factor in ((a, b), (b, a)):
            if inner is not None and factor is not None and size_of(factor.shape) == 1 and inner.rank == x.rank:
                found = _transposed_product(op, inner)
                return None if found is None else found * factor
    if product is not None:
        a, b = (op.tensor(v) for v in product.inputs)
        if a is None or b is None or min(a.rank, b.rank) < 2 or op.is_fixed(a) or op.is_fixed(b):
            return None
        if _is_there_transposed(op, a) or _is_there_transposed(op, b):
            return op.MatMul(op.swap(b), op.swap(a))
    return None


def _is_there_transposed(op: Builder, x: Tensor) -> bool:
    if _emitted(op, x, "Transpose") is None:
        return False
    before = len(op.nodes)
    op.swap(x)
    return len(op.nodes) == before


def concat_transposed(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """``[flat(aᵀ), flat(bᵀ)] = flat([a, b]ᵀ)`` along the last axis, into which `flat` joins the last two.

    So the heads of attention go back, if queries, keys and values come from one product.
    """
    tensors = _tensors(operands)
    parts = [part for x in tensors if (part := _flat_transpose_of(op, x)) is not None]
    if not 1 < len(parts) == len(tensors) or attrs["axis"] % tensors[0].rank != tensors[0].rank - 1:
        return None
    sources, orders = [source for source, _ in parts], [order for _, order in parts]
    order = orders[0]
    if orders.count(order) < len(orders) or len({s.shape[order[-1]] for s in sources}) > 1:
        return None
    moved = op.Transpose(op.Concat(*sources, axis=order[-2] - len(order)), perm=order)
    return op.reshape(moved, (*moved.shape[:-2], dim_mul(*moved.shape[-2:])))


def _flat_transpose_of(op: Builder, x: Tensor) -> tuple[Tensor, list[int]] | None:
    """Return a, and the order of axes, if x is a transpose of a with the last two axes joined."""
    reshaped = _emitted(op, x, "Reshape")
    inner = None if reshaped is None else op.tensor(reshaped.inputs[0])
    node = None if inner is None else _emitted(op, inner, "Transpose")
    if inner is None or node is None or inner.rank < 2 or "perm" not in node.attributes:
        return None
    source = op.tensor(node.inputs[0])
    joined = (*inner.shape[:-2], dim_mul(*inner.shape[-2:]))
    return None if source is None or x.shape != joined else (source, list(node.attributes["perm"].as_ints()))


def reshape_known(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """A `Reshape` whose result has a known shape is `reshape` to that shape."""
    x, target = _two(operands)
    if target.content is None or 0 in target.content:
        return None
    dims = target.content
    if -1 in dims:
        missing = dim_div(size_of(x.shape), size_of(d for d in dims if d != -1))
        if missing is None:
            return None
        dims = tuple(missing if d == -1 else d for d in dims)
    return op.reshape(x, dims)


def reshape(op: Builder, x: Tensor, shape: Shape) -> Tensor | None:
    """``reshape(spread(a)) = spread(reshape(a))`` where only axes of size 1 come or go, or all elements are one number.

    ``reshape(reshape(a)) = reshape(a)``; small constants are reshaped here and now.
    """
    source = x.spread
    if source is not None:
        if size_of(source.shape) == 1:
            return op.spread(op.reshape(source, ()), shape)
        full = (1,) * (x.rank - source.rank) + source.shape
        if [d for d in shape if d != 1] != [d for d in x.shape if d != 1]:
            return None
        sizes = iter(s for d, s in zip(x.shape, full, strict=True) if d != 1)
        return op.spread(op.reshape(source, [1 if d == 1 else next(sizes) for d in shape]), shape)
    node = _emitted(op, x, "Reshape")
    if node is not None:
        before = op.tensor(node.inputs[0])
        return None if before is None else op.reshape(before, shape)
    const = x.const
    if const is not None and (x.is_literal or not x.is_float) and all(isinstance(d, int) for d in shape):
        return op.constant(np.reshape(const, shape), x.dtype)
    return None


def pad_all_axes(op: Builder, operands: Operands, attrs: dict[str, Any]) -> Tensor | None:
    """A `Pad` of some axes is one of all, most of them by 0.

    The optimizer of onnxruntime (1.32) moves a `Transpose` through a `Pad` as if the input `axes` were not there.
    """
    x, pads, value, axes = (*operands, None, None)[:4]
    if x is None or pads is None or axes is None or axes.ints is None or pads.content is None:
        return None
    amounts: list[Dim] = [0] * (2 * x.rank)
    for i, axis in enumerate(axes.ints):
        amounts[axis % x.rank] = pads.content[i]
        amounts[axis % x.rank + x.rank] = pads.content[i + len(axes.ints)]
    return op.Pad(x, op.ints(amounts), value, **attrs)


def _emitted(op: Builder, x: Tensor, op_type: str) -> Any:
    """The node that made `x`, if it is a written node of the given type."""
    if x.spread is not None:
        return None
    node = x.value.producer()
    return node if node is not None and node.op_type == op_type and node.domain == "" else None


def _two(operands: Operands) -> tuple[Tensor, Tensor]:
    a, b = operands
    assert a is not None
    assert b is not None
    return a, b


def _tensors(operands: Operands) -> list[Tensor]:
    return [t for t in operands if t is not None]


REWRITES: dict[str, tuple[Rewrite, ...]] = {
    "Add": (add_zero, add_pads),
    "Sub": (sub_zero,),
    "Mul": (mul_scalar,),
    "Div": (div_scalar,),
    "Neg": (neg_neg,),
    "Where": (where_scalar,),
    "Or": (or_false,),
    "And": (and_false,),
    "Not": (not_constant,),
    "Cast": (cast_same,),
    "MatMul": (matmul_identity, matmul_zero, matmul_spread),
    "Einsum": (einsum_spread,),
    "Transpose": (transpose_spread, transpose_transpose, transpose_product),
    "Concat": (concat_transposed,),
    "Reshape": (reshape_known,),
    "Pad": (pad_all_axes,),
    "ReduceSum": (sum_spread,),
    "ReduceMean": (mean_spread,),
    "Expand": (expand_spread,),
}
