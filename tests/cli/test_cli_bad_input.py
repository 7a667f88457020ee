"""Bad input: a message that says what, where and what to do, exit code 2, and no file half written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.cli_helpers import LAYER, STRANGE, command, save

#: Makes a model in a folder and returns its path, or just a path.
Make = Callable[[Path], Path]


def absent(folder: Path) -> Path:
    return folder / "absent.onnx"


def a_folder(folder: Path) -> Path:
    return folder


def no_onnx(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_text("this is a text about a model")
    return path


def empty(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(b"")
    return path


def truncated(folder: Path) -> Path:
    path = save(folder, LAYER)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def _with_external_weight(folder: Path, location: str) -> Path:
    path = save(folder, LAYER)
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("double_data")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    onnx.save(model, path)
    return path


def external_data_missing(folder: Path) -> Path:
    return _with_external_weight(folder, "weights.bin")


def external_data_outside(folder: Path) -> Path:
    (folder.parent / "outside.bin").write_bytes(bytes(48))
    return _with_external_weight(folder, "../outside.bin")


def strange(folder: Path) -> Path:
    return save(folder, STRANGE)


def layer(folder: Path) -> Path:
    return save(folder, LAYER)


def integers(folder: Path) -> Path:
    return save(
        folder, "net (double[N, 3] x, int64[N] k) => (double[N, 3] y, int64[N] n) { y = Tanh(x) n = Identity(k) }"
    )


def texts(folder: Path) -> Path:
    return save(
        folder, "net (double[N, 3] x, string[N] s) => (double[N, 3] y, string[N] t) { y = Tanh(x) t = Identity(s) }"
    )


def a_sequence(folder: Path) -> Path:
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["s"])
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 3])
    s = helper.make_tensor_sequence_value_info("s", TensorProto.DOUBLE, ["N", 3])
    return _save(folder, helper.make_graph([node], "g", [x], [s]))


def a_map(folder: Path) -> Path:
    node = helper.make_node("ZipMap", ["x"], ["s"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    s = onnx.ValueInfoProto(name="s")
    s.type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    s.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    return _save(folder, helper.make_graph([node], "g", [x], [s]))


def unknown_rank(folder: Path) -> Path:
    x = onnx.ValueInfoProto(name="x")
    x.type.tensor_type.elem_type = TensorProto.DOUBLE
    y = onnx.ValueInfoProto(name="y")
    y.type.tensor_type.elem_type = TensorProto.DOUBLE
    return _save(folder, helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", [x], [y]))


def _save(folder: Path, graph: onnx.GraphProto) -> Path:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    return folder / "model.onnx"


UNREADABLE = [
    (absent, ["there is no such file", "check the path"]),
    (a_folder, ["is a folder", "give the path of a model file"]),
    (no_onnx, ["is not an ONNX model", "give an .onnx file"]),
    (empty, ["is not an ONNX model", "fetch or export it again"]),
    (truncated, ["is not an ONNX model, or is damaged or cut off"]),
    (external_data_missing, ["'W'", "weights.bin", "there is no such file", "copy it there"]),
    (external_data_outside, ["'W'", "../outside.bin", "not a path inside of the model's folder"]),
]

REFUSED = [
    (strange, ["--jacobian"], ["2 nodes are in the way", "my.domain::Fold", "my.domain::Unfold", "register a rule"]),
    (layer, ["--jacobian", "yy:x"], ["'yy' is not a tensor of the model", "did you mean 'y'"]),
    (layer, ["--jacobian", "y:inp"], ["'inp' is not a tensor of the model", "'x'"]),
    (layer, ["--gradient"], ["has 2 elements per sample", "pass index", "ask for the Jacobian"]),
    (layer, ["--gradient", "--index", "7"], ["index=7 does not pick one element of 'y'"]),
    (integers, ["--jacobian", "n:x"], ["'n' has elements of type int64", "choose a floating-point tensor"]),
    (integers, ["--jacobian", "y:k"], ["'k' has elements of type int64"]),
    (texts, ["--jacobian", "y:s"], ["'s' has elements of type string"]),
    (a_sequence, ["--jacobian", "s:x"], ["'s' is no tensor ('s': sequence of float64)"]),
    (a_sequence, ["--jacobian"], ["no floating-point output"]),
    (a_map, ["--jacobian", "s:x"], ["'s' is no tensor ('s': sequence)"]),
    (unknown_rank, ["--jacobian", "y:x"], ["'y' has no known rank", "name another tensor"]),
]


def _names(functions: object) -> str:
    return getattr(functions, "__name__", "") or ""


@pytest.mark.parametrize(("make", "says"), UNREADABLE, ids=_names)
@pytest.mark.parametrize(
    "words", [["inspect"], ["augment", "--jacobian"], ["run", "--data", "x.npy"], ["check"]], ids=lambda w: w[0]
)
def test_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make, says: list[str], words: list[str]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((2, 3)))
    target = ["-o", tmp_path / "out.npz"] if words[0] in ("augment", "run") else []
    _is_refused(command(words[0], make(folder), *words[1:], *target), says)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(("make", "words", "says"), REFUSED, ids=lambda v: v.__name__ if callable(v) else " ".join(v))
def test_no_derivative(tmp_path: Path, make: Make, words: list[str], says: list[str]) -> None:
    model = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    _is_refused(command("augment", model, "-o", tmp_path / "out.onnx", *words), says)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("make", [a_sequence, a_map, unknown_rank, texts, integers, strange], ids=_names)
def test_inspect_shows_what_can_be_shown(tmp_path: Path, make: Make) -> None:
    result = command("inspect", make(tmp_path))
    assert result.code == 0
    assert "inputs and outputs" in result.out


def test_a_file_that_is_there_stays_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    assert command("augment", save(tmp_path, STRANGE), "-o", out, "--jacobian").code == 2
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize("suffix", ["onnx", "csv", "npz"])
def test_a_place_that_cannot_be_written(tmp_path: Path, suffix: str) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    words = ["augment", "--jacobian"] if suffix == "onnx" else ["run", "--data", tmp_path / "x.npy"]
    result = command(words[0], save(tmp_path, LAYER), *words[1:], "-o", tmp_path / "no" / f"out.{suffix}")
    _is_refused(result, ["there is no folder", "create it first"])
    folder = tmp_path / f"folder.{suffix}"
    folder.mkdir()
    _is_refused(command(words[0], tmp_path / "model.onnx", *words[1:], "-o", folder), ["is a folder"])


def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.csv"
    (tmp_path / "broken.npz").write_bytes(b"PK broken")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, says in [
        ("absent.csv", "there is no such file"),
        ("absent.npz", "there is no such file"),
        ("x.xlsx", "ends in .csv or .npz or .npy"),
        ("broken.npz", "cannot be read as numpy's arrays"),
        ("objects.npy", "cannot be read as numpy's arrays"),
        ("empty.csv", "is empty"),
        ("binary.csv", "cannot be read as a table"),
    ]:
        _is_refused(command("run", model, "--data", tmp_path / name, "-o", out), [says])
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    _is_refused(
        command("run", model, "--data", tmp_path / "x.npy", "-o", tmp_path / "out.txt"), ["ends in .csv or .npz"]
    )
    np.save(tmp_path / "x.npy", np.zeros((2, 4)))
    _is_refused(command("run", model, "--data", tmp_path / "x.npy", "-o", out), ["was given shape [2, 4]"])
    assert not out.exists()


def test_a_model_that_onnxruntime_refuses(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    result = command("run", save(tmp_path, STRANGE), "--data", tmp_path / "x.npy", "-o", tmp_path / "out.csv")
    _is_refused(result, ["my.domain", "onnxruntime"])
    assert not (tmp_path / "out.csv").exists()


def test_a_provider_that_is_not_there(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    words = ["--data", tmp_path / "x.npy", "-o", tmp_path / "out.csv", "--provider", "NoSuchProvider"]
    _is_refused(command("run", save(tmp_path, LAYER), *words), ["NoSuchProvider", "CPUExecutionProvider"])


def test_usage(tmp_path: Path) -> None:
    model = save(tmp_path, LAYER)
    for words in (
        ["nonsense"],
        ["augment", model, "--jacobian"],
        ["augment", model, "-o", tmp_path / "out.onnx", "--jacobian", "--mode", "sideways"],
        ["inspect"],
        ["inspect", model, "--nonsense"],
        ["run", model, "-o", tmp_path / "out.csv"],
    ):
        result = command(*words)
        assert result.code == 2, words
        assert "Usage" in result.err
        assert "Traceback" not in result.err


def _is_refused(result: object, says: list[str]) -> None:
    assert result.code == 2, result  # type: ignore[attr-defined]
    message = result.message  # type: ignore[attr-defined]
    assert message.startswith(("error: ", "warning: ")), message
    assert "Traceback" not in message
    for text in says:
        assert text in message, message
