"""What is no ONNX model yet becomes one here. Importing this package lets `onnxgrad.load` take such sources.

The libraries that the sources belong to are imported when a source of theirs turns up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxgrad.errors import ModelReadError
from onnxgrad.importers.foreign import is_foreign, refuse
from onnxgrad.model.read import register_reader
from onnxgrad.runtime.sources import Imported, register_file_importer, register_importer

if TYPE_CHECKING:
    import onnx

    from onnxgrad.importers.files import DType


# --- objects --------------------------------------------------------------------------------------


def _is_estimator(source: Any) -> bool:
    """Whether `source` is an estimator of scikit-learn, or of a library that builds on its classes."""
    kind = source if isinstance(source, type) else type(source)
    return any(base.__module__.split(".")[0] == "sklearn" for base in kind.__mro__)


def _from_estimator(source: Any, sample: Any, method: Any = None) -> Imported:
    from onnxgrad.importers.boosters import register
    from onnxgrad.importers.sklearn import convert

    register(source)
    return convert(source, sample, method)


def _is_module(source: Any) -> bool:
    """Whether `source` is a module of PyTorch."""
    kind = source if isinstance(source, type) else type(source)
    return any((base.__module__, base.__name__) == ("torch.nn.modules.module", "Module") for base in kind.__mro__)


def _from_module(source: Any, sample: Any) -> Imported:
    from onnxgrad.importers.torch import convert

    return convert(source, sample)


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileFormat:
    """A kind of files of another program, with networks in them.

    Attributes:
        program: whose they are.
        endings: how their names end.
        what: what is in them, for messages and help.
        convert: ``convert(path, variable, dtype)`` gives the network as a model.
    """

    program: str
    endings: tuple[str, ...]
    what: str
    convert: Callable[[str | os.PathLike[str], str | None, DType], onnx.ModelProto]

    def has(self, path: Any) -> bool:
        """Whether a source is the path of such a file, by how it ends."""
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).lower().endswith(self.endings)


def _from_matlab(path: str | os.PathLike[str], variable: str | None, dtype: DType) -> onnx.ModelProto:
    from onnxgrad.importers.matlab import convert

    return convert(path, variable, dtype)


def _from_pmml(path: str | os.PathLike[str], variable: str | None, dtype: DType) -> onnx.ModelProto:
    from onnxgrad.importers.pmml import convert

    return convert(path, variable, dtype)


#: All that are read here.
FORMATS = (
    FileFormat(
        "MATLAB",
        (".m", ".mat"),
        "a MATLAB network (a function that genFunction wrote, .m, or a .mat file)",
        _from_matlab,
    ),
    FileFormat("PMML", (".pmml", ".xml"), "a neural network in PMML (.pmml, or .xml)", _from_pmml),
)


def format_of(path: Any) -> FileFormat | None:
    """Return the format of the files that are called like `path`; None where there is none."""
    return next((each for each in FORMATS if each.has(path)), None)


def is_file(source: Any) -> bool:
    """Whether `source` is the path of a file that `read_file` reads, by how it ends."""
    return format_of(source) is not None


def read_file(path: str | os.PathLike[str], variable: str | None = None, dtype: DType = "float64") -> onnx.ModelProto:
    """Return the network in a file of another program as an ONNX model: see `convert` in `onnxgrad.importers.matlab`
    and `onnxgrad.importers.pmml`.

    Raises:
        ModelReadError: if there is none, or it has something that is not supported.
    """
    found = format_of(path)
    if found is None:
        raise ModelReadError(
            f"{os.fspath(path)!r} is no file that can be imported; give {', or '.join(each.what for each in FORMATS)}"
        )
    return found.convert(path, variable, dtype)


register_reader(is_file, lambda path: read_file(path))
register_importer(_is_estimator, _from_estimator, methods=True)
register_importer(is_foreign, refuse)  # first: a Keras model on PyTorch is a module of PyTorch, too
register_importer(_is_module, _from_module)
for _format in FORMATS:
    register_file_importer(_format.has, lambda path, variable: Imported(read_file(path, variable)), _format.what)
