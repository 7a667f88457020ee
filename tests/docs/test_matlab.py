"""What docs/matlab.md says can be done, can be done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import onnxgrad
from onnxgrad.cli import app
from onnxgrad.importers.matlab.functions import DISTANCES, PROCESSING, TRANSFER

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "matlab.md").read_text(encoding="utf-8")
FIXTURES = ROOT / "fixtures" / "matlab"
RECORDED = np.load(FIXTURES / "recorded.npz")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIXTURES / "static.m", "net.m")
    shutil.copy(FIXTURES / "static.mat", "net.mat")
    return tmp_path


def test_the_recipe(folder: Path) -> None:
    x = RECORDED["static/x1"]
    names: dict[str, object] = {"onnxgrad": onnxgrad, "x": x}
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(block, names)
    np.testing.assert_allclose(names["y"], RECORDED["static/y1"], rtol=1e-12)
    np.testing.assert_allclose(names["jacobian"], RECORDED["static/jac_y1_x1"], rtol=1e-11)
    (other,) = re.findall(r'onnxgrad\.load\("net\.mat".*?\)', block)
    np.testing.assert_allclose(eval(other, names)(x), RECORDED["static/y1"], rtol=1e-12)


def test_the_commands(folder: Path) -> None:
    lines = re.findall(r"^    onnxgrad (.+)$", PAGE, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        result = CliRunner().invoke(app, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    outputs = [output.name for output in onnx.load("net_with_jacobian.onnx").graph.output]
    assert outputs == ["y1", "jac_y1_x1"]


@pytest.mark.parametrize(
    ("row", "functions"),
    [("transfer functions", TRANSFER), ("weight functions", ["dotprod", *DISTANCES]), ("processing", PROCESSING)],
)
def test_the_table_is_complete(row: str, functions: list[str]) -> None:
    (cells,) = re.findall(rf"^\| {row} \| (.+) \|$", PAGE, re.MULTILINE)
    assert set(functions) <= set(re.findall(r"\w+", cells))


def test_the_order_of_delayed_values() -> None:
    """`xi1` is one block of inputs for each delay, the oldest first."""
    f = onnxgrad.load(FIXTURES / "late.m")  # delays 1 and 3 of three, two inputs
    jacobian = f.jacobian({k: RECORDED[f"late/{k}"] for k in ("x1", "xi1")}, of="y1", wrt="xi1")
    used = abs(jacobian).max(axis=(0, 1)) > 0
    assert used.tolist() == [True, True, False, False, True, True]


def test_derivatives_by_weights_have_the_shape_of_matlab(folder: Path) -> None:
    assert 'f.jacobian(x, wrt="LW2_1")' in PAGE
    assert onnxgrad.load("net.m").jacobian(RECORDED["static/x1"], wrt="LW2_1").shape == (4, 2, 2, 4)
