"""Models that are written in onnxscript: functions of Python, whose loops become loops of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnxscript import DOUBLE, FLOAT, script
from onnxscript import opset21 as op

from tests.frameworks import by_hand
from tests.frameworks.by_hand import SAMPLES, Network
from tests.frameworks.comparing import Batch, Case, DType, Export

Constant = Callable[[np.ndarray], onnx.TensorProto]


def mlp(net: by_hand.MLP, of: Constant) -> Any:
    A, B, C, a, b = (of(array) for array in (net.A, net.B, net.C, net.a, net.b))

    @script()
    def model(x):  # type: ignore[no-untyped-def]
        h = op.Tanh(op.MatMul(x, op.Constant(value=A)) + op.Constant(value=a))
        k = op.Tanh(op.MatMul(h, op.Constant(value=B)) + op.Constant(value=b))
        return op.MatMul(k, op.Constant(value=C))

    return model


def convolution(net: by_hand.Convolution, of: Constant) -> Any:
    W, C = of(net.W), of(net.C)

    @script()
    def model(x):  # type: ignore[no-untyped-def]
        h = op.Tanh(op.Conv(x, op.Constant(value=W), pads=[1, 1]))
        return op.MatMul(op.ReduceMean(h, op.Constant(value_ints=[2]), keepdims=0), op.Constant(value=C))

    return model


def recurrent(net: by_hand.Recurrent, of: Constant) -> Any:
    W, R, C, zeros = of(net.W), of(net.R), of(net.C), of(np.zeros((3, 4)))

    @script()
    def model(x):  # type: ignore[no-untyped-def]
        steps = op.Transpose(x, perm=[1, 0, 2])
        first = op.Gather(steps, op.Constant(value_int=0), axis=0)
        h = op.MatMul(first, op.Constant(value=zeros))  # a state of zeros, with a row for each sample
        for t in range(5):
            row = op.Gather(steps, t, axis=0)
            h = op.Tanh(op.MatMul(row, op.Constant(value=W)) + op.MatMul(h, op.Constant(value=R)))
        return op.MatMul(h, op.Constant(value=C))

    return model


def attention(net: by_hand.Attention, of: Constant) -> Any:
    w, C = of(net.w), of(net.C)

    @script()
    def model(x):  # type: ignore[no-untyped-def]
        shares = op.Softmax(op.MatMul(x, op.Constant(value=w)), axis=1)
        pooled = op.ReduceSum(shares * x, op.Constant(value_ints=[1]), keepdims=0)
        return op.MatMul(pooled, op.Constant(value=C))

    return model


MODELS: dict[str, tuple[Network, Callable[[Any, Constant], Any]]] = {
    "MLP": (by_hand.MLP(), mlp),
    "CNN": (by_hand.Convolution(), convolution),
    "recurrent loop": (by_hand.Recurrent(), recurrent),
    "attention": (by_hand.Attention(), attention),
}


def case(name: str, dtype: DType, batch: Batch) -> Case:
    net, write = MODELS[name]

    def make() -> Export:
        kind = DOUBLE if dtype == "float64" else FLOAT
        size = "N" if batch == "dynamic" else SAMPLES
        model = write(net, lambda array: onnx.numpy_helper.from_array(array.astype(dtype)))
        proto = model.to_model_proto(input_types=[kind[(size, *net.shape)]], output_types=[kind[size, 2]])
        return Export(proto, {"x": net.batch().astype(dtype)}, **net.own(dtype))

    return Case("onnxscript", "onnxscript", name, dtype, batch, make)


CASES = [
    case(name, dtype, batch) for name in MODELS for dtype in ("float64", "float32") for batch in ("dynamic", "static")
]
