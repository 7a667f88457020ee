"""Operators of onnxruntime's own domain that hold whole layers: normalization, experts, convolution with a state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxgrad
from tests.expressions import check_exact, check_expression, with_names
from tests.harness import Case, Runner, close, make_model

rng = np.random.default_rng(11)
B, S, C, H = 2, 3, 4, 6


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def ms(op: str, inputs: list[np.ndarray | None], label: str = "", **attrs: Any) -> Case:
    kinds = ("outputs", "fixed", "fed", "dynamic", "of", "smooth", "differences")
    options = {name: attrs.pop(name) for name in kinds if name in attrs}
    return Case(op, inputs, attrs, **{"domain": "com.microsoft", "label": label, **options})


def check(case: Case, names: list[int] | None = None, absent: tuple[int, ...] = ()) -> None:
    check_expression(case, values=1e-5, names=names, absent=absent)
    check_exact(case, absent)


# --- normalization, gates and streams --------------------------------------------------------------------

streams, flat = a(B, S, C, H), a(B, S, C * H)
# keys and queries whose product is not near 0, where the gate is as steep as a root
alike, ones = [signs + 0.2 * a(B, S, C, H) for signs in [np.sign(a(B, S, C, H))] * 2], np.ones((C, H))
NORMS = [
    ms("BranchwiseRMSNorm", [2 * streams], epsilon=1e-3),
    *(ms("BranchwiseRMSNorm", [2 * streams, a(*s)], f"scale-{len(s)}-{s[0]}") for s in ((C * H,), (C, H), (H,))),
    *(ms("BranchwiseRMSNorm", [2 * flat, a(*s)], f"flat-{len(s)}-{s[0]}", num_branches=C) for s in ((C * H,), (H,))),
    *(ms("GatedRMSNorm", [2 * a(B, S, 20), a(5), a(B, S, 20)], k, activation=k) for k in ("silu", "swish", "sigmoid")),
    ms("EngramGate", [*alike, a(B, S, H), ones + 0.1 * a(C, H), ones, a(C, H)], outputs=2),
    ms("EngramGate", [alike[0], -alike[1], a(B, S, H), ones + 0.1 * a(C, H), ones], "alone"),
    *(
        ms("HyperConnectionPreMix", [streams, a(B, S, C, *last)], f"grouped-{last}", reduction_scale=0.5)
        for last in ((), (1,), (H,))
    ),
    *(
        ms("HyperConnectionPreMix", [flat, a(B, S, *last)], f"flat-{last}", num_branches=C)
        for last in ((C,), (C, 1), (C, H), (C * H,))
    ),
    *(
        ms("HyperConnectionPostMix", [streams, a(B, S, H), a(B, S, C, *last), a(B, S, C, C)], f"grouped-{last}")
        for last in ((), (1,), (H,))
    ),
    ms("HyperConnectionPostMix", [flat, a(B, S, H), a(B, S, C)], "flat", num_branches=C),
    ms("GatedAdd", [a(B, S, H), a(B, S, H), a(B, S, 1)]),
    ms("ScaledSiLU", [a(B, S)], alpha=0.7),
    ms("ScaledSiLU", [a(B, S), np.array(0.7)], "scale"),
    ms("LinearAttentionGate", [a(B, S, H), a(H), a(H)]),
    ms("LinearAttentionGate", [a(B, S, H), a(H), a(H), a(B, S, H)], "both", outputs=2),
]


@pytest.mark.parametrize("case", NORMS, ids=lambda case: case.name)
def test_streams(case: Case) -> None:
    check(case, names=[B, S])


# --- experts ---------------------------------------------------------------------------------------------

tokens, width, hidden, experts = 5, 8, 6, 4
scores = rng.permuted(np.linspace(-1.5, 1.5, tokens * experts)).reshape(tokens, experts)


def mixture(label: str, up: int = hidden, bias: bool = True, **attrs: Any) -> Case:
    layers = [0.5 * a(experts, up, width), 0.5 * a(experts, up), 0.5 * a(experts, width, hidden), a(experts, width)]
    if not bias:
        layers[1::2] = [None, None]  # type: ignore[list-item]
    return ms("MoE", [a(tokens, width), scores, *layers], label, **attrs)


EXPERTS = [
    *(mixture(kind, k=2, activation_type=kind) for kind in ("gelu", "silu", "identity")),
    mixture("normalized", k=2, activation_type="silu", normalize_routing_weights=1),
    mixture("one", k=1, activation_type="silu", bias=False),
    mixture("gated", 2 * hidden, k=3, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.7),
    mixture(
        "limited",
        2 * hidden,
        k=2,
        activation_type="swiglu",
        swiglu_fusion=1,
        activation_beta=1.0,
        swiglu_limit=30.0,
    ),
    ms("MoEGroupRouter", [scores, a(experts)], "chosen", top_k=2, n_group=2, fixed=[1]),
    ms("MoEGroupRouter", [scores, a(experts)], "all", top_k=2, outputs=3),
]


@pytest.mark.parametrize("case", EXPERTS, ids=lambda case: case.name)
def test_experts(case: Case) -> None:
    absent = (0,) if case.outputs == 3 else ()
    check_expression(case, values=1e-5, names=[tokens], absent=absent)
    if case.label != "chosen":  # which reads the outputs, for which there is no kernel in float64
        check_exact(case, absent)


def test_limits_of_a_gate() -> None:
    """Where gate and value are clipped, neither passes."""
    case = mixture("", 2 * hidden, k=4, activation_type="swiglu", swiglu_fusion=1, swiglu_limit=0.4)
    check_expression(case, values=1e-5, names=[tokens], derivatives=0.1)  # differences meet kinks here
    check_exact(Case(**{**vars(case), "smooth": True}))


# --- convolution with a state ----------------------------------------------------------------------------

taps = 4
CAUSAL = [
    ms("CausalConvWithState", [a(B, C, 7), a(C, 1, taps)], outputs=2),
    ms("CausalConvWithState", [a(B, C, 7), a(C, 1, taps), a(C), a(B, C, 3)], "state", outputs=2, activation="silu"),
    ms("CausalConvWithState", [a(B, C, 2), a(C, 1, taps), None, a(B, C, 3)], "short", outputs=2, activation="swish"),
    ms("CausalConvWithState", [a(B, C, 7), a(C, 1, taps), a(C), a(B, C, 6)], "dilation", outputs=2, dilation=2),
    ms("CausalConvWithState", [a(B, 7, C), a(C, 1, taps), a(C), a(B, 3, C)], "last", outputs=2, channels_last=1),
    ms("CausalConvWithState", [a(B, 7, 2, 2), a(C, 1, taps), None, a(B, 3, 2, 2)], "more", outputs=2, channels_last=1),
]


@pytest.mark.parametrize("case", CAUSAL, ids=lambda case: case.name)
def test_causal_convolution(case: Case) -> None:
    check(case, names=[B, 7])


ends = np.array([0, 4, 5, 10], np.int32)
RAGGED = [
    ms(
        "VarlenCausalConvWithState",
        [a(10, C), a(C, 1, taps), ends, bias, a(3, C, 3 * step)],
        f"{step}-{activation}",
        outputs=2,
        dilation=step,
        activation=activation,
        fed=[2],
    )
    for bias, step, activation in ((None, 1, "none"), (a(C), 1, "silu"), (a(C), 2, "none"))
]


@pytest.mark.parametrize("case", RAGGED, ids=lambda case: case.name)
def test_ragged_convolution(case: Case) -> None:
    check(case, names=[10])


# --- linear attention ------------------------------------------------------------------------------------

batch, T, depth, size = 3, 5, 4, 6


def linear(label: str, heads: int, few: int, rule: str, per_channel: bool = False, keys: int = 0, **more: Any) -> Case:
    gates = [
        -np.abs(a(batch, T, few * (depth if per_channel else 1))) if rule.startswith("gated") else None,
        rng.uniform(0.1, 0.9, (batch, T, few)) if rule.endswith("delta") else None,
    ]
    q, k, v = 0.5 * a(batch, T, heads * depth), 0.5 * a(batch, T, (keys or few) * depth), a(batch, T, few * size)
    attrs = {"q_num_heads": heads, "kv_num_heads": few, "update_rule": rule, "outputs": 2, **more}
    return ms("LinearAttention", [q, k, v, a(batch, few, depth, size), *gates], label, **attrs)


LINEAR = [
    *(linear(rule, 2, 2, rule) for rule in ("linear", "gated", "delta", "gated_delta")),
    linear("per-channel", 2, 2, "gated_delta", True, scale=0.3),
    linear("groups", 4, 2, "gated_delta"),
    linear("inverse-groups", 2, 4, "gated_delta"),
    linear("shared-keys", 2, 4, "delta", keys=2),
]


@pytest.mark.parametrize("case", LINEAR, ids=lambda case: case.name)
def test_linear_attention(case: Case) -> None:
    check(case, names=[batch, T])


def test_linear_attention_without_a_state() -> None:
    case = linear("", 2, 2, "gated")
    check(Case(**{**vars(case), "inputs": [*case.inputs[:3], None, case.inputs[4]]}), names=[batch, T])


@pytest.mark.parametrize(("samples", "steps"), [(0, T), (batch, 0), (1, 1)])
def test_linear_attention_of_few(samples: int, steps: int) -> None:
    """No samples, no steps, and one of each, where the number of steps is known and where it is not."""
    for names in ((batch,), (batch, T)):
        if steps != T and T not in names:
            continue
        model = with_names(make_model(linear("", 2, 2, "gated_delta"), np.float32), names)
        derivative = onnxgrad.vjp(model, keep_outputs=False)
        sizes = {f"size_{batch}": samples, f"size_{T}": steps}
        feeds = {}
        for value in derivative.graph.input:
            dims = value.type.tensor_type.shape.dim
            feeds[value.name] = np.ones([sizes.get(d.dim_param, d.dim_value) for d in dims], np.float32)
        found = Runner(derivative, only_runtime=True)(feeds)
        assert all(found[f"adj_x{i}"].shape == feeds[f"x{i}"].shape for i in range(6))


def delta_net(label: str, packed: bool = False, batched: bool = False, per_channel: bool = False, **more: Any) -> Case:
    few, heads = 2, 4
    lead = (batch, T) if batched else (batch * T,)
    q, k, v = 0.5 * a(*lead, few, depth), 0.5 * a(*lead, few, depth), a(*lead, heads, size)
    data: list[np.ndarray | None] = [q, k, v]
    if packed:
        data = [np.concatenate([x.reshape(*lead, -1) for x in (q, k, v)], axis=-1), None, None]
    decay: np.ndarray | None = a(*lead, heads, *([depth] if per_channel else [])) - 1
    rule = more.get("update_rule", "gated_delta")
    if not rule.startswith("gated"):
        decay = None
    gates: list[np.ndarray | None] = [
        decay,
        rng.uniform(0.1, 0.9, (*lead, heads)) if rule.endswith("delta") else None,
        a(batch, heads, size, depth),
    ]
    if "gate_activation" in more:
        gates += [0.3 * a(heads), a(heads, depth) if per_channel else a(heads)]
    return ms("GatedDeltaNet", [*data, None, *gates], label, outputs=2, **more)


NETS = [
    delta_net("plain"),
    delta_net("batched", batched=True),
    delta_net("packed", packed=True),
    delta_net("packed-batched", packed=True, batched=True),
    delta_net("per-channel", per_channel=True, scale=0.4),
    delta_net("softplus", gate_activation="softplus", beta_activation="sigmoid"),
    delta_net("sigmoid", gate_activation="sigmoid", per_channel=True, gate_lower_bound=-3.0),
    delta_net("unit", qk_l2_norm=1),
    delta_net("linear", update_rule="linear"),
    delta_net("delta", update_rule="delta"),
]


@pytest.mark.parametrize("case", NETS, ids=lambda case: case.name)
def test_gated_delta_net(case: Case) -> None:
    check(case, names=[batch, T, batch * T])


# --- samples and refusals --------------------------------------------------------------------------------

PER_SAMPLE = [
    ms("GatedRMSNorm", [2 * a(B, S, 6), a(3), a(B, S, 6)], fixed=[1, 2]),
    ms("HyperConnectionPreMix", [streams, a(B, S, C)], fixed=[1]),
    ms("EngramGate", [streams, a(B, S, C, H), a(B, S, H), a(C, H), a(C, H)], fixed=[1, 2, 3, 4]),
    ms("MoE", [a(B, width), scores[:B], *mixture("").inputs[2:]], k=2, activation_type="silu", fixed=range(1, 6)),
    ms("CausalConvWithState", [a(B, C, 5), a(C, 1, taps)], fixed=[1], outputs=2),
    ms("LinearAttention", linear("", 2, 2, "delta").inputs[:3], q_num_heads=2, kv_num_heads=2, update_rule="linear",
       fixed=[1, 2], outputs=2),
]  # fmt: skip


@pytest.mark.parametrize("case", PER_SAMPLE, ids=lambda case: case.name)
def test_per_sample(case: Case) -> None:
    model = make_model(case, np.float32)
    feeds = {"x0": case.inputs[0].astype(np.float32)}  # type: ignore[union-attr]
    per_sample, whole = (
        Runner(onnxgrad.jacobian(model, of="y0", wrt="x0", batched=batched), only_runtime=True)(feeds)["jac_y0_x0"]
        for batched in (True, False)
    )
    behind = whole.ndim - feeds["x0"].ndim
    for n in range(B):
        close(per_sample[n], np.take(whole[n], n, axis=behind - 1), 1e-5, f"sample {n}")


def test_branches_are_no_samples() -> None:
    """Streams without an axis in front of their branches: along axis 0, they are summed."""
    model = make_model(ms("HyperConnectionPreMix", [a(C, H), a(C)], fixed=[1]), np.float32, dynamic=True)
    with pytest.raises(onnxgrad.MixedSamplesError, match="branches that it mixes"):
        onnxgrad.jacobian(model, "y0", "x0", batched=True)


REFUSED = [
    (mixture("", k=1, use_sparse_mixer=1), "sparse mixer"),
    (mixture("", 2 * hidden, k=1, activation_type="swiglu"), "side by side"),
    (mixture("", k=1, activation_type="relu2"), "'relu2' is not known"),
    (linear("", 2, 2, "linear", state_window=2), "several states"),
    (linear("", 2, 2, "momentum"), "'momentum' is not known"),
    (delta_net("", state_update_capacity=2), "captured updates"),
    (ms("CausalConvWithState", [a(B, C, 7), a(C, 1, taps)], outputs=2, state_window=1), "CPU kernels"),
    (ms("VarlenCausalConvWithState", RAGGED[0].inputs, outputs=2, state_update_capacity=1), "captured updates"),
    (ms("AttnLSTM", [a(2, 3, 4), a(1, 8, 4), a(1, 8, 2)], outputs=1, hidden_size=2), "attention inside"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "match"), REFUSED, ids=lambda v: v.op if isinstance(v, Case) else v.split()[-1])
def test_refusal(case: Case, match: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=match):
        onnxgrad.vjp(make_model(case, np.float32), of="y0", wrt="x0")
