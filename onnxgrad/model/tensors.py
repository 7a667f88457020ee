"""All that a model holds: its graphs, and the tensors in them, as initializers and as attributes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import onnx_ir as ir


def scopes_of(model: ir.Model) -> tuple[ir.Graph, ...]:
    """Return the graphs that have names and imports of their own: the model's, and the bodies of its functions."""
    return (model.graph, *(function.graph for function in model.functions.values()))


def graphs_of(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the model's graph, its subgraphs, and the bodies of its functions with theirs."""
    for graph in scopes_of(model):
        yield graph
        yield from graph.subgraphs()


def tensors_of(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every tensor of the model."""
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attr in node.attributes.values():
                yield from _attribute_tensors(attr)


def replace_tensors(model: ir.Model, replace: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    """Put ``replace(tensor)`` in the place of every tensor of the model."""
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = replace(value.const_value)
        for node in graph:
            for attr in list(node.attributes.values()):
                tensors = [replace(tensor) for tensor in _attribute_tensors(attr)]
                if tensors and attr.type == ir.AttributeType.TENSOR:
                    node.attributes.add(ir.AttrTensor(attr.name, tensors[0], doc_string=attr.doc_string))
                elif tensors:
                    node.attributes.add(ir.AttrTensors(attr.name, tensors, doc_string=attr.doc_string))


def same_data(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor with the same data, not copied, and a name of its own.

    `onnx_ir` renames a tensor along with the value that it initializes, and clones of a model share their tensors. So
    two models that must not notice each other need this.
    """
    if isinstance(tensor, ir.ExternalTensor):
        return external(tensor, folder=os.path.abspath(tensor.base_dir))
    if isinstance(tensor, ir.StringTensor):
        return ir.StringTensor(tensor.raw, shape=tensor.shape, name=tensor.name, doc_string=tensor.doc_string)
    return ir.LazyTensor(
        lambda: tensor,
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
    )


def external(tensor: ir.ExternalTensor, *, folder: str, location: str | None = None) -> ir.ExternalTensor:
    """Return `tensor` as found in another folder, and in another file of it if `location` is given."""
    return ir.ExternalTensor(
        tensor.location if location is None else location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        base_dir=folder,
    )


def _attribute_tensors(attr: ir.Attr) -> tuple[ir.TensorProtocol, ...]:
    if attr.is_ref() or attr.value is None:
        return ()
    if attr.type == ir.AttributeType.TENSOR:
        return (attr.as_tensor(),)
    return tuple(attr.as_tensors()) if attr.type == ir.AttributeType.TENSORS else ()
