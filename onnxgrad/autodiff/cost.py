"""Floating-point operations of nodes, from their shapes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import NOMINAL, Dim, elements
from onnxgrad.graph.flow import Iteration, bodies_of, is_flow, reads
from onnxgrad.graph.tensor import Tensor

#: Operators that move or describe elements and compute nothing.
_FREE = frozenset("Shape Size Constant Identity Reshape Flatten Squeeze Unsqueeze ConstantOfShape EyeLike".split())


def flops(op: Builder, node: ir.Node) -> float:
    """Return the floating-point operations of one node (a multiplication and an addition are two)."""
    view = op.view(node)
    if is_flow(node):
        return _flow_flops(op, node)
    if view.op_type in _FREE or not view.outputs or view.outputs[0] is None:
        return 0.0
    size = elements(view.outputs[0].shape)
    inputs = [t for t in view.inputs if t is not None]
    if view.op_type in ("MatMul", "Gemm"):
        a = inputs[0].shape
        return 2 * size * elements(a[:1] if view.attr("transA") else a[-1:])
    if view.op_type == "Conv":
        return 2 * size * elements(inputs[1].shape[1:])
    if view.op_type == "ConvTranspose":
        return 2 * elements(inputs[0].shape) * elements(inputs[1].shape[1:])
    if view.op_type == "Einsum":
        return 2 * _einsum_points(str(view.attr("equation")), inputs)
    return max([size, *(elements(t.shape) for t in inputs if t.is_float)])


def _flow_flops(op: Builder, node: ir.Node) -> float:
    """The dearer branch, or all iterations."""
    bodies = [sum(flops(op, inner) for inner in body.graph) for body in bodies_of(op, node)]
    if node.op_type == "If":
        return max(bodies)
    it = Iteration.of(node)
    wholes = [(op.tensor(s.whole), s.axis) for s in (*it.elements, *it.results)]
    length = next((t.shape[axis] for t, axis in wholes if t is not None), NOMINAL)
    return elements([length]) * bodies[0]


def _einsum_points(equation: str, inputs: list[Tensor]) -> float:
    sizes: dict[str, Dim] = {}
    for term, tensor in zip(equation.replace(" ", "").split("->")[0].split(","), inputs, strict=True):
        head, _, tail = term.partition("...")
        sizes.update(zip(head, tensor.shape, strict=False))
        sizes.update(zip(reversed(tail), reversed(tensor.shape), strict=False))
        if "..." in term:
            middle = tensor.shape[len(head) : tensor.rank - len(tail)]
            sizes.update({f"...{i}": d for i, d in enumerate(reversed(middle))})
    return elements(sizes.values())


def live_flops(op: Builder, nodes: Iterable[ir.Node], needed: Iterable[ir.Value]) -> float:
    """Return the floating-point operations of those of `nodes` (in topological order) that lead to `needed`."""
    wanted = set(needed)
    total = 0.0
    for node in reversed(list(nodes)):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(reads(node))
            total += flops(op, node)
    return total
