"""A converter for scikit-learn's `TransformedTargetRegressor`, which skl2onnx lacks: scaling of the targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Functions = dict[Any, Callable[..., None]]


def converters() -> tuple[Functions, Functions]:
    """Return what skl2onnx takes as `custom_shape_calculators` and `custom_conversion_functions`."""
    from sklearn.compose import TransformedTargetRegressor

    return {TransformedTargetRegressor: _infer}, {TransformedTargetRegressor: _convert}


def _infer(operator: Any) -> None:
    from skl2onnx.common.data_types import guess_tensor_type

    weights = operator.raw_operator.regressor_
    targets = getattr(weights, "n_outputs_", None) or getattr(operator.raw_operator.transformer_, "n_features_in_", 1)
    operator.outputs[0].type = guess_tensor_type(operator.inputs[0].type)
    operator.outputs[0].type.shape = [None, targets]


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Convert the regressor, and undo the transformation of the targets on what it predicts."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common.data_types import guess_numpy_type

    model = operator.raw_operator
    alias = sklearn_operator_name_map.get(type(model.regressor_))
    if alias is None:
        raise NotImplementedError(f"there is no converter for the regressor {type(model.regressor_).__name__}")
    regressor = scope.declare_local_operator(alias, model.regressor_)
    regressor.inputs = operator.inputs
    predicted = scope.declare_local_variable("predicted", operator.outputs[0].type)
    regressor.outputs.append(predicted)

    steps = _inverse(model.transformer_)
    dtype = guess_numpy_type(operator.inputs[0].type)
    current = predicted.full_name
    for i, (op_type, constant) in enumerate(steps):
        last = i == len(steps) - 1
        following = operator.outputs[0].full_name if last else scope.get_unique_variable_name("target")
        inputs = [current]
        if constant is not None:
            inputs.append(scope.get_unique_variable_name("constant"))
            values = np.atleast_1d(np.asarray(constant, dtype))
            container.add_initializer(inputs[1], None, None, _tensor(inputs[1], values))
        container.add_node(op_type, inputs, following, name=scope.get_unique_operator_name(op_type))
        current = following


def _tensor(name: str, values: np.ndarray[Any, Any]) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(values, name)


def _inverse(transformer: Any) -> list[tuple[str, Any]]:
    """Return what undoes a transformer as operators, each with its constant."""
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
    scale, shift = (getattr(transformer, name, None) if name else None for name in _SCALERS[kind])
    if kind == "MinMaxScaler":  # x = (y - min) / scale
        return [("Sub", shift), ("Div", scale)]
    steps = [(op, value) for op, value in (("Mul", scale), ("Add", shift)) if value is not None]
    return steps or [("Identity", None)]


#: The attributes with scale and shift.
_SCALERS = {
    "StandardScaler": ("scale_", "mean_"),
    "MinMaxScaler": ("scale_", "min_"),
    "MaxAbsScaler": ("scale_", ""),
    "RobustScaler": ("scale_", "center_"),
}

_FUNCTIONS: dict[Any, list[tuple[str, Any]]] = {
    np.exp: [("Exp", None)],
    np.expm1: [("Exp", None), ("Sub", 1.0)],
    np.log: [("Log", None)],
    np.log1p: [("Add", 1.0), ("Log", None)],
    np.sqrt: [("Sqrt", None)],
}
