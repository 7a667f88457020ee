"""What must hold for every model; each check takes a program and raises AssertionError, or `Undecided`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

import onnxgrad
from tests.harness import Runner, close, inner
from tests.properties.program import Node, Program

Arrays = dict[str, np.ndarray]

#: Two ways to the same number in float64: a few hundred roundings, of numbers that may be larger than the result.
ROUNDING = 1e-9
#: Five-point differences at this step are off by step^4 times a fifth derivative, and by rounding / step.
STEP, DIFFERENCES = 1e-4, 1e-6
#: Numbers beyond this leave differences too few digits.
LARGEST = 1e4


class Undecided(Exception):  # noqa: N818 - no error: the point proves nothing
    """The point is near a kink, or numbers are so large that differences say nothing."""


def check_sweeps(program: Program) -> None:
    """Backward against differences, forward against backward, and the outputs are those of the plain model."""
    _check_sweeps(program, smooth=True)


def check_ties(program: Program) -> None:
    """On kinks, too, forward and backward agree, and all modes of the Jacobian."""
    tied = replace(program, whole=True)
    _check_sweeps(tied, smooth=False)
    check_jacobian(tied)
    check_samples(tied)


def _check_sweeps(program: Program, smooth: bool) -> None:
    model, feeds = program.model(), program.feeds()
    plain = Runner(model)
    primal = _decided(plain, feeds)
    cts, tangents = _normal(program, "ct", primal), _normal(program, "t", {x: feeds[x] for x in program.wrt})

    backward = _quiet(onnxgrad.vjp, model, program.of, program.wrt)
    result = Runner(backward)({**feeds, **{f"adj_{y}": ct for y, ct in cts.items()}})
    _assert_unchanged(result, primal)
    adjoints = {x: result[f"adj_{x}"] for x in program.wrt}
    for x, adjoint in adjoints.items():
        assert adjoint.shape == feeds[x].shape, f"adj_{x} has shape {adjoint.shape}"
        assert np.isfinite(adjoint).all(), f"adj_{x} is not finite"
    scale = max(1.0, *(float(np.abs(a).max(initial=0)) for a in adjoints.values()))
    exact = inner(adjoints, tangents)
    if smooth:
        _compare(lambda t: inner(cts, plain(_moved(feeds, tangents, t))), exact, 10 * scale, "backward")

    forward = _quiet(onnxgrad.jvp, model, program.of, program.wrt)
    result = Runner(forward)({**feeds, **{f"fwd_{x}": t for x, t in tangents.items()}})
    _assert_unchanged(result, primal)
    pushed = inner(cts, {y: result[f"fwd_{y}"] for y in program.of})
    scale = max(scale, *(float(np.abs(result[f"fwd_{y}"]).max(initial=0)) for y in program.of))
    assert abs(pushed - exact) <= 10 * ROUNDING * scale, f"⟨ct, J t⟩ = {pushed} but ⟨Jᵀ ct, t⟩ = {exact}"
    if program.weights:
        _check_weights(program, feeds, cts)


def _check_weights(program: Program, feeds: Arrays, cts: Arrays) -> None:
    """A weight has the same derivative as initializer and as input."""
    names = list(program.weights)
    seeds = {f"adj_{y}": ct for y, ct in cts.items()}
    constant = Runner(_quiet(onnxgrad.vjp, program.model(), program.of, names))({**feeds, **seeds})
    weights = {name: program.values(name, shape) for name, shape in program.weights.items()}
    fed = Runner(_quiet(onnxgrad.vjp, program.model(weights_fed=True), program.of, names))
    result = fed({**feeds, **weights, **seeds})
    for name in names:
        close(constant[f"adj_{name}"], result[f"adj_{name}"], ROUNDING, f"adj_{name}, as initializer and as input")


def check_jacobian(program: Program) -> None:
    """The Jacobian is the same in all modes, and its product with a cotangent is that of the backward sweep."""
    model, feeds = program.model(), program.feeds()
    y, wrt = program.of[0], program.wrt
    primal = _decided(Runner(model), feeds)
    found: dict[str, Arrays] = {}
    for mode in ("reverse", "forward", "auto"):
        derived = _quiet(onnxgrad.jacobian, model, y, wrt, mode=mode, batched=False)
        found[mode] = Runner(derived)(feeds)
        _assert_unchanged(found[mode], primal)
    ct = program.normal("ct", primal[y].shape)
    backward = Runner(_quiet(onnxgrad.vjp, model, y, wrt))({**feeds, f"adj_{y}": ct})
    for x in wrt:
        name = f"jac_{y}_{x}"
        full = found["reverse"][name]
        assert full.shape == (*primal[y].shape, *feeds[x].shape)
        assert np.isfinite(full).all(), f"{name} is not finite"
        close(found["forward"][name], full, ROUNDING, f"{name}, forward and reverse")
        close(found["auto"][name], full, ROUNDING, f"{name}, auto and reverse")
        close(backward[f"adj_{x}"], np.tensordot(ct, full, ct.ndim), ROUNDING, f"{name} and adj_{x}")


def check_hessian(program: Program) -> None:
    """The Hessian is symmetric, its product with a vector is the `hvp`, and that is the change of the gradient."""
    scalar = _with_scalar_output(program)
    model, feeds, wrt = scalar.model(), scalar.feeds(), scalar.wrt
    (y,) = scalar.of
    _decided(Runner(model), feeds)
    tangents = _normal(scalar, "t", {x: feeds[x] for x in wrt})
    hessian = Runner(_quiet(onnxgrad.hessian, model, y, wrt, batched=False))(feeds)
    product = Runner(_quiet(onnxgrad.hvp, model, y, wrt, batched=False))
    pushed = product({**feeds, **{f"fwd_{x}": t for x, t in tangents.items()}})
    blocks = {(a, b): hessian[f"hess_{y}_{a}_{b}"] for a in wrt for b in wrt}
    scale = max(1.0, *(float(np.abs(block).max(initial=0)) for block in blocks.values()))
    if not scale < LARGEST:
        raise Undecided("large second derivatives")
    for (a, b), block in blocks.items():
        rank = feeds[b].ndim
        other = np.moveaxis(blocks[b, a], range(rank), range(-rank, 0)) if rank else blocks[b, a]
        assert block.shape == (*feeds[a].shape, *feeds[b].shape)
        close(block / scale, other / scale, ROUNDING, f"Hessian by {a}, {b} and its transpose")
    for a in wrt:
        total = sum(np.tensordot(blocks[a, b], tangents[b], tangents[b].ndim) for b in wrt)
        close(pushed[f"hvp_{y}_{a}"] / scale, total / scale, ROUNDING, f"hvp and Hessian by {a}")
    gradient = Runner(_quiet(onnxgrad.gradient, model, y, wrt, batched=False, keep_outputs=False))
    weights = {f"grad_{y}_{x}": scalar.normal(f"second {x}", feeds[x].shape) for x in wrt}
    exact = inner(weights, {f"grad_{y}_{x}": pushed[f"hvp_{y}_{x}"] for x in wrt})
    _compare(lambda t: inner(weights, gradient(_moved(feeds, tangents, t))), exact, 10 * scale, "second order")


def check_samples(program: Program) -> bool:
    """Where samples are proven to stay apart, they do, and the per-sample Jacobian is the diagonal of the full one.

    Returns:
        Whether the proof succeeded for any pair.
    """
    model, feeds = program.model(), program.feeds()
    primal = _decided(Runner(model), feeds)
    proven = False
    for y in program.of:
        for x in program.wrt:
            if not primal[y].ndim or not feeds[x].ndim or primal[y].shape[0] != feeds[x].shape[0]:
                continue
            try:
                derived = _quiet(onnxgrad.jacobian, model, y, x, batched=True)
            except onnxgrad.MixedSamplesError:
                continue
            proven = True
            found = Runner(derived)(feeds)[f"jac_{y}_{x}"]
            full = Runner(_quiet(onnxgrad.jacobian, model, y, x, batched=False))(feeds)[f"jac_{y}_{x}"]
            apart = np.moveaxis(full, primal[y].ndim, 1).copy()
            n = np.arange(len(apart))
            close(found, apart[n, n], ROUNDING, f"per-sample Jacobian of {y} by {x}")
            apart[n, n] = 0
            assert not apart.any(), f"samples of {y} by {x} mix, and were said not to"
    return proven


def check_float32(program: Program) -> None:
    """The same derivative in float32, run by onnxruntime alone."""
    results = []
    for dtype in (np.float64, np.float32):
        model, feeds = program.model(dtype), program.feeds(dtype)
        plain = Runner(model, only_runtime=dtype is np.float32)
        primal = _decided(plain, feeds)
        seeds = {f"adj_{y}": ct.astype(dtype) for y, ct in _normal(program, "ct", primal).items()}
        derived = Runner(_quiet(onnxgrad.vjp, model, program.of, program.wrt), only_runtime=dtype is np.float32)
        results.append((primal, derived({**feeds, **seeds})))
    (primal, exact), (primal32, found) = results
    for y, value in primal.items():
        if np.abs(primal32[y] - value).max(initial=0) > 1e-4 * max(1, np.abs(value).max(initial=0)):
            raise Undecided("float32 is on the other side of a kink")
    for x in program.wrt:
        assert found[f"adj_{x}"].dtype == np.float32
        close(found[f"adj_{x}"], exact[f"adj_{x}"], 1e-3, f"adj_{x} in float32")


CHECKS: dict[str, Callable[[Program], Any]] = {
    f.__name__: f for f in (check_sweeps, check_ties, check_jacobian, check_hessian, check_samples, check_float32)
}


# --- means -----------------------------------------------------------------------------------------


def _quiet(transform: Callable[..., onnx.ModelProto], *args: Any, **options: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():  # what does not depend on an input is right to be zero
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)
        return transform(*args, **options)


def _decided(run: Runner, feeds: Arrays) -> Arrays:
    with np.errstate(all="ignore"):
        primal = run(feeds)
    if not all((np.abs(value) < LARGEST).all() for value in primal.values()):
        raise Undecided("large numbers")
    return primal


def _normal(program: Program, prefix: str, like: Arrays) -> Arrays:
    return {name: program.normal(f"{prefix} {name}", value.shape) for name, value in like.items()}


def _moved(feeds: Arrays, direction: Arrays, t: float) -> Arrays:
    return {**feeds, **{name: feeds[name] + t * d for name, d in direction.items()}}


def _assert_unchanged(result: Arrays, primal: Arrays) -> None:
    for name, value in primal.items():
        np.testing.assert_array_equal(result[name], value, err_msg=f"primal output {name}")


def _compare(f: Callable[[float], float], exact: float, scale: float, what: str) -> None:
    """Compare a derivative with differences, where these have converged and there is no kink."""
    tolerance = DIFFERENCES * scale
    found = _five_points(f, STEP)
    if abs(found - exact) <= tolerance:
        return
    found, finer = _five_points(f, STEP / 4), _five_points(f, STEP / 16)
    middle, h = f(0.0), STEP / 64
    right, left = (f(h) - middle) / h, (middle - f(-h)) / h
    if not abs(found - finer) <= tolerance or not abs(right - left) <= 1e-3 * scale:
        raise Undecided("near a kink")
    assert abs(found - exact) <= tolerance, f"{what}: {exact}, differences give {found} (scale {scale:.3g})"


def _five_points(f: Callable[[float], float], h: float) -> float:
    return (f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h)


def _with_scalar_output(program: Program) -> Program:
    """Return the program with the sum of sines of its first output as its only output; sines have a second order."""
    nodes = [
        Node("Sin", [program.of[0]], ["curved"]),
        Node("ReduceSum", ["curved"], ["scalar"], {"keepdims": 0}),
    ]
    return Program(**{**vars(program), "nodes": [*program.nodes, *nodes], "of": ["scalar"]})


__all__ = ["CHECKS", "Undecided"]
