"""``onnxgrad augment``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxgrad
from tests.cli.cli_helpers import LAYER, MIXING, WIDE, command, save

X = np.array([[0.1, -0.2, 0.3], [1.0, 0.5, -0.5]])


def outputs(path: Path) -> list[str]:
    return [o.name for o in onnx.load(path).graph.output]


def records(path: Path) -> list[tuple[str, str, str | tuple[str, ...]]]:
    return [(r.kind, r.of, r.wrt) for r in onnxgrad.derivatives(path)]


@pytest.mark.parametrize(
    "words",
    [
        ["--jacobian"],
        ["--jacobian="],
        ["--jacobian", "y:x"],
        ["--jacobian=y:x"],
        ["--jacobian", "y:"],
        ["--jacobian=y"],
        ["--jacobian", ":x"],
    ],
    ids=" ".join,
)
def test_forms_of_an_option(tmp_path: Path, words: list[str]) -> None:
    """The value may be left out, and stand before or behind other words."""
    model, out = save(tmp_path, LAYER), tmp_path / "out.onnx"
    for arguments in ([model, "-o", out, *words], [*words, model, "-o", out], [model, *words, "-o", out]):
        result = command("augment", *arguments)
        assert result.code == 0, result.err
        assert records(out) == [("jacobian", "y", "x")]
        out.unlink()


def test_the_result_runs_and_is_right(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.onnx"
    assert command("augment", model, "-o", out, "--jacobian").code == 0
    expected = onnx.numpy_helper.to_array(onnx.load(model).graph.initializer[0])
    y, jacobian = ort.InferenceSession(out).run(["y", "jac_y_x"], {"x": X})
    np.testing.assert_allclose(y, np.tanh(X @ expected), rtol=1e-14)
    np.testing.assert_allclose(jacobian, (1 - y**2)[:, :, None] * expected.T, rtol=1e-13)


def test_several_at_once(tmp_path: Path) -> None:
    model, out = save(tmp_path, WIDE), tmp_path / "out.onnx"
    result = command(
        "augment", model, "-o", out, "--jacobian", "y:a", "--jacobian", "y:b", "--gradient", "total:", "--vjp=total:a"
    )
    assert result.code == 0
    assert records(out) == [
        ("jacobian", "y", "a"),
        ("jacobian", "y", "b"),
        ("gradient", "total", "a"),
        ("gradient", "total", "b"),
        ("vjp", "total", "a"),
    ]
    for name in ("jac_y_a", "grad_total_b", "adj_a", "adj_total"):
        assert name in result.out


def test_several_names_in_one_option(tmp_path: Path) -> None:
    model, out = save(tmp_path, WIDE), tmp_path / "out.onnx"
    assert command("augment", model, "-o", out, "--jvp", "y,total:b").code == 0
    assert records(out) == [("jvp", "y", "b"), ("jvp", "total", "b")]


def test_names_with_colons(tmp_path: Path) -> None:
    """As TensorFlow gives them."""
    proto = onnx.load(save(tmp_path, LAYER))
    proto.graph.node[0].input[0] = proto.graph.input[0].name = "in:0"
    proto.graph.node[1].output[0] = proto.graph.output[0].name = "Identity:0"
    onnx.save(proto, tmp_path / "colons.onnx")
    out = tmp_path / "out.onnx"
    for words in (["--jacobian", "Identity:0:in:0"], ["--jacobian", "Identity:0"], ["--jacobian", ":in:0"]):
        assert command("augment", tmp_path / "colons.onnx", "-o", out, *words).code == 0, words
        assert records(out) == [("jacobian", "Identity:0", "in:0")]


def test_a_file_with_a_colon_is_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, LAYER, "a:b.onnx")
    monkeypatch.chdir(tmp_path)
    assert command("augment", "--jacobian", "a:b.onnx", "-o", "out.onnx").code == 0


def test_weights_and_values_inside(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.onnx"
    assert command("augment", model, "-o", out, "--jacobian", "h:W", "--full").code == 0
    assert records(out) == [("jacobian", "h", "W")]


def test_options_of_second_order_and_index(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.onnx"
    for index, recorded in (("1", 1), ("1,", None), ("max", "max"), ("-1", -1)):
        result = command("augment", model, "-o", out, "--hessian", "--hvp", "--index", index)
        if recorded is None:
            assert result.code == 2
            assert "is no index" in result.message
        else:
            assert result.code == 0, result.err
            assert {r.index for r in onnxgrad.derivatives(out)} == {recorded}
    assert outputs(out) == ["y", "hess_y_x_x", "hvp_y_x"]


def test_mode_keep_and_seeds(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.onnx"
    for mode in ("forward", "reverse"):
        assert command("augment", model, "-o", out, "--jacobian", "--mode", mode, "--no-keep-outputs").code == 0
        assert outputs(out) == ["jac_y_x"]
        assert [r.mode for r in onnxgrad.derivatives(out)] == [mode]
    assert command("augment", model, "-o", out, "--vjp", "--seeds", "S").code == 0
    assert [d.dim_param for d in onnx.load(out).graph.input[1].type.tensor_type.shape.dim][:1] == ["S"]


def test_external_data(tmp_path: Path) -> None:
    save(
        tmp_path,
        "net (double[N, 300] x) => (double[N, 1] y) <double[300, 1] W = {" + "1," * 299 + "1}> { y = MatMul(x, W) }",
    )
    result = command(
        "augment", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx", "--jacobian", "--external-data", "w.bin"
    )
    assert result.code == 0
    assert (tmp_path / "w.bin").stat().st_size >= 2400
    session = ort.InferenceSession(tmp_path / "out.onnx")
    np.testing.assert_array_equal(session.run(["jac_y_x"], {"x": np.ones((2, 300))})[0], np.ones((2, 1, 300)))


def test_in_place(tmp_path: Path) -> None:
    model = save(tmp_path, LAYER)
    assert command("augment", model, "-o", model, "--jacobian").code == 0
    assert outputs(model) == ["y", "jac_y_x"]
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_json(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.onnx"
    result = command("augment", model, "-o", out, "--jacobian", "--json").json
    assert result["file"] == str(out)
    assert result["nodes"] == len(onnx.load(out).graph.node)
    (record,) = result["derivatives"]
    assert (record["kind"], record["of"], record["wrt"], record["output"], record["batched"]) == (
        "jacobian", "y", "x", "jac_y_x", True,
    )  # fmt: skip


def test_a_derivative_that_is_zero_is_told(tmp_path: Path) -> None:
    model = save(tmp_path, "net (double[N, 2] x, double[N, 2] z) => (double[N, 2] y) { y = Tanh(x) }")
    result = command("augment", model, "-o", tmp_path / "out.onnx", "--jacobian")
    assert result.code == 0
    assert "warning: 'y' does not depend on 'z'; the derivative is zero" in result.message
    assert "zero: 'y' does not depend on 'z'" in result.out


def test_samples_that_mix(tmp_path: Path) -> None:
    model, out = save(tmp_path, MIXING), tmp_path / "out.onnx"
    result = command("augment", model, "-o", out, "--jacobian")
    assert result.code == 2
    assert "ReduceMean" in result.message
    assert not out.exists()
    assert command("augment", model, "-o", out, "--jacobian", "--full").code == 0


def test_nothing_asked_for(tmp_path: Path) -> None:
    result = command("augment", save(tmp_path, LAYER), "-o", tmp_path / "out.onnx")
    assert result.code == 2
    assert "no derivative is asked for" in result.message
    assert not (tmp_path / "out.onnx").exists()
