"""Operators that pick elements by index, or put them at an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_mul, dim_sub, size_of
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import linear, not_differentiable, vjp
from onnxgrad.rules.samples import Mixed, Samples
from onnxgrad.rules.scatter import moved_back, pad, scatter_add, seeds_of

# --- picking along an axis ------------------------------------------------------------------------


def gather_back(op: Builder, ct: Tensor, index: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return the adjoint of picking ``x[…, index, …]`` along `axis`, for an index that is not negative.

    A single index is undone by padding; otherwise rows of all the elements behind `axis` are added up.
    """
    axis = axis % x.rank - x.rank
    n, behind = x.shape[axis], size_of(x.shape[axis + 1 :] if axis < -1 else ())
    end = ct.rank - (-axis - 1)
    front = ct.shape[: end - index.rank]
    result = (*front, n, *ct.shape[end:])
    if all(d == 1 for d in index.shape):
        row, first = op.reshape(ct, (*front, 1, *ct.shape[end:])), op.reshape(index, (1,))
        return pad(op, row, [first], [op.size(dim_sub(n, 1)) - first], [axis], result)
    many = size_of(index.shape)
    starts = op.reshape(index, (many, 1)) * op.size(behind)
    positions = op.reshape(starts + op.reshape(op.range(behind), (1, behind)), (dim_mul(many, behind),))
    flat = scatter_add(op, op.reshape(ct, (*front, dim_mul(many, behind))), positions, dim_mul(n, behind))
    return op.reshape(flat, result)


def _not_negative(op: Builder, index: Tensor, size: Tensor) -> Tensor:
    """Return an index counted from the front."""
    index = op.cast(index, ir.DataType.INT64)
    known = index.ints
    if known is not None and min(known, default=0) >= 0:
        return index
    return op.Where(index < 0, index + size, index)


def _gather_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``x̄[…, index, …] += ȳ``."""
    index, axis = node.inputs[1], node.attr("axis")
    assert index is not None
    size = op.reshape(op.size(node.x.shape[axis]), ())
    return gather_back(op, ct, _not_negative(op, index, size), node.x, axis)


linear("Gather", _gather_back, versions=(13,), follow=samples.gathered)


def _compressed(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Follow `Compress`."""
    if node.attr("axis") is None:
        raise Mixed("it picks among all elements")
    return samples.along(samples.axis_attribute)(node, inputs)


def _compress_back(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """Picking the slices for which the condition holds, along an axis or of all elements in a row."""
    condition, axis = node.inputs[1], node.attr("axis")
    assert condition is not None
    chosen = op.reshape(op.NonZero(condition), (node.y.shape[axis or 0],))
    return _picked_in_order_back(op, node, ct, chosen, axis)


linear("Compress", _compress_back, versions=(11, 28), follow=_compressed)


@vjp("Unique", versions=(11, 28), wrt=(0,), remark="of equal elements, the first gets the cotangent")
def unique(op: Builder, node: Node, ct: Tensor, *others: None) -> Tensor:
    """``Y = x[first]``, where `first` (the second output) is where each element, or slice, of Y first occurs in x."""
    axis = node.attr("axis")
    first = node.outputs[1] if len(others) else None
    if first is None:
        first = op.emit("Unique", node.x, outputs=2, axis=axis, sorted=node.attr("sorted"))[1]
    return _picked_in_order_back(op, node, ct, op.reshape(first, (node.y.shape[axis or 0],)), axis)


def _picked_in_order_back(op: Builder, node: Node, ct: Tensor, index: Tensor, axis: int | None) -> Tensor:
    """Return the adjoint of picking along an axis, or of all elements in a row."""
    if axis is not None:
        return gather_back(op, ct, index, node.x, axis)
    flat = scatter_add(op, ct, index, size_of(node.x.shape))
    return op.reshape(flat, (*seeds_of(ct, node.y), *node.x.shape))


# --- picking by element ---------------------------------------------------------------------------


def _pick_elements_back(op: Builder, node: Node, ct: Tensor, index: Tensor) -> Tensor:
    """``x̄[…, index, …] += ȳ``; where the last axis does not serve, among all elements in a row."""
    x, seeds, axis = node.x, seeds_of(ct, node.y), node.attr("axis")
    if axis % x.rank == x.rank - 1 and x.shape[:-1] == index.shape[:-1]:
        return scatter_add(op, ct, index, x.shape[-1])
    n, many = size_of(x.shape), size_of(index.shape)
    positions = op.GatherElements(op.reshape(op.range(n), x.shape), index, axis=axis)
    flat = scatter_add(op, op.reshape(ct, (*seeds, many)), op.reshape(positions, (many,)), n)
    return op.reshape(flat, (*seeds, *x.shape))


@vjp("TopK", versions=(11, 24), wrt=(0,), follow=samples.along(samples.axis_attribute))
def top_k(op: Builder, node: Node, ct: Tensor, index_ct: None = None) -> Tensor:
    """The cotangent of each of the k largest goes to where it was found."""
    index = node.outputs[1]
    if index is None:
        attributes = {name: node.attr(name) for name in ("axis", "largest", "sorted")}
        index = op.emit("TopK", *node.inputs, outputs=2, **attributes)[1]
        op.retype(index, node.y.shape)
    return _pick_elements_back(op, node, ct, index)


def _same_sizes_along(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Follow an operator that works along an axis and may take only the first part of each other one."""
    found = samples.along(samples.axis_attribute)(node, inputs)
    for tensor, place in zip(node.inputs, inputs, strict=True):
        if place is not None and tensor is not None and tensor.shape[place.axis] != node.y.shape[place.axis]:
            raise Mixed("its indices cover the axis of samples only in part")
    return found


@vjp("GatherElements", versions=(13,), wrt=(0,), follow=_same_sizes_along)
def gather_elements(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """``x̄[…, index, …] += ȳ``."""
    index = node.inputs[1]
    assert index is not None
    return _pick_elements_back(op, node, ct, index)


def _gathered_nd(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Follow `GatherND`: the batch axes stay in front, the axes behind the indexed ones stay at the end."""
    place, index, batch = inputs[0], node.inputs[1], node.attr("batch_dims")
    assert place is not None
    assert index is not None
    depth = index.shape[-1]
    if place.axis < batch:
        return [place]
    if isinstance(depth, int) and place.axis >= batch + depth:
        return [replace(place, axis=place.axis + node.y.rank - node.x.rank)]
    raise Mixed(f"it picks along axis {place.axis}, on which the samples lie")


linear("GatherND", moved_back, versions=(13,), follow=_gathered_nd)


# --- putting --------------------------------------------------------------------------------------

_MANY = "; where several updates are multiplied into one place, one that is 0 gets NaN"


@vjp("ScatterElements", versions=(18,), follow=_same_sizes_along, remark=f"ties share{_MANY}")
def scatter_elements(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor] | None]:
    """The updates land on ``y[…, index, …]``; see `_put_back`."""
    index, updates = node.inputs[1:]
    assert index is not None
    by_data, by_updates = _put_elements_back(op, node, ct, index, updates, node.attr("reduction"))
    return by_data, None, by_updates


def _put_elements_back(
    op: Builder, node: Node, ct: Tensor, index: Tensor, updates: Tensor | None, reduction: str
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    axis = node.attr("axis") % node.x.rank - node.x.rank

    def pick(x: Tensor) -> Tensor:
        seeds = seeds_of(x, node.y)
        return op.GatherElements(x, op.spread(index, (*seeds, *index.shape)), axis=axis)

    def put(x: Tensor, updates: Tensor, reduction: str) -> Tensor:
        return op.ScatterElements(x, index, updates, axis=axis, reduction=reduction)

    places: np.ndarray | None = None
    if index.const is not None:
        grid = np.indices(index.const.shape)
        grid[axis] = index.const
        places = grid.reshape(index.rank, -1).T
    return _put_back(op, node, ct, updates, reduction, pick, put, places)


@vjp("TensorScatter", versions=(24,), wrt=(0, 1), follow=samples.along(samples.axis_attribute))
def tensor_scatter(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """Update i along the axis lands on ``start + i``, with a start for each sample; see `_put_back`."""
    x, updates, starts = node.x, node.inputs[1], node.input(2)
    assert updates is not None
    axis = node.attr("axis") % x.rank
    index = op.reshape(op.range(updates.shape[axis]), (updates.shape[axis], *[1] * (x.rank - axis - 1)))
    if starts is not None:
        index = op.reshape(starts, (x.shape[0], *[1] * (x.rank - 1))) + index
    if node.attr("mode") == "circular":
        index = op.Mod(index, op.reshape(op.size(x.shape[axis]), ()))
    return _put_elements_back(op, node, ct, op.spread(index, updates.shape), updates, "none")


def _scattered_nd(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Follow `ScatterND`: the axes behind the indexed ones stay apart, aligned from the right."""
    index = node.inputs[1]
    assert index is not None
    depth = index.shape[-1]
    found = set()
    for tensor, place in zip(node.inputs, inputs, strict=True):
        if tensor is not None and place is not None:
            axis = place.axis + node.y.rank - tensor.rank
            if not isinstance(depth, int) or axis < depth:
                raise Mixed("it puts elements along the axis on which the samples lie")
            found.add(replace(place, axis=axis))
    if len(found) != 1:
        raise Mixed("the samples of its inputs lie on different axes")
    return list(found)


@vjp("ScatterND", versions=(18,), follow=_scattered_nd, remark=f"ties share{_MANY}")
def scatter_nd(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor] | None]:
    """The updates land on ``y[index]``; see `_put_back`."""
    index, updates = node.inputs[1:]
    assert index is not None

    def pick(x: Tensor) -> Tensor:
        seeds = seeds_of(x, node.y)
        return op.GatherND(x, op.spread(index, (*seeds, *index.shape)), batch_dims=len(seeds))

    def put(x: Tensor, updates: Tensor, reduction: str) -> Tensor:
        if reduction == "none":
            return op.ScatterND(x, index, updates)
        n, many = size_of(x.shape), size_of(updates.shape)  # no ScatterND here: see the module `scatter`
        positions = op.reshape(op.GatherND(op.reshape(op.range(n), x.shape), index, shape=updates.shape), (many,))
        flat, new = op.reshape(x, (n,)), op.reshape(updates, (many,))
        return op.reshape(op.ScatterElements(flat, positions, new, axis=0, reduction=reduction), x.shape)

    places = None if index.const is None else index.const.reshape(-1, index.const.shape[-1])
    by_data, by_updates = _put_back(op, node, ct, updates, node.attr("reduction"), pick, put, places)
    return by_data, None, by_updates


def _put_back(
    op: Builder,
    node: Node,
    ct: Tensor,
    updates: Tensor | None,
    reduction: str,
    pick: Callable[[Tensor], Tensor],
    put: Callable[[Tensor, Tensor, str], Tensor],
    places: np.ndarray | None,
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The adjoint of putting updates u into data x; a prime marks what is picked from where each update went.

    - none: ``x̄ = ȳ`` where nothing was put, ``ū = ȳ'``. (ONNX forbids that several updates go to one place.)
    - add: ``x̄ = ȳ``, ``ū = ȳ'``.
    - mul: ``x̄ = ȳ · Π u``, ``ū = ȳ' · x'`` for an update alone in its place, else ``ȳ' · y' / u``: NaN at u = 0.
    - min, max: all that equal the output share its cotangent equally (as in PyTorch).
    """
    x, y = node.x, node.y
    assert updates is not None
    if reduction == "add":
        return lambda: ct, lambda: pick(ct)
    if reduction == "none":
        _check_unique(places, x)
        kept = put(op.full(x.shape, 1, ir.DataType.BOOL), op.full(updates.shape, 0, ir.DataType.BOOL), "none")
        return lambda: op.masked(kept, ct), lambda: pick(ct)
    if reduction == "mul":

        def by_update() -> Tensor:
            there = pick(put(op.zeros_like(x), op.full(updates.shape, 1, x.dtype), "add"))
            alone = op.Equal(there, 1)
            return pick(ct) * op.Where(alone, pick(x), pick(y) / op.Where(alone, 1, updates))

        return lambda: ct * put(op.full(x.shape, 1, x.dtype), updates, "mul"), by_update
    won, hit = op.cast(op.Equal(x, y), x.dtype), op.cast(op.Equal(updates, pick(y)), x.dtype)
    share = ct / put(won, hit, "add")
    return lambda: share * won, lambda: pick(share) * hit


def _check_unique(places: np.ndarray | None, x: Tensor) -> None:
    """Refuse indices of which it is known that two name the same place (one row of coordinates each)."""
    if places is None or not places.size:
        return
    sizes = np.array([d if isinstance(d, int) else 0 for d in x.shape[: places.shape[1]]])
    front = np.where(places < 0, places + sizes, places)
    if len(np.unique(front, axis=0)) < len(front):
        raise Refusal("two of its updates go to one place, which ONNX forbids: it is not said which of them stays")


# --- one-hot --------------------------------------------------------------------------------------


@vjp("OneHot", versions=(11, 28), wrt=(2,), zero={0: "an index", 1: "a size"})
def one_hot(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor] | None]:
    """``Y = off + (on - off) · hit``: the sums of the cotangent where there is no hit, and where there is one."""
    index, depth = node.inputs[:2]
    assert index is not None
    assert depth is not None
    int64 = ir.DataType.INT64
    hit = op.OneHot(op.cast(index, int64), op.cast(depth, int64), [0, 1], axis=node.attr("axis"), shape=node.y.shape)
    axes = list(range(-node.y.rank, 0))

    def total(mask: Tensor) -> Tensor:
        return op.reshape(op.sum(op.masked(mask, ct), axes, keepdims=False), (*seeds_of(ct, node.y), 1))

    return None, None, lambda: op.Concat(total(op.Equal(hit, 0)), total(op.Equal(hit, 1)), axis=-1)


# --- positions, sizes and choices -----------------------------------------------------------------

not_differentiable("NonZero", "positions", versions=(13,))
not_differentiable("NonMaxSuppression", "positions", versions=(11,))
