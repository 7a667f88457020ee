"""Where the model of a `Function` comes from, and how it travels to another process.

Objects that are no model yet (a fitted estimator, say) are turned into one by importers, which enter themselves here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from onnxgrad.errors import ModelReadError
from onnxgrad.lowering import has_gradients
from onnxgrad.model.read import read
from onnxgrad.model.tensors import tensors_of
from onnxgrad.model.write import to_proto
from onnxgrad.transforms import lower_gradients

#: Files up to this size are read once, when they are loaded, so that it does not matter what becomes of them later.
SNAPSHOT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Imported:
    """What an importer makes of a source.

    Attributes:
        model: the model.
        columns: names of the features of its only input, in order, where they are known.
    """

    model: onnx.ModelProto
    columns: tuple[str, ...] | None = None


#: ``convert(source, sample)``; `sample` is a few rows of input, or None. Where a source has several methods to compute,
#: ``convert(source, sample, method)``; `method` is a name, several, or None.
Convert = Callable[..., Imported]
#: ``convert(path, variable)``; `variable` is the name of what is meant among several things in a file, or None.
ConvertFile = Callable[[Any, "str | None"], Imported]

_IMPORTERS: list[tuple[Callable[[Any], bool], Convert]] = []
_WITH_METHODS: set[Convert] = set()
_FILE_IMPORTERS: list[tuple[Callable[[Any], bool], ConvertFile]] = []
#: What is in the files that importers take, for messages.
_IN_FILES: list[str] = []


def register_importer(applies: Callable[[Any], bool], convert: Convert, methods: bool = False) -> None:
    """Let `load` take a further kind of source: where ``applies(source)`` holds, which must be quick to say.

    `methods` says whether such a source has several methods to compute.
    """
    _IMPORTERS.append((applies, convert))
    if methods:
        _WITH_METHODS.add(convert)


def register_file_importer(applies: Callable[[Any], bool], convert: ConvertFile, what: str) -> None:
    """Let `load` take a further kind of files, which say themselves what their inputs are.

    Args:
        applies: whether a source is such a file.
        convert: what reads it.
        what: what is in such files, with "a" or "an".
    """
    _FILE_IMPORTERS.append((applies, convert))
    _IN_FILES.append(what)


@dataclass(frozen=True)
class Origin:
    """A model that was loaded.

    Attributes:
        model: the model, read but not normalized.
        file: what onnxruntime is given for the plain model: the content of its file, or its path where it is large or
            has weights beside it; None where there is no file.
        columns: names of the features of its only input, in order, where they are known.
    """

    model: ir.Model
    file: bytes | str | None
    columns: tuple[str, ...] | None = None

    def __reduce__(self) -> tuple[Callable[..., Origin], tuple[bytes | str, Sequence[str] | None]]:
        file = to_proto(self.model).SerializeToString() if self.file is None else self.file
        return _origin, (file, self.columns)


def find(
    source: Any,
    sample: Any = None,
    straight_through: bool = False,
    variable: str | None = None,
    method: str | Sequence[str] | None = None,
) -> Origin:
    """Return the model that `source` is, holds or points to; the standard's `Gradient` nodes, which onnxruntime does
    not have, are replaced.

    Raises:
        ModelReadError: if there is none.
    """
    origin = _find(source, sample, variable, method)
    if not has_gradients(origin.model):
        return origin
    return Origin(read(lower_gradients(origin.model, straight_through=straight_through)), None, origin.columns)


def _find(source: Any, sample: Any, variable: str | None, method: str | Sequence[str] | None) -> Origin:
    for applies, convert in _IMPORTERS:
        if applies(source):
            if variable is not None:
                raise _no_variables(variable, source)
            if convert in _WITH_METHODS:
                imported = convert(source, sample, method)
            elif method is not None:
                raise _no_methods(method, source)
            else:
                imported = convert(source, sample)
            return _origin(imported.model.SerializeToString(), imported.columns)
    if method is not None:
        raise _no_methods(method, source)
    if sample is not None:
        raise ModelReadError(
            f"a sample is of use only with a source that is converted to ONNX first, and {_describe(source)} is not; "
            "leave it out"
        )
    for applies, convert_file in _FILE_IMPORTERS:
        if applies(source):
            return _origin(convert_file(source, variable).model.SerializeToString())
    if variable is not None:
        raise _no_variables(variable, source)
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if isinstance(source, ir.Model):
        return Origin(read(source), None)
    if isinstance(source, onnx.ModelProto):
        return Origin(read(source), source.SerializeToString())
    if isinstance(source, (str, os.PathLike, bytes)):
        return _origin(source)
    raise ModelReadError(
        f"{_describe(source)} is no model that can be loaded; give the path or the bytes of an ONNX model, a "
        f"ModelProto, an ir.Model, {''.join(f'the path of {what}, ' for what in _IN_FILES)}or a fitted scikit-learn "
        "estimator or a PyTorch module, each with a sample of its input (other frameworks: export the model to ONNX "
        "first, see docs/frameworks.md)"
    )


def _origin(source: str | os.PathLike[str] | bytes, columns: Sequence[str] | None = None) -> Origin:
    names = None if columns is None else tuple(columns)
    model = read(source)
    if isinstance(source, bytes):
        return Origin(model, source, names)
    path = os.path.abspath(os.fspath(source))
    if os.path.getsize(path) > SNAPSHOT_BYTES or any(isinstance(t, ir.ExternalTensor) for t in tensors_of(model)):
        return Origin(model, path, names)
    with open(path, "rb") as file:
        return Origin(model, file.read(), names)


def _no_methods(method: Any, source: Any) -> ModelReadError:
    return ModelReadError(
        f"method={method!r} is of use only with an estimator of scikit-learn, and {_describe(source)} is none; "
        "leave it out"
    )


def _no_variables(variable: str, source: Any) -> ModelReadError:
    return ModelReadError(
        f"variable={variable!r} is of use only with a file that can hold several networks (.mat, .pmml), and "
        f"{_describe(source)} is none; leave it out"
    )


def _describe(source: Any) -> str:
    return repr(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else f"a {type(source).__name__}"
