"""Sums, means, norms, extrema and products over axes, and running sums and products along one."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_div, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import linear, not_differentiable, vjp


def reduced_axes(node: Node) -> list[int] | None:
    """Return the axes that a reduction sums over, from the right, or None where they are not known before run time."""
    given, rank = node.input(1), node.x.rank
    if given is None or given.shape == (0,):
        return [] if node.attr("noop_with_empty_axes") else list(range(-rank, 0))
    return None if given.ints is None else [a % rank - rank for a in given.ints]


def restored(op: Builder, node: Node, reduced: Tensor) -> Tensor:
    """Spread something shaped like a reduction's output (behind its seeds) over the axes that were reduced.

    It is said here and not left to the driver, which sums where it cannot know which of two sizes is the smaller.
    """
    axes, x = reduced_axes(node), node.x
    seeds = reduced.shape[: reduced.rank - node.y.rank]
    if axes is not None and not node.attr("keepdims"):
        reduced = op.unsqueeze(reduced, axes)
    elif axes is None and not node.attr("keepdims"):  # the shape of x with ones in the places that `axes` names
        target = op.ScatterElements(op.ints(x.shape), node.inputs[1], [1] * (x.rank - node.y.rank), axis=0)
        kept = op.Reshape(node.y, target, allowzero=1, shape=[1 if d == 1 else op.fresh_dim() for d in x.shape])
        reduced = op.reshape(reduced, (*seeds, *kept.shape))
    return op.spread(reduced, (*seeds, *x.shape))


_follow = samples.reduced(reduced_axes)


def _reduction(
    name: str, pull: Callable[[Builder, Tensor, Tensor, Tensor], Tensor], *, versions: tuple[int, ...]
) -> None:
    """Enter a reduction by ``pull(op, ct, x, y)``, with ct and y spread over what was reduced."""

    def rule(op: Builder, node: Node, ct: Tensor) -> Tensor:
        return pull(op, restored(op, node, ct), node.x, restored(op, node, node.y))

    vjp(name, versions=versions, wrt=(0,), follow=_follow)(rule)


# --- sums and norms --------------------------------------------------------------------------


def _share(op: Builder, node: Node, dtype: ir.DataType) -> Tensor:
    """One over the number of elements that each element of the output is made of."""
    count = dim_div(size_of(node.x.shape), size_of(node.y.shape))
    if count is not None:
        return op.one_over(count, dtype)
    exact = ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    return op.cast(op.cast(op.Size(node.y), exact) / op.cast(op.Size(node.x), exact), dtype)


linear("ReduceSum", lambda op, node, ct: restored(op, node, ct), versions=(13,), follow=_follow)
linear(
    "ReduceMean",
    lambda op, node, ct: restored(op, node, ct * _share(op, node, ct.dtype)),
    versions=(18,),
    follow=_follow,
)
_reduction("ReduceSumSquare", lambda op, ct, x, y: 2 * ct * x, versions=(18,))
_reduction("ReduceL1", lambda op, ct, x, y: ct * op.Sign(x), versions=(18,))
_reduction("ReduceL2", lambda op, ct, x, y: ct / op.Where(op.Equal(y, 0), 1, y) * x, versions=(18,))  # 0 at the origin
_reduction("ReduceLogSum", lambda op, ct, x, y: ct * op.Exp(-y), versions=(18, 28))
_reduction("ReduceLogSumExp", lambda op, ct, x, y: ct * op.Exp(x - y), versions=(18, 28))

# --- extrema ---------------------------------------------------------------------------------


@vjp("ReduceMax ReduceMin", versions=(18, 20), wrt=(0,), follow=_follow)
def extremum(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The cotangent passes to the elements that equal the output, in equal shares among ties (as in `torch.amax`)."""
    wide = ir.DataType.DOUBLE if ct.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT  # counts ties exactly
    hits = op.cast(op.Equal(node.x, restored(op, node, node.y)), wide)
    noop = node.attr("noop_with_empty_axes")
    ties = op.ReduceSum(hits, node.input(1), keepdims=1, noop_with_empty_axes=noop)
    return restored(op, node, op.cast(ct, wide)) / op.spread(ties, node.x.shape) * hits


not_differentiable("ArgMax ArgMin", "its output is a position", versions=(13,))

# --- products --------------------------------------------------------------------------------


@vjp(
    "ReduceProd",
    versions=(18,),
    wrt=(0,),
    follow=_follow,
    remark="exact with zeros too; where sizes or axes are open, memory grows with the square of the number of factors",
)
def product(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``∂y/∂x_i = Π_{j≠i} x_j``, without a division; over several axes, axis by axis."""
    x, axes = node.x, reduced_axes(node)
    if axes is None:
        return restored(op, node, ct) * _product_of_others_in_cell(op, node)
    others: Tensor | float = 1.0
    for axis in axes:
        others = _product_of_others(op, x, axis) * others
        x = op.ReduceProd(x, [axis])
    return restored(op, node, ct) * others


_BLOCK = 32


def _product_of_others(op: Builder, x: Tensor, axis: int) -> Tensor:
    """The products of all but one element along an axis: ``[…, i, …] = Π_j where(i = j, 1, x[…, j, …])``.

    A long axis is cut into blocks: the others in the block, times all of the other blocks.
    """
    n = x.shape[axis]
    if n == 1:
        return op.full(x.shape, 1, x.dtype)
    if isinstance(n, int) and n > _BLOCK:
        whole = op.Pad(x, [0, -n % _BLOCK], 1, [axis])
        blocks = op.reshape(whole, (*x.shape[:axis], -(-n // _BLOCK), _BLOCK, *x.shape[x.rank + axis + 1 :]))
        others = _product_of_others(op, blocks, axis)
        others = others * _product_of_others(op, op.ReduceProd(blocks, [axis]), axis - 1)
        return op.Slice(op.reshape(others, whole.shape), [0], [n], [axis])
    place = op.range(n)
    same = op.Equal(op.unsqueeze(place, [-1]), place)
    same = op.reshape(same, (n, n, *[1] * (-1 - axis)))
    return op.ReduceProd(op.Where(same, 1, op.unsqueeze(x, [axis - 1])), [axis], keepdims=0)


def _product_of_others_in_cell(op: Builder, node: Node) -> Tensor:
    """The same where the axes are not known before run time: which elements meet is found there, too."""
    x, n = node.x, size_of(node.x.shape)
    cells = op.reshape(op.range(size_of(node.y.shape)), node.y.shape)
    cell, place = op.reshape(restored(op, node, cells), (n,)), op.range(n)
    together = op.And(op.Equal(op.unsqueeze(cell, [-1]), cell), op.Not(op.Equal(op.unsqueeze(place, [-1]), place)))
    return op.reshape(op.ReduceProd(op.Where(together, op.reshape(x, (n,)), 1), [-1], keepdims=0), x.shape)


# --- running sums and products ---------------------------------------------------------------


def _running_axis(node: Node) -> list[int]:
    given = node.inputs[1]
    assert given is not None
    if given.ints is None:
        raise samples.Mixed("the axis that it works along is not known before run time")
    return given.ints


def _axis_from_right(op: Builder, node: Node) -> Tensor:
    """The axis as an int64 scalar that counts from the right."""
    given, rank = node.inputs[1], node.x.rank
    assert given is not None
    if given.ints is not None:
        return op.constant(given.ints[0] % rank - rank, ir.DataType.INT64)
    return op.Mod(op.cast(op.reshape(given, ()), ir.DataType.INT64), rank) - rank


def _running_sum_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The running sum in the other direction."""
    flags = {"exclusive": node.attr("exclusive"), "reverse": 1 - node.attr("reverse")}
    return op.CumSum(ct, _axis_from_right(op, node), **flags)


linear("CumSum", _running_sum_back, versions=(14,), follow=samples.along(_running_axis))


@vjp(
    "CumProd",
    versions=(26,),
    wrt=(0,),
    follow=samples.along(_running_axis),
    remark="exact with zeros too, in memory that grows with the square of the size of the axis",
)
def running_product(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``x̄_k = Π_{j<k} x_j · Σ_{i≥k} ȳ_i Π_{k<j≤i} x_j``, without a division.

    If exclusive, the sum is over i > k and the second product over k < j < i. The order is that of the product, and
    the k are laid out along a new leading axis.
    """
    x, axis, flags = node.x, _axis_from_right(op, node), {"reverse": node.attr("reverse")}
    exclusive = node.attr("exclusive")
    if axis.ints is not None:
        k = op.range(x.shape[axis.ints[0]])
    else:
        start, step = (op.constant(i, ir.DataType.INT64) for i in (0, 1))
        k = op.Range(start, op.Gather(op.ints(x.shape), axis), step, shape=(op.fresh_dim(),))
    k = op.unsqueeze(k, range(-x.rank, 0))
    place = op.CumSum(op.full(x.shape, 1, ir.DataType.INT64), axis, exclusive=1, **flags)
    after = place > k
    products = op.CumProd(op.Where(after, x, 1), axis, exclusive=exclusive, **flags)
    terms = op.unsqueeze(ct, [-x.rank - 1]) * op.Where(after if exclusive else place >= k, products, 0)
    over = op.reshape(axis, (1,))
    kept = (*terms.shape[: -x.rank], *op.ReduceSum(x, over).shape)
    sums = op.spread(op.ReduceSum(terms, over, shape=kept), terms.shape)
    at_k = op.sum(op.Where(op.Equal(place, k), sums, 0), [-x.rank - 1], keepdims=False)
    return op.CumProd(x, axis, exclusive=1, **flags) * at_k
