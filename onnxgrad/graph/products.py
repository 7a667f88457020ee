"""Products, and sums of products, in the order that costs least.

A sweep multiplies a cotangent by one local derivative after another, and adds up what comes back on several ways. So
it writes long products, with the factor that is largest, the cotangent, in each of them. Before they are written to
the model,

- common factors are taken out of sums: ``c · a + c · b = c · (a + b)``, so that an activation that was exported as
  several operators (a GELU, a SiLU) comes to one product of a cotangent with a derivative that no seed enlarges;
- what is small is multiplied first: ``(c · a) · b = c · (a · b)``, numbers above all, and what was picked before it is
  put back;
- what is constant along the rows goes into a constant matrix: ``(a @ M) · s = a @ (M · s)``,
  ``(a · s) @ M = a @ (sᵀ · M)``, and so does the subtraction of a mean: ``a @ M - mean(a @ M) = a @ (M - mean(M))``.
  Runtimes compute such a matrix once, as they do with its transpose;
- numbers go into an exponential: ``c · exp(a - b) = exp(a + ln c - b)``.

The products are taken in another order then, which changes no more than rounding as long as each is in range. So it is
done in float32 and float64 only.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxgrad.graph.dims import Shape, broadcast, elements, size_of
from onnxgrad.graph.picked import picked_of
from onnxgrad.graph.tensor import Tensor

if TYPE_CHECKING:
    from onnxgrad.graph.builder import Builder

#: Products of more factors stay as they are.
_MOST_FACTORS = 16
#: Number of elements up to which a matrix may become one for each seed.
_LARGE = 2**16
_DTYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def in_cheapest_order(op: Builder, nodes: Sequence[ir.Node], results: Iterable[ir.Value]) -> list[ir.Node]:
    """Return emitted nodes, which are about to be written, with products and sums of products in another order.

    Args:
        op: the builder.
        nodes: the nodes.
        results: values that must stay, besides the outputs of the model.
    """
    writer = _Writer(op, nodes, results)
    for node in nodes:
        writer.write(node)
    return writer.live()


class _Writer:
    """Rewrites nodes one by one, each after those that it reads."""

    def __init__(self, op: Builder, nodes: Sequence[ir.Node], results: Iterable[ir.Value]) -> None:
        self.op = op
        self.results = set(results)
        self.own = set(nodes)  # those of the model itself stay as they are
        self.written: list[ir.Node] = []
        self.rewrites = {"Add": self.sum, "Sub": self.difference, "Mul": self.product, "MatMul": self.scaled_rows}

    def write(self, node: ir.Node) -> None:
        """Add a node to the result, behind what it is to read instead."""
        rewrite = self.rewrites.get(node.op_type)
        if rewrite is not None and not node.domain and self.tensor(node.outputs[0]).dtype in _DTYPES:
            scope = (node.name or "").rpartition("/")[0]
            with self.op.body() as new, self.op.unshared(), self.op.named_after(scope):
                rewrite(node)
                self.own.update(new)
                self.written += new
        self.written.append(node)

    def live(self) -> list[ir.Node]:
        """Return the nodes, without those whose place others have taken."""
        kept = []
        for node in reversed(self.written):
            if any(v.uses() or self.is_result(v) for v in node.outputs):
                kept.append(node)
                continue
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)
        return kept[::-1]

    # --- what is written -----------------------------------------------------------------------------

    def sum(self, node: ir.Node) -> None:
        """``c · a ± c · b = c · (a ± b)``."""
        first, second = (self.factors(v) for v in _inputs(node))
        common = list((Counter(first) & Counter(second)).elements())
        rests = [_without(factors, common) for factors in (first, second)]
        if not common or not any(rests) or len(first) + len(second) > _MOST_FACTORS:
            return
        shape = self.tensor(node.outputs[0]).shape
        rest = broadcast(*(self.tensor(v).shape for factors in rests for v in factors))
        # where nothing is left of one of them, a product takes the place of a product
        if len(common) + all(rests) > 1 or elements(rest) < elements(shape):
            dtype = self.tensor(common[0]).dtype
            a, b = (self.multiplied(r) if r else self.op.constant(1, dtype) for r in rests)
            self.op.become(node, "Mul", [self.multiplied(common), self.op.emit(node.op_type, a, b)[0]])
            self.own.update(self.op.nodes)
            self.product(node)

    def difference(self, node: ir.Node) -> None:
        """``a @ M - mean(a @ M) = a @ (M - mean(M))`` where it is the mean over the last axis; else as a sum."""
        x, mean = _inputs(node)
        product, reduced = self.emitted(x, "MatMul"), self.emitted(mean, "ReduceMean")
        if product is not None and reduced is not None and reduced.inputs[0] is x and len(reduced.inputs) == 2:
            a, matrix, axes = (self.tensor(v) for v in (*_inputs(product), *_inputs(reduced)[1:]))
            rank = self.tensor(x).rank
            last = axes.ints in ([-1], [rank - 1]) and self.tensor(mean).rank == rank
            if last and self.is_matrix(matrix) and self.used(x, 2) and self.used(mean, 1):
                self.op.become(node, "MatMul", [a, matrix - self.op.mean(matrix, [-1])])
                return
        self.sum(node)

    def product(self, node: ir.Node) -> None:
        """Multiply constants into a matrix, and what is small first."""
        y = node.outputs[0]
        if self.used(y, 1) and all(use.node in self.own and use.node.op_type == "Mul" for use in y.uses()):
            return  # that one sees the whole product
        factors = [v for x in _inputs(node) for v in self.factors(x)]
        if len(factors) > _MOST_FACTORS:
            return
        fewer = self.put_later(factors) or self.absorbed(factors) or self.in_exponent(factors)
        if fewer is not None:
            factors = fewer
        elif self.cheapest(factors).cost >= self.written_cost(node):
            return
        tree = self.cheapest(factors)
        if isinstance(tree.made_of, tuple):
            self.op.become(node, "Mul", [self.built(part) for part in tree.made_of])
        else:
            made = tree.made_of.producer()
            assert made is not None
            self.op.become(node, made.op_type, [self.tensor(v) for v in _inputs(made)])
            node.attributes.update(made.attributes)

    def put_later(self, factors: Sequence[ir.Value]) -> list[ir.Value] | None:
        """``put(c) · g(x) = put(c · g(y))`` where y was picked from x (`onnxgrad.graph.picked`)."""
        for x in factors:
            shaped = self.emitted(x, "Reshape")
            flat = x if shaped is None else _inputs(shaped)[0]
            picked = picked_of(flat.producer())
            if picked is None or not self.used(x, 1) or not self.used(flat, 1):
                continue
            others = [(v, picked.factor(v, self.own)) for v in _without(factors, [x])]
            small = [factor.value for _, factor in others if factor is not None]
            if small:
                with self.op.body() as new:
                    picked.scale(self.multiplied(small))
                new[:0] = self.op.nodes  # the factors
                self.op.nodes.clear()
                self.own.update(new)
                place = self.written.index(picked.node)
                self.written[place:place] = new
                return [x, *(v for v, factor in others if factor is None)]
        return None

    def absorbed(self, factors: Sequence[ir.Value]) -> list[ir.Value] | None:
        """``(a @ M) · s = a @ (M · s)`` for constants M and s."""
        for x in factors:
            node = self.emitted(x, "MatMul")
            if node is None or not self.used(x, 1):
                continue
            a, matrix = (self.tensor(v) for v in _inputs(node))
            others = _without(factors, [x])
            scales = [v for v in others if self.is_matrix(matrix) and self.scales(v, self.tensor(x))]
            if scales:
                scale = self.multiplied(scales)
                scale = self.op.reshape(scale, (1 if size_of(scale.shape) == 1 else matrix.shape[-1],))
                return [self.op.MatMul(a, matrix * scale).value, *_without(others, scales)]
        return None

    def in_exponent(self, factors: Sequence[ir.Value]) -> list[ir.Value] | None:
        """``c · exp(a - b) = exp(a + ln c - b)`` for numbers c above 0 and a constant a, as in a normal density."""
        for x in factors:
            node = self.emitted(x, "Exp")
            difference = None if node is None else self.emitted(_inputs(node)[0], "Sub")
            if difference is None or not self.used(x, 1) or not self.used(difference.outputs[0], 1):
                continue
            a, b = (self.tensor(v) for v in _inputs(difference))
            numbers = [v for v in factors if self.is_above_0(v)]
            if numbers and self.op.is_fixed(a) and a.rank == 0:
                factor = self.op.reshape(self.multiplied(numbers), ())
                return [self.op.Exp(a + self.op.Log(factor) - b).value, *_without(factors, [x, *numbers])]
        return None

    def scaled_rows(self, node: ir.Node) -> None:
        """``(a · s) @ M = a @ (sᵀ · M)`` for constants s and M, if that is no much larger matrix."""
        rows, matrix = (self.tensor(v) for v in _inputs(node))
        factors = self.factors(rows.value)
        if not self.is_matrix(matrix) or not 1 < len(factors) <= _MOST_FACTORS:
            return
        scales = [v for v in factors if self.scales_rows(v, rows)]
        others = _without(factors, scales)
        if not scales or not others:
            return
        rest, scale = self.multiplied(others), self.multiplied(scales)
        column = self.op.reshape(scale, (*scale.shape[:-2], *scale.shape[-1:], 1))
        size = elements(broadcast(column.shape, matrix.shape))
        if rest.rank > 1 and rest.shape[-2:] == rows.shape[-2:] and size <= max(elements(matrix.shape), _LARGE):
            self.op.become(node, "MatMul", [rest, column * matrix])

    # --- what is there -------------------------------------------------------------------------------

    def tensor(self, value: ir.Value) -> Tensor:
        """Return the tensor of a value."""
        tensor = self.op.tensor(value)
        assert tensor is not None
        return tensor

    def is_result(self, value: ir.Value) -> bool:
        """Whether somebody asks for a value itself."""
        return value.is_graph_output() or value in self.results

    def used(self, value: ir.Value, times: int) -> bool:
        """Whether a value is read so often, and is no result."""
        return len(value.uses()) == times and not self.is_result(value)

    def emitted(self, value: ir.Value, op_type: str) -> ir.Node | None:
        """Return the node that makes a value, if it is of that type and about to be written."""
        node = value.producer()
        return node if node in self.own and node is not None and node.op_type == op_type and not node.domain else None

    def parts(self, value: ir.Value) -> list[ir.Value] | None:
        """Return the factors of a value that is the product of two, if it is nothing else than a factor itself."""
        node, opposite = self.emitted(value, "Mul"), self.emitted(value, "Neg")
        if (node is None and opposite is None) or not self.used(value, 1):
            return None
        if opposite is not None:
            return [self.op.constant(-1, self.tensor(value).dtype).value, *_inputs(opposite)]
        return None if node is None else _inputs(node)

    def factors(self, value: ir.Value) -> list[ir.Value]:
        """Return the factors of a value, down to what is no product that is used here alone."""
        found, pending = [], [value]
        while pending:
            value = pending.pop()
            parts = self.parts(value)
            if parts is None:
                found.append(value)
            else:
                pending += parts[::-1]
        return self.with_known(found)

    def with_known(self, factors: list[ir.Value]) -> list[ir.Value]:
        """Return factors with the product of two in their place where the model itself computes it, as a SiLU does."""
        for a in factors:
            for node in () if a.is_initializer() else a.consumers():  # of a number, there may be as many as nodes
                product = node.outputs[0]
                pair = _inputs(node)
                known = node not in self.own and node.graph is self.op.model.graph and product not in factors
                if known and node.op_type == "Mul" and not node.domain and not Counter(pair) - Counter(factors):
                    return self.with_known([*_without(factors, pair), product])
        return factors

    def is_matrix(self, x: Tensor) -> bool:
        """Whether a tensor is a constant matrix."""
        return x.rank == 2 and all(isinstance(d, int) for d in x.shape) and self.op.is_fixed(x)

    def is_above_0(self, value: ir.Value) -> bool:
        """Whether a factor is one number above 0: a known one, or made of such."""
        known, node = self.tensor(value).const, value.producer()
        if node is not None and node.op_type in ("Mul", "Reciprocal") and not node.domain:
            return all(map(self.is_above_0, _inputs(node)))
        return known is not None and known.size == 1 and bool(known.min() > 0)

    def scales(self, value: ir.Value, product: Tensor) -> bool:
        """Whether a factor is constant, and one number for each column of a product, or for all."""
        x = self.tensor(value)
        columns = x.shape[-1:] == product.shape[-1:] and size_of(x.shape[:-1]) == 1
        return (columns or size_of(x.shape) == 1) and x.rank <= product.rank and self.op.is_fixed(x)

    def scales_rows(self, value: ir.Value, rows: Tensor) -> bool:
        """Whether a factor is constant, and the same for all rows."""
        x = self.tensor(value)
        same = x.rank < 2 or x.shape[-2] == 1
        return same and x.shape[-1:] in ((), (1,), rows.shape[-1:]) and self.op.is_fixed(x)

    # --- the order -----------------------------------------------------------------------------------

    def multiplied(self, factors: Iterable[ir.Value]) -> Tensor:
        """Return the product of factors."""
        return self.built(self.cheapest(factors))

    def built(self, product: _Product) -> Tensor:
        """Return a product, of which the multiplications are emitted."""
        if isinstance(product.made_of, tuple):
            a, b = (self.built(part) for part in product.made_of)
            return a * b
        return self.tensor(product.made_of)

    def cheapest(self, factors: Iterable[ir.Value]) -> _Product:
        """Return a product in an order that costs little: each time, the two are multiplied that cost least."""
        parts = [_Product(v, x.shape, self.op.is_fixed(x), 0) for v, x in ((v, self.tensor(v)) for v in factors)]
        while len(parts) > 1:
            pairs = itertools.combinations(range(len(parts)), 2)
            _, i, j = min((_step(parts[i], parts[j]), i, j) for i, j in pairs)
            a, b = parts[i], parts.pop(j)
            cost = a.cost + b.cost + _step(a, b)[0]
            parts[i] = _Product((a, b), broadcast(a.shape, b.shape), a.fixed and b.fixed, cost)
        return parts[0]

    def written_cost(self, node: ir.Node) -> float:
        """Return how many elements a product computes as it is written."""
        total, pending = 0.0, [node]
        while pending:
            node = pending.pop()
            y = self.tensor(node.outputs[0])
            total += 0 if self.op.is_fixed(y) else elements(y.shape)
            pending += [v.producer() for v in _inputs(node) if self.parts(v) is not None]  # type: ignore[misc]
        return total


@dataclass(frozen=True)
class _Product:
    """A factor, or two that are to be multiplied.

    Attributes:
        made_of: the factor, or the two.
        shape: shape of the product.
        fixed: whether it is computed once.
        cost: how many elements are computed for it in each run.
    """

    made_of: ir.Value | tuple[_Product, _Product]
    shape: Shape
    fixed: bool
    cost: float


def _step(a: _Product, b: _Product) -> tuple[float, float]:
    """Return how many elements are computed for the product of two in each run, and before."""
    size = elements(broadcast(a.shape, b.shape))
    return (0, size) if a.fixed and b.fixed else (size, 0)


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None]


def _without(factors: Iterable[ir.Value], taken: Iterable[ir.Value]) -> list[ir.Value]:
    return list((Counter(factors) - Counter(taken)).elements())
