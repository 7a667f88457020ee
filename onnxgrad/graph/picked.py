"""What comes back to elements that were picked from others, as by a pooling.

Where y was picked from x, its cotangent comes back to the places of x that y is from, and nothing to all others. So a
factor that depends on x alone, such as the derivative of an activation in front of the pooling, can be computed from y,
which is smaller: ``put(c) · g(x) = put(c · g(y))``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.graph.dims import elements
from onnxgrad.graph.node import python_attributes
from onnxgrad.graph.tensor import Tensor

#: Key in the `meta` of nodes that put elements back.
_KEY = "onnxgrad.picked"
#: Which of their inputs is put back.
_INPUT = {"MaxUnpool": 0, "ScatterElements": 2}
_POINTWISE = frozenset("Add HardSigmoid Max Mul Neg Sub".split())
#: How many operators a factor may be made of, one behind the other.
_DEEPEST = 6


@dataclass(frozen=True)
class Picked:
    """A node that puts a cotangent back.

    Attributes:
        node: the node.
        x: what was picked from.
        y: what was picked.
    """

    node: ir.Node
    x: Tensor
    y: Tensor

    @property
    def ct(self) -> Tensor:
        """What is put back: one number for each element of `y`, perhaps in one row, and with seeds in front."""
        value = self.node.inputs[_INPUT[self.node.op_type]]
        tensor = None if value is None else self.x.op.tensor(value)
        assert tensor is not None
        return tensor

    def scale(self, factor: Tensor) -> None:
        """Let it put back the cotangent times a factor of the shape of `y`."""
        op, ct = self.x.op, self.ct
        rank = self.y.rank if self.node.op_type == "MaxUnpool" else 1
        product = ct * op.reshape(factor, ct.shape[ct.rank - rank :])
        self.node.replace_input_with(_INPUT[self.node.op_type], product.value)

    def factor(self, value: ir.Value, emitted: Collection[ir.Node]) -> Tensor | None:
        """Return an emitted factor of x, emitted anew for the places that were picked, if it depends on x alone."""
        return self._of_y(value, emitted, _DEEPEST) if value.producer() is not None else None

    def _of_y(self, value: ir.Value, emitted: Collection[ir.Node], depth: int) -> Tensor | None:
        op, node, tensor = self.x.op, value.producer(), self.x.op.tensor(value)
        if value is self.x.value:
            return self.y
        if tensor is not None and tensor.scalar is not None and tensor.rank == 0:
            return tensor
        if node is None or node not in emitted or node.domain or node.op_type not in _POINTWISE or not depth:
            return None
        found = [None if v is None else self._of_y(v, emitted, depth - 1) for v in node.inputs]
        return None if None in found else op.emit(node.op_type, *found, **python_attributes(node))[0]


def puts_back(flat: Tensor, x: Tensor, y: Tensor) -> None:
    """Note that the node which made `flat` puts back what comes for y, picked from x, if y is the smaller one."""
    node = flat.value.producer()
    if node is not None and elements(y.shape) < elements(x.shape):
        node.meta[_KEY] = Picked(node, x, y)


def picked_of(node: ir.Node | None) -> Picked | None:
    """Return what a node puts back, if it does."""
    found = None if node is None or node.op_type not in _INPUT else node.meta.get(_KEY)
    return found if isinstance(found, Picked) else None
