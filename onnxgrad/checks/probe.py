"""Models made ready for taking differences: any value can be moved, and any value read."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.model.tensors import graphs_of

#: Names of the inputs and outputs that a probe adds; they are addressed by their position.
SHIFT, READING = "onnxgrad/shift_{}", "onnxgrad/reading_{}"

#: Random operators, with the type that the attribute `seed` has.
_RANDOM = {
    **dict.fromkeys(["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"], ir.AttrFloat32),
    **dict.fromkeys(["Multinomial", "Bernoulli"], ir.AttrFloat32),
    "Dropout": ir.AttrInt64,
}


def with_seeds(model: ir.Model, seed: int) -> ir.Model:
    """Give the random operators of a model, in place, seeds where they have none: it then is a function.

    (`onnxgrad.runtime.evaluate` runs such a model so that it draws the same numbers each time.)
    """
    nodes = [node for graph in graphs_of(model) for node in graph if node.domain == "" and node.op_type in _RANDOM]
    for i, node in enumerate(nodes):
        if "seed" not in node.attributes:
            node.attributes.add(_RANDOM[node.op_type]("seed", seed + i))
    return model


def probe(model: ir.Model, of: Sequence[str], wrt: Sequence[str]) -> dict[str, str]:
    """Turn a model, in place, into one that returns the values `of` alone, and in which each of `wrt` can be moved.

    A value of `wrt` that is no input gets a new input of its shape, which is added to it.

    Args:
        model: a model in the working form of `onnxgrad.model.normalize`.
        of: names of the values to return, in this order.
        wrt: names of the values to be moved.

    Returns:
        For those of `wrt` that are no inputs: the name of the new input.
    """
    graph = model.graph
    types = Builder(model)
    values = {value.name: value for value in ir.convenience.create_value_mapping(graph).values()}
    shifts: dict[str, str] = {}
    for i, name in enumerate(wrt):
        value = values[name]
        if value.is_graph_input() and not value.is_initializer():
            continue
        tensor = types.tensor(value)
        assert tensor is not None
        shift = ir.Value(name=SHIFT.format(i), type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape))
        moved = ir.Value(name=f"{shift.name}/moved")
        ir.convenience.replace_all_uses_with(value, moved, replace_graph_outputs=True)
        add = ir.Node("", "Add", [value, shift], outputs=[moved], name=f"{shift.name}/add")
        producer = value.producer()
        if producer is None and len(graph):
            graph.insert_before(graph[0], add)
        elif producer is None:
            graph.append(add)
        else:
            graph.insert_after(producer, add)
        graph.inputs.append(shift)
        values[name], shifts[name] = moved, shift.name or ""
    outputs = []
    for i, name in enumerate(of):
        reading = ir.node("Identity", [values[name]], name=READING.format(i))
        reading.outputs[0].name = READING.format(i)
        tensor = types.tensor(values[name])
        reading.outputs[0].type = None if tensor is None else ir.TensorType(tensor.dtype)
        graph.append(reading)
        outputs.append(reading.outputs[0])
    graph.outputs[:] = outputs
    return shifts
