"""Softmax and normalizations."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, close, differences, inner, make_model

rng = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def positive(*shape: int) -> np.ndarray:
    return np.abs(normal(*shape)) + 0.3


x = normal(2, 4, 3)
image = normal(2, 4, 3, 2)
matrix = normal(3, 4)
LAYER = "LayerNormalization"
BATCH = "BatchNormalization"
TRAINING = {"training_mode": 1, "momentum": 0.7}

CASES = [
    *(Case(op, [x], {"axis": axis}, label=str(axis)) for op in ("Softmax", "LogSoftmax") for axis in (0, 1, -1, -2)),
    *(Case(op, [x], label="default") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(3)], label="rank-1") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(2, 1, 2, 2, 3)], {"axis": 2}, label="rank-5") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(2, 1)], label="size-1") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(0, 3)], label="nothing") for op in ("Softmax", "LogSoftmax")),
    *(Case(op, [normal(3, 0)], label="of-nothing") for op in ("Softmax", "LogSoftmax")),
    # mean and 1/σ are float32 whatever the data are: see test_statistics_of_layer_normalization
    Case(LAYER, [x, normal(3), normal(3)], opset=17),
    Case(LAYER, [x, normal(3)], {"epsilon": 0.1}, label="no-bias"),
    Case(LAYER, [x, normal(4, 3), normal(4, 3)], {"axis": 1}, label="axis-1"),
    Case(LAYER, [x, normal(4, 1), normal(1)], {"axis": -2}, label="broadcast"),
    Case(LAYER, [x, normal(2, 1, 3), normal(4, 1)], {"axis": -1}, label="weights-of-other-axes"),
    Case(LAYER, [x, normal(2, 4, 3), normal(3)], {"axis": 0}, label="axis-0"),
    Case(LAYER, [normal(3), normal(3), normal(3)], label="rank-1"),
    Case(LAYER, [normal(0, 3), normal(3), normal(3)], label="nothing"),
    Case(LAYER, [x, normal(3), normal(3)], fixed=[1, 2], label="constant-weights"),
    Case("RMSNormalization", [x, normal(3)], opset=23),
    Case("RMSNormalization", [x, normal(4, 3)], {"axis": 1, "epsilon": 0.1}, opset=23, label="axis-1"),
    Case("RMSNormalization", [x, normal(4, 1)], {"axis": -2}, opset=23, label="broadcast"),
    Case("RMSNormalization", [normal(0, 3), normal(3)], opset=23, label="nothing"),
    *(
        Case(
            "InstanceNormalization",
            [point, normal(4), normal(4)],
            {"epsilon": 0.01},
            opset=opset,
            label=f"{point.ndim}-{opset}",
        )
        for point in (x, image, normal(1, 4, 2, 1, 2))
        for opset in (18, 22)
    ),
    # onnxruntime refuses fewer than three axes
    Case("InstanceNormalization", [matrix, normal(4), normal(4)], float32=None, label="no-space"),
    Case("GroupNormalization", [image, normal(2), normal(2)], {"num_groups": 2}, opset=18, label="18"),
    Case("GroupNormalization", [x, normal(1), normal(1)], {"num_groups": 1}, opset=18, label="18-one"),
    # stash_type 11: the statistics in float64, too
    Case(
        "GroupNormalization", [image, normal(4), normal(4)], {"num_groups": 2, "stash_type": 11}, opset=21, label="21"
    ),
    Case("GroupNormalization", [x, normal(4), normal(4)], {"num_groups": 4, "stash_type": 11}, label="21-all"),
    Case(BATCH, [image, normal(4), normal(4), normal(4), positive(4)], {"epsilon": 0.01}),
    Case(BATCH, [matrix, normal(4), normal(4), normal(4), positive(4)], opset=18, label="rank-2"),
    Case(BATCH, [normal(3), normal(1), normal(1), normal(1), positive(1)], label="rank-1"),
    Case(BATCH, [normal(2, 3, 1, 2, 2), normal(3), normal(3), normal(3), positive(3)], label="rank-5"),
    Case(BATCH, [normal(0, 4, 2), normal(4), normal(4), normal(4), positive(4)], label="nothing"),
    Case(BATCH, [image, normal(4), normal(4), normal(4), positive(4)], fixed=[1, 2, 3, 4], label="constant-weights"),
    Case(BATCH, [image, normal(4), normal(4), normal(4), positive(4)], TRAINING, outputs=3, label="training"),
    Case(BATCH, [matrix, normal(4), normal(4), normal(4), positive(4)], TRAINING, outputs=3, label="training-2"),
    *(
        Case(
            BATCH,
            [x, normal(4), normal(4), normal(4), positive(4)],
            TRAINING,
            outputs=3,
            of=[i],
            label=f"training-of-{i}",
        )
        for i in range(3)
    ),
    *(
        # onnxruntime has no even sizes
        Case(
            "LRN",
            [normal(2, 5, 2, 2)],
            {"size": size, "alpha": 0.7, "beta": 0.6, "bias": 1.3},
            float32=tolerance,
            label=f"{size}",
        )
        for size, tolerance in ((1, 1e-4), (2, None), (3, 1e-4), (4, None), (5, 1e-4), (11, 1e-4))
    ),
    *(
        Case("LpNormalization", [x], {"p": p, "axis": axis}, opset=opset, label=f"{p}-{axis}-{opset}")
        for p in (1, 2)
        for axis, opset in ((0, 18), (1, 22), (-1, 22))
    ),
    Case("MeanVarianceNormalization", [image]),
    Case("MeanVarianceNormalization", [x], {"axes": [-1, 0]}, label="axes"),
    Case("MeanVarianceNormalization", [matrix], {"axes": [1]}, label="one-axis"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


def vjp_of(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], cts: dict[str, np.ndarray], only_runtime: bool = True
) -> dict[str, np.ndarray]:
    run = Runner(onnxgrad.vjp(model, list(cts), list(feeds)), only_runtime=only_runtime)
    return run({**feeds, **{f"adj_{y}": ct for y, ct in cts.items()}})


@pytest.mark.parametrize(
    ("axis", "dtype", "tolerance"), [(-1, np.float64, 1e-6), (1, np.float32, 1e-5), (1, np.float16, 5e-3)]
)
def test_statistics_of_layer_normalization(axis: int, dtype: type, tolerance: float) -> None:
    """All three outputs together; mean and 1/σ have type float32, so differences are taken of a formula."""
    case = Case(LAYER, [x, np.ones(x.shape[axis:]), np.zeros(1)], {"axis": axis}, fixed=[1, 2], outputs=3)
    over = tuple(range(axis % 3, 3))

    def formula(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        mean = feeds["x0"].mean(over, keepdims=True)
        inverse = (feeds["x0"].var(over, keepdims=True) + 1e-5) ** -0.5
        return {"y0": (feeds["x0"] - mean) * inverse, "y1": mean, "y2": inverse}

    cts = {y: normal(*value.shape) for y, value in formula({"x0": x}).items()}
    model = make_model(case, dtype)
    typed = {y: ct.astype(dtype if y == "y0" else np.float32) for y, ct in cts.items()}
    found = vjp_of(model, {"x0": x.astype(dtype)}, typed)["adj_x0"]
    assert found.dtype == dtype
    direction = normal(*x.shape)
    numeric = inner(cts, differences(formula, {"x0": x}, {"x0": direction}))
    assert abs(np.sum(found * direction) - numeric) < tolerance * np.abs(found).sum()
    # one at a time: the others have no cotangent
    alone = [vjp_of(model, {"x0": x.astype(dtype)}, {y: ct})["adj_x0"] for y, ct in typed.items()]
    close(sum(a.astype(np.float64) for a in alone), found, tolerance, "sum of the cotangents by output")


def test_absent_statistics_of_batch_normalization_in_training() -> None:
    """Outputs that are not named have no cotangent; the running mean that comes in then matters to nothing."""
    model = make_model(Case(BATCH, [x, normal(4), normal(4), normal(4), positive(4)], TRAINING, outputs=3))
    feeds = {f"x{i}": v for i, v in enumerate([x, normal(4), normal(4), normal(4), positive(4)])}
    named = vjp_of(model, feeds, {"y0": np.cos(x)})
    model.graph.node[0].output[1] = model.graph.node[0].output[2] = ""
    del model.graph.output[1:]
    unnamed = vjp_of(model, feeds, {"y0": np.cos(x)}, only_runtime=False)  # onnxruntime wants all three
    for name in feeds:
        close(unnamed[f"adj_{name}"], named[f"adj_{name}"], 1e-14, name)
    assert not unnamed["adj_x3"].any()


LARGE = 600 * normal(2, 4, 3, 8)  # squares and their sums overflow float16


@pytest.mark.parametrize(
    "case",
    [
        Case("Softmax", [image]),
        Case("LogSoftmax", [image]),
        Case(LAYER, [LARGE, normal(8), normal(8)]),
        Case("RMSNormalization", [LARGE, normal(8)], opset=23),
        Case("InstanceNormalization", [LARGE, normal(4), normal(4)]),
        Case("GroupNormalization", [LARGE, normal(4), normal(4)], {"num_groups": 2}),
        Case("GroupNormalization", [LARGE, normal(2), normal(2)], {"num_groups": 2}, opset=18, label="18"),
        Case(BATCH, [LARGE, normal(4), normal(4), normal(4), 600 * positive(4)]),
        Case(BATCH, [image, normal(4), normal(4), normal(4), positive(4)], TRAINING, outputs=3, label="training"),
        Case("MeanVarianceNormalization", [LARGE]),
        Case("LRN", [image], {"size": 3}),
        Case("LpNormalization", [image]),
    ],
    ids=lambda case: case.name,
)
def test_float16(case: Case) -> None:
    """In float16 the derivative is as good as its type, since sums and squares are taken in float32."""
    feeds = {f"x{i}": np.float16(v) for i, v in enumerate(case.inputs) if v is not None}
    y = Runner(make_model(case, np.float16))(feeds)["y0"]
    ct = np.float16(np.cos(np.arange(y.size)).reshape(y.shape))
    found = vjp_of(make_model(case, np.float16), feeds, {"y0": ct})
    wide = {name: value.astype(np.float32) for name, value in feeds.items()}
    expected = vjp_of(make_model(case, np.float32), wide, {"y0": ct.astype(np.float32)})
    for name in feeds:
        actual, wanted = found[f"adj_{name}"], expected[f"adj_{name}"]
        assert actual.dtype == np.float16
        np.testing.assert_allclose(actual, wanted, rtol=1e-2, atol=4e-3 * np.abs(wanted).max(), err_msg=name)


def test_many_samples_in_float16() -> None:
    """The cotangent of a bias sums over all samples, in float32: in float16, adding 1 to 2048 changes nothing."""
    case = Case(LAYER, [normal(5000, 2), np.ones(2), np.zeros(2)], fixed=[0, 1])
    found = vjp_of(
        make_model(case, np.float16), {"x2": np.zeros(2, np.float16)}, {"y0": np.ones((5000, 2), np.float16)}
    )
    assert (found["adj_x2"] == 5000).all()


def test_mixed_types() -> None:
    """Data in float16 with weights in float32; every cotangent has the type of its input."""
    types = [TensorProto.FLOAT16] + [TensorProto.FLOAT] * 4
    shapes = [list(x.shape)] + [[4]] * 4
    node = helper.make_node(BATCH, [f"x{i}" for i in range(5)], ["y0"])
    inputs = [helper.make_tensor_value_info(f"x{i}", t, s) for i, (t, s) in enumerate(zip(types, shapes, strict=True))]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y0", TensorProto.FLOAT16, x.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    arrays = [x, normal(4), normal(4), normal(4), positive(4)]
    feeds = {f"x{i}": np.float16(a) if i == 0 else np.float32(a) for i, a in enumerate(arrays)}
    found = vjp_of(model, feeds, {"y0": np.ones(x.shape, np.float16)})
    expected = vjp_of(
        make_model(Case(BATCH, arrays)), {f"x{i}": a for i, a in enumerate(arrays)}, {"y0": np.ones(x.shape)}
    )
    for name, fed in feeds.items():
        assert found[f"adj_{name}"].dtype == fed.dtype
        close(found[f"adj_{name}"], expected[f"adj_{name}"], 5e-3, name)


# --- points without a derivative -------------------------------------------------------------


def test_norm_of_zero() -> None:
    for p in (1, 2):
        model = make_model(Case("LpNormalization", [np.zeros((2, 3))], {"p": p}))
        at = np.array([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]])
        found = vjp_of(model, {"x0": at}, {"y0": np.ones((2, 3))})["adj_x0"]
        assert not found[0].any()
        assert found[1].all() or p == 1


def test_constant_data_of_mean_variance_normalization() -> None:
    """Where σ is 0 the output is ``d / 1e-9`` to first order."""
    case = Case("MeanVarianceNormalization", [np.ones((2, 3))], {"axes": [1]})
    ct = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]], np.float32)
    found = vjp_of(make_model(case, np.float32), {"x0": np.ones((2, 3), np.float32)}, {"y0": ct})["adj_x0"]
    close(found * 1e-9, ct - ct.mean(1, keepdims=True), 1e-5, "adj_x0")


def test_hardmax_is_flat() -> None:
    model = make_model(Case("Hardmax", [np.zeros((2, 3))]), np.float32)
    feeds = {"x0": np.float32(rng.normal(size=(2, 3)))}
    with pytest.warns(onnxgrad.DisconnectedWarning, match="constant between its jumps"):
        found = vjp_of(model, feeds, {"y0": np.ones((2, 3), np.float32)})
    assert not found["adj_x0"].any()


# --- samples ---------------------------------------------------------------------------------

APART = [
    Case("Softmax", [x], fixed=[]),
    Case("LogSoftmax", [x], {"axis": 1}),
    Case(LAYER, [x, normal(3), normal(3)]),
    Case(LAYER, [x, normal(4, 3), normal(4, 3)], {"axis": 1}, label="axis-1"),
    Case("RMSNormalization", [x, normal(3)], opset=23),
    Case("InstanceNormalization", [x, normal(4), normal(4)]),
    Case("GroupNormalization", [x, normal(4), normal(4)], {"num_groups": 2, "stash_type": 11}),
    Case(BATCH, [x, normal(4), normal(4), normal(4), positive(4)]),
    Case("LRN", [image], {"size": 3}),
    Case("LpNormalization", [x], {"axis": 1}),
    Case("MeanVarianceNormalization", [x], {"axes": [1, -1]}),
]
MIXING = [
    Case("Softmax", [x], {"axis": 0}),
    Case("LogSoftmax", [x], {"axis": -3}),
    Case(LAYER, [x, normal(3), normal(3)], {"axis": 0}),
    Case("RMSNormalization", [x, normal(3)], {"axis": -3}, opset=23),
    Case(BATCH, [x, normal(4), normal(4), normal(4), positive(4)], TRAINING, outputs=3),
    Case("LpNormalization", [x], {"axis": 0}),
    Case("MeanVarianceNormalization", [image]),
]


@pytest.mark.parametrize("case", APART, ids=lambda case: case.name)
def test_samples_stay_apart(case: Case) -> None:
    model = make_model(case)
    feeds = {f"x{i}": v for i, v in enumerate(case.inputs) if v is not None}
    full, each = (
        Runner(onnxgrad.jacobian(model, "y0", "x0", batched=batched))(feeds)["jac_y0_x0"] for batched in (False, True)
    )
    y_rank = (full.ndim) // 2
    for i in range(len(x)):
        close(each[i], full[i].take(i, axis=y_rank - 1), 1e-12, f"sample {i}")


@pytest.mark.parametrize("case", MIXING, ids=lambda case: case.name)
def test_samples_mix(case: Case) -> None:
    with pytest.raises(onnxgrad.MixedSamplesError, match=case.op):
        onnxgrad.jacobian(make_model(case), "y0", "x0", batched=True)


@pytest.mark.parametrize("case", [case for case in APART if len(case.inputs) > 2], ids=lambda case: case.name)
def test_samples_mix_in_weights(case: Case) -> None:
    with pytest.raises(onnxgrad.MixedSamplesError, match=r"samples (arrive on axis|reach it through a weight)"):
        onnxgrad.jacobian(make_model(case), "y0", "x1", batched=True)


def test_samples_in_a_scale_of_layer_normalization() -> None:
    """A scale that differs by sample is aligned with the data."""
    case = Case(LAYER, [x, normal(2, 1, 3)])
    run = Runner(onnxgrad.jacobian(make_model(case), "y0", "x1", batched=True))
    assert run({"x0": x, "x1": normal(2, 1, 3)})["jac_y0_x1"].shape == (2, 4, 3, 1, 3)


# --- attention written out ------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
def test_the_sum_along_rows_of_attention_is_taken_over_what_is_narrow(transposed: bool) -> None:
    """``Σⱼ p̄ᵢⱼ pᵢⱼ = Σₖ ōᵢₖ oᵢₖ``: with 6 keys, and values of width 2, which come transposed or not."""
    shapes = {"s": [3, 5, 6], "v": [3, 2, 6] if transposed else [3, 6, 2], "o": [3, 5, 2]}
    ports = {k: onnx.helper.make_tensor_value_info(k, onnx.TensorProto.DOUBLE, shape) for k, shape in shapes.items()}
    nodes = [onnx.helper.make_node("Softmax", ["s"], ["p"], axis=-1)]
    if transposed:
        nodes.append(onnx.helper.make_node("Transpose", ["v"], ["w"], perm=[0, 2, 1]))
    nodes.append(onnx.helper.make_node("MatMul", ["p", "w" if transposed else "v"], ["o"]))
    graph = onnx.helper.make_graph(nodes, "g", [ports["s"], ports["v"]], [ports["o"]])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    derived = onnx.shape_inference.infer_shapes(onnxgrad.vjp(model))
    (summed,) = [n.input[0] for n in derived.graph.node if n.op_type == "ReduceSum"]
    (shape,) = [v.type.tensor_type.shape for v in derived.graph.value_info if v.name == summed]
    assert shape.dim[-1].dim_value == 2

    s, v, ct = normal(3, 5, 6), normal(*shapes["v"]), normal(3, 5, 2)
    found = Runner(derived)({"s": s, "v": v, "adj_o": ct})
    v = v.swapaxes(1, 2) if transposed else v
    p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    p_ct = ct @ v.swapaxes(1, 2)
    np.testing.assert_allclose(found["adj_s"], p * (p_ct - (p_ct * p).sum(-1, keepdims=True)), rtol=1e-12, atol=1e-14)
    v_ct = p.swapaxes(1, 2) @ ct
    np.testing.assert_allclose(found["adj_v"], v_ct.swapaxes(1, 2) if transposed else v_ct, rtol=1e-12, atol=1e-14)
