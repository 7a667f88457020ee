"""What every rule is held to; see `check_rule`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import scipy.special
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.aionnx_preview_training import op_adam

import onnxgrad
from onnxgrad.augmentation import Augmentation
from onnxgrad.rules import REGISTRY
from onnxgrad.rules.samples import Mixed, Samples
from onnxgrad.runtime.operators import Flatten, MaxPool
from tests import attention, recurrent, regions, windows

#: Five-point differences with this step are off by about step^4 (1e-16) and rounding / step (1e-12), so 1e-8 leaves
#: room for magnitudes of derivatives and for sums over many elements.
STEP, DIFFERENCES = 1e-4, 1e-8
#: Two ways to the same number in float64, differing in rounding only.
ROUNDING = 1e-11


@dataclass
class Case:
    """One node and the point at which it is differentiated.

    Attributes:
        op: operator.
        inputs: arrays (None: absent); float64 ones are differentiated by, all others are constants.
        attrs: attributes.
        fixed: positions of float64 inputs that become constants (initializers), and are not differentiated by.
        fed: positions of inputs that are no float64 and are fed all the same: unknown before run time.
        outputs: number of outputs; `of` those to be differentiated (None: all floating-point ones).
        smooth: whether the second derivative exists at the point and is checked too.
        dynamic: whether the case is repeated with every size of every fed input symbolic.
        opset: opset of the model; domain of the operator.
        label: what sets the case apart, for its name.
        differences: tolerance against differences, wider only for kernels that compute in float32 inside.
        float32: relative tolerance of the derivative in float32 in onnxruntime against float64; None: do not run.
    """

    op: str
    inputs: Sequence[np.ndarray | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    fixed: Sequence[int] = ()
    fed: Sequence[int] = ()
    outputs: int = 1
    of: Sequence[int] | None = None
    smooth: bool = True
    dynamic: bool = True
    opset: int = 22
    domain: str = ""
    label: str = ""
    float32: float | None = 1e-4
    differences: float = DIFFERENCES

    @property
    def name(self) -> str:
        return f"{self.op}-{self.label}" if self.label else self.op


def make_model(case: Case, dtype: type = np.float64, dynamic: bool = False) -> onnx.ModelProto:
    """Return the one-node model of a case: inputs ``x0, x1, …``, outputs ``y0, …``."""
    names, inputs, constants = [], [], []
    for i, array in enumerate(case.inputs):
        if array is None:
            names.append("")
            continue
        name = f"x{i}"
        names.append(name)
        if _is_wrt(case, i):
            shape = [f"{name}_{a}" for a in range(array.ndim)] if dynamic else array.shape
            inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape))
        elif i in case.fed:
            inputs.append(
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            )
        else:
            array = array.astype(dtype) if array.dtype == np.float64 else array
            constants.append(onnx.numpy_helper.from_array(array, name))
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, name="n", domain=case.domain, **case.attrs)
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=y) for y in outputs], constants)
    opsets = [helper.make_opsetid("", case.opset)]
    if case.domain:
        opsets.append(helper.make_opsetid(case.domain, 1 if case.domain != "ai.onnx.ml" else 3))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=False)
    del model.graph.output[:]
    for value in inferred.graph.output:
        if dynamic and value.type.tensor_type.HasField("shape"):
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
        model.graph.output.append(value)
    return model


def _is_wrt(case: Case, i: int) -> bool:
    array = case.inputs[i]
    return array is not None and array.dtype == np.float64 and i not in case.fixed


def _feeds(case: Case, dtype: type = np.float64) -> tuple[dict[str, np.ndarray], list[str]]:
    """Everything that is fed, and the names of what is differentiated by."""
    wrt = {f"x{i}": a.astype(dtype) for i, a in enumerate(case.inputs) if a is not None and _is_wrt(case, i)}
    return {**wrt, **{f"x{i}": a for i, a in enumerate(case.inputs) if a is not None and i in case.fed}}, list(wrt)


class Erf(OpRun):
    """ONNX's reference computes `Erf` in float32 whatever the input; differences need it in float64."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (scipy.special.erf(x),)


class Gelu(OpRun):
    """The same for `Gelu`."""

    op_domain = ""

    def _run(self, x: np.ndarray, approximate: str | None = None) -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2))),)


class LRN(OpRun):
    """ONNX's reference walks over the batch where it should walk over the channels."""

    op_domain = ""

    def _run(self, x: np.ndarray, alpha: float, beta: float, bias: float, size: int) -> tuple[np.ndarray]:
        before, channels = (size - 1) // 2, x.shape[1]
        squares = [np.sum(x[:, max(0, c - before) : c + size // 2 + 1] ** 2, axis=1) for c in range(channels)]
        return ((x / (bias + alpha / size * np.stack(squares, axis=1)) ** beta).astype(x.dtype),)


class MeanVarianceNormalization(OpRun):
    """The function that defines it has constants in float32, and so no meaning in float64."""

    op_domain = ""

    def _run(self, x: np.ndarray, axes: Sequence[int]) -> tuple[np.ndarray]:
        over = tuple(axes)
        return ((x - x.mean(over, keepdims=True)) / (x.std(over, keepdims=True) + 1e-9),)


class GatherElements(OpRun):
    """ONNX's reference knows no negative axis, and few elements."""

    op_domain = ""

    def _run(self, x, index, axis=0):  # type: ignore[no-untyped-def]
        axis %= x.ndim
        part = tuple(slice(None) if a == axis else slice(n) for a, n in enumerate(index.shape))
        return (np.take_along_axis(x[part], index, axis),)


class Pad(OpRun):
    """ONNX's reference knows no negative padding, which takes elements away."""

    op_domain = ""

    def _run(self, x, pads, value=None, axes=None, mode="constant"):  # type: ignore[no-untyped-def]
        axes = [a % x.ndim for a in (range(x.ndim) if axes is None else axes)]
        before, behind = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=True))
        crop = [slice(max(-before.get(a, 0), 0), x.shape[a] + min(behind.get(a, 0), 0)) for a in range(x.ndim)]
        grow = [(max(before.get(a, 0), 0), max(behind.get(a, 0), 0)) for a in range(x.ndim)]
        fill = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        return (np.pad(x[tuple(crop)], grow, mode=mode, **fill),)


class Mean(OpRun):
    """ONNX's reference adds to its first input, however small that is."""

    op_domain = ""

    def _run(self, *x):  # type: ignore[no-untyped-def]
        return (sum(x[1:], x[0]) / np.asarray(len(x), x[0].dtype),)


class Softsign(OpRun):
    """ONNX's reference fails for a tensor without axes."""

    op_domain = ""

    def _run(self, x):  # type: ignore[no-untyped-def]
        return (np.asarray(x / (1 + np.abs(x))),)


class LayerNormalization(OpRun):
    """ONNX's reference computes in float32 whatever the input, and onnxruntime does not."""

    op_domain = ""

    def _run(self, x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):  # type: ignore[no-untyped-def]
        over = tuple(range(axis % x.ndim, x.ndim))
        mean = x.mean(over, keepdims=True)
        inverse = 1 / np.sqrt(((x - mean) ** 2).mean(over, keepdims=True) + epsilon)
        y = (x - mean) * inverse * scale
        return (y if bias is None else y + bias, mean, inverse)[: self.n_outputs]

    @property
    def n_outputs(self) -> int:
        return len(self.onnx_node.output)


class LpNormalization(OpRun):
    """ONNX's reference takes no absolute values, which p = 1 needs."""

    op_domain = ""

    def _run(self, x, axis=-1, p=2):  # type: ignore[no-untyped-def]
        norm = (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
        return (np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(x.dtype),)


class Adam(op_adam.Adam):
    """ONNX's reference makes float32 of the results, if there is more than one tensor."""

    def _run(self, *data, **attributes):  # type: ignore[no-untyped-def]
        n = (len(data) - 2) // 4
        updated = [self._run1(*data[:2], *data[2 + i :: n], **attributes) for i in range(n)]
        return tuple(new[kind] for kind in range(3) for new in updated)


#: Operators of which onnxruntime makes a session in float64, and then fails to run it, or is wrong: its inverse `DFT`
#: has half of the digits where the length is no power of two, and its one-sided inverse does not leave out what is
#: beyond half of the length; its `STFT` wants a window or a length, its `DeformConv` two axes.
_NO_DOUBLE = {"LSTM", "GRU", "DFT", "STFT", "DeformConv"}


#: What takes the place of operators of ONNX's reference.
SUBSTITUTES = [
    *(Erf, Gelu, LRN, MeanVarianceNormalization, GatherElements, Pad, Mean, Softsign, MaxPool),
    *(Flatten, LayerNormalization, LpNormalization),
    Adam,
    *attention.OPERATORS,
    *windows.OPERATORS,
    *recurrent.OPERATORS,
    *regions.OPERATORS,
]


class Runner:
    """Runs a model in onnxruntime where it has the kernels, else in ONNX's reference."""

    def __init__(self, model: onnx.ModelProto, *, only_runtime: bool = False) -> None:
        self.names = [o.name for o in model.graph.output]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        kinds = {node.op_type for node in model.graph.node}
        double = any(t.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE for t in model.graph.input)
        try:
            if double and kinds & _NO_DOUBLE and not only_runtime:
                raise TypeError("no kernel")
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            self._run = lambda feeds: session.run(None, feeds)
        except Exception:
            if only_runtime:
                raise
            evaluator = ReferenceEvaluator(model, new_ops=SUBSTITUTES)
            self._run = lambda feeds: evaluator.run(None, feeds)

    def __call__(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = self._run({name: np.asarray(value) for name, value in feeds.items()})
        return {name: np.asarray(value) for name, value in zip(self.names, results, strict=True)}


def close(actual: np.ndarray, expected: np.ndarray, rtol: float, what: str) -> None:
    """Assert that arrays agree, relative to the larger of 1 and their largest element."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    scale = max(1.0, float(np.max(np.abs(expected), initial=0)))
    worst = float(np.max(np.abs(actual - expected), initial=0))
    assert worst <= rtol * scale, f"{what}: off by {worst:.3g} (scale {scale:.3g})\n{actual}\nexpected\n{expected}"


def inner(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return float(sum(np.sum(a[name].astype(np.float64) * b[name]) for name in a))


def differences(run: Any, feeds: dict[str, np.ndarray], direction: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the derivative of all outputs along a direction, by five-point central differences."""

    def at(t: float) -> dict[str, np.ndarray]:
        return run({**feeds, **{n: feeds[n] + t * v for n, v in direction.items()}})

    values = {t: at(t * STEP) for t in (-2, -1, 1, 2)}
    return {
        name: (values[-2][name] - 8 * values[-1][name] + 8 * values[1][name] - values[2][name]) / (12 * STEP)
        for name, value in values[1].items()
        if value.dtype == np.float64
    }


def check_rule(case: Case) -> None:
    """Hold a rule to the mathematics.

    In float64: VJP against differences; JVP against VJP by the adjoint identity; several seeds at once against one at a
    time, in both modes; second order (the VJP of the VJP) against differences of the VJP. With fixed and with symbolic
    sizes. Then the VJP in float32 in onnxruntime. And the primal outputs are those of the plain model.
    """
    rng = np.random.default_rng(0)
    for dynamic in (False, True) if case.dynamic else (False,):
        _check_point(case, make_model(case, dynamic=dynamic), rng)
    if case.float32 is not None:
        _check_float32(case, rng)


def _check_point(case: Case, model: onnx.ModelProto, rng: np.random.Generator) -> None:
    feeds, wrt = _feeds(case)
    plain = Runner(model)
    primal = plain(feeds)
    of = [f"y{i}" for i in (range(case.outputs) if case.of is None else case.of)]
    of = [y for y in of if primal[y].dtype == np.float64]
    assert of, "nothing to differentiate"

    cts = {y: rng.normal(size=primal[y].shape) for y in of}
    tangents = {x: rng.normal(size=feeds[x].shape) for x in wrt}
    backward = Runner(onnxgrad.vjp(model, of, wrt))
    seeds_in = {f"adj_{y}": ct for y, ct in cts.items()}
    result = backward({**feeds, **seeds_in})
    for name, value in primal.items():
        np.testing.assert_array_equal(result[name], value, err_msg=f"primal output {name}")
    adjoints = {x: result[f"adj_{x}"] for x in wrt}

    for x in wrt:  # one input at a time, so that no error hides behind another
        for _ in range(2):
            direction = {x: rng.normal(size=feeds[x].shape)}
            change = differences(plain, feeds, direction)
            numeric = inner(cts, {y: change[y] for y in of})
            scale = max(1.0, float(np.abs(adjoints[x]).sum()))
            exact = inner({x: adjoints[x]}, direction)
            assert adjoints[x].shape == feeds[x].shape, f"adj_{x} has shape {adjoints[x].shape}"
            assert abs(exact - numeric) <= case.differences * scale, f"adj_{x}: {exact} but differences give {numeric}"

    forward = Runner(onnxgrad.jvp(model, of, wrt))({**feeds, **{f"fwd_{x}": t for x, t in tangents.items()}})
    pushed = {y: forward[f"fwd_{y}"] for y in of}
    left, right = inner(cts, pushed), inner(adjoints, tangents)
    scale = max(1.0, float(sum(np.abs(a * tangents[x]).sum() for x, a in adjoints.items())))
    assert abs(left - right) <= ROUNDING * scale, f"⟨ct, J t⟩ = {left} but ⟨Jᵀ ct, t⟩ = {right}"

    _check_seeds(model, feeds, of, wrt, cts, tangents, adjoints, pushed, rng)
    if case.smooth:
        _check_second_order(onnxgrad.vjp(model, of, wrt, keep_outputs=False), {**feeds, **seeds_in}, rng)


def _check_seeds(model, feeds, of, wrt, cts, tangents, adjoints, pushed, rng) -> None:  # type: ignore[no-untyped-def]
    """Three seeds in one run; the middle one is known already, the others scale it."""
    factors = np.array([2.0, 1.0, -3.0])

    def stacked(array: np.ndarray) -> np.ndarray:
        return factors.reshape(-1, *[1] * array.ndim) * array

    back = Runner(onnxgrad.vjp(model, of, wrt, seeds="s"))
    result = back({**feeds, **{f"adj_{y}": stacked(ct) for y, ct in cts.items()}})
    for x in wrt:
        close(result[f"adj_{x}"], stacked(adjoints[x]), ROUNDING, f"adj_{x} with seeds")
    ahead = Runner(onnxgrad.jvp(model, of, wrt, seeds="s"))
    result = ahead({**feeds, **{f"fwd_{x}": stacked(t) for x, t in tangents.items()}})
    for y in of:
        close(result[f"fwd_{y}"], stacked(pushed[y]), ROUNDING, f"fwd_{y} with seeds")


def _check_second_order(model: onnx.ModelProto, feeds: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """The VJP of a VJP, with respect to the point and the cotangent, against differences of the VJP."""
    run = Runner(model)
    of, wrt = run.names, [name for name, value in feeds.items() if value.dtype == np.float64]
    cts = {y: rng.normal(size=value.shape) for y, value in run(feeds).items()}
    with warnings.catch_warnings():  # linear rules have second derivatives that are zero
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)
        with_second = onnxgrad.vjp(model, of, wrt, keep_outputs=False)
    seeds = [i.name for i in with_second.graph.input if i.name not in feeds]
    result = Runner(with_second)({**feeds, **dict(zip(seeds, cts.values(), strict=True))})
    seconds = dict(zip(wrt, (result[o.name] for o in with_second.graph.output), strict=True))
    for x in wrt:
        direction = {x: rng.normal(size=feeds[x].shape)}
        numeric = inner(cts, differences(run, feeds, direction))
        exact = inner({x: seconds[x]}, direction)
        scale = max(1.0, float(np.abs(seconds[x]).sum()))
        assert abs(exact - numeric) <= DIFFERENCES * scale, f"second order by {x}: {exact}, differences give {numeric}"


def _check_float32(case: Case, rng: np.random.Generator) -> None:
    """The same derivative in float32, run by onnxruntime, where every node of it must have a kernel."""
    assert case.float32 is not None
    results = []
    for dtype in (np.float64, np.float32):
        model = make_model(case, dtype)
        feeds, wrt = _feeds(case, dtype)
        of = [f"y{i}" for i in (range(case.outputs) if case.of is None else case.of)]
        plain = Runner(model)(feeds)
        of = [y for y in of if plain[y].dtype == dtype]
        run = Runner(onnxgrad.vjp(model, of, wrt), only_runtime=dtype == np.float32)
        cts = {f"adj_{y}": np.cos(np.arange(plain[y].size)).reshape(plain[y].shape).astype(dtype) for y in of}
        found = run({**feeds, **cts})
        results.append({x: found[f"adj_{x}"] for x in wrt})
    for x, expected in results[0].items():
        assert results[1][x].dtype == np.float32
        close(results[1][x], expected, case.float32, f"adj_{x} in float32")


def check_samples(case: Case, kept: Sequence[int]) -> None:
    """Where the rule says that samples stay apart, they do, by the whole Jacobian; and it says so of the axes `kept`.

    Axes are those of the first input, on which (counted from the right) samples lie in all inputs differentiated by.
    """
    added = Augmentation(make_model(case))
    node = next(n for n in added.model.graph if n.name == "n")
    view, rule = added.op.view(node), REGISTRY.get(case.op)
    assert rule is not None
    assert rule.follow is not None
    feeds, wrt = _feeds(case)
    name = wrt[0]
    found = Runner(onnxgrad.jacobian(make_model(case), "y0", wrt, batched=False))(feeds)
    found_kept = []
    for axis in range(-feeds[name].ndim, 0):
        places = [
            Samples(axis + feeds[f"x{i}"].ndim) if x is not None and f"x{i}" in wrt else None
            for i, x in enumerate(case.inputs)
        ]
        try:
            place = rule.follow(view, places)[0]
        except Mixed:
            continue
        assert place is not None
        assert isinstance(place.inner, int)
        found_kept.append(axis + feeds[name].ndim)
        for x in wrt:
            jacobian = found[f"jac_y0_{x}"]
            rank = jacobian.ndim - feeds[x].ndim
            apart = np.moveaxis(jacobian, (place.axis, rank + axis + feeds[x].ndim), (0, 1)).copy()
            elements, size = np.arange(len(apart)), apart.shape[1]
            assert len(apart) == place.outer * size * place.inner
            apart[elements, elements // place.inner % size] = 0
            assert not apart.any(), f"samples on axis {axis} of {x} mix"
    assert found_kept == list(kept)
