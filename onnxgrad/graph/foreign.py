"""Types of the outputs of operators for which ONNX has no shape inference: those of ai.onnx.ml, and others' own.

A formula takes the attributes given in the node and its inputs, and says for each output its element type and sizes
(None for a size that is not known), or None.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxgrad.graph import foreign_microsoft, foreign_quantized
from onnxgrad.graph.dims import Dim, size_of
from onnxgrad.graph.foreign_microsoft import Formula, Found, rms_normalized, same, tensor
from onnxgrad.graph.operands import Attrs, Inputs
from onnxgrad.graph.tensor import Tensor

__all__ = ["TYPES", "Formula", "Found"]


def _rows(x: Tensor) -> Dim:
    """Number of samples; a vector is one."""
    return x.shape[0] if x.rank > 1 else 1


# --- ai.onnx.ml --------------------------------------------------------------------------------


def _same_in_float(_: Attrs, inputs: Inputs) -> list[Found]:
    return [(ir.DataType.FLOAT, tensor(inputs).shape)]


def _extracted(_: Attrs, inputs: Inputs) -> list[Found]:
    """Columns by their indices."""
    x, indices = tensor(inputs), tensor(inputs, 1)
    return [(x.dtype, (*(x.shape[:-1] or (1,)), size_of(indices.shape)))]


def _columns(count: Callable[[Attrs], Dim]) -> Formula:
    """One row per sample, with ``count(attributes)`` columns."""
    return lambda attrs, inputs: [(ir.DataType.FLOAT, (_rows(tensor(inputs)), count(attrs)))]


def _svm_classes(attrs: Attrs, inputs: Inputs) -> list[Found]:
    """Labels and scores: one per class, or one per pair of classes (two for a single pair)."""
    labels, rows = attrs.get("classlabels_ints") or attrs.get("classlabels_strings") or [0], _rows(tensor(inputs))
    classes = len(labels)
    pairs = bool(attrs.get("vectors_per_class")) and not attrs.get("prob_a") and classes > 2
    kind = ir.DataType.STRING if attrs.get("classlabels_strings") else ir.DataType.INT64
    return [(kind, (rows,)), (ir.DataType.FLOAT, (rows, classes * (classes - 1) // 2 if pairs else classes))]


#: Formulas by ``domain::Op``.
TYPES: dict[str, Formula] = {
    "ai.onnx.ml::Scaler": _same_in_float,
    "ai.onnx.ml::Normalizer": _same_in_float,
    "ai.onnx.ml::Imputer": same,
    "ai.onnx.ml::ArrayFeatureExtractor": _extracted,
    "ai.onnx.ml::LinearRegressor": _columns(lambda attrs: attrs.get("targets", 1)),
    "ai.onnx.ml::SVMRegressor": _columns(lambda _: 1),
    "ai.onnx.ml::SVMClassifier": _svm_classes,
    "ai.onnx.ml::FeatureVectorizer": _columns(lambda attrs: sum(attrs["inputdimensions"])),
    "::SimplifiedLayerNormalization": rms_normalized,  # in the domain of ONNX, but not in the standard
    **foreign_microsoft.TYPES,
    **foreign_quantized.TYPES,
}
