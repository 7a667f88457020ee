"""Objects of libraries that have exporters of their own: what to export them with, said where they are met."""

from __future__ import annotations

from typing import Any, NoReturn

from onnxgrad.errors import ModelReadError

_KERAS = (
    "export it first: model.export('model.onnx', format='onnx'), with an input_signature where the shape of the input "
    "is not known, and load the file"
)
_TENSORFLOW = (
    "export it first: tf2onnx.convert.from_function(function, [tf.TensorSpec((None, 4), tf.float32, name='x')]), and "
    "load the model that comes first in what this gives"
)
#: Classes by library, with what to do with objects of theirs.
_EXPORTS = {
    ("keras", "Model"): _KERAS,
    ("keras", "Layer"): "put it into a keras.Model, and " + _KERAS,
    ("tensorflow", "Module"): _TENSORFLOW,
    ("tensorflow", "Function"): _TENSORFLOW,
    ("tensorflow", "ConcreteFunction"): _TENSORFLOW,
    ("xgboost", "Booster"): (
        "give the estimator of scikit-learn's kind (XGBRegressor, …) with a sample of its input, or convert it with "
        "onnxmltools.convert_xgboost"
    ),
    ("lightgbm", "Booster"): (
        "give the estimator of scikit-learn's kind (LGBMRegressor, …) with a sample of its input, or convert it with "
        "onnxmltools.convert_lightgbm"
    ),
}


def _remedy(source: Any) -> str | None:
    kind = source if isinstance(source, type) else type(source)
    classes = [(base.__module__.split(".")[0], base.__name__) for base in kind.__mro__]
    return next((_EXPORTS[each] for each in classes if each in _EXPORTS), None)


def is_foreign(source: Any) -> bool:
    """Whether `source` belongs to a library whose exporter must be called first."""
    return _remedy(source) is not None


def refuse(source: Any, _: Any = None) -> NoReturn:
    """Say how to export `source`.

    Raises:
        ModelReadError: always.
    """
    kind = source if isinstance(source, type) else type(source)
    raise ModelReadError(f"a {kind.__name__} of {kind.__module__.split('.')[0]} is no ONNX model; {_remedy(source)}")


__all__ = ["is_foreign", "refuse"]
