"""Fitted estimators of scikit-learn, through skl2onnx."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from onnxgrad.errors import ModelReadError
from onnxgrad.runtime.sources import Imported

#: Name of the input where there is one for all features, and of the size of its axis of samples.
INPUT, SAMPLES = "X", "N"


def convert(estimator: Any, sample: Any) -> Imported:
    """Return the ONNX model that computes what a fitted estimator predicts (or, without `predict`, what it transforms).

    The model has one input ``X`` of shape ``(N, features)``, or, where a `ColumnTransformer` meets a data frame, one of shape
    ``(N, 1)`` for each column. Elements are float64 if those of the sample are (or are integers), else float32; columns
    of integers are taken as numbers, unless an encoder of categories is among the steps. Classifiers return their
    probabilities as an array.

    Args:
        estimator: the estimator.
        sample: some rows of its input, an array or a data frame.

    Raises:
        ModelReadError: if skl2onnx is missing or cannot convert it, it is not fitted, or there is no sample.
    """
    name = type(estimator).__name__
    if isinstance(estimator, type):
        raise ModelReadError(f"{estimator.__name__} is a class of scikit-learn; give a fitted object of it")
    if sample is None:
        raise ModelReadError(
            f"the input of this {name} is not known; pass some rows of it: onnxgrad.load(estimator, sample=X[:1])"
        )
    try:
        import skl2onnx
    except ImportError as error:
        raise ModelReadError(
            f"a {name} is converted to ONNX by skl2onnx, which is not installed; "
            "install it with: pip install 'onnxgrad[sklearn]'"
        ) from error
    _check_fitted(estimator)
    types, columns = _input_types(estimator, sample)
    shapes, converters = _own_converters()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions, and on what is not followed: no concern of the user's
            proto = skl2onnx.convert_sklearn(
                estimator,
                initial_types=types,
                options={id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None,
                custom_shape_calculators=shapes,
                custom_conversion_functions=converters,
            )
    except Exception as error:  # skl2onnx raises many kinds, and whatever its converters let through
        raise ModelReadError(
            f"skl2onnx cannot convert this {name}: {' '.join(str(error).split())[:500]}; replace the step that it names, "
            "or convert the other steps alone"
        ) from error
    return Imported(_with_named_samples(proto), columns)


def _check_fitted(estimator: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise ModelReadError(f"this {type(estimator).__name__} is not fitted: {error}") from error
    except TypeError as error:
        raise ModelReadError(f"this {type(estimator).__name__} is no estimator: {error}") from error


# --- inputs ---------------------------------------------------------------------------------------


def _input_types(estimator: Any, sample: Any) -> tuple[list[tuple[str, Any]], tuple[str, ...] | None]:
    """Return the inputs for skl2onnx, and the names of the features where they are the columns of one input."""
    is_frame = hasattr(sample, "columns") and hasattr(sample, "to_numpy")
    if is_frame and _contains(estimator, "ColumnTransformer"):
        encodes = any(_contains(estimator, encoder) for encoder in ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder"))
        arrays = {str(name): np.asarray(sample[name].to_numpy()) for name in sample.columns}
        wide = any(array.dtype == np.float64 for array in arrays.values())
        if not any(array.dtype.kind == "f" for array in arrays.values()):
            wide = True
        return [(name, _type(array, 1, wide, keep=encodes)) for name, array in arrays.items()], None
    array = np.asarray(sample.to_numpy() if is_frame else sample)
    if array.ndim != 2:
        raise ModelReadError(
            f"the sample has shape {list(array.shape)}; it must be rows of features, shape (N, features), as for fitting"
        )
    columns = tuple(str(name) for name in sample.columns) if is_frame else None
    return [(INPUT, _type(array, array.shape[1], array.dtype.kind != "f" or array.dtype.itemsize >= 8))], columns


def _type(array: Any, width: int, wide: bool, keep: bool = False) -> Any:
    """Return the type for elements like those of `array`; with `keep`, integers stay integers."""
    from skl2onnx.common import data_types

    shape = [None, width]
    if array.dtype.kind in "OUS" or array.dtype.name in ("str", "category"):
        return data_types.StringTensorType(shape)
    if array.dtype.kind == "b" or (keep and array.dtype.kind in "iu"):
        return data_types.Int64TensorType(shape) if array.dtype.kind != "b" else data_types.BooleanTensorType(shape)
    return data_types.DoubleTensorType(shape) if wide else data_types.FloatTensorType(shape)


def _contains(estimator: Any, kind: str) -> bool:
    """Whether an estimator is, or has among its parts, one of a class of scikit-learn."""
    parts = [estimator, *estimator.get_params(deep=True).values()]
    return any(base.__name__ == kind for part in parts for base in type(part).__mro__)


def _with_named_samples(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Name the axis of samples, which skl2onnx leaves open."""
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = SAMPLES
    return proto
