"""Scalers, transforms of single features, polynomials, splines, imputation and selection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn.distances import inverse, unit_rows
from onnxgrad.importers.sklearn.emitter import INT64, Emitter, Given, formula, refuse
from onnxgrad.importers.sklearn.functions import (
    ELEMENTWISE,
    SMALLEST_SHARE,
    interpolate,
    known_function,
    normal_quantile,
    normal_share,
)

Array = np.ndarray[Any, Any]

# --- scalers ------------------------------------------------------------------------------------------


def _scale_of(model: Any) -> tuple[Any, Any]:
    """Return offset and scale of ``(x - offset) / scale``; None for what is left out."""
    name = type(model).__name__
    if name == "StandardScaler":
        return model.mean_ if model.with_mean else None, model.scale_ if model.with_std else None
    if name == "RobustScaler":
        return model.center_ if model.with_centering else None, model.scale_ if model.with_scaling else None
    return None, model.scale_  # MaxAbsScaler


@formula("StandardScaler RobustScaler MaxAbsScaler", "transform")
def scale(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(x - offset) / scale``."""
    x, (offset, factor) = g.numbers(x), _scale_of(model)
    if offset is not None:
        x = x - g.weight("offset", offset)
    if factor is not None:
        x = x / g.weight("scale_", factor)
    return _clipped(g, x, -1.0, 1.0) if getattr(model, "clip", False) else x


@formula("StandardScaler RobustScaler MaxAbsScaler", "inverse_transform")
def unscale(g: Emitter, model: Any, y: Given) -> Tensor:
    """``y · scale + offset``."""
    y, (offset, factor) = g.numbers(y), _scale_of(model)
    if factor is not None:
        y = y * g.weight("scale_", factor)
    return y if offset is None else y + g.weight("offset", offset)


def _clipped(g: Emitter, x: Tensor, low: float, high: float) -> Tensor:
    return g.op.Clip(x, float(low), float(high))


@formula("MinMaxScaler", "transform")
def scale_range(g: Emitter, model: Any, x: Given) -> Tensor:
    """``x · scale + min``, clipped on request."""
    y = g.numbers(x) * g.weight("scale_", model.scale_) + g.weight("min_", model.min_)
    return _clipped(g, y, *model.feature_range) if model.clip else y


@formula("MinMaxScaler", "inverse_transform")
def unscale_range(g: Emitter, model: Any, y: Given) -> Tensor:
    """``(y - min) / scale``."""
    return (g.numbers(y) - g.weight("min_", model.min_)) / g.weight("scale_", model.scale_)


@formula("Normalizer", "transform")
def normalize(g: Emitter, model: Any, x: Given) -> Tensor:
    """Rows over their norms."""
    return unit_rows(g, g.numbers(x), model.norm)


@formula("Binarizer", "transform")
def binarize(g: Emitter, model: Any, x: Given) -> Tensor:
    """Whether x is above a threshold."""
    return g.op.cast(g.op.Greater(g.numbers(x), float(model.threshold)), g.dtype)


# --- functions --------------------------------------------------------------------------------------------


def _function(g: Emitter, function: Any, arguments: Any, x: Tensor) -> Tensor:
    if function is None:
        return x
    known = None if arguments else known_function(function)
    refuse(
        known is None,
        f"it applies {getattr(function, '__name__', function)!r}, which is not known",
        f"use one of numpy: {', '.join(ELEMENTWISE)}",
    )
    assert known is not None
    return known(g, x)


@formula("FunctionTransformer", "transform")
def apply(g: Emitter, model: Any, x: Given) -> Any:
    """A function of numpy, by its name."""
    return x if model.func is None else _function(g, model.func, model.kw_args, g.numbers(x))


@formula("FunctionTransformer", "inverse_transform")
def unapply(g: Emitter, model: Any, y: Given) -> Tensor:
    """The inverse that it was given."""
    return _function(g, model.inverse_func, model.inv_kw_args, g.numbers(y))


def _power(g: Emitter, u: Tensor, exponents: Array) -> Tensor:
    """``(uᵃ - 1) / a`` by columns, and ``log u`` where a is 0."""
    op, flat = g.op, np.abs(exponents) < np.spacing(1.0)
    a = g.weight("lambdas_", np.where(flat, 1, exponents))
    y = (op.Pow(u, a) - 1) / a
    return op.Where(op.constant(flat), op.Log(u), y) if flat.any() else y


def _unpower(g: Emitter, v: Tensor, exponents: Array) -> Tensor:
    """``(v a + 1)^(1/a)`` by columns, and ``exp v`` where a is 0."""
    op, flat = g.op, np.abs(exponents) < np.spacing(1.0)
    a = g.weight("lambdas_", np.where(flat, 1, exponents))
    y = op.Pow(v * a + 1, 1 / a)
    return op.Where(op.constant(flat), op.Exp(v), y) if flat.any() else y


@formula("PowerTransformer", "transform")
def power(g: Emitter, model: Any, x: Given) -> Tensor:
    """``(xᵃ - 1) / a`` (Box and Cox), or ``((x + 1)ᵃ - 1) / a`` and ``-((1 - x)²⁻ᵃ - 1) / (2 - a)`` on the two sides of
    zero (Yeo and Johnson 2000).
    """
    op, x, exponents = g.op, g.numbers(x), np.asarray(model.lambdas_)
    if model.method == "box-cox":
        y = _power(g, x, exponents)
    else:
        right = op.GreaterOrEqual(x, 0)
        y = op.Where(
            right,
            _power(g, op.Where(right, x, 0) + 1, exponents),
            -_power(g, 1 - op.Where(right, 0, x), 2 - exponents),
        )
    return g.call(model._scaler, "transform", y, "scaler") if model.standardize else y


@formula("PowerTransformer", "inverse_transform")
def unpower(g: Emitter, model: Any, y: Given) -> Tensor:
    """What `power` undoes."""
    op, exponents = g.op, np.asarray(model.lambdas_)
    y = g.call(model._scaler, "inverse_transform", y, "scaler") if model.standardize else g.numbers(y)
    if model.method == "box-cox":
        return _unpower(g, y, exponents)
    right = op.GreaterOrEqual(y, 0)
    return op.Where(
        right,
        _unpower(g, op.Where(right, y, 0), exponents) - 1,
        1 - _unpower(g, -op.Where(right, 0, y), 2 - exponents),
    )


@formula("QuantileTransformer", "transform")
def quantiles(g: Emitter, model: Any, x: Given) -> Tensor:
    """Interpolate between quantiles, and ask the normal distribution for the quantile of that share."""
    op, x, knots = g.op, g.numbers(x), np.asarray(model.quantiles_)
    p = interpolate(g, x, knots, np.broadcast_to(model.references_[:, None], knots.shape))
    if model.output_distribution == "uniform":
        low, high = op.LessOrEqual(x, g.constant(knots[0])), op.GreaterOrEqual(x, g.constant(knots[-1]))
        return op.Where(low, 0, op.Where(high, 1, p))
    low, high = op.Less(x - 1e-7, g.constant(knots[0])), op.Greater(x + 1e-7, g.constant(knots[-1]))
    p = op.Where(low, 0, op.Where(high, 1, p))
    return normal_quantile(g, op.Clip(p, float(SMALLEST_SHARE), float(1 - SMALLEST_SHARE)))


@formula("QuantileTransformer", "inverse_transform")
def unquantiles(g: Emitter, model: Any, y: Given) -> Tensor:
    """The quantile of a share, or of the share of a normal distribution."""
    p, knots = g.numbers(y), np.asarray(model.quantiles_)
    if model.output_distribution == "normal":
        p = normal_share(g, p)
    return interpolate(g, p, np.broadcast_to(model.references_[:, None], knots.shape), knots)


@formula("IsotonicRegression", "predict")
@formula("IsotonicRegression", "transform")
def isotonic(g: Emitter, model: Any, x: Given) -> Tensor:
    """Interpolate linearly; beyond the ends constant, or no number."""
    op, x = g.op, g.numbers(x)
    knots, values = (np.asarray(a, np.float64)[:, None] for a in (model.X_thresholds_, model.y_thresholds_))
    refuse(x.shape[1] != 1, "it takes one feature", "give it one")
    if len(knots) == 1:
        y = x * 0 + g.weight("y_thresholds_", values[0])
    else:
        y = interpolate(g, x, knots, values)
    if model.out_of_bounds == "clip":
        return y
    outside = op.Or(op.Less(x, g.constant(knots[0])), op.Greater(x, g.constant(knots[-1])))
    return op.Where(outside, math.nan, y)


# --- polynomials and splines ------------------------------------------------------------------------------


@formula("PolynomialFeatures", "transform")
def polynomial(g: Emitter, model: Any, x: Given) -> Tensor:
    """Products of features, those of each degree at once."""
    x, powers = g.numbers(x), np.asarray(model.powers_)
    degrees, parts = powers.sum(1), []
    for degree in sorted(set(degrees.tolist())):
        factors = np.array([np.repeat(np.arange(len(p)), p) for p in powers[degrees == degree]])
        if degree == 0:
            parts.append(g.op.spread(g.constant([[1.0]]), (x.shape[0], 1)))
            continue
        product = g.picked(x, factors[:, 0])
        for place in range(1, degree):
            product = product * g.picked(x, factors[:, place])
        parts.append(product)
    order = np.argsort(np.argsort(degrees, kind="stable"), kind="stable")
    return g.columns(g.join(parts), order)


@formula("SplineTransformer", "transform")
def splines(g: Emitter, model: Any, x: Given) -> Tensor:
    """B-splines of each feature, as a polynomial in each interval between knots."""
    refuse(
        model.extrapolation == "linear" and model.degree <= 1 and len(model.bsplines_) > 1,
        "with a degree of 0 or 1, scikit-learn takes all features but the first for extrapolated from an inner knot on",
        "use degree=2 or more, or another extrapolation",
    )
    x = g.numbers(x)
    parts = [_splines(g, model, g.columns(x, [j]), spline) for j, spline in enumerate(model.bsplines_)]
    if not model.include_bias:
        parts = [g.columns(part, range(int(part.shape[1]) - 1)) for part in parts]
    return g.join(parts)


def _splines(g: Emitter, model: Any, x: Tensor, spline: Any) -> Tensor:
    """The B-splines of one feature, ``(N, splines)``."""
    from scipy.interpolate import BSpline, PPoly

    op, k = g.op, int(spline.k)
    knots = np.asarray(spline.t)[k : len(spline.t) - k]
    low, high = float(knots[0]), float(knots[-1])
    each = [PPoly.from_spline(BSpline(spline.t, column, k)).c for column in np.asarray(spline.c).T]
    pieces = np.stack(each, -1)[:, k : k + len(knots) - 1]  # (k + 1, intervals, splines)
    if model.extrapolation == "periodic":
        at = x - (high - low) * op.Floor((x - low) / (high - low))
    else:
        at = op.Clip(x, low, high) if model.extrapolation in ("constant", "linear") else x
    y = _piecewise(g, at, knots, pieces)
    if model.extrapolation == "linear":
        powers = np.arange(k, -1, -1)[:, None]
        width = knots[-1] - knots[-2]
        left = pieces[-2, 0] if k else np.zeros(pieces.shape[2])
        right = (powers[:-1] * pieces[:-1, -1] * width ** (powers[:-1] - 1)).sum(0)
        y = y + op.Min(x - low, g.constant(0.0)) * g.weight("slopes_before", left)
        y = y + op.Max(x - high, g.constant(0.0)) * g.weight("slopes_behind", right)
    elif model.extrapolation == "error":
        y = op.Where(op.Or(op.Less(x, low), op.Greater(x, high)), math.nan, y)
    zeros = getattr(model, "handle_missing", "error") == "zeros"
    return op.Where(op.IsNaN(x), 0, y) if zeros else y


def _piecewise(g: Emitter, x: Tensor, knots: Array, pieces: Array) -> Tensor:
    """Polynomials in ``x - knot``, by Horner's scheme; one column x, ``(N, 1)``."""
    op = g.op
    inner = g.constant(knots[1:-1])
    passed = op.cast(op.GreaterOrEqual(x, inner), INT64)
    place = op.sum(passed, [1], keepdims=False) if len(knots) > 2 else op.cast(op.squeeze(x * 0, [1]), INT64)
    rest = x - op.unsqueeze(op.Gather(g.constant(knots[:-1]), place), [1])
    y = op.Gather(g.weight("coef_0", pieces[0]), place)
    for i in range(1, len(pieces)):
        y = y * rest + op.Gather(g.weight(f"coef_{i}", pieces[i]), place)
    return y


# --- imputation and selection ---------------------------------------------------------------------------


@formula("SimpleImputer", "transform")
def impute(g: Emitter, model: Any, x: Given) -> Tensor:
    """Numbers in the place of missing ones."""
    op, x, values = g.op, g.numbers(x), np.asarray(model.statistics_)
    refuse(
        values.dtype.kind not in "fiu", "it fills in texts", "impute the columns of numbers apart from those of texts"
    )
    kept = np.arange(len(values)) if model.keep_empty_features else np.flatnonzero(~np.isnan(values))
    missing = _missing(g, model, x)
    y = g.columns(op.Where(missing, g.weight("statistics_", np.nan_to_num(values)), x), kept)
    if model.indicator_ is None:
        return y
    return g.join([y, op.cast(_flags(g, missing, model.indicator_.features_), g.dtype)])


def _flags(g: Emitter, missing: Tensor, chosen: Any) -> Tensor:
    return g.op.Gather(missing, [int(i) for i in chosen], axis=1)


@formula("IterativeImputer", "transform")
def impute_in_turn(g: Emitter, model: Any, x: Given) -> Tensor:
    """Each missing number by a regressor on the other features, in turns."""
    refuse(model.sample_posterior, "it draws at random (sample_posterior=True)", "set sample_posterior=False")
    op, x = g.op, g.numbers(x)
    kept = [i for i in range(int(x.shape[1])) if i not in set(_dropped(model))]
    refuse(len(kept) < int(x.shape[1]), "features without any number were dropped", "leave them out before it")
    missing = _missing(g, model, x)
    y: Tensor = g.call(model.initial_imputer_, "transform", x, "initial_imputer")
    for i, (feature, others, estimator) in enumerate(model.imputation_sequence_):
        found = g.call(estimator, "predict", g.columns(y, others), str(i))
        found = op.Min(op.Max(found, g.constant(model._min_value[feature])), g.constant(model._max_value[feature]))
        here = op.Gather(missing, [int(feature)], axis=1)
        columns = [op.Where(here, found, g.columns(y, [j])) if j == feature else g.columns(y, [j]) for j in kept]
        y = g.join(columns)
    if model.indicator_ is None:
        return y
    return g.join([y, op.cast(_flags(g, missing, model.indicator_.features_), g.dtype)])


def _dropped(model: Any) -> Any:
    statistics = np.asarray(model.initial_imputer_.statistics_, np.float64)
    return [] if model.keep_empty_features else np.flatnonzero(np.isnan(statistics))


def _missing(g: Emitter, model: Any, x: Tensor) -> Tensor:
    is_nan = model.missing_values is None or model.missing_values != model.missing_values
    return g.op.IsNaN(x) if is_nan else g.op.Equal(x, float(model.missing_values))


@formula("KNNImputer", "transform")
def impute_by_neighbors(g: Emitter, model: Any, x: Given) -> Tensor:
    """Each missing number by the mean over the nearest of those that have it; distances by what both have."""
    op, x, fitted = g.op, g.numbers(x), np.asarray(model._fit_X)
    refuse(model.metric != "nan_euclidean", "its metric is a function", "use metric='nan_euclidean'")
    refuse(model.weights not in ("uniform", "distance"), "its weights are a function", "use weights='uniform'")
    missing, width = _missing(g, model, x), int(x.shape[1])
    known = ~np.asarray(model._mask_fit_X, bool)
    filled = op.Where(missing, 0, x)
    there = op.cast(~missing, g.dtype)
    d = op.unsqueeze(filled, [1]) - g.weight("_fit_X", np.where(known, fitted, 0)[None])
    both = op.unsqueeze(there, [1]) * g.constant(known.astype(float)[None])
    common = g.total(both, keepdims=False)
    none = op.Equal(common, 0)
    squares = g.total(d * d * both, keepdims=False) * (float(width) / op.Where(none, 1, common))
    zero = op.Equal(squares, 0)
    far = op.Where(
        none, 1e300 if g.dtype == ir.DataType.DOUBLE else 1e30, op.Where(zero, 0, op.Sqrt(op.Where(zero, 1, squares)))
    )
    parts = []
    for j in range(width):
        if not model._valid_mask[j] and not model.keep_empty_features:
            continue
        column = g.columns(x, [j])
        parts.append(op.Where(op.Gather(missing, [j], axis=1), _from_donors(g, model, far, j), column))
    y = g.join(parts)
    if model.indicator_ is None:
        return y
    return g.join([y, op.cast(_flags(g, missing, model.indicator_.features_), g.dtype)])


def _from_donors(g: Emitter, model: Any, far: Tensor, j: int) -> Tensor:
    """The mean of feature j over the nearest that have it; over all where no feature is shared with any of them."""
    op = g.op
    donors = np.flatnonzero(~model._mask_fit_X[:, j])
    if not len(donors):
        return g.constant([[0.0]])
    values = np.asarray(model._fit_X)[donors, j]
    near, which = op.emit(
        "TopK", g.columns(far, donors), [min(model.n_neighbors, len(donors))], axis=1, largest=0, outputs=2
    )
    shared = op.cast(op.Less(near, 1e30 if g.dtype == ir.DataType.FLOAT else 1e300), g.dtype)
    weights = inverse(g, near, shared) if model.weights == "distance" else shared
    total = g.total(weights)
    lost = op.Equal(total, 0)
    mean = g.total(op.Gather(g.weight("donors", values), which, axis=0) * weights) / op.Where(lost, 1, total)
    return op.Where(lost, float(values.mean()), mean)


@formula("MissingIndicator", "transform")
def indicate(g: Emitter, model: Any, x: Given) -> Tensor:
    """Whether numbers are missing."""
    op, x = g.op, g.numbers(x)
    missing = _missing(g, model, x)
    return op.cast(_flags(g, missing, model.features_), g.dtype)


@formula(
    "GenericUnivariateSelect RFE RFECV SelectFdr SelectFpr SelectFromModel SelectFwe SelectKBest SelectPercentile "
    "SequentialFeatureSelector VarianceThreshold",
    "transform",
)
def select(g: Emitter, model: Any, x: Given) -> Tensor:
    """Some columns."""
    return g.columns(g.numbers(x), model.get_support(indices=True))


@formula("KBinsDiscretizer", "transform")
def bins(g: Emitter, model: Any, x: Given) -> Tensor:
    """Which bin it is."""
    op, x, parts = g.op, g.numbers(x), []
    for j, edges in enumerate(model.bin_edges_):
        passed = op.cast(op.GreaterOrEqual(g.columns(x, [j]), g.constant(edges[None, 1:-1])), INT64)
        place = op.sum(passed, [1], True) if len(edges) > 2 else op.cast(g.columns(x, [j]) * 0, INT64)
        if model.encode == "ordinal":
            parts.append(op.cast(place, g.dtype))
        else:
            parts.append(op.Gather(g.constant(np.eye(len(edges) - 1)), op.squeeze(place, [1]), axis=0))
    return g.join(parts)


def _encodes_numbers(model: Any) -> bool:
    categories = [np.asarray(c) for c in model.categories_]
    return all(c.dtype.kind in "iub" or (c.dtype.kind == "f" and not np.isnan(c).any()) for c in categories)


def _steps(g: Emitter, column: Tensor, categories: Any) -> Tensor:
    return g.op.Equal(column, g.constant(np.asarray(categories, np.float64)[None]))


def encodes(model: Any, x: Any) -> bool:
    """Whether the formula below serves an encoder: numbers, and nothing that is rare put together."""
    return bool(
        _encodes_numbers(model)
        and not getattr(model, "_infrequent_enabled", False)
        and not isinstance(x, dict)
        and x.dtype.name != "STRING"
    )


def one_hot(g: Emitter, model: Any, x: Given) -> Tensor:
    """Whether a number is each of the known ones."""
    x, parts = g.numbers(x), []
    for j, categories in enumerate(model.categories_):
        flags = _steps(g, g.columns(x, [j]), categories)
        dropped = None if model.drop_idx_ is None else model.drop_idx_[j]
        kept = [i for i in range(len(categories)) if i != dropped]
        parts.append(g.op.cast(_flags(g, flags, kept), g.dtype))
    return g.join(parts)


def ordinal(g: Emitter, model: Any, x: Given) -> Tensor:
    """Which of the known numbers it is; of others what was asked for, or no number."""
    other = float(model.unknown_value) if model.handle_unknown == "use_encoded_value" else math.nan
    tables = [np.arange(len(categories)) for categories in model.categories_]
    return _looked_up(g, model, x, tables, other)


def by_target(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean of the targets of the category; that of all for others."""
    several = model.target_type_ == "multiclass"
    classes = len(model.classes_) if several else 1
    means = np.atleast_1d(model.target_mean_)
    parts = []
    for k in range(classes):
        tables = [model.encodings_[j * classes + k] for j in range(len(model.categories_))]
        parts.append(_looked_up(g, model, x, tables, float(means[k])))
    joined = g.join(parts)
    width = len(model.categories_)
    return g.columns(joined, [k * width + j for j in range(width) for k in range(classes)])


def _looked_up(g: Emitter, model: Any, x: Given, tables: Any, other: float) -> Tensor:
    op, x, parts = g.op, g.numbers(x), []
    for j, (categories, table) in enumerate(zip(model.categories_, tables, strict=True)):
        flags = op.cast(_steps(g, g.columns(x, [j]), categories), g.dtype)
        known = op.Greater(op.ReduceMax(flags, [1], keepdims=1), 0)
        parts.append(op.Where(known, flags @ g.constant(np.asarray(table, np.float64)[:, None]), other))
    return g.join(parts)


#: Encoders of numbers; those of texts are left to skl2onnx.
ENCODERS = {"OneHotEncoder": one_hot, "OrdinalEncoder": ordinal, "TargetEncoder": by_target}
