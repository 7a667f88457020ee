"""Types of the outputs of onnxruntime's own operators, in com.microsoft.

A formula takes the attributes given in the node and its inputs, and says for each output its element type and sizes
(None for a size that is not known), or None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxgrad.graph.dims import Dim, broadcast, dim_add, dim_div, dim_floordiv, dim_mul, dim_sub, size_of
from onnxgrad.graph.operands import Attrs, Inputs, Type
from onnxgrad.graph.tensor import Tensor

Found = Type | None
Formula = Callable[[Attrs, Inputs], Sequence[Found]]

_FLOAT, _INT32, _INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64


def tensor(inputs: Inputs, index: int = 0) -> Tensor:
    """Return an input that is there."""
    found = inputs[index]
    assert found is not None
    return found


def optional(inputs: Inputs, index: int) -> Tensor | None:
    """Return an input, or None where it is absent."""
    return inputs[index] if index < len(inputs) else None


def same(_: Attrs, inputs: Inputs) -> list[Found]:
    """The output is like the first input."""
    x = tensor(inputs)
    return [(x.dtype, x.shape)]


def _like(*indices: int) -> Formula:
    """The outputs are like the given inputs."""
    return lambda _, inputs: [(tensor(inputs, i).dtype, tensor(inputs, i).shape) for i in indices]


def _pooled(size: Dim, pads: int, reach: int, stride: int) -> Dim:
    """The number of windows of extent `reach`."""
    return dim_add(dim_floordiv(dim_add(size, pads - reach), stride), 1)


# --- products ------------------------------------------------------------------------------------------


def matrix_order(rank: int, transposed: bool, batch: bool) -> list[int]:
    """Return the order of axes in which an operand of `FusedMatMul` is an ordinary stack of matrices.

    If `batch` is set, the rows (before `transposed`) lie on axis 0, in front of the stack.
    """
    order = [*range(1, rank - 1), 0, rank - 1] if batch else list(range(rank))
    if transposed and rank > 1:
        order[-2:] = order[:-3:-1]
    return order


def _matmul(attrs: Attrs, inputs: Inputs) -> list[Found]:
    a, b = tensor(inputs), tensor(inputs, 1)
    left, right = (
        [x.shape[i] for i in matrix_order(x.rank, bool(attrs.get(f"trans{n}")), bool(attrs.get(f"transBatch{n}")))]
        for n, x in (("A", a), ("B", b))
    )
    return [(a.dtype, (*broadcast(left[:-2], right[:-2]), *left[-2:-1], *(right[-1:] if b.rank > 1 else ())))]


def _gemm(attrs: Attrs, inputs: Inputs) -> list[Found]:
    a, b = tensor(inputs), tensor(inputs, 1)
    rows, columns = a.shape[1 if attrs.get("transA") else 0], b.shape[0 if attrs.get("transB") else 1]
    return [(a.dtype, (rows, columns))]


def _quantized_matmul(attrs: Attrs, inputs: Inputs) -> list[Found]:
    """By a matrix of K rows and N columns, which is stored transposed."""
    a = tensor(inputs)
    return [(a.dtype, (*a.shape[:-1], attrs["N"] if attrs.get("transB", 1) else attrs["K"]))]


def _open_columns(_: Attrs, inputs: Inputs) -> list[Found]:
    a = tensor(inputs)
    return [(a.dtype, (*a.shape[:-1], None))]


def _packed_rows(attrs: Attrs, inputs: Inputs) -> list[Found]:
    kind = ir.DataType(attrs.get("output_dtype", ir.DataType.BFLOAT16))
    return [(kind, (*tensor(inputs, 1).shape, attrs["K"]))]


def _dequantized_rows(attrs: Attrs, inputs: Inputs) -> list[Found]:
    data, indices, scales = tensor(inputs), tensor(inputs, 1), tensor(inputs, 2)
    axis, shape = attrs.get("gather_axis", 0) % data.rank, list(data.shape)
    if data.dtype == ir.DataType.UINT8:
        shape[-1] = dim_mul(shape[-1], 8 // attrs.get("bits", 4))
    return [(scales.dtype, (*shape[:axis], *indices.shape, *shape[axis + 1 :]))]


# --- normalization -------------------------------------------------------------------------------------


def _normalized(_: Attrs, inputs: Inputs) -> list[Found]:
    """The output, mean and inverse standard deviation, and what was normalized."""
    x = tensor(inputs)
    moment = (_FLOAT, (*x.shape[:-1], 1))
    return [(x.dtype, x.shape), moment, moment, (x.dtype, x.shape)]


def rms_normalized(attrs: Attrs, inputs: Inputs) -> list[Found]:
    """The output and the inverse root mean square."""
    x = tensor(inputs)
    axis = attrs.get("axis", -1) % x.rank
    return [(x.dtype, x.shape), (_FLOAT, (*x.shape[:axis], *[1] * (x.rank - axis)))]


def _embedded(_: Attrs, inputs: Inputs) -> list[Found]:
    ids, table = tensor(inputs), tensor(inputs, 2)
    vectors = (table.dtype, (*ids.shape, table.shape[1]))
    return [vectors, (_INT32, ids.shape[:1]), vectors]


def _reduced_streams(attrs: Attrs, inputs: Inputs) -> list[Found]:
    x, branches = tensor(inputs), attrs.get("num_branches", 0)
    return [(x.dtype, (*x.shape[:-1], dim_div(x.shape[-1], branches)) if branches else (*x.shape[:-2], x.shape[-1]))]


# --- attention -----------------------------------------------------------------------------------------


def _attention(attrs: Attrs, inputs: Inputs) -> list[Found]:
    x, weights, past = tensor(inputs), tensor(inputs, 1), optional(inputs, 4)
    sizes = attrs.get("qkv_hidden_sizes") or [dim_div(weights.shape[1], 3)] * 3
    keys = x.shape[1] if past is None else dim_add(past.shape[3], x.shape[1])
    heads = attrs["num_heads"]
    size = None if sizes[1] is None else dim_div(sizes[1], heads)
    return [(x.dtype, (*x.shape[:2], sizes[2])), (x.dtype, (2, x.shape[0], heads, keys, size))]


def _heads_apart(attrs: Attrs, inputs: Inputs, past: Tensor | None, in_buffer: bool) -> list[Found]:
    """For queries, keys and values in tensors of their own; of packed ones only the rank is given."""
    q, heads = tensor(inputs), attrs["num_heads"]
    key, value = (optional(inputs, i) for i in (1, 2))
    if key is None or value is None or q.rank != 3:
        return [(q.dtype, (q.shape[0], q.shape[1], None))]
    apart = key.rank == 4
    total = key.shape[2 if apart else 1]
    if past is not None:
        total = past.shape[2] if in_buffer else dim_add(past.shape[2], total)
    width = dim_mul(value.shape[1], value.shape[3]) if apart else value.shape[2]
    sizes = [t.shape[3] if apart else dim_div(t.shape[2], heads) for t in (key, value)]
    caches: list[Found] = [(q.dtype, (q.shape[0], heads, total, size)) for size in sizes]
    return [(q.dtype, (*q.shape[:2], width)), *caches, (q.dtype, (q.shape[0], heads, None, None))]


def _multi_head_attention(attrs: Attrs, inputs: Inputs) -> list[Found]:
    return _heads_apart(attrs, inputs, optional(inputs, 6), optional(inputs, 8) is not None)


def _decoder_attention(attrs: Attrs, inputs: Inputs) -> list[Found]:
    return _heads_apart(attrs, inputs, optional(inputs, 5), bool(attrs.get("past_present_share_buffer")))


def _group_query_attention(attrs: Attrs, inputs: Inputs) -> list[Found]:
    """Output, and the buffers: as long as the past, or as the new total where that is more."""
    q, past, end = tensor(inputs), optional(inputs, 3), tensor(inputs, 6).ints
    heads, few = attrs["num_heads"], attrs["kv_num_heads"]
    packed = optional(inputs, 1) is None
    size = dim_div(q.shape[2], heads + 2 * few if packed else heads)
    width = None if size is None else dim_mul(size, heads)
    length = q.shape[1] if past is None else None
    if past is not None and end is not None and isinstance(past.shape[2], int):
        length = max(past.shape[2], *end)
    cache = (q.dtype if past is None else past.dtype, (q.shape[0], few, length, size))
    scores = (q.dtype, (q.shape[0], heads, q.shape[1], None))
    return [(q.dtype, (*q.shape[:2], width)), cache, cache, scores]


# --- recurrence ----------------------------------------------------------------------------------------


def _linear_attention(attrs: Attrs, inputs: Inputs) -> list[Found]:
    q, k, v, state = tensor(inputs), tensor(inputs, 1), tensor(inputs, 2), optional(inputs, 3)
    heads, few = attrs["q_num_heads"], attrs["kv_num_heads"]
    size, depth = dim_div(v.shape[2], few), dim_div(q.shape[2], heads)
    width = None if size is None else dim_mul(size, max(heads, few))
    past = (k.dtype, (q.shape[0], few, depth, size)) if state is None else (state.dtype, state.shape)
    return [(q.dtype, (*q.shape[:2], width)), past]


def _gated_delta_net(_: Attrs, inputs: Inputs) -> list[Found]:
    q, v, state = tensor(inputs), optional(inputs, 2), optional(inputs, 6)
    if v is not None:
        heads: list[Dim | None] = [
            max(n, m) if isinstance(n := q.shape[-2], int) and isinstance(m := v.shape[-2], int) else None
        ]
        y = (q.dtype, (*v.shape[:-2], *heads, v.shape[-1]))
    else:
        y = (q.dtype, (*q.shape[:-1], *(state.shape[1:3] if state is not None else (None, None))))
    return [y, (_FLOAT, (None,) * 4) if state is None else (state.dtype, state.shape)]


def _attended_lstm(_: Attrs, inputs: Inputs) -> list[Found]:
    x = tensor(inputs)
    return [(x.dtype, (x.shape[0], None, x.shape[1], None)), *[(x.dtype, (None, x.shape[1], None))] * 2]


def _causal_convolution(attrs: Attrs, inputs: Inputs) -> list[Found]:
    x, weights = tensor(inputs), tensor(inputs, 1)
    state = dim_mul(dim_sub(weights.shape[-1], 1), attrs.get("dilation", 1))
    rest = (state, *x.shape[2:]) if attrs.get("channels_last") else (*x.shape[1:-1], state)
    return [(x.dtype, x.shape), (x.dtype, (x.shape[0], *rest))]


# --- others --------------------------------------------------------------------------------------------


def _sampled(_: Attrs, inputs: Inputs) -> list[Found]:
    x, grid = tensor(inputs), tensor(inputs, 1)
    return [(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))]


def _distances(_: Attrs, inputs: Inputs) -> list[Found]:
    a, b = tensor(inputs), tensor(inputs, 1)
    return [(a.dtype, (a.shape[0], b.shape[0]))]


def _expanded(_: Attrs, inputs: Inputs) -> list[Found]:
    """One more axis of size 1."""
    x, axis = tensor(inputs), tensor(inputs, 1).ints
    if axis is None:
        return [(x.dtype, (None,) * (x.rank + 1))]
    place = axis[0] % (x.rank + 1)
    return [(x.dtype, (*x.shape[:place], 1, *x.shape[place:]))]


def _gathered(_: Attrs, inputs: Inputs) -> list[Found]:
    x, indices = tensor(inputs), tensor(inputs, 1)
    depth = indices.shape[-1]
    return [(x.dtype, (*indices.shape[:-1], *x.shape[depth:]))] if isinstance(depth, int) else [None]


def _padded(_: Attrs, inputs: Inputs) -> list[Found]:
    x, pads = tensor(inputs), tensor(inputs, 1).ints
    if pads is None:
        return [(x.dtype, (None,) * x.rank)]
    return [(x.dtype, tuple(dim_add(d, pads[i], pads[i + x.rank]) for i, d in enumerate(x.shape)))]


def _counted(_: Attrs, inputs: Inputs) -> list[Found]:
    return [(tensor(inputs).dtype, (None,))]


def _unique(_: Attrs, inputs: Inputs) -> list[Found]:
    x = tensor(inputs)
    return [(x.dtype, (None,)), (_INT64, x.shape), (_INT64, (None,))]


def _unfolded(attrs: Attrs, inputs: Inputs) -> list[Found]:
    x = tensor(inputs)
    axis, size = attrs.get("dim", -1) % x.rank, attrs["size"]
    count = _pooled(x.shape[axis], 0, size, attrs.get("step", 1))
    return [(x.dtype, (*x.shape[:axis], count, *x.shape[axis + 1 :], size))]


def _cropped(_: Attrs, inputs: Inputs) -> list[Found]:
    x, boxes, size = tensor(inputs), tensor(inputs, 1), tensor(inputs, 3).ints
    return [(x.dtype, (boxes.shape[0], x.shape[1], *(size or (None, None))))]


def _grown(attrs: Attrs, inputs: Inputs) -> list[Found]:
    """A transposed convolution, with its padding as an input."""
    x, weights, pads = tensor(inputs), tensor(inputs, 1), optional(inputs, 2)
    rank, cut = x.rank - 2, None if pads is None else pads.ints
    shape: list[Dim | None] = [x.shape[0], dim_mul(weights.shape[1], attrs.get("group", 1))]
    strides, dilations, more = (
        attrs.get(n) or [d] * rank for n, d in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    for i in range(rank):
        reach = dim_mul(dim_sub(weights.shape[2 + i], 1), dilations[i])
        size = dim_add(dim_mul(dim_sub(x.shape[2 + i], 1), strides[i]), reach, 1 + more[i])
        shape.append(None if cut is None else dim_sub(size, cut[i] + cut[i + rank]))
    return [(x.dtype, tuple(shape))]


def _pooled_with_mask(_: Attrs, inputs: Inputs) -> list[Found]:
    x = tensor(inputs)
    return [(x.dtype, (*x.shape[:2], *[None] * (x.rank - 2)))]


def _words(_: Attrs, inputs: Inputs) -> list[Found]:
    words, filters = tensor(inputs), tensor(inputs, 1)
    return [(filters.dtype, (words.shape[0], filters.shape[0]))]


def _routed(_: Attrs, inputs: Inputs) -> list[Found]:
    """Scores of experts, one row per token."""
    x, bias = tensor(inputs), tensor(inputs, 1)
    rows = size_of(x.shape[:-1])
    return [(x.dtype, (rows, bias.shape[0])), *[(bias.dtype, (rows, bias.shape[0]))] * 2]


def _of_rank_4(_: Attrs, inputs: Inputs) -> list[Found]:
    return [(tensor(inputs).dtype, (None,) * 4)]


def _halved(_: Attrs, inputs: Inputs) -> list[Found]:
    """The last axis is half as long."""
    x = tensor(inputs)
    return [(x.dtype, (*x.shape[:-1], dim_floordiv(x.shape[-1], 2)))]


def _swiglu(attrs: Attrs, inputs: Inputs) -> list[Found]:
    return _halved(attrs, inputs) if optional(inputs, 1) is None else same(attrs, inputs)


def _product_of_rows(_: Attrs, inputs: Inputs) -> list[Found]:
    x, weights = tensor(inputs), tensor(inputs, 1)
    return [(x.dtype, (*x.shape[:-1], weights.shape[-1]))]


_SAME = """
    Gelu FastGelu BiasGelu QuickGelu RotaryEmbedding MRotaryEmbedding Inverse Trilu SampleOp GatedAdd ScaledSiLU
    BranchwiseRMSNorm GatedRMSNorm MoE HyperConnectionPostMix BiasAdd BiasSoftmax GroupNorm
"""


def _hashed(attrs: Attrs, inputs: Inputs) -> list[Found]:
    return [(ir.DataType.UINT32 if attrs.get("positive", 1) else _INT32, tensor(inputs).shape)]


def _paths(_: Attrs, __: Inputs) -> list[Found]:
    return [(_INT32, (2, None))]


def _sequences(*ranks: int) -> Formula:
    """Numbers of words, and then scores."""
    return lambda _, __: [(_FLOAT if i else _INT32, (None,) * rank) for i, rank in enumerate(ranks)]


#: In blocks of channels; of their sizes nothing is told.
_BLOCKED = "Conv MaxPool AveragePool GlobalMaxPool GlobalAveragePool Upsample ReorderInput ReorderOutput"

#: Formulas by ``domain::Op``.
TYPES: dict[str, Formula] = {
    **dict.fromkeys((f"com.microsoft::{name}" for name in _SAME.split()), same),
    "com.microsoft::FusedMatMul": _matmul,
    "com.microsoft::TransposeMatMul": _matmul,
    "com.microsoft::FusedGemm": _gemm,
    "com.microsoft::FusedMatMulActivation": _matmul,
    "com.microsoft::GemmFastGelu": _product_of_rows,
    "com.microsoft::BiasSplitGelu": _halved,
    "com.microsoft::SwiGLU": _swiglu,
    "com.microsoft::SkipGroupNorm": _like(0, 0),
    "com.microsoft::MatMulNBits": _quantized_matmul,
    "com.microsoft::MatMulBnb4": _quantized_matmul,
    "com.microsoft::GatherBlockQuantized": _dequantized_rows,
    "com.microsoft::MatMulFpQ4": _open_columns,
    "com.microsoft::GatherPacked": _packed_rows,
    "com.microsoft::SkipLayerNormalization": _normalized,
    "com.microsoft::SkipSimplifiedLayerNormalization": _normalized,
    "com.microsoft::EmbedLayerNormalization": _embedded,
    "com.microsoft::EngramGate": _like(0, 0),
    "com.microsoft::HyperConnectionPreMix": _reduced_streams,
    "com.microsoft::Attention": _attention,
    "com.microsoft::MultiHeadAttention": _multi_head_attention,
    "com.microsoft::DecoderMaskedMultiHeadAttention": _decoder_attention,
    "com.microsoft::GroupQueryAttention": _group_query_attention,
    "com.microsoft::AttnLSTM": _attended_lstm,
    "com.microsoft::LinearAttentionGate": _like(0, 0),
    "com.microsoft::LinearAttention": _linear_attention,
    "com.microsoft::GatedDeltaNet": _gated_delta_net,
    "com.microsoft::CausalConvWithState": _causal_convolution,
    "com.microsoft::VarlenCausalConvWithState": _like(0, 4),
    "com.microsoft::SparseAttention": _like(0, 3, 4),
    "com.microsoft::CDist": _distances,
    "com.microsoft::GridSample": _sampled,
    "com.microsoft::ExpandDims": _expanded,
    "com.microsoft::GatherND": _gathered,
    "com.microsoft::Pad": _padded,
    "com.microsoft::Range": _counted,
    "com.microsoft::Unique": _unique,
    "com.microsoft::UnfoldTensor": _unfolded,
    "com.microsoft::CropAndResize": _cropped,
    "com.microsoft::ConvTransposeWithDynamicPads": _grown,
    "com.microsoft::MaxpoolWithMask": _pooled_with_mask,
    "com.microsoft::WordConvEmbedding": _words,
    "com.microsoft::NGramRepeatBlock": _like(1),
    "com.microsoft::MoEGroupRouter": _routed,
    "com.microsoft::MurmurHash3": _hashed,
    "com.microsoft::DynamicTimeWarping": _paths,
    "com.microsoft::BeamSearch": _sequences(3, 2, 4),
    "com.microsoft::WhisperBeamSearch": _sequences(3, 2, 4),
    "com.microsoft::GreedySearch": _sequences(2),
    "com.microsoft::Sampling": _sequences(2, 2),
    "com.microsoft::SparseToDenseMatMul": lambda _, inputs: [(tensor(inputs, 1).dtype, (None, None))],
    **dict.fromkeys((f"com.microsoft.nchwc::{name}" for name in _BLOCKED.split()), _of_rank_4),
}
