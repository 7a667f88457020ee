"""Jacobians of chains with narrow waists: products of local Jacobians, bracketed by dynamic programming.

Where every path from x to y passes through one value v, ``∂y/∂x = ∂y/∂v · ∂v/∂x``. If v is narrow (the code of an
autoencoder), both factors together are far cheaper than either sweep over the whole chain. Which cuts to use, and
whether each part is swept forward, swept backward, or multiplied, is found by dynamic programming over the costs of
all parts (A. Griewank, U. Naumann, *Accumulating Jacobians as chained sparse matrix products*, Math. Program. 95,
2003; U. Naumann, *Optimization of generalized Jacobian chain products without memory constraints*, 2020).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.autodiff.activity import Activity, analyze
from onnxgrad.autodiff.cost import flops
from onnxgrad.autodiff.proof import follow_samples
from onnxgrad.autodiff.seeds import identity_seeds
from onnxgrad.autodiff.sweep import sweep_back, sweep_forward
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, elements, size_of
from onnxgrad.graph.flow import reads
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.samples import Samples

#: Cuts that are looked at: the narrowest. The programming is cubic in their number.
_MOST_CUTS = 24


@dataclass(frozen=True)
class Plan:
    """How the Jacobian of the chain between two cuts is found.

    Attributes:
        cost: floating-point operations, by estimate.
        how: "forward" or "reverse": from the identity, over all of it; "forward from" or "reverse from": on from the
        Jacobian
            of the first, or last, part; "product": of both parts.
        cut: position of the cut between both parts.
        first: plan of the part at the input's side, where its Jacobian is needed.
        last: plan of the part at the output's side, where its Jacobian is needed.
    """

    cost: float
    how: str
    cut: int = -1
    first: Plan | None = None
    last: Plan | None = None


def single_value_cuts(activity: Activity, x: ir.Value, y: ir.Value) -> list[tuple[ir.Value, int]]:
    """Return the values that every path from `x` to `y` passes through, each with the number of nodes in front of it.

    `x` and `y` themselves come first and last.
    """
    last_use = {v: i for i, node in enumerate(activity.nodes) for v in reads(node)}
    last_use[y] = len(activity.nodes)
    alive = {x}
    cuts = [(x, 0)]
    for i, node in enumerate(activity.nodes):
        alive.update(v for v in node.outputs if v in activity.values)
        alive = {v for v in alive if last_use.get(v, -1) > i}
        if len(alive) == 1:
            (value,) = alive
            if value is not cuts[-1][0]:
                cuts.append((value, i + 1))
    return cuts


def best_plan(widths: Sequence[float], costs: Sequence[float]) -> Plan:
    """Return the cheapest plan for a chain.

    Args:
        widths: elements of each cut, from input to output; ``k + 1`` numbers.
        costs: floating-point operations of each part between two cuts, for one seed; k numbers.
    """
    reach = [0.0]
    for cost in costs:
        reach.append(reach[-1] + cost)
    plans: dict[tuple[int, int], Plan] = {}
    for length in range(1, len(widths)):
        for i in range(len(widths) - length):
            j = i + length
            through = reach[j] - reach[i]
            options = [Plan(widths[j] * through, "reverse"), Plan(widths[i] * through, "forward")]
            for k in range(i + 1, j):
                first, last = plans[i, k], plans[k, j]
                ahead, back = widths[i] * (reach[j] - reach[k]), widths[j] * (reach[k] - reach[i])
                product = 2 * widths[i] * widths[k] * widths[j]
                options.append(Plan(first.cost + ahead, "forward from", k, first=first))
                options.append(Plan(last.cost + back, "reverse from", k, last=last))
                options.append(Plan(first.cost + last.cost + product, "product", k, first, last))
            plans[i, j] = min(options, key=lambda plan: plan.cost)
    return plans[0, len(widths) - 1]


@dataclass(frozen=True)
class Chain:
    """A chain of single values between x and y, and the best plan for its Jacobian."""

    nodes: Sequence[ir.Node]
    cuts: Sequence[Tensor]
    plan: Plan
    batched: bool

    @property
    def is_mixed(self) -> bool:
        """Whether the plan is other than one sweep over all."""
        return self.plan.how not in ("forward", "reverse")


def find_chain(op: Builder, nodes: Sequence[ir.Node], y: Tensor, x: Tensor, batched: bool) -> Chain:
    """Find the cuts between `x` and `y`, and the best plan over them."""
    activity = analyze(op, nodes, [x.value], [y.value])
    cuts = single_value_cuts(activity, x.value, y.value)
    places = follow_samples(op, activity, x.value)[0] if batched else {}
    usable = [(t, n) for v, n in cuts if (t := op.tensor(v)) and (not batched or places.get(v) == Samples(0))]

    def width(t: Tensor) -> float:
        return elements(t.shape[1:] if batched else t.shape)

    inner = sorted(usable[1:-1], key=lambda item: width(item[0]))[:_MOST_CUTS]
    chosen = [(x, 0), *sorted(inner, key=lambda item: item[1]), (y, len(activity.nodes))]
    samples = max(elements(y.shape[:1]), 1) if batched else 1.0
    costs = [
        sum(flops(op, node) for node in activity.nodes[a:b]) / samples for (_, a), (_, b) in itertools.pairwise(chosen)
    ]
    plan = best_plan([width(t) for t, _ in chosen], costs)
    return Chain(activity.nodes, [t for t, _ in chosen], plan, batched)


def chain_jacobian(op: Builder, chain: Chain) -> Tensor:
    """Return the Jacobian by the chain's plan, as matrices: ``(N, |y|, |x|)`` if batched, else ``(|y|, |x|)``."""
    lead = chain.cuts[0].shape[:1] if chain.batched else ()

    def flat(t: Tensor) -> Dim:
        return size_of(t.shape[len(lead) :])

    def matrix(swept: Tensor, like: Tensor, seeds: Dim, order: Callable[[int], list[int]]) -> Tensor:
        """Bring what was swept, ``(seeds, *lead, *like)``, to matrices."""
        rows = op.reshape(swept, (seeds, *lead, flat(like)))
        return op.Transpose(rows, perm=order(rows.rank))

    def seeds_of(jacobian: Tensor, like: Tensor, side: int) -> Tensor:
        """Bring the rows (side -2) or columns (side -1) of matrices to the front, as seeds for `like`."""
        order = [i for i in range(jacobian.rank) if i != jacobian.rank + side]
        moved = op.Transpose(jacobian, perm=[jacobian.rank + side, *order])
        return op.reshape(moved, (moved.shape[0], *like.shape))

    def by(plan: Plan, i: int, j: int) -> Tensor:
        a, b = chain.cuts[i], chain.cuts[j]
        if plan.how == "product":
            assert plan.first is not None
            assert plan.last is not None
            return op.MatMul(by(plan.last, plan.cut, j), by(plan.first, i, plan.cut))
        start = chain.cuts[plan.cut] if plan.cut >= 0 else None
        if plan.how.startswith("forward"):
            tangent, count = identity_seeds(op, a, chain.batched)
            if start is not None and plan.first is not None:
                tangent, count = seeds_of(by(plan.first, i, plan.cut), start, -1), flat(a)
            tangent, count = (op.unsqueeze(tangent, [-1 - tangent.rank]), 1) if count is None else (tangent, count)
            found = sweep_forward(op, chain.nodes, {(start or a).value: tangent}, [b.value], count)
            return matrix(found[b.value], b, count, lambda rank: [*range(1, rank), 0])
        ct, count = identity_seeds(op, b, chain.batched)
        if start is not None and plan.last is not None:
            ct, count = seeds_of(by(plan.last, plan.cut, j), start, -2), flat(b)
        ct, count = (op.unsqueeze(ct, [-1 - ct.rank]), 1) if count is None else (ct, count)
        found = sweep_back(op, chain.nodes, {(start or b).value: ct}, [a.value], count)
        return matrix(found[a.value], a, count, lambda rank: [*range(1, rank - 1), 0, rank - 1])

    return by(chain.plan, 0, len(chain.cuts) - 1)
