"""A network as an expression: vectors of one sample, and what is computed from them. It is written as an ONNX graph,
where a vector of r numbers is a matrix (N, r) of samples as rows.

The number of elements of an input need not be known from the start: it is found out from what the vector is combined
with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

Array = np.ndarray[Any, Any]

#: Name of the size of the axis of samples.
SAMPLES = "N"
_OPSET, _IR_VERSION = 18, 10


#: What a training of the network changes; all other numbers, such as those of the scaling, are constants.
_TRAINED = re.compile(r"[IL]W\d+_\d+|b\d+")


class SizeError(Exception):
    """Two sizes do not fit."""


class Size:
    """A number of elements, which may be found out later.

    Args:
        value: the number, if it is known.
        parts: sizes that it is the sum of.
    """

    def __init__(self, value: int | None = None, parts: Sequence[Size] = ()) -> None:
        self._value = value
        self._parts = tuple(parts)
        self._same: Size | None = None
        #: What it is at least.
        self.least = 1

    def _root(self) -> Size:
        return self._same._root() if self._same else self

    @property
    def value(self) -> int | None:
        """The number, or None as long as it is not known."""
        root = self._root()
        if root._value is None and root._parts:
            known = [part.value for part in root._parts]
            if None not in known:
                root._value = sum(value for value in known if value is not None)
        return root._value

    def be(self, value: int) -> None:
        """Take a number.

        Raises:
            SizeError: if it is another one, or can be none.
        """
        root = self._root()
        if root.value is not None:
            if root.value != value:
                raise SizeError(f"sizes do not fit: {value} elements stand where {root.value} should")
        elif root._parts:
            root._divide(value)
        elif value < root.least:
            raise SizeError(f"{value} elements are too few: at least {root.least} are used")
        else:
            root._value = value

    def _divide(self, value: int) -> None:
        """Find the one part that is not known, which may occur several times."""
        unknown = [part._root() for part in self._parts if part.value is None]
        rest = value - sum(part.value or 0 for part in self._parts)
        if any(part is not unknown[0] for part in unknown):
            if rest != sum(part.least for part in unknown):  # none can be larger, then
                raise SizeError("the sizes of the vectors that are joined cannot be told from the file")
            for part in unknown:
                part.be(part.least)
            return
        if rest % len(unknown) or rest <= 0:
            raise SizeError(f"{value} elements cannot be {len(self._parts)} vectors of one size")
        unknown[0].be(rest // len(unknown))

    def be_like(self, other: Size) -> None:
        """Be the same as another one from now on.

        Raises:
            SizeError: if they differ.
        """
        mine, its = self._root(), other._root()
        if mine is its:
            return
        if its.value is not None:
            mine.be(its.value)
        elif mine.value is not None:
            its.be(mine.value)
        elif mine._parts or its._parts:
            raise SizeError("the sizes of the vectors cannot be told from the file")
        else:
            its.least = max(mine.least, its.least)
            mine._same = its

    def be_at_least(self, value: int) -> None:
        """Note that elements up to one are used.

        Raises:
            SizeError: if there are fewer.
        """
        root = self._root()
        if root.value is not None and root.value < value:
            raise SizeError(f"element {value} is used, and there are {root.value}")
        root.least = max(root.least, value)

    def settle(self, value: int | None) -> None:
        """Take a number for which nothing in the network speaks, or the least one."""
        root = self._root()
        if root.value is None:
            root.be(max(root.least, value or 0))


Operand = "Vector | Array"


class Vector:
    """A vector for each sample; arithmetic with it gives further ones.

    The other operand is a vector too, or an array: a column (r, 1) or a single number (1, 1).

    Attributes:
        size: its number of elements.
        label: what its value is to be called in the graph, if that is free.
    """

    #: Arrays leave the arithmetic to this class.
    __array_ufunc__ = None

    def __init__(self, size: Size, write: Callable[[Writer], str], label: str = "") -> None:
        self.size = size
        self.write = write
        self.label = label

    def map(self, emit: Callable[[Writer, str], str], size: Size | None = None) -> Vector:
        """Return what an operator, or several, make of it."""
        return Vector(size or self.size, lambda to: emit(to, to.value(self)))

    def elementwise(self, op_type: str) -> Vector:
        """Return what an operator makes of each element."""
        return self.map(lambda to, x: to.emit(op_type, x))

    def combine(self, op_type: str, other: Any) -> Vector:
        """Return what an operator makes of each element and that of another vector or array."""
        return _combined(op_type, self, other)

    def take(self, rows: Array) -> Vector:
        """Return some elements, counted from 0."""
        self.size.be_at_least(int(rows.max(initial=-1)) + 1)
        indices = rows.astype(np.int64)
        return self.map(lambda to, x: to.emit("Gather", x, to.constant(indices), axis=1), Size(len(rows)))

    def __neg__(self) -> Vector:
        return self.elementwise("Neg")

    def __add__(self, other: Any) -> Vector:
        return _Sum(self, other)

    def __radd__(self, other: Any) -> Vector:
        return _Sum(other, self)

    def __sub__(self, other: Any) -> Vector:
        return _combined("Sub", self, other)

    def __rsub__(self, other: Any) -> Vector:
        return _combined("Sub", other, self)

    def __mul__(self, other: Any) -> Vector:
        return _combined("Mul", self, other)

    def __rmul__(self, other: Any) -> Vector:
        return _combined("Mul", other, self)

    def __truediv__(self, other: Any) -> Vector:
        return _combined("Div", self, other)

    def __rtruediv__(self, other: Any) -> Vector:
        return _combined("Div", other, self)

    def __pow__(self, other: Any) -> Vector:
        return _combined("Pow", self, other)

    def __rpow__(self, other: Any) -> Vector:
        return _combined("Pow", other, self)

    def __rmatmul__(self, weights: Array) -> Vector:
        return Product(Weights(weights), self)


class Weights:
    """An array that becomes an initializer if it has the name of weights or of a bias, else a constant.

    Attributes:
        array: its numbers; what is added to a vector is a column.
        name: what it is to be called.
    """

    __array_ufunc__ = None

    def __init__(self, array: Array, name: str = "") -> None:
        self.array = np.asarray(array, dtype=np.float64)
        self.name = name


class Product(Vector):
    """``W x``."""

    def __init__(self, weights: Weights, of: Vector) -> None:
        of.size.be(weights.array.shape[1])
        self.weights, self.of = weights, of
        super().__init__(Size(weights.array.shape[0]), lambda to: self.plus(to, ()))

    def plus(self, to: Writer, term: tuple[str, ...]) -> str:
        """Write the product, and what is added to it."""
        return to.emit("Gemm", to.value(self.of), to.weight(self.weights), *term, transB=1)


class _Sum(Vector):
    """``a + b``; a product and what is added to it become one node."""

    def __init__(self, a: Any, b: Any) -> None:
        self.terms = (a, b)
        super().__init__(_common(a, b), self._write)

    def _write(self, to: Writer) -> str:
        for product, other in (self.terms[::-1], self.terms):
            if isinstance(product, Product) and not product.label:
                return product.plus(to, (to.operand(other),))
        return to.emit("Add", *map(to.operand, self.terms))


def _combined(op_type: str, a: Any, b: Any) -> Vector:
    return Vector(_common(a, b), lambda to: to.emit(op_type, to.operand(a), to.operand(b)))


def _common(a: Any, b: Any) -> Size:
    """Return the size of a combination element by element."""
    if isinstance(a, Vector) and isinstance(b, Vector):
        a.size.be_like(b.size)
        return a.size
    vector, array = (a, b) if isinstance(a, Vector) else (b, a)
    rows, columns = (array.array if isinstance(array, Weights) else array).shape
    if columns != 1:
        raise SizeError(f"a vector does not fit to a matrix of {rows} x {columns}")
    if rows != 1:
        vector.size.be(rows)
    size: Size = vector.size
    return size


def join(vectors: Sequence[Vector]) -> Vector:
    """Return vectors below each other as one."""
    if len(vectors) == 1:
        return vectors[0]
    return Vector(
        Size(parts=[vector.size for vector in vectors]),
        lambda to: to.emit("Concat", *map(to.value, vectors), axis=1),
    )


class Input(Vector):
    """An input of the network: one vector, or several ones, a block for each delay, the oldest first.

    Attributes:
        name: its name in the model.
        size: number of elements of a block.
        blocks: the vectors that it consists of.
        optional: whether it is left out where no output depends on it.
    """

    def __init__(self, name: str, size: Size, blocks: int = 1, optional: bool = False) -> None:
        super().__init__(size, lambda _: name, name)
        self.name = name
        self.optional = optional
        self.blocks = [self if blocks == 1 else self._block(i, name) for i in range(blocks)]

    def _block(self, i: int, name: str) -> Vector:
        def write(to: Writer) -> str:
            size = self.size.value or 0
            bounds = (to.constant(np.array([k], dtype=np.int64)) for k in (i * size, (i + 1) * size, 1))
            return to.emit("Slice", name, *bounds)

        return Vector(self.size, write)


class Writer:
    """Writes vectors as nodes of ONNX; each once.

    Args:
        dtype: float64 or float32.
        reserved: names that no value gets, which are those of inputs and outputs.
    """

    def __init__(self, dtype: np.dtype[Any], reserved: Sequence[str]) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._taken = set(reserved)
        self._values: dict[Vector, str] = {}
        self._weights: dict[tuple[Weights, bool], str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def value(self, vector: Vector) -> str:
        """Return the name of the value of a vector, which is written if it is not yet."""
        if vector not in self._values:
            if isinstance(vector, Input):
                return vector.name
            name = vector.write(self)
            if vector.label and name not in self._values.values():
                name = self._rename(name, vector.label)
            self._values[vector] = name
        return self._values[vector]

    def _rename(self, name: str, label: str) -> str:
        """Rename the result of the last node."""
        if self.nodes and self.nodes[-1].output[0] == name:
            name = self.free(label)
            self.nodes[-1].output[0] = self.nodes[-1].name = name
        return name

    def operand(self, operand: Vector | Weights | Array) -> str:
        """Return the name of an operand of an operator that broadcasts."""
        if isinstance(operand, Vector):
            return self.value(operand)
        if isinstance(operand, Weights):
            return self.weight(operand, as_vector=True)
        return self.constant(operand.astype(self.dtype).reshape(-1))

    def weight(self, weights: Weights, as_vector: bool = False) -> str:
        """Return the name of weights: a matrix, or of a column a vector."""
        array = weights.array.astype(self.dtype)
        array = array.reshape(-1) if as_vector else array
        if not _TRAINED.fullmatch(weights.name):
            return self.constant(array, weights.name or "constant")
        if (weights, as_vector) not in self._weights:
            name = self.free(weights.name)
            self.initializers[name] = onnx.numpy_helper.from_array(array.copy(order="C"), name)
            self._weights[weights, as_vector] = name
        return self._weights[weights, as_vector]

    def constant(self, array: Array, name: str = "constant") -> str:
        """Return the name of a constant that equal arrays share."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            value = onnx.numpy_helper.from_array(array.copy(order="C"))
            self._constants[key] = self.emit("Constant", result=name, value=value)
        return self._constants[key]

    def number(self, value: float) -> str:
        """Return the name of a single number."""
        return self.constant(np.array(value, dtype=self.dtype))

    def ints(self, *values: int) -> str:
        """Return the name of a list of integers."""
        return self.constant(np.array(values, dtype=np.int64))

    def emit(self, op_type: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Write a node of one output, which is called `result`, or like the operator."""
        name = self.free(result or op_type)
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def free(self, name: str) -> str:
        """Return a name that is not taken; from now on it is."""
        found, number = name, 1
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found


def to_model(
    name: str,
    inputs: Sequence[Input],
    outputs: Sequence[tuple[str, Vector | Array]],
    dtype: np.dtype[Any],
) -> onnx.ModelProto:
    """Return a network as a model.

    Args:
        name: name of the graph.
        inputs: its inputs, all sizes known but of optional ones; each becomes one of shape (N, size · blocks).
        outputs: its outputs, each a vector, or a column (r, 1) that does not depend on the inputs.
        dtype: float64 or float32.
    """
    to = Writer(dtype, [*(given.name for given in inputs), *(name for name, _ in outputs)])
    element = helper.np_dtype_to_tensor_dtype(dtype)
    returned = []
    for output, value in outputs:
        if isinstance(value, Vector):
            source, size = to.value(value), value.size.value
        else:
            source, size = _everywhere(to, value, inputs), len(value)
        to.nodes.append(helper.make_node("Identity", [source], [output], name=output))
        before = to.nodes[-2] if len(to.nodes) > 1 else None
        if before and before.op_type != "Constant" and before.output[0] == source and _uses(to.nodes, source) == 1:
            to.nodes.pop()
            to.nodes[-1].output[0] = to.nodes[-1].name = output
            to._values = {vector: output if found == source else found for vector, found in to._values.items()}
        samples: str | int = SAMPLES if inputs else 1
        returned.append(helper.make_tensor_value_info(output, element, [samples, size]))
    used = {source for node in to.nodes for source in node.input}
    given = [
        helper.make_tensor_value_info(i.name, element, [SAMPLES, (i.size.value or 0) * len(i.blocks)])
        for i in inputs
        if i.name in used or not i.optional
    ]
    graph = helper.make_graph(to.nodes, name, given, returned, list(to.initializers.values()))
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="onnxgrad"
    )


def _everywhere(to: Writer, column: Array, inputs: Sequence[Input]) -> str:
    """Write a column that is the same for all samples; return its name."""
    row = to.constant(column.astype(to.dtype).reshape(1, -1))
    if not inputs:
        return row
    samples = to.emit("Shape", inputs[0].name, start=0, end=1)
    return to.emit("Expand", row, to.emit("Concat", samples, to.ints(len(column)), axis=0))


def _uses(nodes: Sequence[onnx.NodeProto], name: str) -> int:
    return sum(list(node.input).count(name) for node in nodes)


__all__ = ["SAMPLES", "Input", "Product", "Size", "SizeError", "Vector", "Weights", "Writer", "join", "to_model"]
