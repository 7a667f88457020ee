"""What a rule sees of the node that it differentiates."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from onnxgrad.graph.tensor import Tensor


@functools.lru_cache(maxsize=4096)
def since_version(domain: str, op_type: str, opset: int) -> int | None:
    """Return the version of an operator that is in force at an opset, or None where ONNX has no schema for it."""
    try:
        return int(onnx.defs.get_schema(op_type, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return None


@functools.lru_cache(maxsize=4096)
def attribute_defaults(domain: str, op_type: str, opset: int) -> Mapping[str, Any]:
    """Return the defaults of an operator's attributes as Python values (empty where ONNX has no schema for it)."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return {}
    defaults = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            value = onnx.helper.get_attribute_value(attribute.default_value)
            defaults[name] = _decoded(value)
    return defaults


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value


@functools.lru_cache(maxsize=4096)
def attribute_names(domain: str, op_type: str) -> frozenset[str]:
    """Return the names of all attributes that an operator has had in any version."""
    return frozenset(
        name
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.name == op_type and schema.domain == domain
        for name in schema.attributes
    )


@dataclass(frozen=True, eq=False)
class Node:
    """A node with typed inputs and outputs.

    Attributes:
        ir: the node itself.
        inputs: its inputs; None for an optional one that is absent.
        outputs: its outputs; None for an optional one that is absent, or that is no tensor.
        attrs: its attributes as Python values, defaults of the operator included.
        version: the operator's version, or None where ONNX has no schema for it.
    """

    ir: ir.Node
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    attrs: Mapping[str, Any]
    version: int | None

    @property
    def op_type(self) -> str:
        """Type of the operator, e.g. ``"Conv"``."""
        return self.ir.op_type

    @property
    def operator(self) -> str:
        """Operator with its domain, e.g. ``"Conv"`` or ``"com.microsoft::Gelu"``."""
        return f"{self.ir.domain}::{self.ir.op_type}" if self.ir.domain else self.ir.op_type

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.ir.name or ""

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute, the operator's default where it is not given, or else `default`."""
        return self.attrs.get(name, default)

    def input(self, index: int) -> Tensor | None:
        """Return an input, or None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def x(self) -> Tensor:
        """The first input."""
        tensor = self.inputs[0]
        assert tensor is not None
        return tensor

    @property
    def y(self) -> Tensor:
        """The first output."""
        tensor = self.outputs[0]
        assert tensor is not None
        return tensor


def python_attributes(node: ir.Node) -> dict[str, Any]:
    """Return a node's own attributes as Python values."""
    return {name: a.value for name, a in node.attributes.items() if not a.is_ref()}


def attribute(name: str, value: Any) -> ir.Attr:
    """Return an attribute from a Python value, or a type of elements."""
    if isinstance(value, ir.DataType):
        return ir.AttrInt64(name, value.value)
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    if isinstance(value, int):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, str):
        return ir.AttrString(name, value)
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, float) for v in value):
            return ir.AttrFloat32s(name, [float(v) for v in value])
        if any(isinstance(v, str) for v in value):
            return ir.AttrStrings(name, list(value))
        return ir.AttrInt64s(name, list(value))
    return ir.AttrTensor(name, value)


def hashable(attrs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return attributes as a key, in which tensors and graphs are the same only if they are the same object."""

    def freeze(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return tuple(value)
        return value if isinstance(value, (int, float, str, ir.DataType)) else id(value)

    return tuple(sorted((name, freeze(value)) for name, value in attrs.items()))
