"""Sizes that ONNX's inference leaves open where they are symbolic: formulas in terms of the sizes of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxgrad.graph.dims import Dim, Shape, broadcast, dim_add, dim_div, dim_floordiv, dim_mul, dim_sub, size_of
from onnxgrad.graph.equation import sizes_of, terms_of
from onnxgrad.graph.operands import Attrs, Inputs, Partial, elements_of, elements_or, positive_axes, shape_of

#: ``f(attributes, inputs, what ONNX found)`` gives the shape of the first output, or None.
ShapeFormula = Callable[[Attrs, Inputs, Partial], Partial]


def _window(attrs: Attrs, inputs: Inputs, _: object) -> Partial:
    """Convolution and pooling: ``floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1``."""
    x = shape_of(inputs)
    spatial = len(x) - 2
    weight = shape_of(inputs, 1) if len(inputs) > 1 and inputs[1] is not None else None
    kernel = attrs.get("kernel_shape") or (weight[2:] if weight else None)
    channels = weight[0] if weight else x[1]
    if kernel is None:
        return None
    strides = attrs.get("strides") or [1] * spatial
    dilations = attrs.get("dilations") or [1] * spatial
    auto_pad = attrs.get("auto_pad", "NOTSET")
    pads = attrs.get("pads") or [0] * (2 * spatial)
    dims: list[Dim | None] = []
    for i, size in enumerate(x[2:]):
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            dims.append(dim_floordiv(dim_add(size, strides[i] - 1), strides[i]))
        elif attrs.get("ceil_mode", 0) and strides[i] != 1:
            dims.append(None)  # the last window may be dropped, depending on the size
        else:
            reach = dim_add(dim_mul(dilations[i], dim_sub(kernel[i], 1)), 1)
            padding = 0 if auto_pad == "VALID" else pads[i] + pads[i + spatial]
            dims.append(dim_add(dim_floordiv(dim_sub(dim_add(size, padding), reach), strides[i]), 1))
    return (x[0], channels, *dims)


def _transformed(attrs: Attrs, inputs: Inputs, _: object) -> Partial:
    """`DFT`: the length along the axis (an attribute before opset 20), or the lower half of the frequencies."""
    x, inverse, onesided = shape_of(inputs), attrs.get("inverse", 0), attrs.get("onesided", 0)
    given, parts = len(inputs) > 1 and inputs[1] is not None, 1 if inverse and onesided else 2
    axis = elements_or(inputs, 2, [attrs.get("axis", -2)])
    if axis is None or not isinstance(axis[0], int):
        return (*(None if given or onesided else d for d in x[:-1]), parts)
    (n,) = elements_or(inputs, 1, [x[axis[0]]]) or (None,)  # type: ignore[list-item]
    if onesided and inverse:
        n = n if given else dim_mul(2, dim_sub(x[axis[0]], 1))
    elif onesided and n is not None:
        n = dim_add(dim_floordiv(n, 2), 1)
    sizes: list[Dim | None] = [*x[:-1], parts]
    sizes[axis[0]] = n
    return tuple(sizes)


def _frames(attrs: Attrs, inputs: Inputs, _: object) -> Partial:
    """`STFT`: the frames, and the frequencies of each."""
    batch, n, _ = shape_of(inputs)
    window = shape_of(inputs, 2) if len(inputs) > 2 and inputs[2] is not None else None
    (length,) = window or elements_or(inputs, 3, [-1]) or (None,)
    step = elements_of(inputs, 1)
    if length is None:
        return (batch, None, None, 2)
    length = n if length == -1 else length
    count = None
    if step is not None and isinstance(step[0], int):
        count = dim_add(dim_floordiv(dim_sub(n, length), step[0]), 1)
    return (batch, count, dim_add(dim_floordiv(length, 2), 1) if attrs.get("onesided", 1) else length, 2)


def _transposed_window(attrs: Attrs, inputs: Inputs, found: Partial) -> Any:
    x, weight = shape_of(inputs), shape_of(inputs, 1)
    spatial = len(x) - 2
    if attrs.get("output_shape"):
        return (x[0], dim_mul(weight[1], attrs.get("group", 1)), *attrs["output_shape"][-spatial:])
    strides = attrs.get("strides") or [1] * spatial
    dilations = attrs.get("dilations") or [1] * spatial
    pads = attrs.get("pads") or [0] * (2 * spatial)
    extra = attrs.get("output_padding") or [0] * spatial
    kernel = attrs.get("kernel_shape") or weight[2:]
    same = attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    dims = []
    for i, size in enumerate(x[2:]):
        reach = dim_add(dim_mul(dilations[i], dim_sub(kernel[i], 1)), 1)
        full = dim_add(dim_mul(strides[i], dim_sub(size, 1)), extra[i], reach, -(pads[i] + pads[i + spatial]))
        cropped = dim_mul(size, strides[i])  # not padded where that would be more than there is
        beyond = dim_sub(full, cropped)
        dims.append(cropped if same and not (isinstance(beyond, int) and beyond < 0) else full)
    return (x[0], dim_mul(weight[1], attrs.get("group", 1)), *dims)


def _unpooled(attrs: Attrs, inputs: Inputs, _: object) -> Partial:
    x = shape_of(inputs)
    spatial = len(x) - 2
    if len(inputs) > 2 and inputs[2] is not None:
        return elements_of(inputs, 2) or (*x[:2], *[None] * spatial)
    strides = attrs.get("strides") or [1] * spatial
    pads = attrs.get("pads") or [0] * (2 * spatial)
    dims = [
        dim_add(dim_mul(strides[i], dim_sub(size, 1)), attrs["kernel_shape"][i], -(pads[i] + pads[i + spatial]))
        for i, size in enumerate(x[2:])
    ]
    return (*x[:2], *dims)


def _reshape(attrs: Attrs, inputs: Inputs, _: object) -> Partial:
    x, target = shape_of(inputs), elements_of(inputs, 1)
    if target is None:
        return _of_rank(inputs, 1)
    dims = [x[i] if d == 0 and not attrs.get("allowzero", 0) else d for i, d in enumerate(target)]
    if -1 not in dims:
        return tuple(dims)
    return tuple(dim_div(size_of(x), size_of(d for d in dims if d != -1)) if d == -1 else d for d in dims)


def _of_rank(inputs: Inputs, index: int, least: int = 0) -> Partial:
    """Return a shape of which only the rank is known: the number of elements of an input, or `least`."""
    (count,) = shape_of(inputs, index)
    return (None,) * max(count, least) if isinstance(count, int) else None


def _flatten(attrs: Attrs, inputs: Inputs, _: object) -> Shape:
    x = shape_of(inputs)
    axis = attrs.get("axis", 1)
    axis += len(x) if axis < 0 else 0
    return size_of(x[:axis]), size_of(x[axis:])


def _slice(_: Attrs, inputs: Inputs, found: Partial) -> Partial:
    x, starts, ends = shape_of(inputs), elements_of(inputs, 1), elements_of(inputs, 2)
    if starts is None or ends is None:
        return None
    axes = elements_or(inputs, 3, range(len(starts)))
    steps = elements_or(inputs, 4, [1] * len(starts))
    if axes is None or steps is None:
        return None
    dims = list(found or [None] * len(x)) if found else list[Dim | None](x)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        assert isinstance(axis, int)
        size = x[axis]
        if dims[axis] is None:
            dims[axis] = _sliced(size, start, end, step)
    return tuple(dims)


_FAR = 2**31 - 1


def _sliced(size: Dim, start: Dim, end: Dim, step: Dim) -> Dim | None:
    """Size of one sliced axis where no clamping is in question."""
    if step == -1:
        whole = start in (-1, dim_sub(size, 1)) or (isinstance(start, int) and start >= _FAR)
        return size if whole and isinstance(end, int) and end <= -_FAR else None
    if step != 1:
        return None
    to_end = end == size or (isinstance(end, int) and end >= _FAR)
    if isinstance(start, int) and start >= 0 and (to_end or (isinstance(end, int) and end < 0)):
        return dim_sub(dim_add(size, 0 if to_end else end), start)
    return end if start == 0 and isinstance(end, str) and dim_sub(size, end) == 0 else None


def _concat(attrs: Attrs, inputs: Inputs, found: Partial) -> tuple[Dim | None, ...]:
    shapes = [t.shape for t in inputs if t is not None]
    axis = attrs["axis"] % len(shapes[0])
    dims = list(found or shapes[0])
    for i, dim in enumerate(dims):
        if dim is None and i != axis:
            dims[i] = next((s[i] for s in shapes if isinstance(s[i], int)), shapes[0][i])
    dims[axis] = dim_add(*(s[axis] for s in shapes))
    return tuple(dims)


def _pad(_: Attrs, inputs: Inputs, found: object) -> Partial:
    x, pads = shape_of(inputs), elements_of(inputs, 1)
    axes = elements_or(inputs, 3, range(len(x)))
    if axes is None:
        return (None,) * len(x)
    if pads is None:
        return tuple(None if i in positive_axes(axes, len(x)) else d for i, d in enumerate(x))  # type: ignore[arg-type]
    dims = list(x)
    for i, axis in enumerate(axes):
        assert isinstance(axis, int)
        dims[axis] = dim_add(dims[axis], pads[i], pads[i + len(axes)])
    return tuple(dims)


def _split(attrs: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...]:
    """Equal parts, where the number divides the size; else their sizes are not known before run time."""
    x, parts = shape_of(inputs), attrs.get("num_outputs")
    part = [None if parts is None else dim_div(d, parts) for d in x]
    return tuple(part[i] if i == attrs.get("axis", 0) % len(x) else d for i, d in enumerate(x))


def _center_crop_pad(attrs: Attrs, inputs: Inputs, found: object) -> tuple[Dim | None, ...]:
    x, target = shape_of(inputs), elements_of(inputs, 1)
    dims = list[Dim | None](x)
    for i, axis in enumerate(positive_axes(attrs.get("axes", range(len(x))), len(x))):
        dims[axis] = None if target is None else target[i]
    return tuple(dims)


def _gather_nd(attrs: Attrs, inputs: Inputs, found: object) -> Shape | None:
    x, index, batch = shape_of(inputs), shape_of(inputs, 1), attrs.get("batch_dims", 0)
    depth = index[-1]
    return (*index[:-1], *x[batch + depth :]) if isinstance(depth, int) else None


def _rank_changed(sign: int) -> ShapeFormula:
    """`Squeeze` and `Unsqueeze` by axes that are not known before run time: their number decides the rank."""

    def formula(_: Attrs, inputs: Inputs, found: object) -> Partial:
        count = shape_of(inputs, 1)[0] if len(inputs) > 1 else None
        return (None,) * (len(shape_of(inputs)) + sign * count) if isinstance(count, int) else None

    return formula


def _tile(_: Attrs, inputs: Inputs, found: object) -> Partial:
    repeats = elements_of(inputs, 1)
    return None if repeats is None else tuple(map(dim_mul, shape_of(inputs), repeats))


def _expand(_: Attrs, inputs: Inputs, found: object) -> Partial:
    target = elements_of(inputs, 1)
    if target is not None:
        return broadcast(shape_of(inputs), target)
    return _of_rank(inputs, 1, len(shape_of(inputs)))


def _constant_of_shape(_: Attrs, inputs: Inputs, found: object) -> Partial:
    return elements_of(inputs, 0)


def _resize(attrs: Attrs, inputs: Inputs, found: object) -> Partial:
    x = shape_of(inputs)
    axes = positive_axes(attrs.get("axes") or range(len(x)), len(x))
    sizes = elements_of(inputs, 3)
    scales = inputs[2].const if len(inputs) > 2 and inputs[2] is not None else None
    result: list[Dim | None] = list(x)
    if sizes is not None and len(sizes) == len(axes) and attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch":
        targets: Sequence[Dim | None] = sizes
    elif scales is not None and len(scales) == len(axes):
        targets = [_scaled(x[axis], float(scale)) for axis, scale in zip(axes, scales, strict=True)]
    else:
        return None
    for axis, size in zip(axes, targets, strict=True):
        result[axis] = size
    return tuple(result)


def _scaled(size: Dim, scale: float) -> Dim | None:
    """``floor(size * scale)``, or None where that depends on rounding (onnxruntime multiplies in float32)."""
    p, q = scale.as_integer_ratio()
    if isinstance(size, int):
        exact = size * p // q
        return exact if exact == int(np.float32(size) * np.float32(scale)) else None
    return dim_floordiv(dim_mul(size, p), q) if p < 4096 else None


def _blocks(attrs: Attrs, inputs: Inputs, found: object) -> Shape:
    n, c, h, w = shape_of(inputs)
    b = attrs["blocksize"]
    return n, dim_floordiv(c, b * b), dim_mul(h, b), dim_mul(w, b)


def _unblocks(attrs: Attrs, inputs: Inputs, found: object) -> Shape:
    n, c, h, w = shape_of(inputs)
    b = attrs["blocksize"]
    return n, dim_mul(c, b * b), dim_floordiv(h, b), dim_floordiv(w, b)


def _einsum(attrs: Attrs, inputs: Inputs, found: object) -> Shape:
    shapes = [shape_of(inputs, i) for i in range(len(inputs))]
    terms, output = terms_of(attrs["equation"], [len(s) for s in shapes])
    sizes = sizes_of(terms, shapes)
    return tuple(sizes[letter] for letter in output)


def _reduced(attrs: Attrs, inputs: Inputs, found: object) -> Partial:
    """A reduction over axes that are not known before run time: its rank, if it follows from their number."""
    x, axes = shape_of(inputs), inputs[1] if len(inputs) > 1 else None
    if axes is None:
        return None
    if attrs.get("keepdims", 1):
        return tuple(1 if d == 1 else None for d in x)
    count = axes.shape[0] if axes.rank else 1
    return (None,) * (len(x) - count) if isinstance(count, int) and count else None


def _broadcast(_: Attrs, inputs: Inputs, found: object) -> Shape:
    return broadcast(*(t.shape for t in inputs if t is not None))


def _matmul(_: Attrs, inputs: Inputs, found: object) -> Shape:
    a, b = shape_of(inputs), shape_of(inputs, 1)
    batch = broadcast(a[:-2], b[:-2])
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


#: Operators that act on each element alone, with ONNX's broadcasting among their inputs.
POINTWISE = frozenset(
    """Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu
    Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul
    Neg Not Or Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh
    ThresholdedRelu Where Xor""".split()
)

REDUCTIONS = """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare""".split()

SHAPES: dict[str, ShapeFormula] = {
    **dict.fromkeys(POINTWISE, _broadcast),
    "MatMul": _matmul,
    "Einsum": _einsum,
    **dict.fromkeys(REDUCTIONS, _reduced),
    "PRelu": lambda attrs, inputs, found: shape_of(inputs),
    "Conv": _window,
    "ConvInteger": _window,
    "QLinearConv": lambda attrs, inputs, found: _window(attrs, (inputs[0], inputs[3]), found),
    "MaxPool": _window,
    "AveragePool": _window,
    "LpPool": _window,
    "ConvTranspose": _transposed_window,
    "MaxUnpool": _unpooled,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "Concat": _concat,
    "Pad": _pad,
    "Split": _split,
    "CenterCropPad": _center_crop_pad,
    "GatherND": _gather_nd,
    "Squeeze": _rank_changed(-1),
    "Unsqueeze": _rank_changed(1),
    "Tile": _tile,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Resize": _resize,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _unblocks,
    "DFT": _transformed,
    "STFT": _frames,
    "DeformConv": lambda attrs, inputs, found: (
        shape_of(inputs)[0],
        shape_of(inputs, 1)[0],
        *shape_of(inputs, 2)[2:],
    ),
}
