"""Reductions, and running sums and products."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, close, make_model

rng = np.random.default_rng(2)
x = rng.normal(size=(2, 3, 4))
small = rng.normal(size=(2, 3))
vector = np.array([0.7, -1.3, 2.1])
NONE = np.array([], np.int64)

#: A point at which each reduction is smooth.
POINTS = {
    **dict.fromkeys("ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare".split(), x),
    "ReduceLogSumExp": x,
    "ReduceProd": x,
    "ReduceLogSum": np.abs(x) + 0.2,
}


def axes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def reductions(op: str, point: np.ndarray) -> list[Case]:
    opset = 18 if op != "ReduceMax" else 20
    return [
        Case(op, [point], opset=opset, label="all"),
        Case(op, [point], {"keepdims": 0}, opset=opset, label="all-dropped"),
        Case(op, [point, axes(1)], opset=opset, label="axis"),
        Case(op, [point, axes(-1, 0)], {"keepdims": 0}, opset=opset, label="two-dropped"),
        Case(op, [point, NONE], opset=opset, label="empty"),
        Case(op, [point, NONE], {"noop_with_empty_axes": 1, "keepdims": 0}, opset=opset, label="noop"),
        Case(op, [point], {"noop_with_empty_axes": 1}, opset=opset, label="noop-absent"),
        Case(op, [point, axes(-2)], fed=[1], opset=opset, label="fed"),
        Case(op, [point, axes(2, 0)], {"keepdims": 0}, fed=[1], opset=opset, label="fed-dropped"),
        Case(op, [point[:, :1], axes(1)], {"keepdims": 0}, opset=opset, label="size-1"),
        Case(op, [point[0, 0, 0]], {"keepdims": 0}, opset=opset, label="rank-0"),
        Case(op, [point.reshape(2, 1, 3, 2, 2), axes(1, -2)], opset=opset, label="rank-5"),
        Case(op, [point[:, :0], axes(2)], opset=opset, label="nothing"),
    ]


zeros = np.array([[0.0, 1.3, -0.7, 2.1], [0.4, 0.0, 0.0, 1.2], [0.0, 0.0, 0.0, 0.9]])

CASES = [
    *(case for op, point in POINTS.items() for case in reductions(op, point)),
    *(Case(op, [POINTS[op], axes(1)], opset=28, label="28") for op in ("ReduceLogSum", "ReduceLogSumExp")),
    *(Case(op, [x[:, :0], axes(1)], label="of-nothing") for op in "ReduceSum ReduceProd ReduceSumSquare".split()),
    Case("ReduceProd", [zeros, axes(1)], label="zeros"),
    Case("ReduceProd", [np.cos(0.1 * np.arange(140.0)).reshape(2, 70, 1), axes(1)], label="long"),
    Case("ReduceProd", [np.ones((1, 70)) - np.eye(70)[:1] - np.eye(70)[40:41], axes(1)], label="long-zeros"),
    Case("ReduceProd", [zeros, axes(0, 1)], {"keepdims": 0}, label="many-zeros"),
    Case("ReduceProd", [zeros, axes(1)], fed=[1], label="zeros-fed"),
    Case("ReduceProd", [zeros[1:], axes(1, 0)], {"keepdims": 0}, fed=[1], label="zeros-two-fed"),
    *(
        Case(
            op, [small, np.array(axis)], {"exclusive": e, "reverse": r}, fed=fed, opset=26, label=f"{axis}-{e}{r}-{fed}"
        )
        for op in ("CumSum", "CumProd")
        for axis in (0, -1)
        for e in (0, 1)
        for r in (0, 1)
        for fed in ([], [1])
    ),
    *(Case(op, [vector, axes(0)], opset=26, label="axis-in-a-list") for op in ("CumSum", "CumProd")),
    *(Case(op, [x[:, :, :0], np.array(1)], opset=26, label="nothing") for op in ("CumSum", "CumProd")),
    *(Case(op, [x[:, :0], np.array(1)], opset=26, label="of-nothing") for op in ("CumSum", "CumProd")),
    Case("CumSum", [x.reshape(2, 1, 3, 2, 2), np.array(-3, np.int32)], label="rank-5"),
    *(Case(op, [small, np.array(1, np.int32)], opset=26, label="int32") for op in ("CumSum", "CumProd")),
    *(Case(op, [small, np.array(1, np.int32)], fed=[1], opset=26, label="int32-fed") for op in ("CumSum", "CumProd")),
    *(
        Case("CumProd", [zeros[:2], np.array(1)], {"exclusive": e, "reverse": r}, opset=26, label=f"zeros-{e}{r}")
        for e in (0, 1)
        for r in (0, 1)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


def adjoint(op: str, at: np.ndarray, ct: np.ndarray, *others: np.ndarray, **attrs: int) -> np.ndarray:
    model = onnxgrad.vjp(make_model(Case(op, [at.astype(np.float64), *others], attrs), at.dtype.type), "y0", "x0")
    return Runner(model, only_runtime=True)({"x0": at, "adj_y0": ct.astype(at.dtype)})["adj_x0"]


# --- points without a derivative -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ties_share_equally(dtype: type) -> None:
    at = np.array([[1, 3, 3, 2], [0, 0, 0, 0]], dtype)
    ct = np.array([[6], [8]], dtype)
    np.testing.assert_array_equal(adjoint("ReduceMax", at, ct, axes(1)), [[0, 3, 3, 0], [2, 2, 2, 2]])
    np.testing.assert_array_equal(adjoint("ReduceMin", -at, ct, axes(1)), [[0, 3, 3, 0], [2, 2, 2, 2]])


def test_more_ties_than_float16_can_count() -> None:
    found = adjoint("ReduceMax", np.zeros((1, 70000), np.float16), np.full((1, 1), 70, np.float16), axes(1))
    np.testing.assert_allclose(found, 0.001, rtol=1e-2)


def test_norms_at_zero() -> None:
    at, ct = np.array([[0.0, 0.0], [0.0, -2.0]]), np.ones((2, 1))
    np.testing.assert_array_equal(adjoint("ReduceL1", at, ct, axes(1)), [[0, 0], [0, -1]])
    np.testing.assert_array_equal(adjoint("ReduceL2", at, ct, axes(1)), [[0, 0], [0, -1]])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_position_is_flat(op: str) -> None:
    nodes = [helper.make_node(op, ["x"], ["i"], axis=1), helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [2, 3]), ("y", [2, 1]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.warns(onnxgrad.DisconnectedWarning):
        found = Runner(onnxgrad.vjp(model))({"x": np.zeros((2, 3), np.float32), "adj_y": np.ones((2, 1), np.float32)})
    assert not found["adj_x"].any()


# --- what is known only at run time --------------------------------------------------------------


def with_open_axes(op: str, **attrs: int) -> onnx.ModelProto:
    """A reduction of which not even the number of axes is known."""
    x_info = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [2, "n", 4])
    axes_info = helper.make_tensor_value_info("axes", TensorProto.INT64, ["k"])
    rank = 3 if attrs.get("keepdims", 1) else None
    y_info = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None if rank is None else [None] * rank)
    graph = helper.make_graph([helper.make_node(op, ["x", "axes"], ["y"], **attrs)], "g", [x_info, axes_info], [y_info])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("op", sorted(POINTS))
def test_open_number_of_axes(op: str, noop: int) -> None:
    run = Runner(onnxgrad.vjp(with_open_axes(op, noop_with_empty_axes=noop), "y", "x"), only_runtime=True)
    for chosen in (NONE, axes(1), axes(0, -1)):
        over = () if noop and not chosen.size else tuple(chosen) or None
        ct = rng.normal(size=np.sum(x, over, keepdims=True).shape)
        found = run({"x": POINTS[op], "axes": chosen, "adj_y": ct})["adj_x"]
        expected = adjoint(op, POINTS[op], ct, chosen, noop_with_empty_axes=noop)
        close(found, expected, 1e-13, f"axes {chosen}")


def test_open_rank_is_refused() -> None:
    with pytest.raises(onnxgrad.TensorTypeError, match="rank"):
        onnxgrad.vjp(with_open_axes("ReduceSum", keepdims=0), "y", "x")


def test_sum_of_a_broadcast_that_may_be_none() -> None:
    """``Σ Expand(a)``: a, of size N, fills K rows of length M; whether N is M or 1 is open."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, [size]) for name, size in zip("apq", "NKM", strict=True)
    ]
    nodes = [
        helper.make_node("Shape", ["p"], ["rows"]),
        helper.make_node("Shape", ["q"], ["columns"]),
        helper.make_node("Concat", ["rows", "columns"], ["shape"], axis=0),
        helper.make_node("Expand", ["a", "shape"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    forward, backward = Runner(onnxgrad.jvp(model, "y", "a")), Runner(onnxgrad.vjp(model, "y", "a"))
    for n in (1, 3):
        feeds = {"a": rng.normal(size=n), "p": np.zeros(2), "q": np.zeros(3)}
        tangent = rng.normal(size=n)
        assert forward({**feeds, "fwd_a": tangent})["fwd_y"] == pytest.approx(2 * (3 // n) * tangent.sum())
        found = backward({**feeds, "adj_y": np.array(1.0)})["adj_a"]
        np.testing.assert_allclose(found, np.full(n, 2 * (3 // n)))


# --- samples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [*sorted(POINTS), "CumSum", "CumProd"])
def test_samples(op: str) -> None:
    """Samples stay apart unless their own axis is reduced, or might be."""
    if op.startswith("Cum"):
        point, over = x, [np.array(a) for a in (1, 0)]
    else:
        point, over = POINTS[op], [axes(1, -1), axes(0, 1)]
    model = make_model(Case(op, [point, over[0]], opset=26))
    full, each = (
        Runner(onnxgrad.jacobian(model, "y0", "x0", batched=batched))({"x0": point})["jac_y0_x0"]
        for batched in (False, True)
    )
    for i in range(2):
        close(each[i], full[i].take(i, axis=2), 1e-12, f"sample {i}")
    for case in (Case(op, [point, over[1]], opset=26), Case(op, [point, over[0]], fed=[1], opset=26)):
        with pytest.raises(onnxgrad.MixedSamplesError, match=op):
            onnxgrad.jacobian(make_model(case), "y0", "x0", batched=True)


def test_samples_move_with_dropped_axes() -> None:
    model = make_model(Case("ReduceSum", [x, axes(1)], {"keepdims": 0}))
    assert Runner(onnxgrad.jacobian(model, "y0", "x0", batched=True))({"x0": x})["jac_y0_x0"].shape == (2, 4, 3, 4)
