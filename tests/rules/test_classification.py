"""Every version of every operator that ONNX defines is in one class, and somebody has looked at it.

A version is *reviewed* by a rule, *lifted* to a newer version when a model is read, *without real numbers* by its
types, or *refused* for a reason that stands here. A new release of onnx fails these tests until its new versions are
read.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import onnxgrad
from onnxgrad.model.lifting import ADAPTERS
from onnxgrad.model.opsets import WORKING_OPSET
from onnxgrad.rules import REGISTRY

LIFT_TESTS = Path(__file__).parents[1] / "model" / "test_model_lift.py"
DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")

#: Operators without a rule, whatever the version, and why there is none.
REFUSED = {
    "ai.onnx.preview.training::Gradient": "a request for a derivative, which onnxgrad.lowering replaces by one",
    "BitCast": "the bits of a number are no differentiable function of it",
}

#: Operators whose rules are being written.
BEING_WRITTEN = set(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger".split()
)

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


def is_real(types: list[str]) -> bool:
    return any("float" in t or "double" in t for t in types)


def is_lifted(name: str, version: int) -> bool:
    """Whether a node of an older version becomes one of the working opset, or of another operator there."""
    later = [v for v in VERSIONS["", name] if version < v <= WORKING_OPSET]
    if SCHEMAS["", name, version].deprecated:
        return (name, version) in ADAPTERS  # which makes it another operator
    return bool(later) and all((name, v) in REVIEWED_CHANGES for v in later)


def classify(domain: str, name: str, version: int) -> str | None:
    """Return the class of one version of one operator; None where nobody has looked at it."""
    schema, operator = SCHEMAS[domain, name, version], full_name(domain, name)
    rule = REGISTRY.get(operator)
    if rule is not None and version in rule.versions:
        return "reviewed"
    if domain == "" and is_lifted(name, version):
        return "lifted"
    sides = [[t for parameter in side for t in parameter.types] for side in (schema.inputs, schema.outputs)]
    if not all(is_real(types) for types in sides) and rule is None:
        return "without real numbers"
    if rule is None and operator in REFUSED:
        return "refused"
    if rule is None and operator in BEING_WRITTEN:
        return "being written"
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
    assert classify("", "StringConcat", 20) == "without real numbers"
    assert classify("", "BitCast", 26) == "refused"


@pytest.mark.parametrize("name", ["Tanh", "Softmax", "Relu"])
def test_an_unreviewed_version_is_in_no_class(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version beyond those that there are is not covered by what is said of the others."""
    newest = VERSIONS["", name][-1]
    monkeypatch.setitem(SCHEMAS, ("", name, 99), SCHEMAS["", name, newest])
    assert classify("", name, 99) is None


@pytest.mark.parametrize("operator", sorted(REFUSED))
def test_entries_are_used(operator: str) -> None:
    """No entry of the table of refusals outlives its reason."""
    domain, _, name = operator.rpartition("::")
    assert (domain, name) in VERSIONS
    assert REGISTRY.get(operator) is None, "it has a rule now; take it out of the table"


@pytest.mark.parametrize("operator", sorted(BEING_WRITTEN))
def test_what_is_being_written_exists(operator: str) -> None:
    domain, _, name = operator.rpartition("::")
    assert (domain, name) in VERSIONS


@pytest.mark.parametrize("operator", ["BitCast"])
def test_what_is_refused_is_refused(operator: str) -> None:
    """Where a refused operator lies between the input and the output, the call fails and names it."""
    bits = {"to": TensorProto.BFLOAT16} if operator == "BitCast" else {}
    node = helper.make_node(operator, ["x"], ["y"], **bits)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2])
    y = helper.make_tensor_value_info("y", TensorProto.BFLOAT16 if bits else TensorProto.FLOAT16, [2])
    graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=11)
    with pytest.raises(onnxgrad.NotDifferentiableError, match=operator):
        onnxgrad.vjp(model)
