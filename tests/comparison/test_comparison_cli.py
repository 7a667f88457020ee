"""``onnxgrad compare``, ``record`` and ``verify``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.cli_helpers import command
from tests.comparison.comparison_models import X, network, parsed, without_rule


def saved(folder: Path, model: onnx.ModelProto, name: str) -> Path:
    onnx.save(model, folder / name)
    return folder / name


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model, one with a planted difference, and data."""
    data = tmp_path / "x.csv"
    np.savetxt(data, X, delimiter=",", header="a,b,c,d", comments="")
    return saved(tmp_path, network(), "a.onnx"), saved(tmp_path, network(planted=1e-4), "b.onnx"), data


def test_agreement(models: tuple[Path, Path, Path]) -> None:
    a, _, data = models
    found = command("compare", a, a, "--data", data)
    assert (found.code, found.err) == (0, "")
    assert "2 identical" in found.out
    assert "inputs: the given data" in found.out
    assert command("compare", a, a).code == 0


def test_a_planted_difference(models: tuple[Path, Path, Path]) -> None:
    a, b, data = models
    found = command("compare", a, b, "--data", data)
    assert found.code == 1
    assert "2 differs" in found.out
    assert "y moved: y[" in found.out
    (line,) = [line for line in found.out.splitlines() if line.startswith("y:x moved: ")]
    assert "x[2]" in line
    assert command("compare", a, b, "--data", data, "--rtol", "0.1").code == 0
    assert command("compare", a, b, "--data", data, "--rtol", "y=0.1", "--rtol", "y:x=0.1").code == 0
    assert command("compare", a, b, "--data", data, "--rtol", "y=0.1").code == 1
    assert command("compare", a, b, "--data", data, "--rtol", "y=0.1", "--values-only").code == 0


def test_data_by_the_names_of_either_model(tmp_path: Path) -> None:
    text = "net (float[N] %s, float[N] %s) => (float[N] y) { y = Mul(%s, %s) }"
    a, b = (saved(tmp_path, parsed(text % (*n, *n)), f"{n}.onnx") for n in ("uv", "pq"))
    for names, code in (("uv", 0), ("pq", 0), ("up", 2)):
        np.savez(tmp_path / "data.npz", **{name: np.ones(3, np.float32) for name in names})
        found = command("compare", a, b, "--data", tmp_path / "data.npz")
        assert found.code == code, found.err
    assert "'p' is not an input of the model; there is 'u' or 'v'" in found.message


def test_no_samples(models: tuple[Path, Path, Path]) -> None:
    a, b, data = models
    data.write_text("a,b,c,d\n")
    found = command("compare", a, b, "--data", data)
    assert found.code == 2
    assert "no samples in the data" in found.message


def test_json(models: tuple[Path, Path, Path]) -> None:
    a, b, data = models
    found = command("compare", a, b, "--data", data, "--json", "--worst", 2)
    assert found.code == 1
    assert found.json["verdict"] == "differs"
    y, jac = found.json["rows"]
    assert (y["kind"], jac["kind"], jac["shape"]) == ("output", "jacobian", [6, 3, 4])
    assert len(y["worst"]) == 2
    assert y["absolute"]["largest"] > y["absolute"]["typical"] > 0


def test_plot(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, _ = models
    for other, code in ((a, 0), (b, 1)):
        for name in ("p.png", "p.svg"):
            assert command("compare", a, other, "--plot", tmp_path / name).code == code
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert "y:x" in (tmp_path / "p.svg").read_text() or "<svg" in (tmp_path / "p.svg").read_text()
    found = command("compare", a, b, "--plot", tmp_path / "p.txt")
    assert found.code == 2
    assert "ends in .png" in found.message


def test_without_matplotlib(models: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = command("compare", models[0], models[0], "--plot", tmp_path / "p.png")
    assert (found.code, found.out) == (2, "")
    assert "pip install 'onnxgrad[plot]'" in found.message
    assert not (tmp_path / "p.png").exists()


def test_record_and_verify(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, data = models
    golden = tmp_path / "golden.npz"
    found = command("record", a, "--data", data, "-o", golden, "--rtol", "y=0.1")
    assert (found.code, found.err) == (0, "")
    assert "golden.npz: written" in found.out
    assert command("verify", a, golden).code == 0
    found = command("verify", b, golden)
    assert found.code == 1
    assert "y:x moved" in found.out
    assert "y moved" not in found.out
    assert command("verify", b, golden, "--rtol", 0.1).code == 0
    found = command("verify", b, golden, "--json", "--plot", tmp_path / "p.png")
    assert (found.code, found.json["rows"][0]["verdict"]) == (1, "agrees")
    assert (tmp_path / "p.png").exists()
    found = command("record", a, "-o", golden, "--json")
    assert [t["kind"] for t in found.json["tensors"]] == ["output", "jacobian"]


def test_refused_derivatives(tmp_path: Path) -> None:
    both = parsed("net (float[N, 3, 3] x) => (float[N] y, float[N, 3, 3] z) { y = Det(x) z = Sin(x) }")
    one = parsed("net (float[N, 3, 3] x) => (float[N] y) { y = Det(x) }")
    first, second = saved(tmp_path, both, "both.onnx"), saved(tmp_path, one, "one.onnx")
    with without_rule("Det"):
        found = command("compare", first, first)
        assert found.code == 0
        assert "y:x: in " in found.out
        found = command("compare", second, second)
        assert found.code == 2
        assert "Det" in found.message
        found = command("record", first, "-o", tmp_path / "golden.npz")
        assert found.code == 0
        assert "warning: y:x is refused" in found.message
        assert command("record", second, "-o", tmp_path / "other.npz").code == 2
    assert not (tmp_path / "other.npz").exists()


BAD = {
    "no second model": ("compare a.onnx absent.onnx", "absent.onnx"),
    "no data": ("compare a.onnx b.onnx --data absent.csv", "no such file"),
    "data that do not fit": ("compare a.onnx b.onnx --data narrow.csv", "do not match the model's inputs"),
    "another signature": ("compare a.onnx other.onnx", "only models of one signature can be compared"),
    "a tolerance that is none": ("compare a.onnx b.onnx --rtol y=high", "is no tolerance"),
    "a tolerance below zero": ("record a.onnx -o g.npz --atol -1", "is no tolerance"),
    "a tolerance of no tensor": ("compare a.onnx b.onnx --rtol z=1", "'z' is not a tensor that is compared"),
    "no such output": ("compare a.onnx b.onnx --of z", "'z' is not an output"),
    "a golden file of no kind": ("record a.onnx -o g.json", "ends in .npz"),
    "a folder that is not there": ("record a.onnx -o absent/g.npz", "no folder"),
    "no golden file": ("verify a.onnx absent.npz", "make it with `onnxgrad record`"),
    "no numpy file": ("verify a.onnx narrow.csv", "cannot be read as a golden file"),
    "a golden file of another model": ("verify other.onnx golden.npz", "was made from another model"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str, models: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, words = BAD[what]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "narrow.csv").write_text("a,b\n1,2\n")
    saved(tmp_path, parsed("net (float[N, 5] x) => (float[N, 5] y) { y = Neg(x) }"), "other.onnx")
    if "golden" in line:
        assert command("record", "a.onnx", "-o", "golden.npz").code == 0
    before = sorted(tmp_path.iterdir())
    found = command(*line.split())
    assert found.code == 2
    assert words in found.message.replace("│ ", "")
    assert found.out == ""
    assert sorted(tmp_path.iterdir()) == before
