"""Means for lifting one node to a newer operator set, and the table of adapters that use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
import onnx_ir as ir

#: A change of one operator: rewrites a node from the form before a version to that version's.
Adapter = Callable[["Site"], None]

#: The adapter by operator and the version that it leads to. A change that has none left the meaning as it was.
ADAPTERS: dict[tuple[str, int], Adapter] = {}

#: Operators whose adapters look at types or ranks.
TYPED: set[str] = set()


def adapts(*operators: str, to: int, typed: bool = False) -> Callable[[Adapter], Adapter]:
    """Enter a function into the table as the adapter of `operators` to their version `to`.

    With `typed`, types and ranks are inferred for it before lifting begins.
    """

    def enter(adapter: Adapter) -> Adapter:
        for operator in operators:
            assert (operator, to) not in ADAPTERS, (operator, to)
            ADAPTERS[operator, to] = adapter
        if typed:
            TYPED.update(operators)
        return adapter

    return enter


class Known(NamedTuple):
    """What is known of a value: its element type and rank, each None if it is not."""

    dtype: ir.DataType | None = None
    rank: int | None = None


class Refused(Exception):  # noqa: N818 - not an error of its own: lifting collects it into one report
    """Raised by an adapter: this node has no equal in the working opset, for the given reason."""


class Site:
    """A node that is being lifted, and what its adapters can do to it and just before it.

    Attributes:
        node: the node. It keeps its outputs throughout, so that what follows it need not change.
    """

    def __init__(self, node: ir.Node, known: Mapping[ir.Value, Known]) -> None:
        self.node = node
        self._known = known

    def input(self, index: int) -> ir.Value | None:
        """Return an input, None if it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def known(self, index: int) -> Known:
        """Return what is known of an input."""
        value = self.input(index)
        return Known() if value is None else self._known.get(value, Known())

    def constant_input(self, index: int) -> np.ndarray | None:
        """Return the value of an input if it is a constant, else None."""
        value = self.input(index)
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()

    def take(self, name: str, default: Any = None) -> Any:
        """Remove an attribute; return its value, or `default` if the node does not have it."""
        attr = self.node.attributes.pop(name, None)
        if attr is not None and attr.is_ref():
            self.refuse(f"its attribute {name!r} is a parameter of the function around it")
        return default if attr is None else attr.value

    def put(self, **attributes: Any) -> None:
        """Set attributes."""
        self.node.attributes.update(
            {name: ir.convenience.convert_attribute(name, value) for name, value in attributes.items()}
        )

    def set_input(self, index: int, value: ir.Value | None) -> None:
        """Replace or append an input."""
        if index >= len(self.node.inputs):
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def become(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> None:
        """Make the node another operator's, with these inputs and attributes."""
        self.node.op_type = op_type
        self.node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            self.node.replace_input_with(index, value)
        self.node.attributes.clear()
        self.put(**attributes)

    def emit(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Insert another node before the node, named after it; return its output."""
        emitted = ir.node(op_type, inputs, attributes, name=f"{self.node.name or self.node.op_type}/{op_type}")
        emitted.outputs[0].name = f"{self.node.outputs[0].name}/{op_type}"
        self.node.prepend(emitted)
        return emitted.outputs[0]

    def constant(self, array: np.ndarray) -> ir.Value:
        """Insert a constant before the node."""
        return self.emit("Constant", value=ir.tensor(array))

    def ints(self, values: Sequence[int]) -> ir.Value:
        """Insert a constant list of integers before the node."""
        return self.constant(np.array(values, dtype=np.int64))

    def scalar_like(self, value: float, index: int) -> ir.Value:
        """Insert a constant scalar of an input's element type before the node."""
        scalar, dtype = np.array(value, dtype=np.float32), self.known(index).dtype
        if dtype is not None:
            return self.constant(scalar.astype(dtype.numpy()))
        return self.emit("CastLike", self.constant(scalar), self.input(index))

    def refuse(self, why: str) -> NoReturn:
        """Give up.

        Raises:
            Refused: always.
        """
        raise Refused(why)
