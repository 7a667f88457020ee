"""Models for the tests of the numerical check, in ONNX's text form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx

import onnxgrad
from onnxgrad.rules import REGISTRY

HEADER = '<ir_version: 9, opset_import: ["" : {opset}, "ai.onnx.ml" : 3]>\n'

MLP = """
net (float[N, 3] x) => (float[N, 2] y)
<float[3, 4] W1 = {0.3, -0.5, 0.8, 0.1, -0.7, 0.2, 0.4, 0.9, 0.6, -0.3, 0.5, -0.8}, float[4] b1 = {0.1, -0.2, 0.3, 0.0},
 float[4, 2] W2 = {0.5, -0.4, 0.2, 0.7, -0.6, 0.3, 0.8, -0.1}>
{ h = MatMul(x, W1)  a = Add(h, b1)  t = Tanh(a)  y = MatMul(t, W2) }
"""

RELU = """
net (float[N, 3] x) => (float[N, 4] y)
<float[3, 4] W1 = {0.3, -0.5, 0.8, 0.1, -0.7, 0.2, 0.4, 0.9, 0.6, -0.3, 0.5, -0.8}>
{ h = MatMul(x, W1)  y = Relu(h) }
"""

#: No float64 kernel in onnxruntime: differences are taken in the reference evaluator.
CONV = """
net (float[N, 1, H, 6] x) => (float[N, 2, h, w] y)
<float[2, 1, 3, 3] W = {0.3, -0.5, 0.8, 0.1, -0.7, 0.2, 0.4, 0.9, 0.6, -0.3, 0.5, -0.8, 0.2, 0.1, -0.4, 0.7, 0.3, -0.6}>
{ c = Conv<pads = [1, 1, 1, 1]>(x, W)  r = Sigmoid(c)  y = AveragePool<kernel_shape = [2, 2]>(r) }
"""

#: Two inputs, two outputs; z does not depend on b, and n is no floating-point number.
PAIRS = """
net (float[N, 3] a, float[N, 3] b, int64[1] n) => (float[N, 3] y, float[N, 3] z, int64[1] m)
{ p = Mul(a, b)  y = Exp(p)  z = Sin(a)  m = Add(n, n) }
"""

EMBEDDING = """
net (int64[N, 4] input_ids, float[N, 4] attention_mask, float[2] x) => (float[N, 4, 2] y)
<float[2, 2] table = {0.3, -0.5, 0.8, 0.1}, int64[1] last = {2}>
{ e = Gather(table, input_ids)  m = Unsqueeze(attention_mask, last)  s = Mul(e, m)  t = Mul(s, x)  y = Tanh(t) }
"""


def model(text: str, opset: int = 18) -> onnx.ModelProto:
    """Return a model from its text."""
    return onnx.parser.parse_model(HEADER.format(opset=opset) + text)


def unary(node: str, shape: str = "[N, 3]", dtype: str = "float", opset: int = 18) -> onnx.ModelProto:
    """Return the model ``y = node``, an expression in x."""
    return model(f"net ({dtype}{shape} x) => ({dtype}{shape} y) {{ y = {node} }}", opset)


@contextmanager
def rule(operator: str, function: Callable[..., Any], **options: Any) -> Iterator[None]:
    """Put another rule in the place of an operator's own for a while."""
    before = REGISTRY.get(operator)
    assert before is not None
    onnxgrad.register(operator, domain="", replace=True, **options)(function)
    try:
        yield
    finally:
        REGISTRY.add(before, replace=True)
