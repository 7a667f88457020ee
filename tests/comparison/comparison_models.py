"""Models to compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.parser

from onnxgrad.rules import REGISTRY

RNG = np.random.default_rng(3)
W1, B1 = 0.5 * RNG.normal(size=(4, 8)), 0.1 * RNG.normal(size=8)
W2 = 0.5 * RNG.normal(size=(8, 3))
X = RNG.normal(size=(6, 4))


def parsed(text: str) -> onnx.ModelProto:
    """Return a model that is given as text without its header."""
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21, "my.domain": 1]>\n{text}')


def network(
    dtype: str = "float", planted: float = 0.0, names: tuple[str, str] = ("x", "y"), batch: str = "N"
) -> onnx.ModelProto:
    """``y = tanh(x W1 + b1) W2``, with something added to the weight from x[2] to the hidden unit 5."""
    numpy_type = np.float32 if dtype == "float" else np.float64
    x, y = names
    model = parsed(
        f"net ({dtype}[{batch}, 4] {x}) => ({dtype}[{batch}, 3] {y}) "
        f"{{ a = MatMul({x}, W1) b = Add(a, b1) h = Tanh(b) {y} = MatMul(h, W2) }}"
    )
    w1 = W1.copy()
    w1[2, 5] += planted
    for name, value in (("W1", w1), ("b1", B1), ("W2", W2)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(numpy_type), name))
    return model


def function(x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ W1 + B1) @ W2


def jacobian(x: np.ndarray) -> np.ndarray:
    """The Jacobian of `function` by hand, per sample."""
    slope = 1 - np.tanh(x @ W1 + B1) ** 2
    return np.einsum("ih,nh,ho->noi", W1, slope, W2)


#: Two outputs, which depend on one input each; the factor is a parameter.
APART = """
net (double[N, 2] u, double[N, 2] v) => (double[N, 2] p, double[N, 2] q)
<double k = {%r}>
{
  s = Sin(u)
  p = Mul(s, k)
  q = Cos(v)
}
"""


@contextlib.contextmanager
def without_rule(operator: str) -> Iterator[None]:
    """Take the rule of an operator out of the registry, for as long as the body runs."""
    rule = REGISTRY.get(operator)
    assert rule is not None
    REGISTRY.remove(operator)
    try:
        yield
    finally:
        REGISTRY.add(rule)
