"""The argument `straight_through`, from quantized models as onnxruntime's tools write them to files and commands."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper, parser
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from typer.testing import CliRunner

import onnxgrad
from onnxgrad.cli import app
from tests.straight_through import Roundings, gradients, smooth

rng = np.random.default_rng(5)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], fused: bool = True) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in model.graph.output]
    return dict(zip(names, session.run(names, feeds), strict=True))


def parsed(text: str, imports: str = '"": 21') -> onnx.ModelProto:
    return parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> {text}")


# --- what moves integers, and what does not -------------------------------------------------------------

MOVES = {
    "Reshape": ("t = Reshape(q, shape)", "int64[2] shape = {3, 8}", lambda q: q.reshape(3, 8)),
    "Transpose": ("t = Transpose<perm=[2, 0, 3, 1]>(q)", "", lambda q: q.transpose(2, 0, 3, 1)),
    "Concat": ("t = Concat<axis=1>(q, q)", "", lambda q: np.concatenate([q, q], 1)),
    "Split": ("u, v = Split<axis=3, num_outputs=2>(q) t = Concat<axis=0>(v, u)", "",
              lambda q: np.concatenate([q[..., 2:], q[..., :2]], 0)),
    "Slice": ("t = Slice(q, start, end, axes, steps)",
              "int64[1] start = {3}, int64[1] end = {0}, int64[1] axes = {3}, int64[1] steps = {-2}",
              lambda q: q[..., 3:0:-2]),
    "Pad": ("t = Pad(q, pads, z)", "int64[8] pads = {0, 0, 1, 2, 0, 0, 0, -1}",
            lambda q: np.pad(q, [(0, 0), (0, 0), (1, 0), (2, 0)], constant_values=3)[..., :-1]),
    "Gather": ("t = Gather<axis=1>(q, index)", "int64[3] index = {1, 0, 1}", lambda q: q[:, [1, 0, 1]]),
    "MaxPool": ("t = MaxPool<kernel_shape=[2, 2]>(q)", "",
                lambda q: np.lib.stride_tricks.sliding_window_view(q, (2, 2), (2, 3)).max((4, 5))),
    "Where": ("m = Less(x, one) t = Where(m, q, z)", "float one = {1.0}", None),
    "Expand": ("t = Expand(q, shape)", "int64[5] shape = {2, 1, 2, 3, 4}", lambda q: np.stack([q, q])),
    "Squeeze": ("u = Unsqueeze(q, axes) t = Squeeze(u, axes)", "int64[1] axes = {2}", lambda q: q),
    "DepthToSpace": ("u = Concat<axis=1>(q, q) t = DepthToSpace<blocksize=2>(u)", "", None),
    "Tile": ("t = Tile(q, repeats)", "int64[4] repeats = {1, 2, 1, 1}", lambda q: np.tile(q, (1, 2, 1, 1))),
    "Flatten": ("t = Flatten<axis=2>(q)", "", lambda q: q.reshape(2, 12)),
    "Identity": ("t = Identity(q)", "", lambda q: q),
    "If": ("c = ReduceMax<keepdims=0>(x) b = Less(c, many) t = If(b) <then_branch = g () => (int8[1, 2, 3, 4] u) "
           "{ u = Identity(q) }, else_branch = h () => (int8[1, 2, 3, 4] v) { v = Transpose<perm=[0, 1, 2, 3]>(q) }>",
           "float many = {1000.0}", lambda q: q),
    "Loop": ("t = Loop(count, yes, q) <body = g (int64 i, bool c, int8[1, 2, 3, 4] u) => (bool d, int8[1, 2, 3, 4] v) "
             "{ d = Identity(c) v = Slice(u, start, end, axes, steps) }>",
             "int64 count = {3}, bool yes = {1}, int64[1] start = {-1}, int64[1] end = {-9}, int64[1] axes = {3}, "
             "int64[1] steps = {-1}", lambda q: q[..., ::-1]),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_moves_of_integers(name: str) -> None:
    """Gradients pass what moves quantized numbers, in both modes and in a Hessian."""
    body, constants, move = MOVES[name]
    more = f", {constants}" if constants else ""
    node = (
        "g (float[1, 2, 3, 4] x, float s) => (float y) <int8 z = {3}"
        + more
        + "> { q = QuantizeLinear(x, s, z) "
        + body
        + " r = DequantizeLinear(t, s, z) y = ReduceSumSquare<keepdims=0>(r) }"
    )
    model = parsed(node)
    x, s = np.linspace(-9, 14, 24).reshape(1, 2, 3, 4)[..., ::-1].astype(np.float32), np.array(0.1, np.float32)
    counts = {"Where": lambda q: np.where(x < 1, q, 3), "DepthToSpace": lambda q: np.concatenate([q, q])}
    move = move or counts[name]

    def f(rounding: Roundings, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        return (((move(rounding(x / s, 3, -128, 127)) - 3) * s) ** 2).sum()

    point = [x.astype(float), s.astype(float)]
    expected = gradients(smooth(f, point), point, np.ones(()))
    assert (expected[0] == 0).any()  # some of it saturates
    found = run(onnxgrad.gradient(model, wrt=["x", "s"], straight_through=True), {"x": x, "s": s})
    # by s, as a difference of terms 300 times as large
    np.testing.assert_allclose(found["grad_y_x"], expected[0], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found["grad_y_s"], expected[1], rtol=1e-4, atol=1e-3)
    t = np.cos(np.arange(24)).reshape(x.shape).astype(np.float32)
    forward = run(onnxgrad.jvp(model, wrt="x", straight_through=True), {"x": x, "s": s, "fwd_x": t})
    np.testing.assert_allclose(forward["fwd_y"], (t * expected[0]).sum(), rtol=1e-4)
    second = run(onnxgrad.hvp(model, wrt="x", straight_through=True), {"x": x, "s": s, "fwd_x": t})
    moved = gradients(smooth(f, point), [point[0] + t, point[1]], np.ones(()))  # of squares it is linear
    np.testing.assert_allclose(second["hvp_y_x"], moved[0] - expected[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("body", ["t = Mul(q, q)", "t = MatMul(q, w)", "t = ReduceMean<keepdims=1>(q)", "t = Neg(q)"])
def test_arithmetic_of_integers_is_refused(body: str) -> None:
    model = parsed(
        "g (float[2, 2] x) => (float[?, ?] y) <float s = {0.1}, int32[2, 2] w = {1, 2, 3, 4}> "
        f"{{ p = QuantizeLinear(x, s) q = Cast<to=6>(p) {body} y = Cast<to=1>(t) }}"
    )
    with pytest.raises(onnxgrad.NotDifferentiableError, match="do not pass straight through it on integers"):
        onnxgrad.vjp(model, straight_through=True)
    with pytest.warns(onnxgrad.DisconnectedWarning):
        onnxgrad.vjp(model)


@pytest.mark.parametrize("body", ["r = Round(x)", "i = Cast<to=6>(x) r = Cast<to=1>(i)", "r = Floor(x)", "r = Ceil(x)"])
def test_other_roundings_stay_zero(body: str) -> None:
    model = parsed(f"g (float[2] x) => (float[2] r) {{ {body} }}")
    with pytest.warns(onnxgrad.DisconnectedWarning):
        onnxgrad.vjp(model, straight_through=True)


# --- models from onnxruntime's tools ---------------------------------------------------------------------


class Data(CalibrationDataReader):
    """Calibration with more than the range of the data, so that nothing saturates."""

    def __init__(self, x: np.ndarray) -> None:
        own = np.random.default_rng(3)
        more = (own.normal(scale=1.3, size=x.shape).astype(np.float32) for _ in range(20))
        self._items: Iterator[dict[str, np.ndarray]] = iter([{"x": x}, *({"x": each} for each in more)])

    def get_next(self) -> Any:
        return next(self._items, None)


def weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    own = np.random.default_rng(7)
    return [
        numpy_helper.from_array(
            (own.normal(size=s) / np.sqrt(np.prod(s[1:] if len(s) > 2 else s[:1]))).astype("f"), name
        )
        for name, s in shapes.items()
    ]


def network(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    model = parsed(text)
    model.graph.initializer.extend(weights(**shapes))
    return model


NETWORKS = {
    "mlp": (
        network(
            "g (float[N, 8] x) => (float[N, 3] y) "
            "{ a = Gemm(x, W1, b1) h = Sigmoid(a) c = Gemm(h, W2) t = Sigmoid(c) y = MatMul(t, W3) }",
            W1=(8, 16), b1=(16,), W2=(16, 12), W3=(12, 3),
        ),
        (4, 8),
    ),
    "cnn": (
        network(
            "g (float[N, 3, 12, 12] x) => (float[N, 4] y) { a = Conv<pads=[1, 1, 1, 1]>(x, W1, b1) "
            "l = LeakyRelu<alpha=0.5>(a) p = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(l) c = Conv(p, W2) "
            "s = Sigmoid(c) r = Conv<pads=[1, 1, 1, 1]>(s, W4) e = Add(s, r) k = Concat<axis=1>(e, s) "
            "m = GlobalAveragePool(k) f = Flatten(m) z = Gemm(f, W3, b3) y = Softmax(z) }",
            W1=(8, 3, 3, 3), b1=(8,), W2=(6, 8, 3, 3), W4=(6, 6, 3, 3), W3=(12, 4), b3=(4,),
        ),
        (2, 3, 12, 12),
    ),
    "transformer": (
        network(
            "g (float[N, 6, 8] x) => (float[N, 6, 8] y) "
            "<int64[4] hs = {0, 6, 2, 4}, int64[3] bs = {0, 6, 8}, float c = {0.5}> "
            "{ q = MatMul(x, Wq) k = MatMul(x, Wk) v = MatMul(x, Wv) q4 = Reshape(q, hs) k4 = Reshape(k, hs) "
            "v4 = Reshape(v, hs) qt = Transpose<perm=[0, 2, 1, 3]>(q4) kt = Transpose<perm=[0, 2, 3, 1]>(k4) "
            "vt = Transpose<perm=[0, 2, 1, 3]>(v4) s = MatMul(qt, kt) sc = Mul(s, c) p = Softmax(sc) o = MatMul(p, vt) "
            "ot = Transpose<perm=[0, 2, 1, 3]>(o) w = Reshape(ot, bs) z = MatMul(w, Wo) r = Add(x, z) "
            "n = LayerNormalization(r, g1) f = MatMul(n, W1) a = Gelu(f) f2 = MatMul(a, W2) y = Add(n, f2) }",
            Wq=(8, 8), Wk=(8, 8), Wv=(8, 8), Wo=(8, 8), W1=(8, 16), W2=(16, 8), g1=(8,),
        ),
        (2, 6, 8),
    ),
}  # fmt: skip

STATIC = {
    "qdq": {"quant_format": QuantFormat.QDQ},
    "qdq-per-channel": {"quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QUInt8},
    "qdq-16-bits": {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt16},
    "operators": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8},
    "operators-int8": {"quant_format": QuantFormat.QOperator, "per_channel": True},
}


@pytest.mark.parametrize("form", [*STATIC, "dynamic"])
@pytest.mark.parametrize("name", NETWORKS)
def test_models_of_the_tools(name: str, form: str, tmp_path: Path) -> None:
    """Near the gradient of the model before it was quantized; JVP and VJP agree; the true one is zero, or of scales."""
    model, shape = NETWORKS[name]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    plain, file = str(tmp_path / "plain.onnx"), str(tmp_path / "quantized.onnx")
    onnx.save(model, plain)
    if form == "dynamic":
        quantize_dynamic(plain, file)
    else:
        quantize_static(plain, file, Data(x), **STATIC[form])
    quantized = onnx.load(file)
    y = run(model, {"x": x})["y"]
    ct = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)
    expected = run(onnxgrad.vjp(model), {"x": x, "adj_y": ct})["adj_x"]
    found = run(onnxgrad.vjp(quantized, wrt="x", straight_through=True), {"x": x, "adj_y": ct})
    # onnxruntime fuses these nodes, unless a derivative needs what is in between; so the node-by-node values count,
    # up to some numbers that a sum in another order rounds to a neighbor
    np.testing.assert_allclose(found["y"], run(quantized, {"x": x}, fused=False)["y"], atol=0.02)
    error = np.linalg.norm(found["adj_x"] - expected) / np.linalg.norm(expected)
    # numbers of 8 bits in eight layers; half of the largest error that was seen for each network is allowed on top
    assert error < {"cnn": 0.12}.get(name, 0.04), error
    t = np.sin(np.arange(x.size)).reshape(shape).astype(np.float32)
    forward = run(onnxgrad.jvp(quantized, wrt="x", straight_through=True), {"x": x, "fwd_x": t})["fwd_y"]
    scale = float(np.abs(ct * forward).sum() + np.abs(found["adj_x"] * t).sum())
    assert abs((ct * forward).sum() - (found["adj_x"] * t).sum()) < 2e-5 * scale
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        true = run(onnxgrad.vjp(quantized, wrt="x"), {"x": x, "adj_y": ct})["adj_x"]
    if form == "dynamic":  # by the scales alone
        assert np.isfinite(true).all()
        assert true.any()
    else:
        assert not true.any()
        assert any(issubclass(w.category, onnxgrad.DisconnectedWarning) for w in caught)


@pytest.mark.parametrize("straight", [False, True])
def test_onnxruntime_takes_what_reads_dequantized_numbers(straight: bool) -> None:
    """At opset 21 onnxruntime 1.32 refuses a `Transpose` of dequantized int8; so derivatives have none."""
    model = parsed(
        "g (float[2, 2] x, float s) => (float[2, 2] y) <int8 z = {3}> "
        "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, d) }"
    )
    x, s = np.array([[0.5, -1.0], [0.25, 2.0]], np.float32), np.array(0.25, np.float32)
    ct = np.array([[1, 2], [3, 4]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)
        derived = onnxgrad.vjp(model, wrt=["x", "s"], straight_through=straight)
    found = run(derived, {"x": x, "s": s, "adj_y": ct})
    np.testing.assert_allclose(found["adj_x"], straight * (ct @ x.T + x.T @ ct), rtol=1e-6)
    # all x are multiples of the scale, so straight through the rounding y does not depend on it
    np.testing.assert_allclose(found["adj_s"], 0 if straight else 2 * (ct * (x @ x)).sum() / s, atol=1e-4)


# --- the argument ----------------------------------------------------------------------------------------

PAIR = """
g (float[N, 2] x) => (float[N, 1] y) <float s = {0.125}, int8 z = {0}>
{ q = QuantizeLinear(x, s, z) r = DequantizeLinear(q, s, z) p = Mul(r, r) y = ReduceSum<keepdims=1>(p, axes) }
"""
X = np.array([[1.0, -2.0], [99.0, 0.5]], np.float32)  # multiples of the scale, and one that saturates
GRADIENT = np.array([[2.0, -4.0], [0.0, 1.0]])


@pytest.fixture
def model() -> onnx.ModelProto:
    found = parsed(PAIR)
    found.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    return found


def test_all_transforms(model: onnx.ModelProto) -> None:
    v = np.array([[3.0, 5.0], [7.0, 11.0]], np.float32)
    one = np.ones((2, 1), np.float32)
    mask = (GRADIENT != 0) * 2.0
    expected: dict[str, tuple[dict[str, np.ndarray], np.ndarray]] = {
        "vjp": ({"adj_y": one}, GRADIENT),
        "jvp": ({"fwd_x": v}, (GRADIENT * v).sum(1, keepdims=True)),
        "gradient": ({}, GRADIENT),
        "jacobian": ({}, GRADIENT[:, None]),
        "hessian": ({}, np.stack([np.diag(row) for row in mask])),
        "hvp": ({"fwd_x": v}, mask * v),
    }
    for kind, (more, value) in expected.items():
        derived = getattr(onnxgrad, kind)(model, straight_through=True, keep_outputs=False)
        np.testing.assert_array_equal(next(iter(run(derived, {"x": X, **more}).values())), value, err_msg=kind)
        records = onnxgrad.derivatives(derived)
        assert [r.straight_through for r in records] == [True]
        with pytest.warns(onnxgrad.DisconnectedWarning):
            plain = getattr(onnxgrad, kind)(model, keep_outputs=False)
        assert not next(iter(run(plain, {"x": X, **more}).values())).any()
        assert [r.straight_through for r in onnxgrad.derivatives(plain)] == [False]


def test_function(model: onnx.ModelProto) -> None:
    f = onnxgrad.load(model, straight_through=True)
    np.testing.assert_array_equal(f.gradient(X), GRADIENT)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(f)).jacobian(X), GRADIENT[:, None])
    wide = onnxgrad.load(model, straight_through=True, max_bytes=4096).jacobian(np.tile(X, (40, 1)))
    np.testing.assert_array_equal(wide, np.tile(GRADIENT[:, None], (40, 1, 1)))
    with pytest.warns(onnxgrad.DisconnectedWarning):
        assert not onnxgrad.load(model).gradient(X).any()


def test_saved_function(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnxgrad.load(model, straight_through=True).save(tmp_path / "saved.onnx", gradient=True)
    saved = onnx.load(tmp_path / "saved.onnx")
    assert onnxgrad.derivatives(saved)[0].straight_through
    np.testing.assert_array_equal(run(saved, {"x": X})["grad_y_x"], GRADIENT)


def test_commands(model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(model, "m.onnx")
    np.savez("x.npz", x=X)
    runner = CliRunner()

    def command(*words: str) -> str:
        result = runner.invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    text = command("augment", "m.onnx", "-o", "a.onnx", "--gradient", "--straight-through", "--json")
    assert json.loads(text)["derivatives"][0]["straight_through"] is True
    np.testing.assert_array_equal(run(onnx.load("a.onnx"), {"x": X})["grad_y_x"], GRADIENT)
    command("run", "m.onnx", "--data", "x.npz", "-o", "y.npz", "--gradient", "--straight-through", "--json")
    np.testing.assert_array_equal(np.load("y.npz")["grad_y_x"], GRADIENT)
    zero = json.loads(command("inspect", "m.onnx", "--json"))["derivatives"][0]["zero"]
    assert "it rounds" in zero
    assert json.loads(command("inspect", "m.onnx", "--straight-through", "--json"))["derivatives"][0]["zero"] is None


def test_metadata_of_older_files(model: onnx.ModelProto) -> None:
    """They do not have the field."""
    derived = onnxgrad.gradient(model, straight_through=True)
    (entry,) = derived.metadata_props
    content = json.loads(entry.value)
    del content["derivatives"][0]["straight_through"]
    entry.value = json.dumps(content)
    assert onnxgrad.derivatives(derived)[0].straight_through is False


def test_gradient_operator(model: onnx.ModelProto) -> None:
    """The standard's own, which asks for the derivative inside of the model."""
    model.graph.node.append(helper.make_node("ReduceSum", ["y"], ["f"], keepdims=0))
    node = helper.make_node("Gradient", ["x"], ["g"], domain="ai.onnx.preview.training", xs=["x"], y="f")
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    model.graph.output.append(helper.make_tensor_value_info("g", onnx.TensorProto.FLOAT, ["N", 2]))
    lowered = onnxgrad.lower_gradients(model, straight_through=True)
    np.testing.assert_array_equal(run(lowered, {"x": X})["g"], GRADIENT)


def test_page() -> None:
    """The example of docs/quantized.md runs."""
    text = (Path(__file__).parents[1] / "docs" / "quantized.md").read_text(encoding="utf-8")
    (block,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    exec(block, {})
