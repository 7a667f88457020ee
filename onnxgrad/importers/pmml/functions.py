"""The built-in functions of PMML that are functions of numbers, by its specification, version 4.4.

A condition is a number: 1 for true, 0 for false. Other than for the functions that say so, the result is missing where
an argument is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.pmml.arithmetic import Arithmetic

Compute = Callable[..., Tensor]


@dataclass(frozen=True)
class Function:
    """A built-in function.

    Attributes:
        compute: ``compute(arithmetic, *arguments)``.
        least: how many arguments it takes at least.
        most: how many at most; None: any number.
        single_only: whether onnxruntime computes it in float32 only.
    """

    compute: Compute
    least: int
    most: int | None
    single_only: bool = False


#: All of them, by name.
FUNCTIONS: dict[str, Function] = {}


def _function(name: str, least: int, most: int | None = -1, single_only: bool = False) -> Callable[[Compute], Compute]:
    def register(compute: Compute) -> Compute:
        FUNCTIONS[name] = Function(compute, least, least if most == -1 else most, single_only)
        return compute

    return register


def _simple(names: str, *computes: Compute, arity: int = 1) -> None:
    for name, compute in zip(names.split(), computes, strict=True):
        _function(name, arity)(_arithmetic(compute))


def _arithmetic(compute: Compute) -> Compute:
    return lambda a, *args: a.of(args, compute(a, *args))


# --- arithmetic -----------------------------------------------------------------------------------

_simple(
    "+ - * / pow hypot modulo",
    lambda _, x, y: x + y,
    lambda _, x, y: x - y,
    lambda _, x, y: x * y,
    lambda _, x, y: x / y,
    lambda a, x, y: a.unless_missing([x, y], x**y),  # else NaN to the power of 0 would be 1
    lambda a, x, y: a.op.Sqrt(x * x + y * y),
    lambda a, x, y: x - y * a.op.Floor(x / y),  # has the sign of y
    arity=2,
)
_simple(
    "abs exp ln log10 sqrt expm1 ln1p floor ceil rint round",
    lambda a, x: a.op.Abs(x),
    lambda a, x: a.op.Exp(x),
    lambda a, x: a.op.Log(x),
    lambda a, x: a.op.Log(x) / math.log(10),
    lambda a, x: a.op.Sqrt(x),
    lambda a, x: a.op.Tanh(x / 2.0) * (a.op.Exp(x) + 1.0),  # no cancellation near 0
    lambda a, x: a.op.Log(x + 1.0),
    lambda a, x: a.op.Floor(x),
    lambda a, x: a.op.Ceil(x),
    lambda a, x: a.op.Round(x),
    lambda a, x: a.op.Floor(x + 0.5),
)


# --- trigonometry: onnxruntime has Sin, Cos and Tanh in float64, and nothing else ------------------


def _tan(a: Arithmetic, x: Tensor) -> Tensor:
    return a.op.Sin(x) / a.op.Cos(x)


def _cosh(a: Arithmetic, x: Tensor) -> Tensor:
    return (a.op.Exp(x) + a.op.Exp(-x)) * 0.5


def _asin(a: Arithmetic, x: Tensor) -> Tensor:
    """2 arctan(x / (1 + √(1 - x²))), the half of the angle."""
    return a.arctan(x / (1.0 + a.op.Sqrt((1.0 - x) * (1.0 + x)))) * 2.0


_simple(
    "sin cos tan asin acos atan sinh cosh tanh",
    lambda a, x: a.op.Sin(x),
    lambda a, x: a.op.Cos(x),
    _tan,
    _asin,
    lambda a, x: math.pi / 2 - _asin(a, x),
    lambda a, x: a.arctan(x),
    lambda a, x: a.op.Tanh(x) * _cosh(a, x),
    _cosh,
    lambda a, x: a.op.Tanh(x),
)


# --- probability ----------------------------------------------------------------------------------


@_function("normalPDF", 3)
def _normal_pdf(a: Arithmetic, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """exp(-z²/2) / (σ √(2π)) with z = (x - μ)/σ."""
    z = (x - mean) / deviation
    return a.op.Exp(z * z * -0.5) / (deviation * math.sqrt(2 * math.pi))


@_function("stdNormalPDF", 1)
def _std_normal_pdf(a: Arithmetic, x: Tensor) -> Tensor:
    return a.op.Exp(x * x * -0.5) / math.sqrt(2 * math.pi)


@_function("normalCDF", 3, single_only=True)
def _normal_cdf(a: Arithmetic, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return _std_normal_cdf(a, (x - mean) / deviation)


@_function("stdNormalCDF", 1, single_only=True)
def _std_normal_cdf(a: Arithmetic, x: Tensor) -> Tensor:
    return (a.op.Erf(x / math.sqrt(2)) + 1.0) * 0.5


_function("erf", 1, single_only=True)(lambda a, x: a.op.Erf(x))


# --- of any number of arguments, of which missing ones are ignored ---------------------------------


def _sum(a: Arithmetic, *args: Tensor) -> Tensor:
    return a.ignoring_missing(args, 0.0, lambda x: a.op.sum(x, [1]))


def _mean(a: Arithmetic, *args: Tensor) -> Tensor:
    there = a.count(~a.is_missing(a.op.Concat(*map(a.column, args), axis=1)))
    return _sum(a, *args) / there


def _reduction(operator: str, neutral: float) -> Compute:
    def compute(a: Arithmetic, *args: Tensor) -> Tensor:
        return a.ignoring_missing(args, neutral, lambda x: a.op.emit(operator, x, [1], keepdims=1)[0])

    return compute


_function("sum", 1, None)(_sum)
_function("avg", 1, None)(_mean)
_function("product", 1, None)(_reduction("ReduceProd", 1.0))
_function("min", 1, None)(_reduction("ReduceMin", math.inf))
_function("max", 1, None)(_reduction("ReduceMax", -math.inf))


# --- conditions -----------------------------------------------------------------------------------


def _comparison(compare: Callable[[Arithmetic, Tensor, Tensor], Tensor]) -> Compute:
    return lambda a, x, y: a.unless_missing([x, y], a.flag(compare(a, x, y)))


_simple(
    "equal notEqual lessThan lessOrEqual greaterThan greaterOrEqual threshold",
    _comparison(lambda a, x, y: a.op.Equal(x, y)),
    _comparison(lambda a, x, y: ~a.op.Equal(x, y)),
    _comparison(lambda _, x, y: x < y),
    _comparison(lambda _, x, y: x <= y),
    _comparison(lambda _, x, y: x > y),
    _comparison(lambda _, x, y: x >= y),
    _comparison(lambda _, x, y: x > y),
    arity=2,
)


@_function("isMissing", 1)
def _is_missing(a: Arithmetic, x: Tensor) -> Tensor:
    return a.flag(a.is_missing(x))


@_function("isNotMissing", 1)
def _is_not_missing(a: Arithmetic, x: Tensor) -> Tensor:
    return a.flag(~a.is_missing(x))


@_function("isIn", 2, None)
def _is_in(a: Arithmetic, x: Tensor, *others: Tensor) -> Tensor:
    return a.unless_missing([x], a.flag(_equals_one(a, x, others)))


@_function("isNotIn", 2, None)
def _is_not_in(a: Arithmetic, x: Tensor, *others: Tensor) -> Tensor:
    return a.unless_missing([x], a.flag(~_equals_one(a, x, others)))


def _equals_one(a: Arithmetic, x: Tensor, others: Sequence[Tensor]) -> Tensor:
    found = a.any_of([a.op.Equal(x, other) for other in others])
    assert found is not None
    return found


@_function("not", 1)
def _not(a: Arithmetic, x: Tensor) -> Tensor:
    return a.unless_missing([x], a.flag(a.op.Equal(x, a.constant(0.0))))


@_function("and", 2, None)
def _and(a: Arithmetic, *args: Tensor) -> Tensor:
    """False where an argument is, even if others are missing."""
    false = a.any_of([a.op.Equal(x, a.constant(0.0)) for x in args])
    assert false is not None
    return a.op.Where(false, a.constant(0.0), a.unless_missing(args, a.constant(1.0)))


@_function("or", 2, None)
def _or(a: Arithmetic, *args: Tensor) -> Tensor:
    """True where an argument is, even if others are missing."""
    true = a.any_of([a.op.Equal(x, a.constant(1.0)) for x in args])
    assert true is not None
    return a.op.Where(true, a.constant(1.0), a.unless_missing(args, a.constant(0.0)))


@_function("if", 2, 3)
def _if(a: Arithmetic, condition: Tensor, value: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """Missing where the condition is, or where it is false and there is no third argument."""
    otherwise = a.missing if otherwise is None else otherwise
    chosen = a.op.Where(a.op.Equal(condition, a.constant(1.0)), value, otherwise)
    return a.unless_missing([condition], chosen)


def supports(name: str, dtype: ir.DataType) -> bool:
    """Whether a function can be computed in a type."""
    return not FUNCTIONS[name].single_only or dtype == ir.DataType.FLOAT


__all__ = ["FUNCTIONS", "Function", "supports"]
