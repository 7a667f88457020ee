"""Fitted estimators of scikit-learn: each is written as ONNX by its formula, or, where there is none, by skl2onnx.

`emitter` holds what formulas are written with and the table of them; `linear`, `kernels`, `preprocessing`,
`probabilistic`, `neighbors`, `decomposition` and `meta` are the formulas; `leaves` asks skl2onnx for the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.errors import ModelReadError, RunError, level_outside
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn import (
    decomposition,
    kernels,
    linear,
    meta,
    neighbors,
    preprocessing,
    probabilistic,
    trees,
)
from onnxgrad.importers.sklearn.emitter import Columns, Emitter, Unsupported
from onnxgrad.importers.sklearn.leaves import hopeless
from onnxgrad.importers.sklearn.outputs import METHODS, defaults, has
from onnxgrad.model.opsets import WORKING_OPSET
from onnxgrad.model.write import to_proto
from onnxgrad.runtime.function import load
from onnxgrad.runtime.sources import Imported

#: Name of the input where there is one for all features, and of the size of its axis of samples.
INPUT, SAMPLES = "X", "N"

#: Rows of the sample that the model is compared on, and the share of them that must agree. Labels that nearly tie,
#: neighbors that are equally far, and steps in float32 send a few rows the other way.
_COMPARED, _AGREEING, _AGREEING_OF_STEPS = 100, 0.99, 0.9
#: How near values must be: in float64, where something is computed in float32, and in float32.
_NEAR, _NEAR_IN_PARTS, _NEAR_IN_SINGLE = 1e-6, 1e-4, 1e-3
#: What takes categories, so that integers must stay integers.
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder", "LabelEncoder")
#: Where it may be a tie which points are the nearest.
_WITH_TIES = ("NeighborsBase", "ClusterMixin", "NearestCentroid", "Isomap", "KNNImputer", "BaseLabelPropagation")
#: The modules that enter the formulas.
_FORMULAS = (decomposition, kernels, linear, meta, neighbors, preprocessing, probabilistic, trees)


def convert(estimator: Any, sample: Any, method: str | Sequence[str] | None = None) -> Imported:
    """Return the ONNX model that computes what a fitted estimator predicts (or, without `predict`, what it transforms).

    The model has one input ``X`` of shape ``(N, features)``, or, where a `ColumnTransformer` meets a data frame, one
    of shape ``(N, 1)`` for each column. Numbers are float64 if those of the sample are (or are integers), else
    float32; the categories that encoders take keep their types. An output is called as the method that it is the
    result of; numbers have the shape ``(N, k)`` and labels ``(N,)``. Classifiers return ``predict`` and
    ``predict_proba`` (or ``decision_function``).

    Args:
        estimator: the estimator.
        sample: some rows of its input, an array or a data frame.
        method: what to compute instead, one of `METHODS` or several; ``predict_std`` is the standard deviation that
            `predict` gives with ``return_std=True``.

    Raises:
        ModelReadError: if it cannot be converted (the step that is in the way is named, and why), it is not fitted,
            there is no sample, it does not have the method, or the model computes something else on the sample than
            the estimator.
    """
    sample = _checked(estimator, sample)
    methods = _methods(estimator, method)
    columns = None
    if _is_frame(sample) and not _contains(estimator, ["ColumnTransformer"]):
        columns = tuple(map(str, sample.columns))
    rows = sample[:_COMPARED]
    name = type(estimator).__name__
    if _is_double(sample):
        proto, borrowed = _emitted(estimator, sample, methods, ir.DataType.DOUBLE)
        imported = Imported(proto, columns)
        try:
            _check_agreement(imported, estimator, rows, methods, _NEAR_IN_PARTS if borrowed else _NEAR)
        except RunError as refusal:  # some kernels are float32 only
            warnings.warn(
                f"onnxruntime does not run this {name} in float64 ({refusal}); it is converted in float32",
                stacklevel=level_outside(),
            )
        else:
            return imported
    imported = Imported(_emitted(estimator, sample, methods, ir.DataType.FLOAT)[0], columns)
    _check_agreement(imported, estimator, rows, methods, _NEAR_IN_SINGLE)
    return imported


# --- what is asked ----------------------------------------------------------------------------------


def _checked(estimator: Any, sample: Any) -> Any:
    """Return the sample, as an array or a data frame, if it and the estimator can be used."""
    name = type(estimator).__name__
    if isinstance(estimator, type):
        raise ModelReadError(f"{estimator.__name__} is a class of scikit-learn; give a fitted object of it")
    if sample is None:
        raise ModelReadError(
            f"the input of this {name} is not known; pass some rows of it: onnxgrad.load(estimator, sample=X[:10])"
        )
    _check_fitted(estimator)
    _check_takes_features(estimator)
    if hasattr(sample, "toarray"):
        raise ModelReadError(
            "the sample is a sparse matrix, and ONNX has none; pass some rows made dense: sample=X[:10].toarray()"
        )
    if _is_frame(sample):
        return sample
    sample = np.asarray(sample)
    if sample.dtype.kind not in "fiubOUS":
        raise ModelReadError(f"the sample is of type {sample.dtype.name}, and must be rows of numbers or texts")
    if sample.ndim != 2:
        raise ModelReadError(
            f"the sample has shape {list(sample.shape)}; it must be rows of features, of shape (N, features), "
            "as for fitting"
        )
    wanted = getattr(estimator, "n_features_in_", None)
    if wanted is not None and sample.shape[1] != wanted:
        raise ModelReadError(
            f"the sample has {sample.shape[1]} features, and this {name} was fitted on {wanted}; "
            "pass rows as for fitting"
        )
    return sample


def _methods(estimator: Any, method: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the methods to compute."""
    name = type(estimator).__name__
    if method is None:
        found = defaults(estimator)
        if not found:
            raise ModelReadError(
                f"a {name} says nothing of new samples: it has no predict, transform or score_samples; give an "
                "estimator that has"
            )
        return found
    asked = (method,) if isinstance(method, str) else tuple(method)
    for each in asked:
        if each not in METHODS or not has(estimator, each):
            known = [m for m in METHODS if has(estimator, m)]
            raise ModelReadError(f"this {name} has no method {each!r} to compute; it has {', '.join(known)}")
    return asked


def _check_fitted(estimator: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise ModelReadError(f"this {type(estimator).__name__} is not fitted: {error}") from error
    except TypeError as error:
        raise ModelReadError(f"this {type(estimator).__name__} is no estimator: {error}") from error


def _check_takes_features(estimator: Any) -> None:
    """Refuse what takes no rows of features, such as texts, before its sample is looked at."""
    path = [("", estimator)]
    while hasattr(path[-1][1], "steps") and path[-1][1].steps:
        path.append(path[-1][1].steps[0])
    refusal = hopeless(path[-1][1])
    if refusal is not None:
        raise ModelReadError(_refused(path, refusal))


# --- emission ---------------------------------------------------------------------------------------


def _emitted(
    estimator: Any, sample: Any, methods: Sequence[str], dtype: ir.DataType
) -> tuple[onnx.ModelProto, Sequence[str]]:
    """Return the model, and the names of the estimators in it that skl2onnx wrote."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": WORKING_OPSET}, name=type(estimator).__name__)
    model = ir.Model(graph, ir_version=10, producer_name="onnxgrad")
    g = Emitter(Builder(model), dtype)
    x = _inputs(g, estimator, sample)
    values = []
    try:
        for method in methods:
            found = g.call(estimator, method, x)
            parts = found if isinstance(found, list) else [found]
            for i, part in enumerate(parts):
                tensor = g.numbers(part) if isinstance(part, Columns) else part
                value = g.op.named_identity(tensor)
                value.name = method if len(parts) == 1 else f"{method}_{i}"
                values.append(value)
    except Unsupported as refusal:
        raise ModelReadError(_refused(g.path, refusal)) from refusal
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # formulas rely on what `fit` leaves behind
        why = f"it is not as scikit-learn leaves it after fitting ({type(error).__name__}: {error})"
        remedy = "fit it again, or report it with the version of scikit-learn"
        raise ModelReadError(_refused(g.path, Unsupported(why, remedy))) from error
    if g.narrow and dtype == ir.DataType.DOUBLE:
        names = ", ".join(sorted(set(g.narrow)))
        warnings.warn(
            f"skl2onnx or onnxruntime have no float64 for {names}; that is converted in float32",
            stacklevel=level_outside(),
        )
    graph.outputs.extend(values)
    g.op.finish(values)
    return to_proto(model), g.borrowed


def _refused(path: Sequence[tuple[str, Any]], refusal: Unsupported) -> str:
    """Return the message: which estimator, which step of it, why, and what to do."""
    whole, last = type(path[0][1]).__name__, type(path[-1][1]).__name__
    names = [name for name, _ in path if name]
    where = f"step {'/'.join(names)!r} of this {whole}, a {last}," if names else f"this {last}"
    return f"{where} cannot be converted: {refusal.why}; {refusal.remedy}"


def _inputs(g: Emitter, estimator: Any, sample: Any) -> Tensor | Columns:
    """Add the inputs."""
    if _is_frame(sample) and _contains(estimator, ["ColumnTransformer"]):
        encoded = set(_encoded(estimator, sample))
        return Columns(
            (str(c), g.op.input(str(c), _type(g, _values(sample[c]), str(c) in encoded), (SAMPLES, 1)))
            for c in sample.columns
        )
    array = _values(sample)
    return g.op.input(INPUT, _type(g, array, _contains(estimator, _ENCODERS)), (SAMPLES, array.shape[1]))


def _type(g: Emitter, array: Any, keep: bool) -> ir.DataType:
    """Return the type for elements like those of `array`; with `keep`, integers and flags stay such."""
    if array.dtype.kind in "OUS" and not _is_of_numbers(array):
        return ir.DataType.STRING
    if keep and array.dtype.kind in "iub":
        return ir.DataType.BOOL if array.dtype.kind == "b" else ir.DataType.INT64
    return g.dtype


def _is_of_numbers(array: Any) -> bool:
    return array.dtype.kind == "O" and all(isinstance(item, (int, float)) for item in array.flat)


# --- agreement --------------------------------------------------------------------------------------


def _check_agreement(imported: Imported, estimator: Any, rows: Any, methods: Sequence[str], tolerance: float) -> None:
    """Check that the model computes on some rows what the estimator does."""
    f = load(imported.model.SerializeToString())
    results = f(rows)
    outputs = results if isinstance(results, dict) else {f.outputs[0].name: results}
    for method in methods:
        expected = _expected(estimator, method, rows)
        parts = expected if isinstance(expected, list) else [expected]
        names = [method] if len(parts) == 1 else [f"{method}_{i}" for i in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            steps = method == "predict" and hasattr(estimator, "classes_")
            steps = steps or tolerance > _NEAR or _contains(estimator, _WITH_TIES)
            share = _AGREEING_OF_STEPS if steps else _AGREEING
            _compare(type(estimator).__name__, method, np.asarray(outputs[name]), part, tolerance, share)


def _expected(estimator: Any, method: str, rows: Any) -> Any:
    """Return what the estimator itself gives."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if method == "predict_std":
                return estimator.predict(rows, return_std=True)[1]
            found = getattr(estimator, method)(rows)
    except Exception as error:
        raise ModelReadError(
            f"this {type(estimator).__name__} does not take the sample itself: {' '.join(str(error).split())}; "
            "pass rows as for fitting (a data frame, if it was fitted on one)"
        ) from error
    return found.toarray() if hasattr(found, "toarray") else found


def _compare(name: str, method: str, found: Any, expected: Any, tolerance: float, share: float) -> None:
    expected = np.asarray(expected)
    if not len(expected):
        return
    found, expected = (array.reshape(len(array), -1) for array in (found, expected))
    if expected.shape != found.shape:
        raise ModelReadError(
            f"the model made of this {name} gives an array of shape {list(found.shape)} on the sample, "
            f"and `{method}` gives one of {list(expected.shape)}; report it"
        )
    if expected.dtype.kind not in "fiub" or found.dtype.kind not in "fiub":
        near, worst = found.astype(str) == expected.astype(str), f"its labels are not those of `{method}`"
    else:
        found, expected = found.astype(np.float64), expected.astype(np.float64)
        finite = expected[np.isfinite(expected)]
        scale = tolerance * float(np.max(np.abs(finite), initial=0))
        near = np.isclose(found, expected, rtol=tolerance, atol=scale, equal_nan=True)
        if (np.isnan(found) != np.isnan(expected)).any():
            worst = f"it is no number where `{method}` gives one, or the other way round"
        else:
            with np.errstate(invalid="ignore"):  # of infinities
                off = np.nanmax(np.abs(found - expected), initial=0)
            worst = f"it is off by up to {off:.3g} from `{method}`"
    if near.all(axis=1).mean() < share:
        raise ModelReadError(
            f"the model made of this {name} computes something else: on the sample {worst}; "
            "replace the step that is at fault, or report it"
        )


# --- estimators and samples -------------------------------------------------------------------------


def _encoded(estimator: Any, sample: Any) -> Iterable[str]:
    """Yield the columns that the encoders of its first `ColumnTransformer` take."""
    chooser = next(part for part in _parts(estimator) if _is_a(part, ["ColumnTransformer"]))
    names = list(map(str, sample.columns))
    for _, transformer, chosen in getattr(chooser, "transformers_", chooser.transformers):  # parameters are not fitted
        if not hasattr(transformer, "get_params") or not _contains(transformer, _ENCODERS):
            continue
        if callable(chosen):
            chosen = chosen(sample)
        if isinstance(chosen, str):
            yield chosen
        elif isinstance(chosen, slice) and not any(isinstance(end, str) for end in (chosen.start, chosen.stop)):
            yield from names[chosen]
        else:
            picked = np.asarray(chosen)
            yield from picked if picked.dtype.kind in "OU" else np.asarray(names)[picked].reshape(-1)


def _is_double(sample: Any) -> bool:
    """Whether numbers are to be float64: where some are, or all are integers."""
    arrays = [_values(sample[c]) for c in sample.columns] if _is_frame(sample) else [sample]
    floats = [array.dtype for array in arrays if array.dtype.kind == "f"]
    return not floats or any(dtype.itemsize >= 8 for dtype in floats)


def _values(column: Any) -> Any:
    return np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column)


def _is_frame(sample: Any) -> bool:
    return hasattr(sample, "columns") and hasattr(sample, "to_numpy")


def _parts(estimator: Any) -> list[Any]:
    return [estimator, *estimator.get_params(deep=True).values()]


def _is_a(part: Any, kinds: Sequence[str]) -> bool:
    return any(base.__name__ in kinds for base in type(part).__mro__)


def _contains(estimator: Any, kinds: Sequence[str]) -> bool:
    """Whether an estimator is, or has among its parts, one of some classes of scikit-learn."""
    return any(_is_a(part, kinds) for part in _parts(estimator))


__all__ = ["INPUT", "METHODS", "SAMPLES", "convert"]
