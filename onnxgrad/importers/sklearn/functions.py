"""Functions of mathematics that ONNX has no operator for, or none in float64, in operators that it has."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn.emitter import INT64, Emitter

Array = np.ndarray[Any, Any]

#: Where the error function is 1 to the last digit of float64.
_FLAT = 6.0


def erf(g: Emitter, x: Tensor) -> Tensor:
    """The error function, ``2/√π · x ∫₀¹ exp(-x² s²) ds``, by a quadrature of Gauss and Legendre that is exact to
    rounding for ``|x| < 6``, where nothing is left of the rest.

    (onnxruntime has `Erf` in float32 only.)
    """
    op = g.op
    x = op.Clip(x, -_FLAT, _FLAT)
    nodes, weights = np.polynomial.legendre.leggauss(48)
    s = (nodes + 1) / 2
    squares = op.unsqueeze(x * x, [-1])
    integral = op.squeeze(op.MatMul(op.Exp(squares * g.constant(-(s**2))), g.constant(weights[:, None] / 2)), [-1])
    return x * integral * (2 / math.sqrt(math.pi))


def clenshaw(g: Emitter, t: Tensor, coefficients: Array) -> Tensor:
    """``Σ cₖ Tₖ(t)``, a sum of Chebyshev polynomials, by Clenshaw's recurrence."""
    later, latest = None, None
    for c in coefficients[:0:-1]:
        term = g.constant(c) if later is None else 2 * t * later + g.constant(c)
        if latest is not None:
            term = term - latest
        later, latest = term, later
    assert later is not None
    last = t * later + g.constant(coefficients[0])
    return last if latest is None else last - latest


#: Beyond this share on either side, quantiles of the normal distribution are not asked for.
SMALLEST_SHARE = 1e-7 - np.spacing(1)


@functools.cache
def _quantile_coefficients() -> tuple[Array, float, float]:
    """Return the quantile function in ``r = √(-2 log p)``, in which it is smooth, as Chebyshev coefficients, and the
    range of r.
    """
    from scipy.special import ndtri_exp

    low, high = math.sqrt(2 * math.log(2)), math.sqrt(-2 * math.log(SMALLEST_SHARE)) + 1e-6
    t = np.cos(np.pi * (np.arange(40) + 0.5) / 40)
    r = low + (t + 1) / 2 * (high - low)
    return np.polynomial.chebyshev.chebfit(t, ndtri_exp(-(r**2) / 2), 31), low, high


def normal_quantile(g: Emitter, p: Tensor) -> Tensor:
    """The quantile function of the normal distribution, for shares from `SMALLEST_SHARE` on."""
    op = g.op
    coefficients, low, high = _quantile_coefficients()
    upper = op.Greater(p, 0.5)
    tail = op.Where(upper, 1 - p, p)
    r = op.Sqrt(-2 * op.Log(tail))
    value = clenshaw(g, (r - low) * (2 / (high - low)) - 1, coefficients)
    return op.Where(upper, -value, value)


def normal_share(g: Emitter, x: Tensor) -> Tensor:
    """The distribution function of the normal distribution."""
    return 0.5 * (1 + erf(g, x * math.sqrt(0.5)))


def interpolate(g: Emitter, x: Tensor, knots: Array, values: Array) -> Tensor:
    """Interpolate each column linearly between knots, ``(knots, columns)``; constant beyond the ends.

    At a knot that is there more than once, where the function jumps, it is the mean of both sides.
    """
    op, width = g.op, knots.shape[1]
    knots, values = (np.asarray(a, np.float64) for a in (knots, values))
    runs, rises = np.diff(knots, axis=0), np.diff(values, axis=0)
    slopes = np.divide(rises, runs, out=np.zeros_like(runs), where=runs > 0)
    flat = np.zeros((1, width))
    starts = np.concatenate([knots[:1], knots])
    heights = np.concatenate([values[:1], values])
    tables = [starts, heights, np.concatenate([flat, slopes, flat])]
    wide, column = op.unsqueeze(x, [1]), op.constant(np.arange(width))
    start, height, slope = (g.constant(t.ravel()) for t in tables)
    found = []
    for compare in (op.GreaterOrEqual, op.Greater):
        passed = op.sum(op.cast(compare(wide, g.constant(knots)), INT64), [1], keepdims=False)
        place = passed * width + column
        found.append(op.Gather(height, place) + op.Gather(slope, place) * (x - op.Gather(start, place)))
    return 0.5 * (found[0] + found[1])


# --- what numpy calls functions of one argument -------------------------------------------------------

Elementwise = Callable[[Emitter, Tensor], Tensor]


def _cube_root(g: Emitter, x: Tensor) -> Tensor:
    return g.op.Sign(x) * g.op.Pow(g.op.Abs(x), 1 / 3)


#: By the names that numpy (or scipy.special) gives them.
ELEMENTWISE: dict[str, Elementwise] = {
    "exp": lambda g, x: g.op.Exp(x),
    "exp2": lambda g, x: g.op.Exp(x * math.log(2)),
    "expm1": lambda g, x: g.op.Exp(x) - 1,
    "log": lambda g, x: g.op.Log(x),
    "log1p": lambda g, x: g.op.Log(1 + x),
    "log2": lambda g, x: g.op.Log(x) / math.log(2),
    "log10": lambda g, x: g.op.Log(x) / math.log(10),
    "sqrt": lambda g, x: g.op.Sqrt(x),
    "cbrt": _cube_root,
    "square": lambda g, x: x * x,
    "reciprocal": lambda g, x: g.op.Reciprocal(x),
    "negative": lambda g, x: -x,
    "positive": lambda g, x: x,
    "absolute": lambda g, x: g.op.Abs(x),
    "fabs": lambda g, x: g.op.Abs(x),
    "sin": lambda g, x: g.op.Sin(x),
    "cos": lambda g, x: cos(g, x),
    "tan": lambda g, x: g.op.Sin(x) / cos(g, x),
    "sinh": lambda g, x: (g.op.Exp(x) - g.op.Exp(-x)) / 2,
    "cosh": lambda g, x: (g.op.Exp(x) + g.op.Exp(-x)) / 2,
    "tanh": lambda g, x: g.op.Tanh(x),
    "arcsinh": lambda g, x: g.op.Sign(x) * g.op.Log(g.op.Abs(x) + g.op.Sqrt(x * x + 1)),
    "expit": lambda g, x: g.op.Sigmoid(x),
    "logit": lambda g, x: g.op.Log(x / (1 - x)),
    "sign": lambda g, x: g.op.Sign(x),
    "floor": lambda g, x: g.op.Floor(x),
    "ceil": lambda g, x: g.op.Ceil(x),
}


def known_function(function: Any) -> Elementwise | None:
    """Return what a function of numpy or scipy.special does; None where it is another."""
    import scipy.special

    name = getattr(function, "__name__", "")
    home = np if hasattr(np, name) else scipy.special
    return ELEMENTWISE.get(name) if getattr(home, name, None) is function else None


def cos(g: Emitter, x: Tensor) -> Tensor:
    """The cosine."""
    return g.op.Cos(x)
