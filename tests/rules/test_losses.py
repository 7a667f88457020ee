"""Losses against integer labels."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model

rng = np.random.default_rng(17)
LOSSES = {"NegativeLogLikelihoodLoss": (18, 22), "SoftmaxCrossEntropyLoss": (22,)}
REDUCTIONS = ("none", "sum", "mean")


def scores(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def labels(*shape: int, classes: int = 5, dtype: type = np.int64) -> np.ndarray:
    return rng.integers(0, classes, size=shape).astype(dtype)


def weights(classes: int = 5) -> np.ndarray:
    return rng.uniform(0.5, 2, size=classes)


def some(array: np.ndarray, value: int) -> np.ndarray:
    """Return the labels with every third one replaced."""
    array = array.copy()
    array.reshape(-1)[::3] = value
    return array


def cases(op: str, opset: int) -> list[Case]:
    def case(label: str, *inputs: np.ndarray, **more: object) -> list[Case]:
        attrs = more.pop("attrs", {})
        return [
            Case(op, inputs, {"reduction": r, **attrs}, opset=opset, label=f"{label}-{r}-{opset}", **more)  # type: ignore[arg-type]
            for r in REDUCTIONS
        ]

    spatial = labels(2, 3, 2)
    return [
        *case("plain", scores(4, 5), labels(4)),
        *case("int32", scores(4, 5), labels(4, dtype=np.int32)),
        *case("weights", scores(4, 5), labels(4), weights()),
        *case("constant-weights", scores(4, 5), labels(4), weights(), fixed=[2]),
        *case("fed-labels", scores(4, 5), labels(4), weights(), fed=[1]),
        *case("1-axis", scores(2, 5, 3), labels(2, 3), weights()),
        *case("2-axes", scores(2, 5, 3, 2), spatial),
        *case("3-axes", scores(2, 4, 1, 2, 2), labels(2, 1, 2, 2, classes=4), weights(4), fed=[1]),
        *case("ignored-class", scores(2, 5, 3, 2), some(spatial, 2), attrs={"ignore_index": 2}),
        *case("ignored-negative", scores(2, 5, 3, 2), some(spatial, -7), weights(), attrs={"ignore_index": -7}),
        *case("ignored-minus-1", scores(2, 5, 3, 2), some(spatial, -1), attrs={"ignore_index": -1}),
        *case("ignored-beyond", scores(2, 5, 3, 2), some(spatial, 99), weights(), attrs={"ignore_index": 99}, fed=[1]),
        *case("none-ignored", scores(4, 5), labels(4), weights(), attrs={"ignore_index": -1}),
        *case("one-class", scores(3, 1), labels(3, classes=1), weights(1)),
        *case("one-sample", scores(1, 5), labels(1)),
    ]


CASES = [case for op, opsets in LOSSES.items() for opset in opsets for case in cases(op, opset)]
CASES += [
    *(
        # neither ONNX's reference nor onnxruntime reshapes nothing of two axes; the mean of nothing is no number
        Case("NegativeLogLikelihoodLoss", [scores(0, 5, 2), labels(0, 2)], {"reduction": r}, label=f"nothing-{r}")
        for r in ("none", "sum")
    ),
    *(
        Case(
            "SoftmaxCrossEntropyLoss",
            [scores(2, 5, 3), some(labels(2, 3), -1), *more],
            {"reduction": r, "ignore_index": -1},
            outputs=2,
            of=of,
            label=f"log-prob-{len(more)}-{r}-{of}",
        )
        for r in REDUCTIONS
        for of in ([0], [1], [0, 1])
        for more in ((), (weights(),))
        if 1 not in of or of == [0, 1] or not more  # weights have no part in log_prob alone
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize("op", LOSSES)
@pytest.mark.parametrize("shape", [(4, 5), (3, 5, 2, 3)])
def test_samples_stay_apart(op: str, shape: tuple[int, ...]) -> None:
    """On every axis but that of the classes; with a reduction, on none."""
    inputs = [scores(*shape), labels(shape[0], *shape[2:])]
    check_samples(Case(op, inputs, {"reduction": "none"}), [a for a in range(len(shape)) if a != 1])
    for reduction in ("sum", "mean"):
        check_samples(Case(op, inputs, {"reduction": reduction}), [])


@pytest.mark.parametrize("op", LOSSES)
def test_samples_meet_in_weights(op: str) -> None:
    case = Case(op, [scores(3, 3), labels(3, classes=3), weights(3)], {"reduction": "none"})
    with pytest.raises(onnxgrad.MixedSamplesError, match="weight"):
        onnxgrad.jacobian(make_model(case), "y0", "x2", batched=True)


def test_gradient_per_sample() -> None:
    """The textbook's: softmax minus the label, times its weight; 0 where the label is ignored."""
    x, target, weight = scores(6, 5), some(labels(6), 77), weights()
    case = Case("SoftmaxCrossEntropyLoss", [x, target, weight], {"reduction": "none", "ignore_index": 77}, fixed=[2])
    model = onnxgrad.gradient(make_model(case), batched=True)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    kept = target != 77
    expected = (p - np.eye(5)[np.where(kept, target, 0)]) * (weight[np.where(kept, target, 0)] * kept)[:, None]
    close(Runner(model)({"x0": x})["grad_y0_x0"], expected, 1e-14, "the gradient")


@pytest.mark.parametrize("op", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 2), (3, 5, 0)])
def test_of_nothing(op: str, reduction: str, shape: tuple[int, ...]) -> None:
    """No sample, or none in space, has a derivative of size 0; onnxruntime fails on some of the losses themselves."""
    case = Case(op, [scores(*shape), labels(shape[0], *shape[2:])], {"reduction": reduction}, fed=[1])
    model = onnxgrad.vjp(make_model(case, dynamic=True), keep_outputs=False)
    ct = np.ones(() if reduction == "sum" else (shape[0], *shape[2:]))
    assert Runner(model)({"x0": case.inputs[0], "x1": case.inputs[1], "adj_y0": ct})["adj_x0"].shape == shape


@pytest.mark.parametrize("op", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_an_ignored_infinity_is_ignored(op: str, reduction: str) -> None:
    """What has no part in the loss must not make NaN of the rest."""
    x, target = scores(3, 4), np.array([1, -1, 2])
    x[1, 0], x[0, 3] = -np.inf, -np.inf
    case = Case(op, [x, target, weights(4)], {"reduction": reduction, "ignore_index": -1}, opset=22)
    run = Runner(onnxgrad.vjp(make_model(case), wrt=["x0", "x2"]))
    found = run({"x0": x, "x2": case.inputs[2], "adj_y0": np.ones(3 if reduction == "none" else ())})
    assert np.isfinite(found["adj_x0"]).all()
    assert np.isfinite(found["adj_x2"]).all()
    assert not found["adj_x0"][1].any()
    assert not found["adj_x0"][0, 3]


@pytest.mark.parametrize("op", LOSSES)
def test_half_precision(op: str) -> None:
    """The sums are taken in float32: the mean over more samples than float16 has numbers is right."""
    n = 70_000
    x, target = scores(n, 2), labels(n, classes=2)
    node = helper.make_node(op, ["x", "t"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 2]),
            helper.make_tensor_value_info("t", TensorProto.INT64, ["M"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    only = onnxgrad.vjp(model, keep_outputs=False)
    feeds = {"x": x.astype(np.float16), "t": target, "adj_y": np.float16(1000)}
    found = Runner(only, only_runtime=True)(feeds)["adj_x"].astype(np.float64)
    rounded = x.astype(np.float16).astype(np.float64)
    p = np.exp(rounded) / np.exp(rounded).sum(axis=1, keepdims=True)
    hit = np.eye(2)[target]
    expected = 1000 / n * (p - hit if op.startswith("Softmax") else -hit)
    assert np.max(np.abs(found - expected)) <= 1e-3 * 1000 / n  # one rounding to float16
