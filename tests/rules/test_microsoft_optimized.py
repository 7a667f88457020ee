"""Models as onnxruntime saves them after its optimizations: their derivatives are those of the models before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxgrad
from tests.harness import Runner, close

Level = ort.GraphOptimizationLevel
node = helper.make_node


class Weights(dict[str, np.ndarray]):
    """Initializers by name; calling it makes one, and gives its name."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(5)

    def __call__(self, *shape: int) -> str:
        return self.put((0.4 * self.rng.normal(size=shape)).astype(np.float32))

    def put(self, array: np.ndarray) -> str:
        name = f"w{len(self)}"
        self[name] = np.asarray(array)
        return name


def model_of(nodes: list[onnx.NodeProto], weights: Weights, shape: list[str | int], rank: int) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, 1, s) for n, s in (("x", shape), ("y", [None] * rank)))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def convolutions() -> onnx.ModelProto:
    """A network with branches, depthwise convolutions and activations of several kinds."""
    w = Weights()
    variance = w.put(np.linspace(0.5, 1.5, 8).astype(np.float32))
    nodes = [
        node("Conv", ["x", w(8, 3, 3, 3), w(8)], ["c1"], pads=[1] * 4),
        node("BatchNormalization", ["c1", w(8), w(8), w(8), variance], ["b"]),
        node("Tanh", ["b"], ["r1"]),
        node("Conv", ["r1", w(8, 8, 3, 3), w(8)], ["c2"], pads=[1] * 4),
        node("Add", ["c2", "r1"], ["a"]),
        node("Relu", ["a"], ["r2"]),
        node("AveragePool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", w(16, 8, 1, 1), w(16)], ["c3"]),
        node("LeakyRelu", ["c3"], ["l"], alpha=0.2),
        node("Conv", ["l", w(16, 1, 3, 3)], ["c4"], group=16),
        node("Sigmoid", ["c4"], ["s"]),
        node("Mul", ["c4", "s"], ["silu"]),
        node("Conv", ["silu", w(8, 16, 1, 1), w(8)], ["c5"]),
        node("Sigmoid", ["c5"], ["s5"]),
        node("GlobalAveragePool", ["s5"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", w(4, 8), w(4)], ["e"], transB=1),
        node("LeakyRelu", ["e"], ["er"], alpha=0.1),
        node("Gemm", ["er", w(4, 3), w(3)], ["y"]),
    ]
    return model_of(nodes, w, ["N", 3, 8, 8], 2)


def transformer() -> onnx.ModelProto:
    """An encoder's layer as exporters write it, with its GELU in parts."""
    w, heads, size = Weights(), 2, 8
    width = heads * size

    def number(value: float) -> str:
        return w.put(np.float32(value))

    apart, together = (w.put(np.array(s)) for s in ([0, 0, heads, size], [0, 0, width]))
    nodes = [node("LayerNormalization", ["x", w(width), w(width)], ["n1"], axis=-1, epsilon=1e-5)]
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["n1", w(width, width)], [f"{name}1"]),
            node("Add", [f"{name}1", w(width)], [f"{name}2"]),
            node("Reshape", [f"{name}2", apart], [f"{name}3"]),
            node("Transpose", [f"{name}3"], [name], perm=order),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["qk"]),
        node("Div", ["qk", number(size**0.5)], ["scaled"]),
        node("Softmax", ["scaled"], ["weights"], axis=-1),
        node("MatMul", ["weights", "v"], ["heads"]),
        node("Transpose", ["heads"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", together], ["joined"]),
        node("MatMul", ["joined", w(width, width)], ["o1"]),
        node("Add", ["o1", w(width)], ["o2"]),
        node("Add", ["o2", "n1"], ["sum"]),
        node("LayerNormalization", ["sum", w(width), w(width)], ["n2"], axis=-1, epsilon=1e-5),
        node("MatMul", ["n2", w(width, 32)], ["h1"]),
        node("Add", ["h1", w(32)], ["h2"]),
        node("Div", ["h2", number(2**0.5)], ["g1"]),
        node("Erf", ["g1"], ["g2"]),
        node("Add", ["g2", number(1)], ["g3"]),
        node("Mul", ["h2", "g3"], ["g4"]),
        node("Mul", ["g4", number(0.5)], ["g5"]),
        node("MatMul", ["g5", w(32, width)], ["d1"]),
        node("Add", ["d1", w(width)], ["d2"]),
        node("Add", ["d2", "n2"], ["sum2"]),
        node("LayerNormalization", ["sum2", w(width), w(width)], ["n3"], axis=-1, epsilon=1e-5),
        node("Transpose", ["n3"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["n3", "t"], ["y"]),
    ]
    return model_of(nodes, w, ["N", "S", width], 3)


def optimized(model: onnx.ModelProto, level: Level, folder: Path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4  # it warns that the file is for this processor only
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def own_operators(model: onnx.ModelProto) -> set[str]:
    return {n.op_type for n in model.graph.node if n.domain.startswith("com.microsoft")}


def compare(model: onnx.ModelProto, changed: onnx.ModelProto, x: np.ndarray) -> None:
    """Both models have the same outputs, gradients, and products with the second derivative."""
    feeds = {"x": x.astype(np.float32)}
    y = Runner(model, only_runtime=True)(feeds)["y"]
    rng = np.random.default_rng(1)
    feeds["adj_y"] = rng.normal(size=y.shape).astype(np.float32)
    seed = rng.normal(size=x.shape).astype(np.float32)
    first, second = [], []
    for m in (model, changed):
        gradient = onnxgrad.vjp(m, "y", "x")
        first.append(Runner(gradient, only_runtime=True)(feeds))
        twice = onnxgrad.jvp(gradient, "adj_x", "x", keep_outputs=False)
        second.append(Runner(twice, only_runtime=True)({**feeds, "fwd_x": seed})["fwd_adj_x"])
    close(first[1]["y"], first[0]["y"], 1e-5, "outputs")
    close(first[1]["adj_x"], first[0]["adj_x"], 1e-4, "gradients")  # fused kernels round in another order
    close(second[1], second[0], 1e-3, "second derivatives")


X = np.random.default_rng(2).normal(size=(2, 3, 8, 8))
SEQUENCE = np.random.default_rng(3).normal(size=(2, 5, 16))


def test_convolutions(tmp_path: Path) -> None:
    model = convolutions()
    changed = optimized(model, Level.ORT_ENABLE_EXTENDED, tmp_path)
    assert {"FusedConv", "FusedGemm", "QuickGelu"} <= own_operators(changed)
    compare(model, changed, X)
    assert [d.batched for d in onnxgrad.derivatives(onnxgrad.jacobian(changed, "y", "x"))] == [True]


@pytest.mark.parametrize("level", [Level.ORT_ENABLE_EXTENDED, Level.ORT_ENABLE_ALL], ids=["extended", "all"])
def test_transformer(level: Level, tmp_path: Path) -> None:
    model = transformer()
    changed = optimized(model, level, tmp_path)
    assert {"SkipLayerNormalization", "BiasGelu", "FusedMatMul"} <= own_operators(changed)
    compare(model, changed, SEQUENCE)
    assert [d.batched for d in onnxgrad.derivatives(onnxgrad.jacobian(changed, "y", "x"))] == [True]


def test_blocked_layouts_are_refused_with_the_remedy(tmp_path: Path) -> None:
    changed = optimized(convolutions(), Level.ORT_ENABLE_ALL, tmp_path)
    if not any(n.domain == "com.microsoft.nchwc" for n in changed.graph.node):
        pytest.skip("this processor has no blocked layout")
    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"com\.microsoft\.nchwc::ReorderOutput") as refused:
        onnxgrad.vjp(changed, "y", "x")
    assert "ORT_ENABLE_EXTENDED" in str(refused.value)
    assert "not known" not in str(refused.value)  # and not for a lack of shapes
