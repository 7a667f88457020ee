"""Boosters of XGBoost and LightGBM, alone or inside of estimators of scikit-learn.

Trees are converted by onnxmltools, which is entered into skl2onnx here. Linear boosters, which have derivatives that
are not zero, are formulas of our own: those of XGBoost (``booster="gblinear"``), which onnxmltools does not know.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from onnxgrad.errors import ModelReadError

#: By library: where onnxmltools converts its trees, and by what function.
_LIBRARIES = {
    "xgboost": ("onnxmltools.convert.xgboost.operator_converters.XGBoost", "convert_xgboost"),
    "lightgbm": ("onnxmltools.convert.lightgbm.operator_converters.LightGbm", "convert_lightgbm"),
}
_REGRESSORS = ("XGBRegressor", "XGBRFRegressor", "XGBRanker", "LGBMRegressor", "LGBMRanker")
_CLASSIFIERS = ("XGBClassifier", "XGBRFClassifier", "LGBMClassifier")


def register(estimator: Any) -> None:
    """Let skl2onnx convert the boosters that an estimator is, or has among its parts.

    What is registered already, by whom ever, stays.

    Raises:
        ModelReadError: if there are boosters of trees, and onnxmltools is not installed.
    """
    parts = [] if isinstance(estimator, type) else [estimator, *estimator.get_params(deep=True).values()]
    for part in parts:
        library = type(part).__module__.split(".")[0]
        kind = next((c.__name__ for c in type(part).__mro__ if c.__name__ in _REGRESSORS + _CLASSIFIERS), None)
        if library in _LIBRARIES and kind is not None:
            _enter(type(part), kind, library)


def _enter(cls: type, kind: str, library: str) -> None:
    try:
        from skl2onnx import update_registered_converter
        from skl2onnx._supported_operators import sklearn_operator_name_map
    except ImportError:  # said where the estimator is converted
        return
    if cls in sklearn_operator_name_map:
        return
    is_classifier = kind in _CLASSIFIERS
    update_registered_converter(
        cls,
        f"Onnxgrad{cls.__module__}.{cls.__qualname__}",
        _infer_classifier if is_classifier else _infer_regressor,
        _converter(library),
        options={"zipmap": [True, False, "columns"], "nocl": [True, False]} if is_classifier else None,
    )


def _converter(library: str) -> Callable[[Any, Any, Any], None]:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        estimator = operator.raw_operator
        if _is_linear(estimator):
            _convert_linear(scope, operator, container)
            return
        _check_trees(estimator)
        _trees_converter(estimator, library)(scope, _in_float32(scope, operator, container), _Container(container))

    return convert


def _trees_converter(estimator: Any, library: str) -> Callable[[Any, Any, Any], None]:
    module, function = _LIBRARIES[library]
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except ImportError as error:
        raise ModelReadError(
            f"the trees of this {type(estimator).__name__} are converted to ONNX by onnxmltools, which is not "
            "installed; install it with: pip install onnxmltools"
        ) from error


class _Container:
    """skl2onnx's container for the nodes of onnxmltools, which does not say the versions of its operators.

    skl2onnx takes the newest then, and refuses that of ai.onnx.ml. Trees have been what they are since version 3.
    """

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, op_type: str, *args: Any, op_domain: str = "", **others: Any) -> None:
        if op_domain == "ai.onnx.ml":
            others.setdefault("op_version", 3 if op_type.startswith("TreeEnsemble") else 1)
        self._container.add_node(op_type, *args, op_domain=op_domain, **others)


def _in_float32(scope: Any, operator: Any, container: Any) -> Any:
    """Return the operator with an input in float32, in which both libraries' trees are written as ONNX."""
    from skl2onnx.common.data_types import FloatTensorType

    (given,) = operator.inputs
    if isinstance(given.type, FloatTensorType):
        return operator
    cast = scope.get_unique_variable_name("features")
    container.add_node(
        "Cast", [given.full_name], [cast], name=scope.get_unique_operator_name("Cast"), to=onnx.TensorProto.FLOAT
    )
    return SimpleNamespace(
        raw_operator=operator.raw_operator,
        full_name=operator.full_name,
        inputs=[SimpleNamespace(full_name=cast, type=FloatTensorType(given.type.shape))],
        input_full_names=[cast],
        outputs=operator.outputs,
        output_full_names=operator.output_full_names,
    )


def _check_trees(estimator: Any) -> None:
    """Refuse what onnxmltools leaves out, or stumbles over."""
    if getattr(estimator, "booster", None) == "dart":
        raise NotImplementedError("onnxmltools does not know its booster 'dart', which weighs trees")
    if estimator.get_params().get("linear_tree"):
        raise NotImplementedError("its trees have linear models in their leaves, which onnxmltools leaves out")


# --- types ----------------------------------------------------------------------------------------


def _infer_regressor(operator: Any) -> None:
    from skl2onnx.common.data_types import FloatTensorType

    coefficients = _linear(operator.raw_operator)[0] if _is_linear(operator.raw_operator) else None
    targets = None if coefficients is None else coefficients.shape[1]
    operator.outputs[0].type = FloatTensorType([None, targets or getattr(operator.raw_operator, "n_outputs_", 1)])
    if coefficients is not None:
        operator.outputs[0].type = _numbers(operator.inputs[0].type)[0]([None, targets])


def _infer_classifier(operator: Any) -> None:
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    classes, is_linear = np.asarray(operator.raw_operator.classes_), _is_linear(operator.raw_operator)
    operator.outputs[0].type = (StringTensorType if classes.dtype.kind in "OUS" else Int64TensorType)([None])
    kind = _numbers(operator.inputs[0].type)[0] if is_linear else FloatTensorType
    operator.outputs[1].type = kind([None, len(classes)])


def _numbers(given: Any) -> tuple[Any, Any]:
    """Return the type of skl2onnx and that of numpy in which a linear booster is written."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    return (DoubleTensorType, np.float64) if isinstance(given, DoubleTensorType) else (FloatTensorType, np.float32)


# --- linear boosters of XGBoost -------------------------------------------------------------------

#: What makes predictions of margins, by objective (XGBoost's documentation, "Learning Task Parameters").
_TRANSFORMS: dict[str, str | None] = {
    "reg:squarederror": None,
    "reg:absoluteerror": None,
    "reg:squaredlogerror": None,
    "reg:pseudohubererror": None,
    "reg:quantileerror": None,
    "binary:logitraw": None,
    "rank:ndcg": None,
    "rank:map": None,
    "rank:pairwise": None,
    "reg:logistic": "Sigmoid",
    "binary:logistic": "Sigmoid",
    "count:poisson": "Exp",
    "reg:gamma": "Exp",
    "reg:tweedie": "Exp",
    "multi:softprob": "Softmax",
    "multi:softmax": "Softmax",
}


def _is_linear(estimator: Any) -> bool:
    return getattr(estimator, "booster", None) == "gblinear"


def _linear(estimator: Any) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Return coefficients ``(features, outputs)`` and bias ``(outputs,)`` of the margins, and what follows them.

    The bias is what XGBoost says of a sample of zeros: it adds a base score, of which versions differ in the form.
    """
    from xgboost import DMatrix

    booster = estimator.get_booster()
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective = learner["objective"]["name"]
    if objective not in _TRANSFORMS:
        raise NotImplementedError(f"its objective is {objective!r}; known are {', '.join(_TRANSFORMS)}")
    missing = getattr(estimator, "missing", np.nan)
    if missing != 0 and not np.isnan(missing):
        raise NotImplementedError(f"it takes {missing} for a missing value; NaN, or 0, is known")
    features = booster.num_features()
    zeros = DMatrix(np.zeros((1, features), np.float32))
    bias = booster.predict(zeros, output_margin=True, validate_features=False).reshape(-1)
    weights = np.reshape(learner["gradient_booster"]["model"]["weights"], (features + 1, len(bias)))[:features]
    return weights, bias, _TRANSFORMS[objective]


def _convert_linear(scope: Any, operator: Any, container: Any) -> None:
    """``y = f(x W + b)``, where what is missing (NaN) counts as 0."""
    estimator = operator.raw_operator
    weights, bias, transform = _linear(estimator)
    dtype = _numbers(operator.inputs[0].type)[1]

    def constant(array: Any, dtype: Any = dtype) -> str:
        tensor = onnx.numpy_helper.from_array(np.asarray(array, dtype), scope.get_unique_variable_name("constant"))
        container.add_initializer(tensor.name, tensor.data_type, tensor.dims, np.asarray(array, dtype).ravel())
        return str(tensor.name)

    def emit(op_type: str, *inputs: str, output: str | None = None, version: int = 13, **attributes: Any) -> str:
        output = output or scope.get_unique_variable_name(op_type.lower())
        name = scope.get_unique_operator_name(op_type)
        container.add_node(op_type, list(inputs), [output], name=name, op_version=version, **attributes)
        return output

    x = emit("Cast", operator.inputs[0].full_name, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    x = emit("Where", emit("IsNaN", x), constant(0), x, version=9)
    margin = emit("Add", emit("MatMul", x, constant(weights)), constant(bias))
    if len(operator.outputs) == 1:
        emit(transform or "Identity", margin, output=operator.outputs[0].full_name)
        return
    if transform == "Softmax":
        probabilities = emit("Softmax", margin, output=operator.outputs[1].full_name, axis=-1)
    elif transform == "Sigmoid":
        both = emit("Concat", emit("Neg", margin), margin, axis=1)
        probabilities = emit("Sigmoid", both, output=operator.outputs[1].full_name)
    else:
        raise NotImplementedError("its objective gives no probabilities")
    likeliest = emit("ArgMax", probabilities, axis=1, keepdims=0)
    classes = constant(estimator.classes_, np.int64)
    emit("Gather", classes, likeliest, output=operator.outputs[0].full_name, axis=0)


__all__ = ["register"]
