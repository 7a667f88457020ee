"""What training adds to a model: random operators, and the updates of optimizers.

A random value is a constant of the run that drew it. So is the mask of a Dropout (see `onnxgrad.rules.pointwise`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed, not_differentiable
from onnxgrad.rules.samples import Samples

# --- random numbers ----------------------------------------------------------------------------

not_differentiable("RandomNormal RandomUniform", "random numbers, which depend on no input", versions=(1, 22))
not_differentiable(
    "RandomNormalLike RandomUniformLike", "random numbers: only the shape and type of the input count", versions=(1, 22)
)
not_differentiable("Bernoulli", "0 or 1 by a random number, a step for the number that was drawn", versions=(15, 22))
not_differentiable("Multinomial", "random positions, no real numbers", versions=(7, 22))

# --- optimizers --------------------------------------------------------------------------------

#: One tensor's update: from the node, the learning rate, the update count, and the tensor with all that goes with it.
Update = Callable[[Builder, Node, Tensor, Tensor, Sequence[Tensor]], Sequence[Tensor]]


def _optimizer(name: str, kinds: int, update: Update, remark: str = "") -> None:
    """Enter an optimizer: its inputs are R, T, then all tensors, all their gradients, and so on for `kinds`.

    The outputs are all new tensors, then all new accumulators. All are independent but for R and T.
    """

    def groups(node: Node) -> int:
        return (len(node.inputs) - 2) // kinds

    def expression(op: Builder, node: Node) -> Sequence[Tensor]:
        rate, count, n = node.inputs[0], node.inputs[1], groups(node)
        updated = [update(op, node, rate, count, node.inputs[2 + i :: n]) for i in range(n)]  # type: ignore[arg-type]
        return [new[kind] for kind in range(kinds - 1) for new in updated]

    def follow(node: Node, inputs: Sequence[Samples | None]) -> list[Samples | None]:
        n = groups(node)
        if inputs[0] is not None:
            raise samples.Mixed("samples reach it through the learning rate, which all tensors share")
        places = [set(inputs[2 + i :: n]) - {None} for i in range(n)]
        if any(len(found) > 1 for found in places):
            raise samples.Mixed("the samples of its inputs lie on different axes")
        if any(len({t.shape for t in node.inputs[2 + i :: n] if t is not None}) > 1 for i in range(n)):
            raise samples.Mixed("a tensor and what goes with it have different shapes")
        return [next(iter(places[k % n]), None) for k in range(len(node.outputs))]

    composed(name, expression, versions=(1,), domain="ai.onnx.preview.training", follow=follow, remark=remark)


_ROOT = "the root of the accumulated squares has the derivative 0 at 0"


def _root(op: Builder, x: Tensor) -> Tensor:
    """``√x`` with the derivative 0 at 0, where what it divides is 0, too: a weight that never had a gradient."""
    zero = op.Equal(x, 0)
    return op.Where(zero, 0, op.Sqrt(op.Where(zero, 1, x)))


def _regularized(op: Builder, node: Node, x: Tensor, g: Tensor) -> Tensor:
    return x * float(node.attr("norm_coefficient")) + g


def _adam(op: Builder, node: Node, rate: Tensor, count: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """The pseudo code of the ONNX standard; where T > 0, R is multiplied by ``√(1 - β^T) / (1 - α^T)``."""
    x, g, v, h = inputs
    alpha, beta = float(node.attr("alpha")), float(node.attr("beta"))
    g = _regularized(op, node, x, g)
    v, h = alpha * v + (1 - alpha) * g, beta * h + (1 - beta) * g * g
    started, exact = op.Greater(count, 0), ir.DataType.DOUBLE  # 1 - β^T loses most digits in float32
    t = op.cast(op.Where(started, count, 1), exact)
    factor = op.Sqrt(1 - op.Pow(op.constant(beta, exact), t)) / (1 - op.Pow(op.constant(alpha, exact), t))
    rate = op.cast(op.cast(rate, exact) * op.Where(started, factor, 1), x.dtype)
    return (1 - node.attr("norm_coefficient_post")) * (x - rate * v / (_root(op, h) + node.attr("epsilon"))), v, h


def _adagrad(op: Builder, node: Node, rate: Tensor, count: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """``r = R / (1 + T · decay)``, ``G = norm · X + G``, ``H = H + G²``, ``X - r · G / (√H + ε)``."""
    x, g, h = inputs
    g = _regularized(op, node, x, g)
    h = h + g * g
    rate = rate / (1 + op.cast(count, rate.dtype) * node.attr("decay_factor"))
    return x - op.cast(rate, x.dtype) * g / (_root(op, h) + node.attr("epsilon")), h


def _momentum(op: Builder, node: Node, rate: Tensor, count: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """``V = α V + β G`` with β = 1 where T = 0, and ``X - R · V``, or ``X - R · (G + α V)`` of Nesterov."""
    x, g, v = inputs
    g, alpha = _regularized(op, node, x, g), float(node.attr("alpha"))
    one = op.constant(1, x.dtype)
    v = alpha * v + op.Where(op.Greater(count, 0), node.attr("beta") * one, one) * g
    step = g + alpha * v if node.attr("mode") == "nesterov" else v
    return x - op.cast(rate, x.dtype) * step, v


_optimizer("Adam", 4, _adam, _ROOT)
_optimizer("Adagrad", 3, _adagrad, _ROOT)
_optimizer("Momentum", 3, _momentum)
