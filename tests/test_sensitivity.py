"""Sensitivity: against formulas, on data in any form, in parts, and from the command line."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import onnxgrad
from onnxgrad import sensitivities
from onnxgrad.errors import (
    FeedError,
    MemoryBoundError,
    MixedSamplesError,
    OnnxgradError,
    TensorTypeError,
    UnknownNameError,
)
from onnxgrad.sensitivities import STATISTICS
from tests.cli.cli_helpers import COLUMNS, MIXING, WIDE, command, save

HEAD = '<ir_version: 10, opset_import: ["": 18]>\n'
#: y0 = x0² x1, y1 = sin(x0) + 3 x1
MODEL = """net (double[N, 2] x) => (double[N, 2] y) <int64[1] zero = {0}, int64[1] one = {1}, double three = {3}> {
  a = Gather<axis = 1>(x, zero)  b = Gather<axis = 1>(x, one)
  aa = Mul(a, a)  p = Mul(aa, b)  s = Sin(a)  c = Mul(three, b)  q = Add(s, c)  y = Concat<axis = 1>(p, q) }"""
rng = np.random.default_rng(3)
X = rng.normal((0.5, -1), 1, size=(501, 2))


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEAD + text)


def jacobian(x: Any) -> Any:
    a, b = x.T
    return np.stack([np.stack([2 * a * b, a * a], -1), np.stack([np.cos(a), np.full_like(a, 3)], -1)], 1)


def value(x: Any) -> Any:
    a, b = x.T
    return np.stack([a * a * b, np.sin(a) + 3 * b], -1)


def expected(x: Any) -> dict[str, Any]:
    """The statistics, straight from their definitions."""
    J, y = jacobian(x), value(x)
    return {
        "mean": J.mean(0),
        "mean_abs": np.abs(J).mean(0),
        "rms": np.sqrt((J**2).mean(0)),
        "positive": (J > 0).mean(0),
        "negative": (J < 0).mean(0),
        "elasticity": (x[:, None, :] / y[:, :, None] * J).mean(0),
        "per_sd": J.mean(0) * x.std(0),
        "normalized": J.mean(0) * x.std(0) / y.std(0)[:, None],
        "importance": np.abs(J).mean(0) * x.std(0),
    }


def check(found: onnxgrad.Sensitivity, wanted: dict[str, Any]) -> None:
    assert set(wanted) == set(STATISTICS)
    for name, array in wanted.items():
        # sums of 501 numbers, some of which cancel
        np.testing.assert_allclose(getattr(found, name), array, rtol=1e-11, atol=1e-13, err_msg=name)


def test_statistics() -> None:
    found = onnxgrad.sensitivity(parse(MODEL), X)
    check(found, expected(X))
    assert (found.outputs, found.features, found.samples) == (("y[0]", "y[1]"), ("x[0]", "x[1]"), 501)
    np.testing.assert_allclose(found.feature_mean, X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.feature_sd, X.std(0), rtol=1e-12)
    np.testing.assert_allclose(found.output_mean, value(X).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.output_sd, value(X).std(0), rtol=1e-12)
    # the elasticity of x0² x1 is 2 by x0 and 1 by x1, wherever it is taken
    np.testing.assert_allclose(found.elasticity[0], [2, 1], rtol=1e-12)
    assert found.interactions is None


def test_standard_deviations_far_from_zero() -> None:
    x = X + 1e8
    found = onnxgrad.sensitivity(parse("net (double[N, 2] x) => (double[N, 2] y) { y = Neg(x) }"), x)
    np.testing.assert_allclose(found.feature_sd, x.std(0), rtol=1e-9)


@pytest.mark.parametrize("part", [1, 1000])
def test_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(sensitivities, "_PART_BYTES", part)
    done: list[tuple[int, int]] = []
    x = X[:101]
    found = onnxgrad.sensitivity(parse(MODEL), x, progress=lambda *a: done.append(a))
    check(found, expected(x))
    assert len(done) > 2
    assert done[-1] == (101, 101)


def test_interactions() -> None:
    found = onnxgrad.sensitivity(parse(MODEL), X, interactions=True)
    assert found.interactions is not None
    a, b = np.abs(X).mean(0)
    np.testing.assert_allclose(found.interactions[0], [[2 * b, 2 * a], [2 * a, 0]], rtol=1e-11)
    np.testing.assert_allclose(
        found.interactions[1], [[np.abs(np.sin(X[:, 0])).mean(), 0], [0, 0]], rtol=1e-11, atol=1e-13
    )
    ((one, other, strength),) = found.pairs("y[0]")
    assert (one, other) == ("x[0]", "x[1]")
    assert strength == pytest.approx(2 * a)
    with pytest.raises(OnnxgradError, match="interactions=True"):
        onnxgrad.sensitivity(parse(MODEL), X).pairs()


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    path = save(tmp_path, WIDE)
    a, b = rng.normal(size=(40, 2)), rng.normal(size=(40, 3))
    found = onnxgrad.sensitivity(path, {"a": a, "b": b}, interactions=True)
    assert found.features == ("a[0]", "a[1]", "b[0]", "b[1]", "b[2]")
    assert found.outputs == ("y[0]", "y[1]", "y[2]", "y[3]", "y[4]", "total")
    both = np.concatenate([a, b], axis=1)
    np.testing.assert_allclose(found.mean, np.concatenate([np.eye(5), 2 * both.mean(0)[None]]), rtol=1e-12)
    np.testing.assert_allclose(found.rms[5], 2 * np.sqrt((both**2).mean(0)), rtol=1e-12)
    assert found.interactions is not None
    np.testing.assert_allclose(found.interactions[5], 2 * np.eye(5), rtol=1e-12)
    np.testing.assert_array_equal(found.interactions[:5], 0)
    only = onnxgrad.sensitivity(path, (a, b), of="total", wrt="b")
    assert (only.outputs, only.features) == (("total",), ("b[0]", "b[1]", "b[2]"))
    np.testing.assert_allclose(only.mean, 2 * b.mean(0)[None], rtol=1e-12)


def test_integers_are_held() -> None:
    model = parse("net (double[N, 2] x, int64[N] k) => (double[N, 2] y) <int64[1] one = {1}> "
                  "{ f = CastLike(k, x) g = Unsqueeze(f, one) y = Mul(x, g) }")  # fmt: skip
    k = np.arange(501)
    found = onnxgrad.sensitivity(model, {"x": X, "k": k})
    np.testing.assert_allclose(found.mean, np.eye(2) * k.mean(), rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_models_of_a_fixed_number_of_samples(batch: int) -> None:
    """The last portion is filled up; what fills it does not count."""
    x = X[:30]
    check(onnxgrad.sensitivity(parse(MODEL.replace("N, 2", f"{batch}, 2")), x), expected(x))


def test_float32() -> None:
    found = onnxgrad.sensitivity(parse(MODEL.replace("double", "float")), X)
    np.testing.assert_allclose(found.rms, expected(X)["rms"], rtol=1e-5)


# --- names ---------------------------------------------------------------------------------------


def test_columns_of_a_frame() -> None:
    frame = pd.DataFrame(X, columns=["age", "bmi"])
    found = onnxgrad.sensitivity(parse(MODEL), frame)
    assert found.features == ("age", "bmi")
    check(found, expected(X))


def test_columns_that_are_inputs(tmp_path: Path) -> None:
    frame = pd.DataFrame({"mass": rng.uniform(1, 2, 30), "speed": rng.uniform(1, 2, 30)})
    found = onnxgrad.sensitivity(save(tmp_path, COLUMNS), frame)
    assert (found.outputs, found.features) == (("energy",), ("speed", "mass"))
    np.testing.assert_allclose(found.elasticity, [[2, 1]], rtol=1e-12)  # energy = mass speed² / 2


def test_features_of_a_pipeline() -> None:
    """Columns are found by name; the derivative of a linear pipeline is its coefficient over the scale."""
    frame = pd.DataFrame(X, columns=["age", "bmi"])
    pipeline = make_pipeline(StandardScaler(), LinearRegression()).fit(frame, X @ [2.0, -3.0])
    for data in (frame, frame[["bmi", "age"]]):
        found = onnxgrad.sensitivity(pipeline, data, sample=frame)
        assert found.features == ("age", "bmi")
        np.testing.assert_allclose(found.mean, [[2, -3]], rtol=1e-10)
        np.testing.assert_allclose(found.rms, [[2, 3]], rtol=1e-10)


def test_columns_of_a_column_transformer() -> None:
    """Each column is an input; texts are held."""
    frame = pd.DataFrame({"age": 10 * X[:, 0], "city": np.resize(list("abc"), len(X)), "bmi": X[:, 1]})
    columns = ColumnTransformer([("n", StandardScaler(), ["age", "bmi"]), ("c", OneHotEncoder(), ["city"])])
    pipeline = make_pipeline(columns, LinearRegression()).fit(frame, X @ [2.0, -3.0])
    found = onnxgrad.sensitivity(pipeline, frame)
    assert found.features == ("age", "bmi")
    np.testing.assert_allclose(found.mean, [[0.2, -3]], rtol=1e-5)  # float32, as skl2onnx encodes texts


def test_a_network_of_scikit_learn_against_its_formula() -> None:
    net = MLPRegressor(hidden_layer_sizes=(4,), activation="tanh", max_iter=5, random_state=0)
    with pytest.warns(Warning, match="Maximum iterations"):
        net.fit(X, X[:, 0] * X[:, 1])
    (w, v), (b, _) = net.coefs_, net.intercepts_
    J = (1 - np.tanh(X @ w + b) ** 2) * v[:, 0] @ w.T
    np.testing.assert_allclose(onnxgrad.sensitivity(net, X).rms[0], np.sqrt((J**2).mean(0)), rtol=1e-10)


def test_names_that_are_given() -> None:
    assert onnxgrad.sensitivity(parse(MODEL), X, names=["p", "q"]).features == ("p", "q")
    for names in (["p"], ["p", "p"]):
        with pytest.raises(FeedError, match="names are given for 2 features"):
            onnxgrad.sensitivity(parse(MODEL), X, names=names)


# --- results -------------------------------------------------------------------------------------


def test_ranking() -> None:
    model = parse("net (double[N, 3] x) => (double[N] y) <double[3] w = {1, -5, 2}, int64[1] one = {1}> "
                  "{ p = Mul(x, w) y = ReduceSum<keepdims = 0>(p, one) }")  # fmt: skip
    x = rng.normal(size=(100, 3)) * [100, 1, 1]
    found = onnxgrad.sensitivity(model, x, names=["a", "b", "c"])
    assert found.ranking() == ["a", "b", "c"]
    assert found.ranking("y", by="mean") == ["b", "c", "a"]
    assert [row["feature"] for row in found.rows("rms")] == ["b", "c", "a"]
    assert onnxgrad.sensitivity(model, x[:1]).ranking() == ["x[1]", "x[2]", "x[0]"]  # one sample does not vary
    for arguments in (("z",), ("y", "size")):
        with pytest.raises(UnknownNameError):
            found.ranking(*arguments)


def test_what_is_not_defined() -> None:
    """Elasticities leave out samples with y = 0; a constant output has no standard deviation."""
    model = parse("net (double[N, 1] x) => (double[N, 1] y) { y = Relu(x) }")
    found = onnxgrad.sensitivity(model, np.array([[-1.0], [2.0], [3.0]]))
    assert found.elasticity == [[1.0]]
    assert found.undefined == [1]
    found = onnxgrad.sensitivity(model, np.array([[-1.0], [-2.0]]))
    assert np.isnan(found.elasticity)
    assert np.isnan(found.normalized)
    assert found.to_dict()["elasticity"] == [[None]]


def test_derivatives_that_are_not_finite() -> None:
    model = parse("net (double[N, 2] x) => (double[N, 2] y) { y = Sqrt(x) }")
    with pytest.warns(UserWarning, match=r"derivatives are not finite .*'y\[1\]' by 'x\[1\]'"):
        found = onnxgrad.sensitivity(model, np.array([[1.0, 0.0], [4.0, 1.0]]))
    assert found.mean[0, 0] == 0.375  # by x[1] it is NaN: 0 times infinity
    assert np.isinf(found.mean[1, 1])


def test_csv(tmp_path: Path) -> None:
    found = onnxgrad.sensitivity(parse(MODEL), X)
    found.to_csv(tmp_path / "s.csv")
    with open(tmp_path / "s.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["output"], r["rank"]) for r in rows] == [("y[0]", "1"), ("y[0]", "2"), ("y[1]", "1"), ("y[1]", "2")]
    for row in rows:
        i, j = found.outputs.index(row["output"]), found.features.index(row["feature"])
        assert all(float(row[name]) == getattr(found, name)[i, j] for name in STATISTICS)


def test_plot(tmp_path: Path) -> None:
    found = onnxgrad.sensitivity(parse(MODEL), X, names=["p", "q"])
    figure = found.plot(by="rms", top=1)
    assert len(figure.axes) == 2
    assert [len(panel.patches) for panel in figure.axes] == [1, 1]
    assert figure.axes[1].patches[0].get_width() == pytest.approx(3)
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["q"]
    figure.savefig(tmp_path / "s.png")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OnnxgradError, match=r"pip install 'onnxgrad\[plot\]'"):
        onnxgrad.sensitivity(parse(MODEL), X).plot()
    onnx.save(parse(MODEL), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X)
    outcome = command("sensitivity", tmp_path / "m.onnx", "--data", tmp_path / "x.npy", "--plot", tmp_path / "p.png")
    assert outcome.code == 2
    assert "onnxgrad[plot]" in outcome.message


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_numbers_that_are_none(bad: float, word: str) -> None:
    x = X.copy()
    x[[7, 9], 1] = bad
    with pytest.raises(FeedError, match=rf"{word} in the data: sample 8, feature 'bmi' of input 'x' \(2 such"):
        onnxgrad.sensitivity(parse(MODEL), pd.DataFrame(x, columns=["age", "bmi"]))


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (UnknownNameError, "'z' is not an output of the model", {"of": "z"}),
        (UnknownNameError, "'p' is not an output of the model", {"of": "p"}),
        (UnknownNameError, "'a' is not an input of the model", {"wrt": ["x", "a"]}),
        (MemoryBoundError, "choose fewer outputs or inputs", {"max_bytes": 500}),
    ],
)
def test_refusals(error: type[Exception], match: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        onnxgrad.sensitivity(parse(MODEL), X[:1], **options)


def test_further_refusals() -> None:
    with pytest.raises(FeedError, match="there are no samples"):
        onnxgrad.sensitivity(parse(MODEL), X[:0])
    with pytest.raises(MixedSamplesError):
        onnxgrad.sensitivity(parse(MIXING), np.ones((4, 3)))
    with pytest.raises(TensorTypeError, match="not of floating-point numbers"):
        onnxgrad.sensitivity(parse("net (double[N] x) => (int64[N] y) { y = Cast<to = 7>(x) }"), X[:, 0])
    with pytest.raises(TensorTypeError, match="'k' is a tensor of int64"):
        onnxgrad.sensitivity(
            parse("net (double[N] x, int64[N] k) => (double[N] y) { f = CastLike(k, x) y = Mul(x, f) }"),
            {"x": X[:, 0], "k": np.arange(len(X))},
            wrt="k",
        )
    with pytest.raises(FeedError, match=r"'b' has 3 samples, and 'a' has 4"):
        onnxgrad.sensitivity(parse(WIDE), (np.ones((4, 2)), np.ones((3, 3))))


# --- the command ---------------------------------------------------------------------------------


def table(path: Path, names: list[str], x: Any = X) -> Path:
    np.savetxt(path, x, delimiter=",", header=",".join(names), comments="", fmt="%.17g")
    return path


def test_command(tmp_path: Path) -> None:
    onnx.save(parse(MODEL), tmp_path / "m.onnx")
    data = table(tmp_path / "x.csv", ["age", "bmi"])
    out, plot = tmp_path / "s.csv", tmp_path / "s.svg"
    outcome = command("sensitivity", tmp_path / "m.onnx", "--data", data, "--interactions", "-o", out, "--plot", plot)
    assert outcome.code == 0
    assert "interactions" in outcome.out
    assert "bmi" in outcome.out
    assert out.read_text(encoding="utf-8").startswith("output,feature,rank,mean,")
    assert b"<svg" in plot.read_bytes()


def test_command_json(tmp_path: Path) -> None:
    onnx.save(parse(MODEL), tmp_path / "m.onnx")
    data = table(tmp_path / "x.csv", ["age", "bmi"])
    found = command("sensitivity", tmp_path / "m.onnx", "--data", data, "--of", "y", "--rank-by", "mean", "--json").json
    assert found["features"] == ["age", "bmi"]
    assert found["ranking"]["y[1]"] == ["bmi", "age"]
    for name, array in expected(X).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-11, atol=1e-13)


def test_columns_by_name_in_another_order(tmp_path: Path) -> None:
    onnx.save(parse(MODEL), tmp_path / "m.onnx")
    data = table(tmp_path / "x.csv", ["x[1]", "x[0]"], X[:, ::-1])
    found = command("sensitivity", tmp_path / "m.onnx", "--data", data, "--json").json
    assert found["features"] == ["x[0]", "x[1]"]
    np.testing.assert_allclose(found["mean"], jacobian(X).mean(0), rtol=1e-11)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rank-by", "size"], "none of mean,"),
        (["-o", "out.txt"], "no .csv file"),
        (["--plot", "out.bmp"], "no file of a kind that is drawn"),
        (["--of", "z"], "not an output"),
    ],
)
def test_bad_words(tmp_path: Path, words: list[str], message: str) -> None:
    onnx.save(parse(MODEL), tmp_path / "m.onnx")
    data = table(tmp_path / "x.csv", ["age", "bmi"])
    outcome = command("sensitivity", tmp_path / "m.onnx", "--data", data, *words)
    assert outcome.code == 2
    assert message in outcome.message


def test_nan_in_a_table(tmp_path: Path) -> None:
    onnx.save(parse(MODEL), tmp_path / "m.onnx")
    (tmp_path / "x.csv").write_text("age,bmi\n1,2\n3,\n", encoding="utf-8")
    outcome = command("sensitivity", tmp_path / "m.onnx", "--data", tmp_path / "x.csv")
    assert outcome.code == 2
    assert "NaN in the data: sample 2, feature 'bmi'" in outcome.message
