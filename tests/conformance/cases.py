"""ONNX's own test cases of single operators, as models to differentiate.

The cases of one operator are made when its module is imported, so that a test of one operator costs no more than that.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as onnx_cases
from onnx import numpy_helper

FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Case:
    """One model with inputs.

    Attributes:
        name: name of ONNX's case.
        form: "given" as it is; "constants": inputs that are no floating-point numbers are constants of the model;
            "symbolic": that, and no size of the other inputs is known.
        model: the model.
        feeds: its inputs.
    """

    name: str
    form: str
    model: onnx.ModelProto
    feeds: dict[str, Any]


def modules() -> list[str]:
    """Return the names of the modules that hold the cases, one for each operator or nearly so; none is imported."""
    return [
        *(m.name for m in pkgutil.iter_modules(onnx_cases.__path__) if not m.ispkg and not m.name.startswith("_")),
        *(f"ai_onnx_ml.{m.name}" for m in pkgutil.iter_modules([f"{onnx_cases.__path__[0]}/ai_onnx_ml"])),
    ]


@functools.cache
def _loaded(module: str) -> tuple[Any, ...]:
    known = onnx_cases._NodeTestCases
    before = len(known)
    with warnings.catch_warnings():  # numpy's, about overflow in the making of extreme values
        warnings.simplefilter("ignore")
        importlib.import_module(f"{onnx_cases.__name__}.{module}")
    return tuple(known[before:])


def cases(module: str) -> Iterator[Case]:
    """Yield the cases of a module that have a floating-point input and output, in all forms that differ."""
    for case in _loaded(module):
        inputs, outputs = ([_array(value) for value in values] for values in case.data_sets[0])
        if not (any(map(_is_float, inputs)) and any(map(_is_float, outputs))):
            continue
        # an input that is left out has no name in the graph
        feeds = dict(zip((value.name for value in case.model.graph.input), inputs, strict=True))
        yield Case(case.name, "given", case.model, feeds)
        floats = {name: value for name, value in feeds.items() if _is_float(value)}
        constant = _with_constants(case.model, {n: v for n, v in feeds.items() if n not in floats})
        if constant is None:
            yield Case(case.name, "symbolic", _symbolic(case.model), feeds)
            continue
        if len(floats) < len(feeds):
            yield Case(case.name, "constants", constant, floats)
        yield Case(case.name, "symbolic", _symbolic(constant), floats)


def _array(value: Any) -> Any:
    if isinstance(value, list):
        return [_array(v) for v in value]
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _is_float(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) and value.dtype.name in FLOATS


def _with_constants(model: onnx.ModelProto, constants: dict[str, Any]) -> onnx.ModelProto | None:
    """Return the model with some inputs made initializers; None where one of them is no tensor."""
    if not all(isinstance(value, (np.ndarray, np.generic)) for value in constants.values()):
        return None
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for value in [value for value in result.graph.input if value.name in constants]:
        result.graph.input.remove(value)
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(constants[value.name]), value.name))
    return result


def _symbolic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a name of its own for every size of its inputs, and no sizes of outputs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for value in result.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{axis}"
    for value in result.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    return result
