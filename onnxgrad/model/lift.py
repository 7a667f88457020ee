"""Lifting: a model of an older operator set becomes one of the working set, and computes the same, to the bit.

Each change of an operator's form is one adapter (`adapters_math`, `adapters_shape`), and a node passes through those
between its version and the working one, in order. Weights are not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxgrad.errors import ModelReadError
from onnxgrad.model import adapters_math, adapters_shape  # noqa: F401 - they fill the table
from onnxgrad.model.lifting import ADAPTERS, TYPED, Known, Refused, Site
from onnxgrad.model.names import give_names
from onnxgrad.model.opsets import WORKING_OPSET, ir_version_of
from onnxgrad.model.tensors import graphs_of, scopes_of


def lift(model: ir.Model) -> bool:
    """Bring `model`, in place, to the working opset, with its subgraphs and functions, unless it is there already.

    An operator that the declared opset does not have yet is taken in the earliest version that there is, since some
    exporters write such files.

    Args:
        model: the model, with nodes in topological order. Types that it declares for values inside are believed.

    Returns:
        Whether it was changed.

    Raises:
        ModelReadError: if a node has no equal in the working opset; all such nodes are named. The model is then left
            half lifted.
    """
    old = [scope for scope in scopes_of(model) if scope.opset_imports.get("", WORKING_OPSET) < WORKING_OPSET]
    if not old:
        return False
    pending = [(node, scope.opset_imports[""]) for scope in old for node in _own_nodes(scope, model)]
    looks_at_types = any(node.op_type in TYPED and any(_steps(node.op_type, opset)) for node, opset in pending)
    known = _infer(model) if looks_at_types else {}
    obstacles = []
    for node, opset in pending:
        try:
            _lift_node(node, opset, known)
        except Refused as why:
            obstacles.append(f"{node.op_type} of opset {opset}, node {node.name!r}: {why}")
    if obstacles:
        raise ModelReadError(
            "\n".join(
                [
                    f"the model cannot be brought from an older opset to opset {WORKING_OPSET}; "
                    f"export it again with opset {WORKING_OPSET} or newer, for inference. In the way:",
                    *(f"  - {obstacle}" for obstacle in obstacles),
                ]
            )
        )
    for scope in old:
        scope.opset_imports[""] = WORKING_OPSET
    model.ir_version = max(model.ir_version, ir_version_of(WORKING_OPSET))
    give_names(model)
    return True


def _own_nodes(scope: ir.Graph, model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes of ONNX's own operators, subgraphs included; a model may define functions in that domain, too."""
    for node in ir.traversal.RecursiveGraphIterator(scope):
        if node.domain == "" and node.op_identifier() not in model.functions:
            yield node


@functools.cache
def _steps(operator: str, opset: int) -> list[int]:
    """Return the versions to which adapters lead an operator of `opset`."""
    return sorted(to for name, to in ADAPTERS if name == operator and to > opset)


def _lift_node(node: ir.Node, opset: int, known: Mapping[ir.Value, Known]) -> None:
    site = Site(node, known)
    if not _exists(node.op_type):
        site.refuse("it is an operator of a newer opset")
    while steps := _steps(node.op_type, opset):
        opset = steps[0]
        ADAPTERS[node.op_type, opset](site)


@functools.cache
def _exists(operator: str) -> bool:
    """Return whether there is such an operator in the working opset, or none at all: then it is a custom one."""
    try:
        onnx.defs.get_schema(operator, WORKING_OPSET)
    except onnx.defs.SchemaError:
        return not onnx.defs.has(operator)
    return True


def _infer(model: ir.Model) -> dict[ir.Value, Known]:
    """Return what ONNX's inference finds in the model as it is, and leave it so."""
    values = [value for graph in graphs_of(model) for node in graph for value in node.outputs]
    before = [(value.type, value.shape) for value in values]
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    declared = [value for graph in graphs_of(model) for value in (*graph.inputs, *graph.initializers.values())]
    known = {
        value: Known(value.dtype, None if value.shape is None else len(value.shape)) for value in (*values, *declared)
    }
    for value, (type_, shape) in zip(values, before, strict=True):
        value.type, value.shape = type_, shape
    return known
