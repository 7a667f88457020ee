"""PyTorch's autograd as a second oracle: for every operator that PyTorch has too, the same derivatives.

Each entry is a node and the PyTorch function that equals it. Outputs, vector-Jacobian products, Jacobian-vector
products and the products of the second derivative are compared in float64 at one point. Points on kinks are compared in
the first order: docs/kinks.md says that PyTorch's choice is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

import onnxgrad
from tests.harness import Case, Runner, close, make_model

#: Two ways to the same number in float64, differing in rounding only.
ROUNDING = 1e-11
#: The same where ONNX has attributes, or the kernel of the node itself constants, in float32.
FLOAT32 = 1e-6

Function = Callable[..., "Tensor | Sequence[Tensor]"]


@dataclass
class Twin:
    """A node, and the PyTorch function of all its inputs (absent ones are None) that equals it.

    Attributes:
        case: the node and the point.
        function: gives the outputs that are differentiated, or the only one.
        second: whether the second order is compared: not where PyTorch has none, nor on kinks.
        rtol: relative tolerance, wider only for kernels that compute in float32 inside.
    """

    case: Case
    function: Function
    second: bool = True
    rtol: float = ROUNDING


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.abs(floats(*shape, seed=seed)) + 0.2


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def twin(
    op: str, function: Function, *inputs: Any, second: bool = True, rtol: float = ROUNDING, **options: Any
) -> Twin:
    attrs = options.pop("attrs", {})
    label = options.pop("label", ",".join(f"{k}={v}" for k, v in attrs.items())).replace(" ", "")
    arrays = [np.asarray(x, np.float64) if isinstance(x, (float, list)) else x for x in inputs]
    return Twin(Case(op, arrays, attrs, label=label, **options), function, second, rtol)


X = floats(2, 3)
Y = floats(2, 3, seed=1)
ROW, COLUMN = floats(3, seed=2), floats(2, 1, seed=3)
CUBE = floats(2, 3, 4)
IMAGE = floats(2, 3, 5, 6)

# --- elementwise ----------------------------------------------------------------------------------

ELEMENTWISE = [
    *(twin(op, getattr(torch, op.lower()), X) for op in "Neg Abs Exp Sin Cos Tan Sinh Cosh Tanh Sigmoid Erf".split()),
    *(twin(op, getattr(torch, op.lower()), positive(2, 3)) for op in "Sqrt Log Reciprocal".split()),
    *(twin(op, getattr(torch, op.lower()), X / 4) for op in "Asin Acos Atan Asinh Atanh".split()),
    twin("Acosh", torch.acosh, 1 + positive(2, 3)),
    *(twin(op, getattr(F, op.lower()), X) for op in "Relu Softplus Softsign Mish".split()),
    twin("Selu", F.selu, X, rtol=FLOAT32),
    twin("HardSwish", F.hardswish, 3 * X, rtol=FLOAT32),
    twin("HardSigmoid", F.hardsigmoid, 3 * X, attrs={"alpha": 1 / 6}, label="sixth", second=False, rtol=FLOAT32),
    *(twin("LeakyRelu", lambda x, a=a: F.leaky_relu(x, a), X, attrs={"alpha": a}) for a in (0.25, 0.0, 1.5)),
    *(twin("Elu", lambda x, a=a: F.elu(x, a), X, attrs={"alpha": a}) for a in (1.0, 0.5)),
    *(twin("Celu", lambda x, a=a: F.celu(x, a), X, attrs={"alpha": a}, opset=28) for a in (1.0, 0.5, 2.0)),
    twin("ThresholdedRelu", lambda x: F.threshold(x, 0.25, 0.0), X, attrs={"alpha": 0.25}),
    twin("Shrink", lambda x: F.softshrink(x, 0.25), X, attrs={"lambd": 0.25, "bias": 0.25}, rtol=FLOAT32),
    twin("Shrink", lambda x: F.hardshrink(x, 0.25), X, attrs={"lambd": 0.25, "bias": 0.0}, rtol=FLOAT32),
    twin("Gelu", F.gelu, X),
    twin("Gelu", lambda x: F.gelu(x, approximate="tanh"), X, attrs={"approximate": "tanh"}, rtol=FLOAT32),
    twin("Swish", F.silu, X, opset=24),
    twin("Swish", lambda x: x * torch.sigmoid(1.5 * x), X, attrs={"alpha": 1.5}, opset=24),
    twin("PRelu", F.prelu, X, ROW, label="row"),
    twin("PRelu", lambda x, s: torch.where(x > 0, x, s * x), X, COLUMN, label="column"),
    *(
        twin(op, getattr(torch, op.lower()), a, b, label=label)
        for op in "Add Sub Mul Div".split()
        for a, b, label in ((X, Y, "same"), (X, ROW, "row"), (COLUMN, ROW, "outer"), (ROW, X, "row-first"))
    ),
    twin("Pow", torch.pow, positive(2, 3), ROW),
    *(twin("Pow", torch.pow, X, np.array(e), fixed=[1], label=f"{e}") for e in (0.0, 1.0, 2.0, 3.0, -1.0)),
    twin("Pow", torch.pow, X, ints(2, 3, 0), label="integers"),
    twin("Mod", torch.fmod, X, ROW, attrs={"fmod": 1}),
    twin("Mod", torch.remainder, X, ROW, opset=28, label="floored"),
    twin("Max", torch.maximum, X, ROW),
    twin("Min", torch.minimum, X, ROW),
    twin("Sum", lambda *x: sum(x), X, ROW, COLUMN),
    twin("Mean", lambda *x: sum(x) / 3, X, ROW, COLUMN),
    twin("Clip", lambda x, a, b: torch.clamp(x, a, b), X, -0.5, 0.5),
    twin("Clip", lambda x, a: torch.clamp(x, min=a), X, -0.5, label="low"),
    twin("Clip", lambda x, a, b: torch.clamp(x, a, b), X, 0.5, -0.5, label="crossed"),
    twin("Where", torch.where, X > 0, X, ROW),
    twin("Identity", lambda x: x, X),
    twin("Dropout", lambda x: x, X),
]

# --- reductions -----------------------------------------------------------------------------------


def _axes(axes: Tensor | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(axes.tolist())


def over(function: Callable[..., Tensor], keep: bool = True) -> Function:
    def call(x: Tensor, axes: Tensor | None = None) -> Tensor:
        return function(x, _axes(axes) or tuple(range(x.ndim)), keep)

    return call


def product(x: Tensor, axes: Tensor) -> Tensor:
    for axis in axes.tolist():
        x = torch.prod(x, axis, keepdim=True)
    return x


REDUCTIONS: dict[str, Function] = {
    "ReduceSum": lambda x, a, k: torch.sum(x, a, k),
    "ReduceMean": lambda x, a, k: torch.mean(x, a, k),
    "ReduceL1": lambda x, a, k: torch.linalg.vector_norm(x, 1, a, k),
    "ReduceL2": lambda x, a, k: torch.linalg.vector_norm(x, 2, a, k),
    "ReduceSumSquare": lambda x, a, k: torch.sum(x * x, a, k),
    "ReduceLogSumExp": lambda x, a, k: torch.logsumexp(x, a, k),
    "ReduceMax": lambda x, a, k: torch.amax(x, a, k),
    "ReduceMin": lambda x, a, k: torch.amin(x, a, k),
}
REDUCING = [
    *(
        twin(op, over(f, bool(keep)), CUBE, *axes, attrs={"keepdims": keep}, label=f"{label},keepdims={keep}")
        for op, f in REDUCTIONS.items()
        for keep in (0, 1)
        for axes, label in (((), "all"), ((ints(1),), "1"), ((ints(-1, 0),), "-1,0"))
    ),
    twin("ReduceLogSum", over(lambda x, a, k: torch.log(torch.sum(x, a, k))), positive(2, 3), ints(1)),
    twin("ReduceProd", product, CUBE, ints(1)),
    twin("ReduceProd", product, CUBE, ints(0, 2), label="two"),
    twin("ReduceProd", product, [[0.0, 2.0, 3.0], [0.0, 0.0, 1.0]], ints(1), label="zeros"),
    twin("CumSum", lambda x, a: torch.cumsum(x, 1), CUBE, np.array(1)),
    twin("CumSum", lambda x, a: x.flip(2).cumsum(2).flip(2), CUBE, np.array(-1), attrs={"reverse": 1}),
    twin("CumProd", lambda x, a: torch.cumprod(x, 1), CUBE, np.array(1), opset=26),
    twin("CumProd", lambda x, a: torch.cumprod(x, 0), [0.0, 2.0, 0.0, 3.0], np.array(0), opset=26, label="zeros"),
]

# --- products of matrices ----------------------------------------------------------------------------

MATRICES = [
    *(
        twin("MatMul", torch.matmul, floats(*a), floats(*b, seed=1), label=f"{a}x{b}".replace(" ", ""))
        for a, b in (
            *(((2, 3), (3, 4)), ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((5, 2, 3), (3, 4))),
            *(((2, 3), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 1)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,))),
        )
    ),
    *(
        twin(
            "Gemm",
            lambda a, b, c, s=s, t=t: 0.5 * (a.T if s else a) @ (b.T if t else b) + 2 * c,
            *(floats(*((3, 2) if s else (2, 3))), floats(*((4, 3) if t else (3, 4)), seed=1), floats(*c, seed=2)),
            attrs={"transA": s, "transB": t, "alpha": 0.5, "beta": 2.0},
            label=f"{s}{t}{c}".replace(" ", ""),
        )
        for s in (0, 1)
        for t in (0, 1)
        for c in ((4,), (2, 1), (1,))
    ),
    *(
        twin(
            "Einsum",
            lambda *x, e=e: torch.einsum(e, *x),
            *(floats(*shape, seed=i) for i, shape in enumerate(shapes)),
            attrs={"equation": e},
        )
        for e, *shapes in (
            *(("ij,jk->ik", (2, 3), (3, 4)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)), ("ii->i", (3, 3))),
            *(("ij->", (2, 3)), ("i,j->ij", (2,), (3,)), ("ijk->kij", (2, 3, 4)), ("ii->", (3, 3))),
            *(
                ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 2)),
                ("ij,ij,j->i", (2, 3), (2, 3), (3,)),
                ("bhqd,bhkd->bhqk", (1, 2, 3, 4), (1, 2, 5, 4)),
            ),
        )
    ),
]

# --- normalization -----------------------------------------------------------------------------------

SCALE, BIAS, MEAN, VARIANCE = floats(3, seed=5), floats(3, seed=6), floats(3, seed=7), positive(3, seed=8)
EPSILON = 2.0**-10  # exact in float32, in which ONNX has its attributes


def channelwise(w: Tensor, x: Tensor) -> Tensor:
    return w.reshape(-1, *[1] * (x.ndim - 2))


NORMALIZATION = [
    *(twin("Softmax", lambda x, a=a: F.softmax(x, a), CUBE, attrs={"axis": a}) for a in (-1, 1, 0)),
    *(twin("LogSoftmax", lambda x, a=a: F.log_softmax(x, a), CUBE, attrs={"axis": a}) for a in (-1, 1, 0)),
    *(
        twin(
            "LayerNormalization",
            lambda x, s, b, a=a: F.layer_norm(x, x.shape[a:], s, b, EPSILON),
            *(CUBE, floats(*CUBE.shape[a:], seed=1), floats(*CUBE.shape[a:], seed=2)),
            attrs={"axis": a, "epsilon": EPSILON},
            label=f"{a}",
        )
        for a in (-1, 1)
    ),
    twin(
        *("RMSNormalization", lambda x, s: F.rms_norm(x, x.shape[-1:], s, EPSILON), CUBE, floats(4, seed=1)),
        attrs={"epsilon": EPSILON},
        opset=23,
        label="",
    ),
    twin(
        "BatchNormalization",
        lambda x, s, b, m, v: (
            (x - channelwise(m, x)) / torch.sqrt(channelwise(v, x) + EPSILON) * channelwise(s, x) + channelwise(b, x)
        ),
        *(IMAGE, SCALE, BIAS, MEAN, VARIANCE),
        attrs={"epsilon": EPSILON},
        label="inference",
    ),
    twin(
        "BatchNormalization",
        lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b, False, eps=EPSILON),
        *(IMAGE, SCALE, BIAS, MEAN, VARIANCE),
        attrs={"epsilon": EPSILON},
        fixed=[3, 4],
        label="F.batch_norm",
    ),
    twin(
        "BatchNormalization",
        lambda x, s, b, m, v: F.batch_norm(x, None, None, s, b, True, eps=EPSILON),
        *(IMAGE, SCALE, BIAS, MEAN, VARIANCE),
        attrs={"epsilon": EPSILON, "training_mode": 1},
        fixed=[3, 4],
        outputs=3,
        of=[0],
        label="training",
    ),
    twin(
        *("InstanceNormalization", lambda x, s, b: F.instance_norm(x, None, None, s, b, eps=EPSILON)),
        *(IMAGE, SCALE, BIAS),
        attrs={"epsilon": EPSILON},
        label="",
    ),
    *(
        twin(
            "GroupNormalization",
            lambda x, s, b, g=g: F.group_norm(x, g, s, b, EPSILON),
            *(floats(2, 4, 3), floats(4, seed=1), floats(4, seed=2)),
            attrs={"num_groups": g, "epsilon": EPSILON, "stash_type": 11},
            label=f"{g}",
        )
        for g in (1, 2, 4)
    ),
    *(
        twin("LpNormalization", lambda x, p=p, a=a: F.normalize(x, p, a), CUBE, attrs={"p": p, "axis": a})
        for p in (1, 2)
        for a in (-1, 0)
    ),
    twin(
        *("LRN", lambda x: F.local_response_norm(x, 3, 0.75, 0.75, 2.0), floats(2, 5, 3, 2)),
        attrs={"size": 3, "alpha": 0.75, "beta": 0.75, "bias": 2.0},
        label="",
    ),
]

# --- convolution and pooling -----------------------------------------------------------------------


def both(pads: Sequence[int]) -> list[int]:
    return [*pads, *pads]


def convolution(rank: int, transposed: bool, **o: Any) -> Twin:
    strides, pads, dilations = (o.get(n, [d] * rank) for n, d in (("strides", 1), ("pads", 0), ("dilations", 1)))
    group, more = o.get("group", 1), o.get("output_padding", [0] * rank)
    size, kernel = [7, 6, 5][:rank], [3, 2, 3][:rank]
    attrs = {"strides": strides, "pads": both(pads), "dilations": dilations, "group": group}
    x, bias = floats(2, 4, *size), floats(6, seed=2)
    label = f"{rank}d," + ",".join(f"{k}={v}" for k, v in o.items())
    if transposed:
        w = floats(4, 6 // group, *kernel, seed=1)
        f = getattr(F, f"conv_transpose{rank}d")
        attrs["output_padding"] = more
        return twin(
            "ConvTranspose",
            lambda x, w, b: f(x, w, b, strides, pads, more, group, dilations),
            *(x, w, bias),
            attrs=attrs,
            label=label,
        )
    w = floats(6, 4 // group, *kernel, seed=1)
    f = getattr(F, f"conv{rank}d")
    return twin(
        "Conv", lambda x, w, b: f(x, w, b, strides, pads, dilations, group), x, w, bias, attrs=attrs, label=label
    )


def pool(op: str, rank: int, function: Callable[..., Tensor], *, second: bool = True, **attrs: Any) -> Twin:
    x = floats(2, 3, *[7, 6, 5][:rank])
    label = f"{rank}d," + ",".join(f"{k}={v}" for k, v in attrs.items())
    return twin(op, function, x, attrs=attrs, label=label, second=second)


def max_pool(
    rank: int, kernel: list[int], strides: list[int], pads: list[int], dilations: list[int], ceil: int
) -> Twin:
    f = getattr(F, f"max_pool{rank}d")
    return pool(
        *("MaxPool", rank, lambda x: f(x, kernel, strides, pads, dilations, bool(ceil))),
        kernel_shape=kernel,
        strides=strides,
        pads=both(pads),
        dilations=dilations,
        ceil_mode=ceil,
    )


def average_pool(rank: int, kernel: list[int], strides: list[int], pads: list[int], ceil: int, count: int) -> Twin:
    f = getattr(F, f"avg_pool{rank}d")
    return pool(
        *("AveragePool", rank, lambda x: f(x, kernel, strides, pads, bool(ceil), bool(count))),
        kernel_shape=kernel,
        strides=strides,
        pads=both(pads),
        ceil_mode=ceil,
        count_include_pad=count,
    )


WINDOWS = [
    *(
        convolution(rank, transposed, **o)
        for transposed in (False, True)
        for rank, o in (
            *((1, {}), (2, {}), (3, {}), (1, {"strides": [2]}), (2, {"strides": [2, 3]}), (2, {"pads": [1, 1]})),
            *((2, {"dilations": [2, 1]}), (2, {"group": 2}), (2, {"strides": [2, 2], "pads": [1, 0], "group": 2})),
            (3, {"strides": [2, 1, 2], "pads": [1, 1, 0]}),
        )
    ),
    convolution(2, True, strides=[3, 2], output_padding=[2, 1]),
    convolution(2, True, strides=[3, 2], output_padding=[1, 0], pads=[1, 1], dilations=[2, 2]),
    max_pool(1, [3], [2], [1], [1], 0),
    max_pool(2, [2, 3], [1, 2], [0, 1], [1, 1], 0),
    max_pool(2, [2, 2], [2, 2], [0, 0], [2, 1], 0),
    max_pool(2, [3, 3], [2, 2], [1, 1], [1, 1], 1),
    max_pool(3, [2, 2, 2], [2, 1, 2], [0, 0, 1], [1, 1, 1], 0),
    average_pool(1, [3], [2], [1], 0, 0),
    average_pool(2, [2, 3], [1, 2], [0, 1], 0, 0),
    average_pool(2, [2, 3], [1, 2], [1, 1], 0, 1),
    average_pool(2, [3, 3], [2, 2], [1, 1], 1, 0),
    average_pool(2, [3, 3], [2, 2], [1, 1], 1, 1),
    average_pool(3, [2, 2, 2], [2, 1, 2], [0, 0, 1], 0, 0),
    pool("LpPool", 1, lambda x: F.lp_pool1d(x.abs(), 2, 3, 2), kernel_shape=[3], strides=[2], p=2),
    pool("LpPool", 2, lambda x: F.lp_pool2d(x.abs(), 3, (2, 2), (1, 1)), kernel_shape=[2, 2], strides=[1, 1], p=3),
    pool("GlobalAveragePool", 2, lambda x: F.adaptive_avg_pool2d(x, 1)),
    pool("GlobalMaxPool", 2, lambda x: F.adaptive_max_pool2d(x, 1)),
    pool("GlobalLpPool", 2, lambda x: torch.linalg.vector_norm(x, 3, (2, 3), True), p=3),
    twin(
        "Col2Im",
        lambda x, *_: F.fold(x, (5, 5), (2, 3), dilation=(1, 2), padding=(1, 1), stride=(2, 1)),
        *(floats(2, 12, 9), ints(5, 5), ints(2, 3)),
        attrs={"dilations": [1, 2], "pads": [1, 1, 1, 1], "strides": [2, 1]},
        label="",
    ),
]

# --- moving elements -------------------------------------------------------------------------------

MOVEMENT = [
    twin("Transpose", lambda x: x.permute(2, 0, 1), CUBE, attrs={"perm": [2, 0, 1]}),
    twin("Reshape", lambda x, s: x.reshape(4, 6), CUBE, ints(4, -1)),
    twin("Flatten", lambda x: x.flatten(1), CUBE, attrs={"axis": 1}),
    twin("Concat", lambda *x: torch.cat(x, 1), X, Y, floats(2, 1), attrs={"axis": 1}),
    twin("Split", lambda x, s: torch.split(x, (1, 2), 1), X, ints(1, 2), attrs={"axis": 1}, outputs=2),
    twin("Slice", lambda x, *_: x[:, 1:, ::2], CUBE, ints(1, 0), ints(9, 9), ints(1, 2), ints(1, 2)),
    twin("Slice", lambda x, *_: x.flip(2), CUBE, ints(-1), ints(-99), ints(2), ints(-1), label="reversed"),
    twin("Expand", lambda x, s: x.expand(4, 2, 3), COLUMN, ints(4, 2, 3)),
    twin("Tile", lambda x, r: x.repeat(2, 3), X, ints(2, 3)),
    twin("Trilu", torch.tril, floats(3, 4), attrs={"upper": 0}),
    twin("Trilu", lambda x, k: torch.triu(x, 1), CUBE, np.array(1)),
    twin("Pad", lambda x, p, v: torch.cat([v.expand(2, 1), x], 1), X, ints(0, 1, 0, 0), 0.5, label="value"),
    *(
        twin(
            "Pad",
            lambda x, p, m=m: F.pad(x, (1, 2, 2, 0), mode=m),
            IMAGE,
            ints(0, 0, 2, 1, 0, 0, 0, 2),
            attrs={"mode": n},
        )
        for n, m in (("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular"))
    ),
    twin("Pad", lambda x, p: F.pad(x, (-1, 2)), X, ints(0, -1, 0, 2), label="crop"),
    twin("DepthToSpace", lambda x: F.pixel_shuffle(x, 2), floats(1, 8, 2, 3), attrs={"blocksize": 2, "mode": "CRD"}),
    twin(
        *("SpaceToDepth", lambda x: F.pixel_unshuffle(x, 2), floats(1, 2, 4, 6)),
        attrs={"blocksize": 2, "mode": "CRD"},
        opset=28,
    ),
    *(
        twin("Gather", lambda x, i, a=a: torch.index_select(x, a, i), CUBE, ints(1, 0, 1), attrs={"axis": a})
        for a in (0, 1, 2)
    ),
    *(
        twin(
            "GatherElements",
            lambda x, i, a=a: torch.gather(x, a, i),
            CUBE,
            ints(1, 0, 1, 1).reshape(1, 2, 2),
            attrs={"axis": a},
        )
        for a in (0, 1, 2)
    ),
    twin("GatherND", lambda x, i: x[i[:, 0], i[:, 1]], CUBE, np.array([[0, 1], [1, 2], [0, 1]])),
    twin("Compress", lambda x, c: x[:, c], X, np.array([True, False, True]), attrs={"axis": 1}),
    twin("TopK", lambda x, k: torch.topk(x, 2, 1)[0], CUBE, ints(2), attrs={"axis": 1}, outputs=2, of=[0]),
    twin(
        "TopK",
        lambda x, k: torch.topk(x, 2, -1, largest=False)[0],
        *(CUBE, ints(2)),
        attrs={"axis": -1, "largest": 0},
        outputs=2,
        of=[0],
    ),
    twin(
        "ScatterElements",
        lambda x, i, u: x.scatter(1, i, u),
        X,
        np.array([[2, 0], [1, 2]]),
        floats(2, 2),
        attrs={"axis": 1},
    ),
    *(
        twin(
            "ScatterElements",
            lambda x, i, u, r=r: x.scatter_reduce(1, i, u, r),
            *(X, np.array([[2, 2], [1, 2]]), floats(2, 2, seed=4)),
            attrs={"axis": 1, "reduction": n},
        )
        for n, r in (("add", "sum"), ("mul", "prod"), ("max", "amax"), ("min", "amin"))
    ),
    twin("ScatterND", lambda x, i, u: x.index_put((i[:, 0],), u), CUBE, np.array([[1]]), floats(1, 3, 4)),
    twin(
        "ScatterND",
        lambda x, i, u: x.index_put((i[:, 0],), u, accumulate=True),
        X,
        np.array([[1], [1]]),
        Y,
        attrs={"reduction": "add"},
    ),
]

# --- sampling --------------------------------------------------------------------------------------

GRID = floats(2, 3, 4, 2, seed=9) * 0.7


def grid_sample(mode: str, padding: str, align: int, second: bool) -> Twin:
    torch_mode = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}[mode]
    return twin(
        "GridSample",
        lambda x, g: F.grid_sample(x, g, torch_mode, padding, bool(align)),
        *(floats(2, 2, 5, 6), GRID),
        attrs={"mode": mode, "padding_mode": padding, "align_corners": align},
        second=second,
    )


def resize(size: Sequence[int], mode: str, torch_mode: str, transformation: str, **options: Any) -> Twin:
    attrs = {"mode": mode, "coordinate_transformation_mode": transformation, "cubic_coeff_a": -0.75}
    if mode == "nearest":
        attrs["nearest_mode"] = "floor"
    x = floats(1, 2, 4, 5)
    return twin(
        *("Resize", lambda x, *_: F.interpolate(x, tuple(size), mode=torch_mode, **options)),
        *(x, None, None, ints(1, 2, *size)),
        attrs=attrs,
        label=f"{mode},{transformation},{size}",
        rtol=FLOAT32,  # of the scales
    )


SAMPLING = [
    *(
        grid_sample(mode, padding, align, False)
        for mode in ("linear", "cubic", "nearest")
        for padding in ("zeros", "border", "reflection")
        for align in (0, 1)
    ),
    *(
        twin(
            *(
                "AffineGrid",
                lambda t, s, a=a: F.affine_grid(t, [2, 1, 3, 4], bool(a)),
                floats(2, 2, 3),
                ints(2, 1, 3, 4),
            ),
            attrs={"align_corners": a},
            opset=20,
        )
        for a in (0, 1)
    ),
    *(
        resize(size, *how, **options)
        for size in ((8, 10), (2, 3), (4, 5), (7, 3))
        for *how, options in (
            ("linear", "bilinear", "half_pixel", {"align_corners": False}),
            ("linear", "bilinear", "align_corners", {"align_corners": True}),
            ("cubic", "bicubic", "half_pixel", {"align_corners": False}),
            ("cubic", "bicubic", "align_corners", {"align_corners": True}),
            ("nearest", "nearest", "asymmetric", {}),
        )
    ),
]

# --- recurrence ------------------------------------------------------------------------------------


def recurrent(op: str, bidirectional: bool) -> Twin:
    """The gates of PyTorch's weights are in another order than ONNX's (for LSTM ifgo and iofc; for GRU rzn and zrh)."""
    gates, order = {"RNN": (1, [0]), "GRU": (3, [1, 0, 2]), "LSTM": (4, [0, 2, 3, 1])}[op]
    hidden, size, ways = 3, 2, 2 if bidirectional else 1
    steps, batch = 4, 2

    def function(x: Tensor, w: Tensor, r: Tensor, b: Tensor, _: None, *states: Tensor) -> Tensor:
        def ordered(weight: Tensor) -> Tensor:
            return torch.cat([weight[g * hidden : (g + 1) * hidden] for g in order])

        weights = []
        for way in range(ways):
            input_bias, state_bias = b[way].chunk(2)
            weights += [ordered(w[way]), ordered(r[way]), ordered(input_bias), ordered(state_bias)]
        if op == "LSTM":
            found = torch._VF.lstm(x, states, weights, True, 1, 0.0, False, bidirectional, False)
        else:
            name = "gru" if op == "GRU" else "rnn_tanh"
            found = getattr(torch._VF, name)(x, states[0], weights, True, 1, 0.0, False, bidirectional, False)
        out = found[0].reshape(steps, batch, ways, hidden).transpose(1, 2)
        return (out, *found[1:])

    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if bidirectional else "forward"}
    if op == "GRU":
        attrs["linear_before_reset"] = 1
    n = gates * hidden
    states = [floats(ways, batch, hidden, seed=i) for i in range(2 if op == "LSTM" else 1)]
    inputs = [floats(steps, batch, size), floats(ways, n, size, seed=1), floats(ways, n, hidden, seed=2)]
    return twin(
        *(op, function, *inputs, floats(ways, 2 * n, seed=3), None, *states),
        attrs=attrs,
        outputs=1 + len(states),
        label="bidirectional" if bidirectional else "forward",
    )


RECURRENCE = [recurrent(op, bidirectional) for op in ("RNN", "GRU", "LSTM") for bidirectional in (False, True)]

# --- attention, losses, determinants, spectra ----------------------------------------------------------

QUERY, KEY, VALUE = floats(2, 3, 4, 5), floats(2, 3, 6, 5, seed=1), floats(2, 3, 6, 2, seed=2)


def attention(label: str, mask: np.ndarray | None = None, **attrs: Any) -> Twin:
    causal, scale = bool(attrs.get("is_causal", 0)), attrs.get("scale")

    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        if causal:  # of PyTorch's and ONNX's triangles, both begin in the upper left corner
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)

    inputs = [QUERY, KEY, VALUE] + ([] if mask is None else [mask])
    return twin("Attention", function, *inputs, attrs=attrs, label=label, opset=23, rtol=FLOAT32)


TARGET = np.array([[2, 0], [1, 2]])


def losses(op: str, function: Callable[..., Tensor]) -> list[Twin]:
    return [
        twin(
            op,
            lambda x, t, w=None, r=reduction, i=ignore: function(x, t, w, reduction=r, ignore_index=i),
            *(floats(2, 3, 2), TARGET, *([positive(3)] if weighted else [])),
            attrs={"reduction": reduction, **({} if ignore < 0 else {"ignore_index": ignore})},
            fixed=[2],
            label=f"{reduction},weighted={weighted},ignore_index={ignore}",
        )
        for reduction in ("mean", "sum", "none")
        for weighted in (False, True)
        for ignore in (-100, 0)
    ]


def spectrum(x: Tensor, inverse: bool) -> Tensor:
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(transform(torch.view_as_complex(x), dim=1))


OTHERS = [
    attention("plain"),
    attention("scale", scale=0.5),
    attention("causal", is_causal=1),
    attention("mask", floats(4, 6, seed=3)),
    attention("boolean-mask", np.tril(np.ones((4, 6), bool))),
    *losses("NegativeLogLikelihoodLoss", F.nll_loss),
    *losses("SoftmaxCrossEntropyLoss", F.cross_entropy),
    twin("Det", torch.linalg.det, floats(2, 3, 3)),
    *(
        twin(
            "DFT",
            lambda x, length, axis, i=inverse: spectrum(x, bool(i)),
            *(floats(2, 5, 3, 2), None, np.array(1)),
            attrs={"inverse": inverse},
            opset=20,
        )
        for inverse in (0, 1)
    ),
]

# --- kinks -----------------------------------------------------------------------------------------

KINKS = [
    twin("Abs", torch.abs, [0.0, -0.0, 1.0]),
    twin("Relu", F.relu, [0.0, -0.0, 1.0]),
    twin("LeakyRelu", lambda x: F.leaky_relu(x, 0.25), [0.0], attrs={"alpha": 0.25}),
    twin("PRelu", F.prelu, [[0.0, 1.0]], [0.25, 0.25]),
    twin("Elu", lambda x: F.elu(x, 0.25), [0.0], attrs={"alpha": 0.25}),
    twin("Selu", F.selu, [0.0], rtol=FLOAT32),
    twin("HardSwish", F.hardswish, [-3.0, 0.0, 3.0], rtol=FLOAT32),
    twin("ThresholdedRelu", lambda x: F.threshold(x, 0.5, 0.0), [0.5], attrs={"alpha": 0.5}),
    twin("Shrink", lambda x: F.hardshrink(x, 0.5), [-0.5, 0.5], attrs={"lambd": 0.5}),
    twin("Clip", lambda x, a, b: torch.clamp(x, a, b), [0.0, 0.5, 1.0], 0.0, 1.0),
    twin("Clip", lambda x, a, b: torch.clamp(x, a, b), [0.0, 0.5, 1.0], 1.0, 0.0, label="crossed"),
    twin("Max", torch.maximum, [2.0, 1.0], [2.0, 3.0]),
    twin("Min", torch.minimum, [2.0, 1.0], [2.0, 3.0]),
    twin("Sign", torch.sign, [0.0, 1.0]),
    *(twin(op, getattr(torch, op.lower()), [2.0, 0.5]) for op in "Floor Ceil Round".split()),
    twin("Mod", torch.fmod, [6.0], [2.0], attrs={"fmod": 1}),
    twin("Pow", torch.pow, [0.0], 0.0, fixed=[1]),
    twin("Pow", torch.pow, [0.0, 0.0, 0.0], [0.0, 1.0, 2.0], label="exponents"),
    twin("Sqrt", torch.sqrt, [0.0]),
    twin("Softsign", F.softsign, [0.0]),
    twin("ReduceMax", over(torch.amax), [[1.0, 3.0, 3.0]], ints(1)),
    twin("ReduceMin", over(torch.amin), [[1.0, 1.0, 3.0]], ints(1)),
    twin("ReduceL1", over(lambda x, a, k: torch.linalg.vector_norm(x, 1, a, k)), [0.0, -2.0], ints(0)),
    twin("ReduceL2", over(lambda x, a, k: torch.linalg.vector_norm(x, 2, a, k)), [0.0, 0.0], ints(0)),
    twin("ReduceProd", product, [0.0, 2.0, 3.0], ints(0)),
    twin("MaxPool", lambda x: F.max_pool1d(x, 3), [[[2.0, 2.0, 1.0]]], attrs={"kernel_shape": [3]}),
    twin("GlobalMaxPool", lambda x: F.adaptive_max_pool1d(x, 1), [[[2.0, 2.0, 1.0]]]),
    twin(
        "ScatterElements",
        lambda x, i, u: x.scatter_reduce(0, i, u, "amax"),
        *([1.0, 2.0], ints(1), [2.0]),
        attrs={"axis": 0, "reduction": "max"},
    ),
    *(twin(op, getattr(torch, op.lower()), [-1000.0, 30.0, 1000.0], label="far") for op in ("Tanh", "Sigmoid", "Erf")),
    *(twin(op, getattr(F, op.lower()), [-1000.0, 30.0, 1000.0], label="far") for op in ("Softplus", "Mish", "Gelu")),
    twin("Softmax", lambda x: F.softmax(x, -1), [0.0, -np.inf, 1.0], label="masked"),
    twin("LogSoftmax", lambda x: F.log_softmax(x, -1), [0.0, -1000.0, 1.0], label="far"),
]

TWINS = [
    *(ELEMENTWISE + REDUCING + MATRICES + NORMALIZATION + WINDOWS + MOVEMENT + SAMPLING + RECURRENCE + OTHERS),
]


def as_torch(case: Case) -> tuple[list[Tensor | None], dict[str, Tensor]]:
    """Return all inputs as tensors, and by name those that are differentiated by."""
    inputs = [None if x is None else torch.from_numpy(np.array(x)) for x in case.inputs]
    wrt = {f"x{i}": x for i, x in enumerate(inputs) if x is not None and x.is_floating_point() and i not in case.fixed}
    for x in wrt.values():
        x.requires_grad_()
    return inputs, wrt


def products(found: Sequence[Tensor], cts: Sequence[Tensor], wrt: Sequence[Tensor], **options: Any) -> list[Tensor]:
    """Return the vector-Jacobian products in PyTorch; zeros where there is no dependence."""
    parts = [(y, ct) for y, ct in zip(found, cts, strict=True) if y.requires_grad]
    if not parts:
        return [torch.zeros_like(x) for x in wrt]
    outputs, cotangents = zip(*parts, strict=True)
    return list(torch.autograd.grad(outputs, wrt, cotangents, materialize_grads=True, **options))


def same(actual: np.ndarray, expected: Tensor, rtol: float, what: str) -> None:
    """Assert that arrays agree; infinities to be the same."""
    array = expected.numpy(force=True)
    finite = np.isfinite(array)
    np.testing.assert_array_equal(actual[~finite], array[~finite], err_msg=what)
    close(np.where(finite, actual, 0), np.where(finite, array, 0), rtol, what)


def check(t: Twin, second: bool) -> None:
    case, rng = t.case, np.random.default_rng(0)
    inputs, wrt = as_torch(case)
    result = t.function(*inputs)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    feeds = {name: x.numpy(force=True) for name, x in wrt.items()}
    model = make_model(case)
    of = [f"y{i}" for i in (range(case.outputs) if case.of is None else case.of)]
    primal = Runner(model)(feeds)
    for y, expected in zip(of, outputs, strict=True):
        same(primal[y], expected, t.rtol, f"output {y}")

    cts = {y: rng.normal(size=primal[y].shape) for y in of}
    backward = onnxgrad.vjp(model, of, list(wrt))
    result = Runner(backward)({**feeds, **{f"adj_{y}": ct for y, ct in cts.items()}})
    seeds = [torch.from_numpy(ct).requires_grad_() for ct in cts.values()]
    gradients = products(outputs, seeds, list(wrt.values()), create_graph=second)
    for name, expected in zip(wrt, gradients, strict=True):
        same(result[f"adj_{name}"], expected, t.rtol, f"adj_{name}")
    if not second:
        return

    directions = {name: rng.normal(size=x.shape) for name, x in feeds.items()}
    variables = {**feeds, **{f"adj_{y}": ct for y, ct in cts.items()}}
    seconds = products(gradients, [torch.from_numpy(d) for d in directions.values()], [*wrt.values(), *seeds])
    first = onnxgrad.vjp(model, of, list(wrt), keep_outputs=False)
    twice = onnxgrad.vjp(first, None, list(variables), keep_outputs=False)
    more = [value.name for value in twice.graph.input if value.name not in variables]
    found = Runner(twice)({**variables, **dict(zip(more, directions.values(), strict=True))})
    for name, value, expected in zip(variables, found.values(), seconds, strict=True):
        same(value, expected, 10 * t.rtol, f"second order by {name}")


@pytest.mark.filterwarnings("ignore::onnxgrad.DisconnectedWarning")  # linear operators, in the second order
@pytest.mark.parametrize("t", TWINS, ids=lambda t: t.case.name)
def test_equals_autograd(t: Twin) -> None:
    check(t, t.second)


@pytest.mark.filterwarnings("ignore::onnxgrad.DisconnectedWarning")  # steps
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, on division by zero
@pytest.mark.parametrize("t", KINKS, ids=lambda t: t.case.name)
def test_kinks_are_those_of_pytorch(t: Twin) -> None:
    check(t, second=False)
