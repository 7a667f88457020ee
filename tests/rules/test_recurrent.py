"""Recurrent layers.

The oracle in float64 is `tests.recurrent`, which goes through samples and steps one by one; in float32 that is
held to onnxruntime's kernels.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxgrad
from onnxgrad.rules.recurrent import UNROLLED_STEPS
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model
from tests.harness import _check_point as check_point
from tests.recurrent import ALPHAS, FUNCTIONS

FEATURES, H, B, T = 2, 3, 2, 3
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def inputs(
    op: str,
    *,
    directions: int = 1,
    layout: int = 0,
    bias: bool = True,
    lengths: list[int] | None = None,
    initial: bool = True,
    peepholes: bool = False,
    steps: int = T,
    batch: int = B,
    seed: int = 11,
) -> list[np.ndarray | None]:
    g, rng = GATES[op], np.random.default_rng(seed)

    def a(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) * 0.7

    state = (batch, directions, H) if layout else (directions, batch, H)
    result: list[np.ndarray | None] = [
        a(batch, steps, FEATURES) if layout else a(steps, batch, FEATURES),
        a(directions, g * H, FEATURES),
        a(directions, g * H, H),
        a(directions, 2 * g * H) if bias else None,
        np.array(lengths, np.int32) if lengths is not None else None,
        a(*state) if initial else None,
    ]
    if op == "LSTM":
        result += [a(*state) if initial else None, a(directions, 3 * H) if peepholes else None]
    return result


def case(op: str, label: str, attrs: dict[str, Any] | None = None, **options: Any) -> Case:
    attrs = {"hidden_size": H, **(attrs or {})}
    layout = attrs.get("layout", 0)
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    return Case(
        op,
        # points of their own, so that none comes to lie at a kink as others change
        inputs(op, directions=directions, layout=layout, seed=zlib.crc32(f"{op}-{label}".encode()), **options),
        attrs,
        outputs=3 if op == "LSTM" else 2,
        fed=(4,),
        label=label,
        # onnxruntime has no layout=1; of no step, its GRU ends the process, and its LSTM gives memory as it finds it
        float32=None if layout or options.get("steps") == 0 else 1e-4,
    )


BOTH, BACK = {"direction": "bidirectional"}, {"direction": "reverse"}
PARAMETERS = {"activation_alpha": [0.3, 0.7], "activation_beta": [0.4]}
LSTM_ACTIVATIONS = ["HardSigmoid", "Softsign", "Elu"]

# Each is taken with a fixed, small number of steps, which are written out, or the fewest that make a `Scan`.
FIXED = [
    case("LSTM", "bare", bias=False, initial=False),
    case("LSTM", "reverse", BACK),
    case("LSTM", "peepholes", peepholes=True),
    case("LSTM", "coupled", {"input_forget": 1}),
    case("LSTM", "clip", {"clip": 0.6}),
    case("LSTM", "activations", {"activations": LSTM_ACTIVATIONS, **PARAMETERS}),
    case("RNN", "plain"),
    case("RNN", "clip", {"clip": 0.4}),
    case("RNN", "layout", {"layout": 1, **BACK}),
    case("RNN", "differ", {"activations": ["Softsign", "Sigmoid"], **BOTH}),
    case("GRU", "before", {"linear_before_reset": 1}),
    case("GRU", "bare", bias=False, initial=False),
    case("GRU", "bare-before", {"linear_before_reset": 1}, bias=False, initial=False),
    case("GRU", "clip", {"clip": 0.5}),
    *(case(op, "scan", BOTH, steps=UNROLLED_STEPS + 1, lengths=[2, 1]) for op in GATES),
    *(case(op, "scan-plain", steps=UNROLLED_STEPS + 1) for op in GATES),
    case("LSTM", "scan-all", {"input_forget": 1, "clip": 0.6, **BACK}, steps=UNROLLED_STEPS + 1, peepholes=True),
    case("GRU", "scan-all", {"linear_before_reset": 1, "clip": 0.5, **BACK}, steps=UNROLLED_STEPS + 1, lengths=[4, 0]),
    case("RNN", "scan-all", {"clip": 0.4, "layout": 1, **BOTH}, steps=UNROLLED_STEPS + 1, lengths=[3, 4]),
    *(
        case("RNN", name, {"activations": [name]} | (PARAMETERS if np.isnan(ALPHAS.get(name, 0)) else {}))
        for name in FUNCTIONS
    ),
]
# These with every size symbolic, too.
OPEN = [
    case("LSTM", "plain"),
    case("LSTM", "peepholes-coupled-clip", {"input_forget": 1, "clip": 0.6, **BACK}, peepholes=True),
    case("LSTM", "lengths", BOTH, lengths=[T, 1]),
    case("LSTM", "lengths-zero", BACK, lengths=[0, T - 1]),
    case("LSTM", "layout", {"layout": 1}, lengths=[2, T], peepholes=True),
    case("RNN", "bidirectional", BOTH, lengths=[T, 1]),
    case("RNN", "reverse-lengths", BACK, lengths=[2, 0]),
    case("GRU", "plain"),
    case("GRU", "bidirectional", {"linear_before_reset": 1, **BOTH}),
    case("GRU", "lengths", BACK, lengths=[T, 1]),
    case("GRU", "lengths-zero", {"linear_before_reset": 1}, lengths=[0, T]),
    case("GRU", "layout", {"layout": 1, **BOTH}),
    *(case(op, "one-step", steps=1) for op in GATES),
    *(case(op, "no-step", steps=0) for op in GATES),
    case("RNN", "no-sample", BOTH, batch=0),
]
CASES = [*(replace(c, dynamic=False) for c in FIXED), *OPEN]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(replace(case, dynamic=False))
    if case.dynamic:
        model = make_model(case, dynamic=True)
        for x in model.graph.input:
            if x.name == "x4":  # there are as many lengths as samples
                x.type.tensor_type.shape.dim[0].dim_param = "x0_0" if case.attrs.get("layout") else "x0_1"
        check_point(case, model, np.random.default_rng(0))


@pytest.mark.parametrize("case", [c for c in CASES if c.float32 is not None], ids=lambda case: case.name)
def test_values_are_those_of_onnxruntime(case: Case) -> None:
    """The oracle of the tests above is a stand-in for onnxruntime's float32 kernels: it must agree with them."""
    results = []
    for dtype in (np.float64, np.float32):
        model = make_model(case, dtype)
        feeds = {i.name: case.inputs[int(i.name[1:])] for i in model.graph.input}
        feeds = {name: a.astype(dtype) if a.dtype == np.float64 else a for name, a in feeds.items()}
        results.append(Runner(model, only_runtime=dtype == np.float32)(feeds))
    for name, expected in results[0].items():
        np.testing.assert_allclose(results[1][name], expected, atol=2e-6)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("layout", [0, 1])
def test_samples_stay_apart(op: str, layout: int) -> None:
    c = case(op, "", {"layout": layout, **BOTH}, lengths=[2, T, 1][:B])
    check_samples(replace(c, fixed=(1, 2, 3), fed=()), kept=[0 if layout else 1])
    check_samples(replace(c, fixed=(0, 1, 2, 3), fed=()), kept=[0 if layout else 1])


# --- whole models ------------------------------------------------------------------------------------


def model_of(op: str, fixed: bool, dtype: type = np.float64) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A layer with samples in front, ``x`` of shape ``(B, T, FEATURES)``, ``y`` the sums of squares of all outputs of
    each sample; sequences have lengths.
    """
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = inputs(op, directions=2, initial=False, lengths=[T, 1])
    weights = {"w": arrays[1], "r": arrays[2], "b": arrays[3]}
    shape = (B, T) if fixed else ("N", "T")
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
            helper.make_node(op, ["turned", "w", "r", "b", "lengths"], ["h", "last"], name="cell", hidden_size=H,
                             direction="bidirectional"),
            helper.make_node("Mul", ["h", "h"], ["squares"]),
            helper.make_node("Mul", ["last", "last"], ["squares_of_last"]),
            helper.make_node("ReduceSum", ["squares", "steps"], ["a"], keepdims=0),
            helper.make_node("ReduceSum", ["squares_of_last", "states"], ["b_"], keepdims=0),
            helper.make_node("Add", ["a", "b_"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", kind, [*shape, FEATURES]),
            helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, shape[:1]),
        ],
        [helper.make_tensor_value_info("y", kind, shape[:1])],
        [
            *(numpy_helper.from_array(a.astype(dtype), name) for name, a in weights.items() if a is not None),
            numpy_helper.from_array(np.array([0, 1, 3]), "steps"),
            numpy_helper.from_array(np.array([0, 2]), "states"),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    assert arrays[0] is not None
    assert arrays[4] is not None
    return model, {"x": arrays[0].swapaxes(0, 1).astype(dtype), "lengths": arrays[4]}


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "symbolic"])
def test_hessian(op: str, fixed: bool) -> None:
    """Of each sample, closed form against differences of the gradient; it is symmetric."""
    model, feeds = model_of(op, fixed)
    hessian = Runner(onnxgrad.hessian(model, "y", "x", batched=True))(feeds)["hess_y_x_x"]
    gradient = Runner(onnxgrad.gradient(model, "y", "x", batched=True))
    assert hessian.shape == (B, T, FEATURES, T, FEATURES)
    np.testing.assert_allclose(hessian, hessian.transpose(0, 3, 4, 1, 2), atol=1e-14)
    step, weights = 1e-4, {-2: 1, -1: -8, 1: 8, 2: -1}
    for t in range(T):
        for i in range(FEATURES):
            ahead = np.zeros((B, T, FEATURES))
            ahead[:, t, i] = step
            found = {k: gradient({**feeds, "x": feeds["x"] + k * ahead})["grad_y_x"] for k in weights}
            numeric = sum(w * found[k] for k, w in weights.items()) / (12 * step)
            close(hessian[..., t, i], numeric, 1e-8, f"column {t}, {i}")  # as in the harness


@pytest.mark.parametrize("op", GATES)
def test_jacobian_of_each_sample(op: str) -> None:
    """With symbolic batch and length, per sample by itself, in onnxruntime: as one sample alone; none for none."""
    model, feeds = model_of(op, fixed=False, dtype=np.float32)
    added = onnxgrad.jacobian(model, "y", "x")
    (record,) = onnxgrad.derivatives(added)
    assert record.batched
    run = Runner(added, only_runtime=True)
    whole = run(feeds)["jac_y_x"]
    for i in range(B):
        alone = run({name: a[i : i + 1] for name, a in feeds.items()})["jac_y_x"]
        np.testing.assert_allclose(whole[i : i + 1], alone, rtol=1e-5, atol=1e-6)
    assert not whole[1, 1:].any(), "behind the end of the sequence nothing counts"
    assert whole[1, :1].any()


@pytest.mark.parametrize("op", GATES)
def test_any_number_of_steps_with_one_model(op: str) -> None:
    """One file serves sequences of any length, one step and none (of which onnxruntime cannot run a GRU)."""
    c = replace(case(op, "", BOTH, bias=False, initial=False), fixed=(1, 2), float32=None)
    run = Runner(onnxgrad.vjp(make_model(c, np.float32, dynamic=True), "y0", "x0"), only_runtime=True)
    rng = np.random.default_rng(0)
    for steps in (5, 1) if op == "GRU" else (5, 1, 0):
        x = rng.normal(size=(steps, B, FEATURES))
        same = replace(c, inputs=[x, *c.inputs[1:]], dynamic=False)
        ct = rng.normal(size=(steps, 2, B, H))
        expected = Runner(onnxgrad.vjp(make_model(same), "y0", "x0"))({"x0": x, "adj_y0": ct})["adj_x0"]
        found = run({"x0": x.astype(np.float32), "adj_y0": ct.astype(np.float32)})["adj_x0"]
        close(found, expected, 1e-5, f"{steps} steps")  # float32, of few operations


@pytest.mark.parametrize("op", GATES)
def test_a_sequence_without_steps_ends_in_zero(op: str) -> None:
    """As onnxruntime computes it: the first state does not reach the last one."""
    c = case(op, "", lengths=[0, T])
    feeds = {f"x{i}": a for i, a in enumerate(c.inputs) if a is not None}
    ct = np.ones((1, B, H))
    found = Runner(onnxgrad.vjp(make_model(c, dynamic=True), "y1", ["x0", "x5"]))({**feeds, "adj_y1": ct})
    assert not found["y1"][:, 0].any()
    assert not found["adj_x5"][:, 0].any()
    assert found["adj_x5"][:, 1].all()


@pytest.mark.parametrize("op", GATES)
def test_what_is_behind_the_end_does_not_matter(op: str) -> None:
    c = case(op, "", BOTH, lengths=[1, T])
    feeds = {f"x{i}": a for i, a in enumerate(c.inputs) if a is not None}
    run = Runner(onnxgrad.vjp(make_model(c, dynamic=True), "y1", ["x0", "x1", "x2"]))
    expected = run({**feeds, "adj_y1": np.ones((2, B, H))})
    feeds["x0"][1:, 0] = np.nan
    found = run({**feeds, "adj_y1": np.ones((2, B, H))})
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert not found["adj_x0"][1:, 0].any()


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attrs", "why"),
    [
        ({"activations": ["Affine", "Tanh", "Tanh"]}, "its activation Affine has no parameters"),
        ({"activations": ["ScaledTanh", "Tanh", "Tanh"], "activation_alpha": [1.0]}, "ScaledTanh has no parameters"),
        ({"activations": ["Tanh", "Tanh", "ThresholdedRelu"]}, "its activation ThresholdedRelu has no parameters"),
        ({"activations": ["Gelu", "Tanh", "Tanh"]}, "its activation 'Gelu' is not one of"),
        ({"activations": ["Sigmoid", "Tanh"]}, "it names 2 activations, fewer than 3"),
    ],
)
def test_refusals(attrs: dict[str, Any], why: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=f"LSTM .*'n': .*{why}"):
        onnxgrad.vjp(make_model(case("LSTM", "", attrs)), "y0", "x0")


def test_states_of_unknown_size_are_refused() -> None:
    c = case("LSTM", "")
    del c.attrs["hidden_size"]
    with pytest.raises(onnxgrad.NotDifferentiableError, match="the size of its states is not known"):
        onnxgrad.vjp(make_model(c, dynamic=True), "y0", "x0")


def test_time_is_no_axis_of_samples() -> None:
    """A symbolic axis 0 that is the time cannot be taken for a batch."""
    c = replace(case("RNN", "", initial=False), fixed=(1, 2, 3))
    with pytest.raises(onnxgrad.OnnxgradError, match="it keeps samples apart on axis 1"):
        onnxgrad.jacobian(make_model(c, dynamic=True), "y0", "x0", batched=True)
