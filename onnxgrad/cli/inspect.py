"""``onnxgrad inspect``: what a model is, what can be differentiated in it, and at what cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from onnxgrad.cli.output import (
    bytes_text,
    derivatives_table,
    operations_text,
    print_json,
    print_table,
    print_text,
    progress,
    shape_text,
)
from onnxgrad.cli.requests import StraightThroughOption
from onnxgrad.graph.dims import NOMINAL
from onnxgrad.inspection import Inspection, Pair
from onnxgrad.inspection import inspect as look_at
from onnxgrad.model.signature import Port

#: Nodes that are named in one row of the table of obstacles; the JSON has all.
_SHOWN = 4


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX model.")],
    straight_through: StraightThroughOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show what MODEL takes and returns, which derivatives it has, what stands in their way, and what they cost."""
    with progress("looking at derivatives") as advance:
        found = look_at(model, advance, straight_through)
    size = os.path.getsize(model)
    if as_json:
        print_json(_as_data(model, size, found))
    else:
        _print(model, size, found)


def _print(model: str, size: int, found: Inspection) -> None:
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    print_text(os.path.basename(model), "bold")
    print_text(
        f"file {bytes_text(size)}, weights {bytes_text(found.weight_bytes)}, {found.nodes} nodes, opset {opsets}"
    )
    print_text(f"operators: {', '.join(f'{name} ({count})' for name, count in found.operators.items())}")
    if found.flops is not None:
        print_text(f"one run: {operations_text(found.flops)} floating-point operations{_assumed(found)}")
    print_text()
    ports = [("input", port) for port in found.signature.inputs] + [
        ("output", port) for port in found.signature.outputs
    ]
    print_table(
        "inputs and outputs",
        ("", "name", "type", "shape"),
        [
            (kind, port.name, _type_text(port), shape_text(port.shape) if port.kind == "tensor" else "")
            for kind, port in ports
        ],
    )
    shapes = {port.name: port.shape for port in found.signature.outputs}
    derivatives_table("derivatives that the model has already", found.recorded, shapes)
    if found.refused is not None:
        print_text(f"no derivatives: {found.refused}")
        return
    print_table(
        "derivatives",
        ("of", "wrt", "exists", "Jacobian", "per sample", "reverse", "forward"),
        [_row(pair) for pair in found.pairs],
        right=("reverse", "forward"),
    )
    if any(pair.flops for pair in found.pairs):
        print_text(f"reverse, forward: floating-point operations of the Jacobian in either mode{_assumed(found)}")
    for pair in found.pairs:
        if pair.zero is not None:
            print_text(f"{pair.of}:{pair.wrt} is zero: {pair.zero}")
        if pair.mixing is not None:
            print_text(pair.mixing)
    _print_obstacles(found)


def _row(pair: Pair) -> tuple[str, ...]:
    if pair.obstacles:
        return pair.of, pair.wrt, "no", "", "", "", ""
    costs = pair.flops or {}
    return (
        pair.of,
        pair.wrt,
        "yes" if pair.zero is None else "zero",
        shape_text(pair.shape),
        "yes" if pair.batched else "no",
        *(operations_text(costs[mode]) if mode in costs else "" for mode in ("reverse", "forward")),
    )


def _print_obstacles(found: Inspection) -> None:
    """Print what is in the way, with the nodes of one operator and reason in one row."""
    rows: dict[tuple[str, int | None, str, str], list[str]] = {}
    for obstacle in dict.fromkeys(obstacle for pair in found.pairs for obstacle in pair.obstacles):
        key = (obstacle.operator, obstacle.version, obstacle.why, obstacle.remedy)
        rows.setdefault(key, []).append(obstacle.node)
    print_table(
        "in the way",
        ("operator", "version", "nodes", "why", "remedy"),
        [
            (operator, version or "", _nodes_text(nodes), why, remedy)
            for (operator, version, why, remedy), nodes in rows.items()
        ],
    )


def _nodes_text(nodes: Sequence[str]) -> str:
    shown = ", ".join(nodes[:_SHOWN])
    return shown if len(nodes) <= _SHOWN else f"{shown} and {len(nodes) - _SHOWN} more"


def _assumed(found: Inspection) -> str:
    ports = (*found.signature.inputs, *found.signature.outputs)
    is_open = any(not isinstance(size, int) for port in ports for size in port.shape or ())
    return f" (a size that is open counts as {NOMINAL})" if is_open else ""


def _type_text(port: Port) -> str:
    element = "" if port.dtype is None else str(port.dtype).replace("object", "string")
    return " ".join(part for part in (element, "" if port.kind == "tensor" else port.kind) if part) or "unknown"


def _as_data(model: str, size: int, found: Inspection) -> dict[str, Any]:
    return {
        "file": model,
        "file_bytes": size,
        "weight_bytes": found.weight_bytes,
        "opsets": {domain or "ai.onnx": version for domain, version in found.opsets.items()},
        "nodes": found.nodes,
        "operators": found.operators,
        "flops": found.flops,
        "inputs": [_port_data(port) for port in found.signature.inputs],
        "outputs": [_port_data(port) for port in found.signature.outputs],
        "recorded": [asdict(record) for record in found.recorded],
        "refused": found.refused,
        "derivatives": [{"exists": pair.exists, **asdict(pair)} for pair in found.pairs],
    }


def _port_data(port: Port) -> dict[str, Any]:
    return {**asdict(port), "dtype": None if port.dtype is None else str(port.dtype).replace("object", "string")}
