"""Jacobians: seeds, layouts, and the choice of a mode.

One sweep takes all rows (reverse) or columns (forward) of the identity at once, as a leading axis of seeds. A
per-sample Jacobian needs seeds for one sample only: since samples do not mix, the same seed serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxgrad.autodiff.chain import chain_jacobian, find_chain
from onnxgrad.autodiff.cost import live_flops
from onnxgrad.autodiff.seeds import identity_seeds
from onnxgrad.autodiff.sweep import Seeded, sweep_back, sweep_forward
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Shape, elements
from onnxgrad.graph.tensor import Tensor

#: How much cheaper one mode must be by the number of seeds alone that the other is not even tried.
_CLEAR = 8.0
#: Number of nodes above which the cheapest mode is estimated, since writing all of them takes its time.
_MANY = 1000


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
    """Return the Jacobians of `y` with respect to `xs`, and the mode that was taken.

    With ``mode="auto"``, every mode that can be the cheapest is written and its floating-point operations are
    counted; what is not taken is dropped with all other unneeded nodes. In long graphs the estimate of
    `onnxgrad.autodiff.chain` (of one `x`), or the number of seeds decides instead. The modes are "reverse", "forward",
    and "mixed" for a product of local Jacobians (see `onnxgrad.autodiff.chain`).
    """
    modes: dict[str, Callable[[], list[Tensor]]] = {
        "reverse": lambda: reverse_jacobian(op, nodes, y, xs, batched),
        "forward": lambda: [forward_jacobian(op, nodes, [y], x, batched)[0] for x in xs],
    }
    if mode != "auto":
        return modes[mode](), mode
    back = elements(y.shape[1:] if batched else y.shape)
    ahead = sum(elements(x.shape[1:] if batched else x.shape) for x in xs)
    if back <= 1 or back * _CLEAR <= ahead:
        del modes["forward"]
    elif ahead * _CLEAR <= back:
        del modes["reverse"]
    estimate = "forward" if ahead < back else "reverse"
    if len(xs) == 1 and min(back, ahead) > 1:
        chain = find_chain(op, nodes, y, xs[0], batched)
        if chain.is_mixed:
            shape = jacobian_shape(y, xs[0], batched)
            modes["mixed"] = lambda: [op.reshape(chain_jacobian(op, chain), shape)]
        estimate = "mixed" if chain.is_mixed else chain.plan.how
    if len(modes) > 1 and len(nodes) > _MANY and estimate in modes:
        modes = {estimate: modes[estimate]}
    if len(modes) == 1:
        ((chosen, write),) = modes.items()
        return write(), chosen
    start = len(op.nodes)
    results = {name: write() for name, write in modes.items()}
    counts = {name: live_flops(op, op.nodes[start:], [t.value for t in found]) for name, found in results.items()}
    chosen = min(counts, key=lambda name: counts[name])
    return results[chosen], chosen


def second_derivatives(
    op: Builder, nodes: Sequence[ir.Node], gradients: Mapping[ir.Value, Tensor], xs: Sequence[Tensor], batched: bool
) -> dict[tuple[ir.Value, ir.Value], Tensor]:
    """Return the forward-mode Jacobian of each gradient with respect to each of `xs`, by ``(x1, x2)``.

    Gradients must have been written by `op` already; `nodes` are those that lead to them.
    """
    results: dict[tuple[ir.Value, ir.Value], Tensor] = {}
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
