"""``onnxgrad check``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import onnxgrad
from onnxgrad.rules import REGISTRY
from tests.cli.cli_helpers import LAYER, STRANGE, WIDE, command, save


def test_right(tmp_path: Path) -> None:
    result = command("check", save(tmp_path, LAYER))
    assert result.code == 0, result.out
    assert [line.split()[:3] for line in result.out.splitlines() if line.strip().startswith("y ")] == [
        ["y", "x", "right"]
    ]
    assert "1 right" in result.out


def test_choice_of_pairs_and_point(tmp_path: Path) -> None:
    model = save(tmp_path, WIDE)
    np.savez(tmp_path / "x.npz", a=np.ones((2, 2)), b=np.ones((2, 3)))
    result = command("check", model, "--of", "total", "--wrt", "b", "--data", tmp_path / "x.npz", "--json")
    assert result.code == 0
    assert [(r["of"], r["wrt"], r["verdict"]) for r in result.json["rows"]] == [("total", "b", "right")]
    assert result.json["counts"] == {"right": 1}
    assert result.json["ok"] is True


def test_wrong_is_exit_code_1(tmp_path: Path) -> None:
    """A rule that is off by a hundredth."""
    rule = REGISTRY.get("Tanh")
    assert rule is not None
    try:
        onnxgrad.register("Tanh", domain="", samples_axis_0=True, replace=True)(
            lambda op, node, ct: ct * (1.01 - node.y * node.y)
        )
        result = command("check", save(tmp_path, LAYER))
    finally:
        REGISTRY.add(rule, replace=True)
    assert result.code == 1
    assert "wrong" in result.out
    assert result.err == ""


def test_all_refused_is_exit_code_2(tmp_path: Path) -> None:
    """Where operators have no kernel, not even the model runs; where they have no rule, there is no derivative."""
    result = command("check", save(tmp_path, STRANGE))
    assert result.code == 2
    assert "Fold" in result.message
    model = save(
        tmp_path, 'net (double[N, 3] x) => (double[N, 3] y) { a = Tanh(x) y = Einsum<equation = "...i->...i">(a) }'
    )
    rule = REGISTRY.get("Einsum")
    assert rule is not None
    try:
        REGISTRY.remove("Einsum")
        result = command("check", model)
        as_json = command("check", model, "--json")
    finally:
        REGISTRY.add(rule)
    assert result.code == as_json.code == 2
    assert "Einsum" in result.message
    assert "there is no rule for this operator" in result.message
    assert as_json.json["counts"] == {"refused": 1}
