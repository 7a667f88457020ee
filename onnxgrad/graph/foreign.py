"""Types of the outputs of operators for which ONNX has no shape inference: those of ai.onnx.ml, and others' own.

A formula takes the attributes given in the node and its inputs, and says for each output its element type and sizes
(None for a size that is not known), or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.graph.dims import Dim, size_of
from onnxgrad.graph.tensor import Tensor

Found = tuple[ir.DataType, tuple[Dim | None, ...] | None] | None
Formula = Callable[[Mapping[str, Any], Sequence[Tensor | None]], Sequence[Found]]


def _tensor(inputs: Sequence[Tensor | None], index: int = 0) -> Tensor:
    tensor = inputs[index]
    assert tensor is not None
    return tensor


def _rows(x: Tensor) -> Dim:
    """Number of samples; a vector is one."""
    return x.shape[0] if x.rank > 1 else 1


# --- ai.onnx.ml --------------------------------------------------------------------------------


def _same(_: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    x = _tensor(inputs)
    return [(x.dtype, x.shape)]


def _same_in_float(_: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    return [(ir.DataType.FLOAT, _tensor(inputs).shape)]


def _extracted(_: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    """Columns by their indices."""
    x, indices = _tensor(inputs), _tensor(inputs, 1)
    return [(x.dtype, (*(x.shape[:-1] or (1,)), size_of(indices.shape)))]


def _columns(count: Callable[[Mapping[str, Any]], Dim]) -> Formula:
    """One row per sample, with ``count(attributes)`` columns."""
    return lambda attrs, inputs: [(ir.DataType.FLOAT, (_rows(_tensor(inputs)), count(attrs)))]


def _svm_classes(attrs: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    """Labels and scores: one per class, or one per pair of classes (two for a single pair)."""
    labels, rows = attrs.get("classlabels_ints") or attrs.get("classlabels_strings") or [0], _rows(_tensor(inputs))
    classes = len(labels)
    pairs = bool(attrs.get("vectors_per_class")) and not attrs.get("prob_a") and classes > 2
    kind = ir.DataType.STRING if attrs.get("classlabels_strings") else ir.DataType.INT64
    return [(kind, (rows,)), (ir.DataType.FLOAT, (rows, classes * (classes - 1) // 2 if pairs else classes))]


#: Formulas by ``domain::Op``.
TYPES: dict[str, Formula] = {
    "ai.onnx.ml::Scaler": _same_in_float,
    "ai.onnx.ml::Normalizer": _same_in_float,
    "ai.onnx.ml::Imputer": _same,
    "ai.onnx.ml::ArrayFeatureExtractor": _extracted,
    "ai.onnx.ml::LinearRegressor": _columns(lambda attrs: attrs.get("targets", 1)),
    "ai.onnx.ml::SVMRegressor": _columns(lambda _: 1),
    "ai.onnx.ml::SVMClassifier": _svm_classes,
    "ai.onnx.ml::FeatureVectorizer": _columns(lambda attrs: sum(attrs["inputdimensions"])),
}
