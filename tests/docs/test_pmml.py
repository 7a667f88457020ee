"""What docs/pmml.md says can be done, can be done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from typer.testing import CliRunner

import onnxgrad
from onnxgrad.cli import app
from onnxgrad.importers.pmml.expressions import EXPRESSIONS
from onnxgrad.importers.pmml.functions import FUNCTIONS
from onnxgrad.importers.pmml.network import ACTIVATION_NAMES, NORMALIZATIONS
from tests.importers import pmml_by_hand
from tests.importers.pmml_networks import FOLDER

PAGE = (Path(__file__).parents[2] / "docs" / "pmml.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FOLDER / "spss_regression.pmml", "net.pmml")
    shutil.copy(FOLDER / "survey.csv", "survey.csv")
    return tmp_path


def test_the_recipe(folder: Path) -> None:
    frame = pd.read_csv("survey.csv")
    names: dict[str, object] = {"onnxgrad": onnxgrad, "frame": frame}
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(block, names)
    data = {name: frame[name].tolist() for name in ("age", "income", "region")}
    root = pmml_by_hand.load(Path("net.pmml"))
    np.testing.assert_allclose(names["values"], pmml_by_hand.evaluate(root, data)["spend"], rtol=1e-12)
    jacobian = names["jacobian"]
    assert isinstance(jacobian, dict)
    assert jacobian["age"].shape == (len(frame), 1, 1)
    np.testing.assert_allclose(jacobian["age"], pmml_by_hand.jacobians(root, data, "age")["spend"], rtol=1e-12)
    f = names["f"]
    assert isinstance(f, onnxgrad.Function)
    np.testing.assert_array_equal(f({name: np.array(v)[:, None] for name, v in data.items()}), names["values"])
    assert "f(*x.T[..., None])" in PAGE
    numeric = onnxgrad.load(FOLDER / "spss_radial.pmml")
    x = frame[["age", "income"]].to_numpy()
    np.testing.assert_array_equal(numeric(*x.T[..., None]), numeric(frame))
    assert "numpy.concatenate(list(jacobian.values()), axis=-1)" in PAGE
    assert np.concatenate(list(numeric.jacobian(frame).values()), axis=-1).shape == (len(frame), 1, 2)
    assert 'f.jacobian(frame, of="layer2", wrt="income")' in PAGE
    assert f.jacobian(frame, of="layer2", wrt="income").shape == (len(frame), 2, 1)


def test_the_commands(folder: Path) -> None:
    lines = re.findall(r"^    onnxgrad (.+)$", PAGE, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        result = CliRunner().invoke(app, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    outputs = [output.name for output in onnx.load("net_with_jacobian.onnx").graph.output]
    assert outputs == ["spend", "jac_spend_age", "jac_spend_income"]
    assert list(pd.read_csv("out.csv").columns) == outputs


def _row(name: str) -> str:
    (cells,) = re.findall(rf"^\| {name} \| (.+) \|$", PAGE, re.MULTILINE)
    return str(cells)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("activation functions", ACTIVATION_NAMES),
        ("normalization", NORMALIZATIONS),
        ("functions", FUNCTIONS),
        ("expressions", EXPRESSIONS),
    ],
)
def test_the_table_is_complete(row: str, words: tuple[str, ...]) -> None:
    assert set(words) <= set(re.split(r"[ ,;]+", _row(row)))


def test_no_more_functions_are_promised() -> None:
    promised = _row("functions").partition("; and those")[0].replace("; in float32 also", "").partition(", for")[0]
    assert promised.split() == [name for name in promised.split() if name in FUNCTIONS]
    assert len(promised.split()) == len(FUNCTIONS)
