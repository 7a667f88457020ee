"""``onnxgrad inspect`` and ``onnxgrad ops``."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxgrad.rules import REGISTRY
from tests.cli.cli_helpers import LAYER, MIXING, STRANGE, WIDE, command, save


def test_what_is_shown(tmp_path: Path) -> None:
    result = command("inspect", save(tmp_path, LAYER))
    assert result.code == 0
    assert result.err == ""
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "operators: MatMul (1), Tanh (1)" in lines
    assert "input x float64 N x 3" in lines
    assert "output y float64 N x 2" in lines
    (row,) = [line for line in lines if line.startswith("y x yes")]
    assert row.startswith("y x yes N x 2 x 3 yes ")


def test_json(tmp_path: Path) -> None:
    found = command("inspect", save(tmp_path, LAYER), "--json").json
    assert found["inputs"] == [{"name": "x", "kind": "tensor", "dtype": "float64", "shape": ["N", 3]}]
    assert found["operators"] == {"MatMul": 1, "Tanh": 1}
    assert found["weight_bytes"] == 48
    assert found["opsets"]["ai.onnx"] == 18
    (pair,) = found["derivatives"]
    assert (pair["of"], pair["wrt"], pair["exists"], pair["batched"], pair["shape"]) == (
        "y",
        "x",
        True,
        True,
        ["N", 2, 3],
    )
    # 64 samples: a product of 3 x 2 takes 12 operations each, tanh 2
    assert found["flops"] == 64 * (12 + 2)
    assert pair["flops"]["reverse"] > found["flops"]


def test_cost_of_the_modes_follows_the_widths(tmp_path: Path) -> None:
    """From 30 to 2: reverse mode is the cheaper one; from 2 to 30 forward mode."""
    for wide, narrow, cheaper in (("x", "y", "reverse"), ("y", "x", "forward")):
        size = {wide: 30, narrow: 2}
        numbers = ",".join(["0.5"] * 60)
        x, y = size["x"], size["y"]
        text = f"net (double[N, {x}] x) => (double[N, {y}] y) <double[{x}, {y}] W = {{{numbers}}}>"
        model = save(tmp_path, text + "{ a = Tanh(x) h = MatMul(a, W) y = Tanh(h) }")
        (pair,) = command("inspect", model, "--json").json["derivatives"]
        assert min(pair["flops"], key=pair["flops"].get) == cheaper, pair["flops"]


def test_what_stands_in_the_way(tmp_path: Path) -> None:
    model = save(tmp_path, STRANGE)
    result = command("inspect", model)
    assert result.code == 0
    assert "my.domain::Fold" in result.out
    assert "my.domain::Unfold" in result.out
    (pair,) = command("inspect", model, "--json").json["derivatives"]
    assert not pair["exists"]
    assert [o["operator"] for o in pair["obstacles"]] == ["my.domain::Fold", "my.domain::Unfold"]


def test_samples_that_mix(tmp_path: Path) -> None:
    model = save(tmp_path, MIXING)
    (pair,) = command("inspect", model, "--json").json["derivatives"]
    assert pair["exists"]
    assert not pair["batched"]
    assert "ReduceMean" in pair["mixing"]
    assert "ReduceMean" in command("inspect", model).out


def test_pairs_that_are_not_connected(tmp_path: Path) -> None:
    model = save(tmp_path, "net (double[N] x, double[N] z) => (double[N] y, double[N] w) { y = Tanh(x) w = Floor(z) }")
    pairs = {(p["of"], p["wrt"]): p for p in command("inspect", model, "--json").json["derivatives"]}
    assert pairs["y", "x"]["zero"] is None
    assert pairs["y", "z"]["zero"] is not None
    assert "constant between its jumps" in pairs["w", "z"]["zero"]
    assert "y:z is zero" in command("inspect", model).out


def test_derivatives_that_are_there_already(tmp_path: Path) -> None:
    model, out = save(tmp_path, WIDE), tmp_path / "out.onnx"
    command("augment", model, "-o", out, "--jacobian", "y:a", "--hvp", "total:b")
    found = command("inspect", out, "--json").json
    assert [(r["kind"], r["output"]) for r in found["recorded"]] == [("jacobian", "jac_y_a"), ("hvp", "hvp_total_b")]
    assert "derivatives that the model has already" in command("inspect", out).out


def test_a_model_without_numbers(tmp_path: Path) -> None:
    model = save(tmp_path, "net (int64[N] x) => (int64[N] y) { y = Identity(x) }")
    found = command("inspect", model, "--json").json
    assert "no floating-point output" in found["refused"]
    assert found["derivatives"] == []
    assert "no floating-point output" in command("inspect", model).out


def test_nothing_is_cut_off(tmp_path: Path) -> None:
    """Output that is no terminal has no width."""
    name = "a_name_" * 40
    model = save(tmp_path, f"net (double[N, 3] {name}) => (double[N, 3] y) {{ y = Tanh({name}) }}")
    result = command("inspect", model)
    assert result.out.count(name) >= 2
    assert "…" not in result.out


def test_ops() -> None:
    result = command("ops")
    assert result.code == 0
    for rule in REGISTRY:
        assert f" {rule.operator} " in result.out
    found = command("ops", "--json").json
    assert [r["operator"] for r in found["rules"]] == [rule.operator for rule in REGISTRY]
    (tanh,) = [r for r in found["rules"] if r["operator"] == "Tanh"]
    assert tanh["kind"] == "elementwise"
    assert tanh["versions"] == [13]


def test_ops_by_name() -> None:
    found = command("ops", "Tanh", "Nothing", "--json").json
    assert [r["operator"] for r in found["rules"]] == ["Tanh"]
    assert found["missing"] == ["Nothing"]
    assert "Nothing has no rule" in command("ops", "Nothing").out


@pytest.mark.parametrize(
    "words", [["--help"], ["inspect", "--help"], ["augment", "-h"], ["run", "-h"], ["check", "-h"], ["ops", "-h"]]
)
def test_help(words: list[str]) -> None:
    result = command(*words)
    assert result.code == 0
    assert "Usage" in result.out
