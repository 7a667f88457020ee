"""docs/operators.md says what the registry says, and its writer does not drop rules in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import make_operators
from onnxgrad.rules import REGISTRY


def test_up_to_date() -> None:
    assert make_operators.main(["--check"]) == 0, "run python docs/make_operators.py"


def test_each_rule_has_a_row() -> None:
    rows = make_operators.rows_of(make_operators.page())
    known = {rule.operator for rule in REGISTRY if rule.remark != "custom"}
    assert rows == known


def test_a_rule_that_is_gone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_operators, "PAGE", tmp_path / "operators.md")
    assert make_operators.main([]) == 0
    rule = REGISTRY.get("Tanh")
    assert rule is not None
    REGISTRY.remove("Tanh")
    try:
        assert make_operators.main(["--check"]) == 1
        assert make_operators.main([]) == 1
        assert "| Tanh |" in make_operators.PAGE.read_text(encoding="utf-8")
        assert make_operators.main(["--remove"]) == 0
        assert "| Tanh |" not in make_operators.PAGE.read_text(encoding="utf-8")
    finally:
        REGISTRY.add(rule)
