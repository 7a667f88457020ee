"""`check_model`: what is right passes, what is wrong is found, and what is neither is named."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnxgrad
from onnxgrad.checks import CheckReport, Primal, Row, check, check_model, derived
from onnxgrad.checks.precision import CannotWidenError
from onnxgrad.rules import REGISTRY
from tests.checks.check_models import CONV, EMBEDDING, MLP, PAIRS, RELU, model, rule, unary


def verdicts(report: CheckReport) -> dict[tuple[str, str], str]:
    return {(row.of, row.wrt): row.verdict for row in report.rows}


@pytest.fixture(params=["float64", "float32"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Differences in float64, and in the model's own float32 as where a model has no float64 form."""
    if request.param == "float32":

        def refuse(_: Any) -> bool:
            raise CannotWidenError("for the test")

        monkeypatch.setattr(check, "to_float64", refuse)
    return str(request.param)


# --- what is right ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "engine"),
    [(MLP, "onnxruntime"), (RELU, "onnxruntime"), (CONV, "onnx.reference")],
    ids=["mlp", "relu", "conv"],
)
def test_right(text: str, engine: str, precision: str) -> None:
    report = check_model(model(text))
    assert report.ok
    assert report.verdict == "right"
    assert report.precision == precision
    assert report.engine == (engine if precision == "float64" else "onnxruntime")
    assert report.primal == Primal("same bits")
    (row,) = report.rows
    assert row.derivative is not None
    assert row.difference is not None
    assert row.tolerance is not None
    assert abs(row.derivative - row.difference) <= row.tolerance <= 0.005 * abs(row.difference)
    assert row.adjoint is not None
    assert row.adjoint < (1e-12 if precision == "float64" else 1e-5)
    assert precision == "float32" or (row.rounding is not None and 0 < row.rounding < 1e-5)


def test_every_pair_by_itself() -> None:
    report = check_model(model(PAIRS))
    assert verdicts(report) == {("y", "a"): "right", ("y", "b"): "right", ("z", "a"): "right", ("z", "b"): "zero"}
    assert report.rows[3].detail == "no path leads from the input to the output"
    assert report.counts == {"zero": 1, "right": 3}


def test_choice_of_pairs() -> None:
    assert verdicts(check_model(model(PAIRS), of="y", wrt=["b"])) == {("y", "b"): "right"}


def test_weights_and_values_inside() -> None:
    report = check_model(model(MLP), of=["y", "t"], wrt=["x", "W1", "b1", "a", "t"])
    assert report.counts == {"zero": 0, "right": 10} or report.counts == {"right": 10}
    assert verdicts(report)["t", "t"] == "right"


def test_kinds_of_inputs() -> None:
    report = check_model(model(EMBEDDING))
    assert verdicts(report) == {("y", "attention_mask"): "right", ("y", "x"): "right"}


def test_older_opset() -> None:
    report = check_model(unary("Softmax(x)", "[N, 3, 2]", opset=9))
    assert report.verdict == "right"
    assert report.primal.verdict in ("same bits", "same to rounding")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double"])
def test_other_types(dtype: str) -> None:
    report = check_model(unary("Mul(x, x)", dtype=dtype))
    assert report.verdict == "right"
    assert report.precision == "float64"


def test_local_function() -> None:
    text = """
    net (float[N, 3] x) => (float[N, 3] y) { y = local.Cube(x) }
    <domain: "local", opset_import: ["" : 18]> Cube (x) => (y) { s = Mul(x, x)  y = Mul(s, x) }
    """
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 18, "local" : 1]>' + text)
    assert check_model(proto).verdict == "right"


# --- what is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0, 0.0, 2.0])
def test_a_rule_that_is_off(factor: float, precision: str) -> None:
    with rule("Tanh", lambda op, node, ct: ct * (factor * (1 - node.y * node.y))):
        report = check_model(model(MLP))
    assert report.verdict == "wrong"
    assert not report.ok


def test_a_rule_that_is_off_in_a_convolution(precision: str) -> None:
    own = REGISTRY.get("Sigmoid")
    assert own is not None
    assert own.vjp is not None
    with rule("Sigmoid", lambda op, node, ct: [c() * 1.01 for c in own.vjp(op, node, ct)]):
        assert check_model(model(CONV)).verdict == "wrong"


def test_a_term_that_is_missing() -> None:
    with rule("Softmax", lambda op, node, ct: ct * node.y):
        assert check_model(unary("Softmax(x)")).verdict == "wrong"


def test_an_error_in_one_element_is_located() -> None:
    """The derivative is wrong for one element out of a thousand: it is found and named."""
    x = np.linspace(-1, 1, 1000, dtype=np.float32).reshape(1, 1000)
    with rule("Sin", lambda op, node, ct: ct * op.Where(node.x > 0.9985, 0.99, 1.0 * op.Cos(node.x))):
        (row,) = check_model(unary("Sin(x)", "[N, 1000]"), data={"x": x}).rows
    assert row.verdict == "wrong"
    assert "input element [0, 999], output element 999: derivative 0.99, by differences 0.540302" in row.detail


def test_an_input_that_is_said_to_be_zero() -> None:
    with rule("Mul", lambda op, node, ct: ct * node.inputs[1], wrt=[0], zero={1: "for the test"}):
        report = check_model(model(PAIRS), of="y", wrt="b")
    assert report.verdict == "wrong"
    assert "said to be zero (only through steps: Mul" in report.rows[0].detail


def test_nan_where_there_is_a_derivative() -> None:
    with rule("Sin", lambda op, node, ct: ct * op.Cos(node.x) * op.Sqrt(node.x)):
        (row,) = check_model(unary("Sin(x)")).rows
    assert row.verdict == "wrong"
    assert "derivative nan" in row.detail


def test_adjoint_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    right = derived.Derivatives.jvp
    monkeypatch.setattr(derived.Derivatives, "jvp", lambda *args: right(*args) * (1 + 1e-7))
    (row,) = check_model(model(MLP)).rows
    assert row.verdict == "wrong"
    assert row.detail.startswith("⟨ct, J t⟩ and ⟨Jᵀ ct, t⟩ differ by 8.0e-08")


def test_primal_that_changes() -> None:
    """A rule that meddles with the node that it differentiates."""

    def meddle(op: Any, node: Any, ct: Any) -> Any:
        node.ir.attributes["alpha"] = type(node.ir.attributes["alpha"])("alpha", node.ir.attributes["alpha"].type, 0.3)
        return ct * op.Where(node.x > 0, op.constant(1.0, ct.dtype), op.constant(0.2, ct.dtype))

    with rule("LeakyRelu", meddle):
        report = check_model(unary("LeakyRelu<alpha = 0.2>(x)"))
    assert report.primal == Primal("changed", "with derivatives added, 'y' changed")
    assert report.verdict == "wrong"


def test_a_derivative_that_is_imprecise() -> None:
    """1 - y² near saturation is all rounding in float32."""
    x = np.full((1, 3), 8.2, np.float32)
    assert check_model(unary("Tanh(x)"), data={"x": x}).ok
    with rule("Exp", lambda op, node, ct: ct * ((node.y + 1e6) - 1e6)):
        (row,) = check_model(unary("Exp(x)"), data={"x": np.full((1, 3), -2, np.float32)}).rows
    assert row.verdict == "imprecise"
    assert row.rounding is not None
    assert row.rounding > 0.01


# --- points without a derivative ------------------------------------------------------------------

ZERO = np.array([[0.0, 0.5, -1.5]], np.float32)


@pytest.mark.parametrize(
    "node",
    [
        "Relu(x)",
        "LeakyRelu<alpha = 0.2>(x)",
        "ThresholdedRelu<alpha = 0.5>(x)",
        "LpNormalization<axis = 0>(x)",
    ],
)
def test_kink(node: str) -> None:
    report = check_model(unary(node), data={"x": ZERO})
    assert verdicts(report) == {("y", "x"): "kink"}
    assert report.ok


def test_symmetric_kink_has_a_difference_too() -> None:
    """The central difference of |x| at 0 is 0, which is the derivative that is chosen there; so for ties that share."""
    assert check_model(unary("Abs(x)"), data={"x": ZERO}).verdict == "right"
    tie = np.array([[0.5, 0.5, -1.5]], np.float32)
    proto = model("net (float[N, 3] x) => (float[1, 1] y) { y = ReduceMax(x) }")
    assert check_model(proto, data={"x": tie}).verdict == "right"


def test_infinite_slope() -> None:
    report = check_model(unary("Sqrt(x)"), data={"x": np.abs(ZERO)})
    assert verdicts(report) == {("y", "x"): "kink"}
    assert "a jump or an infinite slope, derivative inf" in report.rows[0].detail


def test_what_may_not_be_chosen_at_a_kink() -> None:
    def three(op: Any, node: Any, ct: Any) -> Any:
        ones = op.cast(node.x > 0, ct.dtype)
        return ct * (ones + op.cast(op.Equal(node.x, 0), ct.dtype) * 3.0)

    with rule("Relu", three):
        (row,) = check_model(unary("Relu(x)"), data={"x": ZERO}).rows
    assert row.verdict == "wrong"
    assert "derivative 3, by differences 0 on one side and 1 on the other" in row.detail


def test_an_error_beside_a_kink() -> None:
    """Right at 0, where anything from 0 to 1 is; wrong for what is smaller than a thousandth."""
    small = np.array([[0.0, 0.5, -1.5]], np.float32)
    with rule("Relu", lambda op, node, ct: ct * op.cast(node.x > 0, ct.dtype) * 1.02):
        assert check_model(unary("Relu(x)"), data={"x": small}).verdict == "wrong"


# --- no derivative ----------------------------------------------------------------------------------


def test_zero_by_nature() -> None:
    report = check_model(unary("Floor(x)"))
    assert verdicts(report) == {("y", "x"): "zero"}
    assert "only through steps: Floor" in report.rows[0].detail
    assert report.ok


def test_zero_at_a_point_is_not_zero_by_nature() -> None:
    report = check_model(unary("Relu(x)"), data={"x": np.full((2, 3), -1, np.float32)})
    assert report.rows == (
        Row("y", "x", "right", "zero at this point", 0.0, 0.0, report.rows[0].tolerance, 0.0, rounding=None),
    )


def test_refused() -> None:
    own = REGISTRY.get("Sin")
    assert own is not None
    REGISTRY.remove("Sin")
    try:
        report = check_model(model(PAIRS))
    finally:
        REGISTRY.add(own)
    assert verdicts(report) == {("y", "a"): "right", ("y", "b"): "right", ("z", "a"): "refused", ("z", "b"): "zero"}
    assert "Sin (version 7)" in report.rows[2].detail
    assert report.verdict == "refused"
    assert report.ok


def test_refused_while_being_written() -> None:
    def refuse(op: Any, node: Any, ct: Any) -> Any:
        raise onnxgrad.Refusal("for the test")

    with rule("Sin", refuse):
        report = check_model(model(PAIRS))
    assert verdicts(report) == {("y", "a"): "right", ("y", "b"): "right", ("z", "a"): "refused", ("z", "b"): "zero"}
    assert "for the test" in report.rows[2].detail


def test_derivative_that_onnxruntime_does_not_run() -> None:
    """It has no bfloat16 arithmetic: the derivative runs in the reference alone, and the report says so."""

    def through_bfloat16(op: Any, node: Any, ct: Any) -> Any:
        low = op.cast(ct, type(ct.dtype).BFLOAT16)
        return ct * op.Cos(node.x) + op.cast(op.emit("Sub", low, low)[0], ct.dtype)

    with rule("Sin", through_bfloat16):
        (row,) = check_model(unary("Sin(x)")).rows
    assert row.verdict == "right"
    assert row.detail == "runs in onnx.reference only"


def test_model_that_nothing_runs() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "my" : 1]> net (float[N] x) => (float[N] y) { y = my.Foo(x) }'
    )
    with pytest.raises(onnxgrad.RunError, match="Foo"):
        check_model(proto)


def test_blurred() -> None:
    """A sine that is much faster than rounding allows to follow."""
    x = np.full((1, 3), 3e6, np.float32) + np.array([[1, 5, 9]], np.float32)
    fast = "net (float[N, 3] x) => (float[N, 3] y) <float f = {1e9}> { p = Mul(x, f)  y = Sin(p) }"
    report = check_model(model(fast), data={"x": x})
    assert report.verdict == "undecided"
    assert not report.ok


# --- inputs -----------------------------------------------------------------------------------------


def test_given_data() -> None:
    report = check_model(model(MLP), data={"x": [[0.1, 0.2, 0.3]]} | {"x": np.ones((5, 3), np.float32)})
    assert report.data == "the given data"
    assert report.verdict == "right"


def test_some_of_the_data_is_given() -> None:
    report = check_model(model(PAIRS), data={"b": np.ones((4, 3), np.float32)})
    assert report.data == "random, normal numbers, open sizes 3 (beside the given data)"
    assert report.ok


def test_range_that_the_model_needs() -> None:
    report = check_model(unary("Log(x)"))
    assert "between 0 and 1" in report.data
    assert report.verdict == "right"


def test_size_that_the_model_needs() -> None:
    text = """
    net (float[1, 1, W] x) => (float[1, 1, w] y) <float[1, 1, 20] K> { y = Conv(x, K) }
    """
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]>' + text.replace("<float[1, 1, 20] K>", "")
    )
    kernel = onnx.numpy_helper.from_array(np.linspace(-1, 1, 20, dtype=np.float32).reshape(1, 1, 20), "K")
    proto.graph.initializer.append(kernel)
    report = check_model(proto)
    assert report.data.endswith("open sizes 32")
    assert report.verdict == "right"


def test_size_that_a_file_calls_minus_one() -> None:
    proto = model("net (float[N, 3] x) => (float[N, 3] y) { y = Sin(x) }")
    for port in (*proto.graph.input, *proto.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = -1
    report = check_model(proto)
    assert "open sizes 3" in report.data
    assert report.verdict == "right"


def test_unknown_names() -> None:
    with pytest.raises(onnxgrad.UnknownNameError, match="'X' is not an input of the model; there is 'x'"):
        check_model(model(MLP), data={"X": np.ones((2, 3))})
    with pytest.raises(onnxgrad.UnknownNameError):
        check_model(model(MLP), of="nothing")


def test_input_that_cannot_be_made_up() -> None:
    text = """
    net (seq(float[2]) s, float[2] x) => (float[2] y) <int64 first = {0}> { e = SequenceAt(s, first)  y = Mul(e, x) }
    """
    with pytest.raises(onnxgrad.FeedError, match="'s'"):
        check_model(model(text))
    pieces = [np.array([0.3, 0.4], np.float32)]
    report = check_model(model(text), data={"s": pieces})
    assert report.verdict == "refused"
    assert "the type or rank of 'e' is not known" in report.rows[0].detail


def test_random_outputs_are_compared() -> None:
    """With a seed, the reference draws the same numbers each time, and a derivative with them is checked."""
    text = "net (float[2] x) => (float[2] y, float[2] r) { r = RandomNormalLike(x)  y = Mul(x, r) }"
    report = check_model(model(text, 22), of="y")
    assert report.primal == Primal("same bits")
    assert verdicts(report) == {("y", "x"): "right"}


def test_random_outputs_of_a_body_are_compared() -> None:
    """That a body draws numbers is not looked for, but from the seed onnxruntime draws the same ones first."""
    text = """
    net (bool c, float[2] x) => (float[2] y, float[2] r) {
        y = Sin(x)
        r = If (c) < then_branch = t () => (u) { u = RandomNormalLike(x) }, else_branch = e () => (v) { v = Abs(x) } >
    }"""
    report = check_model(model(text, 18), of="y", data={"c": np.array(True)})
    assert report.primal == Primal("same bits")
    assert report.ok


def test_infinite_elements_stay() -> None:
    """A mask of -inf is no place to move."""
    text = "net (float[2, 3] x, float[2, 3] mask) => (float[2, 3] y) { s = Add(x, mask)  y = Softmax(s) }"
    mask = np.array([[0, 0, -np.inf], [0, -np.inf, 0]], np.float32)
    assert verdicts(check_model(model(text), data={"mask": mask})) == {("y", "x"): "right", ("y", "mask"): "right"}


def test_same_seed_same_numbers() -> None:
    first, again, other = (check_model(model(MLP), seed=seed).rows for seed in (0, 0, 1))
    assert first == again
    assert first[0].derivative != other[0].derivative


def test_progress() -> None:
    steps: list[tuple[int, int]] = []
    check_model(model(PAIRS), progress=lambda done, total: steps.append((done, total)))
    assert steps == [(0, 5), (1, 5), (2, 5), (3, 5), (5, 5)]


def test_bfloat16_data() -> None:
    report = check_model(unary("Mul(x, x)", dtype="bfloat16"), data={"x": np.ones((2, 3), ml_dtypes.bfloat16)})
    assert report.verdict == "right"


# --- the report -------------------------------------------------------------------------------------


def test_verdict_of_a_report() -> None:
    def report(*found: Any) -> CheckReport:
        rows = tuple(Row("y", "x", verdict) for verdict in found)
        return CheckReport(rows, Primal("same bits"), "float64", "onnxruntime", "", 0.0)

    assert report("right", "zero", "kink").verdict == "right"
    assert report("zero").verdict == "zero"
    assert report("right", "refused").ok
    assert not report("right", "not runnable").ok
    assert report("wrong", "refused").verdict == "wrong"
    assert report().ok
