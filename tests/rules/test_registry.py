"""The table of rules as a whole: closed under differentiation, and written against versions that exist."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import statistics
import textwrap
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import onnxgrad
from onnxgrad.rules import REGISTRY, Rule

PACKAGE = Path(onnxgrad.__file__).parent
NEWEST = onnx.defs.onnx_opset_version()
#: What emits nodes: the rules, the builder, and the driver above it.
SOURCES = [
    *(PACKAGE / "rules").glob("*.py"),
    *(PACKAGE / "graph").glob("*.py"),
    *(PACKAGE / "autodiff").glob("*.py"),
    PACKAGE / "augmentation.py",
]


def emitted(tree: ast.AST) -> Iterator[str]:
    """Yield the operators that a module emits: ``op.MatMul(…)``, ``op.emit("Split", …)``."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        owner, name = call.func.value, call.func.attr
        if isinstance(owner, ast.Name) and owner.id in ("op", "self") and name[0].isupper():
            yield name
        first = call.args[0] if call.args else None
        if name in ("emit", "emit_flow", "_append", "_emit_shared") and isinstance(first, ast.Constant):
            yield from [first.value] if isinstance(first.value, str) else []


EMITTED = sorted({name for path in SOURCES for name in emitted(ast.parse(path.read_text(encoding="utf-8")))})


def test_the_search_finds_what_is_emitted() -> None:
    assert {"MatMul", "Split", "ScatterElements", "Expand", "Reshape", "Shape", "Where", "ConvTranspose"} <= set(
        EMITTED
    )


@pytest.mark.parametrize("name", EMITTED)
def test_closed_under_differentiation(name: str) -> None:
    """What a derivative is written in can be differentiated again, and is an operator at every opset from 18 on."""
    assert REGISTRY.get(name) is not None, f"{name} is emitted and has no rule"
    if name not in _NEWER:
        assert onnx.defs.get_schema(name, 18, "").since_version <= 18


#: Emitted only in the derivative of an operator of the same or a newer opset: the model has that opset already.
_NEWER = {"AffineGrid", "CumProd"}


def versions_in_force(name: str) -> set[int]:
    """The versions of an ai.onnx operator that models of opset 18 and newer use, deprecated ones included."""
    found = set()
    for opset in range(18, NEWEST + 1):
        with contextlib.suppress(onnx.defs.SchemaError):
            found.add(onnx.defs.get_schema(name, opset, "").since_version)
    return found


STANDARD = [rule for rule in REGISTRY if "::" not in rule.operator and onnx.defs.has(rule.operator)]


@pytest.mark.parametrize("rule", STANDARD, ids=lambda rule: rule.operator)
def test_every_version_was_reviewed(rule: Rule) -> None:
    """A rule names all versions in force, and none that do not exist: a new one must be read before it is served."""
    assert rule.versions == versions_in_force(rule.operator)


def test_unreviewed_versions_are_refused() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Tanh(x) }'
    )
    known = REGISTRY.get("Tanh")
    assert known is not None
    REGISTRY.remove("Tanh")
    try:
        REGISTRY.add(Rule("Tanh", "vjp", frozenset({99}), known.vjp))
        with pytest.raises(onnxgrad.NotDifferentiableError, match="written for versions 99 only"):
            onnxgrad.vjp(model)
    finally:
        REGISTRY.add(known, replace=True)


def lines_of(rule: Rule) -> int:
    """Return the lines of code of a rule; of a partial derivative there is one."""
    function = rule.vjp or rule.expression
    if function is None or rule.kind == "elementwise":
        return 1
    while isinstance(function, functools.partial):
        function = function.func
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except SyntaxError:  # a lambda within a call
        return 1
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    if not bodies:
        return 1
    code = [n for n in bodies[0] if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    text = inspect.getsource(function).splitlines()
    lines = {i for n in code for i in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    return sum(1 for i in lines if text[i - 1].strip() and not text[i - 1].strip().startswith("#"))


def test_rules_stay_formulas() -> None:
    """A long rule says that the driver or the builder lacks something."""
    lengths = {rule.operator: lines_of(rule) for rule in REGISTRY}
    assert statistics.median(lengths.values()) <= 3
    assert {name: n for name, n in lengths.items() if n > 40} == {}
