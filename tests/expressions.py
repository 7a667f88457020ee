"""What rules are held to that are written as an expression in simpler operators; see `check_expression`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

import onnxgrad
from onnxgrad.graph.builder import Builder
from onnxgrad.model.normalize import normalize
from onnxgrad.model.read import read
from onnxgrad.model.write import to_proto
from onnxgrad.rules import REGISTRY
from tests.harness import (
    Case,
    Runner,
    _check_second_order,
    _feeds,
    close,
    differences,
    inner,
    make_model,
)

#: Step of five-point differences in float32: rounding / step and step^4 are both about 1e-6.
STEP = 0.05


def expression_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the expression that stands for the one node of a model, with the node's outputs ``y0, …``."""
    working = normalize(read(model))
    (node,) = working.graph
    op = Builder(working)
    view = op.view(node)
    rule = REGISTRY.get(view.operator)
    assert rule is not None
    assert rule.expression is not None
    with op.unshared():
        found = rule.expression(op, view)
    outputs = []
    for i, (tensor, y) in enumerate(zip(found if isinstance(found, Sequence) else [found], view.outputs, strict=False)):
        if tensor is not None and y is not None and node.outputs[i].name:
            assert tensor.dtype == y.dtype
            assert tensor.rank == y.rank
            value = op.named_identity(tensor)
            node.outputs[i].name = f"node/{i}"
            value.name = f"y{i}"
            outputs.append(value)
    working.graph.outputs[:] = outputs
    op.finish(outputs)
    if not any(y.uses() for y in node.outputs):
        working.graph.remove(node)
    return to_proto(working)


def with_names(model: onnx.ModelProto, sizes: Sequence[int]) -> onnx.ModelProto:
    """Return the model with the given sizes of its inputs replaced by names, the same for the same size."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for value in named.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value in sizes:
                dim.dim_param = f"size_{dim.dim_value}"
    for value in named.graph.output:
        value.ClearField("type")
    return named


def without_outputs(model: onnx.ModelProto, absent: Sequence[int]) -> onnx.ModelProto:
    """Return the model with some optional outputs of its node left out."""
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    (node,) = smaller.graph.node
    for i in absent:
        node.output[i] = ""
    kept = [value for value in model.graph.output if int(value.name[1:]) not in absent]
    del smaller.graph.output[:]
    smaller.graph.output.extend(kept)
    return smaller


def check_expression(
    case: Case,
    *,
    values: float = 2e-6,
    derivatives: float = 1e-4,
    names: Sequence[int] | None = None,
    absent: Sequence[int] = (),
) -> None:
    """Hold an expression to the node that it stands for, in float32 in onnxruntime, with fixed and with symbolic sizes.

    Its values are those of the node; the VJP agrees with differences of the node, and the JVP and several seeds at once
    with the VJP.

    Args:
        case: the node and the point.
        values: tolerance of the values.
        derivatives: tolerance of the derivatives against differences.
        names: the sizes that become symbolic (None: all).
        absent: positions of optional outputs to leave out.
    """
    rng = np.random.default_rng(0)
    feeds = {
        f"x{i}": a.astype(np.float32) if a.dtype == np.float64 else a
        for i, a in enumerate(case.inputs)
        if a is not None and (i in case.fed or (a.dtype == np.float64 and i not in case.fixed))
    }
    for dynamic in (False, True) if case.dynamic else (False,):
        model = without_outputs(make_model(case, np.float32, dynamic=dynamic and names is None), absent)
        if dynamic and names is not None:
            model = with_names(model, names)
        plain = Runner(model, only_runtime=True)
        primal = plain(feeds)
        for name, value in Runner(expression_model(model), only_runtime=True)(feeds).items():
            close(value, primal[name], values, f"{name} of the expression")
        of = [y for y in primal if primal[y].dtype == np.float32 and (case.of is None or int(y[1:]) in case.of)]
        check_derivatives(model, feeds, of, derivatives, rng)


def check_derivatives(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], of: list[str], tolerance: float, rng: np.random.Generator
) -> None:
    """Hold the derivatives of a model of one node to differences, in float32 in onnxruntime."""
    plain = Runner(model, only_runtime=True)
    wrt = [x for x, value in feeds.items() if value.dtype == np.float32]

    def normal(shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def direction(shape: tuple[int, ...]) -> np.ndarray:
        """A step along it is small in norm, so that differences are right however many elements there are."""
        t = normal(shape)
        return t / np.float32(max(1.0, np.linalg.norm(t) / 2))

    cts = {y: normal(value.shape) for y, value in plain(feeds).items() if y in of}
    tangents = {x: direction(feeds[x].shape) for x in wrt}
    seeds = {f"adj_{y}": np.stack([ct, -2 * ct]) for y, ct in cts.items()}
    back = Runner(onnxgrad.vjp(model, of, wrt, seeds="s"), only_runtime=True)({**feeds, **seeds})
    adjoints = {x: back[f"adj_{x}"][0] for x in wrt}
    for x in wrt:
        close(back[f"adj_{x}"][1], -2 * adjoints[x], 1e-5, f"adj_{x} of the second seed")
        at = {
            t: plain({**feeds, x: (feeds[x] + np.float32(t * STEP) * tangents[x]).astype(np.float32)})
            for t in (-2, -1, 1, 2)
        }
        change = {y: (at[-2][y] - 8.0 * at[-1][y] + 8.0 * at[1][y] - at[2][y]) / (12 * STEP) for y in of}
        exact, numeric = inner({x: adjoints[x]}, tangents), inner(cts, change)
        scale = max(1.0, float(np.abs(adjoints[x] * tangents[x]).sum()))
        assert abs(exact - numeric) <= tolerance * scale, f"adj_{x}: {exact} but differences give {numeric}"
    pushed = Runner(onnxgrad.jvp(model, of, wrt), only_runtime=True)(
        {**feeds, **{f"fwd_{x}": t for x, t in tangents.items()}}
    )
    left, right = inner(cts, {y: pushed[f"fwd_{y}"] for y in of}), inner(adjoints, tangents)
    scale = max(1.0, float(sum(np.abs(adjoints[x] * tangents[x]).sum() for x in wrt)))
    assert abs(left - right) <= 1e-5 * scale, f"⟨ct, J t⟩ = {left} but ⟨Jᵀ ct, t⟩ = {right}"


def check_exact(case: Case, absent: Sequence[int] = ()) -> None:
    """Hold the derivatives to differences of the expression in float64, and second ones to differences of these.

    With `check_expression`, which shows that the expression is the node, the derivative is that of the node, also
    where the node itself has no kernel in float64.
    """
    rng = np.random.default_rng(0)
    model = without_outputs(make_model(case), absent)
    feeds, wrt = _feeds(case)
    plain = Runner(expression_model(model))
    primal = plain(feeds)
    of = [y for y in primal if primal[y].dtype == np.float64 and (case.of is None or int(y[1:]) in case.of)]
    cts = {y: rng.normal(size=primal[y].shape) for y in of}
    seeds = {f"adj_{y}": ct for y, ct in cts.items()}
    derivative = onnxgrad.vjp(model, of, wrt, keep_outputs=False)
    adjoints = Runner(derivative)({**feeds, **seeds})
    for x in wrt:
        direction = {x: rng.normal(size=feeds[x].shape)}
        change = differences(plain, feeds, direction)
        exact, numeric = inner({x: adjoints[f"adj_{x}"]}, direction), inner(cts, {y: change[y] for y in of})
        scale = max(1.0, float(np.abs(adjoints[f"adj_{x}"]).sum()))
        assert abs(exact - numeric) <= case.differences * scale, f"adj_{x}: {exact} but differences give {numeric}"
    if case.smooth:
        _check_second_order(derivative, {**feeds, **seeds}, rng)
