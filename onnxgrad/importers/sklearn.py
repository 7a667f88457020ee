"""Fitted estimators of scikit-learn, through skl2onnx."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx

from onnxgrad.errors import ModelReadError, RunError, level_outside
from onnxgrad.importers.sklearn_converters import converters
from onnxgrad.runtime.function import load
from onnxgrad.runtime.sources import Imported

#: Name of the input where there is one for all features, and of the size of its axis of samples.
INPUT, SAMPLES = "X", "N"

#: Rows of the sample that the converted model is compared on, and the share of them that must agree: in float32,
#: trees send a few rows the other way.
_COMPARED, _AGREEING = 100, 0.9
#: What takes categories, so that integers must stay integers.
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder", "LabelEncoder")


def convert(estimator: Any, sample: Any) -> Imported:
    """Return the ONNX model that computes what a fitted estimator predicts (or, without `predict`, what it transforms).

    The model has one input ``X`` of shape ``(N, features)``, or, where a `ColumnTransformer` meets a data frame, one
    of shape ``(N, 1)`` for each column. Numbers are float64 if those of the sample are (or are integers), else
    float32; the categories that encoders take keep their types. Classifiers return their probabilities as an array.

    Args:
        estimator: the estimator.
        sample: some rows of its input, an array or a data frame.

    Raises:
        ModelReadError: if skl2onnx is missing or cannot convert it, it is not fitted, there is no sample, or the
            model computes something else on the sample than the estimator.
    """
    name = type(estimator).__name__
    if isinstance(estimator, type):
        raise ModelReadError(f"{estimator.__name__} is a class of scikit-learn; give a fitted object of it")
    if sample is None:
        raise ModelReadError(
            f"the input of this {name} is not known; pass some rows of it: onnxgrad.load(estimator, sample=X[:10])"
        )
    _check_fitted(estimator)
    if not _is_frame(sample):
        sample = np.asarray(sample)
        if sample.ndim != 2:
            raise ModelReadError(
                f"the sample has shape {list(sample.shape)}; it must be rows of features, of shape (N, features), "
                "as for fitting"
            )
    columns = None
    if _is_frame(sample) and not _contains(estimator, ["ColumnTransformer"]):
        columns = tuple(map(str, sample.columns))
    rows = sample[:_COMPARED]
    if _is_double(sample):
        proto = _converted(estimator, sample, double=True)
        try:
            _check_agreement(Imported(proto, columns), estimator, rows)
        except RunError as refusal:  # skl2onnx mixes the types in some converters, and some kernels are float32 only
            warnings.warn(
                f"onnxruntime does not run this {name} in float64 ({refusal}); it is converted in float32",
                stacklevel=level_outside(),
            )
        else:
            return Imported(proto, columns)
    imported = Imported(_converted(estimator, sample, double=False), columns)
    _check_agreement(imported, estimator, rows)
    return imported


def _converted(estimator: Any, sample: Any, double: bool) -> onnx.ModelProto:
    try:
        import skl2onnx
    except ImportError as error:
        raise ModelReadError(
            f"a {type(estimator).__name__} is converted to ONNX by skl2onnx, which is not installed; "
            "install it with: pip install 'onnxgrad[sklearn]'"
        ) from error
    shapes, functions = converters()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of skl2onnx are for those who write converters
            proto = skl2onnx.convert_sklearn(
                estimator,
                initial_types=_input_types(estimator, sample, double),
                options={id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None,
                custom_shape_calculators=shapes,
                custom_conversion_functions=functions,
            )
    except Exception as error:  # it has many kinds, and lets through what its converters raise
        raise ModelReadError(
            f"skl2onnx cannot convert this {type(estimator).__name__}: {' '.join(str(error).split())[:500]}; "
            "replace the step that it names, or convert the other steps without it"
        ) from error
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = SAMPLES
    return proto  # type: ignore[no-any-return]


def _check_fitted(estimator: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise ModelReadError(f"this {type(estimator).__name__} is not fitted: {error}") from error
    except TypeError as error:
        raise ModelReadError(f"this {type(estimator).__name__} is no estimator: {error}") from error


def _check_agreement(imported: Imported, estimator: Any, rows: Any) -> None:
    """Check that the model computes on some rows what the estimator does."""
    f = load(imported.model.SerializeToString())
    if imported.columns is None or not _is_frame(rows):
        results = f(rows)
    else:
        results = f(rows[list(rows.columns)])
    outputs = list(results.values()) if isinstance(results, dict) else [results]
    for method, position in (("predict_proba", 1), ("predict", 0), ("transform", 0)):
        if hasattr(estimator, method) and position < len(outputs):
            expected = getattr(estimator, method)(rows)
            expected = np.asarray(expected.toarray() if hasattr(expected, "toarray") else expected)
            found = np.asarray(outputs[position])
            break
    else:
        return
    if expected.dtype.kind not in "fiu" or found.dtype.kind not in "fiu" or not len(expected):
        return
    name = type(estimator).__name__
    expected, found = (array.reshape(len(array), -1).astype(np.float64) for array in (expected, found))
    if expected.shape != found.shape:
        raise ModelReadError(
            f"skl2onnx makes a model of this {name} that gives an array of shape {list(found.shape)} on the sample, "
            f"and `{method}` gives one of {list(expected.shape)}; report it to skl2onnx"
        )
    near = np.isclose(found, expected, rtol=1e-3, atol=1e-3 * float(np.nanmax(np.abs(expected))), equal_nan=True)
    if near.all(axis=1).mean() < _AGREEING:
        worst = np.nanmax(np.abs(found - expected))
        raise ModelReadError(
            f"skl2onnx makes a model of this {name} that computes something else: on the sample it is "
            f"off by up to {worst:.3g} from `{method}`; replace the step that is at fault, or report it to skl2onnx"
        )


# --- inputs ---------------------------------------------------------------------------------------


def _input_types(estimator: Any, sample: Any, double: bool) -> list[tuple[str, Any]]:
    """Return the inputs for skl2onnx."""
    if _is_frame(sample) and _contains(estimator, ["ColumnTransformer"]):
        encoded = set(_encoded(estimator, list(map(str, sample.columns))))
        return [(str(c), _type(_values(sample[c]), 1, double, str(c) in encoded)) for c in sample.columns]
    array = _values(sample)
    return [(INPUT, _type(array, array.shape[1], double, _contains(estimator, _ENCODERS)))]


def _type(array: Any, width: int, double: bool, keep: bool) -> Any:
    """Return the type for elements like those of `array`; with `keep`, integers and flags stay such."""
    from skl2onnx.common import data_types

    shape = [None, width]
    if array.dtype.kind in "OUS":
        return data_types.StringTensorType(shape)
    if keep and array.dtype.kind in "iu":
        return data_types.Int64TensorType(shape)
    if keep and array.dtype.kind == "b":
        return data_types.BooleanTensorType(shape)
    return data_types.DoubleTensorType(shape) if double else data_types.FloatTensorType(shape)


def _encoded(estimator: Any, names: Sequence[str]) -> Iterable[str]:
    """Yield the columns that the encoders of its first `ColumnTransformer` take."""
    chooser = next(part for part in _parts(estimator) if _is_a(part, ["ColumnTransformer"]))
    for _, transformer, chosen in chooser.transformers_:
        if hasattr(transformer, "get_params") and _contains(transformer, _ENCODERS):
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


__all__ = ["INPUT", "SAMPLES", "convert"]
