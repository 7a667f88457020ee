"""Models that are written in spox: values in, values out, types inferred on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Tensor, Var, argument, build

from tests.frameworks import by_hand
from tests.frameworks.by_hand import SAMPLES, Network
from tests.frameworks.comparing import Batch, Case, DType, Export

Constant = Callable[[np.ndarray], Var]


def mlp(net: by_hand.MLP, x: Var, of: Constant) -> Var:
    h = op.tanh(op.add(op.matmul(x, of(net.A)), of(net.a)))
    k = op.tanh(op.add(op.matmul(h, of(net.B)), of(net.b)))
    return op.matmul(k, of(net.C))


def convolution(net: by_hand.Convolution, x: Var, of: Constant) -> Var:
    h = op.tanh(op.conv(x, of(net.W), pads=[1, 1]))
    return op.matmul(op.reduce_mean(h, op.const([2]), keepdims=0), of(net.C))


def recurrent(net: by_hand.Recurrent, x: Var, of: Constant) -> Var:
    def step(t: Var, go_on: Var, h: Var) -> list[Var]:
        number = op.squeeze(op.reshape(t, op.const([1])), op.const([0]))  # no axis in ONNX, and one for spox
        row = op.gather(x, number, axis=1)
        return [go_on, op.tanh(op.add(op.matmul(row, of(net.W)), op.matmul(h, of(net.R))))]

    zeros = op.matmul(op.gather(x, op.const(0), axis=1), of(np.zeros((3, 4))))  # with a row for each sample
    (last,) = op.loop(op.const(5), v_initial=[zeros], body=step)
    return op.matmul(last, of(net.C))


def attention(net: by_hand.Attention, x: Var, of: Constant) -> Var:
    shares = op.softmax(op.matmul(x, of(net.w)), axis=1)
    return op.matmul(op.reduce_sum(op.mul(shares, x), op.const([1]), keepdims=0), of(net.C))


MODELS: dict[str, tuple[Network, Callable[[Any, Var, Constant], Var]]] = {
    "MLP": (by_hand.MLP(), mlp),
    "CNN": (by_hand.Convolution(), convolution),
    "recurrent loop": (by_hand.Recurrent(), recurrent),
    "attention": (by_hand.Attention(), attention),
}


def case(name: str, dtype: DType, batch: Batch) -> Case:
    net, write = MODELS[name]

    def make() -> Export:
        x = argument(Tensor(np.dtype(dtype), ("N" if batch == "dynamic" else SAMPLES, *net.shape)))
        y = write(net, x, lambda array: op.constant(value=array.astype(dtype)))
        return Export(build({"x": x}, {"y": y}), {"x": net.batch().astype(dtype)}, **net.own(dtype))

    return Case("spox", "spox", name, dtype, batch, make)


CASES = [
    case(name, dtype, batch) for name in MODELS for dtype in ("float64", "float32") for batch in ("dynamic", "static")
]
