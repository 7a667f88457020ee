"""The command line as a process of its own: exit codes, what goes where, and that nothing is cut off in a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx

from tests.cli.cli_helpers import LAYER, STRANGE, save


def onnxgrad(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnxgrad", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        check=False,
    )


def test_fine(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.onnx"
    result = onnxgrad("augment", model, "-o", out, "--jacobian", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["file"] == str(out)
    assert len(onnx.load(out).graph.output) == 2


def test_an_error_is_a_message_without_a_traceback(tmp_path: Path) -> None:
    result = onnxgrad("augment", save(tmp_path, STRANGE), "-o", tmp_path / "out.onnx", "--jacobian")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: 2 nodes are in the way of the derivative:\n")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 3
    assert not (tmp_path / "out.onnx").exists()


def test_nothing_is_cut_off_in_a_narrow_environment(tmp_path: Path) -> None:
    name = "a_name_" * 40
    model = save(tmp_path, f"net (double[N, 3] {name}) => (double[N, 3] y) {{ y = Tanh({name}) }}")
    result = onnxgrad("inspect", model, COLUMNS="40")
    assert result.returncode == 0
    assert result.stdout.count(name) >= 2
    assert "\x1b[" not in result.stdout


def test_an_encoding_without_the_characters_of_tables(tmp_path: Path) -> None:
    result = onnxgrad("inspect", save(tmp_path, LAYER), PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "float64" in result.stdout


def test_version() -> None:
    result = onnxgrad("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("onnxgrad 0.")
