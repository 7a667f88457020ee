"""The Python blocks of docs/costs.md and docs/sensitivity.md run, and what they make is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pandas as pd
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NET = """
<ir_version: 10, opset_import: ["": 18]>
net (double[N, 3] x) => (double[N, 2] y)
<double[3, 2] W1 = {1, 2, -1, 0.5, 0, 1}, double[2] b1 = {0.5, -0.5}>
{
  h = MatMul(x, W1)
  s = Add(h, b1)
  y = Sin(s)
}
"""
X = np.random.default_rng(0).normal(size=(20, 3))
TARGET = np.ones((20, 2))


@pytest.fixture(autouse=True)
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(NET), "net.onnx")


def run(page: str, **names: Any) -> list[dict[str, Any]]:
    """Run the blocks of a page in turn; return the names that there are after each."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    after = []
    for block in blocks:
        exec(block, names)
        after.append(dict(names))
    return after


def test_costs() -> None:
    first, each, second, other = run("costs.md", x=X, target=TARGET)
    s = X @ [[1, 2], [-1, 0.5], [0, 1]] + [0.5, -0.5]
    d = 2 * (np.sin(s) - TARGET) * np.cos(s) / TARGET.size
    np.testing.assert_allclose(first["norm"], np.sqrt(np.sum((X.T @ d) ** 2) + np.sum(d.sum(0) ** 2)), rtol=1e-12)
    np.testing.assert_allclose(each["found"]["cost"].mean(), np.mean((np.sin(s) - TARGET) ** 2), rtol=1e-12)
    assert second["found"]["hess_cost_x_x"].shape == (20, 3, 3)
    assert [o.name for o in other["model"].graph.output] == ["y", "loss", "jac_loss_x"]
    assert [o.name for o in other["same"].graph.output] == ["y", "loss", "grad_loss_x"]


def test_sensitivity() -> None:
    first, second, picture = run("sensitivity.md", frame=pd.DataFrame(X, columns=["age", "bmi", "bp"]))
    J = np.cos(X @ [[1, 2], [-1, 0.5], [0, 1]] + [0.5, -0.5])[:, :, None] * np.array([[1, -1, 0], [2, 0.5, 1]])
    np.testing.assert_allclose(first["found"].rms, np.sqrt((J**2).mean(0)), rtol=1e-12)
    assert first["found"].features == ("age", "bmi", "bp")
    assert second["found"].pairs()[0][:2] == ("age", "bmi")
    assert Path("sensitivity.csv").exists()
    assert Path("sensitivity.png").stat().st_size > 1000
    assert picture["figure"].axes
