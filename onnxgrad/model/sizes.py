"""Open sizes of a model, fixed by who knows them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxgrad.errors import TensorTypeError, UnknownNameError
from onnxgrad.model.names import values_of
from onnxgrad.model.tensors import graphs_of


def set_sizes(model: ir.Model, sizes: Mapping[str, int | str]) -> None:
    """Give open sizes of a model's inputs a number or another name, in place, wherever they occur.

    Args:
        model: the model.
        sizes: numbers by name (``{"batch": 1}``), or by input and axis (``{"x[0]": 1}``), which also serves for sizes
            without a name. A name instead of a number (``{"unk__8": "batch"}``) makes sizes of that name one size.

    Raises:
        UnknownNameError: if no input has an open size of that name, or no such axis.
        TensorTypeError: if a number is no integer of at least 0, or a name no identifier.
    """
    found: dict[str, int | str] = {}
    open_sizes = _open_sizes(model)
    for name, size in sizes.items():
        if name not in open_sizes:
            raise UnknownNameError.among("an open size of the model's inputs", name, open_sizes)
        if not (size.isidentifier() if isinstance(size, str) else type(size) is int and size >= 0):
            raise TensorTypeError(f"the size {name!r} is to be {size!r}; give an integer of at least 0, or a name")
        value, axis, named = open_sizes[name]
        if named is None:
            assert value.shape is not None
            value.shape = ir.Shape([size if i == axis else d for i, d in enumerate(value.shape)])
        elif found.setdefault(named, size) != size:
            raise TensorTypeError(f"the size {named!r} is to be {found[named]} and {size}; give one of them")
    for graph in graphs_of(model):
        for value in values_of(graph):
            if value.shape is not None and any(_name(d) in found for d in value.shape):
                value.shape = ir.Shape([found.get(_name(d) or "", d) for d in value.shape])


def _name(dim: int | ir.SymbolicDim) -> str | None:
    return None if isinstance(dim, int) else dim.value


def _open_sizes(model: ir.Model) -> dict[str, tuple[ir.Value, int, str | None]]:
    """Return the open sizes of inputs by all that they can be called: the input, its axis, and the name, if there is
    one.
    """
    found: dict[str, tuple[ir.Value, int, str | None]] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int):
                found[f"{value.name}[{axis}]"] = value, axis, dim.value
                if dim.value is not None:
                    found.setdefault(dim.value, (value, axis, dim.value))
    return found
