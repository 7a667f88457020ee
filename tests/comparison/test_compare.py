"""``onnxgrad.compare``: what differs is found, named and measured; what does not, is not."""

from __future__ import annotations

import json
import pickle

import numpy as np
import onnx
import pytest

import onnxgrad
from onnxgrad.comparison.differences import Axes, Tolerances, compared, unit_in_last_place
from onnxgrad.errors import FeedError
from tests.comparison.comparison_models import APART, B1, W1, W2, X, jacobian, network, parsed, without_rule


def row_of(found: onnxgrad.Comparison, name: str) -> onnxgrad.comparison.Row:
    (row,) = [row for row in found.rows if row.name == name]
    return row


def test_the_same_model_is_identical() -> None:
    found = onnxgrad.compare(network(), network(), {"x": X})
    assert found.ok
    assert [(row.name, row.verdict, row.excess) for row in found.rows] == [
        ("y", "identical", 0.0),
        ("y:x", "identical", 0.0),
    ]
    assert row_of(found, "y:x").shape == (6, 3, 4)  # per sample


def test_a_planted_difference_of_one_weight() -> None:
    """1e-4 in the weight from x[2] to a hidden unit: the numbers are those of the formula, and x[2] moved most."""
    found = onnxgrad.compare(network("double"), network("double", 1e-4), X)
    assert found.verdict == "differs"
    y, jac = row_of(found, "y"), row_of(found, "y:x")
    w1 = W1.copy()
    w1[2, 5] += 1e-4
    values = [np.tanh(X @ w + B1) @ W2 for w in (W1, w1)]
    off = np.abs(values[1] - values[0])
    assert y.absolute is not None
    np.testing.assert_allclose(y.absolute.largest, off.max(), rtol=1e-9)  # cancellation: 1e-16 / 1e-4 and some
    np.testing.assert_allclose(y.absolute.typical, np.median(off), rtol=1e-9)
    assert y.beyond == 18
    assert set(y.moved_of) == {"y[0]", "y[1]", "y[2]"}
    assert set(jac.moved_wrt) == {f"x[{i}]" for i in range(4)}  # through the slope of tanh, all of them
    worst = y.worst[0]
    assert worst.sample is not None
    assert [place.sample for place in y.worst[1:]].count(worst.sample) == 0
    index = worst.sample, int(worst.of[2:-1])
    assert (worst.a, worst.b) == pytest.approx((values[0][index], values[1][index]), rel=1e-14)
    assert worst.relative == pytest.approx(worst.absolute / max(abs(worst.a), abs(worst.b)))
    assert worst.ulps == worst.absolute / np.spacing(max(abs(worst.a), abs(worst.b)))
    assert len(y.worst) == 5


def test_a_planted_difference_in_float32() -> None:
    found = onnxgrad.compare(network(), network(planted=1e-4))
    assert row_of(found, "y").verdict == row_of(found, "y:x").verdict == "differs"
    assert "x[2]" in row_of(found, "y:x").moved_wrt


def test_a_planted_difference_in_a_linear_layer() -> None:
    """The output that the weight leads to, and the input that it comes from, and no others."""
    text = "net (float[N, 3] x) => (float[N, 2] y) <float[3, 2] W = {1, 2, 3, 4, 5, %r}> { y = MatMul(x, W) }"
    found = onnxgrad.compare(parsed(text % 6.0), parsed(text % 6.0001), X[:, :3])
    y, jac = found.rows
    assert y.moved_of == jac.moved_of == ("y[1]",)
    assert jac.moved_wrt == ("x[2]",)
    assert jac.worst[0].text == "d y[1] / d x[2], sample 0"
    assert jac.beyond == 6
    assert "moved: y[1] by x[2]" in str(found)


def test_only_what_moved_is_named() -> None:
    found = onnxgrad.compare(parsed(APART % 1.0), parsed(APART % 1.0001), {"u": X[:, :2], "v": X[:, 2:]})
    assert {row.name: row.verdict for row in found.rows} == {
        "p": "differs",
        "q": "identical",
        "p:u": "differs",
        "p:v": "identical",
        "q:u": "identical",
        "q:v": "identical",
    }
    text = str(found)
    assert "p:u (jacobian): differs" in text
    assert "q" not in text.replace("requ", "")


def test_float32_and_float64_agree_to_rounding() -> None:
    found = onnxgrad.compare(network("float"), network("double"), X)
    assert found.ok
    y = row_of(found, "y")
    assert y.dtype == "float32"
    assert y.ulps is not None
    assert 0 < y.ulps.typical < 4  # both get the same numbers: those rounded to float32
    reverse = onnxgrad.compare(network("double"), network("float"), X)
    assert row_of(reverse, "y").dtype == "float32"
    assert row_of(reverse, "y").absolute == y.absolute


def test_inputs_and_outputs_by_order() -> None:
    found = onnxgrad.compare(network(), network(names=("input_1", "dense_3")), {"x": X})
    assert found.ok
    assert found.notes == (
        "inputs are matched by order: x with input_1",
        "outputs are matched by order: y with dense_3",
    )
    assert onnxgrad.compare(network(), network(names=("input_1", "y")), {"input_1": X}).ok  # data by the other's names


def test_inputs_by_name_in_another_order() -> None:
    swapped = APART.replace("(double[N, 2] u, double[N, 2] v)", "(double[N, 2] v, double[N, 2] u)")
    found = onnxgrad.compare(parsed(APART % 1.0), parsed(swapped % 1.0))
    assert found.ok
    assert not found.notes


def test_a_fixed_batch_beside_an_open_one() -> None:
    for a, b in ((network(), network(batch="6")), (network(batch="6"), network())):
        for data in (X, None):
            found = onnxgrad.compare(a, b, data)
            assert found.ok, str(found)
            assert len(found.rows) == 2


@pytest.mark.parametrize("size", ["1", "2", "3"])
def test_a_fixed_batch_and_more_samples(size: str) -> None:
    """A model exported for one sample, or a few, is run on as many portions as the data have."""
    for a, b in (
        (network("double"), network("double", batch=size)),
        (network("double", batch=size), network("double")),
    ):
        found = onnxgrad.compare(a, b, X)
        assert found.ok, str(found)
        assert row_of(found, "y:x").shape == (6, 3, 4)
        assert f"takes {size} at a time, and was run on the samples in such portions" in found.notes[-1]
        wide = onnxgrad.compare(a, b, X, max_elements=10)
        assert wide.ok
        assert row_of(wide, "y:x").kind == "vjp"
    found = onnxgrad.compare(network("double", batch=size), network("double", 1e-4), {"x": X})
    expected = onnxgrad.compare(network("double"), network("double", 1e-4), X)
    assert [row.moved_of + row.moved_wrt for row in found.rows] == [
        row.moved_of + row.moved_wrt for row in expected.rows
    ]
    with pytest.raises(FeedError, match="with 5 instead of 4 on axis 0"):
        onnxgrad.compare(network(), network(batch="4"), X[:5])


def test_portions_of_a_model_that_mixes_samples() -> None:
    """Its Jacobian has blocks for the portions, and zeros between; that of the other model, over all, has not."""
    text = "net (double[%s, 2] x) => (double[%s, 2] y) <int64[1] zero = {0}> { y = CumSum(x, zero) }"
    found = onnxgrad.compare(parsed(text % ("N", "N")), parsed(text % (2, 2)), X[:4, :2])
    row = row_of(found, "y:x")
    assert (row.verdict, row.shape) == ("differs", (4, 2, 4, 2))
    assert row_of(onnxgrad.compare(parsed(text % (2, 2)), parsed(text % (2, 2)), X[:4, :2]), "y:x").beyond == 0
    of_two = onnxgrad.compare(parsed(text % ("N", "N")), parsed(text % (2, 2)), X[:2, :2])
    assert of_two.ok
    assert row.beyond == 4 * 2  # both rows of the second portion by both of the first, element by element


def test_vectors_are_no_portions() -> None:
    text = "net (double[3] x) => (double[3] y) { y = Sin(x) }"
    with pytest.raises(FeedError):
        onnxgrad.compare(parsed(text), parsed(text), np.ones(6))


def test_samples_that_mix_in_one_model_only() -> None:
    """The Jacobians are then both in full, and differ."""
    apart = parsed("net (double[N, 2] x) => (double[N, 2] y) { y = Tanh(x) }")
    mixing = parsed(
        "net (double[N, 2] x) => (double[N, 2] y) <int64[1] zero = {0}> "
        "{ m = ReduceMean<keepdims = 1>(x, zero) t = Tanh(x) y = Add(t, m) }"
    )
    for a, b in ((apart, mixing), (mixing, apart)):
        row = row_of(onnxgrad.compare(a, b, X[:, :2]), "y:x")
        assert row.shape == (6, 2, 6, 2)
        assert row.verdict == "differs"
        assert row.beyond == 2 * 36
    assert onnxgrad.compare(mixing, mixing, X[:, :2]).ok


def test_along_cotangents_where_the_jacobian_is_large() -> None:
    a, b = network("double"), network("double", 1e-4)
    same, other = (onnxgrad.compare(a, m, X, max_elements=20) for m in (a, b))
    row = row_of(same, "y:x")
    assert same.ok
    assert (row.kind, row.shape) == ("vjp", (8, 6, 4))
    assert "the Jacobian would have 432 elements" in row.detail
    row = row_of(other, "y:x")
    assert row.verdict == "differs"
    assert "x[2]" in row.moved_wrt
    assert row.worst[0].sample in range(6)


def test_tolerances() -> None:
    a, b = network("double"), network("double", 1e-4)
    assert onnxgrad.compare(a, b, X, rtol=1e-2).ok
    found = onnxgrad.compare(a, b, X, rtol={"y": 1e-2})
    assert [row.verdict for row in found.rows] == ["agrees", "differs"]
    found = onnxgrad.compare(a, b, X, rtol={"": 1e-2, "y:x": 0}, atol=0)
    assert [row.verdict for row in found.rows] == ["agrees", "differs"]
    assert row_of(found, "y:x").excess == np.inf
    with pytest.raises(onnxgrad.UnknownNameError, match="'y:z' is not a tensor that is compared; did you mean 'y:x'"):
        onnxgrad.compare(a, b, X, rtol={"y:z": 1})
    with pytest.raises(ValueError, match="no tolerance"):
        onnxgrad.compare(a, b, X, atol=-1.0)


def test_the_tolerance_is_a_bound() -> None:
    """atol + rtol · max(|a|, |b|): elements at it agree, those just beyond do not."""
    a, b = np.array([1.0, 2.0, 0.0]), np.array([1.5, 2.0, 0.25])
    axes, dtype = Axes((0,)), np.dtype(np.float64)
    row = compared("output", "y", None, a, b, axes, dtype, Tolerances(0.25, 0.125), 5)
    assert (row.verdict, row.beyond, row.moved_of) == ("differs", 1, ("y[2]",))
    assert row.excess == 0.25 / (0.125 + 0.25 * 0.25)
    assert compared("output", "y", None, a, b, axes, dtype, Tolerances(0.25, 0.1875), 5).verdict == "agrees"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_units_in_the_last_place(dtype: type) -> None:
    info = np.finfo(dtype)
    x = np.array([0, info.smallest_subnormal, info.tiny, 1, 1.5, 2 - info.eps, 2, 3.7, info.max / 4], dtype)
    np.testing.assert_array_equal(
        unit_in_last_place(x.astype(np.float64), np.dtype(dtype)), np.spacing(x).astype(float)
    )


def test_what_is_not_finite() -> None:
    axes, dtype = Axes((0,)), np.dtype(np.float64)
    a = np.array([np.nan, np.inf, 1.0, np.inf, 2.0])
    same = compared("output", "y", None, a, a.copy(), axes, dtype, Tolerances(), 5)
    assert (same.verdict, same.odd) == ("identical", 0)
    assert same.detail == "3 of 5 elements are NaN or infinite in both, which is taken for equal"
    b = np.array([np.nan, -np.inf, np.nan, 5.0, 2.0])
    row = compared("output", "y", None, a, b, axes, dtype, Tolerances(), 5)
    assert (row.verdict, row.odd, row.beyond) == ("differs", 3, 3)
    assert set(row.moved_of) == {"y[1]", "y[2]", "y[3]"}
    assert "3 of them NaN or infinite in one only" in row.text


def test_integers_and_texts_are_equal_or_differ() -> None:
    axes = Axes((0,))
    big = np.array([2**60, 7], np.int64)
    row = compared("output", "n", None, big, big + np.array([1, 0]), axes, big.dtype, Tolerances(), 5)
    assert (row.verdict, row.beyond, row.ulps) == ("differs", 1, None)
    texts = np.array(["cat", "dog"], object)
    row = compared("output", "s", None, texts, np.array(["cat", "cow"]), axes, texts.dtype, Tolerances(), 5)
    assert (row.verdict, row.moved_of) == ("differs", ("s[1]",))
    assert "'dog' against 'cow'" in row.text
    assert compared("output", "s", None, texts, texts, axes, texts.dtype, Tolerances(), 5).verdict == "identical"


def test_sizes_zero_and_scalars() -> None:
    with pytest.raises(FeedError, match="no samples in the data"):  # a gate must not open to an empty file
        onnxgrad.compare(network(), network(planted=1), X[:0])
    scalar = "net (double x) => (double y) { y = %s(x) }"
    row = row_of(onnxgrad.compare(parsed(scalar % "Sin"), parsed(scalar % "Cos"), {"x": 0.5}), "y:x")
    assert (row.verdict, row.moved_of, row.moved_wrt) == ("differs", ("y",), ("x",))
    assert row.worst[0].a == pytest.approx(np.cos(0.5), rel=1e-15)
    assert row.worst[0].b == pytest.approx(-np.sin(0.5), rel=1e-15)


def test_outputs_of_different_shapes() -> None:
    text = (
        "net (double[N] x) => (double[M] y) <int64[1] one = {1}, int64[1] end = {%d}> "
        "{ s = Slice(x, one, end) y = Exp(s) }"
    )
    found = onnxgrad.compare(parsed(text % 3), parsed(text % 4), np.ones(5))
    assert found.verdict == "differs"
    assert row_of(found, "y").detail == "shape [2] against [3]"


def test_of_and_wrt() -> None:
    a = parsed(APART % 1.0)
    found = onnxgrad.compare(a, parsed(APART % 2.0), of="q", wrt=["v"])
    assert [row.name for row in found.rows] == ["q", "q:v"]
    assert found.ok
    with pytest.raises(onnxgrad.UnknownNameError, match="'r' is not an output"):
        onnxgrad.compare(a, a, of="r")
    with pytest.raises(onnxgrad.UnknownNameError, match="'w' is not an input"):
        onnxgrad.compare(a, a, wrt="w")


def test_one_output_of_a_model_with_more() -> None:
    one = parsed("net (double[N, 2] u, double[N, 2] v) => (double[N, 2] q) { q = Cos(v) }")
    found = onnxgrad.compare(parsed(APART % 1.0), one, of="q")
    assert found.ok
    assert [row.name for row in found.rows] == ["q", "q:u", "q:v"]


UNLIKE = {
    "another number of inputs": ("net (float[N, 4] x, float z) => (float[N, 3] y) { y = Identity(x) }", "x float32"),
    "another size": ("net (float[N, 5] x) => (float[N, 3] y) { y = Identity(x) }", "axis 1 has different sizes"),
    "another rank": ("net (float[N, 4, 1] x) => (float[N, 3] y) { y = Identity(x) }", "different numbers of axes"),
    "another kind": ("net (int64[N, 4] x) => (float[N, 3] y) { y = Identity(x) }", "elements are of different kinds"),
    "another output": ("net (float[N, 4] x) => (int64[N, 3] y) { y = Identity(x) }", "elements are of different kinds"),
    "more outputs": (
        "net (float[N, 4] x) => (float[N, 4] z, float[N, 3] y) { y = Identity(x) z = Neg(x) }",
        "choose the outputs",
    ),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_signatures_that_differ_are_refused(what: str) -> None:
    text, words = UNLIKE[what]
    with pytest.raises(onnxgrad.SignatureError, match=words):
        onnxgrad.compare(network(), parsed(text), X)


def test_bad_data() -> None:
    with pytest.raises(onnxgrad.UnknownNameError, match="'z' is not an input"):
        onnxgrad.compare(network(), network(), {"z": X})
    with pytest.raises(onnxgrad.FeedError, match="with 3 instead of 4"):
        onnxgrad.compare(network(), network(), X[:, :3])
    with pytest.raises(onnxgrad.ModelReadError):
        onnxgrad.compare(network(), "absent.onnx", X)


def test_refused_derivatives_are_said_and_not_passed_over() -> None:
    refused = parsed("net (float[N, 3, 3] x) => (float[N] y) { y = Det(x) }")
    assert onnxgrad.compare(refused, refused).ok
    with without_rule("Det"):
        found = onnxgrad.compare(refused, refused)
    assert found.verdict == "refused"
    assert not found.ok
    assert row_of(found, "y").verdict == "identical"
    assert "Det" in row_of(found, "y:x").detail


def test_a_derivative_of_one_model_only() -> None:
    """Whichever comes first, that is a difference."""
    has = parsed("net (float[N, 1, 1] x) => (float[N] y) <int64[2] inner = {1, 2}> { y = Squeeze(x, inner) }")
    same = parsed("net (float[N, 1, 1] x) => (float[N] y) { y = Det(x) }")
    with without_rule("Det"):
        for pair in ((has, same), (same, has)):
            found = onnxgrad.compare(*pair)
            assert [row.verdict for row in found.rows] == ["identical", "differs"], str(found)
            assert "Det" in found.rows[1].detail
            assert found.verdict == "differs"


def test_a_quantized_model() -> None:
    """Its gradients pass straight through, which is said; without that they are zero, and found to differ."""
    plain = parsed("net (float[N, 2] x) => (float[N, 2] y) { y = Sin(x) }")
    quantized = parsed(
        "net (float[N, 2] x) => (float[N, 2] y) <float scale = {0.01}, int8 zero = {0}> "
        "{ q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero) y = Sin(d) }"
    )
    x = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)
    found = onnxgrad.compare(plain, quantized, x, atol=0.006)  # half a step of the scale, and rounding
    assert found.ok, str(found)
    assert any("quantized: its gradients pass straight through" in note for note in found.notes)
    assert not onnxgrad.compare(plain, quantized, x).ok
    found = onnxgrad.compare(plain, quantized, x, atol=0.006, straight_through=False)
    assert [row.verdict for row in found.rows] == ["agrees", "differs"]
    assert not found.notes


def test_values_only() -> None:
    assert [row.kind for row in onnxgrad.compare(network(), network(), X, derivatives=False).rows] == ["output"]


def test_no_floating_point_input() -> None:
    text = parsed("net (int64[N] k) => (int64[N] n) { n = Neg(k) }")
    found = onnxgrad.compare(text, text, np.arange(4))
    assert found.ok
    assert "there is no derivative to compare" in found.notes[0]


def test_functions_and_pickles() -> None:
    f = onnxgrad.load(network())
    found = onnxgrad.compare(f, f, X)
    assert found.ok
    assert pickle.loads(pickle.dumps(found)).rows[0].name == "y"


def test_plain_data() -> None:
    found = onnxgrad.compare(network(), network(planted=1e-4), X, atol={"y": 0}, rtol={"y": 0})
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["ok"] is False
    assert data["rows"][0]["excess"] is None  # nothing is tolerated: infinite
    assert data["rows"][0]["moved_of"] == list(found.rows[0].moved_of)
    assert data["rows"][1]["worst"][0]["wrt"] == found.rows[1].worst[0].wrt
    assert "points" not in data["rows"][0]


def test_the_jacobian_is_that_of_the_formula() -> None:
    """So that two models that are wrong alike would not pass: against numbers of neither."""
    found = onnxgrad.load(network("double")).jacobian(X)
    np.testing.assert_allclose(found, jacobian(X), rtol=1e-13, atol=1e-15)


def test_models_are_not_changed() -> None:
    model = network()
    before = model.SerializeToString()
    onnxgrad.compare(model, onnx.ModelProto.FromString(before), X)
    assert model.SerializeToString() == before
