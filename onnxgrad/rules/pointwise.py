"""Operators that act on each element alone.

A partial derivative is ``f(op, y, *inputs)``. It uses the output where that is the shorter or the more accurate
formula. Points without a derivative follow PyTorch; ``docs/kinks.md`` lists them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import elementwise, not_differentiable, vjp

# --- arithmetic ------------------------------------------------------------------------------

elementwise("Add", lambda op, y, a, b: 1.0, lambda op, y, a, b: 1.0, versions=(14,))
elementwise("Sub", lambda op, y, a, b: 1.0, lambda op, y, a, b: -1.0, versions=(14,))
elementwise("Mul", lambda op, y, a, b: b, lambda op, y, a, b: a, versions=(14,))
elementwise("Div", lambda op, y, a, b: op.Reciprocal(b), lambda op, y, a, b: -y / b, versions=(14,))
elementwise("Neg", lambda op, y, x: -1.0, versions=(13,))
elementwise("Abs", lambda op, y, x: op.Sign(x), versions=(13,))
elementwise("Reciprocal", lambda op, y, x: -y * y, versions=(13,))
elementwise("Identity", lambda op, y, x: 1.0, versions=(16, 19, 21, 23, 24, 25))
elementwise("Sqrt", lambda op, y, x: 0.5 / y, versions=(13,))
elementwise("Exp", lambda op, y, x: y, versions=(13,))
elementwise("Log", lambda op, y, x: op.Reciprocal(x), versions=(13,))


def _power_by_base(op: Builder, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``b · a^(b-1)``, which is 0 where b is 0, also at a = 0."""
    known = b.relied_on()
    if known is not None and known.size == 1 and b.rank <= a.rank:
        exponent = float(known.item())
        return exponent * a if exponent == 2 else exponent * op.Pow(a, exponent - 1)
    b = op.cast(b, a.dtype)
    zero = op.Equal(b, 0)
    return op.Where(zero, 0, b * op.Pow(a, op.Where(zero, 1, b - 1)))


def _power_by_exponent(op: Builder, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``y · log a``, which is 0 where a is 0 and b is not negative."""
    zero = op.Equal(a, 0) & (op.cast(b, a.dtype) >= 0)
    return op.Where(zero, 0, y * op.Log(op.Where(zero, 1, a)))


elementwise("Pow", _power_by_base, _power_by_exponent, versions=(15,))


@vjp("Mod", versions=(13, 28), follow=samples.aligned)
def mod(op: Builder, node: Node, ct: Tensor) -> Sequence[Tensor]:
    """``a mod b = a - b · q`` with a quotient q that is constant between its jumps: truncated if `fmod` is set, else
    floored.

    q is rounded, since ``(a - y) / b`` is an integer only up to rounding.
    """
    a, b = node.inputs
    assert a is not None
    assert b is not None
    return ct, -ct * op.Round((a - node.y) / b)


# --- trigonometric and hyperbolic functions ---------------------------------------------------

elementwise("Sin", lambda op, y, x: op.Cos(x), versions=(7, 22))
elementwise("Cos", lambda op, y, x: -op.Sin(x), versions=(7, 22))
elementwise("Tan", lambda op, y, x: 1 + y * y, versions=(7, 22))
elementwise("Asin", lambda op, y, x: op.Reciprocal(op.Sqrt((1 - x) * (1 + x))), versions=(7, 22))
elementwise("Acos", lambda op, y, x: -op.Reciprocal(op.Sqrt((1 - x) * (1 + x))), versions=(7, 22))
elementwise("Atan", lambda op, y, x: op.Reciprocal(1 + x * x), versions=(7, 22))
elementwise("Sinh", lambda op, y, x: (op.Exp(x) + op.Exp(-x)) * 0.5, versions=(9, 22))
elementwise("Cosh", lambda op, y, x: (op.Exp(x) - op.Exp(-x)) * 0.5, versions=(9, 22))
elementwise("Tanh", lambda op, y, x: 1 - y * y, versions=(13,))  # as |y| → 1, no worse than the rounding of y itself
elementwise("Asinh", lambda op, y, x: op.Reciprocal(op.Sqrt(1 + x * x)), versions=(9, 22))
elementwise("Acosh", lambda op, y, x: op.Reciprocal(op.Sqrt((x - 1) * (x + 1))), versions=(9, 22))
elementwise("Atanh", lambda op, y, x: op.Reciprocal((1 - x) * (1 + x)), versions=(9, 22))
elementwise("Erf", lambda op, y, x: op.Exp(math.log(2 / math.sqrt(math.pi)) - x * x), versions=(13,))  # 2/√π exp(-x²)

# --- activations -----------------------------------------------------------------------------

elementwise("Relu", lambda op, y, x: y > 0, versions=(14,))
elementwise("Sigmoid", lambda op, y, x: y * (1 - y), versions=(13,))
elementwise("Softplus", lambda op, y, x: op.Sigmoid(x), versions=(1, 22))
elementwise("Softsign", lambda op, y, x: _square(op.Reciprocal(1 + op.Abs(x))), versions=(1, 22))
elementwise("HardSigmoid", lambda op, y, x, *, alpha: _inside(op, y, 0, 1, alpha), versions=(6, 22))
elementwise("HardSwish", lambda op, y, x: _hard_swish(op, x), versions=(14, 22))
elementwise("ThresholdedRelu", lambda op, y, x, *, alpha: x > alpha, versions=(10, 22))
elementwise("LeakyRelu", lambda op, y, x, *, alpha: _leaky(op, y, x, alpha), versions=(16,))
elementwise("Elu", lambda op, y, x, *, alpha: _elu(op, x, alpha), versions=(6, 22))
elementwise("Celu", lambda op, y, x, *, alpha: _exp_below(op, x, 1 / alpha), versions=(12, 28))
elementwise(
    "Selu",
    lambda op, y, x, *, alpha, gamma: _choose(op, x > 0, gamma, (alpha * gamma) * _exp_below(op, x), x),
    versions=(6, 22),
)
elementwise("Shrink", lambda op, y, x, *, lambd: (x > lambd) | (x < -lambd), versions=(9,))
elementwise(
    "PRelu",
    lambda op, y, x, slope: _choose(op, x > 0, 1.0, slope, x),
    lambda op, y, x, slope: op.Where(x > 0, 0, x),
    versions=(16,),
)
elementwise("Gelu", lambda op, y, x, *, approximate: _gelu(op, x, approximate), versions=(20,))
elementwise("Mish", lambda op, y, x: _mish(op, x), versions=(18, 22))
elementwise("Swish", lambda op, y, x, *, alpha: _swish(op, x, alpha), versions=(24,))


def _square(x: Tensor) -> Tensor:
    return x * x


def _choose(op: Builder, mask: Tensor, a: Tensor | float, b: Tensor | float, like: Tensor) -> Tensor:
    """Where with numbers on both sides, which take the dtype of `like`."""
    return op.Where(mask, *(op.constant(v, like.dtype) if isinstance(v, (int, float)) else v for v in (a, b)))


def _inside(op: Builder, y: Tensor, low: float, high: float, slope: float) -> Tensor:
    return _choose(op, (y > low) & (y < high), slope, 0.0, y)


def _exp_below(op: Builder, x: Tensor, slope: float = 1.0) -> Tensor:
    """``exp(slope · min(x, 0))``, which is 1 above 0, and does not overflow there."""
    return op.Exp(op.Clip(x, None, 0) * slope)


def _leaky(op: Builder, y: Tensor, x: Tensor, alpha: float) -> Tensor:
    """The slope; y tells the sides apart where it has the sign of x, and so leaves x to a fusion."""
    return _choose(op, (y if alpha > 0 else x) > 0, 1.0, alpha, x)


def _elu(op: Builder, x: Tensor, alpha: float) -> Tensor:
    slope = _exp_below(op, x)
    return slope if alpha == 1 else _choose(op, x > 0, 1.0, alpha * slope, x)


def _hard_swish(op: Builder, x: Tensor) -> Tensor:
    """``y = x · clip(x/6 + 1/2, 0, 1)``; PyTorch's derivative at the joints -3 and 3 is that of the straight sides."""
    share = op.ramp(x, 1 / 6, 0.5)
    return share + x * _choose(op, (x > -3) & (x < 3), 1 / 6, 0.0, x)


def _gelu(op: Builder, x: Tensor, approximate: str) -> Tensor:
    """``Φ(x) + x φ(x)``; with ``approximate="tanh"`` that of ``x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))``.

    The latter is 0 or 1 long before x² or x³ overflow (in float16, soon), which would make it 0 · inf.
    """
    if approximate == "tanh":
        root = math.sqrt(2 / math.pi)
        x = op.Clip(x, -32.0, 32.0)
        t = op.Tanh(root * (x + 0.044715 * x * x * x))
        return 0.5 * (1 + t) + 0.5 * x * (1 - t) * (1 + t) * (root * (1 + 0.134145 * x * x))
    u = x * math.sqrt(0.5)
    density = op.Exp(-0.5 * math.log(2 * math.pi) - u * u)
    return 0.5 * (1 + op.Erf(u)) + x * density


def _mish(op: Builder, x: Tensor) -> Tensor:
    """``y = x · tanh(softplus(x))``."""
    t = op.Tanh(op.Softplus(x))
    return t + x * (1 - t) * (1 + t) * op.Sigmoid(x)


def _swish(op: Builder, x: Tensor, alpha: float) -> Tensor:
    s = op.Sigmoid(alpha * x)
    return s + alpha * x * s * (1 - s)


# --- choices among several inputs --------------------------------------------------------------


@vjp("Sum", versions=(13,), follow=samples.aligned)
def sum_(op: Builder, node: Node, ct: Tensor) -> Sequence[Tensor]:
    """The cotangent passes to every summand."""
    return [ct] * len(node.inputs)


@vjp("Mean", versions=(13,), follow=samples.aligned)
def mean(op: Builder, node: Node, ct: Tensor) -> Sequence[Tensor]:
    """The cotangent passes to every input, in equal shares."""
    return [ct * (1 / len(node.inputs))] * len(node.inputs)


@vjp("Max Min", versions=(13,), follow=samples.aligned)
def extremum(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """The cotangent passes to the inputs that equal the output, in equal shares among ties (as in PyTorch)."""
    hits = [op.cast(op.Equal(x, node.y), ct.dtype) for x in node.inputs]
    if len(hits) == 1:
        return [lambda: ct]
    share = ct / op.Sum(*hits)
    return [lambda hit=hit: share * hit for hit in hits]  # type: ignore[misc]


@vjp("Clip", versions=(13,), follow=samples.aligned)
def clip(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor]]:
    """``min(max(x, low), high)``: inside the bounds, and on them, the cotangent passes to x, else to the bound in
    force.

    Where low > high, ONNX lets high win. From 0 to 6 it is ReLU6, and on the bounds nothing passes to x, as in PyTorch
    and TensorFlow; then y tells, and leaves x to a fusion.
    """
    x, low, high = node.x, node.input(1), node.input(2)

    def by_x() -> Tensor:
        if low is not None and high is not None and low.const == 0 and high.const == 6:
            return op.masked((node.y > low) & (node.y < high), ct)
        inside = [op.GreaterOrEqual(x, low)] if low is not None else []
        inside += [op.LessOrEqual(x, high)] if high is not None else []
        return op.masked(functools.reduce(op.And, inside), ct) if inside else ct

    def above() -> Tensor:
        if high is None:
            return op.constant(False)
        return op.Greater(x if low is None else op.Max(x, low), high)

    return (
        by_x,
        lambda: op.masked(op.And(op.Less(x, low), op.Not(above())), ct),
        lambda: op.masked(above(), ct),
    )


@vjp("Where", versions=(16,), follow=samples.aligned)
def where(op: Builder, node: Node, ct: Tensor) -> Sequence[Callable[[], Tensor] | None]:
    """The cotangent passes to the side that was chosen."""
    mask = node.inputs[0]
    assert mask is not None
    return None, lambda: op.masked(mask, ct), lambda: op.masked(mask, ct, holds=False)


@vjp("Cast", versions=(13, 19, 21, 23, 24, 25, 28), follow=samples.aligned)
def cast(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The cotangent is cast back (by the driver)."""
    return ct


@vjp("CastLike", versions=(15, 19, 21, 23, 24, 25), wrt=(0,), zero={1: "only its type is used"}, follow=samples.aligned)
def cast_like(op: Builder, node: Node, ct: Tensor) -> Tensor:
    """The cotangent is cast back (by the driver)."""
    return ct


@vjp(
    "Dropout",
    versions=(13, 22),
    wrt=(0, 1),
    follow=samples.aligned,
    remark="in training mode for the draw that was made, and then not with respect to the ratio",
)
def dropout(op: Builder, node: Node, ct: Tensor, mask_ct: None = None) -> Sequence[Callable[[], Tensor]]:
    """In training mode ``y = x · mask / (1 - ratio)`` with the mask of this very draw, else the identity.

    The model's working form (`onnxgrad.model.normalize`) has the mask as an output wherever one may be drawn.
    """
    ratio, training = node.input(1), node.input(2)
    if training is None or training.ints == [0]:
        return lambda: ct, lambda: op.zeros_like(_given(ratio))

    def data() -> Tensor:
        mask = node.outputs[1] if len(node.outputs) > 1 else None
        if mask is None:
            raise Refusal("it is in training mode, and its mask is no output", "give it its second output")
        scale = op.constant(2.0, ct.dtype) if ratio is None else op.cast(op.Reciprocal(1 - ratio), ct.dtype)
        if training.ints != [1]:
            scale = op.Where(training, scale, 1)
        return op.masked(mask, ct * scale)

    def by_ratio() -> Tensor:
        raise Refusal(
            "in training mode its output jumps as the ratio changes, so the derivative for one draw is not that of the "
            "mean over all draws",
            "take the ratio out of `wrt`",
        )

    return data, by_ratio


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


# --- zero wherever there is a derivative -------------------------------------------------------

not_differentiable("Floor Ceil", "constant between its jumps", versions=(13,))
not_differentiable("Round", "constant between its jumps", versions=(11, 22))
not_differentiable("Sign", "constant but at 0", versions=(13,))
not_differentiable("Equal", "true or false", versions=(13, 19))
not_differentiable("Greater Less", "true or false", versions=(13,))
not_differentiable("GreaterOrEqual LessOrEqual", "true or false", versions=(16,))
not_differentiable("And Or Xor", "true or false", versions=(7,))
not_differentiable("Not", "true or false", versions=(1,))
not_differentiable("IsNaN", "true or false", versions=(13, 20))
not_differentiable("IsInf", "true or false", versions=(10, 20))
not_differentiable("BitShift", "integers", versions=(11, 28))
not_differentiable("BitwiseAnd BitwiseOr BitwiseXor BitwiseNot", "integers", versions=(18,))
