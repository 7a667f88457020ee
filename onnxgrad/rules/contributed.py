"""What the rules of onnxruntime's own operators, com.microsoft, share.

These operators come in with optimized and exported models; none is ever emitted. Each is an expression in standard
operators with the values of onnxruntime's CPU kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed, vjp
from onnxgrad.rules.samples import Following, Mixed, Samples

DOMAIN = "com.microsoft"


def own(names: str, expression: Callable[[Builder, Node], Any], **options: Any) -> None:
    """Enter operators of com.microsoft by an expression that equals their outputs (options as of `composed`)."""
    composed(names, expression, domain=DOMAIN, versions=(), **options)


def refused(names: str, why: str, remedy: str | None = None, domain: str = DOMAIN) -> None:
    """Enter operators that are known and cannot be differentiated, with the reason and what to do."""

    def refuse(op: Builder, node: Node, *cts: Tensor | None) -> None:
        raise Refusal(why) if remedy is None else Refusal(why, remedy)

    vjp(names, domain=domain, versions=(), remark=f"refused: {why}")(refuse)


def given(node: Node, index: int) -> Tensor:
    """Return an input that is there."""
    tensor = node.input(index)
    assert tensor is not None
    return tensor


def plus(a: Tensor, *others: Tensor | None) -> Tensor:
    """Return the sum of what is there."""
    for b in others:
        a = a if b is None else a + b
    return a


def has_output(node: Node, index: int) -> bool:
    """Whether a node gives an optional output."""
    return index < len(node.ir.outputs) and bool(node.ir.outputs[index].name)


def wide(op: Builder, x: Tensor) -> Tensor:
    """Return x in float32 at least."""
    return op.cast(x, ir.DataType.FLOAT) if x.dtype.bitwidth < 32 else x


def fixed(dim: Dim | None, what: str) -> int:
    """Return a size that a formula needs as a number.

    Raises:
        Refusal: if it is not known before run time.
    """
    if not isinstance(dim, int):
        raise Refusal(f"the number of {what} is not known before run time")
    return dim


def data_first(*data: int) -> Following:
    """Follow an operator that keeps samples apart on axis 0 of the inputs `data`; samples share all others."""

    def follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
        if any(s for i, s in enumerate(inputs) if i not in data):
            raise Mixed("samples reach it through a weight, which all samples share")
        return samples.first_axis(node, inputs)

    return follow


def along_last(data: Collection[int]) -> Following:
    """Follow an operator that works along the last axes (from `axis` on) of the inputs `data`; others are weights."""

    def follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
        if any(s for i, s in enumerate(inputs) if i not in data):
            raise Mixed("samples reach it through a weight, which all samples share")
        places = samples.aligned(node, inputs)
        if any(p is not None and p.axis >= node.attr("axis", -1) % node.y.rank for p in places):
            raise Mixed("it works along the axis on which the samples lie")
        return places

    return follow


def activated(op: Builder, x: Tensor, name: str, numbers: Sequence[float | None]) -> Tensor:
    """Apply the activation of a fused operator, with up to three numbers (alpha, beta, gamma)."""
    alpha, beta, gamma = (*numbers, None, None, None)[:3]
    if name in ("", "Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"):
        return op.emit(name, x)[0] if name else x
    if name in ("Elu", "LeakyRelu", "ThresholdedRelu"):
        return op.emit(name, x, alpha=alpha)[0]
    if name == "HardSigmoid":
        return op.HardSigmoid(x, alpha=alpha, beta=beta)
    if name == "Selu":
        return op.Selu(x, alpha=alpha, gamma=gamma)
    if name in ("ScaledTanh", "ParametricSoftplus") and alpha is not None and beta is not None:
        return (op.Tanh(x * beta) if name == "ScaledTanh" else op.Softplus(x * beta)) * alpha
    if name == "Clip" and alpha is not None and beta is not None:
        return op.Clip(x, alpha, beta)
    if name in ("Gelu", "Silu"):
        return x * op.Sigmoid(x) if name == "Silu" else gelu(op, x)
    raise Refusal(f"its activation {name!r} is not known")


def gelu(op: Builder, x: Tensor) -> Tensor:
    """``x Φ(x)``."""
    return x * 0.5 * (op.Erf(x * 0.5**0.5) + 1.0)


def fast_gelu(op: Builder, x: Tensor) -> Tensor:
    """``x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))``, in the rounding of onnxruntime's constants."""
    return x * 0.5 * (op.Tanh(x * (0.7978845608028654 + 0.035677408136300125 * x * x)) + 1.0)
