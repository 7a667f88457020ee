"""``onnxgrad lower``, and the other commands on models with the standard's `Gradient`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from tests.cli.cli_helpers import LAYER, command, save

MODEL = """
<ir_version: 10, opset_import: ["": 18, "ai.onnx.preview.training": 1]>
net (double[3] x) => (double y, double[3] dx) <double[3] w = {0.5, -1, 2}>
{
  p = Mul(x, w)
  s = Sin(p)
  y = ReduceSum <keepdims = 0> (s)
  dx = ai.onnx.preview.training.Gradient <xs = ["x"], y = "y"> (x)
}
"""
X, W = np.array([0.1, -0.2, 0.3]), np.array([0.5, -1.0, 2.0])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(parser.parse_model(MODEL), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_lower(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out.onnx"
    result = command("lower", model, "-o", out)
    assert result.code == 0, result.err
    assert result.out.strip() == f"{out}: {len(onnx.load(out).graph.node)} nodes"
    (dx,) = ort.InferenceSession(out).run(["dx"], {"x": X})
    np.testing.assert_allclose(dx, W * np.cos(X * W), rtol=1e-14)
    assert command("lower", model, "-o", out, "--json").json == {
        "file": str(out),
        "nodes": len(onnx.load(out).graph.node),
    }


def test_augment_lowers_first(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out.onnx"
    assert command("augment", model, "-o", out, "--jacobian", "dx:x").code == 0
    (jacobian,) = ort.InferenceSession(out).run(["jac_dx_x"], {"x": X})
    np.testing.assert_allclose(jacobian, np.diag(-W * W * np.sin(X * W)), rtol=1e-14)


def test_check_lowers_first(model: Path) -> None:
    result = command("check", model, "--json")
    assert result.code == 0, result.err
    assert result.json["verdict"] == "right", result.out


def test_external_data(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out.onnx"
    assert command("lower", model, "-o", out, "--external-data", "weights").code == 0
    np.testing.assert_allclose(ort.InferenceSession(out).run(["dx"], {"x": X})[0], W * np.cos(X * W), rtol=1e-14)


def test_nothing_to_lower(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert command("lower", save(tmp_path, LAYER), "-o", out).code == 0
    assert [node.op_type for node in onnx.load(out).graph.node] == ["MatMul", "Tanh"]


def test_bad_node(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    onnx.save(parser.parse_model(MODEL.replace('xs = ["x"]', 'xs = ["q"]')), bad)
    result = command("lower", bad, "-o", tmp_path / "out.onnx")
    assert result.code == 2
    assert "'q' is not a tensor of the graph of node" in result.message
    assert not (tmp_path / "out.onnx").exists()
