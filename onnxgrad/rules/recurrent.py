"""Recurrent layers, step by step, for any number of steps.

Each layer is written as a `Scan` over its steps, whose derivative is that of the layer. What does not depend on the
states is computed for all steps at once, in front of it: above all the product of the inputs with their weights. The
`Scan` itself is not run: its outputs are those of the node, from which its derivative has the states. Very short
sequences of a fixed length are written out, by the same function for one step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim
from onnxgrad.graph.flow import Step, scan
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.registry import composed
from onnxgrad.rules.samples import Mixed, Samples

Activation = Callable[[Tensor], Tensor]
Tensors = Sequence[Tensor]

#: Number of steps, where it is fixed, up to which they are written out one by one. Times in milliseconds in onnxruntime
#: 1.32, one thread, of an LSTM and its derivative by the input: written out / as `Scan`; nodes written out:
#:
#:     steps                      1              2              4              8             16
#:     H = 8, batch 1       0.023/0.040    0.040/0.044    0.074/0.058    0.134/0.084    0.249/0.122
#:     H = 128, batch 1     0.040/0.078    0.092/0.101    0.145/0.137    0.272/0.185    0.513/0.311
#:     H = 128, batch 16    0.088/0.165    0.234/0.290    0.363/0.404    0.982/0.964    2.116/1.993
#:     nodes                     44             87            159            303            591
#:
#: The second derivative has its break-even there, too (3 steps, H = 8: 0.153/0.164, 4 steps: 0.217/0.205).
UNROLLED_STEPS = 3

# --- activations, with the parameters that ONNX gives them -------------------------------------------

#: Their defaults; None where ONNX names none (Affine, ScaledTanh) or onnxruntime 1.32 takes another (0).
_DEFAULTS: dict[str, tuple[float | None, float | None]] = {
    "Affine": (None, None),
    "LeakyRelu": (0.01, 0.0),
    "ThresholdedRelu": (None, 0.0),
    "ScaledTanh": (None, None),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, 0.0),
}

_FORMULAS: dict[str, Callable[[Builder, Tensor, float, float], Tensor]] = {
    "Relu": lambda op, x, a, b: op.Relu(x),
    "Tanh": lambda op, x, a, b: op.Tanh(x),
    "Sigmoid": lambda op, x, a, b: op.Sigmoid(x),
    "Softsign": lambda op, x, a, b: x / (1 + op.Abs(x)),
    "Softplus": lambda op, x, a, b: op.Softplus(x),
    "Affine": lambda op, x, a, b: a * x + b,
    "LeakyRelu": lambda op, x, a, b: op.LeakyRelu(x, alpha=a),
    "ThresholdedRelu": lambda op, x, a, b: op.Where(x > a, x, 0),
    "ScaledTanh": lambda op, x, a, b: a * op.Tanh(b * x),
    "HardSigmoid": lambda op, x, a, b: op.HardSigmoid(x, alpha=a, beta=b),
    "Elu": lambda op, x, a, b: op.Elu(x, alpha=a),
}


def _activations(op: Builder, node: Node, directions: int, defaults: Sequence[str]) -> Iterator[list[Activation]]:
    """Yield, for each direction, the activations that the node names; those with parameters take them in turn."""
    names = [str(n) for n in node.attr("activations") or [*defaults] * directions]
    alphas, betas = (iter(node.attr(f"activation_{p}") or ()) for p in ("alpha", "beta"))
    found: list[Activation] = []
    for given in names:
        name = next((n for n in _FORMULAS if n.lower() == given.lower()), None)
        if name is None:
            raise Refusal(f"its activation {given!r} is not one of {', '.join(_FORMULAS)}")
        a, b = _DEFAULTS.get(name, (0.0, 0.0))
        if name in _DEFAULTS:
            a = next(alphas, a)
        if name in ("Affine", "ScaledTanh", "HardSigmoid"):
            b = next(betas, b)
        if a is None or b is None:
            raise Refusal(
                f"its activation {name} has no parameters, for which ONNX and onnxruntime have no common default",
                "give it the attributes activation_alpha and activation_beta",
            )
        found.append(functools.partial(lambda f, a, b, x: f(op, x, a, b), _FORMULAS[name], float(a), float(b)))
    each = len(defaults)
    if len(found) < each * directions:  # more are ignored: RNN has two by default
        raise Refusal(f"it names {len(found)} activations, fewer than {each} for each direction")
    yield from (found[i * each : (i + 1) * each] for i in range(directions))


# --- what all layers share -------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """The weights of one direction, without the axis of directions; a bias that is absent is zero.

    Attributes:
        hidden: the size H of a state.
        w: of the input, transposed, ``(I, gates * H)``.
        r: of the state, ``(gates * H, H)``.
        w_bias: added to the product with `w`, ``(gates * H,)``.
        r_bias: added to the product with `r`, ``(gates * H,)``.
        peepholes: those of the gates i, o and f, ``(H,)`` each (LSTM), or None.
    """

    hidden: int
    w: Tensor
    r: Tensor
    w_bias: Tensor
    r_bias: Tensor
    peepholes: Tensors | None


@dataclass(frozen=True)
class Layer:
    """A kind of layer.

    Attributes:
        gates: how many blocks of H rows its weights have.
        states: how many states it has; the first is its output.
        activations: their names, unless a node has others.
        cell: ``f(op, node, weights, x W, *activations)`` gives one step, and what of the inputs a step takes.
    """

    gates: int
    states: int
    activations: Sequence[str]
    cell: Callable[..., tuple[Step, Tensors]]


def _expression(layer: Layer, op: Builder, node: Node) -> Sequence[Tensor | None]:
    """Run all directions over all steps; return ``Y`` and the last states in ONNX's layout."""
    x = op.Transpose(node.x, perm=[1, 0, 2]) if node.attr("layout") else node.x
    alive, any_step = _running(op, node.input(4), *x.shape[:2])
    if alive is not None:
        x = op.Where(alive, x, 0)  # behind the end of a sequence may be anything, also nan
    directions = 2 if node.attr("direction") == "bidirectional" else 1
    found: list[Tensors] = []
    for index, activations in enumerate(_activations(op, node, directions, layer.activations)):
        weights = _weights(op, node, layer, directions, index)
        step, elements = layer.cell(op, node, weights, op.MatMul(x, weights.w), *activations)
        sizes = (x.shape[1], directions, weights.hidden)
        first = [_first_state(op, node, k, sizes, index) for k in range(layer.states)]
        backward = index == 1 or node.attr("direction") == "reverse"
        outputs = functools.partial(_outputs_of_node, op, node, alive, first[0], index)
        found.append([op.unsqueeze(t, [-3]) for t in _run(op, step, first, elements, alive, backward, outputs)])
    y, *last = (t[0] if directions == 1 else op.Concat(*t, axis=-3) for t in zip(*found, strict=True))
    if any_step is not None:
        last = [op.Where(any_step, s, 0) for s in last]
    if node.attr("layout"):
        y, last = op.Transpose(y, perm=[2, 0, 1, 3]), [op.Transpose(s, perm=[1, 0, 2]) for s in last]
    return [y, *last][: len(node.outputs)]


def _weights(op: Builder, node: Node, layer: Layer, directions: int, index: int) -> Weights:
    hidden = node.attr("hidden_size") or node.inputs[2].shape[-1]  # type: ignore[union-attr]
    if not isinstance(hidden, int):
        raise Refusal("the size of its states is not known", "give it the attribute hidden_size")
    rows = layer.gates * hidden

    def pick(position: int, *sizes: Dim) -> Tensor | None:
        x = node.input(position)
        return None if x is None else _pick(op, x, (directions, *sizes), index)

    w, r, bias, peepholes = (
        pick(1, rows, node.x.shape[-1]),
        pick(2, rows, hidden),
        pick(3, 2 * rows),
        pick(7, 3 * hidden),
    )
    assert w is not None
    assert r is not None
    w_bias, r_bias = [op.full((rows,), 0, w.dtype)] * 2 if bias is None else _parts(op, bias, 2)
    return Weights(hidden, op.swap(w), r, w_bias, r_bias, None if peepholes is None else _parts(op, peepholes, 3))


def _first_state(op: Builder, node: Node, state: int, sizes: tuple[Dim, int, int], index: int) -> Tensor:
    """Return a state before the first step; `sizes` are those of batch, directions and state."""
    given, (batch, directions, hidden) = node.input(5 + state), sizes
    if given is None:
        return op.full((batch, hidden), 0, node.x.dtype)
    if node.attr("layout"):
        return _pick(op, given, sizes, index, axis=1)
    return _pick(op, given, (directions, batch, hidden), index)


def _pick(op: Builder, x: Tensor, shape: Sequence[Dim], index: int, axis: int = 0) -> Tensor:
    """Return one slice along an axis, without it, of a tensor that must have the given shape."""
    x = op.reshape(x, shape)
    return (
        op.squeeze(x, [axis]) if x.shape[axis] == 1 else op.Gather(x, op.constant(index, ir.DataType.INT64), axis=axis)
    )


def _parts(op: Builder, x: Tensor, count: int) -> Tensors:
    """Split the last axis into equal parts."""
    return op.emit("Split", x, outputs=count, axis=-1, num_outputs=count)


def _split(op: Builder, x: Tensor, sizes: Sequence[int], axis: int = -1) -> Tensors:
    """Split an axis into parts of these sizes."""
    return op.emit("Split", x, list(sizes), outputs=len(sizes), axis=axis)


def _running(op: Builder, lengths: Tensor | None, steps: Dim, batch: Dim) -> tuple[Tensor | None, Tensor | None]:
    """Return which steps are within a sequence, ``(T, B, 1)``, and which sequences have any, ``(B, 1)``; None: all.

    A sequence without a step ends in states of 0, not in the first ones: ONNX leaves that open, and onnxruntime has it
    so.
    """
    if lengths is None:
        return None, None if isinstance(steps, int) and steps > 0 else op.size(steps) > 0
    lengths = op.reshape(op.cast(lengths, ir.DataType.INT64), (batch, 1))
    return op.Less(op.reshape(op.range(steps), (steps, 1, 1)), lengths), lengths > 0


def _run(
    op: Builder,
    step: Step,
    first: Tensors,
    elements: Tensors,
    alive: Tensor | None,
    backward: bool,
    outputs_of_node: Callable[[], Tensor],
) -> Tensors:
    """Run one direction; return the outputs of all steps, ``(T, B, H)``, and the states after the last, ``(B, H)``.

    Behind the end of a sample's sequence its states stay as they are, and the output is 0.
    """
    if alive is not None:
        step, elements = _while_alive(op, step), [*elements, alive]
    if elements[0].shape[0] in range(1, UNROLLED_STEPS + 1):
        last, (y,) = _unrolled(op, step, first, elements, backward=backward)
    else:
        last, (y,) = scan(op, step, first, elements, backward=backward, known=[outputs_of_node()])
    return [y if alive is None else op.Where(alive, y, 0), *last]


def _outputs_of_node(op: Builder, node: Node, alive: Tensor | None, first: Tensor, index: int) -> Tensor:
    """Return the outputs of all steps of one direction, ``(T, B, H)``, as the node itself computes them: faster than
    any `Scan` can.

    Behind the end of a sequence, where derivatives are 0 whatever the state is, that is the first state: so the state
    in front of a step that runs is right in either direction.
    """
    y = node.outputs[0]
    if y is None or not y.value.name:
        y = op.emit(node.op_type, *node.inputs, **{name: node.attrs[name] for name in node.ir.attributes})[0]
    if node.attr("layout"):
        y = op.Transpose(y, perm=[1, 2, 0, 3])
    steps, directions, batch, hidden = y.shape
    y = _pick(op, y, (steps, directions, batch, hidden), index, axis=1)
    return y if alive is None else op.Where(alive, y, first)


def _while_alive(op: Builder, step: Step) -> Step:
    """Return a step that leaves the states, of which the first is the output, as they are where its last element is
    false.
    """

    def masked(states: Tensors, elements: Tensors) -> tuple[Tensors, Tensors]:
        after, _ = step(states, elements[:-1])
        kept = [op.Where(elements[-1], new, old) for new, old in zip(after, states, strict=True)]
        return kept, kept[:1]

    return masked


def _unrolled(
    op: Builder, step: Step, states: Tensors, elements: Tensors, *, backward: bool
) -> tuple[Tensors, Tensors]:
    """Do what `scan` does, with all iterations written out, for a fixed number of at least one."""
    length = int(elements[0].shape[0])
    split = [(e,) if length == 1 else op.emit("Split", e, outputs=length, num_outputs=length) for e in elements]
    slices = [[op.squeeze(piece, [0]) for piece in pieces] for pieces in zip(*split, strict=True)]
    found = []
    for inputs in slices[::-1] if backward else slices:
        states, results = step(states, inputs)
        found.append([op.unsqueeze(r, [-r.rank - 1]) for r in results])
    stacked = zip(*(found[::-1] if backward else found), strict=True)
    return states, [r[0] if length == 1 else op.Concat(*r, axis=0) for r in stacked]


def _clip(op: Builder, node: Node) -> Activation:
    """Return what happens to the sums in front of the activations."""
    bound = node.attr("clip")
    return (lambda x: op.Clip(x, -float(bound), float(bound))) if bound else (lambda x: x)


def _follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Samples lie on axis 1 of X and of the states and on axis 2 of Y, or on axis 0 of all with ``layout=1``."""
    axis = 0 if node.attr("layout") else 1
    if any(s for i, s in enumerate(inputs) if i not in (0, 5, 6)):
        raise Mixed("samples reach it through a weight, which all samples share")
    places = {s for s in inputs if s is not None}
    if {s.axis for s in places} != {axis} or len(places) > 1:
        raise Mixed(f"it keeps samples apart on axis {axis} of its input only")
    (place,) = places
    return [replace(place, axis=2 * axis), *[place] * (len(node.outputs) - 1)]


# --- the layers ----------------------------------------------------------------------------------


def _rnn(op: Builder, node: Node, weights: Weights, x: Tensor, f: Activation) -> tuple[Step, Tensors]:
    """``h' = f(x W + w + h R + r)``."""
    clip, r = _clip(op, node), op.swap(weights.r)

    def step(states: Tensors, elements: Tensors) -> tuple[Tensors, Tensors]:
        h = f(clip(elements[0] + op.MatMul(states[0], r)))
        return [h], [h]

    return step, [x + (weights.w_bias + weights.r_bias)]


def _gru(op: Builder, node: Node, weights: Weights, x: Tensor, f: Activation, g: Activation) -> tuple[Step, Tensors]:
    """``h' = (1 - z) n + z h`` with gates z, r = f(…), and ``n = g(x W + w + (r h) R + r_bias)``, or
    ``n = g(x W + w + r (h R + r_bias))`` with `linear_before_reset`.
    """
    clip, before, sizes = _clip(op, node), node.attr("linear_before_reset"), (2 * weights.hidden, weights.hidden)
    # split before they are transposed, so that the transposes cancel in the derivative
    r_all, r_gates, r_new = map(op.swap, (weights.r, *_split(op, weights.r, sizes, axis=-2)))

    def step(states: Tensors, elements: Tensors) -> tuple[Tensors, Tensors]:
        (h,), (x_gates, x_new) = states, elements
        if before:
            h_gates, h_new = _split(op, op.MatMul(h, r_all) + weights.r_bias, sizes)
        else:
            h_gates = op.MatMul(h, r_gates)
        z, r = _parts(op, f(clip(x_gates + h_gates)), 2)
        n = g(clip(x_new + (r * h_new if before else op.MatMul(r * h, r_new))))
        h = n + z * (h - n)
        return [h], [h]

    return step, _split(op, x + (weights.w_bias if before else weights.w_bias + weights.r_bias), sizes)


def _lstm(
    op: Builder, node: Node, weights: Weights, x: Tensor, f: Activation, g: Activation, out: Activation
) -> tuple[Step, Tensors]:
    """``c' = f c + i g(…)``, ``h' = o out(c')`` with gates i, o, f, each ``f(…)``; peepholes let i and f look at c, and
    o at c'. With `input_forget`, f = 1 - i.
    """
    clip, coupled, hidden = _clip(op, node), node.attr("input_forget"), weights.hidden
    r = op.swap(weights.r)

    def plain(s: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates, new = _split(op, clip(s), (3 * hidden, hidden))
        i, o, forget = _parts(op, f(gates), 3)
        c = (1 - i if coupled else forget) * c + i * g(new)
        return o * out(c), c

    def looking(s: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        assert weights.peepholes is not None
        (s_i, s_o, s_f, new), (p_i, p_o, p_f) = _parts(op, s, 4), weights.peepholes
        i = f(clip(s_i + p_i * c))
        c = (1 - i if coupled else f(clip(s_f + p_f * c))) * c + i * g(clip(new))
        return f(clip(s_o + p_o * c)) * out(c), c

    def step(states: Tensors, elements: Tensors) -> tuple[Tensors, Tensors]:
        s = elements[0] + op.MatMul(states[0], r)
        h, c = (plain if weights.peepholes is None else looking)(s, states[1])
        return [h, c], [h]

    return step, [x + (weights.w_bias + weights.r_bias)]


_REMARK = "a sequence of no step ends in states of 0, as in onnxruntime"
for _name, _layer in {
    "RNN": Layer(1, 1, ("Tanh",), _rnn),
    "GRU": Layer(3, 1, ("Sigmoid", "Tanh"), _gru),
    "LSTM": Layer(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm),
}.items():
    composed(_name, functools.partial(_expression, _layer), versions=(14, 22), follow=_follow, remark=_REMARK)
