"""Types of the outputs of operators for which ONNX has no shape inference: those of ai.onnx.ml, and others' own.

A formula takes the attributes given in the node and its inputs, and says for each output its element type and sizes
(None for a size that is not known), or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.graph.dims import Dim, broadcast, dim_add, dim_div, dim_mul, size_of
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


# --- com.microsoft -----------------------------------------------------------------------------


def matrix_order(rank: int, transposed: bool, batch: bool) -> list[int]:
    """Return the order of axes in which an operand of `FusedMatMul` is an ordinary stack of matrices.

    If `batch` is set, the rows (before `transposed`) lie on axis 0, in front of the stack.
    """
    order = [*range(1, rank - 1), 0, rank - 1] if batch else list(range(rank))
    if transposed and rank > 1:
        order[-2:] = order[:-3:-1]
    return order


def _matmul(attrs: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    a, b = _tensor(inputs), _tensor(inputs, 1)
    left, right = (
        [x.shape[i] for i in matrix_order(x.rank, bool(attrs.get(f"trans{n}")), bool(attrs.get(f"transBatch{n}")))]
        for n, x in (("A", a), ("B", b))
    )
    return [(a.dtype, (*broadcast(left[:-2], right[:-2]), *left[-2:-1], *(right[-1:] if b.rank > 1 else ())))]


def _gemm(attrs: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    a, b = _tensor(inputs), _tensor(inputs, 1)
    rows, columns = a.shape[1 if attrs.get("transA") else 0], b.shape[0 if attrs.get("transB") else 1]
    return [(a.dtype, (rows, columns))]


def _normalized(_: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    """The output, mean and inverse standard deviation, and what was normalized."""
    x = _tensor(inputs)
    moment = (ir.DataType.FLOAT, (*x.shape[:-1], 1))
    return [(x.dtype, x.shape), moment, moment, (x.dtype, x.shape)]


def _rms_normalized(attrs: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    x = _tensor(inputs)
    axis = attrs.get("axis", -1) % x.rank
    return [(x.dtype, x.shape), (ir.DataType.FLOAT, (*x.shape[:axis], *[1] * (x.rank - axis)))]


def _embedded(_: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    ids, table = _tensor(inputs), _tensor(inputs, 2)
    vectors = (table.dtype, (*ids.shape, table.shape[1]))
    return [vectors, (ir.DataType.INT32, ids.shape[:1]), vectors]


def _attention(attrs: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    x, weights = _tensor(inputs), _tensor(inputs, 1)
    past = inputs[4] if len(inputs) > 4 else None
    sizes = attrs.get("qkv_hidden_sizes") or [dim_div(weights.shape[1], 3)] * 3
    keys = x.shape[1] if past is None else dim_add(past.shape[3], x.shape[1])
    heads = attrs["num_heads"]
    size = None if sizes[1] is None else dim_div(sizes[1], heads)
    return [(x.dtype, (*x.shape[:2], sizes[2])), (x.dtype, (2, x.shape[0], heads, keys, size))]


def _multi_head_attention(attrs: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    """For queries, keys and values in tensors of their own; of packed ones only the rank is given."""
    q, heads = _tensor(inputs), attrs["num_heads"]
    key, value, past = (inputs[i] if i < len(inputs) else None for i in (1, 2, 6))
    if key is None or value is None or q.rank != 3:
        return [(q.dtype, (q.shape[0], q.shape[1], None))]
    apart = key.rank == 4
    new = key.shape[2 if apart else 1]
    total = new if past is None else dim_add(past.shape[2], new)
    width = dim_mul(value.shape[1], value.shape[3]) if apart else value.shape[2]
    sizes = [t.shape[3] if apart else dim_div(t.shape[2], heads) for t in (key, value)]
    caches: list[Found] = [(q.dtype, (q.shape[0], heads, total, size)) for size in sizes]
    return [(q.dtype, (*q.shape[:2], width)), *caches]


def _sampled(_: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    x, grid = _tensor(inputs), _tensor(inputs, 1)
    return [(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))]


def _distances(_: Mapping[str, Any], inputs: Sequence[Tensor | None]) -> list[Found]:
    a, b = _tensor(inputs), _tensor(inputs, 1)
    return [(a.dtype, (a.shape[0], b.shape[0]))]


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
    "::SimplifiedLayerNormalization": _rms_normalized,  # in the domain of ONNX, but not in the standard
    **dict.fromkeys(
        (f"com.microsoft::{name}" for name in "Gelu FastGelu BiasGelu QuickGelu RotaryEmbedding Inverse Trilu".split()),
        _same,
    ),
    "com.microsoft::FusedMatMul": _matmul,
    "com.microsoft::TransposeMatMul": _matmul,
    "com.microsoft::FusedGemm": _gemm,
    "com.microsoft::SkipLayerNormalization": _normalized,
    "com.microsoft::SkipSimplifiedLayerNormalization": _normalized,
    "com.microsoft::EmbedLayerNormalization": _embedded,
    "com.microsoft::Attention": _attention,
    "com.microsoft::MultiHeadAttention": _multi_head_attention,
    "com.microsoft::CDist": _distances,
    "com.microsoft::GridSample": _sampled,
}
