"""Converters that skl2onnx lacks, or has for one target only: networks with several, and targets that are scaled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

Functions = dict[Any, Callable[..., None]]


def converters() -> tuple[Functions, Functions]:
    """Return what skl2onnx takes as `custom_shape_calculators` and `custom_conversion_functions`."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPRegressor

    return (
        {MLPRegressor: _infer_network, TransformedTargetRegressor: _infer_targets},
        {MLPRegressor: _convert_network, TransformedTargetRegressor: _convert_targets},
    )


# --- networks -------------------------------------------------------------------------------------

_ACTIVATIONS = {"identity": "Identity", "tanh": "Tanh", "logistic": "Sigmoid", "relu": "Relu", "exp": "Exp"}


def _infer_network(operator: Any) -> None:
    _set_output(operator, operator.raw_operator.n_outputs_)


def _convert_network(scope: Any, operator: Any, container: Any) -> None:
    """Convert a network layer by layer: ``h = activation(h W + b)``."""
    model = operator.raw_operator
    current = operator.inputs[0].full_name
    dtype = _number_type(operator.outputs[0].type)
    if _number_type(operator.inputs[0].type) != dtype or not _is_float(operator.inputs[0].type):
        current = _emit(scope, container, "Cast", [current], to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    last = len(model.coefs_) - 1
    for i, (weights, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        product = _emit(scope, container, "MatMul", [current, _constant(scope, container, weights, dtype)])
        total = _emit(scope, container, "Add", [product, _constant(scope, container, bias, dtype)])
        activation = _ACTIVATIONS[model.out_activation_ if i == last else model.activation]
        output = operator.outputs[0].full_name if i == last else None
        current = _emit(scope, container, activation, [total], output)


# --- targets --------------------------------------------------------------------------------------


def _infer_targets(operator: Any) -> None:
    model = operator.raw_operator
    _set_output(
        operator, getattr(model.transformer_, "n_features_in_", None) or getattr(model.regressor_, "n_outputs_", 1)
    )


def _convert_targets(scope: Any, operator: Any, container: Any) -> None:
    """Convert the regressor, and undo on its predictions how the targets were transformed."""
    from skl2onnx._supported_operators import sklearn_operator_name_map

    model = operator.raw_operator
    alias = sklearn_operator_name_map.get(type(model.regressor_))
    if alias is None:
        raise NotImplementedError(f"there is no converter for the regressor {type(model.regressor_).__name__}")
    regressor = scope.declare_local_operator(alias, model.regressor_)
    regressor.inputs = operator.inputs
    predicted = scope.declare_local_variable("predicted", operator.outputs[0].type)
    regressor.outputs.append(predicted)
    dtype = _number_type(operator.outputs[0].type)
    steps = _inverse(model.transformer_)
    current = predicted.full_name
    for i, (op_type, number) in enumerate(steps):
        inputs = [current] if number is None else [current, _constant(scope, container, number, dtype)]
        output = operator.outputs[0].full_name if i == len(steps) - 1 else None
        current = _emit(scope, container, op_type, inputs, output)


def _inverse(transformer: Any) -> list[tuple[str, Any]]:
    """Return what undoes a transformer: operators, each with its constant or None."""
    kind = type(transformer).__name__
    if kind == "FunctionTransformer":
        function = transformer.inverse_func
        if function is None:
            return [("Identity", None)]
        if function in _FUNCTIONS:
            return _FUNCTIONS[function]
        raise NotImplementedError(
            f"the targets are transformed back by {getattr(function, '__name__', function)!r}, which is not known; "
            f"known are {', '.join(f.__name__ for f in _FUNCTIONS)} of numpy, and the scalers of scikit-learn"
        )
    if kind not in _SCALERS or getattr(transformer, "clip", False):
        raise NotImplementedError(
            f"the targets are transformed by a {kind}, which is not known; known are {', '.join(_SCALERS)}"
        )
    return _SCALERS[kind](transformer) or [("Identity", None)]


#: ``y = x * scale + shift``, in the order and with the switches of each.
_SCALERS: dict[str, Callable[[Any], list[tuple[str, Any]]]] = {
    "StandardScaler": lambda t: [("Mul", t.scale_)] * t.with_std + [("Add", t.mean_)] * t.with_mean,
    "MinMaxScaler": lambda t: [("Sub", t.min_), ("Div", t.scale_)],
    "MaxAbsScaler": lambda t: [("Mul", t.scale_)],
    "RobustScaler": lambda t: [("Mul", t.scale_)] * t.with_scaling + [("Add", t.center_)] * t.with_centering,
}

_FUNCTIONS: dict[Any, list[tuple[str, Any]]] = {
    np.exp: [("Exp", None)],
    np.expm1: [("Exp", None), ("Sub", 1.0)],
    np.log: [("Log", None)],
    np.log1p: [("Add", 1.0), ("Log", None)],
    np.sqrt: [("Sqrt", None)],
}


# --- emission -------------------------------------------------------------------------------------


def _set_output(operator: Any, targets: Any) -> None:
    from skl2onnx.common.data_types import guess_tensor_type

    operator.outputs[0].type = guess_tensor_type(operator.inputs[0].type)
    operator.outputs[0].type.shape = [None, targets]


def _number_type(kind: Any) -> Any:
    from skl2onnx.common.data_types import guess_numpy_type

    return guess_numpy_type(kind)


def _is_float(kind: Any) -> bool:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    return isinstance(kind, (DoubleTensorType, FloatTensorType))


def _constant(scope: Any, container: Any, number: Any, dtype: Any) -> str:
    name = scope.get_unique_variable_name("constant")
    tensor = onnx.numpy_helper.from_array(np.atleast_1d(np.asarray(number, dtype)), name)
    container.add_initializer(name, None, None, tensor)
    return str(name)


def _emit(
    scope: Any, container: Any, op_type: str, inputs: list[str], output: str | None = None, **attributes: Any
) -> str:
    output = output or str(scope.get_unique_variable_name(op_type.lower()))
    container.add_node(op_type, inputs, output, name=scope.get_unique_operator_name(op_type), **attributes)
    return output
