"""Open sizes that become numbers, for models in which they decide how many axes a tensor has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.cli.cli_helpers import command
from tests.flow import parsed, run

SQUEEZED = """g (double[batch,K] x, double[batch,K] w) => (double[M] y) <int64[1] zero = {0}> {
    s = Squeeze(x) t = Sin(s) v = Squeeze(w) y = Mul(t, v)
}"""


def test_rank_that_depends_on_a_size() -> None:
    model = parsed(SQUEEZED)
    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"onnxgrad\.fix_sizes"):
        onnxgrad.vjp(model)
    fixed = onnxgrad.fix_sizes(model, {"batch": 1, "K": 3})
    x, w, ct = np.array([[0.1, 0.2, 0.3]]), np.array([[1.0, 2.0, 3.0]]), np.array([1.0, -1.0, 2.0])
    found = run(onnxgrad.vjp(fixed, wrt="x"), {"x": x, "w": w, "adj_y": ct})
    np.testing.assert_allclose(found["adj_x"], [ct * w[0] * np.cos(x[0])], rtol=1e-15)
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "K"]


def test_sizes_by_input_and_axis() -> None:
    fixed = onnxgrad.fix_sizes(parsed("g (double[?,N] x) => (double[?,N] y) { y = Sin(x) }"), {"x[0]": 2, "x[1]": 3})
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [2, 3]
    assert run(fixed, {"x": np.zeros((2, 3))})["y"].shape == (2, 3)


def test_batches_that_are_one() -> None:
    """tf2onnx numbers the batches of a model with several inputs, so nothing says that they are one."""
    model = parsed("g (double[A,2] x, double[B,2] z) => (double[A,2] y) { t = Add(x, z) y = Sin(t) }")
    with pytest.raises(onnxgrad.MixedSamplesError, match=r"--size x\[0\]=batch --size z\[0\]=batch"):
        onnxgrad.jacobian(model)
    x, z = np.arange(6.0).reshape(3, 2), np.ones((3, 2))
    slopes = np.cos(x + z)[:, :, None] * np.eye(2)
    for sizes in ({"B": "A"}, {"x[0]": "batch", "z[0]": "batch"}, {"A": "B"}):
        found = run(onnxgrad.jacobian(onnxgrad.fix_sizes(model, sizes)), {"x": x, "z": z})
        np.testing.assert_allclose(found["jac_y_x"], slopes, rtol=1e-15)  # two roundings of a cosine
        np.testing.assert_allclose(found["jac_y_z"], slopes, rtol=1e-15)  # two roundings of a cosine
    onnx.checker.check_model(onnxgrad.fix_sizes(model, {"B": "A"}), full_check=True)


@pytest.mark.parametrize(
    ("sizes", "error", "words"),
    [
        (
            {"bach": 1},
            onnxgrad.UnknownNameError,
            "'bach' is not an open size of the model's inputs; did you mean 'batch'",
        ),
        ({"x[2]": 1}, onnxgrad.UnknownNameError, "not an open size"),
        ({"batch": -1}, onnxgrad.TensorTypeError, "at least 0"),
        ({"batch": 1.5}, onnxgrad.TensorTypeError, "at least 0"),
        ({"batch": "2*K"}, onnxgrad.TensorTypeError, "or a name"),
        ({"batch": True}, onnxgrad.TensorTypeError, "at least 0"),
        ({"batch": 1, "w[0]": 2}, onnxgrad.TensorTypeError, "is to be 1 and 2"),
    ],
)
def test_bad_sizes(sizes: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        onnxgrad.fix_sizes(parsed(SQUEEZED), sizes)


def test_command(tmp_path: Path) -> None:
    onnx.save(parsed(SQUEEZED), tmp_path / "model.onnx")
    out = tmp_path / "fixed.onnx"
    result = command("fix", tmp_path / "model.onnx", "-o", out, "--size", "batch=1", "--size", "K=3")
    assert result.code == 0, result.err
    assert result.out.strip() == f"{out}: x (1×3), w (1×3)"
    assert command("fix", out, "-o", out, "--size", "batch=1").code == 2
    result = command("fix", tmp_path / "model.onnx", "-o", tmp_path / "none.onnx", "--size", "batch")
    assert result.code == 2
    assert "NAME=N" in result.err
    assert not (tmp_path / "none.onnx").exists()
    assert command("fix", tmp_path / "model.onnx", "-o", out, "--size", "batch=K").code == 0
    fields = command("fix", tmp_path / "model.onnx", "-o", out, "--size", "batch=1", "--json").json
    assert fields["inputs"] == {"x": ["1", "K"], "w": ["1", "K"]}
