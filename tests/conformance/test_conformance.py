"""ONNX's own test cases of operators: each derivative is right, or refused for a reason that is written down.

For each floating-point input and output of a case, as it is and with every size symbolic: the vector-Jacobian product
against differences, the forward mode by the adjoint identity, and the outputs unchanged by the derivatives
(`onnxgrad.checks`). ``python -m tests.conformance`` writes the table docs/conformance.md.
"""

from __future__ import annotations

import warnings

import pytest

import onnxgrad
from onnxgrad.rules import REGISTRY
from tests.conformance.cases import modules
from tests.conformance.refusals import RANKS, REASONS, WITHOUT_RULE, explained
from tests.conformance.run import outcomes

FINE = {"right", "zero", "kink"}


@pytest.mark.parametrize("module", modules())
def test_right_or_refused(module: str) -> None:
    with warnings.catch_warnings():  # of zero derivatives, of casts of extreme values
        warnings.simplefilter("ignore")
        found = list(outcomes(module))
    for outcome in found:
        if outcome.verdict == "refused":
            explained(outcome.detail)
        elif outcome.verdict == "not runnable":
            assert "optional" in outcome.detail, str(outcome)
        else:
            assert outcome.verdict in FINE, str(outcome)


def test_some_cases_are_there() -> None:
    """The cases are found where this version of onnx keeps them."""
    assert {o.verdict for o in outcomes("tanh")} == {"right"}
    assert {o.verdict for o in outcomes("floor")} == {"zero"}


def test_the_table_of_refusals_does_not_rot() -> None:
    assert [name for name in WITHOUT_RULE if REGISTRY.get(name) is not None] == []
    assert [name for name in (*REASONS, *RANKS) if REGISTRY.get(name) is None] == []
    with pytest.raises(AssertionError, match="not in the table"):
        explained("1 node is in the way:\n  - Tanh (version 13), node 'n': there is no rule for this operator; x.")


def test_a_wrong_rule_is_found() -> None:
    """The harness is one that can fail: a derivative that is off by one percent is called wrong."""
    known = REGISTRY.get("Tanh")
    assert known is not None
    REGISTRY.remove("Tanh")
    try:
        wrong = onnxgrad.rules.Rule(
            "Tanh", "vjp", known.versions, lambda op, node, ct: ct * 1.01 * (1 - node.y * node.y)
        )
        REGISTRY.add(wrong)
        assert "wrong" in {o.verdict for o in outcomes("tanh")}
    finally:
        REGISTRY.add(known, replace=True)
