"""``onnxgrad import``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxgrad
from tests.cli.cli_helpers import command

FOLDER = Path(__file__).parents[2] / "fixtures" / "matlab"
RECORDED = np.load(FOLDER / "recorded.npz")


@pytest.mark.parametrize("file", ["static.m", "static.mat"])
def test_import(tmp_path: Path, file: str) -> None:
    out = tmp_path / "net.onnx"
    result = command("import", FOLDER / file, "-o", out)
    assert (result.code, result.err) == (0, "")
    assert result.out.strip().endswith(f"{out}: 14 nodes")
    assert "x1" in result.out
    assert "N x 3" in result.out
    onnx.checker.check_model(onnx.load(out), full_check=True)
    (y,) = ort.InferenceSession(out).run(["y1"], {"x1": RECORDED["static/x1"]})
    np.testing.assert_allclose(y, RECORDED["static/y1"], rtol=1e-12)
    assert command("augment", out, "-o", out, "--jacobian", "y1:x1").code == 0
    (jacobian,) = ort.InferenceSession(out).run(["jac_y1_x1"], {"x1": RECORDED["static/x1"]})
    np.testing.assert_allclose(jacobian, RECORDED["static/jac_y1_x1"], rtol=1e-11)


def test_json_and_float32(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    found = command(
        "import", FOLDER / "narx_closed.mat", "-o", out, "--variable", "net", "--dtype", "float32", "--json"
    )
    ports = [("x1", 2), ("xi1", 4), ("ai2", 3)]
    assert found.json == {
        "file": str(out),
        "nodes": len(onnx.load(out).graph.node),
        "inputs": [{"name": name, "dtype": "float32", "shape": ["N", size]} for name, size in ports],
        "outputs": [{"name": "y1", "dtype": "float32", "shape": ["N", 1]}],
    }
    assert all(port.dtype == np.float32 for port in onnxgrad.load(out).inputs)


BAD = {
    "a file that is none": (["none.m"], "there is no such file"),
    "another kind of file": (["net.onnx"], "is no file that can be imported"),
    "another variable": ([str(FOLDER / "static.mat"), "--variable", "nett"], "there is the network 'net'"),
    "a variable of a function": ([str(FOLDER / "static.m"), "--variable", "net"], "of use only with a .mat file"),
    "another type": ([str(FOLDER / "static.m"), "--dtype", "float16"], "float16"),
    "no network": (["script.m"], "no file that MATLAB's genFunction wrote"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.m").write_text("x = 1;\n")
    arguments, says = BAD[what]
    result = command("import", *arguments, "-o", "out.onnx")
    assert result.code == 2
    assert says in result.message
    assert "Traceback" not in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["script.m"]


def test_what_is_there_stays_where_it_cannot_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    out.write_bytes(b"as before")
    (tmp_path / "bad.m").write_text((FOLDER / "static.m").read_text()[:700])
    assert command("import", tmp_path / "bad.m", "-o", out).code == 2
    assert out.read_bytes() == b"as before"
    result = command("import", FOLDER / "static.m", "-o", tmp_path / "bad.m")
    assert result.code == 2
    assert "named like a MATLAB file" in " ".join(result.message.replace("│", " ").split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.m", "net.onnx"]
