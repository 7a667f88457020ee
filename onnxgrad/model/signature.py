"""What a model takes and returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrad.model.maps import map_type_of


@dataclass(frozen=True)
class Port:
    """An input or an output of a model.

    Attributes:
        name: its name.
        kind: ``"tensor"``, ``"sparse tensor"``, ``"sequence"``, ``"map"``, ``"optional"``, or ``"unknown"``.
        dtype: type of the elements; strings are objects, and types that numpy has not are those of `ml_dtypes`. None
            where it is not known, and for what has a map in it.
        shape: of a tensor, the size of each axis: a number, a name, or None; or None as a whole where the rank is not
            known, and for what is no tensor.
    """

    name: str
    kind: str
    dtype: np.dtype[np.generic] | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """What a model takes and returns, in order; inputs that have an initializer are not among them."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def signature(model: ir.Model) -> Signature:
    """Return the signature of `model`.

    For an output without a type, as after normalizing, that is what the file declared.
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    return Signature(tuple(map(port_of, inputs)), tuple(map(port_of, model.graph.outputs)))


def port_of(value: ir.Value) -> Port:
    """Return what is known of one input or output."""
    name = value.name or ""
    map_type = map_type_of(value)
    if map_type is not None:
        return Port(name, _KINDS_WITH_MAP[map_type.WhichOneof("value")], None, None)
    known = value if value.type is not None else value.meta.get("declared", value)
    if known.type is None:
        return Port(name, "unknown", None, None)
    kind = _KINDS[type(known.type)]
    shape = known.shape if kind.endswith("tensor") else None
    dims = None if shape is None else tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
    return Port(name, kind, _dtype(known.type.dtype), dims)


def _dtype(dtype: ir.DataType) -> np.dtype[np.generic] | None:
    return None if dtype == ir.DataType.UNDEFINED else np.dtype(dtype.numpy())


_KINDS: dict[type[ir.TypeProtocol], str] = {
    ir.TensorType: "tensor",
    ir.SparseTensorType: "sparse tensor",
    ir.SequenceType: "sequence",
    ir.OptionalType: "optional",
}
_KINDS_WITH_MAP = {"map_type": "map", "sequence_type": "sequence", "optional_type": "optional"}
