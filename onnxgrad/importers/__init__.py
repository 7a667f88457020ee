"""What is no ONNX model yet becomes one here. Importing this package lets `onnxgrad.load` take such sources.

The libraries that the sources belong to are imported when a source of theirs turns up.
"""

from __future__ import annotations

from typing import Any

from onnxgrad.runtime.sources import Imported, register_importer


def _is_estimator(source: Any) -> bool:
    """Whether `source` is an estimator of scikit-learn, or of a library that builds on its classes."""
    kind = source if isinstance(source, type) else type(source)
    return any(base.__module__.split(".")[0] == "sklearn" for base in kind.__mro__)


def _from_estimator(source: Any, sample: Any) -> Imported:
    from onnxgrad.importers.sklearn import convert

    return convert(source, sample)


register_importer(_is_estimator, _from_estimator)
