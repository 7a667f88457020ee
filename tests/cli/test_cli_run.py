"""``onnxgrad run``."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.cli.cli_helpers import COLUMNS, LAYER, WIDE, command, save

X = np.array([[0.1, -0.2, 0.3], [1.0, 0.5, -0.5], [2.0, -1.5, 0.25], [0.0, 0.0, 1e-9]])


def write_csv(path: Path, names: list[str] | None, rows: np.ndarray | list[list[object]], delimiter: str = ",") -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([*([names] if names else []), *(list(row) for row in rows)])
    return path


def read_csv(path: Path) -> tuple[list[str], np.ndarray]:
    with open(path, newline="") as file:
        names, *rows = csv.reader(file)
    return names, np.array(rows, dtype=np.float64)


def layer(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and Jacobian of LAYER."""
    w = np.array([[0.5, -0.25], [1, 0.75], [-1, 0.125]])
    y = np.tanh(x @ w)
    return y, (1 - y**2)[:, :, None] * w.T


def test_table_in_table_out(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.csv"
    data = write_csv(tmp_path / "x.csv", ["anything", "at", "all"], X)
    result = command("run", model, "--data", data, "-o", out, "--jacobian")
    assert result.code == 0, result.err
    assert result.err == ""
    names, rows = read_csv(out)
    assert names == ["y[0]", "y[1]", *(f"jac_y_x[{i},{j}]" for i in range(2) for j in range(3))]
    y, jacobian = layer(X)
    np.testing.assert_allclose(rows, np.concatenate([y, jacobian.reshape(4, 6)], axis=1), rtol=1e-13)
    summary = [" ".join(line.split()) for line in result.out.splitlines()]
    assert any(line.startswith("jac_y_x 4 x 2 x 3 float64") for line in summary)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_by_name_in_any_order(tmp_path: Path, delimiter: str) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.csv"
    mixed = write_csv(tmp_path / "x.csv", ["x[2]", "id", "x[0]", "x[1]"], np.c_[X[:, 2], X[:, 0], X[:, :2]], delimiter)
    assert command("run", model, "--data", mixed, "-o", out).code == 0
    np.testing.assert_allclose(read_csv(out)[1], layer(X)[0], rtol=1e-13)


def test_a_table_without_names(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.csv"
    assert command("run", model, "--data", write_csv(tmp_path / "x.csv", None, X), "-o", out).code == 0
    np.testing.assert_allclose(read_csv(out)[1], layer(X)[0], rtol=1e-13)


def test_one_column_for_each_input(tmp_path: Path) -> None:
    model, out = save(tmp_path, COLUMNS), tmp_path / "out.csv"
    data = write_csv(tmp_path / "x.csv", ["mass", "day", "speed"], [[2, 1, 3], [4, 2, 5]])
    assert command("run", model, "--data", data, "-o", out, "--gradient").code == 0
    names, rows = read_csv(out)
    assert names == ["energy", "grad_energy_speed", "grad_energy_mass"]
    np.testing.assert_allclose(rows, [[9, 6, 4.5], [50, 20, 12.5]])


def test_several_wide_inputs(tmp_path: Path) -> None:
    """As a table with all elements named, and as arrays by name."""
    model, rng = save(tmp_path, WIDE), np.random.default_rng(0)
    a, b = rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    header = ["a[0]", "a[1]", "b[0]", "b[1]", "b[2]"]
    table = write_csv(tmp_path / "x.csv", header, np.concatenate([a, b], axis=1))
    np.savez(tmp_path / "x.npz", b=b, a=a)
    for data in (table, tmp_path / "x.npz"):
        out = tmp_path / "out.npz"
        assert command("run", model, "--data", data, "-o", out, "--gradient", "total:").code == 0
        with np.load(out) as found:
            assert set(found) == {"y", "total", "grad_total_a", "grad_total_b"}
            np.testing.assert_allclose(found["grad_total_b"], 2 * b, rtol=1e-13)
            np.testing.assert_allclose(found["total"], (a**2).sum(axis=1) + (b**2).sum(axis=1), rtol=1e-13)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_numpy_files(tmp_path: Path, name: str) -> None:
    """The only input gets the only array, whatever that is called."""
    model, out = save(tmp_path, LAYER), tmp_path / "out.npz"
    np.save(tmp_path / name, X) if name.endswith("npy") else np.savez(tmp_path / name, X)
    assert (
        command("run", model, "--data", tmp_path / name, "-o", out, "--jacobian", "--hessian", "--index", "0").code == 0
    )
    with np.load(out) as found:
        np.testing.assert_allclose(found["jac_y_x"], layer(X)[1], rtol=1e-13)
        assert found["hess_y_x_x"].shape == (4, 3, 3)


def test_products_take_their_direction_from_the_data(tmp_path: Path) -> None:
    model, out, rng = save(tmp_path, LAYER), tmp_path / "out.npz", np.random.default_rng(0)
    ct, t = rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    np.savez(tmp_path / "x.npz", x=X, adj_y=ct, fwd_x=t)
    assert (
        command("run", model, "--data", tmp_path / "x.npz", "-o", out, "--vjp", "--jvp", "--no-keep-outputs").code == 0
    )
    jacobian = layer(X)[1]
    with np.load(out) as found:
        assert set(found) == {"adj_x", "fwd_y"}
        np.testing.assert_allclose(found["adj_x"], np.einsum("nyx,ny->nx", jacobian, ct), rtol=1e-12)
        np.testing.assert_allclose(found["fwd_y"], np.einsum("nyx,nx->ny", jacobian, t), rtol=1e-12)


def test_an_augmented_model_runs_as_it_is(tmp_path: Path) -> None:
    model, derived, out = save(tmp_path, LAYER), tmp_path / "derived.onnx", tmp_path / "out.csv"
    command("augment", model, "-o", derived, "--jacobian")
    assert command("run", derived, "--data", write_csv(tmp_path / "x.csv", None, X), "-o", out).code == 0
    np.testing.assert_allclose(read_csv(out)[1][:, 2:], layer(X)[1].reshape(4, 6), rtol=1e-13)


def test_table_of_float32_keeps_every_digit(tmp_path: Path) -> None:
    model, out = save(tmp_path, "net (float[N, 1] x) => (float[N, 1] y) { y = Exp(x) }"), tmp_path / "out.csv"
    data = write_csv(tmp_path / "x.csv", ["x"], [[0.1], [-30], [80]])
    assert command("run", model, "--data", data, "-o", out).code == 0
    y = onnxgrad.load(model)(np.float32([[0.1], [-30], [80]]))
    np.testing.assert_array_equal(read_csv(out)[1].astype(np.float32), y)


def test_integers_texts_and_missing_numbers(tmp_path: Path) -> None:
    text = """
    net (int64[N] k, string[N] s, double[N] x) => (int64[N] double_k, string[N] same, double[N] y)
    <int64 two = {2}>
    { double_k = Mul(k, two) same = Identity(s) y = Tanh(x) }
    """
    model, out = save(tmp_path, text), tmp_path / "out.csv"
    data = write_csv(tmp_path / "x.csv", ["k", "s", "x"], [[3, "a,b", 0.5], [-4, "", ""]])
    result = command("run", model, "--data", data, "-o", out, "--json")
    assert result.code == 0, result.err
    with open(out, newline="") as file:
        rows = list(csv.reader(file))
    assert [row[:2] for row in rows] == [["double_k", "same"], ["6", "a,b"], ["-8", ""]]
    assert rows[0][2] == "y"
    assert float(rows[1][2]) == pytest.approx(np.tanh(0.5), rel=1e-14)
    assert rows[2][2] == "nan"
    assert [r["not_finite"] for r in result.json["results"]] == [0, None, 1]
    assert [r["type"] for r in result.json["results"]] == ["int64", "string", "float64"]
    write_csv(data, ["k", "s", "x"], [[3.5, "a", 1]])
    assert "sample 1: '3.5' is not an integer" in command("run", model, "--data", data, "-o", out).message


def test_maps_are_left_out(tmp_path: Path) -> None:
    node = onnx.helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    proto = onnx.load(save(tmp_path, "net (float[N, 2] x) => (float[N, 2] p) { p = Tanh(x) }"))
    proto.graph.node.append(node)
    proto.graph.output.append(onnx.ValueInfoProto(name="z"))
    proto.graph.output[1].type.sequence_type.elem_type.map_type.key_type = onnx.TensorProto.INT64
    proto.graph.output[
        1
    ].type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(proto, tmp_path / "map.onnx")
    np.save(tmp_path / "x.npy", np.zeros((2, 2), np.float32))
    out = tmp_path / "out.npz"
    result = command("run", tmp_path / "map.onnx", "--data", tmp_path / "x.npy", "-o", out, "--jacobian", "p:x")
    assert result.code == 0, result.err
    assert "warning: 'z' is no array" in result.message
    with np.load(out) as found:
        assert set(found) == {"p", "jac_p_x"}


def test_json(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.npz"
    np.save(tmp_path / "x.npy", X)
    found = command("run", model, "--data", tmp_path / "x.npy", "-o", out, "--jacobian", "--json").json
    jacobian = layer(X)[1]
    assert [r["name"] for r in found["results"]] == ["y", "jac_y_x"]
    assert found["results"][1]["shape"] == [4, 2, 3]
    assert found["results"][1]["largest"] == pytest.approx(jacobian.max())
    assert [r["kind"] for r in found["derivatives"]] == ["jacobian"]


def test_what_is_not_one_row_per_sample_is_no_table(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.csv"
    data = write_csv(tmp_path / "x.csv", None, X)
    result = command("run", model, "--data", data, "-o", out, "--jacobian", "--full")
    assert result.code == 2
    assert "'jac_y_x' does not have one row per sample" in result.message
    assert command("run", model, "--data", data, "-o", tmp_path / "out.npz", "--jacobian", "--full").code == 0
    fixed = save(tmp_path, LAYER.replace("N", "4"), "fixed.onnx")
    assert command("run", fixed, "--data", data, "-o", out, "--jacobian").code == 2
    assert not out.exists()
    assert command("run", fixed, "--data", data, "-o", out, "--jacobian", "--batched").code == 0
    np.testing.assert_allclose(read_csv(out)[1][:, 2:], layer(X)[1].reshape(4, 6), rtol=1e-13)


def test_rows_that_turn_out_different(tmp_path: Path) -> None:
    """The size of the second output is not known before the run."""
    text = """
    net (double[N] x) => (double[N] y, double[M] z)
    <double zero = {0}>
    { y = Tanh(x) positive = Greater(x, zero) z = Compress<axis = 0>(x, positive) }
    """
    model, out = save(tmp_path, text), tmp_path / "out.csv"
    data = write_csv(tmp_path / "x.csv", ["x"], [[1], [-1], [2]])
    result = command("run", model, "--data", data, "-o", out)
    assert result.code == 2
    assert "'z' does not have one row per sample" in result.message
    assert not out.exists()


@pytest.mark.parametrize(
    ("names", "rows", "says"),
    [
        (["a", "b"], X[:, :2], "The model takes 3 columns: x[0], x[1], x[2]. The file has 2: a, b."),
        (["a", "b", "c", "d"], np.c_[X, X[:, 0]], "The file has 4: a, b, c, d."),
        (["x[0]", "x[1]", "other"], X, "The file has 3: x[0], x[1], other."),
        (["a", "a", "b"], X, "has several columns 'a'"),
        (None, X[:, :2], "The model takes 3 columns"),
        (["a", "b", "c"], [[1, 2, "three"]], "sample 1: 'three' is not a number"),
        (["a", "b", "c"], [[1, 2, 3], [1, 2]], "row 3 has 2 cells, and the first one has 3"),
    ],
    ids=["few", "many", "half-named", "double", "nameless", "text", "ragged"],
)
def test_columns_that_do_not_match(tmp_path: Path, names: list[str] | None, rows: object, says: str) -> None:
    model = save(tmp_path, LAYER)
    data = write_csv(tmp_path / "x.csv", names, rows)  # type: ignore[arg-type]
    result = command("run", model, "--data", data, "-o", tmp_path / "out.csv")
    assert result.code == 2
    assert says in result.message
    assert not (tmp_path / "out.csv").exists()


def test_columns_missing_for_several_inputs(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "x.csv", ["speed", "weight"], [[1, 2]])
    result = command("run", save(tmp_path, COLUMNS), "--data", data, "-o", tmp_path / "out.csv")
    assert result.code == 2
    assert "The model takes 2 columns: speed, mass. The file has 2: speed, weight." in result.message


def test_arrays_that_do_not_match(tmp_path: Path) -> None:
    model, out = save(tmp_path, WIDE), tmp_path / "out.npz"
    cases = [
        ({"a": np.ones((2, 2)), "c": np.ones((2, 3))}, "'c' is not an input of the model"),
        ({"a": np.ones((2, 2))}, "has no arrays for b"),
        ({"a": np.ones((2, 2)), "b": np.ones((2, 4))}, "with 4 instead of 3 on axis 1"),
        ({"a": np.ones((2, 2)), "b": np.ones((3, 3))}, "onnxruntime failed at node 'Concat'"),
        ({"a": np.ones((2, 2)), "b": np.array([["x"] * 3] * 2)}, "input 'b' takes float64"),
    ]
    for arrays, says in cases:
        np.savez(tmp_path / "x.npz", **arrays)
        result = command("run", model, "--data", tmp_path / "x.npz", "-o", out, "--jacobian")
        assert result.code == 2, arrays
        assert says in result.message
        assert not out.exists()
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    assert "holds one array" in command("run", model, "--data", tmp_path / "x.npy", "-o", out).message


def test_a_result_larger_than_the_bound(tmp_path: Path) -> None:
    model, out = save(tmp_path, LAYER), tmp_path / "out.npz"
    np.save(tmp_path / "x.npy", np.zeros((20_000, 3)))
    result = command("run", model, "--data", tmp_path / "x.npy", "-o", out, "--jacobian", "--max-bytes", 10_000)
    assert result.code == 2
    assert "bytes" in result.message or "MB" in result.message
    assert not out.exists()
