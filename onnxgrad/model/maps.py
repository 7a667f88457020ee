"""Types that `onnx_ir` has no class for: those with a map in them, as scikit-learn's classifiers return.

They are put aside when a model is read, wait in the `meta` of their value, and are put back when it is written.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

_META = "type_proto"


def put_aside(graph: onnx.GraphProto) -> dict[str, bytes]:
    """Take the types with maps out of `graph`, in place; return those of its inputs and outputs by name, serialized."""
    for info in [info for info in graph.value_info if _has_map(info.type)]:
        graph.value_info.remove(info)
    aside = {}
    for info in (*graph.input, *graph.output):
        if _has_map(info.type):
            aside[info.name] = info.type.SerializeToString()
            info.ClearField("type")
    return aside


def keep(graph: ir.Graph, aside: dict[str, bytes]) -> None:
    """Leave the types that `put_aside` returned with the values of `graph`."""
    for value in (*graph.inputs, *graph.outputs):
        if value.name in aside:
            value.meta[_META] = aside[value.name]


def map_type_of(value: ir.Value) -> onnx.TypeProto | None:
    """Return the type of `value` if it has a map in it, else None."""
    serialized = value.meta.get(_META)
    return None if serialized is None else onnx.TypeProto.FromString(serialized)


def _has_map(proto: onnx.TypeProto) -> bool:
    match proto.WhichOneof("value"):
        case "sequence_type":
            return _has_map(proto.sequence_type.elem_type)
        case "optional_type":
            return _has_map(proto.optional_type.elem_type)
        case kind:
            return bool(kind == "map_type")
