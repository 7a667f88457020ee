"""``onnxgrad.record`` and ``onnxgrad.verify``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import onnxgrad
from onnxgrad.comparison import read_golden
from onnxgrad.errors import FeedError
from tests.comparison.comparison_models import APART, X, function, jacobian, network, parsed, without_rule


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    golden = onnxgrad.record(network("double"), {"x": X}, path)
    values = {(t.of, t.wrt): t.value for t in golden.tensors}
    np.testing.assert_array_equal(golden.feeds["x"], X)
    np.testing.assert_allclose(values["y", None], function(X), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(values["y", "x"], jacobian(X), rtol=1e-13, atol=1e-15)
    found = onnxgrad.verify(network("double"), path)
    assert found.ok
    assert [row.verdict for row in found.rows] == ["identical", "identical"]
    assert golden.made_with["onnxgrad"]
    assert [file.name for file in tmp_path.iterdir()] == ["golden.npz"]


def test_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    onnxgrad.record(network(), {"x": X}, path)
    found = onnxgrad.verify(network(planted=1e-4), path)
    compared = onnxgrad.compare(network(), network(planted=1e-4), {"x": X})
    assert not found.ok
    assert found.a == str(path)
    for row, other in zip(found.rows, compared.rows, strict=True):
        assert (row.name, row.absolute, row.ulps, row.moved_wrt) == (
            other.name,
            other.absolute,
            other.ulps,
            other.moved_wrt,
        )
        assert row.excess == pytest.approx(other.excess, rel=1e-3)  # the scale is that of the recorded tensor alone


def test_tolerances_are_kept_in_the_file(tmp_path: Path) -> None:
    path, changed = tmp_path / "golden.npz", network(planted=1e-4)
    golden = onnxgrad.record(network(), X, path, rtol={"y": 1e-2, "": 1e-7}, atol={"y:x": 0.0})
    assert [(t.rtol, t.atol > 0) for t in golden.tensors] == [(1e-2, True), (1e-7, False)]
    found = onnxgrad.verify(changed, path)
    assert [row.verdict for row in found.rows] == ["agrees", "differs"]
    assert [(row.rtol, row.atol) for row in found.rows] == [(t.rtol, t.atol) for t in golden.tensors]
    assert onnxgrad.verify(changed, path, rtol={"y:x": 1e-2}, atol=1e-2).ok
    assert onnxgrad.verify(changed, path, rtol=0.0, atol=0.0).rows[0].verdict == "differs"
    with pytest.raises(onnxgrad.UnknownNameError, match="'z' is not a tensor"):
        onnxgrad.verify(changed, path, rtol={"z": 1})


def test_along_cotangents(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    golden = onnxgrad.record(network(), X, path, max_elements=10)
    assert golden.tensors[1].entry is not None
    assert golden.tensors[1].entry.kind == "vjp"
    assert onnxgrad.verify(network(), path).ok
    found = onnxgrad.verify(network(planted=1e-4), path)
    assert [row.verdict for row in found.rows] == ["differs", "differs"]
    assert "random cotangents" in found.rows[1].detail


def test_random_data_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    golden = onnxgrad.record(parsed(APART % 1.0), None, path, of="p", wrt="u", seed=5)
    assert set(golden.feeds) == {"u", "v"}
    assert golden.data.startswith("random")
    assert [row.name for row in onnxgrad.verify(parsed(APART % 1.0), path).rows] == ["p", "p:u"]


def test_texts_and_integers(tmp_path: Path) -> None:
    model = parsed(
        "net (string[N] s, int64[N] k, float[N] x) => (string[N] t, int64[N] n, float[N] y) "
        "{ t = Identity(s) n = Neg(k) y = Exp(x) }"
    )
    path = tmp_path / "golden.npz"
    data = {"s": np.array(["a", "bc"], object), "k": np.array([1, 2]), "x": np.array([0.5, 1], np.float32)}
    onnxgrad.record(model, data, path)
    found = onnxgrad.verify(model, path)
    assert found.ok, str(found)
    assert [row.name for row in found.rows] == ["t", "n", "y", "y:x"]


def test_a_golden_file_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    onnxgrad.record(network(), X, path)
    for other in (network("double"), network(names=("z", "y")), network(batch="6"), parsed(APART % 1.0)):
        with pytest.raises(onnxgrad.GoldenError, match=r"was made from another model .* record a new one"):
            onnxgrad.verify(other, path)
    assert onnxgrad.verify(network(batch="batch"), path).ok  # what an open size is called does not matter


def test_inputs_and_outputs_in_another_order(tmp_path: Path) -> None:
    """A new export may put them in another order; they are known by name."""
    path, rng = tmp_path / "golden.npz", np.random.default_rng(0)
    swapped = parsed(APART % 2)
    for ports in (swapped.graph.input, swapped.graph.output):
        ports.reverse()
    onnxgrad.record(parsed(APART % 2), {"u": rng.normal(size=(3, 2)), "v": rng.normal(size=(3, 2))}, path)
    found = onnxgrad.verify(swapped, path)
    assert [row.name for row in found.rows if row.verdict == "identical"] == ["p", "q", "p:u", "p:v", "q:u", "q:v"]


def test_a_fixed_batch(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    onnxgrad.record(network(batch="2"), X, path)
    assert onnxgrad.verify(network(batch="2"), path).ok
    assert onnxgrad.verify(network(batch="3"), path).ok
    assert onnxgrad.verify(network(), path).ok
    assert not onnxgrad.verify(network(batch="2", planted=1e-4), path).ok


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="no samples in the data"):
        onnxgrad.record(network(), X[:0], tmp_path / "golden.npz")
    assert not list(tmp_path.iterdir())


def test_samples_that_mix_now(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    onnxgrad.record(parsed("net (double[N, 2] x) => (double[N, 2] y) { y = Tanh(x) }"), X[:, :2], path)
    mixing = parsed(
        "net (double[N, 2] x) => (double[N, 2] y) <int64[1] zero = {0}> "
        "{ m = ReduceMean<keepdims = 1>(x, zero) t = Tanh(x) y = Add(t, m) }"
    )
    found = onnxgrad.verify(mixing, path)
    assert found.verdict == "differs"
    assert found.rows[1].verdict == "differs"
    assert "in the model: " in found.rows[1].detail


def test_refused_derivatives(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    both = parsed("net (float[N, 3, 3] x) => (float[N] y, float[N, 3, 3] z) { y = Det(x) z = Sin(x) }")
    one = parsed("net (float[N, 3, 3] x) => (float[N] y) { y = Det(x) }")
    x = np.random.default_rng(0).normal(size=(2, 3, 3))
    with without_rule("Det"):
        onnxgrad.record(both, x, path)
        found = onnxgrad.verify(both, path)
        assert {row.name: row.verdict for row in found.rows} == {
            "y": "identical",
            "z": "identical",
            "y:x": "refused",
            "z:x": "identical",
        }
        with pytest.raises(onnxgrad.GoldenError, match=r"(?s)no derivative to record.*Det"):
            onnxgrad.record(one, x, tmp_path / "other.npz")
    assert not (tmp_path / "other.npz").exists()


def test_a_derivative_that_is_lost(tmp_path: Path) -> None:
    """It is a difference, even where all values are as they were."""
    path = tmp_path / "golden.npz"
    model = parsed("net (float[N, 3, 3] x) => (float[N] y, float[N, 3, 3] z) { y = Det(x) z = Sin(x) }")
    onnxgrad.record(model, np.random.default_rng(0).normal(size=(2, 3, 3)), path)
    with without_rule("Det"):
        found = onnxgrad.verify(model, path)
    assert {row.name: row.verdict for row in found.rows} == {
        "y": "identical",
        "z": "identical",
        "y:x": "differs",
        "z:x": "identical",
    }
    assert not found.ok


def test_an_output_that_grew(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    text = (
        "net (double[N] x) => (double[M] y) <int64[1] one = {1}, int64[1] end = {%d}> "
        "{ s = Slice(x, one, end) y = Exp(s) }"
    )
    onnxgrad.record(parsed(text % 3), np.ones(5), path)
    found = onnxgrad.verify(parsed(text % 4), path)
    assert found.verdict == "differs"


def test_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    onnxgrad.record(network(), X, path)
    before = path.read_bytes()
    with pytest.raises(onnxgrad.FeedError):
        onnxgrad.record(network(), X[:, :2], path)
    assert path.read_bytes() == before
    with pytest.raises(onnxgrad.ModelWriteError, match="no folder"):
        onnxgrad.record(network(), X, tmp_path / "absent" / "golden.npz")
    with pytest.raises(onnxgrad.GoldenError, match=r"ends in \.npz"):
        onnxgrad.record(network(), X, tmp_path / "golden.json")
    assert [file.name for file in tmp_path.iterdir()] == ["golden.npz"]


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        onnxgrad.record(network(), X, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_files_that_are_no_golden_ones(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    with pytest.raises(onnxgrad.GoldenError, match=r"no such file"):
        onnxgrad.verify(network(), path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(onnxgrad.GoldenError, match="cannot be read as a golden file"):
        onnxgrad.verify(network(), path)
    np.savez(path, x=X)
    with pytest.raises(onnxgrad.GoldenError, match="is no golden file"):
        onnxgrad.verify(network(), path)
    onnxgrad.record(network(), X, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(onnxgrad.GoldenError, match="cannot be read as a golden file"):
        onnxgrad.verify(network(), path)
    path.write_bytes(whole)
    with np.load(path) as file:
        arrays = dict(file)
    content = json.loads(str(arrays["onnxgrad"]))
    np.savez(path, **{**arrays, "onnxgrad": np.array(json.dumps({**content, "format": 99}))})
    with pytest.raises(onnxgrad.GoldenError, match="newer onnxgrad"):
        read_golden(path)
    del arrays["t1"]
    np.savez(path, **arrays)
    with pytest.raises(onnxgrad.GoldenError, match="is damaged"):
        read_golden(path)
