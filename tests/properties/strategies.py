"""Random models of several operators, composed by hypothesis.

A model grows step by step. Each step is one of the functions in `STEPS`: it takes a value that is there, and adds one
or a few nodes. Numbers are kept near 1: what grows fast, or is not defined everywhere, comes behind a Tanh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.properties.program import Node, Program, Shape

#: Elements that a value may have at most.
LARGEST = 64


class Unfit(Exception):  # noqa: N818 - the step is left out
    """Raised by a step that does not fit the value that it was given."""


class Growing:
    """A model that grows."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        self.draw = draw
        self.opset: int = draw(st.sampled_from([22, 18, 20, 24]))
        self.sizes_of_axes = [1, 2, 3, 0] if draw(st.integers(0, 11)) == 11 else [1, 2, 3, 4]
        self.nodes: list[Node] = []
        self.inputs: dict[str, Shape] = {}
        self.weights: dict[str, Shape] = {}
        self.numbers: dict[str, float] = {}
        self.constants: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}

    # --- values ------------------------------------------------------------------------------

    def pick(self, options: Sequence[Any]) -> Any:
        if not options:
            raise Unfit
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    def shape(self, low: int = 0, high: int = 3) -> Shape:
        rank = self.draw(st.integers(low, high))
        return tuple(self.pick(self.sizes_of_axes) for _ in range(rank))

    def input(self, shape: Shape) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.shapes[name] = _small(shape)
        return name

    def weight(self, shape: Shape) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = self.shapes[name] = _small(shape)
        return name

    def leaf(self, shape: Shape) -> str:
        """Return a new input, or a weight."""
        return self.input(shape) if len(self.inputs) < 3 and self.flag() else self.weight(shape)

    def number(self, value: float) -> str:
        name = f"c{len(self.numbers)}"
        self.numbers[name], self.shapes[name] = value, ()
        return name

    def constant(self, value: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def emit(self, op: str, inputs: Sequence[str], shape: Shape, **attrs: Any) -> str:
        return self.emit_all(op, inputs, [shape], **attrs)[0]

    def emit_all(self, op: str, inputs: Sequence[str], shapes: Sequence[Shape], **attrs: Any) -> list[str]:
        for shape in shapes:
            _small(shape)
        names = [f"v{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(len(shapes))]
        self.nodes.append(Node(op, list(inputs), names, attrs))
        self.shapes.update(zip(names, shapes, strict=True))
        return names

    def unary(self, op: str, x: str, **attrs: Any) -> str:
        return self.emit(op, [x], self.shapes[x], **attrs)

    def binary(self, op: str, a: str, b: str) -> str:
        return self.emit(op, [a, b], np.broadcast_shapes(self.shapes[a], self.shapes[b]))

    def bounded(self, x: str, low: float, high: float) -> str:
        """Return values between `low` and `high`."""
        scaled = self.binary("Mul", self.unary("Tanh", x), self.number((high - low) / 2))
        return self.binary("Add", scaled, self.number((high + low) / 2))

    def operand(self, x: str) -> str:
        """Return something that broadcasts with a value: another value, an input or a weight."""
        shape = self.shapes[x]
        fitting = [name for name in self.shapes if name[0] in "xvw" and _fits(self.shapes[name], shape)]
        if self.flag():
            return str(self.pick(fitting))
        rank = self.draw(st.integers(0, len(shape)))
        return self.leaf(tuple(1 if self.flag() else d for d in shape[len(shape) - rank :]))

    def axis(self, x: str, *, empty: bool = True) -> int:
        """Return an axis, counted from either end; not an empty one unless that is allowed."""
        shape = self.shapes[x]
        axis: int = self.pick([a for a in range(len(shape)) if empty or shape[a]])
        return axis - len(shape) if self.flag() else axis

    def axes(self, x: str, *, empty: bool = True) -> list[int]:
        shape = self.shapes[x]
        found = [a for a in range(len(shape)) if (empty or shape[a]) and self.flag()]
        return [a - len(shape) for a in found] if self.flag() else found


def _small(shape: Shape) -> Shape:
    if math.prod(shape) > LARGEST:
        raise Unfit
    return shape


def _fits(a: Shape, b: Shape) -> bool:
    try:
        return math.prod(np.broadcast_shapes(a, b)) <= LARGEST
    except ValueError:
        return False


# --- elementwise ----------------------------------------------------------------------------------

UNARY: list[tuple[str, dict[str, Any], int]] = [
    *((op, {}, 18) for op in "Tanh Neg Sin Cos Sigmoid Relu Abs Atan Softsign Erf Asinh Softplus Identity".split()),
    *(("LeakyRelu", {"alpha": 0.25}, 18), ("Elu", {"alpha": 0.5}, 18), ("HardSigmoid", {"alpha": 0.25}, 18)),
    *(("Gelu", {}, 20), ("Gelu", {"approximate": "tanh"}, 20), ("Swish", {"alpha": 0.5}, 24), ("Mish", {}, 18)),
    *(("ThresholdedRelu", {"alpha": 0.25}, 18), ("Floor", {}, 18), ("Dropout", {}, 18)),
]

#: Operators with the interval in which they are taken.
BOUNDED = {
    **dict.fromkeys(("Exp", "Sinh", "Cosh", "Tan"), (-1.0, 1.0)),
    **dict.fromkeys(("Asin", "Acos", "Atanh"), (-0.75, 0.75)),
    **dict.fromkeys(("Log", "Sqrt", "Reciprocal"), (0.25, 2.0)),
    "Acosh": (1.25, 3.0),
}


def unary(g: Growing, x: str) -> str:
    op, attrs, since = g.pick(UNARY)
    if g.opset < since:
        raise Unfit
    return g.unary(op, x, **attrs)


def bounded(g: Growing, x: str) -> str:
    op = g.pick(sorted(BOUNDED))
    return g.unary(op, g.bounded(x, *BOUNDED[op]))


def binary(g: Growing, x: str) -> str:
    op, y = g.pick(["Add", "Mul", "Sub", "Max", "Min", "Div", "Pow", "Mod", "PRelu"]), g.operand(x)
    if g.flag():
        x, y = y, x
    if op == "Div":
        y = g.bounded(y, 0.5, 2.0)
    if op == "Mod":
        return g.emit("Mod", [x, g.bounded(y, 0.5, 2.0)], np.broadcast_shapes(g.shapes[x], g.shapes[y]), fmod=1)
    if op == "Pow":
        if g.flag():
            return g.binary("Pow", x, g.number(g.pick([2.0, 1.0, 3.0, 0.0])))
        x = g.bounded(x, 0.5, 1.5)
    if op == "PRelu" and np.broadcast_shapes(g.shapes[x], g.shapes[y]) != g.shapes[x]:
        raise Unfit
    return g.binary(op, x, y)


def several(g: Growing, x: str) -> str:
    parts = [x, *(g.operand(x) for _ in range(g.draw(st.integers(0, 2))))]
    try:
        shape = np.broadcast_shapes(*(g.shapes[p] for p in parts))
    except ValueError:
        raise Unfit from None
    return g.emit(g.pick(["Sum", "Mean", "Max", "Min"]), parts, shape)


def where(g: Growing, x: str) -> str:
    y, z = g.operand(x), g.operand(x)
    try:
        shape = np.broadcast_shapes(g.shapes[x], g.shapes[y], g.shapes[z])
    except ValueError:
        raise Unfit from None
    mask = g.emit(g.pick(["Greater", "Less"]), [x, z], np.broadcast_shapes(g.shapes[x], g.shapes[z]))
    del g.shapes[mask]  # no number
    return g.emit("Where", [mask, x, y], shape)


def clip(g: Growing, x: str) -> str:
    low = g.pick([g.number(-0.5), ""]) if g.flag() else g.leaf(())
    high = g.pick([g.number(0.75), ""]) if g.flag() else g.leaf(())
    return g.emit("Clip", [x, low, high], g.shapes[x])


# --- along axes -----------------------------------------------------------------------------------

#: Reductions; those in the second list have no meaning, or no derivative, for no elements.
REDUCTIONS = ["ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceProd"]
OF_SOMETHING = ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp"]


def reduction(g: Growing, x: str) -> str:
    op = g.pick([*REDUCTIONS, *OF_SOMETHING])
    shape, keep, noop = g.shapes[x], g.flag(), g.flag()
    axes = g.axes(x, empty=op in REDUCTIONS)
    if op == "ReduceLogSumExp" and not shape:  # ONNX's reference fails
        raise Unfit
    gone = {a % len(shape) for a in axes}
    if not axes and not noop:
        gone = set(range(len(shape)))
        if 0 in shape and op not in REDUCTIONS:
            raise Unfit
    kept = tuple(1 if a in gone else d for a, d in enumerate(shape) if keep or a not in gone)
    attrs = {"keepdims": int(keep), "noop_with_empty_axes": int(noop)}
    given = [x, g.constant(axes)] if axes else [x]
    return g.emit(op, given, kept, **attrs)


def running(g: Growing, x: str) -> str:
    return g.emit("CumSum", [x, g.constant(g.axis(x))], g.shapes[x], exclusive=int(g.flag()), reverse=int(g.flag()))


def softmax(g: Growing, x: str) -> str:
    return g.unary(g.pick(["Softmax", "LogSoftmax"]), x, axis=g.axis(x, empty=False))


def normalization(g: Growing, x: str) -> str:
    """Normalizations, of something of which no part is constant: a little of a weight is added."""
    shape = g.shapes[x]
    if math.prod(shape) < 2:
        raise Unfit
    op = g.pick(["LayerNormalization", "LpNormalization", "InstanceNormalization", "BatchNormalization"])
    x = g.binary("Add", x, g.weight(shape))
    if op == "LayerNormalization":
        axis = g.axis(x, empty=False)
        if 0 in shape[axis % len(shape) :]:
            raise Unfit
        behind = shape[axis % len(shape) :]
        given = [x, g.leaf(behind), *([g.leaf(behind)] if g.flag() else [])]
        return g.emit(op, given, shape, axis=axis, epsilon=0.125)
    if op == "LpNormalization":
        return g.unary(op, x, axis=g.axis(x, empty=False), p=g.pick([2, 1]))
    if len(shape) < 3 or 0 in shape:
        raise Unfit
    channels = (shape[1],)
    if op == "InstanceNormalization":
        return g.emit(op, [x, g.leaf(channels), g.leaf(channels)], shape, epsilon=0.125)
    if g.opset >= 23 and g.flag():
        return g.emit("RMSNormalization", [x, g.leaf(shape[-1:])], shape, epsilon=0.125)
    variance = g.bounded(g.leaf(channels), 0.5, 2.0)
    return g.emit(op, [x, g.leaf(channels), g.leaf(channels), g.leaf(channels), variance], shape, epsilon=0.125)


# --- products --------------------------------------------------------------------------------------


def matmul(g: Growing, x: str) -> str:
    shape = g.shapes[x]
    if not shape:
        raise Unfit
    if g.flag():
        if len(shape) < 2:
            raise Unfit
        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        turned = g.emit("Transpose", [x], tuple(shape[a] for a in order), perm=order)
        return g.emit("MatMul", [x, turned], (*shape[:-1], shape[-2]))
    m = g.pick(g.sizes_of_axes)
    if g.flag():  # a matrix on the left, for each batch or for all
        if len(shape) < 2:
            raise Unfit
        front = tuple(d if g.flag() else 1 for d in shape[:-2]) if g.flag() else ()
        return g.emit("MatMul", [g.leaf((*front, m, shape[-2])), x], (*shape[:-2], m, shape[-1]))
    if g.flag():
        return g.emit("MatMul", [x, g.leaf(shape[-1:])], shape[:-1])
    front = tuple(d if g.flag() else 1 for d in shape[:-2]) if g.flag() else ()
    return g.emit("MatMul", [x, g.leaf((*front, shape[-1], m))], (*shape[:-1], m))


def gemm(g: Growing, x: str) -> str:
    if len(g.shapes[x]) != 2:
        raise Unfit
    (rows, inner), n = g.shapes[x], g.pick(g.sizes_of_axes)
    turn_x, turn_w = g.flag(), g.flag()
    if turn_x:
        rows, inner = inner, rows
    given = [x, g.leaf((n, inner) if turn_w else (inner, n))]
    if g.flag():
        given.append(g.leaf(g.pick([(n,), (1,), (rows, 1), (rows, n), ()])))
    attrs = {"transA": int(turn_x), "transB": int(turn_w), "alpha": 0.5, "beta": 2.0}
    return g.emit("Gemm", given, (rows, n), **attrs)


def einsum(g: Growing, x: str) -> str:
    shape = g.shapes[x]
    if len(shape) != 2 or 0 in shape:  # onnxruntime's kernel may end the process on sums of nothing
        raise Unfit
    (i, j), k = shape, g.pick([2, 1, 3])
    equation, others, result = g.pick(
        [
            *(
                ("ij,jk->ik", [(j, k)], (i, k)),
                ("ij->ji", [], (j, i)),
                ("ij->i", [], (i,)),
                ("ij,ij->j", [(i, j)], (j,)),
            ),
            *(("ij,k->kij", [(k,)], (k, i, j)), ("ij,jk,k->i", [(j, k), (k,)], (i,)), ("ij,ij->", [(i, j)], ())),
            *(("...j,j->...", [(j,)], (i,)), ("ij,ikj->ik", [(i, k, j)], (i, k))),
        ]
    )
    return g.emit("Einsum", [x, *(g.leaf(s) for s in others)], result, equation=equation)


# --- moving elements ---------------------------------------------------------------------------------


def transpose(g: Growing, x: str) -> str:
    shape = g.shapes[x]
    order = list(g.draw(st.permutations(range(len(shape)))))
    attrs = {} if order == [*reversed(range(len(shape)))] else {"perm": order}
    return g.emit("Transpose", [x], tuple(shape[a] for a in order), **attrs)


def reshape(g: Growing, x: str) -> str:
    shape, count = g.shapes[x], math.prod(g.shapes[x])
    how = g.pick(["flat", "merge", "keep", "split", "unsqueeze", "squeeze", "flatten"])
    if how == "unsqueeze":
        axis = g.draw(st.integers(0, len(shape)))
        return g.emit("Unsqueeze", [x, g.constant([axis])], (*shape[:axis], 1, *shape[axis:]))
    if how == "squeeze":
        axis = g.pick([a for a, d in enumerate(shape) if d == 1])
        return g.emit("Squeeze", [x, g.constant([axis])], (*shape[:axis], *shape[axis + 1 :]))
    if how == "flatten":
        axis = g.draw(st.integers(0, len(shape)))
        return g.emit("Flatten", [x], (math.prod(shape[:axis]), math.prod(shape[axis:])), axis=axis)
    if count == 0:
        raise Unfit
    if how == "flat":
        return g.emit("Reshape", [x, g.constant([-1])], (count,))
    if how == "keep" and shape:  # 0: as in the input
        return g.emit("Reshape", [x, g.constant([0, -1])], (shape[0], count // shape[0]))
    if how == "merge" and len(shape) > 1:
        return g.emit("Reshape", [x, g.constant([-1, shape[-1]])], (count // shape[-1], shape[-1]))
    if how == "split" and count % 2 == 0:
        return g.emit("Reshape", [x, g.constant([2, -1])], (2, count // 2))
    raise Unfit


def slice_(g: Growing, x: str) -> str:
    shape, axis = g.shapes[x], g.axis(x)
    n, step = shape[axis], g.pick([1, 2, -1])
    start, end = g.draw(st.integers(-n - 1, n + 1)), g.draw(st.integers(-n - 1, n + 1))
    if step < 0 and end < 0:
        end = -n - 5
    taken = len(range(n)[start:end:step])
    if not taken and 0 not in g.sizes_of_axes:
        raise Unfit
    result = list(shape)
    result[axis] = taken
    return g.emit("Slice", [x, *(g.constant([v]) for v in (start, end, axis, step))], tuple(result))


def concat(g: Growing, x: str) -> str:
    shape, axis = g.shapes[x], g.axis(x)
    place = axis % len(shape)
    fitting = [
        name
        for name, s in g.shapes.items()
        if len(s) == len(shape) and all(s[a] == shape[a] for a in range(len(s)) if a != place) and name[0] != "c"
    ]
    others = [g.pick(fitting) for _ in range(g.draw(st.integers(0, 2)))]
    if g.flag():
        others.append(g.leaf((*shape[:place], g.pick(g.sizes_of_axes), *shape[place + 1 :])))
    parts = list(g.draw(st.permutations([x, *others])))
    size = sum(g.shapes[p][place] for p in parts)
    return g.emit("Concat", parts, (*shape[:place], size, *shape[place + 1 :]), axis=axis)


def split(g: Growing, x: str) -> str:
    shape, axis = g.shapes[x], g.axis(x)
    place = axis % len(shape)
    first = g.draw(st.integers(0, shape[place]))
    sizes = [first, shape[place] - first]
    if 0 in sizes and 0 not in g.sizes_of_axes:
        raise Unfit
    shapes = [(*shape[:place], size, *shape[place + 1 :]) for size in sizes]
    return str(g.pick(g.emit_all("Split", [x, g.constant(sizes)], shapes, axis=axis)))


def expand(g: Growing, x: str) -> str:
    shape = g.shapes[x]
    target = tuple(g.pick(g.sizes_of_axes) if d == 1 and g.flag() else g.pick([d, 1]) for d in shape)
    target = (*g.shape(0, 1), *target)
    if 0 in target and 0 not in shape:  # onnxruntime's optimizer takes such an Expand out (1.32)
        raise Unfit
    return g.emit("Expand", [x, g.constant(list(target))], np.broadcast_shapes(shape, target))


def tile(g: Growing, x: str) -> str:
    shape = g.shapes[x]
    if not shape:
        raise Unfit
    repeats = [g.pick([1, 2]) for _ in shape]
    return g.emit("Tile", [x, g.constant(repeats)], tuple(d * r for d, r in zip(shape, repeats, strict=True)))


def pad(g: Growing, x: str) -> str:
    shape = g.shapes[x]
    mode = g.pick(["constant", "edge", "reflect"])
    if not shape or (0 in shape and mode != "constant"):
        raise Unfit
    pads = [g.draw(st.integers(0, min(2, d - 1) if mode == "reflect" else 1)) for d in (*shape, *shape)]
    result = tuple(d + pads[a] + pads[a + len(shape)] for a, d in enumerate(shape))
    value = [g.leaf(())] if mode == "constant" and g.flag() else []
    return g.emit("Pad", [x, g.constant(pads), *value], result, mode=mode)


def gather(g: Growing, x: str) -> str:
    shape, axis = g.shapes[x], g.axis(x, empty=False)
    place, n = axis % len(shape), shape[axis]
    index = g.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=3))
    if g.flag():
        return g.emit("Gather", [x, g.constant(index[0])], (*shape[:place], *shape[place + 1 :]), axis=axis)
    return g.emit("Gather", [x, g.constant(index)], (*shape[:place], len(index), *shape[place + 1 :]), axis=axis)


def scatter(g: Growing, x: str) -> str:
    shape, axis = g.shapes[x], g.axis(x, empty=False)
    if 0 in shape:
        raise Unfit
    place, n = axis % len(shape), shape[axis]
    reduction = g.pick(["none", "add", "max", "mul"])
    most = {"none": 1, "mul": n}.get(reduction, 3)  # of several factors of one place, one that is 0 gets NaN
    size = g.draw(st.integers(1, most))
    target = (*shape[:place], size, *shape[place + 1 :])
    index = np.full(target, g.draw(st.integers(-n, n - 1)))
    if size > 1:
        index = index - n * (index >= 0)
        index = (index + np.arange(size).reshape(-1, *[1] * (len(shape) - place - 1))) % n
    if g.flag():
        return g.emit("GatherElements", [x, g.constant(index.tolist())], target, axis=axis)
    given = [x, g.constant(index.tolist()), g.leaf(target)]
    return g.emit("ScatterElements", given, shape, axis=axis, reduction=reduction)


def top_k(g: Growing, x: str) -> str:
    shape, axis = g.shapes[x], g.axis(x, empty=False)
    k, place = g.draw(st.integers(1, shape[axis])), axis % len(shape)
    result = (*shape[:place], k, *shape[place + 1 :])
    values, index = g.emit_all("TopK", [x, g.constant([k])], [result, result], axis=axis, largest=int(g.flag()))
    del g.shapes[index]
    return values


def trilu(g: Growing, x: str) -> str:
    if len(g.shapes[x]) < 2:
        raise Unfit
    return g.emit("Trilu", [x, g.constant(g.draw(st.integers(-1, 1)))], g.shapes[x], upper=int(g.flag()))


def nd(g: Growing, x: str) -> str:
    """Pick or put along the first axes, by coordinates; what is put goes to different places unless it is added."""
    shape = g.shapes[x]
    if not shape or 0 in shape:
        raise Unfit
    depth = g.draw(st.integers(1, len(shape)))
    places = st.tuples(*(st.integers(-n, n - 1) for n in shape[:depth]))
    add = g.flag()
    size = g.draw(st.integers(1, 3)) if add else 1
    index = g.constant([list(g.draw(places)) for _ in range(size)])
    behind = (size, *shape[depth:])
    if g.flag():
        return g.emit("GatherND", [x, index], behind)
    return g.emit("ScatterND", [x, index, g.leaf(behind)], shape, reduction="add" if add else "none")


def reverse(g: Growing, x: str) -> str:
    shape = g.shapes[x]
    if len(shape) < 2 or 0 in shape:
        raise Unfit
    batch = g.draw(st.integers(0, 1))
    lengths = [g.draw(st.integers(1, shape[1 - batch])) for _ in range(shape[batch])]
    return g.emit("ReverseSequence", [x, g.constant(lengths)], shape, batch_axis=batch, time_axis=1 - batch)


def depth_and_space(g: Growing, x: str) -> str:
    count = math.prod(g.shapes[x])
    if count == 0 or count % 4:
        raise Unfit
    n = count // 4
    if g.flag():
        image = g.emit("Reshape", [x, g.constant([1, 4, n, 1])], (1, 4, n, 1))
        return g.emit("DepthToSpace", [image], (1, 1, 2 * n, 2), blocksize=2, mode=g.pick(["DCR", "CRD"]))
    image = g.emit("Reshape", [x, g.constant([1, 1, 2 * n, 2])], (1, 1, 2 * n, 2))
    return g.emit("SpaceToDepth", [image], (1, 4, n, 1), blocksize=2)


# --- windows -----------------------------------------------------------------------------------------


def _spatial(g: Growing, x: str) -> str:
    """Return a value with a batch axis, channels, and one spatial axis that is not empty."""
    shape = g.shapes[x]
    if 0 in shape or math.prod(shape) < 2:
        raise Unfit
    if len(shape) == 3:
        return x
    n, rest = (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))
    channels = 2 if rest % 2 == 0 and g.flag() else 1
    return g.emit("Reshape", [x, g.constant([n, channels, rest // channels])], (n, channels, rest // channels))


def convolution(g: Growing, x: str) -> str:
    x = _spatial(g, x)
    n, channels, size = g.shapes[x]
    kernel, stride, dilation = (g.draw(st.integers(1, 2)) for _ in range(3))
    before, behind = g.draw(st.integers(0, 1)), g.draw(st.integers(0, 1))
    group = channels if g.flag() else 1
    attrs = {"strides": [stride], "dilations": [dilation], "pads": [before, behind], "group": group}
    reach = dilation * (kernel - 1) + 1
    if g.flag():
        many = (size - 1) * stride + reach - before - behind
        if many < 1:
            raise Unfit
        weight = g.leaf((channels, 2, kernel))
        return g.emit("ConvTranspose", [x, weight, g.leaf((2 * group,))], (n, 2 * group, many), **attrs)
    many = (size + before + behind - reach) // stride + 1
    if many < 1:
        raise Unfit
    weight = g.leaf((2 * group, channels // group, kernel))
    return g.emit("Conv", [x, weight, *([g.leaf((2 * group,))] if g.flag() else [])], (n, 2 * group, many), **attrs)


def pooling(g: Growing, x: str) -> str:
    x = _spatial(g, x)
    n, channels, size = g.shapes[x]
    if g.flag():
        return g.emit(g.pick(["GlobalAveragePool", "GlobalMaxPool"]), [x], (n, channels, 1))
    kernel, stride, before = g.draw(st.integers(1, 3)), g.draw(st.integers(1, 2)), g.draw(st.integers(0, 1))
    many = (size + before - kernel) // stride + 1
    if many < 1 or before >= kernel:
        raise Unfit
    op = g.pick(["MaxPool", "AveragePool"])
    attrs = {"count_include_pad": int(g.flag())} if op == "AveragePool" else {}
    return g.emit(op, [x], (n, channels, many), kernel_shape=[kernel], strides=[stride], pads=[before, 0], **attrs)


STEPS = [
    *(unary, unary, unary, binary, bounded, bounded, reduction, matmul),
    *(unary, bounded, binary, several, where, clip, reduction, running, softmax, normalization, matmul, gemm, einsum),
    *(transpose, reshape, slice_, concat, split, expand, tile, pad, gather, scatter, top_k, trilu, nd, reverse),
    *(depth_and_space, convolution, pooling),
]


def _needed(nodes: Sequence[Node], of: Sequence[str]) -> list[Node]:
    """Return the nodes that lead to an output."""
    wanted, kept = set(of), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


@st.composite
def programs(draw: Callable[..., Any], max_steps: int = 5) -> Program:
    """Return models of up to `max_steps` steps, with one to three inputs and one or two outputs."""
    g = Growing(draw)
    last = g.input(tuple(g.pick(g.sizes_of_axes) for _ in range(g.pick([2, 3, 1, 0]))))
    steps = draw(st.integers(1, max_steps))
    for _ in range(4 * max_steps):  # not every step fits
        if steps == 0:
            break
        step = draw(st.sampled_from(STEPS))
        before = (len(g.nodes), dict(g.inputs), dict(g.weights), dict(g.numbers), dict(g.constants), dict(g.shapes))
        values = [name for name in g.shapes if name[0] in "xv"]
        x = last if draw(st.sampled_from([True, True, True, False])) else draw(st.sampled_from(values))
        try:
            last = step(g, x)
            steps -= 1
        except Unfit:
            count, g.inputs, g.weights, g.numbers, g.constants, g.shapes = before
            del g.nodes[count:]
    made = [name for name in g.shapes if name[0] == "v"]
    if not made:
        last = g.unary("Tanh", last)
        made = [last]
    of = list(dict.fromkeys([last, draw(st.sampled_from(made))])) if draw(st.booleans()) else [last]
    wrt = [x for x in g.inputs if draw(st.booleans())] or list(g.inputs)
    return Program(
        _needed(g.nodes, of),
        g.inputs,
        of,
        wrt,
        g.weights,
        g.numbers,
        g.constants,
        g.opset,
        draw(st.sampled_from(["fixed", "batch", "shared", "open"])),
        draw(st.integers(0, 2**16)),
    )
