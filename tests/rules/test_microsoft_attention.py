"""Attention and rotary embeddings of onnxruntime's own domain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxgrad
from tests.expressions import check_exact, check_expression
from tests.harness import Case, Runner, close, make_model

rng = np.random.default_rng(7)

# batch, length, keys, heads, channels per head: all different, so that a size says what it is
B, S, L, N, C = 3, 5, 7, 2, 8
H = N * C
#: The sizes that become symbolic in models whose numbers of channels must be known.
OPEN = (B, S, L)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ms(op: str, inputs: list[np.ndarray | None], label: str = "", **attrs: Any) -> Case:
    options = {name: attrs.pop(name) for name in ("outputs", "fixed", "fed", "dynamic", "of") if name in attrs}
    return Case(op, inputs, attrs, **{"domain": "com.microsoft", "label": label, **options})


def check(case: Case, exact: bool = True) -> None:
    check_expression(case, values=1e-5, names=OPEN)
    if exact:
        check_exact(case)


# --- rotary embeddings -----------------------------------------------------------------------------------

positions = np.array([[0, 1, 2, 3, 4], [3, 1, 4, 1, 5], [2, 3, 4, 5, 6]])
half = [a(9, C // 2), a(9, C // 2)]
streams, wide = rng.integers(0, 9, (3, B, S)), [a(9, 8), a(9, 8)]
ROTATIONS = [
    ms("RotaryEmbedding", [a(B, N, S, C), positions, *half]),
    ms("RotaryEmbedding", [a(B, N, S, C), positions, *half], "interleaved", interleaved=1),
    ms("RotaryEmbedding", [a(B, N, S, C), np.array([2]), *half], "offset"),
    ms("RotaryEmbedding", [a(B, S, H), positions, *half], "rank-3"),
    *(
        ms(
            "MRotaryEmbedding",
            [a(B, *shape), streams, *wide],
            f"{len(shape)}-{layout}-{interleaved}",
            mrope_section=sections,
            mrope_layout=layout,
            interleaved=interleaved,
            num_heads=2,
        )
        for shape in ((N, S, 16), (S, 2 * 16))
        for layout, sections, interleaved in ((0, [3, 1, 4], 0), (1, [4, 2, 2], 0), (1, [2, 3, 3], 1))
    ),
    ms(
        "MRotaryEmbedding",
        [a(B, S, 2 * 20), streams, *wide],
        "part",
        mrope_section=[2, 3, 3],
        num_heads=2,
        rotary_embedding_dim=16,
    ),
    ms("RotaryEmbedding", [a(B, S, H), np.array([1]), *half], "rank-3-interleaved", interleaved=1),
    *(
        ms(
            "RotaryEmbedding",
            [a(*shape), positions, a(9, 2), a(9, 2)],
            f"part-of-{len(shape)}-{interleaved}",
            rotary_embedding_dim=4,
            num_heads=N,
            interleaved=interleaved,
        )
        for shape in ((B, N, S, C), (B, S, H))
        for interleaved in (0, 1)
    ),
]


@pytest.mark.parametrize("case", ROTATIONS, ids=lambda case: case.name)
def test_rotary_embedding(case: Case) -> None:
    check(case)


# --- attention ---------------------------------------------------------------------------------


def attention(label: str, more: list[np.ndarray | None] = [], width: int = 3 * H, **attrs: Any) -> Case:  # noqa: B006
    inputs = [a(B, S, 6), 0.4 * a(6, width), 0.3 * a(width), *more]
    return ms("Attention", inputs, label, num_heads=N, **attrs)


some = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], np.int32)
pairs = np.maximum(rng.integers(0, 2, (B, S, S)), np.eye(S, dtype=np.int64)).astype(np.int32)
ends = np.array([2, 3, 5], np.int32)
ends_and_starts = np.array([3, 2, 5, 1, 0, 4], np.int32)
padded = np.array(
    [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], np.int32
)  # first rows see nothing but themselves
ATTENTION = [
    attention("plain"),
    ms("Attention", [a(B, S, 6), 0.4 * a(6, 3 * H)], "no-bias", num_heads=N),
    attention("scale", scale=0.3),
    attention("causal", unidirectional=1),
    attention("causal-filter", unidirectional=1, mask_filter_value=-2.0),
    attention("mask", [some]),
    attention("mask-of-pairs", [pairs]),
    attention("mask-of-ends", [ends], fed=[3]),
    attention("mask-of-ends-and-starts", [ends_and_starts], dynamic=False),
    attention("mask-filter", [some], mask_filter_value=-2.0),
    attention("mask-causal", [padded], unidirectional=1, mask_filter_value=-100.0),
    attention("added", [some, None, a(B, N, S, S)]),
    attention("added-to-all", [None, None, a(1, 1, S, S)]),
    attention("widths", width=2 * H + 2 * N, qkv_hidden_sizes=[H, H, 2 * N]),
    attention("present", outputs=2),
    attention("past", [None, a(2, B, N, L, C)], outputs=2),
    attention("past-causal", [None, a(2, B, N, L, C)], outputs=2, unidirectional=1),
]


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case.name)
def test_attention(case: Case) -> None:
    check(case)


def heads(label: str, more: list[np.ndarray | None] = [], keys: int = L, width: int = 2 * N, **attrs: Any) -> Case:  # noqa: B006
    inputs = [a(B, S, H), a(B, keys, H), a(B, keys, width), *more]
    return ms("MultiHeadAttention", inputs, label, num_heads=N, **attrs)


some_keys = np.array([[1, 1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1]], np.int32)


def past_of(length: int) -> list[np.ndarray]:
    return [a(B, N, length, C), a(B, N, length, C)]


HEADS = [
    heads("plain"),
    heads("bias", [0.3 * a(2 * H + 2 * N)]),
    heads("scale", scale=0.3),
    heads("mask", [None, some_keys]),
    heads("mask-of-ends", [None, np.array([2, 4, 7], np.int32)], fed=[4]),
    heads("mask-of-pairs", [None, np.tile(some_keys[:, None], (1, S, 1))]),
    heads("added", [None, some_keys, a(1, N, S, L)], mask_filter_value=-2.0),
    heads("causal", keys=S, width=H, unidirectional=1),
    heads("present", [0.3 * a(2 * H + 2 * N)], outputs=3),
    heads("past", [None, None, None, a(B, N, L, C), a(B, N, L, C)], keys=S, width=H, outputs=3),
    heads("past-causal", [None] * 3 + [a(B, N, L, C)] * 2, keys=S, width=H, outputs=3, unidirectional=1),
    ms("MultiHeadAttention", [a(B, S, H), a(B, N, L, C), a(B, N, L, C)], "keys-of-rank-4", num_heads=N),
    ms("MultiHeadAttention", [a(B, S, H), *[a(B, N, L, C)] * 2, a(3 * H)], "rank-4-bias", num_heads=N),
    heads("mask-of-ends-and-more", [None, np.array([2, 4, 7, 0, 5, 10, 15, 0, 7, 14, 21], np.int32)], dynamic=False),
    heads("past-mask", [None, np.tile(some_keys, (1, 2))[:, : S + L], None, *past_of(L)], keys=S, width=H, outputs=3),
]


@pytest.mark.parametrize("case", HEADS, ids=lambda case: case.name)
def test_multi_head_attention(case: Case) -> None:
    check(case)


# --- one query at a time, and buffers of keys and values -----------------------------------------------------

M = 9  # length of the buffers
end = np.array([4], np.int32)
some_of_buffer = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], np.int32)


def decoder(label: str, inputs: list[np.ndarray | None], **attrs: Any) -> Case:
    return ms("DecoderMaskedMultiHeadAttention", inputs, label, num_heads=N, **attrs)


def one(*more: np.ndarray | None) -> list[np.ndarray | None]:
    return [a(B, 1, H), a(B, 1, H), a(B, 1, H), *more]


BUFFER = {"past_present_share_buffer": 1, "outputs": 3}
caches = [a(B, N, M, C), a(B, N, M, C)]
DECODER = [
    decoder("buffer", one(None, None, *caches, end), fed=[7], **BUFFER),
    decoder("buffer-mask", one(some_of_buffer, None, *caches, end), fed=[7], **BUFFER),
    decoder("buffer-added", one(None, a(B, N, 1, 5), *caches, end), fed=[7], **BUFFER),
    decoder("buffer-bias", one(None, None, *caches, end, None, None, 0.3 * a(3 * H)), scale=0.4, **BUFFER),
    decoder("cross", [a(B, 1, H), a(B, N, L, C), a(B, N, L, C)]),
    decoder("cross-mask", [a(B, 1, H), a(B, N, L, C), a(B, N, L, C), some_keys], mask_filter_value=-2.0),
    decoder("cross-bias", [a(B, 1, H), a(B, N, L, C), a(B, N, L, C), *[None] * 7, 0.3 * a(3 * H)]),
    ms("MultiHeadAttention", [a(B, S, H), a(B, S, H), a(B, S, H), None, None, None, *caches, np.array([3], np.int32)],
       "buffer", num_heads=N, outputs=3, fed=[8]),
]  # fmt: skip


@pytest.mark.parametrize("case", DECODER, ids=lambda case: case.name)
def test_decoder_attention(case: Case) -> None:
    check(case)


# --- groups of queries that share keys -----------------------------------------------------------------------

QUERIES, SHARED, WIDTH = 4, 2, 16  # rotary embeddings want multiples of 16


def grouped(
    label: str,
    batch: int,
    length: int,
    ends: list[int],
    total: int,
    past: int = 0,
    more: list[np.ndarray | None] = [],  # noqa: B006
    packed: bool = False,
    **attrs: Any,
) -> Case:
    """`ends` are the numbers of keys of each sample, `total` the largest; `past` is the length of the buffer."""
    q, k, v = (0.5 * a(batch, length, heads * WIDTH) for heads in (QUERIES, SHARED, SHARED))
    data: list[np.ndarray | None] = [np.concatenate([q, k, v], axis=-1), None, None] if packed else [q, k, v]
    data += [a(batch, SHARED, past, WIDTH), a(batch, SHARED, past, WIDTH)] if past else [None, None]
    data += [np.array(ends, np.int32) - 1, np.array(total, np.int32), *more]
    options = {"num_heads": QUERIES, "kv_num_heads": SHARED, "outputs": 3, "fed": [5, 6], **attrs}
    return ms("GroupQueryAttention", data, label, **options)


tables = [a(20, WIDTH // 2), a(20, WIDTH // 2)]
places = rng.integers(0, 9, (B, S))  # of which a prompt reads the first only, and goes on from there
GROUPED = [
    grouped("prompt", B, S, [S] * B, S),
    grouped("prompt-padded", B, S, [3, S, 1], S),
    grouped("prompt-packed", B, S, [S] * B, S, packed=True, outputs=1),
    grouped("prompt-rotary", B, S, [S, 2, S], S, more=tables, do_rotary=1),
    grouped("prompt-places", B, S, [S] * B, S, more=[*tables, places], do_rotary=1),
    grouped("prompt-added", B, S, [S] * B, S, more=[None, None, None, a(1, QUERIES, S, S)]),
    grouped("prompt-both-ways", B, S, [S, 4, S], S, causal=0),
    grouped("prompt-buffer", B, S, [3, S, 1], S, M),
    grouped("prompt-buffer-added", B, S, [S] * B, S, M, more=[None, None, None, a(B, 1, S, S)]),
    grouped("decode", B, 1, [7, 4, 6], 7, 6),
    grouped("decode-buffer", B, 1, [7, 4, 6], 7, M),
    grouped("decode-rotary", B, 1, [7, 4, 6], 7, M, more=tables, do_rotary=1),
    grouped("decode-places", B, 1, [7, 4, 6], 7, M, more=[*tables, np.array([[3], [0], [8]])], do_rotary=1),
    grouped("decode-added", B, 1, [7, 4, 6], 7, M, more=[None, None, None, a(B, QUERIES, 1, 7)]),
    grouped("decode-window", B, 1, [7, 4, 6], 7, M, local_window_size=3),
    grouped("decode-packed", B, 1, [7, 4, 6], 7, M, packed=True, more=tables, do_rotary=1, rotary_interleaved=1),
    grouped("grown", 1, S, [S + 4], S + 4, 4),
    grouped("part-of-buffer", 1, S, [S + 2], S + 2, M),
    grouped("window", 1, S, [S + 4], S + 4, 4, local_window_size=2),
    grouped("softcap", 1, S, [S + 4], S + 4, 4, softcap=0.5, scale=0.4),
    grouped("softcap-added", 1, S, [S + 4], S + 4, 4, softcap=0.5, more=[None] * 3 + [a(1, 1, S, S + 4)]),
    grouped("smooth", 1, S, [S + 4], S + 4, 4, smooth_softmax=1),
    grouped("sink", 1, S, [S + 4], S + 4, 4, more=[None] * 4 + [a(QUERIES)]),
    grouped("chunks", B, S, [S, S + 2, S + 3], 12, 12, more=[None] * 9 + [np.array([S] * B, np.int32)]),
    grouped("chunks-rotary", B, S, [S, S + 2, S + 3], 12, 12, do_rotary=1,
            more=[*tables] + [None] * 7 + [np.array([S] * B, np.int32)]),
]  # fmt: skip


@pytest.mark.parametrize("case", GROUPED, ids=lambda case: case.name)
def test_group_query_attention(case: Case) -> None:
    """In float64 the outputs of the buffers, of which the length is read from the node, are left out."""
    check(case, exact=False)
    check_exact(Case(**{**vars(case), "outputs": 1}))


def test_unspecified_rows_of_a_chunk_are_finite() -> None:
    """Rows of a chunk behind its end mean nothing, but must not make gradients of the others NaN."""
    case = grouped("", B, S, [S, S + 2, 3], 12, 12, more=[None] * 9 + [np.array([S, 2, 0], np.int32)])
    model = make_model(case, np.float32)
    feeds = {f"x{i}": x.astype(np.float32) if x.dtype == np.float64 else x for i, x in enumerate(case.inputs)
             if x is not None and i != 16}  # fmt: skip
    ct = np.zeros((B, S, QUERIES * WIDTH), np.float32)
    ct[0], ct[1, :2] = 1, 1
    back = Runner(onnxgrad.vjp(model, "y0", ["x0", "x1", "x3"]), only_runtime=True)({**feeds, "adj_y0": ct})
    assert all(np.isfinite(back[f"adj_x{i}"]).all() for i in (0, 1, 3))
    assert not back["adj_x0"][1, 2:].any()
    assert not back["adj_x1"][1, 2:].any()
    assert not back["adj_x0"][2].any()


# --- samples ---------------------------------------------------------------------------------------------

count = 2
PER_SAMPLE = [
    ms("Attention", [a(count, 2, 4), a(4, 12)], num_heads=2, fixed=[1]),
    ms("MultiHeadAttention", [a(count, 2, 4), a(count, 3, 4), a(count, 3, 4)], num_heads=2, fixed=[1, 2]),
    ms("RotaryEmbedding", [a(count, 2, 4), np.array([1]), a(5, 1), a(5, 1)], fixed=[2, 3]),
    ms("MRotaryEmbedding", [a(count, 2, 4, 16), streams[:, :count, :4], *wide], mrope_section=[3, 3, 2], fixed=[2, 3]),
    Case(**{**vars(grouped("", count, S, [S, 3], S)), "fixed": [1, 2], "fed": (), "outputs": 1}),
    Case(**{**vars(grouped("decode", count, 1, [5, 4], 5, 6, outputs=1)), "fixed": [1, 2, 3, 4], "fed": ()}),
    Case(**{**vars(decoder("", [a(count, 1, H), a(count, N, L, C), a(count, N, L, C)])), "fixed": [1, 2]}),
]


@pytest.mark.parametrize("case", PER_SAMPLE, ids=lambda case: case.name)
def test_per_sample(case: Case) -> None:
    model = make_model(case, np.float32)
    feeds = {"x0": case.inputs[0].astype(np.float32)}  # type: ignore[union-attr]
    per_sample, whole = (
        Runner(onnxgrad.jacobian(model, of="y0", wrt="x0", batched=batched), only_runtime=True)(feeds)["jac_y0_x0"]
        for batched in (True, False)
    )
    behind = whole.ndim - feeds["x0"].ndim
    for n in range(count):
        close(per_sample[n], np.take(whole[n], n, axis=behind - 1), 1e-5, f"sample {n}")


def test_samples_of_keys_and_values() -> None:
    """They lie on axis 1 of the second output, behind the axis of keys and values."""
    model = make_model(ms("Attention", [a(count, 2, 4), a(4, 12)], num_heads=2, fixed=[1], outputs=2), np.float32)
    onnxgrad.jacobian(model, of="y0", wrt="x0", batched=True)
    with pytest.raises(onnxgrad.MixedSamplesError, match="axis 1"):
        onnxgrad.jacobian(model, of="y1", wrt="x0", batched=True)


# --- refusals --------------------------------------------------------------------------------------------

REFUSED = [
    (attention("", do_rotary=1), "rotary"),
    (attention("", [np.ones((B, 1, S, S), np.int32)]), "a mask of shape"),
    (attention("", [None, None, None, np.array([1], np.int32)]), "in place on a buffer"),
    (heads("", unidirectional=1), "different lengths"),
    (heads("", [None, np.ones(2 * B + 1, np.int32)]), "a mask of shape"),
    (heads("", keys=S, width=H, outputs=4), "scores as an output"),
    (heads("", [None] * 3 + [*caches, end], keys=S, width=H, unidirectional=1), "over a buffer"),
    (decoder("", one(None, None, *caches, end, None, np.zeros((B, 1, M), np.int32)), **BUFFER), "beams"),
    (grouped("", 1, 1, [5], 5, 6, sliding_window_cache=1, local_window_size=3), "a window only"),
    (grouped("", 1, 1, [5], 5, 6, qk_output=1, outputs=4), "scores as an output"),
    (grouped("", 1, 1, [5], 5, 6, more=[None] * 7 + [a(WIDTH), a(WIDTH)]), "normalized queries"),
    (ms("MRotaryEmbedding", [a(B, N, S, 16), streams, *wide], mrope_section=[8, 0, 0], scale=2.0), "a scale"),
    (ms("MultiHeadAttention", [a(B, S, N, 3, C)], num_heads=N), "in one tensor"),
    (ms("MultiHeadAttention", [a(B, S, H), a(B, L, N, 2, C)], num_heads=N), "in one tensor"),
    (ms("RotaryEmbedding", [a(B, N, S, C), positions, *half], scale=2.0), "scale"),
    (ms("RotaryEmbedding", [a(B, N, S, C), positions, *half], is_packed_batching=1), "packed"),
]


@pytest.mark.parametrize(("case", "match"), REFUSED, ids=lambda v: v.op if isinstance(v, Case) else v.split()[-1])
def test_refusal(case: Case, match: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=match):
        onnxgrad.vjp(make_model(case, np.float32), of="y0", wrt="x0")


def test_unknown_channels() -> None:
    """What takes channels apart needs their number."""
    for case in (attention(""), heads("")):
        with pytest.raises(onnxgrad.NotDifferentiableError, match="not known before run time"):
            onnxgrad.vjp(make_model(case, np.float32, dynamic=True), of="y0", wrt="x0")
