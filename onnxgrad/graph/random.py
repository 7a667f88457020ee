"""Operators whose result is not determined by their inputs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxgrad.graph.flow import graphs_in

#: Those of ai.onnx; a `Dropout` is one in training mode only.
RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)


def is_random(node: ir.Node) -> bool:
    """Whether a node may be one of them."""
    return node.domain == "" and node.op_type in RANDOM


def drawing_node(nodes: Iterable[ir.Node]) -> ir.Node | None:
    """Return the first of the nodes, or of those in bodies of them, that draws random numbers.

    A `Dropout` does unless it is known to be in inference mode.
    """
    for node in nodes:
        mode = node.inputs[2] if node.op_type == "Dropout" and len(node.inputs) > 2 else None
        known = None if mode is None or not mode.is_initializer() else mode.const_value
        still = node.op_type == "Dropout" and (mode is None or (known is not None and not known.numpy().any()))
        if is_random(node) and not still:
            return node
        for _, graph in graphs_in(node):
            inside = drawing_node(graph)
            if inside is not None:
                return inside
    return None
