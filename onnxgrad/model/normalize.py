"""Normalizing: whatever form a model was written in, it comes out in the one that all else works on."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import PreconditionError
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedOpsetsPass,
    TopologicalSortPass,
)

from onnxgrad.errors import ModelReadError
from onnxgrad.graph.steps import COMPLEMENT, comparison_of, is_share
from onnxgrad.model.lift import lift
from onnxgrad.model.names import give_names, values_of
from onnxgrad.model.opsets import agree_on_imports
from onnxgrad.model.tensors import graphs_of, scopes_of

#: What people and exporters write for a size that they do not know. Two such sizes need not be the same.
_NO_NAMES = {"", "?", "*", "-1", "none", "null", "nan", "any", "unk", "unknown", "dyn", "dynamic", "undefined"}


class Declared(NamedTuple):
    """What the file says about a graph output, which may be wrong. Found in a value's ``meta["declared"]``."""

    type: ir.TypeProtocol | None
    shape: ir.Shape | None


def normalize(model: ir.Model, keep_functions: Container[ir.OperatorIdentifier] = ()) -> ir.Model:
    """Bring a model, in place, into the working form; what it computes stays the same, to the bit.

    In the working form

    - nodes are in topological order, and every node and value has a name of its own; inputs and outputs keep theirs;
    - initializers are no inputs;
    - calls of functions are replaced by their bodies, except those of `keep_functions`;
    - `ai.onnx` operators are of opset 18 or above;
    - constants are initializers of their graph, whether weights or ``Constant`` nodes (except those that are outputs);
    - values that `ai.onnx` operators produce have no type and no shape, since those in a file may be stale; what the
      file says about graph outputs is kept in ``meta["declared"]`` as `Declared`. Values of other domains keep theirs;
    - what `onnxgrad.graph.forms` wrote as a `HardSigmoid` of the greatest slope is the comparison that it stands for;
    - a `Dropout` that is or may be in training mode returns its mask, without which nobody could say what it did;
    - the size of an axis is a number, a name, or None where the name only said that it is unknown.

    No node is removed for being unused, so that any value inside can still be asked for.

    Args:
        model: a model as `onnxgrad.model.read.read` returns it.
        keep_functions: the functions to keep, as ``(domain, name, overload)``.

    Returns:
        The same object.

    Raises:
        ModelReadError: if a function cannot be inlined, or an operator of an older opset has no equal in the working
            one; the model is then of no further use.
    """
    for step in (
        TopologicalSortPass(),
        RemoveInitializersFromInputsPass(),
        _allow_mere_initializers,
        _believe_tensors,
        _forget_stale_types,
        _complete_calls,
        give_names,
        lambda m: _inline(m, keep_functions),
        _forget_stale_types,  # inlining declares for the results of bodies what the file declared for those of calls
        _forget_names_for_unknown,
        _spell_out_steps,
        give_names,
        lift,
        _encode_strings,
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        _name_masks,
        RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        RemoveUnusedOpsetsPass(),
    ):
        step(model)
    return model


def _allow_mere_initializers(model: ir.Model) -> None:
    """Raise the IR version to the first in which an initializer need not be an input."""
    model.ir_version = max(model.ir_version, 4)


def _believe_tensors(model: ir.Model) -> None:
    """Give initializers the types and shapes of their data."""
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.type = ir.TensorType(value.const_value.dtype)
                value.shape = ir.Shape(value.const_value.shape.numpy())


def _forget_stale_types(model: ir.Model) -> None:
    for graph in graphs_of(model):
        for value in graph.outputs:
            value.meta.setdefault("declared", Declared(value.type, value.shape))
        for node in graph:
            if node.domain == "" and node.op_identifier() not in model.functions:
                for value in node.outputs:
                    value.type = value.shape = None


def _forget_names_for_unknown(model: ir.Model) -> None:
    for graph in graphs_of(model):
        for value in values_of(graph):
            value.shape = _named_or_unknown(value.shape)
            declared = value.meta.get("declared")
            if declared is not None:
                value.meta["declared"] = Declared(declared.type, _named_or_unknown(declared.shape))


def _named_or_unknown(shape: ir.Shape | None) -> ir.Shape | None:
    if shape is None:
        return None
    dims = [None if _says_unknown(dim) else dim for dim in shape]
    return ir.Shape(dims, denotations=[shape.get_denotation(i) for i in range(len(shape))])


def _says_unknown(dim: int | ir.SymbolicDim) -> bool:
    if isinstance(dim, int):
        return dim < 0
    return dim.value is not None and dim.value.strip().lower() in _NO_NAMES


def _complete_calls(model: ir.Model) -> None:
    """Let calls of functions take all outputs, also those left out at the end, since inlining replaces each."""
    for graph in graphs_of(model):
        for node in graph:
            function = model.functions.get(node.op_identifier())
            if function is not None and len(node.outputs) < len(function.outputs):
                node.resize_outputs(len(function.outputs))


def _inline(model: ir.Model, keep: Container[ir.OperatorIdentifier]) -> None:
    if not model.functions:
        return
    if len({scope.opset_imports.get("") for scope in scopes_of(model)}) > 1:
        lift(model)
    agree_on_imports(model)
    _give_each_output_its_node(model)
    outputs = list(model.graph.outputs)
    try:
        InlinePass(lambda function: function.identifier() not in keep)(model)
    except (PreconditionError, ValueError) as error:
        raise ModelReadError(
            f"a function of the model cannot be inlined: {error}; export it without functions"
        ) from error
    for before, after in zip(outputs, model.graph.outputs, strict=True):
        if after is not before:
            after.doc_string = before.doc_string
            after.metadata_props.update(before.metadata_props)
            after.meta.update(before.meta)


def _give_each_output_its_node(model: ir.Model) -> None:
    """Put an Identity where a function returns one of its inputs, or a value twice.

    Inlining gives what a function returns the name that it has for the caller, so it must not have another one there.
    """
    for function in model.functions.values():
        seen = set(function.inputs)
        for index, value in enumerate(function.outputs):
            if value in seen:
                identity = ir.node("Identity", [value])
                identity.outputs[0].name = f"{value.name}_returned_{index}"
                function.append(identity)
                function.outputs[index] = value = identity.outputs[0]
            seen.add(value)


def _spell_out_steps(model: ir.Model) -> None:
    """Write the `HardSigmoid` of `onnxgrad.graph.forms` as what they stand for: comparisons, and ``1 - x``.

    As they are, the first would have slopes, and the others none where x is just 0 or 1.
    """
    for graph in graphs_of(model):
        for node in list(graph):
            given = _slope_and_offset(node)
            compared = None if given is None else comparison_of(*given)
            if compared is not None:
                comparison, number = compared
                bound = ir.node("Constant", [], {"value": ir.tensor(np.float32(number))})
                mask = ir.node(comparison, [node.inputs[0], bound.outputs[0]])
                new = [bound, mask, ir.node("Cast", mask.outputs, {"to": ir.DataType.FLOAT.value}, name=node.name)]
            elif given == COMPLEMENT and node.inputs[0] is not None and is_share(node.inputs[0]):
                one = ir.node("Constant", [], {"value": ir.tensor(np.float32(1))})
                new = [one, ir.node("Sub", [one.outputs[0], node.inputs[0]], name=node.name)]
            else:
                continue
            ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, new[-1].outputs)


def _slope_and_offset(node: ir.Node) -> tuple[float, float] | None:
    """Return the attributes of a `HardSigmoid` of float32 (or of what is not known yet), if it has both."""
    given = [node.attributes.get(name) for name in ("alpha", "beta")]
    if node.op_type != "HardSigmoid" or node.domain or node.inputs[0] is None:
        return None
    if node.inputs[0].dtype not in (None, ir.DataType.FLOAT):
        return None
    slope, offset = (a.value if a is not None and a.type == ir.AttributeType.FLOAT else None for a in given)
    return None if slope is None or offset is None else (slope, offset)


def _encode_strings(model: ir.Model) -> None:
    """Put constants that are texts into tensors, as UTF-8; as they are, onnx_ir takes plain ASCII only."""
    for graph in graphs_of(model):
        for node in graph:
            for name in node.attributes.keys() & {"value_string", "value_strings"}:
                attr = node.attributes[name]
                if node.op_type != "Constant" or node.domain != "" or attr.is_ref():
                    continue
                texts = [attr.value] if name == "value_string" else list(attr.value)
                encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
                tensor = ir.StringTensor(encoded, shape=ir.Shape([] if name == "value_string" else [len(texts)]))
                del node.attributes[name]
                node.attributes.add(ir.AttrTensor("value", tensor))


def _name_masks(model: ir.Model) -> None:
    """Let each `Dropout` that may be in training mode return its mask, too."""
    graphs = list(graphs_of(model))
    taken = {value.name for graph in graphs for value in values_of(graph)}
    for node in [node for graph in graphs for node in graph if node.op_type == "Dropout" and node.domain == ""]:
        training = node.inputs[2] if len(node.inputs) > 2 else None
        known = None if training is None else training.const_value
        if training is None or (known is not None and training.is_initializer() and not known.numpy().any()):
            continue
        if len(node.outputs) < 2:
            node.resize_outputs(2)
        mask = node.outputs[1]
        if not mask.name:
            stem, n = f"{node.name}_mask", 1
            mask.name = stem
            while mask.name in taken:
                n += 1
                mask.name = f"{stem}_{n}"
            taken.add(mask.name)
