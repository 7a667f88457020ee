"""What is no ONNX model yet becomes one here. Importing this package lets `onnxgrad.load` take such sources.

The libraries that the sources belong to are imported when a source of theirs turns up.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from onnxgrad.errors import ModelReadError
from onnxgrad.importers.foreign import is_foreign, refuse
from onnxgrad.runtime.sources import Imported, register_file_importer, register_importer

if TYPE_CHECKING:
    import onnx

    from onnxgrad.importers.matlab import DType

#: How files end that are no ONNX models and are read here.
_ENDINGS = (".m", ".mat")


def _is_estimator(source: Any) -> bool:
    """Whether `source` is an estimator of scikit-learn, or of a library that builds on its classes."""
    kind = source if isinstance(source, type) else type(source)
    return any(base.__module__.split(".")[0] == "sklearn" for base in kind.__mro__)


def _from_estimator(source: Any, sample: Any) -> Imported:
    from onnxgrad.importers.boosters import register
    from onnxgrad.importers.sklearn import convert

    register(source)
    return convert(source, sample)


def is_file(source: Any) -> bool:
    """Whether `source` is the path of a file that `read_file` reads, by how it ends."""
    return isinstance(source, (str, os.PathLike)) and os.fspath(source).lower().endswith(_ENDINGS)


def read_file(path: str | os.PathLike[str], variable: str | None = None, dtype: DType = "float64") -> onnx.ModelProto:
    """Return the network in a file of another program as an ONNX model: see `onnxgrad.importers.matlab.convert`.

    Raises:
        ModelReadError: if there is none, or it has something that is not supported.
    """
    from onnxgrad.importers.matlab import convert

    if not is_file(path):
        raise ModelReadError(
            f"{os.fspath(path)!r} is no file that can be imported; give a MATLAB network: a function that genFunction "
            "wrote (.m), or a .mat file"
        )
    return convert(path, variable, dtype)


register_importer(_is_estimator, _from_estimator)
register_importer(is_foreign, refuse)
register_file_importer(is_file, lambda path, variable: Imported(read_file(path, variable)))
