"""Recurrent layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, make_model

rng = np.random.default_rng(11)
FEATURES, H, B, T = 2, 3, 2, 3
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def inputs(op: str, *, directions: int = 1, layout: int = 0, bias: bool = True, lengths: bool = False,
           initial: bool = True, peepholes: bool = False) -> list[np.ndarray | None]:  # fmt: skip
    g = GATES[op]

    def a(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) * 0.7

    state = (B, directions, H) if layout else (directions, B, H)
    result: list[np.ndarray | None] = [
        a(B, T, FEATURES) if layout else a(T, B, FEATURES),
        a(directions, g * H, FEATURES),
        a(directions, g * H, H),
        a(directions, 2 * g * H) if bias else None,
        np.array([T, 1], np.int32) if lengths else None,
        a(*state) if initial else None,
    ]
    if op == "LSTM":
        result += [a(*state) if initial else None, a(directions, 3 * H) if peepholes else None]
    return result


def case(op: str, label: str, attrs: dict[str, Any] | None = None, **options: Any) -> Case:
    attrs = {"hidden_size": H, **(attrs or {})}
    layout = attrs.get("layout", 0)
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    # sequence lengths and sizes of weights stay fixed: the number of steps must be known
    return Case(
        op,
        inputs(op, directions=directions, layout=layout, **options),
        attrs,
        outputs=3 if op == "LSTM" else 2,
        dynamic=False,
        label=label,
    )


CASES = [
    case("LSTM", "plain"),
    case("LSTM", "bare", bias=False, initial=False),
    case("LSTM", "reverse", {"direction": "reverse"}),
    case("LSTM", "bidirectional", {"direction": "bidirectional"}),
    case("LSTM", "peepholes", peepholes=True),
    case("LSTM", "lengths", {"direction": "bidirectional"}, lengths=True),
    case("LSTM", "coupled", {"input_forget": 1}),
    case("LSTM", "clip", {"clip": 0.6}),
    case(
        "LSTM",
        "activations",
        {"activations": ["HardSigmoid", "Softsign", "Elu"], "activation_alpha": [0.3, 0.7], "activation_beta": [0.4]},
    ),
    case("RNN", "plain"),
    case("RNN", "bidirectional", {"direction": "bidirectional"}, lengths=True),
    case("RNN", "affine", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
    case("GRU", "plain"),
    case("GRU", "before", {"linear_before_reset": 1}),
    case("GRU", "bidirectional", {"direction": "bidirectional", "linear_before_reset": 1}),
    case("GRU", "lengths", {"direction": "reverse"}, lengths=True),
    case("GRU", "bare", bias=False, initial=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


def test_steps_that_are_not_fixed_are_refused() -> None:
    w, r = np.zeros((1, 4 * H, FEATURES), np.float32), np.zeros((1, 4 * H, H), np.float32)
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="cell", hidden_size=H)],
        "g",
        [helper.make_tensor_value_info("x", 1, ["T", 1, FEATURES])],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx_tensor(w, "w"), onnx_tensor(r, "r")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"LSTM .*'cell': its number of steps is not fixed"):
        onnxgrad.vjp(model)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_are_those_of_onnxruntime(case: Case) -> None:
    """The oracle of the tests above is a stand-in for onnxruntime's float32 kernels: it must agree with them."""
    results = []
    for dtype in (np.float64, np.float32):
        model = make_model(case, dtype)
        feeds = {i.name: case.inputs[int(i.name[1:])].astype(dtype) for i in model.graph.input}
        results.append(Runner(model, only_runtime=dtype == np.float32)(feeds))
    for name, expected in results[0].items():
        np.testing.assert_allclose(results[1][name], expected, atol=2e-6)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_layout_with_samples_in_front(op: str) -> None:
    """onnxruntime and this project's stand-in both lack ``layout=1``; it is the same layer with axes exchanged."""
    first, second = case(op, "0"), case(op, "1", {"layout": 1})
    second.inputs = [a.swapaxes(0, 1) if i in (0, 5, 6) else a for i, a in enumerate(first.inputs)]
    plain, turned = (make_model(c) for c in (first, second))
    ct = rng.normal(size=(T, 1, B, H))
    found = []
    for c, model, seed in ((first, plain, ct), (second, turned, ct.transpose(2, 0, 1, 3))):
        feeds = {i.name: c.inputs[int(i.name[1:])] for i in model.graph.input}
        augmented = onnxgrad.vjp(model, "y0", ["x0", "x1", "x2"], keep_outputs=False)
        found.append(Runner(augmented)({**feeds, "adj_y0": seed}))
    np.testing.assert_allclose(found[0]["adj_x0"], found[1]["adj_x0"].swapaxes(0, 1), rtol=1e-12)
    for name in ("adj_x1", "adj_x2"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-12, atol=1e-14)


def test_samples_stay_apart_on_axis_0_with_that_layout() -> None:
    c = case("LSTM", "1", {"layout": 1}, initial=False)
    model = make_model(c)
    del model.graph.input[1:]
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for i in (1, 2, 3):
        model.graph.initializer.append(numpy_helper.from_array(c.inputs[i], f"x{i}"))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (record,) = onnxgrad.derivatives(onnxgrad.jacobian(model, "y0", "x0"))
    assert record.batched


def onnx_tensor(array: np.ndarray, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)
