"""``onnxgrad import`` of PMML, and the commands that take data by the names of fields."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import pytest

import onnxgrad
from onnxgrad.errors import ModelReadError
from tests.cli.cli_helpers import command
from tests.importers import pmml_by_hand
from tests.importers.pmml_networks import FOLDER, feeds

NET, SURVEY = FOLDER / "spss_regression.pmml", FOLDER / "survey.csv"
FRAME = pd.read_csv(SURVEY)
DATA = {name: FRAME[name].tolist() for name in ("age", "income", "region")}
VALUES = pmml_by_hand.evaluate(pmml_by_hand.load(NET), DATA)["spend"]
SLOPES = {name: pmml_by_hand.jacobians(pmml_by_hand.load(NET), DATA, name)["spend"] for name in ("age", "income")}


def test_import(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    result = command("import", NET, "-o", out)
    assert (result.code, result.err) == (0, "")
    assert "income" in result.out
    assert result.out.strip().endswith(f"{out}: {len(onnx.load(out).graph.node)} nodes")
    onnx.checker.check_model(onnx.load(out), full_check=True)
    (y,) = ort.InferenceSession(out).run(["spend"], feeds(DATA))
    np.testing.assert_allclose(y, VALUES, rtol=1e-12)
    assert command("augment", out, "-o", out, "--jacobian", "spend:age,income").code == 0
    found = ort.InferenceSession(out).run(["jac_spend_age", "jac_spend_income"], feeds(DATA))
    for slope, name in zip(found, SLOPES, strict=True):
        np.testing.assert_allclose(slope, SLOPES[name], rtol=1e-12)


def test_json_and_float32(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    found = command("import", NET, "-o", out, "--variable", "MultilayerPerceptron", "--dtype", "float32", "--json")
    types = {"age": "float32", "income": "float32", "region": "object"}
    assert found.json == {
        "file": str(out),
        "nodes": len(onnx.load(out).graph.node),
        "inputs": [{"name": name, "dtype": dtype, "shape": ["N", 1]} for name, dtype in types.items()],
        "outputs": [{"name": "spend", "dtype": "float32", "shape": ["N", 1]}],
    }


def imported(net: Path, folder: Path) -> Path:
    out = folder / "net.onnx"
    assert command("import", net, "-o", out).code == 0
    return out


def test_columns_of_a_table_are_found_by_the_names_of_fields(tmp_path: Path) -> None:
    """In any order, with others between them."""
    net = imported(NET, tmp_path)
    table, out = tmp_path / "data.csv", tmp_path / "out.csv"
    FRAME[["region", "person", "income", "age"]].to_csv(table, index=False)
    result = command("run", net, "--data", table, "-o", out, "--jacobian", "spend:age,income")
    assert result.code == 0, result.err
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for column, expected in {
        "spend": VALUES,
        "jac_spend_age": SLOPES["age"],
        "jac_spend_income": SLOPES["income"],
    }.items():
        found = np.array([float(row[column]) for row in rows])
        np.testing.assert_allclose(found, expected.reshape(-1), rtol=1e-12)


def test_a_data_frame_gives_its_columns() -> None:
    f = onnxgrad.load(NET)
    np.testing.assert_allclose(f(FRAME), VALUES, rtol=1e-12)
    found = f.jacobian(FRAME)
    assert list(found) == ["age", "income"]  # by what can be differentiated by
    np.testing.assert_allclose(found["income"], SLOPES["income"], rtol=1e-12)


def test_checks(tmp_path: Path) -> None:
    result = command("check", imported(FOLDER / "r_softmax.pmml", tmp_path))
    assert result.code == 0, result.out


def test_sensitivities_have_the_names_of_fields(tmp_path: Path) -> None:
    result = command("sensitivity", imported(NET, tmp_path), "--data", SURVEY)
    assert result.code == 0, result.err
    assert {"age", "income"} <= set(result.out.split())


BAD = {
    "a file that is none": (["none.pmml"], "there is no such file"),
    "another kind of file": (["net.zip"], "or a neural network in PMML (.pmml, or .xml)"),
    "another model": (["tree.pmml"], "the model is a <TreeModel>"),
    "an entity": (["entity.xml"], "entities are not expanded"),
    "another name": ([str(NET), "--variable", "net"], "there is 'MultilayerPerceptron'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tree.pmml").write_text('<PMML version="4.4"><TreeModel functionName="regression"/></PMML>')
    Path("entity.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a/>')
    arguments, says = BAD[what]
    result = command("import", *arguments, "-o", "out.onnx")
    assert result.code == 2
    assert says in result.message
    assert "Traceback" not in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entity.xml", "tree.pmml"]


def test_messages_name_all_formats() -> None:
    with pytest.raises(ModelReadError) as caught:
        onnxgrad.load(object())  # type: ignore[arg-type]
    help_ = " ".join(command("import", "--help").out.replace("│", " ").split())
    for what in ("a neural network in PMML (.pmml, or .xml)", "a function that genFunction wrote, .m, or a .mat file"):
        assert what in str(caught.value)
        assert what in help_


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    result = command("import", NET, "-o", tmp_path / "out.xml")
    assert result.code == 2
    assert "named like a PMML file" in " ".join(result.message.replace("│", " ").split())
    assert not list(tmp_path.iterdir())
