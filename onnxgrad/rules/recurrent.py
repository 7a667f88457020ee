"""Recurrent layers of a fixed number of steps, step by step.

Each layer is written out as an expression in simple operators, whose derivative is that of the layer. The products of
all inputs with the weights are one product in front; what remains in a step is small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.registry import composed
from onnxgrad.rules.samples import Mixed, Samples

Activation = Callable[[Tensor], Tensor]
#: One step: ``(projected input, states) -> states``; the first state is the output.
Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]

#: Steps beyond which the written-out expression would be larger than most models.
MOST_STEPS = 256

# --- activations, with the parameters that ONNX gives them -------------------------------------------

_DEFAULTS = {
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, 0.0),
    "ThresholdedRelu": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
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


def _activations(op: Builder, node: Node, per_direction: int, defaults: Sequence[str]) -> Iterator[list[Activation]]:
    """Yield, for each direction, the activations that the node names; those with parameters take them in turn."""
    directions = 2 if node.attr("direction") == "bidirectional" else 1
    names = [str(n) for n in node.attr("activations") or [*defaults] * directions]
    alphas, betas = (iter(node.attr(f"activation_{p}") or ()) for p in ("alpha", "beta"))
    found: list[Activation] = []
    for given in names:
        name = next((n for n in _FORMULAS if n.lower() == given.lower()), None)
        if name is None:
            raise Refusal(f"its activation {given!r} is not one of {', '.join(_FORMULAS)}")
        a, b = _DEFAULTS.get(name, (0.0, 0.0))
        if name in _DEFAULTS:
            a = float(next(alphas, a))
        if name in ("Affine", "ScaledTanh", "HardSigmoid"):
            b = float(next(betas, b))
        found.append(lambda x, f=_FORMULAS[name], a=a, b=b: f(op, x, a, b))  # type: ignore[misc]
    for i in range(directions):
        yield found[i * per_direction : (i + 1) * per_direction]


# --- what all layers share -------------------------------------------------------------------------


@dataclass(frozen=True)
class Direction:
    """The weights of one direction, without the axis of directions; a bias that is absent is zero.

    Attributes:
        w: input weights, transposed, ``(I, gates * H)``.
        r: recurrent weights, transposed, ``(H, gates * H)``.
        w_bias: ``(gates * H,)``.
        r_bias: ``(gates * H,)``.
        peepholes: ``(3 * H,)`` (LSTM), or None.
    """

    w: Tensor
    r: Tensor
    w_bias: Tensor
    r_bias: Tensor
    peepholes: Tensor | None


def _pick(op: Builder, x: Tensor, index: int, axis: int = 0) -> Tensor:
    """One slice along an axis, without it."""
    if x.shape[axis] == 1:
        return op.reshape(x, [d for i, d in enumerate(x.shape) if i != axis % x.rank])
    return op.Gather(x, op.constant(index, ir.DataType.INT64), axis=axis)


def _parts(op: Builder, x: Tensor, count: int) -> tuple[Tensor, ...]:
    """Equal parts along the last axis."""
    return (x,) if count == 1 else op.emit("Split", x, outputs=count, axis=-1, num_outputs=count)


def _direction(op: Builder, node: Node, index: int) -> Direction:
    w, r = (_pick(op, t, index) for t in node.inputs[1:3] if t is not None)
    bias, peepholes = node.input(3), node.input(7)
    rows = w.shape[:1]
    biases = [op.full(rows, 0, w.dtype)] * 2 if bias is None else list(_parts(op, _pick(op, bias, index), 2))
    return Direction(
        op.swap(w), op.swap(r), biases[0], biases[1], None if peepholes is None else _pick(op, peepholes, index)
    )


def _steps(node: Node) -> int:
    steps = node.x.shape[1 if node.attr("layout") else 0]
    if not isinstance(steps, int):
        raise Refusal(
            f"its number of steps is not fixed (size {steps!r})",
            "export the model with a fixed sequence length",
        )
    if steps > MOST_STEPS:
        raise Refusal(f"it has {steps} steps, more than {MOST_STEPS}", "export the model with shorter sequences")
    return steps


def _layer(
    op: Builder, node: Node, states: int, per_direction: Sequence[Callable[[Direction], Step]]
) -> Sequence[Tensor | None]:
    """Run all directions over all steps; return ``Y`` and the last states in ONNX's layout."""
    x, lengths = node.x, node.input(4)
    if node.attr("layout"):
        x = op.Transpose(x, perm=[1, 0, 2])
    steps, batch, hidden = _steps(node), x.shape[1], int(node.attr("hidden_size") or 0)
    hidden = hidden or int(node.inputs[2].shape[-1])  # type: ignore[union-attr]
    outputs: list[Tensor] = []
    last: list[list[Tensor]] = [[] for _ in range(states)]
    for index, step_of in enumerate(per_direction):
        weights = _direction(op, node, index)
        backward = index == 1 or node.attr("direction") == "reverse"
        first = tuple(_initial(op, node, k, index, batch, hidden) for k in range(states))
        turned = _reversed(op, x, lengths, steps) if backward else x
        projected = op.MatMul(turned, weights.w) + weights.w_bias
        ys, final = _run(op, step_of(weights), projected, first, lengths, steps)
        outputs.append(_reversed(op, ys, lengths, steps) if backward else ys)
        for k, state in enumerate(final):
            last[k].append(op.unsqueeze(state, [-3]))
    whole = [op.unsqueeze(y, [-3]) for y in outputs]
    y = whole[0] if len(whole) == 1 else op.Concat(*whole, axis=1)
    finals = [s[0] if len(s) == 1 else op.Concat(*s, axis=0) for s in last]
    if node.attr("layout"):
        y = op.Transpose(y, perm=[2, 0, 1, 3])
        finals = [op.Transpose(s, perm=[1, 0, 2]) for s in finals]
    return [y, *finals][: len(node.outputs)]


def _initial(op: Builder, node: Node, state: int, direction: int, batch: Dim, hidden: int) -> Tensor:
    given = node.input(5 + state)
    if given is None:
        return op.full((batch, hidden), 0, node.x.dtype)
    return _pick(op, given, direction, axis=1 if node.attr("layout") else 0)


def _reversed(op: Builder, x: Tensor, lengths: Tensor | None, steps: int) -> Tensor:
    """Turn the steps (axis 0) of each sample around, within its own length."""
    if steps == 1:
        return x
    if lengths is not None:
        return op.ReverseSequence(x, op.cast(lengths, ir.DataType.INT64), time_axis=0, batch_axis=1)
    return op.Gather(x, list(reversed(range(steps))), axis=0)


def _run(
    op: Builder, step: Step, x: Tensor, states: tuple[Tensor, ...], lengths: Tensor | None, steps: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one direction over ``x``, ``(T, B, gates * H)``; return all outputs ``(T, B, H)`` and the last states.

    Behind the end of a sample's sequence the states stay as they are, and the output is 0.
    """
    inputs = (x,) if steps == 1 else op.emit("Split", x, outputs=steps, axis=0, num_outputs=steps)
    ys = []
    for t, piece in enumerate(inputs):
        after = step(op.squeeze(piece, [0]), states)
        y = after[0]
        if lengths is not None:
            alive = op.unsqueeze(op.Greater(lengths, op.constant(t, lengths.dtype)), [-1])
            after = tuple(op.Where(alive, new, old) for new, old in zip(after, states, strict=True))
            y = op.Where(alive, y, 0)
        states = after
        ys.append(op.unsqueeze(y, [-3]))
    return ys[0] if steps == 1 else op.Concat(*ys, axis=0), states


def _clipped(op: Builder, node: Node) -> Activation:
    """What happens to the sums in front of the activations."""
    bound = node.attr("clip")
    return (lambda x: op.Clip(x, -float(bound), float(bound))) if bound else (lambda x: x)


def _follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Samples lie on axis 1 of X and of the initial states, or on axis 0 with ``layout=1``."""
    axis = 0 if node.attr("layout") else 1
    if any(inputs[i] for i in range(1, len(inputs)) if i not in (5, 6)):
        raise Mixed("samples reach it through a weight, which all samples share")
    places = {s for s in inputs if s is not None}
    if places != {Samples(axis)}:
        raise Mixed(f"it keeps samples apart on axis {axis} of its input only")
    place = places.pop()
    y = place if axis == 0 else replace(place, axis=2)
    return [y, *[place] * (len(node.outputs) - 1)]


# --- the layers ----------------------------------------------------------------------------------


def rnn(op: Builder, node: Node) -> Sequence[Tensor | None]:
    """``h' = f(x W + w + h R + r)``."""
    clip = _clipped(op, node)

    def step_of(f: Activation) -> Callable[[Direction], Step]:
        return lambda d: lambda x, states: (f(clip(x + op.MatMul(states[0], d.r) + d.r_bias)),)

    return _layer(op, node, 1, [step_of(*fs) for fs in _activations(op, node, 1, ("Tanh",))])


def gru(op: Builder, node: Node) -> Sequence[Tensor | None]:
    """``h' = (1 - z) n + z h`` with gates z, r = f(…), and ``n = g(x W + w + (r h) R + r_bias)``, or
    ``n = g(x W + w + r (h R + r_bias))`` with `linear_before_reset`.
    """
    clip, before = _clipped(op, node), node.attr("linear_before_reset")

    def step_of(f: Activation, g: Activation) -> Callable[[Direction], Step]:
        def weighted(d: Direction) -> Step:
            r_gates, r_new = _gate_columns(op, d.r, 2)
            b_gates, b_new = _gate_columns(op, d.r_bias, 2)

            def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                (h,) = states
                x_gates, x_new = _gate_columns(op, x, 2)
                z, r = (f(clip(s)) for s in _parts(op, x_gates + op.MatMul(h, r_gates) + b_gates, 2))
                hidden = r * (op.MatMul(h, r_new) + b_new) if before else op.MatMul(r * h, r_new) + b_new
                return ((1 - z) * g(clip(x_new + hidden)) + z * h,)

            return step

        return weighted

    return _layer(op, node, 1, [step_of(*fs) for fs in _activations(op, node, 2, ("Sigmoid", "Tanh"))])


def _gate_columns(op: Builder, x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Split the columns of three gates into those of the first two and of the last."""
    hidden = int(x.shape[-1]) // 3
    a, b = op.emit("Split", x, [first * hidden, hidden], outputs=2, axis=-1)
    return a, b


def lstm(op: Builder, node: Node) -> Sequence[Tensor | None]:
    """``c' = f c + i g(…)``, ``h' = o h(c')`` with gates i, o, f (peepholes look at c, that of o at c'); f = 1 - i with
    `input_forget`.
    """
    clip, coupled = _clipped(op, node), node.attr("input_forget")

    def step_of(f: Activation, g: Activation, out: Activation) -> Callable[[Direction], Step]:
        def weighted(d: Direction) -> Step:
            zero = op.constant(0, d.w.dtype)
            p_i, p_o, p_f = (zero,) * 3 if d.peepholes is None else _parts(op, d.peepholes, 3)

            def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                h, c = states
                s_i, s_o, s_f, s_c = _parts(op, x + op.MatMul(h, d.r) + d.r_bias, 4)
                i = f(clip(s_i + p_i * c))
                forget = 1 - i if coupled else f(clip(s_f + p_f * c))
                c = forget * c + i * g(clip(s_c))
                return f(clip(s_o + p_o * c)) * out(c), c

            return step

        return weighted

    defaults = ("Sigmoid", "Tanh", "Tanh")
    return _layer(op, node, 2, [step_of(*fs) for fs in _activations(op, node, 3, defaults)])


_REMARK = f"for a fixed number of steps, at most {MOST_STEPS}"
composed("RNN", rnn, versions=(14, 22), follow=_follow, remark=_REMARK)
composed("GRU", gru, versions=(14, 22), follow=_follow, remark=_REMARK)
composed("LSTM", lstm, versions=(14, 22), follow=_follow, remark=_REMARK)
