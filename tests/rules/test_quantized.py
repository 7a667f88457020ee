"""Operators on quantized numbers: true derivatives, and those straight through the roundings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxgrad
from tests.straight_through import RANGES, Roundings, gradients, smooth

#: In float32 against float64: a few roundings of sums over at most some tens of terms.
SINGLE = 2e-5
MICROSOFT = "com.microsoft"


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in model.graph.output]
    results = session.run(names, {name: np.asarray(value) for name, value in feeds.items()})
    return dict(zip(names, results, strict=True))


def close(found: np.ndarray, expected: np.ndarray, what: str, tolerance: float = SINGLE, scale: float = 1e-3) -> None:
    scale = max(scale, float(np.abs(expected).max(initial=0)))
    assert found.shape == expected.shape, what
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale, err_msg=what)


@dataclass
class Case:
    """One operator on quantized inputs, between `QuantizeLinear` and, if its output is quantized, `DequantizeLinear`.

    Attributes:
        op: the operator.
        function: what it computes without quantization, of arrays (and then of all scales, in order).
        inputs: real numbers, each quantized with its scale and zero point.
        names: the inputs of the node, from ``x0 s0 z0 … sy zy`` and the names in `constants`.
        scales, zeros: for each input; scales may be arrays. The last ones are those of the output, if it is quantized.
        types: of each quantized tensor.
        axes: of each scale that is an array.
    """

    op: str
    function: Callable[..., np.ndarray]
    inputs: Sequence[np.ndarray]
    names: str
    scales: Sequence[Any]
    zeros: Sequence[int]
    types: Sequence[str] = ()
    axes: Sequence[int] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    domain: str = ""
    label: str = ""

    @property
    def quantized(self) -> bool:
        return len(self.scales) > len(self.inputs)

    def type_of(self, i: int) -> str:
        return self.types[i] if self.types else "uint8"

    def axis_of(self, i: int) -> int:
        return self.axes[i] if self.axes else 0

    def reference(self, rounding: Roundings, *args: np.ndarray) -> np.ndarray:
        """The node between its neighbors, in float64, of inputs and scales."""
        count = len(self.inputs)
        xs, scales = args[:count], args[count:]
        real = []
        for i, x in enumerate(xs):
            shape = [-1 if a == self.axis_of(i) % x.ndim else 1 for a in range(x.ndim)]
            scale = scales[i].reshape(shape) if scales[i].ndim else scales[i]
            q = rounding(x / scale, self.zeros[i], *RANGES[self.type_of(i)])
            real.append((q - self.zeros[i]) * scale)
        y = self.function(*real, *scales[:count])
        if not self.quantized:
            return y
        q = rounding(y / scales[-1], self.zeros[-1], *RANGES[self.type_of(count)])
        return (q - self.zeros[-1]) * scales[-1]

    def point(self) -> dict[str, np.ndarray]:
        """Inputs and scales by name, in numbers that float32 holds."""
        count = len(self.inputs)
        named = {f"r{i}": x for i, x in enumerate(self.inputs)}
        # a scale of y that has no ratio to the others: nothing lies halfway between two numbers; only the kernel of
        # QLinearSoftmax in onnxruntime 1.32 is off by one for any scale but 1/256
        ratios = [1.0] * count + [1.0 if np.all(self.scales[-1] == 1 / 256) else 1.0371]
        named |= {f"s{i}" if i < count else "sy": ratios[i] * s for i, s in enumerate(self.scales)}
        return {name: np.asarray(v, np.float32).astype(np.float64) for name, v in named.items()}

    def model(self, dynamic: bool) -> onnx.ModelProto:
        count, nodes = len(self.inputs), []
        constants = dict(self.constants)
        for i in range(count + self.quantized):
            name = f"{i}" if i < count else "y"
            constants[f"z{name}"] = np.full(np.shape(self.scales[i]), self.zeros[i], self.type_of(i))
        nodes.extend(
            helper.make_node("QuantizeLinear", [f"r{i}", f"s{i}", f"z{i}"], [f"x{i}"], axis=self.axis_of(i))
            for i in range(count)
        )
        out = "q" if self.quantized else "y"
        names = ["" if n == "-" else n for n in self.names.split()]
        nodes.append(helper.make_node(self.op, names, [out], name="n", domain=self.domain, **self.attrs))
        if self.quantized:
            nodes.append(helper.make_node("DequantizeLinear", ["q", "sy", "zy"], ["y"]))
        inputs = []
        for name, v in self.point().items():
            shape = [f"{name}_{a}" for a in range(v.ndim)] if dynamic and name[0] == "r" else v.shape
            inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        y = self.reference(Roundings(), *self.point().values())
        outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * y.ndim if dynamic else y.shape)]
        initializers = [numpy_helper.from_array(v, name) for name, v in constants.items()]
        graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


rng = np.random.default_rng(11)


def a(*shape: int, scale: float = 1.0) -> np.ndarray:
    """Numbers of their own for each shape, whatever other cases there are."""
    return scale * np.random.default_rng([11, *shape]).normal(size=shape)


def correlate(x: np.ndarray, w: np.ndarray, pad: int = 0, stride: int = 1, group: int = 1) -> np.ndarray:
    """Convolution over two axes."""
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    n, _, height, width = windows.shape[:4]
    windows = windows.reshape(n, group, -1, height, width, *w.shape[2:])
    kernels = w.reshape(group, -1, *w.shape[1:])
    return np.einsum("ngchwij,gocij->ngohw", windows, kernels).reshape(n, -1, height, width)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


UNARY, BINARY = "x0 s0 z0 sy zy", "x0 s0 z0 x1 s1 z1 sy zy"


def ms(op: str, *args: Any, **kwargs: Any) -> Case:
    return Case(op, *args, domain=MICROSOFT, **kwargs)


def pooled(x: np.ndarray) -> np.ndarray:
    return correlate(x.reshape(-1, 1, *x.shape[2:]), np.full((1, 1, 2, 2), 0.25), stride=2).reshape(
        *x.shape[:2], x.shape[2] // 2, x.shape[3] // 2
    )


C = rng.integers(-500, 500, 5).astype(np.int32)
MASK = rng.integers(0, 2, (3, 1)).astype(bool)
PER_ROW, PER_COLUMN = np.array([0.02, 0.03, 0.05]), np.array([0.02, 0.01, 0.04, 0.03, 0.015])
SIGNED = ("int8", "int8", "int8")

QUANTIZED = [
    Case("QLinearMatMul", lambda x, w, *_: x @ w, [a(3, 4), a(4, 5)], BINARY, [0.02, 0.03, 0.02], [120, 130, 128]),
    Case("QLinearMatMul", lambda x, w, *_: x @ w, [a(2, 3, 4), a(4, 5)], BINARY, [0.02, PER_COLUMN, 0.03], [3, 0, -4],
         SIGNED, [0, 1, 0], label="per-column"),
    Case("QLinearMatMul", lambda x, w, *_: x @ w, [a(2, 3, 4), a(2, 4, 5)], BINARY, [0.02, 0.02, 0.1], [3, 1, -4],
         SIGNED, label="stacked"),
    Case("QLinearConv", lambda x, w, *_: correlate(x, w, 1, 2), [a(2, 4, 6, 5), a(5, 4, 3, 3)], BINARY,
         [0.02, PER_COLUMN, 0.08], [3, 0, -4], SIGNED, attrs={"pads": [1, 1, 1, 1], "strides": [2, 2]},
         label="per-channel"),
    Case("QLinearConv", lambda x, w, s, t: correlate(x, w, group=2) + (C[:4] * s * t)[:, None, None],
         [a(2, 4, 4, 5), a(4, 2, 3, 3)], f"{BINARY} C", [0.02, 0.03, 0.05], [128, 127, 110], attrs={"group": 2},
         constants={"C": C[:4]}, label="bias"),
    ms("QLinearConv", lambda x, w, *_: last(correlate(first(x), w, 1)), [a(2, 6, 5, 4), a(5, 4, 3, 3)], BINARY,
       [0.02, PER_COLUMN, 0.08], [3, 0, -4], types=SIGNED, attrs={"pads": [1, 1, 1, 1], "channels_last": 1},
       label="channels-last"),
    ms("QLinearAdd", lambda x, y, *_: x + y, [a(3, 4), a(2, 3, 1)], BINARY, [0.02, 0.03, 0.02], [120, 130, 128]),
    ms("QLinearMul", lambda x, y, *_: x * y, [a(2, 3, 4), a(4)], BINARY, [0.02, 0.03, 0.021], [10, 13, -12], SIGNED),
    ms("QLinearSigmoid", lambda x, _: 1 / (1 + np.exp(-x)), [a(3, 4, scale=3)], UNARY, [0.05, 1 / 256], [128, 0]),
    ms("QLinearLeakyRelu", lambda x, _: np.where(x > 0, x, 0.2 * x), [a(3, 4) + 0.1 * np.sign(a(3, 4))],
       UNARY, [0.02, 0.02], [128, 100], attrs={"alpha": 0.2}),
    ms("QLinearAveragePool", lambda x, _: pooled(x), [a(2, 3, 4, 6)], UNARY, [0.02, 0.0113], [128, 130],
       attrs={"kernel_shape": [2, 2], "strides": [2, 2]}),
    ms("QLinearAveragePool", lambda x, _: last(pooled(first(x))), [a(2, 4, 6, 3)], UNARY, [0.02, 0.0113], [128, 130],
       attrs={"kernel_shape": [2, 2], "strides": [2, 2], "channels_last": 1}, label="channels-last"),
    ms("QLinearGlobalAveragePool", lambda x, _: x.mean((2, 3), keepdims=True), [a(2, 3, 4, 6)], UNARY, [0.02, 0.0113],
       [128, 130], attrs={"channels_last": 0}),
    ms("QLinearGlobalAveragePool", lambda x, _: x.mean((1, 2), keepdims=True), [a(2, 4, 6, 3)], UNARY, [0.02, 0.0113],
       [128, 130], attrs={"channels_last": 1}, label="channels-last"),
    ms("QLinearConcat", lambda x, y, *_: np.concatenate([x, y], 1), [a(2, 3), a(2, 4)], "sy zy x0 s0 z0 x1 s1 z1",
       [0.02, 0.03, 0.02], [128, 130, 120], attrs={"axis": 1}),
    ms("QLinearSoftmax", lambda x, _: softmax(x), [a(2, 3, 4)], UNARY, [0.02, 1 / 256], [128, 0],
       attrs={"axis": -1, "opset": 13}),
    ms("QLinearSoftmax", lambda x, _: softmax(x.reshape(2, 12)).reshape(2, 3, 4), [a(2, 3, 4)], UNARY, [0.02, 1 / 256],
       [128, 0], attrs={"axis": 1, "opset": 12}, label="opset-12"),
    ms("QLinearWhere", lambda x, y, *_: np.where(MASK, x, y), [a(3, 4), a(2, 3, 1)], f"M {BINARY}", [0.02, 0.03, 0.023],
       [128, 130, 120], constants={"M": MASK}),
    ms("QGemm", lambda x, w, s, t: 0.5 * (x.T @ w.T + C * s * t), [a(4, 3), a(5, 4)], "x0 s0 z0 x1 s1 z1 C sy zy",
       [0.02, 0.03, 0.02], [128, 130, 120], attrs={"transA": 1, "transB": 1, "alpha": 0.5}, constants={"C": C}),
    ms("QGemm", lambda x, w, *_: x @ w, [a(3, 4), a(4, 5)], "x0 s0 z0 x1 s1 z1 - sy zy", [0.02, PER_COLUMN, 0.02],
       [128, 0, 120], ["uint8", "int8", "uint8"], [0, 1], label="per-column"),
]  # fmt: skip
FLOATING = [
    ms("QGemm", lambda x, w, s, t: x @ w + C * s * t, [a(3, 4), a(4, 5)], "x0 s0 z0 x1 s1 z1 C", [0.02, 0.03],
       [128, 130], constants={"C": C}, label="float"),
    ms("MatMulIntegerToFloat", lambda x, w, *_: x @ w, [a(2, 3, 4), a(4, 5)], "x0 x1 s0 s1 z0 z1", [0.02, PER_COLUMN],
       [128, 0], ["uint8", "int8"], [0, 1]),
    Case("DequantizeLinear", lambda x, _: x, [a(2, 3, 4)], "x0 s0 z0", [PER_ROW], [128], axes=[1], attrs={"axis": 1}),
    Case("DequantizeLinear", lambda x, _: x, [a(2, 3, 4, scale=100)], "x0 s0 z0", [PER_ROW / 100], [5], ["int16"],
         axes=[1], attrs={"axis": -2}, label="int16"),
    Case("DequantizeLinear", lambda x, _: x, [a(4, 6)], "x0 s0 z0", [0.2], [1], ["int4"], label="int4"),
    Case("DequantizeLinear", lambda x, _: x, [a(4, 6)], "x0 s0 z0", [0.2], [7], ["uint4"], label="uint4"),
    Case("MatMulInteger", lambda x, w, s, t: (x / s) @ (w / t), [a(3, 4), a(4, 5)], "x0 x1 z0 z1", [0.02, 0.03],
         [128, 130], label="cast"),
    Case("ConvInteger", lambda x, w, s, t: correlate(x, w, 1) / s / t, [a(2, 3, 4, 4), a(5, 3, 3, 3)], "x0 x1 z0 z1",
         [0.02, 0.03], [128, 130], attrs={"pads": [1] * 4}, label="cast"),
]  # fmt: skip
CASES = [*QUANTIZED, *FLOATING]


def name_of(case: Case) -> str:
    return f"{case.op}-{case.label}" if case.label else case.op


def model_of(case: Case, dynamic: bool = False) -> onnx.ModelProto:
    """The model of a case; what a product of integers gives is cast."""
    model = case.model(dynamic)
    if case.label == "cast":
        model.graph.node[-1].output[0] = "i"
        model.graph.node.append(helper.make_node("Cast", ["i"], ["y"], to=onnx.TensorProto.FLOAT))
    return model


def magnitudes(
    case: Case, point: dict[str, np.ndarray], found: dict[str, np.ndarray], out: np.ndarray
) -> dict[str, float]:
    """How large the terms are that a derivative is the sum of; by a scale s they are ``x̄ x / s``, and cancel."""
    large = dict.fromkeys(point, 1e-3)
    for i, scale in enumerate(case.scales):
        name = f"s{i}" if i < len(case.inputs) else "sy"
        terms = found[f"r{i}"] * point[f"r{i}"] if i < len(case.inputs) else out
        large[name] = float(np.abs(terms).sum() / np.min(scale))
    return large


def tolerance_of(values: np.ndarray) -> float:
    return SINGLE * max(1e-3, float(np.abs(values).max()))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_straight_through(case: Case, dynamic: bool) -> None:
    """By inputs and all scales: VJP against differences of the smooth function, JVP against VJP, several seeds."""
    model, point = model_of(case, dynamic), case.point()
    names = list(point)
    g = smooth(case.reference, list(point.values()))
    feeds = {name: v.astype(np.float32) for name, v in point.items()}
    y = g(*point.values())
    ct = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)
    result = run(onnxgrad.vjp(model, wrt=names, straight_through=True), {**feeds, "adj_y": ct})
    np.testing.assert_allclose(result["y"], y, atol=tolerance_of(y), err_msg="the values at which it is taken")
    expected = gradients(g, list(point.values()), ct.astype(np.float64))
    terms = magnitudes(case, point, dict(zip(names, expected, strict=True)), ct * y)
    for name, gradient in zip(names, expected, strict=True):
        assert np.abs(gradient).max() > 1e-6
        close(result[f"adj_{name}"], gradient, f"adj_{name}", scale=terms[name])

    tangents = {name: np.sin(1 + np.arange(v.size)).reshape(v.shape).astype(np.float32) for name, v in feeds.items()}
    forward = run(
        onnxgrad.jvp(model, wrt=names, straight_through=True),
        {**feeds, **{f"fwd_{name}": t for name, t in tangents.items()}},
    )
    left = float((ct.astype(float) * forward["fwd_y"]).sum())
    products = [result[f"adj_{name}"].astype(float) * t for name, t in tangents.items()]
    scale = sum(float(np.abs(t).sum()) for t in products) + sum(terms.values())
    assert abs(left - sum(float(t.sum()) for t in products)) <= SINGLE * scale

    factors = np.array([2, 1, -3], np.float32).reshape(-1, *[1] * ct.ndim)
    several = run(onnxgrad.vjp(model, wrt=names, seeds="k", straight_through=True), {**feeds, "adj_y": factors * ct})
    for name in names:
        one = result[f"adj_{name}"]
        close(
            several[f"adj_{name}"],
            factors.reshape(-1, *[1] * one.ndim) * one,
            f"adj_{name} with seeds",
            scale=3 * terms[name],
        )


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_second_order(case: Case) -> None:
    """The product with the Hessian of a sum of squares, against differences of gradients in float64."""
    model, point = model_of(case), case.point()
    model.graph.node.append(helper.make_node("ReduceSumSquare", ["y"], ["f"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, []))
    names, values = list(point), list(point.values())
    g = smooth(case.reference, values)
    y = g(*values)
    direction = {n: 0.1 * v * np.cos(np.arange(v.size)).reshape(v.shape) for n, v in point.items()}

    def gradient(t: float) -> list[np.ndarray]:
        moved = [v + t * direction[n] for n, v in point.items()]
        return gradients(lambda *x: g(*x) ** 2, moved, np.ones(()), 1e-3)

    ahead, behind = gradient(1e-3), gradient(-1e-3)
    feeds = {name: v.astype(np.float32) for name, v in point.items()}
    feeds |= {f"fwd_{name}": t.astype(np.float32) for name, t in direction.items()}
    found = run(onnxgrad.hvp(model, "f", names, straight_through=True, keep_outputs=False), feeds)
    for name, plus, minus in zip(names, ahead, behind, strict=True):
        # differences of second order with a step of 1e-3: 1e-6, and rounding in float32
        terms = 0.1 * float((y**2).sum() / np.min(point[name])) if name[0] == "s" else 1e-3  # these cancel
        close(found[f"hvp_f_{name}"], (plus - minus) / 2e-3, name, 5e-4, scale=terms)


# --- without `straight_through` --------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in FLOATING if case.label != "cast"], ids=name_of)
def test_true_derivatives(case: Case) -> None:
    """By inputs zero; by the scales that real numbers are made with, those of the function of the numbers."""
    model, point = model_of(case), case.point()
    count = len(case.inputs)
    numbers = [
        (f"x{i}", np.rint(x / np.reshape(s, [-1 if a == case.axis_of(i) % x.ndim else 1 for a in range(x.ndim)])))
        for i, (x, s) in enumerate(zip(list(point.values())[:count], list(point.values())[count:], strict=True))
    ]
    real = []
    for i, (_, q) in enumerate(numbers):
        low, high = RANGES[case.type_of(i)]
        real.append(np.clip(q, low - case.zeros[i], high - case.zeros[i]))
    scales = list(point.values())[count:]

    def g(*scales: np.ndarray) -> np.ndarray:
        shaped = [
            s.reshape([-1 if a == case.axis_of(i) % q.ndim else 1 for a in range(q.ndim)]) if s.ndim else s
            for i, (s, q) in enumerate(zip(scales, real, strict=True))
        ]
        return case.function(*(q * s for q, s in zip(real, shaped, strict=True)), *scales)

    y = g(*scales)
    ct = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)
    feeds = {name: v.astype(np.float32) for name, v in point.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)
        found = run(onnxgrad.vjp(model, wrt=list(point)), {**feeds, "adj_y": ct})
    expected = gradients(g, scales, ct.astype(np.float64))
    for i, gradient in enumerate(expected):
        assert np.abs(gradient).max() > 1e-6
        close(found[f"adj_s{i}"], gradient, f"adj_s{i}", scale=float(np.abs(ct * y).sum() / np.min(scales[i])))
        assert not found[f"adj_r{i}"].any()


@pytest.mark.parametrize("case", QUANTIZED, ids=name_of)
def test_zero_across_a_rounding(case: Case) -> None:
    """It is said why; the scale that dequantizes the result is smooth."""
    model, point = model_of(case), case.point()
    for name in point:
        if name == "sy":
            continue
        with pytest.warns(onnxgrad.DisconnectedWarning, match="only through steps.*round"):
            with_zero = onnxgrad.vjp(model, wrt=name)
        assert "straight_through=True" in str(onnxgrad.derivatives(with_zero)[0].zero)
    y = case.reference(Roundings(), *point.values())
    ct = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)
    feeds = {name: v.astype(np.float32) for name, v in point.items()}
    found = run(onnxgrad.vjp(model, wrt="sy"), {**feeds, "adj_y": ct})
    close(
        found["adj_sy"],
        np.array((ct * y).sum() / point["sy"]),
        "adj_sy",
        scale=float(np.abs(ct * y).sum() / point["sy"]),
    )


# --- QuantizeLinear and DequantizeLinear -----------------------------------------------------------------


def pair(
    kind: str, shape: Sequence[int], scale: np.ndarray, zero: Any, opset: int, domain: str = "", **attrs: Any
) -> onnx.ModelProto:
    element = getattr(onnx.TensorProto, kind.upper())
    more = {name: v for name, v in attrs.items() if name in ("axis", "block_size")}
    zeros = helper.make_tensor("z", element, np.shape(zero), np.ravel(zero))
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], domain=domain, **attrs),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], domain=domain, **more),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, scale.shape),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * len(shape))],
        [zeros],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


ONE = np.array(0.125)
BLOCKS = np.array([0.25, 0.5, 0.125])[:, None] * np.array([1.0, 2.0])
PAIRS = [
    *(("int8", ONE, 3, opset, {}) for opset in (18, 19, 21, 23, 24, 25)),
    *((kind, ONE, 2, 21, {}) for kind in ("uint8", "int16", "uint16")),
    *((kind, ONE * 16, 2, 21, {}) for kind in ("int4", "uint4")),
    ("int8", np.array([0.1, 0.2]), [1, 2], 21, {"axis": -1}),
    ("int8", BLOCKS, [[1, 2], [3, 4], [5, 6]], 21, {"axis": 0, "block_size": 3}),
    ("uint4", BLOCKS, [[1, 2], [3, 4], [5, 6]], 21, {"axis": 0, "block_size": 3}),
    ("int8", np.stack([BLOCKS.T.ravel()[:4]] * 7) / 4, 0, 21, {"axis": 1, "block_size": 1}),
]  # fmt: skip


def laid_out(p: np.ndarray, x: np.ndarray, axis: int = 1, block_size: int = 0) -> np.ndarray:
    if block_size:
        return np.take(np.repeat(p, block_size, axis), range(x.shape[axis]), axis)
    return p.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]) if p.ndim else p


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("kind", "scale", "zero", "opset", "attrs"), PAIRS)
def test_pairs(kind: str, scale: np.ndarray, zero: Any, opset: int, attrs: dict[str, Any], dynamic: bool) -> None:
    """Saturating, in all types and all layouts of scales; in the last axis, 7 elements in 3 blocks of 3."""
    columns = scale.shape[1] if scale.ndim == 2 else 2
    zero = np.broadcast_to(zero, scale.shape)
    low, high = RANGES[kind]
    x = np.linspace(1.5 * low - 4, 1.5 * high + 4, 7 * columns).reshape(7, columns)
    x = (x * laid_out(scale, x, **attrs)).astype(np.float32).astype(np.float64)

    def f(rounding: Roundings, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        by, z = laid_out(s, x, **attrs), laid_out(np.asarray(zero, float), x, **attrs)
        return (rounding(x / by, z, low, high) - z) * by

    model = pair(kind, ["n", columns] if dynamic else x.shape, scale, zero, opset, **attrs)
    point = [x, scale.astype(np.float32).astype(np.float64)]
    ct = np.cos(np.arange(x.size)).reshape(x.shape).astype(np.float32)
    by_x, by_s = gradients(smooth(f, point), point, ct.astype(np.float64))
    assert (by_x == 0).any()
    assert (by_x != 0).any()
    feeds = {"x": x.astype(np.float32), "s": scale.astype(np.float32), "adj_y": ct}
    found = run(onnxgrad.vjp(model, wrt=["x", "s"], straight_through=True), feeds)
    np.testing.assert_allclose(found["adj_x"], by_x, rtol=1e-6, atol=1e-6)
    close(found["adj_s"], by_s, "adj_s", scale=float(np.abs(ct * x).sum() / scale.min()))


def test_pair_of_onnxruntime() -> None:
    model = pair("int8", [4], ONE, 3, 18, MICROSOFT)
    x = np.array([1.0, -3.3, 99.0, -99.0], np.float32)
    found = run(onnxgrad.vjp(model, wrt="x", straight_through=True), {"x": x, "s": np.float32(0.125), "adj_y": x})
    np.testing.assert_array_equal(found["adj_x"], [1.0, x[1], 0, 0])


@pytest.mark.parametrize(("kind", "largest"), [("float8e4m3fn", 448), ("float8e5m2", 57344)])
@pytest.mark.parametrize("saturate", [0, 1])
def test_floating_point_types_of_8_bits(kind: str, largest: float, saturate: int) -> None:
    """Gradients pass up to the largest finite number, and not beyond; without `saturate` that is no number."""
    model = pair(kind, [5], np.array(0.5), 0, 21, saturate=saturate)
    x = np.array([0.3, largest / 2, -largest / 2, 0.51 * largest, -0.6 * largest], np.float32)
    ct = np.array([1, 2, 3, 4, 5], np.float32)
    found = run(onnxgrad.vjp(model, wrt="x", straight_through=True), {"x": x, "s": np.float32(0.5), "adj_y": ct})
    np.testing.assert_array_equal(found["adj_x"], [1, 2, 3, 0, 0])
    with pytest.warns(onnxgrad.DisconnectedWarning, match="QuantizeLinear"):
        onnxgrad.vjp(model, wrt="x")
    y = run(model, {"x": x, "s": np.float32(0.5)})["y"]
    ct[3:] = 0
    scale = run(
        onnxgrad.vjp(pair(kind, [3], np.array(0.5), 0, 21), wrt="s"),
        {"x": x[:3], "s": np.float32(0.5), "adj_y": ct[:3]},
    )
    np.testing.assert_allclose(scale["adj_s"], (ct[:3] * y[:3]).sum() / 0.5, rtol=1e-6)


# --- dynamic quantization --------------------------------------------------------------------------------


def dynamic_quantization(rounding: Roundings, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = (high - low) / 255
    zero = rounding(-low / scale)
    return rounding(x / scale, zero, 0, 255), scale, zero


DYNAMIC = """
<ir_version: 10, opset_import: ["": 21]>
g (float[N, 4] x) => (float[N, 4] y, float s) { q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }
"""


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0], ids=["both signs", "positive", "negative"])
def test_dynamic_quantization(shift: float) -> None:
    model = onnx.parser.parse_model(DYNAMIC)
    x = (a(3, 4) + shift).astype(np.float32)
    ct = np.cos(np.arange(12)).reshape(3, 4).astype(np.float32)
    exact = x.astype(np.float64)

    def f(rounding: Roundings, x: np.ndarray) -> np.ndarray:
        q, s, z = dynamic_quantization(rounding, x)
        return (q - z) * s

    (straight,) = gradients(smooth(f, [exact]), [exact], ct)
    found = run(onnxgrad.vjp(model, "y", straight_through=True), {"x": x, "adj_y": ct})
    close(found["adj_x"], straight, "straight through")
    q, _, z = dynamic_quantization(Roundings(), exact)
    (true,) = gradients(lambda x: (q - z) * dynamic_quantization(Roundings(), x)[1], [exact], ct)
    found = run(onnxgrad.vjp(model, "y"), {"x": x, "adj_y": ct})
    close(found["adj_x"], true, "true", scale=float(np.abs(ct * (q - z)).sum() / 255))
    assert ((found["adj_x"] != 0).sum() == 2) == (shift == 0)
    (by_scale,) = gradients(lambda x: dynamic_quantization(Roundings(), x)[1], [exact], np.ones(()))
    close(run(onnxgrad.vjp(model, "s"), {"x": x, "adj_s": np.float32(1)})["adj_x"], by_scale, "scale")


def test_ties_of_dynamic_quantization() -> None:
    """Largest elements share, and with them the zero that the range includes."""
    model = onnx.parser.parse_model(DYNAMIC)
    x = np.array([[2, 2, 0, 0]], np.float32)
    found = run(onnxgrad.gradient(model, "s", "x"), {"x": x})["grad_s_x"]
    np.testing.assert_allclose(found, np.array([[0.5, 0.5, -0.25, -0.25]]) / 255, rtol=1e-6)
    for straight in (False, True):
        nothing = onnxgrad.vjp(model, "y", straight_through=straight)
        assert np.isfinite(run(nothing, {"x": 0 * x, "adj_y": x})["adj_x"]).all()


def test_dynamic_quantization_mixes_samples() -> None:
    """All of a batch have one scale."""
    model = onnx.parser.parse_model(DYNAMIC)
    for straight in (False, True):
        with pytest.raises(onnxgrad.MixedSamplesError, match="DynamicQuantizeLinear"):
            onnxgrad.jacobian(model, "y", straight_through=straight)


def one_node(op: str, inputs: dict[str, np.ndarray], names: str, outputs: int = 1, **attrs: Any) -> onnx.ModelProto:
    """A model of one node of onnxruntime's domain; float32 arrays are inputs, all others constants."""
    fed = {name: v for name, v in inputs.items() if v.dtype == np.float32}
    fixed = [numpy_helper.from_array(v, name) for name, v in inputs.items() if v.dtype != np.float32]
    given = ["" if name == "-" else name for name in names.split()]
    node = helper.make_node(op, given, [f"y{i}" for i in range(outputs)], name="n", domain=MICROSOFT, **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, v.shape) for name, v in fed.items()],
        [helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None) for y in node.output],
        fixed,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("straight", [False, True])
def test_dynamic_quantize_matmul(straight: bool) -> None:
    b, zero = rng.integers(-128, 128, (4, 5)).astype(np.int8), np.array([1, -2, 3, 4, -5], np.int8)
    inputs = {name: v.astype(np.float32) for name, v in {"A": a(2, 3, 4), "s": PER_COLUMN, "c": a(5)}.items()}
    model = one_node("DynamicQuantizeMatMul", {**inputs, "B": b, "z": zero}, "A B s z c")
    point = [v.astype(np.float64) for v in inputs.values()]
    fixed = dynamic_quantization(Roundings(), point[0])

    def f(rounding: Roundings, x: np.ndarray, s: np.ndarray, c: np.ndarray) -> np.ndarray:
        q, scale, z = dynamic_quantization(rounding if straight else Roundings(), x)
        q, z = (q, z) if straight else (fixed[0], fixed[2])
        return ((q - z) * scale) @ ((b.astype(float) - zero) * s) + c

    y = f(Roundings(), *point)
    ct = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)
    found = run(onnxgrad.vjp(model, straight_through=straight), {**inputs, "adj_y0": ct})
    close(found["y0"], y, "value", 1e-4)
    expected = gradients(smooth(f, point), point, ct.astype(np.float64))
    for name, gradient in zip(inputs, expected, strict=True):
        # by A, without the rounding, sums of 30 terms that cancel
        close(found[f"adj_{name}"], gradient, name, 1e-4, scale=float(np.abs(ct * y).sum()))
        assert np.abs(found[f"adj_{name}"]).max() > 0


@pytest.mark.parametrize("past", [False, True])
def test_attention(past: bool) -> None:
    """With one scale for all weights, or for each column, and past keys and values; values are those of its kernel."""
    heads, size, length = 2, 3, 4
    width = heads * size
    x, w = rng.integers(0, 256, (2, length, 5)).astype(np.uint8), rng.integers(0, 256, (5, 3 * width)).astype(np.uint8)
    zx, zw = np.array(120, np.uint8), np.array(130, np.uint8)
    inputs = {"b": a(3 * width), "sx": np.array(0.02), "sw": np.array(0.01)}
    if past:
        inputs["p"] = a(2, 2, heads, 3, size)
    inputs = {name: v.astype(np.float32) for name, v in inputs.items()}
    names = "x w b sx sw - zx zw p" if past else "x w b sx sw - zx zw"
    model = one_node(
        "QAttention", {**inputs, "x": x, "w": w, "zx": zx, "zw": zw}, names, 1 + past, num_heads=heads, unidirectional=0
    )

    def f(b: np.ndarray, sx: np.ndarray, sw: np.ndarray, *p: np.ndarray) -> np.ndarray:
        qkv = (x.astype(float) - zx) * sx @ ((w.astype(float) - zw) * sw) + b
        q, k, v = (t.reshape(2, length, heads, size).transpose(0, 2, 1, 3) for t in np.split(qkv, 3, -1))
        if p:
            k, v = (np.concatenate([old, new], 2) for old, new in zip(p[0], (k, v), strict=True))
        y = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(size)) @ v
        return y.transpose(0, 2, 1, 3).reshape(2, length, width)

    point = [v.astype(np.float64) for v in inputs.values()]
    y = f(*point)
    ct = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)
    for straight in (False, True):
        found = run(onnxgrad.vjp(model, "y0", straight_through=straight), {**inputs, "adj_y0": ct})
        close(found["y0"], y, "value", 1e-4)
        for name, gradient in zip(inputs, gradients(f, point, ct.astype(np.float64)), strict=True):
            # by scales, sums over hundreds of terms that cancel
            close(found[f"adj_{name}"], gradient, name, 1e-4, scale=float(np.abs(gradient).max()) + 1)


def test_lstm_is_refused() -> None:
    weights = {"w": np.zeros((1, 3, 8), np.int8), "r": np.zeros((1, 2, 8), np.int8)}
    scales = {"x": np.zeros((4, 1, 3), np.float32), "s": np.ones(1, np.float32)}
    model = one_node(
        "DynamicQuantizeLSTM",
        {**weights, **scales, "z": np.zeros(1, np.int8)},
        "x w r - - - - - s z s z",
        hidden_size=2,
    )
    for straight in (False, True):
        with pytest.raises(onnxgrad.NotDifferentiableError, match="quantizes its state anew"):
            onnxgrad.vjp(model, "y0", "x", straight_through=straight)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [None, [1], [-1, 0]])
def test_reduce_mean(axes: list[int] | None, keepdims: int) -> None:
    """No runtime has a kernel of it; but its derivative needs none."""
    over = tuple(range(3)) if axes is None else tuple(axes)
    more = {} if axes is None else {"axes": axes}
    case = ms("QLinearReduceMean", lambda x, _: x.mean(over, keepdims=bool(keepdims)), [a(2, 3, 4)], UNARY,
              [0.02, 0.01], [128, 130], attrs={"keepdims": keepdims, **more})  # fmt: skip
    point = case.point()
    g = smooth(case.reference, list(point.values()))
    y = g(*point.values())
    ct = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)
    derived = onnxgrad.vjp(case.model(dynamic=False), wrt="r0", straight_through=True, keep_outputs=False)
    feeds = {name: v.astype(np.float32) for name, v in point.items()}
    used = {i.name for i in derived.graph.input}
    found = run(derived, {name: v for name, v in {**feeds, "adj_y": ct}.items() if name in used})
    close(found["adj_r0"], gradients(g, list(point.values()), ct.astype(np.float64))[0], "adj_r0")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_types_of_real_numbers(dtype: type) -> None:
    """In float16, derivatives are computed in float32 and rounded once."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = pair("int8", [4], ONE, 3, 21)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = element
    x, ct = np.array([1, -3.3, 99, -99], dtype), np.array([1, 2, 3, 4], dtype)
    feeds = {"x": x, "s": np.array(0.125, dtype), "adj_y": ct}
    found = run(onnxgrad.vjp(model, wrt=["x", "s"], straight_through=True), feeds)
    assert found["adj_x"].dtype == found["adj_s"].dtype == dtype
    np.testing.assert_array_equal(found["adj_x"], [1, 2, 0, 0])
    inside = 2 * (-26 - float(x[1]) / 0.125)
    np.testing.assert_allclose(found["adj_s"], inside + 3 * 124 - 4 * 131, rtol=1e-3)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_samples(case: Case) -> None:
    """Where a Jacobian is per sample, it holds the blocks of the full one, and that has nothing else."""
    model, point = model_of(case), case.point()
    feeds = {name: v.astype(np.float32) for name, v in point.items()}
    try:
        blocks = run(onnxgrad.jacobian(model, "y", "r0", batched=True, straight_through=True), feeds)["jac_y_r0"]
    except onnxgrad.MixedSamplesError:
        assert name_of(case) in MIXED
        return
    assert name_of(case) not in MIXED
    full = run(onnxgrad.jacobian(model, "y", "r0", batched=False, straight_through=True), feeds)["jac_y_r0"]
    rank = full.ndim - point["r0"].ndim
    apart = np.moveaxis(full, (0, rank), (0, 1)).copy()
    for i, block in enumerate(blocks):
        np.testing.assert_allclose(apart[i, i], block, rtol=1e-5, atol=1e-6)
        apart[i, i] = 0
    assert not apart.any()


#: Cases in which samples meet, or lie on another axis of y: with transA, and an input that is broadcast.
MIXED = {"QLinearAdd", "QLinearWhere", "QGemm"}
