"""Which values of a graph are finite, whatever finite numbers are fed: overflow aside, as then others overflow, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.flow import graphs_in, reads

if TYPE_CHECKING:
    from onnxgrad.graph.builder import Builder

#: Operators that give finite numbers for finite ones.
_FINITE = frozenset(
    """
    Abs Add ArgMax ArgMin Asinh Atan AveragePool BatchNormalization Cast CastLike Ceil Celu CenterCropPad Clip Col2Im
    Compress Concat ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LogSoftmax MatMul Max
    MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mul Neg NonZero Not OneHot PRelu Pad
    QuantizeLinear RNN RMSNormalization Range ReduceL1 ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare Relu
    Reshape Resize ReverseSequence RoiAlign Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size
    Slice Softmax Softplus Softsign SpaceToDepth Split Squeeze Sub Sum Swish Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Upsample Where
    """.split()
)
#: The same of onnxruntime's own, which optimized models hold.
_FINITE_MICROSOFT = frozenset(
    """
    BiasAdd BiasGelu BiasSplitGelu FastGelu FusedConv FusedGemm FusedMatMul Gelu QuickGelu SkipLayerNormalization
    SkipSimplifiedLayerNormalization
    """.split()
)
#: Operators that do so where their operand at a position is above 0, or does not depend on what is fed.
_FINITE_ABOVE_0 = {"Div": 1, "Log": 0, "Pow": 0, "Reciprocal": 0, "Sqrt": 0}
#: Operators that give sizes, which are no worse than weights: a size of 0 leaves no elements to go wrong.
_SIZES = frozenset(["Shape", "Size"])

#: Operators that give no negative numbers.
_NOT_NEGATIVE = frozenset("Abs Exp HardSigmoid ReduceL1 ReduceL2 ReduceSumSquare Relu Sigmoid Softmax Softplus".split())
#: Operators of which each result is one of the elements, or a mean of some.
_AMONG = frozenset(
    """
    Cast Concat Expand Flatten Gather GatherElements Identity MaxPool Mean ReduceMax ReduceMean ReduceMin Reshape
    Slice Squeeze Tile Transpose Unsqueeze
    """.split()
)


def finite_values(op: Builder, nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """Return those of the values that nodes give, in topological order, that are finite whatever finite is fed."""
    known = _Known(op)
    for node in nodes:
        known.enter(node)
    return known.finite


class _Known:
    """What is known of the values so far.

    Attributes:
        finite: what is finite.
        fixed: what does not depend on what is fed. That its numbers make sense is taken for granted.
        least: bounds from below.
    """

    def __init__(self, op: Builder) -> None:
        self.op = op
        self.finite: set[ir.Value] = set()
        self.fixed: set[ir.Value] = set()
        self.least: dict[ir.Value, float] = {}

    def enter(self, node: ir.Node) -> None:
        """Find out about the outputs of a node, and about the values in its bodies."""
        used = list(reads(node))
        if node.op_type in _SIZES or (all(map(self._is_fixed, used)) and not any(True for _ in graphs_in(node))):
            self.fixed.update(node.outputs)
            self.finite.update(node.outputs)
        elif all(map(self._is_finite, used)) and self._keeps_finite(node):
            self.finite.update(node.outputs, _inside(node))
        least = self._least_of(node)
        if least > -math.inf:
            self.least[node.outputs[0]] = least

    def _is_fixed(self, value: ir.Value | None) -> bool:
        return value is None or value.is_initializer() or value in self.fixed

    def _is_finite(self, value: ir.Value | None) -> bool:
        if value is None or value in self.finite or value.is_graph_input():
            return True
        tensor = self.op.tensor(value)
        if not value.is_initializer():
            return tensor is not None and not tensor.is_float
        known = None if tensor is None or not tensor.is_float else tensor.const
        return known is None or bool(np.isfinite(known.astype(np.float64)).all())

    def _keeps_finite(self, node: ir.Node) -> bool:
        inner = [each for _, graph in graphs_in(node) for each in graph]
        if node.domain:
            return node.domain == "com.microsoft" and node.op_type in _FINITE_MICROSOFT
        if inner:
            return all(map(self._keeps_finite, inner))
        position = _FINITE_ABOVE_0.get(node.op_type)
        if position is None:
            return node.op_type in _FINITE
        operand = node.inputs[position]
        above = self._is_fixed(operand) or self._at_least(operand) > 0
        return above or (node.op_type == "Sqrt" and self._at_least(operand) == 0) or self._is_whole_power(node)

    def _is_whole_power(self, node: ir.Node) -> bool:
        known = self._const(node.inputs[1]) if node.op_type == "Pow" else None
        return known is not None and bool(((known >= 0) & (known == np.round(known))).all())

    def _is_even_power(self, node: ir.Node) -> bool:
        known = self._const(node.inputs[1])
        return known is not None and bool((known % 2 == 0).all())

    def _const(self, value: ir.Value | None) -> np.ndarray | None:
        tensor = None if value is None else self.op.tensor(value)
        return None if tensor is None or tensor.const is None else tensor.const.astype(np.float64)

    def _at_least(self, value: ir.Value | None) -> float:
        if value is None:
            return -math.inf
        known = self._const(value)
        return self.least.get(value, -math.inf) if known is None or not known.size else float(known.min())

    def _least_of(self, node: ir.Node) -> float:
        """Return a bound from below of the first output of a node."""
        if node.domain:
            return -math.inf
        bounds = [self._at_least(v) for v in node.inputs]
        if node.op_type == "Pow" and self._is_even_power(node):
            return 0.0
        follow = _LEAST.get(node.op_type)
        if follow is not None:
            return follow(node, bounds)
        if node.op_type in _NOT_NEGATIVE:
            return 0.0
        if node.op_type not in _AMONG:
            return -math.inf
        return min(bounds if node.op_type in ("Concat", "Mean") else bounds[:1])


def _of_product(node: ir.Node, bounds: list[float]) -> float:
    """A square, or a product of what is not negative."""
    if node.inputs[0] is node.inputs[1]:
        return 0.0
    return bounds[0] * bounds[1] if min(bounds) >= 0 else -math.inf


def _of_filled(node: ir.Node, _: list[float]) -> float:
    value = node.attributes.get("value")
    return 0.0 if value is None else float(value.as_tensor().numpy().astype(np.float64).min())


def _of_clip(_: ir.Node, bounds: list[float]) -> float:
    """Where the bounds are the wrong way round, the upper one wins."""
    above = max(bounds[:2])
    return min(above, bounds[2]) if len(bounds) > 2 and bounds[2] > -math.inf else above


#: Bounds of the result from those of the operands.
_LEAST: dict[str, Callable[[ir.Node, list[float]], float]] = {
    "Add": lambda _, bounds: sum(bounds),
    "Mul": _of_product,
    "Max": lambda _, bounds: max(bounds),
    "Clip": _of_clip,
    "ConstantOfShape": _of_filled,
    "ReduceSum": lambda _, bounds: 0.0 if bounds[0] >= 0 else -math.inf,
    "Sum": lambda _, bounds: sum(bounds),
    "Where": lambda _, bounds: min(bounds[1:]),
    "Sqrt": lambda _, bounds: math.sqrt(max(bounds[0], 0.0)),
}


def _inside(node: ir.Node) -> Iterator[ir.Value]:
    """Yield all values in the bodies of a node."""
    for _, graph in graphs_in(node):
        yield from graph.inputs
        for inner in graph:
            yield from inner.outputs
            yield from _inside(inner)
