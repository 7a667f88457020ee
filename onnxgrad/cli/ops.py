"""``onnxgrad ops``: which operators have rules."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxgrad.cli.output import print_json, print_table, print_text
from onnxgrad.rules.registry import REGISTRY, Rule


def ops(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[OPERATOR]…", help="Only these (Conv, ai.onnx.ml::Scaler, …).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the operators that have rules, and for which versions (older models are lifted when they are read)."""
    rules = [rule for rule in REGISTRY if not names or rule.operator in names]
    missing = [name for name in names or () if REGISTRY.get(name) is None]
    if as_json:
        print_json({"rules": [_as_data(rule) for rule in rules], "missing": missing})
        return
    print_table("", ("operator", "kind", "versions", "remark"), [_row(rule) for rule in rules])
    for name in missing:
        print_text(f"{name} has no rule; register one with onnxgrad.register")
    if not names:
        print_text(f"{len(rules)} operators")


def _row(rule: Rule) -> tuple[str, str, str, str]:
    zeros = [f"zero with respect to input {i}: {why}" for i, why in sorted(rule.zero.items())]
    versions = ", ".join(map(str, sorted(rule.versions))) or "all"
    return rule.operator, rule.kind, versions, "; ".join([rule.remark, *zeros] if rule.remark else zeros)


def _as_data(rule: Rule) -> dict[str, Any]:
    return {
        "operator": rule.operator,
        "kind": rule.kind,
        "versions": sorted(rule.versions),
        "wrt": None if rule.wrt is None else sorted(rule.wrt),
        "zero": dict(rule.zero),
        "remark": rule.remark,
    }
