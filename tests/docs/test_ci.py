"""What docs/ci.md shows can be done."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

from onnxgrad.cli import app
from onnxgrad.comparison.golden import MAX_ELEMENTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

MODEL = """
<ir_version: 10, opset_import: ["": 18]>
net (double[batch, 3] x) => (double[batch, 2] y) <double[3, 2] W = {0.5, -0.25, 1, 0.75, -1, 0.125}>
{ h = MatMul(x, W) y = Tanh(h) }
"""
X = np.random.default_rng(1).normal(size=(4, 3))
W = np.array([[0.5, -0.25], [1, 0.75], [-1, 0.125]])

pytest_plugins = ["pytester"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "exported_anew.onnx", "old.onnx", "new.onnx"):
        onnx.save(onnx.parser.parse_model(MODEL), name)
    np.savetxt("X.csv", X, delimiter=",", header="a,b,c", comments="")
    return tmp_path


def test_python(folder: Path) -> None:
    """All blocks but the last one, which is a test."""
    names: dict[str, object] = {"x": X, "W": W}
    assert len(BLOCKS) == 3
    for block in BLOCKS[:-1]:
        exec(block, names)
    assert (folder / "golden.npz").exists()


def test_commands(folder: Path) -> None:
    """Those of the page in blocks, in the text, and in the recipe, in this order."""
    lines = re.findall(r"^    onnxgrad (.+)$", PAGE, re.MULTILINE)
    lines += re.findall(r"^      - run: onnxgrad (.+)$", PAGE, re.MULTILINE)
    lines += re.findall(r"`onnxgrad (compare .+?)`", PAGE)
    assert len(lines) == 4
    for line in lines:
        result = CliRunner().invoke(app, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    assert (folder / "changes.png").exists()


def test_the_fixture(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    onnx.save(onnx.parser.parse_model(MODEL), pytester.path / "model.onnx")
    pytester.makepyfile(test_model=f"import numpy as np\nx = np.array({X.tolist()})\n\n{BLOCKS[-1]}")
    pytester.runpytest_inprocess("-p", "pytest_onnxgrad").assert_outcomes(failed=1)
    assert (pytester.path / "test_model" / "test_derivatives.npz").exists()
    pytester.runpytest_inprocess("-p", "pytest_onnxgrad").assert_outcomes(passed=1)


def test_numbers() -> None:
    assert f"{MAX_ELEMENTS:,} elements" in PAGE
