"""Properties of derivatives, on random models of several operators; `python -m tests.properties` tries many more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import onnxgrad
from onnxgrad.rules import REGISTRY, Rule
from tests.properties import checks
from tests.properties.program import Node, Program
from tests.properties.run import explore
from tests.properties.strategies import STEPS

#: Examples per property; the same ones in each run, about ten to forty milliseconds each.
EXAMPLES = {
    "check_sweeps": 1000,
    "check_ties": 200,
    "check_jacobian": 400,
    "check_hessian": 250,
    "check_samples": 500,
    "check_float32": 500,
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of ONNX's reference
@pytest.mark.parametrize("check", sorted(EXAMPLES))
def test_property(check: str) -> None:
    counts = explore(check, EXAMPLES[check])
    assert counts["undecided"] <= 0.02 * counts["decided"], "too many examples prove nothing"
    assert counts["decided"] >= 0.9 * EXAMPLES[check]
    operators = set(counts) - {"decided", "undecided", "proven"}
    assert len(operators) >= 50, f"only {sorted(operators)} were met"
    if check == "check_samples":
        assert counts["proven"] >= 0.1 * counts["decided"]


def test_every_step_is_its_own() -> None:
    assert len({step.__name__ for step in STEPS}) >= 25


@contextmanager
def rule_of(operator: str, **changes: Any) -> Iterator[None]:
    """Put another rule in the place of an operator's."""
    known = REGISTRY.get(operator)
    assert known is not None
    REGISTRY.add(Rule(**{**vars(known), **changes}), replace=True)
    try:
        yield
    finally:
        REGISTRY.add(known, replace=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("operator", "wrong", "check"),
    [
        ("Sin", {"vjp": lambda op, node, ct: [ct * op.Sin(node.x)]}, "check_sweeps"),
        ("Expand", {"vjp": lambda op, node, ct: [0.5 * ct]}, "check_sweeps"),
        ("Add", {"vjp": lambda op, node, ct: [ct, -ct]}, "check_sweeps"),
        ("Tanh", {"vjp": lambda op, node, ct: [ct * op.Sin(node.x)]}, "check_hessian"),
        ("MatMul", {"follow": lambda node, places: [places[0]]}, "check_samples"),
    ],
    ids=["Sin", "Expand", "Add", "Tanh-second-order", "MatMul-samples"],
)
def test_a_wrong_rule_is_found(operator: str, wrong: dict[str, Any], check: str) -> None:
    """The search finds a wrong rule, and shrinks the model to that operator and little else."""
    with rule_of(operator, **wrong), pytest.raises(AssertionError) as caught:
        explore(check, 2000)
    (script,) = [note for note in caught.value.__notes__ if "program = " in note]
    nodes = script.count("        Node(")
    assert f"Node('{operator}'" in script
    assert nodes <= 3
    with rule_of(operator, **wrong), pytest.raises(AssertionError):
        exec(script[script.index("from tests") :], {})


def test_a_program_is_its_own_script() -> None:
    program = Program(
        [Node("Add", ["x0", "w0"], ["v0"]), Node("CumSum", ["v0", "k0"], ["v1"], {"reverse": 1})],
        {"x0": (2, 3)},
        ["v1"],
        ["x0"],
        {"w0": (3,)},
        {},
        {"k0": 1},
        sizes="shared",
        seed=5,
    )
    again = eval(repr(program), {"Node": Node, "Program": Program})
    assert again == program
    assert again.model().SerializeToString() == program.model().SerializeToString()
    exec(program.script("check_sweeps"), {})


def test_a_kink_is_undecided() -> None:
    """Where the sides differ, nothing is proven; where they do not, a wrong derivative is."""
    with pytest.raises(checks.Undecided):
        checks._compare(abs, 0.5, 1.0, "kink")
    checks._compare(lambda t: 3 * t, 3.0, 1.0, "line")
    with pytest.raises(AssertionError, match="differences give"):
        checks._compare(lambda t: 3 * t, 2.0, 1.0, "line")


def test_what_is_not_a_failure_of_the_model_is_not_hidden() -> None:
    """A refusal is an error here: every operator of these models has a rule."""
    program = Program([Node("Tanh", ["x0"], ["v0"])], {"x0": (2,)}, ["v0"], ["x0"])
    known = REGISTRY.get("Tanh")
    assert known is not None
    REGISTRY.remove("Tanh")
    try:
        with pytest.raises(onnxgrad.NotDifferentiableError):
            checks.check_sweeps(program)
    finally:
        REGISTRY.add(known)
