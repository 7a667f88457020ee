"""Jacobians: seeds, layouts, and the choice of a mode.

One sweep takes all rows (reverse) or columns (forward) of the identity at once, as a leading axis of seeds. A per-sample Jacobian needs
seeds for one sample only: since samples do not mix, the same seed serves all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxgrad.autodiff.cost import elements, live_flops
from onnxgrad.autodiff.sweep import Seeded, sweep_back, sweep_forward
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, size_of
from onnxgrad.graph.tensor import Tensor

#: How much cheaper one mode must be by the number of seeds alone that the other is not even tried.
_CLEAR = 8.0


def identity_seeds(op: Builder, x: Tensor, batched: bool) -> tuple[Tensor, Dim | None]:
    """Return seeds for all elements of `x` (of one sample of it, if batched), shape ``(S, *x.shape)``, and S.

    With a single element there is no axis of seeds (S is None), and the seeds are ones.
    """
    inner = x.shape[1:] if batched else x.shape
    count = size_of(inner)
    if count == 1:
        return op.full(x.shape, 1, x.dtype), None
    if isinstance(count, int):
        eye = op.eye(count, x.dtype)
    else:
        side = op.size(count)
        eye = op.EyeLike(op.ConstantOfShape(op.Concat(side, side, axis=0)), dtype=x.dtype, shape=(count, count))
    one: Shape = (1,) if batched else ()
    return op.spread(op.reshape(eye, (count, *one, *inner)), (count, *x.shape)), count


def jacobian_shape(y: Tensor, x: Tensor, batched: bool) -> Shape:
    """Return ``(N, *y, *x)`` for a per-sample Jacobian, else ``(*y, *x)``."""
    return (*y.shape, *x.shape[1:]) if batched else (*y.shape, *x.shape)


def reverse_jacobian(
    op: Builder, nodes: Sequence[ir.Node], y: Tensor, xs: Sequence[Tensor], batched: bool
) -> list[Tensor]:
    """Return the Jacobian of `y` with respect to each of `xs`, by one backward sweep."""
    ct, count = identity_seeds(op, y, batched)
    found = sweep_back(op, nodes, {y.value: ct}, [x.value for x in xs], count)
    results = []
    for x in xs:
        rows = found.get(x.value)
        if rows is None:
            rows = op.full(x.shape if count is None else (count, *x.shape), 0, x.dtype)
        elif batched and count is not None:
            rows = op.swap(rows, 0, 1) if rows.rank == 2 else op.Transpose(rows, perm=[1, 0, *range(2, rows.rank)])
        results.append(op.reshape(rows, jacobian_shape(y, x, batched)))
    return results


def forward_jacobian(
    op: Builder, nodes: Sequence[ir.Node], ys: Sequence[Tensor], x: Tensor, batched: bool
) -> list[Tensor]:
    """Return the Jacobian of each of `ys` with respect to `x`, by one forward sweep."""
    tangent, count = identity_seeds(op, x, batched)
    found = sweep_forward(op, nodes, {x.value: tangent}, [y.value for y in ys], count)
    results = []
    for y in ys:
        columns = found.get(y.value)
        if columns is None:
            columns = op.full((*y.shape, *(() if count is None else (count,))), 0, x.dtype)
        elif count is not None:
            columns = op.Transpose(columns, perm=[*range(1, columns.rank), 0])
        results.append(op.reshape(op.cast(columns, x.dtype), jacobian_shape(y, x, batched)))
    return results


def cheapest_jacobians(
    op: Builder, nodes: Sequence[ir.Node], y: Tensor, xs: Sequence[Tensor], batched: bool, mode: str
) -> tuple[list[Tensor], str]:
    """Return the Jacobians of `y` with respect to `xs` and the mode that was taken.

    With ``mode="auto"`` both are written and their floating-point operations counted, except where the numbers of
    seeds alone decide; what is not taken is dropped with all other unneeded nodes.
    """
    seeds_back = elements(y.shape[1:] if batched else y.shape)
    seeds_forward = max(sum(elements(x.shape[1:] if batched else x.shape) for x in xs), 1)
    results: dict[str, tuple[float, list[Tensor]]] = {}
    start = len(op.nodes)
    if mode == "reverse" or (mode == "auto" and seeds_back < _CLEAR * seeds_forward):
        found = reverse_jacobian(op, nodes, y, xs, batched)
        results["reverse"] = live_flops(op, op.nodes[start:], [t.value for t in found]), found
    if mode == "forward" or (mode == "auto" and seeds_back > seeds_forward / _CLEAR and seeds_back > 1):
        found = [forward_jacobian(op, nodes, [y], x, batched)[0] for x in xs]
        results["forward"] = live_flops(op, op.nodes[start:], [t.value for t in found]), found
    chosen = min(results, key=lambda name: results[name][0])
    return results[chosen][1], chosen


def second_derivatives(
    op: Builder, nodes: Sequence[ir.Node], gradients: Mapping[ir.Value, Tensor], xs: Sequence[Tensor], batched: bool
) -> dict[tuple[ir.Value, ir.Value], Tensor]:
    """Return the forward-mode Jacobian of each gradient with respect to each of `xs`, by ``(x1, x2)``.

    Gradients must have been written by `op` already; `nodes` are those that lead to them.
    """
    results = {}
    for x2 in xs:
        columns = forward_jacobian(op, nodes, list(gradients.values()), x2, batched)
        results.update(zip(((x1, x2.value) for x1 in gradients), columns, strict=True))
    return results


__all__ = [
    "Seeded",
    "cheapest_jacobians",
    "forward_jacobian",
    "identity_seeds",
    "jacobian_shape",
    "reverse_jacobian",
    "second_derivatives",
]
