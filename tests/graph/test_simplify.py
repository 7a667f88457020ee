"""Every rewrite keeps the value, and leaves fewer nodes than were asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.tensor import Tensor

RNG = np.random.default_rng(3)
FEEDS = {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=(3, 5)), "row": RNG.normal(size=(3,))}
SHAPES = {"a": ("N", 3), "b": (3, 5), "row": (3,)}


def evaluate(build: Callable[..., Tensor]) -> tuple[np.ndarray, list[str], Tensor]:
    """Build ``f(op, a, b, row)`` on float64 inputs; return its value, the operators written, and the tensor."""
    values = [ir.Value(name=n, type=ir.TensorType(ir.DataType.DOUBLE), shape=ir.Shape(s)) for n, s in SHAPES.items()]
    graph = ir.Graph(values, [], nodes=[], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=9)
    op = Builder(model)
    result = build(op, *(op.tensor(v) for v in values))
    output = op.named_identity(result)
    graph.outputs.append(output)
    op.finish([output])
    written = [node.op_type for node in graph][:-1]
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    fed = {i.name: FEEDS[i.name] for i in session.get_inputs()}
    return session.run(None, fed)[0], written, result


A, B, ROW = FEEDS["a"], FEEDS["b"], FEEDS["row"]
EYE = np.eye(3)


def heads(op: Any, b: Any) -> list[Any]:
    """Return two tensors of shape ``(2, 3, 5)``."""
    if op is None:
        both = np.stack([b, b])
        return [both, np.exp(both)]
    both = op.Concat(op.reshape(b, (1, 3, 5)), op.reshape(b, (1, 3, 5)), axis=0)
    return [both, op.Exp(both)]


#: what is built | what it is | what is written for it
CASES = [
    ("a+0", lambda op, a, b, row: a + 0.0, A, []),
    ("0+a", lambda op, a, b, row: 0.0 + a, A, []),
    ("a-0", lambda op, a, b, row: a - 0.0, A, []),
    ("0-a", lambda op, a, b, row: 0.0 - a, -A, ["Neg"]),
    ("1*a", lambda op, a, b, row: 1.0 * a, A, []),
    ("-1*a", lambda op, a, b, row: -1.0 * a, -A, ["Neg"]),
    ("0*a", lambda op, a, b, row: 0.0 * a, 0 * A, ["Shape", "Expand"]),
    ("a/1", lambda op, a, b, row: a / 1.0, A, []),
    ("--a", lambda op, a, b, row: -(-a), A, []),
    ("same-node-twice", lambda op, a, b, row: op.Exp(a) * op.Exp(a), np.exp(A) ** 2, ["Exp", "Mul"]),
    ("cast-to-same", lambda op, a, b, row: op.cast(a, a.dtype), A, []),
    ("where-constant", lambda op, a, b, row: op.Where(op.constant(True), a, row), A, []),
    ("transpose-twice", lambda op, a, b, row: op.swap(op.swap(a)), A, []),
    ("transpose-of-product", lambda op, a, b, row: op.swap(op.swap(b) @ op.swap(a)), A @ B, ["MatMul"]),
    ("transpose-of-half-product", lambda op, a, b, row: op.swap(op.swap(b) @ b), B.T @ B, ["Transpose", "MatMul"]),
    (
        "transpose-of-multiple",
        lambda op, a, b, row: op.swap(op.reshape((op.swap(b) @ op.swap(a)) * 2.0, (1, 5, "N"))),
        2 * (A @ B)[None],
        ["MatMul", "Mul", "Reshape"],
    ),
    (
        "concat-of-transposes",
        lambda op, a, b, row: op.Concat(*(op.reshape(op.swap(x, -3, -2), (3, 10)) for x in heads(op, b)), axis=-1),
        np.concatenate([h.swapaxes(0, 1).reshape(3, 10) for h in heads(None, B)], axis=1),
        ["Reshape", "Concat", "Exp", "Concat", "Transpose", "Reshape"],
    ),
    ("transpose-of-another", lambda op, a, b, row: op.swap(a @ b), (A @ B).T, ["MatMul", "Transpose"]),
    ("transpose-of-ones", lambda op, a, b, row: op.swap(op.unsqueeze(row, [-1])), ROW[None], ["Reshape"]),
    ("reshape-twice", lambda op, a, b, row: op.reshape(op.reshape(b, (15,)), (5, 3)), B.reshape(5, 3), ["Reshape"]),
    ("reshape-back", lambda op, a, b, row: op.reshape(op.reshape(b, (15,)), (3, 5)), B, []),
    ("spread-dropped", lambda op, a, b, row: op.spread(row, a.shape) * a, ROW * A, ["Mul"]),
    (
        "spread-dropped-twice",
        lambda op, a, b, row: op.Tanh(op.spread(row, a.shape)) + a,
        np.tanh(ROW) + A,
        ["Tanh", "Add"],
    ),
    (
        "spread-outwards",
        lambda op, a, b, row: op.Exp(op.spread(row, a.shape)) * 2.0,
        np.broadcast_to(np.exp(ROW) * 2, A.shape),
        ["Exp", "Mul", "Shape", "Expand"],
    ),
    (
        "spread-matmul",
        lambda op, a, b, row: (op.spread(row, a.shape) @ b) + (a @ b),
        ROW @ B + A @ B,
        ["MatMul", "Reshape", "MatMul", "Add"],
    ),
    ("spread-sum", lambda op, a, b, row: op.sum(op.spread(row, (7, 3)), [-2]), 7 * ROW[None], ["Mul", "Reshape"]),
    (
        "spread-sum-symbolic",
        lambda op, a, b, row: op.sum(op.spread(row, a.shape), [-2], keepdims=False),
        4 * ROW,
        ["Shape", "Reshape", "Cast", "Reshape", "Mul", "Reshape"],
    ),
    ("sum-of-one", lambda op, a, b, row: op.sum(op.unsqueeze(b, [-2]), [-2], keepdims=False), B, []),
    ("identity-matmul", lambda op, a, b, row: op.eye(3, b.dtype) @ b, B, []),
    (
        "identity-of-seeds",
        lambda op, a, b, row: op.spread(op.reshape(op.eye(3, b.dtype), (3, 1, 3)), (3, *a.shape)) @ b,
        np.broadcast_to(B[:, None], (3, 4, 5)),
        ["Shape", "Concat", "Reshape", "Expand"],
    ),
    ("zero-matmul", lambda op, a, b, row: op.zeros_like(a) @ b + 1.0, np.ones((4, 5)), ["Shape", "Concat", "Expand"]),
]


@pytest.mark.parametrize(("build", "expected", "written"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_rewrite(build: Callable[..., Tensor], expected: np.ndarray, written: list[str]) -> None:
    value, operators, tensor = evaluate(build)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    assert sorted(operators) == sorted(written)
    static = [d if isinstance(d, int) else 4 for d in tensor.shape]
    assert static == list(value.shape), "the shape known while building is the shape at run time"


def test_sum_over_the_identity_is_not_taken_for_a_product() -> None:
    """A product is dropped only for a true identity: not after it was changed or its axes were moved apart."""
    scaled = evaluate(lambda op, a, b, row: (op.eye(3, b.dtype) * 2.0) @ b)
    np.testing.assert_allclose(scaled[0], 2 * B)
    moved = evaluate(lambda op, a, b, row: op.reshape(op.eye(3, b.dtype), (1, 9)) @ op.Concat(b, b, b, axis=0))
    np.testing.assert_allclose(moved[0], (np.eye(3).reshape(1, 9) @ np.concatenate([B, B, B])))


def test_zero_sized_axes_reshape() -> None:
    FEEDS["a"] = np.zeros((0, 3))
    try:
        value, _, _ = evaluate(lambda op, a, b, row: op.reshape(a, (3, "N")) + 0.5)
        assert value.shape == (3, 0)
    finally:
        FEEDS["a"] = A
