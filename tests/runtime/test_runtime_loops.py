"""`Scan` and `Loop` for ONNX's reference: as in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxgrad.runtime.loops import Loop, Scan

FLOAT, BOOL, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL, onnx.TensorProto.INT64


def values(names: str, kind: int, shape: list[Any]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, kind, shape) for name in names.split()]


def same_as_onnxruntime(graph: onnx.GraphProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    expected = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    found = ReferenceEvaluator(model, new_ops=[Loop, Scan]).run(None, feeds)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    return found


@pytest.mark.parametrize("back", [0, 1])
@pytest.mark.parametrize("out_back", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan(back: int, out_back: int, axis: int) -> None:
    """``s' = 2 s + x + a`` with `a` from around, and both states as results."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "s"], ["twice"]),
            helper.make_node("Add", ["twice", "x"], ["sum"]),
            helper.make_node("Add", ["sum", "a"], ["after"]),
            helper.make_node("Identity", ["s"], ["before"]),
            helper.make_node("Identity", ["after"], ["copy"]),
        ],
        "body",
        values("s x", FLOAT, [2]),
        values("after before copy", FLOAT, [2]),
    )
    node = helper.make_node(
        "Scan", ["first", "xs"], ["last", "befores", "afters"], body=body, num_scan_inputs=1, scan_input_axes=[axis],
        scan_input_directions=[back], scan_output_axes=[0, 1], scan_output_directions=[out_back, 1 - out_back],
    )  # fmt: skip
    xs = np.arange(6, dtype=np.float32).reshape((2, 3) if axis else (3, 2))
    graph = helper.make_graph(
        [node],
        "g",
        [*values("first a", FLOAT, [2]), *values("xs", FLOAT, list(xs.shape))],
        [*values("last", FLOAT, [2]), *values("befores", FLOAT, [3, 2]), *values("afters", FLOAT, [2, 3])],
    )
    same_as_onnxruntime(graph, {"first": np.ones(2, np.float32), "a": np.array([5, -5], np.float32), "xs": xs})


@pytest.mark.parametrize("count", [3, 0])
@pytest.mark.parametrize("condition", ["", "go", "stop"])
def test_loop(count: int, condition: str) -> None:
    """``s' = s + i``, as long as it is below 1; of no iteration, the results are empty."""
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["number"], to=FLOAT),
            helper.make_node("Add", ["s", "number"], ["after"]),
            helper.make_node("ReduceMax", ["after"], ["largest"], keepdims=0),
            helper.make_node("Less", ["largest", "one"], ["goes_on"]),
            helper.make_node("Identity", ["s"], ["before"]),
        ],
        "body",
        [*values("i", INT64, []), *values("goes", BOOL, []), *values("s", FLOAT, [2])],
        [*values("goes_on", BOOL, []), *values("after before", FLOAT, [2])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", condition, "first"], ["last", "befores"], body=body)],
        "g",
        values("first", FLOAT, [2]),
        [*values("last", FLOAT, [2]), *values("befores", FLOAT, [None, 2])],
        [
            numpy_helper.from_array(np.array(value), name)
            for name, value in {"count": count, "go": True, "stop": False, "one": np.float32(1)}.items()
        ],
    )
    _, befores = same_as_onnxruntime(graph, {"first": np.array([0, -1], np.float32)})
    assert len(befores) == (0 if condition == "stop" or not count else 2)
