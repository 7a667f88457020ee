"""Older and rarer operators of onnxruntime's own domain: some that ONNX has by now, crops and embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_sub
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.contributed import DOMAIN, data_first, fixed, given, own, plus, refused
from onnxgrad.rules.registry import not_differentiable, vjp

_INT64 = ir.DataType.INT64

# --- what ONNX has by now --------------------------------------------------------------------------------


def _pad(op: Builder, node: Node) -> Tensor:
    """As in ONNX, with the number to fill in perhaps as a vector of one."""
    fill = node.input(2)
    pads = op.Reshape(given(node, 1), [-1])
    return op.Pad(node.x, pads, None if fill is None else op.reshape(fill, ()), mode=node.attr("mode", "constant"))


def _padded_axes(node: Node) -> Sequence[int]:
    pads = given(node, 1).ints
    if pads is None:
        raise samples.Mixed("the axes that it pads are not known before run time")
    return [i % node.x.rank for i, n in enumerate(pads) if n]


def _range(op: Builder, node: Node) -> Tensor:
    """``start + i · delta``."""
    start, delta = node.x, node.input(2)
    place = op.cast(op.range(node.y.shape[0]), start.dtype)
    return op.reshape(start, ()) + (place if delta is None else place * op.reshape(delta, ()))


@vjp("Unique", domain=DOMAIN, versions=(), wrt=(0,), remark="of equal elements, the first gets the cotangent")
def unique(op: Builder, node: Node, ct: Tensor, *_: Tensor | None) -> Tensor:
    """``y[index[i]] = x[i]``: the cotangent of an element goes to the first place that it comes from."""
    index, count = node.outputs[1], node.x.shape[0]
    assert index is not None
    most = op.spread(op.cast(op.size(count), _INT64), node.y.shape)
    first = op.ScatterElements(most, index, op.range(count), axis=0, reduction="min")
    mine = op.Equal(op.Gather(first, index), op.range(count))
    return op.Where(mine, op.Gather(ct, index, axis=ct.rank - 1), 0)


own("ExpandDims", lambda op, node: op.reshape(node.x, node.y.shape), wrt=(0,), follow=samples.reshaped)
own("SampleOp", lambda op, node: op.Identity(node.x), follow=samples.aligned)
own("GatherND", lambda op, node: op.GatherND(node.x, op.cast(given(node, 1), _INT64)), wrt=(0,))
own("Pad", _pad, wrt=(0, 2), follow=samples.along_data(_padded_axes))
own("Range", _range, wrt=(0, 2), zero={1: "it decides only how many elements there are"})

# --- windows and crops -------------------------------------------------------------------------------------


def _unfold(op: Builder, node: Node) -> Tensor:
    """Windows along one axis, ``y[…, i, …, j] = x[…, i · step + j, …]``."""
    x, rank = node.x, node.x.rank
    axis = node.attr("dim", -1) % rank
    starts = op.range(node.y.shape[axis]) * node.attr("step", 1)
    index = op.unsqueeze(starts, [-1]) + op.range(node.attr("size"))
    windows = op.Gather(x, index, axis=axis)
    return op.Transpose(windows, perm=[i for i in range(rank + 1) if i != axis + 1] + [axis + 1])


def _hats(op: Builder, node: Node, axis: int) -> tuple[Tensor, Tensor]:
    """For one axis of the image: the weight of each row in each row of each crop, and which of these lie inside.

    The places run from one edge of the box to the other; of a single one it is the middle.
    """
    x, boxes, sizes = node.x, given(node, 1), given(node, 3).ints
    if sizes is None:
        raise Refusal("the size of the crops is not known before run time")
    count, size = sizes[axis], x.shape[2 + axis]
    start, end = (op.Gather(boxes, op.constant([i], _INT64), axis=1) for i in (axis, axis + 2))
    last = op.cast(op.size(size) - 1, x.dtype)
    part = op.cast(op.range(count), x.dtype) * (1 / (count - 1)) if count > 1 else op.constant([0.5], x.dtype)
    place = (start + (end - start) * part) * last
    inside = op.And(place >= 0, place <= last)
    grid = op.cast(op.range(size), x.dtype)
    if node.attr("mode", "bilinear") == "nearest":
        return op.cast(op.Equal(op.unsqueeze(op.Floor(place + 0.5), [-1]), grid), x.dtype), inside
    return op.Relu(1.0 - op.Abs(op.unsqueeze(place, [-1]) - grid)), inside


def _crop_and_resize(op: Builder, node: Node) -> Tensor:
    """``W X Wᵀ`` with the weights of rows and columns; outside of the image a given number."""
    (rows, in_rows), (columns, in_columns) = (_hats(op, node, axis) for axis in (0, 1))
    images = op.Gather(node.x, given(node, 2), axis=0)
    crops = op.MatMul(op.MatMul(op.unsqueeze(rows, [-3]), images), op.swap(op.unsqueeze(columns, [-3])))
    inside = op.And(op.unsqueeze(in_rows, [-3, -1]), op.unsqueeze(in_columns, [-3, -2]))
    return op.Where(inside, crops, op.constant(node.attr("extrapolation_value", 0.0), crops.dtype))


def _conv_transpose(op: Builder, node: Node) -> Tensor:
    """A transposed convolution without padding, and then cut at both ends of each axis."""
    x, pads, rank = node.x, given(node, 2), node.x.rank - 2
    if node.attr("auto_pad", "NOTSET") != "NOTSET":
        raise Refusal("automatic padding beside that of an input is not known")
    names = ("dilations", "group", "kernel_shape", "output_padding", "strides")
    whole = op.ConvTranspose(x, given(node, 1), **{name: node.attr(name) for name in names})
    starts, cut = op.emit("Split", pads, [rank, rank], outputs=2, axis=0)
    ends = op.ints(whole.shape[2:]) - cut
    bias = node.input(3)
    y = op.Slice(whole, starts, ends, list(range(2, rank + 2)), shape=node.y.shape)
    return plus(y, None if bias is None else op.reshape(bias, (bias.shape[0], *[1] * rank)))


own("UnfoldTensor", _unfold, wrt=(0,), follow=samples.along(lambda node: [node.attr("dim", -1)]))
own("CropAndResize", _crop_and_resize, wrt=(0, 1))
own("ConvTransposeWithDynamicPads", _conv_transpose, wrt=(0, 1, 3), follow=data_first(0))

# --- words -------------------------------------------------------------------------------------------------


@vjp("NGramRepeatBlock", domain=DOMAIN, versions=(), wrt=(1,), follow=samples.first_axis)
def no_repetition(op: Builder, node: Node, ct: Tensor) -> tuple[None, Tensor]:
    """Scores pass, but those of words that would repeat, which become minus infinity."""
    return None, op.Where(op.IsInf(node.y), 0, ct)


def _word_embedding(op: Builder, node: Node) -> Tensor:
    """The maximum over all windows of a word's letters of ``tanh(W window + b)``, ``(words, filters)``.

    Letters are rows of a table; 0 is none. A window may go beyond the end of a word only if the word is shorter.
    """
    words, kernel, bias, table = (given(node, i) for i in range(4))
    filters, (window, size) = kernel.shape[0], (fixed(d, "letters and channels") for d in kernel.shape[2:])
    places = dim_sub(words.shape[1], window - 1)
    index = op.unsqueeze(op.range(places), [-1]) + op.range(window)
    letters = op.Gather(table, op.Gather(words, index, axis=1))
    windows = op.reshape(letters, (words.shape[0], places, window * size))
    scores = op.Tanh(windows @ op.swap(op.reshape(kernel, (filters, window * size))) + bias)
    length = op.sum(op.cast(op.Greater(words, 0), _INT64), [-1])
    beyond = op.range(places) + window > op.Max(length, op.constant(window, _INT64))
    return op.ReduceMax(op.Where(op.unsqueeze(beyond, [-1]), -2, scores), [-2], keepdims=0)


own("WordConvEmbedding", _word_embedding, wrt=(1, 2, 3))

_DECODING = "it decodes: it chooses words one by one, and its outputs are their numbers"
refused(
    "BeamSearch GreedySearch Sampling WhisperBeamSearch",
    _DECODING,
    "differentiate the decoder that it holds, as a model of its own",
)
refused("SparseAttention", "its kernel overwrites the keys and values of the past, which a derivative needs")
refused("SparseToDenseMatMul", "its input is a sparse tensor", "write the matrix as a dense tensor")
refused("MaxpoolWithMask", "its kernel stops each row of a window at the first masked element, which is no maximum")
not_differentiable("DynamicTimeWarping", "its output is a path of positions", domain=DOMAIN, versions=())
not_differentiable("MurmurHash3", "its output is an integer", domain=DOMAIN, versions=())
