"""Special values: zeros of both signs, saturation, ties, infinities and NaN, masks, empty tensors, axes of size 1.

What is chosen at points without a derivative stands in docs/kinks.md, and the rows here agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.harness import Case, Runner, check_rule, make_model

inf, nan = math.inf, math.nan


@dataclass
class Row:
    """A node at a point, with what its vector-Jacobian product must be.

    Attributes:
        case: the node and the point; see `tests.harness.Case`.
        derivative: one array for each input that is differentiated by.
        ct: cotangent of the first output (None: ones).
        second: whether the second derivative must be finite, too.
        float32: whether the row holds in float32 as well.
    """

    case: Case
    derivative: Sequence[Any]
    ct: Any = None
    second: bool = True
    float32: bool = True

    @property
    def name(self) -> str:
        return self.case.name


def row(op: str, inputs: Sequence[Any], *derivative: Any, label: str = "", ct: Any = None, **options: Any) -> Row:
    """Return a row; floats and lists of them are float64 arrays."""
    given = {name: options.pop(name) for name in ("second", "float32") if name in options}
    arrays = [np.asarray(x, np.float64) if isinstance(x, (float, list)) else x for x in inputs]
    return Row(Case(op, arrays, options.pop("attrs", {}), label=label, **options), derivative, ct, **given)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


BIG = [-1000.0, -30.0, 30.0, 1000.0]
STEPS = [0.0, 0.0, 1.0, 1.0]
FLAT = [0.0, 0.0, 0.0, 0.0]

SATURATION = [
    row("Tanh", [BIG], FLAT),
    row("Tanh", [[-1e300, 1e300, -inf, inf]], FLAT, label="far"),
    row("Sigmoid", [BIG], [0, math.exp(-30), math.exp(-30), 0]),
    row("Sigmoid", [[-1e300, 1e300, -inf, inf]], FLAT, label="far"),
    row("Softplus", [BIG], [0, math.exp(-30), 1, 1]),
    row("Erf", [BIG], FLAT),
    row("Exp", [[-1000.0, -inf]], [0, 0]),
    row("Exp", [[1000.0]], [inf], second=False),
    row("Softsign", [[-1e3, 1e3, -inf, inf]], [1 / 1001**2, 1 / 1001**2, 0, 0], second=False),
    row("Softsign", [[-1e3, 1e3]], [1 / 1001**2, 1 / 1001**2], label="finite"),
    row("Atan", [[-inf, inf, 1e3]], [0, 0, 1 / (1 + 1e6)], second=False),
    row("Elu", [BIG], [0, math.exp(-30), 1, 1]),
    row("Selu", [BIG], [0, 2 * 3 * math.exp(-30), 3, 3], attrs={"alpha": 2.0, "gamma": 3.0}),
    row("Celu", [BIG], [0, math.exp(-15), 1, 1], attrs={"alpha": 2.0}, opset=28),
    row("Gelu", [BIG], STEPS),
    row("Gelu", [BIG], STEPS, label="tanh", attrs={"approximate": "tanh"}),
    row("Gelu", [[-1e30, 1e30]], [0, 1], label="tanh-far", attrs={"approximate": "tanh"}),
    row("Gelu", [[-1e30, 1e30]], [0, 1], label="far"),
    row("Mish", [BIG], [0, -29 * math.exp(-30), 1, 1], float32=False),
    row("Swish", [[-1000.0, 1000.0]], [0, 1], opset=24, float32=False),
    row("HardSigmoid", [BIG], FLAT),
    row("HardSwish", [BIG], STEPS),
    row("Softmax", [[0.0, 1000.0]], [0, 0], ct=[1.0, 2.0]),
    row("Softmax", [[-1e300, 1e300]], [0, 0], ct=[1.0, 2.0], label="far", float32=False),
    row("LogSoftmax", [[0.0, 1000.0]], [1, -1], ct=[1.0, 0.0]),
    row("LogSoftmax", [[0.0, 1000.0]], [0, 0], ct=[0.0, 1.0], label="sure"),
    row("ReduceLogSumExp", [[-1000.0, 1000.0]], [0, 1]),
    row("ReduceLogSumExp", [[-1000.0, -1000.0]], [0.5, 0.5], label="low", float32=False),
    row("ReduceLogSumExp", [[-inf, 0.0]], [0, 1], label="masked"),
    row("Sinh", [[0.0, 20.0]], [1, math.cosh(20)]),
    row("Acosh", [[1.0]], [inf], second=False),
    row("Atanh", [[-1.0, 1.0]], [inf, inf], second=False),
    row("Asin", [[-1.0, 1.0]], [inf, inf], second=False),
    row("Acos", [[-1.0, 1.0]], [-inf, -inf], second=False),
]

ZEROS = [
    row("Abs", [[0.0, -0.0]], [0, 0]),
    row("Sign", [[0.0, -0.0]], [0, 0]),
    row("Relu", [[0.0, -0.0]], [0, 0]),
    row("LeakyRelu", [[0.0, -0.0]], [0.25, 0.25], attrs={"alpha": 0.25}),
    row("Softsign", [[0.0, -0.0]], [1, 1]),
    row("Sqrt", [[0.0]], [inf], second=False),
    row("Reciprocal", [[0.0, -0.0]], [-inf, -inf], second=False),
    row("Log", [[0.0]], [inf], second=False),
    row("Log", [[-0.0]], [-inf], second=False, label="negative-zero"),
    row("Div", [[1.0], [0.0]], [inf], [-inf], second=False),
    row("Div", [[0.0], [2.0]], [0.5], [0], label="zero-above"),
    row("Mul", [[0.0], [0.0]], [0], [0]),
    row("Softplus", [[0.0]], [0.5]),
    row("Asinh", [[0.0, -0.0]], [1, 1]),
    row("Erf", [[0.0]], [2 / math.sqrt(math.pi)]),
    row("Gelu", [[0.0]], [0.5]),
    row("Mish", [[0.0]], [0.6]),
    row("Pow", [[0.0, -0.0], 2.0], [0, 0], fixed=[1], label="square"),
    row("Pow", [[0.0], 1.0], [1], fixed=[1], label="first"),
    row("Pow", [[0.0], 0.0], [0], fixed=[1], label="zeroth"),
    row("Pow", [[0.0], 0.5], [inf], fixed=[1], label="root", second=False),
    row("Pow", [[0.0], 3.0], [0], fixed=[1], label="cube"),
    row("Pow", [[0.0], -1.0], [-inf], fixed=[1], label="reciprocal", second=False),
    row("Pow", [[-2.0, -2.0, -2.0], [2.0, 3.0, -1.0]], [-4, 12, -0.25], fixed=[1], label="negative-base"),
    row("Pow", [[-2.0, -2.0], ints(2, 3)], [-4, 12], label="integer-exponents"),
    row("Pow", [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0]], [0, 1, 0, 0], [0, 0, 0, 0], label="exponents"),
    row("Pow", [[-2.0], 3.0], [12], label="cube-of-negative", fixed=[1]),
    row("ReduceL1", [[0.0, -0.0]], [0, 0]),
    row("ReduceL2", [[0.0, 0.0]], [0, 0]),
    row("ReduceL2", [[[0.0, 0.0], [3.0, 4.0]], ints(1)], [[0, 0], [0.6, 0.8]], label="one-of-two"),
    row("ReduceSumSquare", [[0.0, 0.0]], [0, 0]),
    row("ReduceProd", [[0.0, 2.0, 3.0]], [6, 0, 0], label="one-zero"),
    row("ReduceProd", [[0.0, 0.0, 3.0]], [0, 0, 0], label="two-zeros"),
    row("ReduceLogSum", [[0.0, 2.0]], [0.5, 0.5]),
    row("CumProd", [[2.0, 0.0, 3.0], np.array(0)], [1, 8, 0], opset=26),
    row("LpNormalization", [[0.0, 0.0]], [0, 0], attrs={"axis": 0}),
    row("LpNormalization", [[0.0, 0.0]], [0, 0], attrs={"axis": 0, "p": 1}, label="1"),
    row("LpPool", [[[[0.0, 0.0]]]], [[[0, 0]]], attrs={"kernel_shape": [2]}, float32=False),
    row("LpPool", [[[[0.0, 0.0]]]], [[[0, 0]]], attrs={"kernel_shape": [2], "p": 3}, label="3", float32=False),
    row("GlobalLpPool", [[[[0.0, 0.0]]]], [[[0, 0]]], float32=False),
    row("LayerNormalization", [[[2.0, 2.0]], [1.0, 1.0]], [[0, 0]], [0, 0], label="constant"),
    row("InstanceNormalization", [[[[2.0, 2.0]]], [1.0], [0.0]], [[[0, 0]]], [0], [2], label="constant"),
    row("MeanVarianceNormalization", [[[2.0, 2.0]]], [[0, 0]], attrs={"axes": [1]}, label="constant", second=False),
    row("RMSNormalization", [[[0.0, 0.0]], [1.0, 1.0]], [[1024, 1024]], [0, 0], attrs={"epsilon": 2.0**-20}, opset=23),
]

TIES = [
    row("Max", [[2.0, 1.0], [2.0, 3.0]], [0.5, 0], [0.5, 1]),
    row("Min", [[2.0, 1.0], [2.0, 3.0]], [0.5, 1], [0.5, 0]),
    row("Max", [[0.0], [-0.0]], [0.5], [0.5], label="zeros"),
    row("Max", [[2.0], [2.0], [2.0]], [1 / 3], [1 / 3], [1 / 3], label="three"),
    row("ReduceMax", [[[1.0, 1.0], [1.0, 0.0]], ints(1)], [[0.5, 0.5], [1, 0]]),
    row("ReduceMax", [[[1.0, 1.0], [1.0, 0.0]]], [[1 / 3, 1 / 3], [1 / 3, 0]], label="all"),
    row("ReduceMin", [[-inf, -inf, 0.0]], [0.5, 0.5, 0]),
    row("TopK", [[1.0, 2.0, 2.0, 2.0], ints(2)], [0, 1, 1, 0], outputs=2, of=[0]),
    row("TopK", [[1.0, 1.0, 2.0], ints(1)], [1, 0, 0], outputs=2, of=[0], attrs={"largest": 0}, label="smallest"),
    row(
        *("MaxPool", [[[[1.0, 2.0, 2.0, 2.0]]]], [[[0, 2, 0, 0]]]),
        attrs={"kernel_shape": [2], "strides": [1]},
        ct=[[[1.0, 1.0, 0.0]]],
    ),
    row("GlobalMaxPool", [[[[2.0, 2.0, 1.0]]]], [[[1, 0, 0]]]),
    row("Hardmax", [[2.0, 2.0]], [0, 0], attrs={"axis": 0}),
    row("Clip", [[0.0, 1.0], 0.0, 1.0], [1, 1], 0, 0, label="at-bounds"),
    row("Clip", [[-1.0, 0.5, 2.0], 0.0, 1.0], [0, 1, 0], 1, 1, label="beyond"),
    row("Clip", [[-1.0, 0.5, 2.0], 1.0, 0.0], [0, 0, 0], 0, 3, label="crossed"),
    row("Clip", [[-inf, inf, 0.0], 0.0, 1.0], [0, 0, 1], 1, 1, label="infinite"),
    row("Unique", [[3.0, 1.0, 3.0]], [1, 1, 0], float32=False),
    row("ScatterElements", [[1.0, 2.0], ints(0, 0), [5.0, 5.0]], [0, 1], [0.5, 0.5], attrs={"reduction": "max"}),
]

#: Infinities and NaN go where arithmetic takes them, and nowhere else.
NOT_FINITE = [
    *(row(op, [[nan, 1.0]], [nan, d]) for op, d in (("Exp", math.e), ("Tanh", 1 / math.cosh(1) ** 2), ("Log", 1))),
    row("Add", [[nan, 1.0], [2.0, inf]], [1, 1], [1, 1]),
    row("Mul", [[nan, 1.0], [2.0, inf]], [2, inf], [nan, 1]),
    row("Where", [np.array([True, False]), [1.0, nan], [nan, 2.0]], [1, 0], [0, 1]),
    row("ReduceSum", [[nan, 1.0, inf]], [1, 1, 1]),
    row("ReduceMax", [[-inf, 1.0, inf]], [0, 0, 1]),
    row("ReduceMax", [[-inf, -inf]], [0.5, 0.5], label="all-masked"),
    row("MatMul", [[[inf, 1.0]], [[2.0], [3.0]]], [[2, 3]], [[inf], [1]]),
    row("Gather", [[nan, 1.0], ints(1)], [0, 1]),
    row("Pad", [[nan, 1.0], ints(1, 1)], [1, 1]),
    row("Softmax", [[[0.0, -inf, 0.0]]], [[-0.25, 0, 0.25]], ct=[[1.0, 5.0, 2.0]], label="masked"),
    row("Softmax", [[[-inf, 0.0]]], [[0, 0]], ct=[[1.0, 2.0]], label="all-but-one"),
    row("LogSoftmax", [[[0.0, -inf, 0.0]]], [[0.5, 0, -0.5]], ct=[[1.0, 0.0, 0.0]], label="masked"),
    row("Sigmoid", [[-inf, inf]], [0, 0]),
    row("Relu", [[-inf, inf]], [0, 1]),
    row("Clip", [[-inf, inf]], [1, 1], label="free"),
    row("Abs", [[-inf, inf]], [-1, 1]),
    row("Reciprocal", [[-inf, inf]], [0, 0]),
    row("Sqrt", [[inf]], [0]),
    row("Log", [[inf]], [0]),
    row("Div", [[1.0], [inf]], [0], [0]),
    row("Floor", [[inf, nan]], [0, 0]),
]

TABLE = [*SATURATION, *ZEROS, *TIES, *NOT_FINITE]


def derivatives(case: Case, dtype: type, ct: Any, dynamic: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return the model of a case, and its feeds with the cotangent of y0."""
    model = make_model(case, dtype, dynamic)
    wrt = [i for i, x in enumerate(case.inputs) if x is not None and x.dtype == np.float64 and i not in case.fixed]
    with np.errstate(all="ignore"):
        feeds = {f"x{i}": case.inputs[i].astype(dtype) for i in wrt}  # type: ignore[union-attr]
        y = Runner(model, only_runtime=dtype is np.float32)(feeds)["y0"]
    return model, {**feeds, "adj_y0": np.ones_like(y) if ct is None else np.asarray(ct, y.dtype)}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, on division by zero and overflow in ONNX's reference
@pytest.mark.filterwarnings("ignore::onnxgrad.DisconnectedWarning")  # of steps
@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_value(row: Row, dynamic: bool) -> None:
    for dtype in (np.float64, np.float32) if row.float32 else (np.float64,):
        model, feeds = derivatives(row.case, dtype, row.ct, dynamic)
        wrt = [name for name in feeds if name != "adj_y0"]
        reverse = onnxgrad.vjp(model, "y0", wrt)
        found = Runner(reverse, only_runtime=dtype is np.float32)(feeds)
        expected = {name: np.asarray(d, np.float64) for name, d in zip(wrt, row.derivative, strict=True)}
        # a few roundings, absolute where the formula starts from an output that is 1 but for its last digits
        accuracy = {"rtol": 1e-12, "atol": 1e-15} if dtype is np.float64 else {"rtol": 1e-5, "atol": 1e-7}
        for name, value in expected.items():
            np.testing.assert_allclose(found[f"adj_{name}"], value, **accuracy, err_msg=f"{name} in {dtype.__name__}")
        if all(np.isfinite(value).all() for value in expected.values()):
            _check_forward(model, feeds, expected, dtype)
            if row.second:
                _check_second(model, feeds, wrt, dtype)


def _check_forward(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: type
) -> None:
    """The tangent of the output, times the cotangent, is the gradient times the tangent of the input."""
    rng = np.random.default_rng(0)
    tangents = {name: rng.normal(size=value.shape) for name, value in expected.items()}
    forward = Runner(onnxgrad.jvp(model, "y0", list(expected)), only_runtime=dtype is np.float32)
    primal = {name: value for name, value in feeds.items() if name != "adj_y0"}
    pushed = forward({**primal, **{f"fwd_{name}": t.astype(dtype) for name, t in tangents.items()}})["fwd_y0"]
    left = float(np.sum(pushed * feeds["adj_y0"]))
    right = float(sum(np.sum(expected[name] * t) for name, t in tangents.items()))
    scale = sum(np.abs(expected[name] * t).sum() for name, t in tangents.items())
    assert abs(left - right) <= (1e-12 if dtype is np.float64 else 1e-5) * (1 + scale), f"forward: {left}, not {right}"


def _check_second(model: onnx.ModelProto, feeds: dict[str, np.ndarray], wrt: list[str], dtype: type) -> None:
    """The second derivative is finite."""
    first = onnxgrad.vjp(model, "y0", wrt, keep_outputs=False)
    second = onnxgrad.vjp(first, None, wrt, keep_outputs=False)
    seeds = [value.name for value in second.graph.input if value.name not in feeds]
    shapes = {f"adj_adj_{name}": feeds[name].shape for name in wrt}
    ones = {name: np.ones(shapes[name], dtype) for name in seeds}
    for name, value in Runner(second, only_runtime=dtype is np.float32)({**feeds, **ones}).items():
        assert np.isfinite(value).all(), f"second derivative {name} in {dtype.__name__}: {value}"


# --- masks ----------------------------------------------------------------------------------------


def model_of_nodes(nodes: str, inputs: str, output: str = "y") -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["": 20]> g ({inputs}) => (double[2, 3] {output}) {{ {nodes} }}'
    return onnx.parser.parse_model(text)


MASKED = model_of_nodes(
    """low = Constant<value = double {-inf}>() zero = Constant<value = double {0.0}>()
       scores = Where(mask, x, low) p = Softmax(scores) y = Where(mask, p, zero)""",
    "double[2, 3] x, bool[2, 3] mask",
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_row_that_is_masked_altogether(mode: str) -> None:
    """Its scores are all -inf, its softmax is NaN, a Where behind puts 0 there: the derivative is 0, not NaN."""
    feeds = {"x": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "mask": np.array([[True, True, False], [False] * 3])}
    found = Runner(onnxgrad.jacobian(MASKED, "y", "x", mode=mode, batched=False))(feeds)["jac_y_x"]
    p = 1 / (1 + math.e)
    expected = np.zeros((2, 3, 2, 3))
    expected[0, :2, 0, :2] = p * (1 - p) * np.array([[1, -1], [-1, 1]])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


# --- empty tensors ----------------------------------------------------------------------------------


def empty(*shape: int) -> np.ndarray:
    assert 0 in shape
    return np.zeros(shape)


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(int(np.prod(shape))).normal(size=shape)


REDUCTIONS = "ReduceSum ReduceMean ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp ReduceProd".split()
ELEMENTWISE = (
    "Neg Abs Exp Tanh Sigmoid Relu Sqrt Log Erf Gelu Softplus LeakyRelu Elu HardSwish Reciprocal Identity".split()
)

EMPTY = [
    *(Case(op, [empty(2, 0, 3)]) for op in ELEMENTWISE),
    *(Case(op, [empty(2, 0), some(2, 1)], label="broadcast") for op in "Add Sub Mul Div Max Min Pow".split()),
    *(Case(op, [empty(0), some(1)], label="vector") for op in "Add Mul Max".split()),
    *(Case(op, [empty(0, 3), ints(1)], label="rows") for op in [*REDUCTIONS, "ReduceMax", "ReduceMin"]),
    *(Case(op, [empty(2, 0), ints(1)], label="over-nothing") for op in ["ReduceSum", "ReduceSumSquare", "ReduceL1"]),
    Case("ReduceProd", [empty(2, 0), ints(1)], label="over-nothing"),
    Case("ReduceSum", [empty(2, 0, 3)], {"keepdims": 0}, label="all"),
    Case("MatMul", [empty(2, 0), empty(0, 3)], label="sum-over-nothing"),
    Case("MatMul", [empty(0, 2), some(2, 3)], label="no-rows"),
    Case("MatMul", [some(2, 3), empty(3, 0)], label="no-columns"),
    Case("MatMul", [empty(0, 2, 3), some(3, 2)], label="no-matrices"),
    Case("MatMul", [empty(0), empty(0)], label="vectors"),
    Case("Gemm", [empty(0, 2), some(2, 3), some(3)]),
    Case("Gemm", [some(3, 2), some(2, 0), some(1)], label="no-columns"),
    # An Einsum of two operands that sums over nothing is left out: onnxruntime's kernel divides by zero and ends the
    # process where an axis of seeds is added, as it does for "ij,sjk->sik" in a plain model.
    Case("Einsum", [empty(0, 2)], {"equation": "ij->j"}, label="sum"),
    Case("Concat", [empty(0, 2), some(3, 2)], {"axis": 0}),
    Case("Concat", [empty(0, 2), empty(0, 2)], {"axis": 0}, label="both"),
    Case("Concat", [empty(2, 0), some(2, 3), empty(2, 0)], {"axis": 1}, label="three"),
    Case("Split", [some(3), ints(0, 3)], outputs=2),
    Case("Split", [empty(0, 2), ints(0, 0)], outputs=2, label="nothing"),
    Case("Slice", [some(3), ints(2), ints(1)]),
    Case("Slice", [empty(0, 3), ints(0), ints(2), ints(1)], label="nothing"),
    Case("Gather", [some(3, 2), np.zeros((0,), np.int64)]),
    Case("Gather", [empty(0, 2), ints(1)], {"axis": 1}, label="nothing"),
    Case("GatherElements", [some(3, 2), np.zeros((0, 2), np.int64)]),
    Case("GatherND", [some(3, 2), np.zeros((0, 1), np.int64)]),
    Case("ScatterElements", [some(3, 2), np.zeros((0, 2), np.int64), empty(0, 2)]),
    Case("ScatterND", [some(3, 2), np.zeros((0, 1), np.int64), empty(0, 2)]),
    Case("Compress", [some(3), np.array([False, False, False])]),
    Case("TopK", [some(3), ints(0)], outputs=2, of=[0]),
    Case("Reshape", [empty(0, 4), ints(0, 2, 2)]),
    Case("Reshape", [empty(2, 0), ints(0, 5)], {"allowzero": 1}, label="allowzero"),
    Case("Flatten", [empty(2, 0, 3)]),
    Case("Squeeze", [empty(1, 0), ints(0)]),
    Case("Unsqueeze", [empty(0, 2), ints(1)]),
    Case("Transpose", [empty(2, 0, 3)]),
    Case("Expand", [some(1, 2), ints(0, 2)]),
    Case("Tile", [some(2), ints(0)]),
    Case("Tile", [empty(0, 2), ints(2, 3)], label="nothing"),
    Case("Pad", [empty(0, 2), ints(1, 0, 2, 0)]),
    Case("Pad", [empty(0), ints(1, 2), np.array(0.5)], label="constant"),
    Case("CumSum", [empty(0, 2), np.array(0)]),
    Case("Where", [np.zeros((0, 1), bool), some(1, 2), empty(0, 2)]),
    Case("Clip", [empty(0, 2), np.array(-1.0), np.array(1.0)]),
    Case("Softmax", [empty(0, 3)], label="no-rows"),
    Case("Softmax", [empty(3, 0)], label="of-nothing"),
    Case("LogSoftmax", [empty(0, 3)], label="no-rows"),
    Case("LayerNormalization", [empty(0, 3), some(3), some(3)], outputs=1),
    Case("BatchNormalization", [empty(0, 2, 3), some(2), some(2), some(2), np.array([1.0, 2.0])]),
    Case("InstanceNormalization", [empty(0, 2, 3), some(2), some(2)]),
    Case("LpNormalization", [empty(0, 3)]),
    Case("Conv", [empty(0, 2, 5), some(3, 2, 3), some(3)]),
    Case("ConvTranspose", [empty(0, 2, 5), some(2, 3, 3), some(3)]),
    Case("MaxPool", [empty(0, 2, 5)], {"kernel_shape": [2]}),
    Case("AveragePool", [empty(0, 2, 5)], {"kernel_shape": [2]}),
    Case("GlobalAveragePool", [empty(0, 2, 5)]),
    Case("GlobalMaxPool", [empty(0, 2, 5)]),
    Case("Sum", [empty(0, 2), some(2)]),
    Case("Mean", [empty(0, 2), some(1, 2)]),
    Case("Trilu", [empty(0, 2, 2)]),
    Case("DepthToSpace", [empty(0, 4, 1, 1)], {"blocksize": 2}),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", EMPTY, ids=lambda case: case.name)
def test_empty(case: Case) -> None:
    check_rule(case)


# --- axes of size 1 --------------------------------------------------------------------------------

ONES = [
    *(Case(op, [some(1, 1), some(1, 1) + 0.3]) for op in "Add Sub Mul Div Max Min".split()),
    *(Case(op, [some(1, 3), some(2, 1)], label="both-ways") for op in "Add Sub Mul Div Max Min".split()),
    *(Case(op, [np.abs(some(2, 1)) + 0.1, ints(1)], label="over-one") for op in [*REDUCTIONS, "ReduceMax"]),
    Case("MatMul", [some(1, 1), some(1, 1)]),
    Case("MatMul", [some(1, 2, 3), some(4, 3, 1)], label="broadcast"),
    Case("MatMul", [some(1), some(1)], label="vectors"),
    Case("Gemm", [some(1, 1), some(1, 1), some(1)]),
    Case("Gemm", [some(1, 3), some(3, 1), some(1, 1)], {"transA": 0}, label="column"),
    Case("Softmax", [some(3, 1)]),
    Case("LogSoftmax", [some(3, 1)]),
    Case("LayerNormalization", [some(3, 1), some(1), some(1)]),
    Case("Concat", [some(1, 1)], {"axis": 0}),
    Case("Split", [some(1, 2), ints(1)], outputs=1),
    Case("Expand", [some(1, 1), ints(1, 1)]),
    Case("Einsum", [some(1, 3), some(3, 1)], {"equation": "ij,jk->ik"}),
    Case("CumSum", [some(1, 2), np.array(0)]),
    Case("Conv", [some(1, 1, 1), some(1, 1, 1), some(1)]),
    Case("Where", [np.array([[True]]), some(1, 3), some(2, 1)]),
    Case("TopK", [some(1), ints(1)], outputs=2, of=[0]),
    Case("CumProd", [some(1, 2), np.array(0)], opset=26, float32=None),
    Case("LpNormalization", [some(1, 3)], {"axis": 0}, smooth=False),
]


@pytest.mark.parametrize("case", ONES, ids=lambda case: case.name)
def test_axes_of_size_1(case: Case) -> None:
    check_rule(case)


# --- found by the properties ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_per_sample_jacobian_of_no_samples(mode: str) -> None:
    model = make_model(Case("Tanh", [empty(0, 2)]))
    found = Runner(onnxgrad.jacobian(model, batched=True, mode=mode))({"x0": empty(0, 2)})
    assert found["jac_y0_x0"].shape == (0, 2, 2)


def test_transpose_of_a_transpose_that_names_no_axes() -> None:
    """``y = Σ xᵀ x``, of which the second derivative is 2 where columns meet."""
    text = """<ir_version: 9, opset_import: ["": 20]> g (double[2, 3] x) => (double y)
              { a = Transpose(x) b = Transpose<perm = [1, 0]>(a) p = MatMul(a, b) y = ReduceSum<keepdims = 0>(p) }"""
    found = Runner(onnxgrad.hessian(onnx.parser.parse_model(text)))({"x": some(2, 3)})["hess_y_x_x"]
    expected = 2 * np.eye(2)[:, None, :, None] * np.ones((2, 3, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
