"""Every version of every operator that ONNX defines is in one class, and somebody has looked at it.

A version is *reviewed* by a rule, *lifted* to a newer version when a model is read, or *refused* for a reason that
stands here. A new release of onnx fails these tests until its new versions are read.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import onnx
import pytest

import onnxgrad
from onnxgrad.model.lifting import ADAPTERS
from onnxgrad.model.opsets import WORKING_OPSET
from onnxgrad.rules import REGISTRY

LIFT_TESTS = Path(__file__).parents[1] / "model" / "test_model_lift.py"
DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")

#: Operators without a rule, whatever the version, and why there is none; at present, every operator has a rule
#: (which may refuse some of its forms, or all of them).
REFUSED: dict[str, str] = {}

SCHEMAS = {
    (schema.domain, schema.name, schema.since_version): schema
    for schema in onnx.defs.get_all_schemas_with_history()
    if schema.domain in DOMAINS
}
VERSIONS: dict[tuple[str, str], list[int]] = defaultdict(list)
for _domain, _name, _version in sorted(SCHEMAS):
    VERSIONS[_domain, _name].append(_version)


def unchanged() -> set[tuple[str, int]]:
    """Return the changes of operators that leave an older node's meaning as it was, from the table of the lift."""
    tree = ast.parse(LIFT_TESTS.read_text(encoding="utf-8"))
    tables = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "UNCHANGED"
    ]
    found = set()
    for line in tables[0].strip().splitlines():
        numbers, _, operators = line.partition(":")
        found |= {(op, int(version)) for op in operators.split() for version in numbers.split(",")}
    return found


REVIEWED_CHANGES = unchanged() | ADAPTERS.keys()


def full_name(domain: str, name: str) -> str:
    return f"{domain}::{name}" if domain else name


def is_lifted(name: str, version: int) -> bool:
    """Whether a node of an older version becomes one of the working opset, or of another operator there."""
    later = [v for v in VERSIONS["", name] if version < v <= WORKING_OPSET]
    if SCHEMAS["", name, version].deprecated:
        return (name, version) in ADAPTERS  # which makes it another operator
    return bool(later) and all((name, v) in REVIEWED_CHANGES for v in later)


def classify(domain: str, name: str, version: int) -> str | None:
    """Return the class of one version of one operator; None where nobody has looked at it."""
    operator = full_name(domain, name)
    rule = REGISTRY.get(operator)
    if rule is not None and version in rule.versions:
        return "reviewed"
    if domain == "" and is_lifted(name, version):
        return "lifted"
    if rule is None and operator in REFUSED:
        return "refused"
    return None


@pytest.mark.parametrize(("domain", "name"), VERSIONS, ids=lambda part: part or "ai.onnx")
def test_every_version_is_in_a_class(domain: str, name: str) -> None:
    open_ = [v for v in VERSIONS[domain, name] if classify(domain, name, v) is None]
    assert not open_, f"versions {open_} of {full_name(domain, name)} were never looked at; known: see this file"


def test_there_are_no_other_domains() -> None:
    assert {schema.domain for schema in onnx.defs.get_all_schemas_with_history()} == set(DOMAINS)


def test_classes_tell_versions_apart() -> None:
    """The classes are those of versions that are known for each."""
    assert classify("", "Tanh", 13) == "reviewed"
    assert classify("", "Tanh", 6) == "lifted"
    assert classify("", "Scatter", 9) == classify("", "Scatter", 11) == "lifted"
    assert classify("ai.onnx.ml", "Scaler", 1) == "reviewed"


@pytest.mark.parametrize("name", ["Tanh", "Softmax", "Relu"])
def test_an_unreviewed_version_is_in_no_class(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version beyond those that there are is not covered by what is said of the others."""
    newest = VERSIONS["", name][-1]
    monkeypatch.setitem(SCHEMAS, ("", name, 99), SCHEMAS["", name, newest])
    assert classify("", name, 99) is None


def test_entries_are_used() -> None:
    """No entry of the table of refusals outlives its reason."""
    names = {full_name(*key) for key in VERSIONS}
    assert names >= REFUSED.keys()
    assert not {operator for operator in REFUSED if REGISTRY.get(operator) is not None}


def test_an_operator_without_a_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it lies between the input and the output, the call fails and names it; the table may say why."""
    known = REGISTRY.get("Tanh")
    assert known is not None
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Tanh(x) }'
    )
    REGISTRY.remove("Tanh")
    try:
        assert classify("", "Tanh", 13) is None
        monkeypatch.setitem(REFUSED, "Tanh", "a reason")
        assert classify("", "Tanh", 13) == "refused"
        with pytest.raises(onnxgrad.NotDifferentiableError, match="Tanh"):
            onnxgrad.vjp(model)
    finally:
        REGISTRY.add(known)
