"""The numpy operators that stand in for those of ONNX's reference: the same results as onnxruntime's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxgrad.errors import RunError
from onnxgrad.runtime.evaluate import ORT, REFERENCE, Evaluator

rng = np.random.default_rng(5)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def single(op: str, inputs: list[np.ndarray | None], **attrs: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in feeds.items()
    ]
    node = helper.make_node(op, names, ["y"], **attrs)
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model), feeds


CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    ("Erf", [a(2, 3)], {}),
    ("GlobalMaxPool", [a(2, 3, 4)], {}),
    ("GlobalMaxPool", [a(1, 2, 3, 2, 2)], {}),
    ("Flatten", [a(2, 3, 4)], {"axis": -1}),
    ("Flatten", [a(0, 1)], {"axis": 1}),
    ("Flatten", [a(2, 3)], {"axis": 0}),
    ("Gelu", [a(2, 3)], {}),
    ("Gelu", [a(2, 3)], {"approximate": "tanh"}),
    ("Conv", [a(2, 3, 7), a(4, 3, 3)], {}),
    ("Conv", [a(2, 4, 7, 6), a(4, 1, 3, 2), a(4)], {"group": 4, "strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("Conv", [a(2, 4, 7, 6), a(8, 1, 3, 3)], {"group": 4, "dilations": [2, 1]}),
    ("Conv", [a(1, 32, 5, 5), a(6, 16, 2, 3), a(6)], {"group": 2, "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", [a(1, 2, 5, 4, 5), a(3, 2, 2, 3, 2)], {"auto_pad": "SAME_UPPER"}),
    ("Conv", [a(1, 2, 6), a(3, 2, 3)], {"auto_pad": "VALID", "strides": [2]}),
    ("ConvTranspose", [a(2, 4, 5), a(4, 3, 3), a(6)], {"group": 2, "strides": [2], "output_padding": [1]}),
    ("ConvTranspose", [a(2, 3, 4, 5), a(3, 2, 3, 2)], {"pads": [1, 0, 1, 1], "dilations": [1, 2], "strides": [1, 3]}),
    ("ConvTranspose", [a(1, 3, 4, 5), a(3, 2, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("ConvTranspose", [a(1, 3, 4, 5), a(3, 2, 3, 3)], {"output_shape": [10, 8], "strides": [2, 2]}),
    ("AveragePool", [a(1, 2, 7, 6)], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("AveragePool", [a(1, 2, 7, 6)], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [a(1, 2, 7)], {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_UPPER"}),
    ("AveragePool", [a(1, 2, 8)], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1, "dilations": [2]}),
    ("LpPool", [a(1, 2, 7, 6)], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "p": 3}),
    (
        "MaxPool",
        [a(1, 2, 7, 6)],
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "dilations": [1, 2]},
    ),
    ("MaxPool", [a(1, 2, 8)], {"kernel_shape": [3], "strides": [3], "ceil_mode": 1}),
    ("Pad", [a(3, 4), np.array([1, -1, -1, 2])], {}),
    ("Pad", [a(3, 4), np.array([2, -3]), np.array(7, np.float32), np.array([-1])], {}),
    ("Pad", [a(3, 4), np.array([1, 2, 1, 0])], {"mode": "reflect"}),
    ("Pad", [a(3, 4), np.array([1, 2, 1, 0])], {"mode": "edge"}),
    ("GatherElements", [a(3, 4), np.array([[0, -1], [2, 1]])], {"axis": -1}),
    ("GatherElements", [a(80, 2), np.array([[0, 79], [-80, 70], [3, 3]])], {}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_as_in_onnxruntime(case: tuple[str, list[np.ndarray | None], dict[str, Any]]) -> None:
    op, inputs, attrs = case
    model, feeds = single(op, inputs, **attrs)
    expected = Evaluator(model, only=True)(feeds)["y"]
    evaluator = Evaluator(model, prefer="reference", only=True)
    np.testing.assert_allclose(evaluator(feeds)["y"], expected, rtol=2e-5, atol=2e-5)
    assert evaluator.engine == REFERENCE
    doubled, _ = single(op, [None if x is None else _wide(x) for x in inputs], **attrs)
    wide = Evaluator(doubled, prefer="reference", only=True)({n: _wide(x) for n, x in feeds.items()})["y"]
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, expected, rtol=2e-5, atol=2e-5)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) if x.dtype == np.float32 else x


@pytest.mark.parametrize("attrs", [{}, {"pads": [1, 0, 0, 1]}, {"storage_order": 1}, {"strides": [2, 1]}], ids=str)
def test_positions_of_maxima(attrs: dict[str, Any]) -> None:
    x = np.round(a(2, 3, 4, 5))  # with ties
    node = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], **attrs)
    infos = [helper.make_tensor_value_info("x", 1, x.shape)]
    outputs = [helper.make_tensor_value_info("y", 1, None), helper.make_tensor_value_info("i", 7, None)]
    model = helper.make_model(
        helper.make_graph([node], "g", infos, outputs), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 9
    found = [Evaluator(model, prefer=prefer, only=True)({"x": x})["i"] for prefer in ("onnxruntime", "reference")]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_without_a_ratio(training: bool) -> None:
    """It is that with the ratio 0.5, of which ONNX's reference draws the same mask."""
    x = a(20, 10)
    model, feeds = single("Dropout", [x, np.array(0.5, np.float32), np.array(training)], seed=3)
    model.graph.node[0].output.append("m")
    expected = ReferenceEvaluator(model).run(["y"], feeds)[0]
    without, feeds = single("Dropout", [x, None, np.array(training)], seed=3)
    evaluator = Evaluator(without)
    np.testing.assert_array_equal(evaluator(feeds)["y"], expected)
    assert evaluator.engine == REFERENCE
    np.testing.assert_array_equal(evaluator(feeds)["y"], expected)  # the same draw again
    assert (np.mean(expected == 0) > 0.3) == training


def test_who_draws_is_run_by_the_reference() -> None:
    for training, engine in ((True, REFERENCE), (False, ORT)):
        model, feeds = single("Dropout", [a(3)])
        model.graph.node[0].input.extend(["", "t"])
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(training), "t"))
        evaluator = Evaluator(model)
        evaluator(feeds)
        assert evaluator.engine == engine


def test_adam() -> None:
    """For two tensors, it is what ONNX's reference gives for each."""
    domain, x = "ai.onnx.preview.training", [np.abs(a(*s)).astype(np.float64) for _ in range(4) for s in ((2, 3), (4,))]
    attrs = {"alpha": 0.75, "beta": 0.5, "epsilon": 0.25, "norm_coefficient": 0.5, "norm_coefficient_post": 0.125}
    feeds = {"r": np.array(0.3), "t": np.array(2), **{f"x{i}": value for i, value in enumerate(x)}}

    def run(names: list[str], count: int, evaluate: Any) -> list[np.ndarray]:
        node = helper.make_node("Adam", ["r", "t", *names], [f"y{i}" for i in range(count)], domain=domain, **attrs)
        infos = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(feeds[n].dtype), feeds[n].shape)
            for n in node.input
        ]
        graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info(n, 11, None) for n in node.output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)])
        return evaluate(model, {n: feeds[n] for n in node.input})

    together = run([f"x{i}" for i in range(8)], 6, lambda m, f: list(Evaluator(m)(f).values()))
    for k in range(2):
        alone = run([f"x{i}" for i in range(k, 8, 2)], 3, lambda m, f: ReferenceEvaluator(m).run(None, f))
        for value, expected in zip(together[k::2], alone, strict=True):
            assert value.dtype == np.float64
            np.testing.assert_allclose(value, expected, rtol=1e-14)


def test_kernel_that_does_not_fit() -> None:
    model, feeds = single("Conv", [a(1, 1, 3), a(1, 1, 5)])
    with pytest.raises(RunError, match="a kernel that reaches over 5 elements, on 3"):
        Evaluator(model)(feeds)


def test_the_first_runtime_that_can() -> None:
    model, feeds = single("Erf", [a(2)])
    evaluator = Evaluator(model)
    assert evaluator.engine is None
    evaluator(feeds)
    assert evaluator.engine == ORT
    wide, _ = single("Erf", [a(2).astype(np.float64)])  # no such kernel
    evaluator = Evaluator(wide)
    evaluator({"x0": np.zeros(2)})
    assert evaluator.engine == REFERENCE
    with pytest.raises(RunError, match=r"^onnxruntime: .*Erf"):
        Evaluator(wide, only=True)({"x0": np.zeros(2)})
