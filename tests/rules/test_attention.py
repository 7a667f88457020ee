"""Attention, linear attention, rotary embeddings, and what stands beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model

rng = np.random.default_rng(9)


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


#: A scale of which the root is exact in float32, in which the body of `Attention` holds it.
SCALE = {"scale": 0.25}

q, k, v = normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 3)
many = normal(2, 4, 3, 4)
past_k, past_v = normal(2, 2, 2, 4), normal(2, 2, 2, 3)
flat = [normal(2, 3, 16), normal(2, 5, 8), normal(2, 5, 6)]
FLAT = {"q_num_heads": 4, "kv_num_heads": 2}
blind = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
closed = np.where(blind, normal(3, 5), -np.inf)


def attention(label: str, inputs: list[Any], attrs: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case("Attention", inputs, {**SCALE, **(attrs or {})}, **{"opset": 25, "label": label, **options})


ATTENTION = [
    *(attention(f"opset-{opset}", [q, k, v], opset=opset) for opset in (23, 24, 25)),
    Case("Attention", [normal(1, 2, 3, 16), normal(1, 2, 2, 16), normal(1, 2, 2, 2)], opset=24, label="scale"),
    Case("Attention", [normal(2, 1, 3, 1), normal(2, 1, 2, 1), normal(2, 1, 2, 1)], opset=24, label="size-1"),
    attention("grouped", [many, k, v], opset=24),
    attention("one-head-for-all", [many, k[:, :1], v[:, :1]], opset=24),
    attention("3d", flat, FLAT, opset=24),
    attention("3d-alike", [normal(2, 3, 8), *flat[1:]], {"q_num_heads": 2, "kv_num_heads": 2}, opset=23),
    attention("no-samples", [x[:0] for x in (q, k, v)]),
    attention("no-queries", [q[:, :, :0], k, v]),
    attention("constant-cache", [q, k, v], fixed=[1, 2]),
    # masks; of narrower ones and those of lower rank, onnxruntime has a kernel in version 25 only
    *(
        attention(f"mask-{'x'.join(map(str, shape))}", [many, k, v, normal(*shape)])
        for shape in ((5,), (3, 5), (1, 5), (4, 3, 5), (1, 3, 5), (2, 1, 3, 5), (2, 4, 3, 5), (1, 1, 1, 5))
    ),
    *(attention(f"short-mask-{m}", [q, k, v, normal(3, m)]) for m in (1, 4)),
    attention("short-mask-of-samples", [q, k, v, normal(2, 1, 3, 4)]),
    attention("broadcast-mask-23", [q, k, v, normal(3, 1)], opset=23, float32=None),
    attention("constant-mask", [q, k, v, normal(3, 5)], fixed=[3], opset=23),
    attention("bool", [q, k, v, blind], opset=23),
    attention("bool-short", [q, k, v, blind[:, :4]], {"is_causal": 1}),
    attention("bool-fed", [q, k, v, blind], fed=[3], opset=24),
    attention("closed", [q, k, v, closed], opset=23),
    attention("closed-constant", [q, k, v, closed], fixed=[3], opset=24),
    attention("3d-masked", [*flat, normal(2, 4, 3, 5)], {**FLAT, "is_causal": 1}, opset=24),
    # by place
    attention("causal", [q, k, v], {"is_causal": 1}, opset=23),
    attention("causal-more-queries", [normal(2, 2, 7, 4), k, v], {"is_causal": 1}, opset=24),
    attention("causal-mask", [q, k, v, blind], {"is_causal": 1}, opset=24),
    attention("past", [q, k, v, None, past_k, past_v], outputs=3, opset=23),
    attention("past-causal", [q, k, v, None, past_k, past_v], {"is_causal": 1}, outputs=3, opset=24),
    attention("past-grouped", [many, k, v, normal(3, 7), past_k, past_v], outputs=3, opset=24),
    attention("past-3d", [*flat, normal(3, 7), past_k, past_v], {**FLAT, "is_causal": 1}, outputs=4, opset=24),
    attention("no-past", [q, k, v, None, past_k[:, :, :0], past_v[:, :, :0]], outputs=3),
    *(
        attention(
            f"filled-{fed}-{causal}", [q, k, v, None, None, None, ints(2, 5)], {"is_causal": causal}, fed=fed, opset=24
        )
        for fed, causal in (([], 0), ([6], 0), ([6], 1), ([], 1))
    ),
    attention("filled-mask", [q, k, v, normal(3, 5), None, None, ints(4, 0)], {"is_causal": 1}, opset=24),
    *(
        attention(
            f"window-{left}-{right}-{causal}",
            [normal(2, 2, 6, 4), k, v],
            {"left_window_size": left, "right_window_size": right, "is_causal": causal},
        )
        for left, right, causal in ((1, -1, 0), (-1, 0, 0), (1, 1, 0), (2, 1, 1), (0, 0, 0))
    ),
    attention("window-past", [q, k, v, None, past_k, past_v], {"left_window_size": 1, "is_causal": 1}, outputs=3),
    attention(
        "window-filled", [q, k, v, None, None, None, ints(2, 5)], {"left_window_size": 0, "right_window_size": 1}
    ),
    # scores
    attention("softcap", [q, k, v], {"softcap": 2.0}, opset=23),
    *(
        attention(
            f"mode-{mode}-{cap}", [many, k, v, normal(3, 5)], {"qk_matmul_output_mode": mode, "softcap": cap}, outputs=4
        )
        for mode in range(4)
        for cap in (0.0, 0.5)
    ),
    attention("mode-2-plain", [q, k, v], {"qk_matmul_output_mode": 2}, outputs=4),
    attention("mode-3-blind", [q, k, v, blind], {"qk_matmul_output_mode": 3}, outputs=4),
]

query, key, value = normal(2, 4, 12), normal(2, 4, 6), normal(2, 4, 4)
HEADS = {"q_num_heads": 4, "kv_num_heads": 2}
state, decay, rate = normal(2, 2, 3, 2), -np.abs(normal(2, 4, 2)), np.abs(normal(2, 4, 2))
decays = -np.abs(normal(2, 4, 6))


def linear(label: str, rule: str, inputs: list[Any], **attrs: Any) -> Case:
    empty = not inputs[0].size  # onnxruntime runs ONNX's body, which has no shape for no elements
    return Case(
        "LinearAttention",
        inputs,
        {"update_rule": rule, **HEADS, **attrs},
        outputs=2,
        opset=27,
        label=f"{rule}-{label}",
        float32=None if empty else 1e-4,
    )


LINEAR = [
    linear("", "linear", [query, key, value]),
    linear("past", "linear", [query, key, value, state], scale=0.3),
    linear("", "gated", [query, key, value, None, decay]),
    linear("channels", "gated", [query, key, value, state, decays]),
    linear("", "delta", [query, key, value, None, None, rate]),
    linear("one-rate", "delta", [query, key, value, state, None, rate[:, :, :1]]),
    linear("", "gated_delta", [query, key, value, None, decay, rate]),
    linear("all", "gated_delta", [query, key, value, state, decays, rate[:, :, :1]]),
    linear("one-token", "gated_delta", [x[:, :1] for x in (query, key, value)] + [state, decay[:, :1], rate[:, :1]]),
    linear("no-tokens", "delta", [x[:, :0] for x in (query, key, value)] + [state, None, rate[:, :0]]),
    linear("no-samples", "linear", [x[:0] for x in (query, key, value)]),
    linear("alike", "gated_delta", [normal(2, 4, 6), key, value, state, decay, rate], q_num_heads=2),
    linear("one-head", "gated", [query, key, value, None, decays], q_num_heads=2, kv_num_heads=1),
]

tables, places = [normal(7, 2), normal(7, 2)], np.array([[0, 3, 3], [6, 1, 0]], np.int64)
aligned = [normal(2, 3, 2), normal(2, 3, 2)]
ROTARY = [
    Case(
        "RotaryEmbedding",
        [x, *caches, *at],
        {"interleaved": interleaved, **attrs},
        opset=23,
        fed=fed,
        label=f"{x.shape}-{'table' if at else 'aligned'}{fed}-{'interleaved' if interleaved else 'halves'}",
    )
    for x, attrs in (
        (q, {}),
        (normal(2, 2, 3, 7), {"rotary_embedding_dim": 4}),
        (normal(2, 3, 8), {"num_heads": 2}),
        (normal(2, 3, 14), {"num_heads": 2, "rotary_embedding_dim": 4}),
    )
    for caches, at, fed in ((aligned, [], []), (tables, [places], []), (tables, [places], [3]))
    for interleaved in (0, 1)
]
ROTARY += [
    Case("RotaryEmbedding", [q, *tables, places], opset=23, fixed=[1, 2], label="constant-tables"),
    Case("RotaryEmbedding", [q[:0], aligned[0][:0], aligned[1][:0]], opset=23, label="no-samples"),
]

signal, taps, shift, before = normal(2, 3, 5), normal(3, 1, 4), normal(3), normal(2, 3, 3)
CONVOLUTION = [
    Case("CausalConvWithState", inputs, {"activation": activation}, outputs=2, opset=27, label=f"{activation}-{i}")
    for activation in ("none", "silu", "swish")
    for i, inputs in enumerate(
        (
            [signal, taps],
            [signal, taps, shift, before],
            [signal, taps, None, before],
            [signal[:, :, :2], taps, shift],
            [signal, taps[:, :, :1], shift],
            [signal[:0], taps, shift, before[:0]],
        )
    )
]
CONVOLUTION += [Case("CausalConvWithState", [signal, taps, shift], fixed=[1, 2], outputs=2, opset=27, label="weights")]

SWIGLU = [
    # onnxruntime 1.32 has no kernel of it: see test_swiglu_in_onnxruntime
    Case("SwiGLU", [normal(2, 3), normal(2, 3)], {"alpha": alpha}, opset=28, float32=None, label=str(alpha))
    for alpha in (1.0, 1.5)
]
SWIGLU += [Case("SwiGLU", [normal(0, 3), normal(0, 3)], opset=28, float32=None, label="nothing")]


def graph(op_types: str, *constants: np.ndarray | None, outer: str = "") -> onnx.GraphProto:
    """Return a graph of operators in a row, each with a constant beside its first input, or with `outer`."""
    nodes, initializers, name = [], [], "scores"
    for i, (op_type, constant) in enumerate(zip(op_types.split(), constants, strict=True)):
        inputs = [name]
        if constant is not None:
            inputs.append(f"c{i}")
            initializers.append(numpy_helper.from_array(constant, f"c{i}"))
        elif outer:
            inputs.append(outer)
        name = f"t{i}"
        nodes.append(helper.make_node(op_type, inputs, [name]))
    ends = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in ("scores", name)]
    return helper.make_graph(nodes, "mod", ends[:1], ends[1:], initializers)


def flex(label: str, inputs: list[np.ndarray], attrs: dict[str, Any], **options: Any) -> Case:
    return Case(  # onnxruntime 1.32 has no kernel of it
        "FlexAttention",
        inputs,
        {**SCALE, **attrs},
        domain="ai.onnx.preview",
        label=label,
        float32=None,
        opset=26,
        **options,
    )


FLEX = [
    flex("plain", [q, k, v], {}),
    flex("grouped", [many, k, v], {}),
    flex("scores", [q, k, v], {"score_mod": graph("Tanh Mul", None, np.array(1.5))}),
    flex("position", [q, k, v], {"score_mod": graph("Add", normal(3, 5))}),
    flex("weights", [many, k, v], {"prob_mod": graph("Mul Sin", normal(3, 5), None)}),
    flex("both", [q, k, v], {"score_mod": graph("Mul", normal(2, 1, 1)), "prob_mod": graph("Exp", None)}),
]

CASES = [*ATTENTION, *LINEAR, *ROTARY, *CONVOLUTION, *SWIGLU, *FLEX]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_derivative(case: Case) -> None:
    check_rule(case)


def test_case_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


# --- what no case can say ------------------------------------------------------------------------


def gradients(model: onnx.ModelProto, feeds: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
    """Return all cotangents for ones as cotangents of the first output."""
    run = Runner(onnxgrad.vjp(model, "y0"), **options)
    y = Runner(model)(feeds)["y0"]
    found = run({**feeds, "adj_y0": np.ones_like(y)})
    return {name: found[f"adj_{name}"] for name in feeds}


@pytest.mark.parametrize("precision", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_precision_of_softmax(precision: int) -> None:
    """Rounding has no derivative: the derivative is that of the operator without it, in float32 at least."""
    feeds = {"x0": q, "x1": k, "x2": v}
    plain, rounded = (
        gradients(make_model(attention("", [q, k, v], attrs, opset=24)), feeds)
        for attrs in ({}, {"softmax_precision": precision})
    )
    for name, expected in plain.items():
        close(rounded[name], expected, 1e-14, name)


@pytest.mark.parametrize("precision", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_precision_of_softmax_in_float32(precision: int) -> None:
    case = attention("", [q, k, v], {"softmax_precision": precision}, opset=24)
    feeds = {"x0": q, "x1": k, "x2": v}
    single = {name: x.astype(np.float32) for name, x in feeds.items()}
    found = gradients(make_model(case, np.float32), single, only_runtime=True)
    for name, expected in gradients(make_model(case), feeds).items():
        close(found[name], expected, 1e-5, name)  # a dozen roundings in float32


def test_a_blind_query_moves_nothing() -> None:
    """Zeros come out whatever its query, and its mask, are; no NaN spreads to the others."""
    model = make_model(attention("", [q, k, v, closed], opset=24))
    found = gradients(model, {"x0": q, "x1": k, "x2": v, "x3": closed})
    assert all(np.isfinite(x).all() for x in found.values())
    assert not found["x0"][:, :, 1].any()
    assert not found["x3"][1].any()
    assert not found["x3"][~blind].any()
    seen = gradients(model, {"x0": q, "x1": k, "x2": v, "x3": np.where(blind, closed, -1e9)})
    close(found["x0"][:, :, 0], seen["x0"][:, :, 0], 1e-12, "queries that see something")


def test_scores_that_are_hidden_are_constant() -> None:
    """With ``qk_matmul_output_mode=2``, minus infinity comes out whatever goes in."""
    case = attention("", [q, k, v, blind], {"qk_matmul_output_mode": 2}, outputs=4, opset=24)
    run = Runner(onnxgrad.vjp(make_model(case), "y3", ["x0", "x1"]))
    ct = rng.normal(size=(2, 2, 3, 5))
    found = run({"x0": q, "x1": k, "x2": v, "adj_y3": ct})
    close(found["adj_x0"], 0.25 * (ct * blind) @ k, 1e-14, "queries")
    close(found["adj_x1"], 0.25 * np.swapaxes(ct * blind, 2, 3) @ q, 1e-14, "keys")


def test_integer_masks_are_added() -> None:
    """As by onnxruntime and ONNX's reference, although the text of ONNX knows only two kinds of masks."""
    added = rng.integers(-3, 3, size=(3, 5))
    feeds = {"x0": q, "x1": k, "x2": v}
    integer, real = (
        gradients(make_model(attention("", [q, k, v, mask], fixed=[3], opset=24)), feeds)
        for mask in (added, added.astype(np.float64))
    )
    for name in feeds:
        close(integer[name], real[name], 1e-14, name)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_swiglu_in_onnxruntime(alpha: float) -> None:
    """The derivative alone runs there, in float32."""
    a, b, ct = (normal(2, 3).astype(np.float32) for _ in range(3))
    model = make_model(Case("SwiGLU", [a.astype(float), b.astype(float)], {"alpha": alpha}, opset=28), np.float32)
    run = Runner(onnxgrad.vjp(model, keep_outputs=False), only_runtime=True)
    found = run({"x0": a, "x1": b, "adj_y0": ct})
    s = 1 / (1 + np.exp(-alpha * a))
    close(found["adj_x0"], ct * b * (s + alpha * a * s * (1 - s)), 1e-6, "gate")
    close(found["adj_x1"], ct * a * s, 1e-6, "value")


@pytest.mark.parametrize("case", [FLEX[2], FLEX[-1]], ids=lambda case: case.name)
def test_flex_attention_in_onnxruntime(case: Case) -> None:
    """The derivative alone runs there, the graphs in its attributes written out."""
    feeds = {f"x{i}": x for i, x in enumerate(case.inputs) if x is not None}
    feeds["adj_y0"] = normal(2, 2, 3, 3)
    model = onnxgrad.vjp(make_model(case), keep_outputs=False)
    assert "FlexAttention" not in {node.op_type for node in model.graph.node}
    expected = Runner(onnxgrad.vjp(make_model(case)))(feeds)
    for name, value in Runner(model, only_runtime=True)(feeds).items():
        close(value, expected[name], 1e-12, name)


def around(op_type: str, name: str) -> onnx.ModelProto:
    """A model of FlexAttention with a graph that uses a value around it."""
    case = flex("", [q, k, v], {"score_mod": graph(op_type, None, outer=name)})
    model = make_model(case)
    inputs = [helper.make_tensor_value_info("w", TensorProto.DOUBLE, [3, 5])]
    model.graph.input.extend(inputs)
    model.graph.node.insert(0, helper.make_node("Exp", ["w"], ["u"]))
    return model


def test_values_from_around_in_a_graph_of_flex_attention() -> None:
    model = around("Add", "u")
    with pytest.raises(onnxgrad.NotDifferentiableError, match="values from around it enter its body"):
        onnxgrad.vjp(model, "y0", "w")
    w, ct = normal(3, 5), normal(2, 2, 3, 3)
    found = Runner(onnxgrad.vjp(model, "y0", "x0", keep_outputs=False))(
        {"x0": q, "x1": k, "x2": v, "w": w, "adj_y0": ct}
    )
    same = make_model(attention("", [q, k, v, np.exp(w)], fixed=[3]))
    expected = Runner(onnxgrad.vjp(same, "y0", "x0"))({"x0": q, "x1": k, "x2": v, "adj_y0": ct})
    close(found["adj_x0"], expected["adj_x0"], 1e-12, "queries")


def test_random_graphs_of_flex_attention() -> None:
    dropped = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["s"], ["t"])],
        "mod",
        [helper.make_tensor_value_info("s", TensorProto.DOUBLE, None)],
        [helper.make_tensor_value_info("t", TensorProto.DOUBLE, None)],
    )
    with pytest.raises(onnxgrad.NotDifferentiableError, match="RandomNormalLike"):
        onnxgrad.vjp(make_model(flex("", [q, k, v], {"score_mod": dropped})))


@pytest.mark.parametrize("case", [c for c in LINEAR if c.float32 is None], ids=lambda case: case.name)
def test_linear_attention_of_nothing_in_onnxruntime(case: Case) -> None:
    """The derivative alone runs there. (Of open sizes, some are read from the outputs of the node itself.)"""
    model = make_model(case, np.float32)
    wrt = [f"x{i}" for i, x in enumerate(case.inputs) if x is not None]
    feeds = {name: np.asarray(case.inputs[int(name[1:])], np.float32) for name in wrt}
    batch, length, _ = feeds["x0"].shape
    ct = rng.normal(size=(batch, 2, 3, 2)).astype(np.float32)
    feeds |= {"adj_y0": np.zeros((batch, length, 8), np.float32), "adj_y1": ct}
    found = Runner(onnxgrad.vjp(model, ["y0", "y1"], wrt, keep_outputs=False), only_runtime=True)(feeds)
    for name in wrt:  # of no tokens, the state comes out as it went in
        close(found[f"adj_{name}"], ct if name == "x3" else np.zeros_like(feeds[name]), 1e-7, name)


@pytest.mark.parametrize(
    "case",
    [
        Case("Attention", flat, opset=24),
        Case("LinearAttention", [query, key, value], {"q_num_heads": 4}, opset=27),
        Case("CausalConvWithState", [signal, taps[:, 0]], opset=27),
    ],
    ids=lambda case: case.name,
)
def test_models_that_are_none(case: Case) -> None:
    """Heads, or axes, are missing: no type is made up for the outputs."""
    nodes = [helper.make_node(case.op, ["x0", "x1", "x2"][: len(case.inputs)], ["y0"], **case.attrs)]
    inputs = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.DOUBLE, x.shape)
        for i, x in enumerate(case.inputs)
        if x is not None
    ]
    outputs = [helper.make_tensor_value_info("y0", TensorProto.DOUBLE, None)]
    opset = [helper.make_opsetid("", case.opset)]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opset, ir_version=10)
    with pytest.raises(onnxgrad.OnnxgradError):
        onnxgrad.vjp(model)


# --- samples -------------------------------------------------------------------------------------

APART = [
    attention("", [q, k, v, normal(2, 1, 3, 5), past_k[:, :, :0], past_v[:, :, :0]]),
    attention("3d", flat, FLAT),
    attention("shared-mask", [q, k, v, normal(3, 5)], fixed=[3]),
    Case("LinearAttention", [query, key, value, None, decay, rate], {**HEADS}, outputs=2, opset=27),
    Case("RotaryEmbedding", [normal(2, 3, 8), *aligned], {"num_heads": 2}, opset=23),
    Case("RotaryEmbedding", [normal(2, 3, 8), *tables, places], {"num_heads": 2}, fixed=[1, 2], opset=23, label="3d"),
    Case("CausalConvWithState", [signal, taps, shift, before], fixed=[1, 2], outputs=2, opset=27),
]


@pytest.mark.parametrize("case", APART, ids=lambda case: case.name)
def test_samples_stay_apart(case: Case) -> None:
    check_samples(case, [0])


MIXING = [
    attention("one-mask-for-all", [q, k, v, normal(3, 5)]),
    attention("mask-of-heads", [q, k, v, normal(2, 3, 5)]),
    attention("one-mask-of-four-axes", [q, k, v, normal(1, 2, 3, 5)]),
    Case("RotaryEmbedding", [q, *tables, places], opset=23),
    Case("CausalConvWithState", [signal, taps], outputs=2, opset=27),
    flex("mod", [q, k, v], {"score_mod": graph("Tanh", None)}),
]


@pytest.mark.parametrize("case", MIXING, ids=lambda case: case.name)
def test_samples_mix(case: Case) -> None:
    wrt = "x3" if case.op == "Attention" else "x0" if case.op == "FlexAttention" else "x1"
    with pytest.raises(onnxgrad.MixedSamplesError, match=case.op):
        onnxgrad.jacobian(make_model(case), "y0", wrt, batched=True)


def test_samples_of_flex_attention() -> None:
    model = make_model(FLEX[0])
    feeds = {"x0": q, "x1": k, "x2": v}
    each, full = (Runner(onnxgrad.jacobian(model, "y0", "x1", batched=b))(feeds)["jac_y0_x1"] for b in (True, False))
    for i in range(2):
        close(each[i], full[i].take(i, axis=3), 1e-13, f"sample {i}")
