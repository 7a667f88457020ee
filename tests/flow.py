"""Models with control flow and sequences, and what their derivatives are held to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, parser

import onnxgrad

#: Central differences with this step are off by about step^2 (1e-10) and rounding / step (1e-11), each times a
#: derivative of some tens.
STEP, DIFFERENCES = 1e-5, 2e-8
#: Two ways to the same number in float64.
ROUNDING = 1e-12

Arrays = Mapping[str, np.ndarray]


def parsed(body: str, opset: int = 18) -> onnx.ModelProto:
    """Return the model of a graph in ONNX's text form."""
    return parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{body}')


def run(model: onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """Run a model in onnxruntime; return its outputs by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    return dict(zip([o.name for o in model.graph.output], session.run(None, dict(feeds)), strict=True))


def differences(model: onnx.ModelProto, feeds: Arrays, of: str, wrt: str) -> np.ndarray:
    """Return the Jacobian of an output by central differences."""
    columns = []
    for index in np.ndindex(*feeds[wrt].shape):
        moved = []
        for sign in (1, -1):
            x = feeds[wrt].copy()
            x[index] += sign * STEP
            moved.append(run(model, {**feeds, wrt: x})[of])
        columns.append((moved[0] - moved[1]) / (2 * STEP))
    shape = run(model, feeds)[of].shape
    return np.reshape(np.stack(columns, axis=-1), (*shape, *feeds[wrt].shape))


def check_flow(
    model: onnx.ModelProto, feeds: Arrays, wrt: Sequence[str] | None = None, second: bool = True, again: bool = True
) -> None:
    """Hold all derivatives of a model in float64 to differences: Jacobians in every mode, and the Hessian of the sum of
    all outputs (`second`), also by reverse mode upon reverse mode (`again`). Outputs stay the same to the bit.
    """
    wrt = [name for name, x in feeds.items() if x.dtype.kind == "f"] if wrt is None else wrt
    before = run(model, feeds)
    of = [name for name, y in before.items() if y.dtype.kind == "f"]
    assert of
    assert wrt
    expected = {(y, x): differences(model, feeds, y, x) for y in of for x in wrt}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)
        found = {}
        for mode in ("reverse", "forward"):
            augmented = onnxgrad.jacobian(model, of=of, wrt=list(wrt), batched=False, mode=mode)
            onnx.checker.check_model(augmented)
            found[mode] = run(augmented, feeds)
            for name, y in before.items():
                np.testing.assert_array_equal(found[mode][name], y)
        for (y, x), numbers in expected.items():
            scale = 1 + np.abs(numbers).max(initial=0)
            by_mode = [found[mode][f"jac_{y}_{x}"] for mode in found]
            np.testing.assert_allclose(by_mode[0], numbers, rtol=0, atol=DIFFERENCES * scale, err_msg=f"{y} by {x}")
            np.testing.assert_allclose(by_mode[0], by_mode[1], rtol=0, atol=ROUNDING * scale, err_msg=f"{y} by {x}")
        if second:
            _check_hessian(_summed(model, of), feeds, wrt, again)


def _summed(model: onnx.ModelProto, of: Sequence[str]) -> onnx.ModelProto:
    total = onnx.ModelProto.FromString(model.SerializeToString())
    for y in of:
        total.graph.node.append(helper.make_node("ReduceSum", [y], [f"{y}_sum"], keepdims=0))
    total.graph.node.append(helper.make_node("Sum", [f"{y}_sum" for y in of], ["total"]))
    total.graph.output.append(helper.make_tensor_value_info("total", onnx.TensorProto.DOUBLE, []))
    return total


def _check_hessian(model: onnx.ModelProto, feeds: Arrays, wrt: Sequence[str], again: bool) -> None:
    gradient = onnxgrad.gradient(model, of="total", wrt=list(wrt), batched=False)
    found = run(onnxgrad.hessian(model, of="total", wrt=list(wrt), batched=False), feeds)
    rows = {}
    if again:
        once_more = onnxgrad.vjp(gradient, of=f"grad_total_{wrt[0]}", wrt=list(wrt))
        rows = run(once_more, {**feeds, **_ones(feeds, wrt[0])})
    for x1 in wrt:
        for x2 in wrt:
            expected = differences(gradient, feeds, f"grad_total_{x1}", x2)
            scale = 1 + np.abs(expected).max(initial=0)
            hessian = found[f"hess_total_{x1}_{x2}"]
            np.testing.assert_allclose(hessian, expected, rtol=0, atol=DIFFERENCES * scale, err_msg=f"{x1}, {x2}")
            if x1 == wrt[0] and again:
                row = hessian.reshape(feeds[x1].size, *feeds[x2].shape).sum(axis=0)
                np.testing.assert_allclose(rows[f"adj_{x2}"], row, rtol=0, atol=ROUNDING * scale * feeds[x1].size)


def _ones(feeds: Arrays, name: str) -> dict[str, np.ndarray]:
    return {f"adj_grad_total_{name}": np.ones_like(feeds[name])}
