"""What the README and the pages in docs say can be done, can be done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

from onnxgrad.cli import app
from onnxgrad.rules import REGISTRY

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "fixtures" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

MODEL = """
<ir_version: 10, opset_import: ["": 18, "my.domain": 1]>
net (double[batch, 3] x) => (double[batch, 4] y)
<double[3, 4] W = {1, 2, 3, 4, 0.5, 0.25, 0.75, -1, -2, -3, -0.5, 1}>
{
  h = MatMul(x, W)
  y = Tanh(h)
}
"""


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in one go, with a model of the names that they use."""
    monkeypatch.chdir(tmp_path)
    model = onnx.parser.parse_model(MODEL)
    for name in ("model.onnx", "old.onnx", "new.onnx"):
        onnx.save(model, name)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Cube", "my.domain"
    onnx.save(model, "model_with_cube.onnx")
    names: dict[str, object] = {"x": np.ones((2, 3)), "cotangent": np.ones((2, 4)), "onnx": onnx}
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    try:
        for block in blocks:
            exec(block, names)
    finally:
        REGISTRY.remove("my.domain::Cube")
    assert len(blocks) == 4
    assert names["jacobian"].shape == (2, 4, 3)  # type: ignore[attr-defined]
    assert [o.name for o in onnx.load("model_with_jacobian.onnx").graph.output] == ["y", "jac_y_x"]
    assert [o.name for o in names["model"].graph.output] == ["y", "jac_y_x"]  # type: ignore[attr-defined]


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the table and of the head, word for word."""
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(MODEL), "model.onnx")
    np.savetxt("X.csv", np.ones((2, 3)), delimiter=",", header="a,b,c", comments="")
    shutil.copy(ROOT / "fixtures" / "matlab" / "static.m", "net.m")
    lines = re.findall(r"^\| `onnxgrad (.+?)` \|", README, re.MULTILINE)
    lines += re.findall(r"^    onnxgrad (.+)$", README, re.MULTILINE)
    commands = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert {line.split()[0] for line in lines} == commands
    for line in lines:
        words = [
            {
                "MODEL": "model.onnx",
                "OUT": "out.onnx",
                "A": "model.onnx",
                "B": "model.onnx",
                "GOLDEN": "golden.npz",
            }.get(word, word)
            for word in line.split()
        ]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)


@pytest.mark.parametrize("option", re.findall(r"`(--\w+)`", README))
def test_options_that_are_named(option: str) -> None:
    assert option in CliRunner().invoke(app, ["augment", "--help"], env={"COLUMNS": "200"}).output


def test_the_two_commands() -> None:
    """One line each, as .ci/run takes the second one from the page."""
    first, second = re.findall(r"^    (python3 -m venv .+)$", README, re.MULTILINE)
    assert first.endswith("fixtures/demo.py")
    assert "pytest" in second


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for path in re.findall(r"`((?:docs|tests|fixtures|onnxgrad)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:graph|rules|autodiff|model|runtime|checks|cli)/\w+\.py)`", text):
        assert (ROOT / "onnxgrad" / path).exists(), path
