"""Random operators, Dropout in training mode, and the updates of optimizers."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxgrad
from tests.harness import Case, Runner, check_rule, close, make_model

rng = np.random.default_rng(23)
DOMAIN = "ai.onnx.preview.training"
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def positive(*shape: int) -> np.ndarray:
    return rng.uniform(0.5, 1.5, size=shape)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: list[str],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 22,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


# --- optimizers ----------------------------------------------------------------------------------


def once(kinds: int, *shapes: tuple[int, ...], count: int = 3) -> list[np.ndarray]:
    """Return inputs: R, T, and for each shape a tensor, its gradient and its accumulators, of which none is 0."""
    groups = [[normal(*s), normal(*s), *(positive(*s) for _ in range(kinds - 2))] for s in shapes]
    grouped = [group[kind] for kind in range(kinds) for group in groups]
    return [np.array(0.3), np.array(count), *grouped]


ADAM = {"alpha": 0.7, "beta": 0.6, "epsilon": 0.125, "norm_coefficient": 0.25, "norm_coefficient_post": 0.0625}
ADAGRAD = {"decay_factor": 0.125, "epsilon": 0.25, "norm_coefficient": 0.5}
MOMENTUM = {"alpha": 0.75, "beta": 0.5, "norm_coefficient": 0.25}
VARIANTS = [
    ("Adam", 4, ADAM, ""),
    ("Adam", 4, {}, "defaults"),
    ("Adagrad", 3, ADAGRAD, ""),
    ("Adagrad", 3, {}, "defaults"),
    ("Momentum", 3, {**MOMENTUM, "mode": "standard"}, "standard"),
    ("Momentum", 3, {**MOMENTUM, "mode": "nesterov"}, "nesterov"),
]
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "one": [(2, 3)],
    "two": [(2,), (3, 2)],
    "three": [(), (1, 2), (2,)],
    "scalar": [()],
    "nothing": [(0, 2)],
}
OPTIMIZERS = [
    Case(
        op,
        once(kinds, *shapes, count=count),
        attrs,
        fed=fed,
        outputs=(kinds - 1) * len(shapes),
        domain=DOMAIN,
        label=f"{label}-{name}-{count}-{'fed' if fed else 'constant'}",
        float32=None,  # onnxruntime has no such kernels; see test_optimizers_in_onnxruntime
    )
    for op, kinds, attrs, label in VARIANTS
    for name, shapes in SHAPES.items()
    for count, fed in ((3, [1]), (0, [1]), (1, []), (0, []))
    if (count, fed) == (3, [1]) or name == "two"
]


@pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)
def test_optimizer(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize(("op", "kinds", "attrs", "label"), VARIANTS)
def test_optimizers_in_onnxruntime(op: str, kinds: int, attrs: dict[str, Any], label: str) -> None:
    """The derivative alone, without the update itself, runs there in float32."""
    inputs = once(kinds, (2, 3), (4,))
    case = Case(op, inputs, attrs, fed=[1], outputs=2 * (kinds - 1), domain=DOMAIN)
    found = []
    for dtype in (np.float64, np.float32):
        derived = onnxgrad.vjp(make_model(case, dtype), keep_outputs=False)
        feeds = {f"x{i}": x.astype(dtype) if x.dtype == np.float64 else x for i, x in enumerate(inputs)}
        for i in range(case.outputs):
            shape = inputs[2 + i % 2].shape
            feeds[f"adj_y{i}"] = np.cos(np.arange(np.prod(shape)) + i).reshape(shape).astype(dtype)
        found.append(Runner(derived, only_runtime=True)(feeds))
    for name, value in found[0].items():
        close(found[1][name], value, 1e-5, name)  # a few roundings of float32


@pytest.mark.parametrize(("op", "kinds"), [("Adam", 4), ("Adagrad", 3)])
def test_optimizers_where_there_never_was_a_gradient(op: str, kinds: int) -> None:
    """At G = H = V = 0 the step is ``-r · c · G / (√(…) + ε)``: its derivative by G is finite, by H it is 0."""
    zeros = [np.zeros(2) for _ in range(kinds - 1)]
    case = Case(
        op, [np.array(0.5), np.array(0), np.ones(2), *zeros], {"epsilon": 0.25}, outputs=kinds - 1, domain=DOMAIN
    )
    feeds = {f"x{i}": x for i, x in enumerate(case.inputs) if i != 1}
    found = Runner(onnxgrad.vjp(make_model(case), of="y0"))({**feeds, "adj_y0": np.ones(2)})
    share = 1 - np.float32(0.9) if op == "Adam" else 1.0
    np.testing.assert_allclose(found["adj_x3"], -0.5 * share / 0.25, rtol=1e-12)
    np.testing.assert_array_equal(found["adj_x2"], 1)
    np.testing.assert_array_equal(found[f"adj_x{kinds + 1}"], 0)


@pytest.mark.parametrize(("op", "kinds"), [("Adam", 4), ("Adagrad", 3), ("Momentum", 3)])
def test_weights_of_an_optimizer_do_not_mix(op: str, kinds: int) -> None:
    attrs = MOMENTUM | {"mode": "standard"} if op == "Momentum" else {}
    model = make_model(Case(op, once(kinds, (3, 2), (3,)), attrs, outputs=2 * (kinds - 1), domain=DOMAIN))
    one = onnxgrad.jacobian(model, "y0", "x2", batched=True)
    full = onnxgrad.jacobian(model, "y0", "x2", batched=False)
    feeds = {
        i.name: np.float64(normal(*[d.dim_value for d in i.type.tensor_type.shape.dim])) ** 2 for i in model.graph.input
    }
    diagonal = Runner(full)(feeds)["jac_y0_x2"][np.arange(3), :, np.arange(3)]
    close(Runner(one)(feeds)["jac_y0_x2"], diagonal, 1e-14, "per sample")
    with pytest.raises(onnxgrad.MixedSamplesError, match="learning rate"):
        onnxgrad.jacobian(
            make_model(Case(op, [np.ones(3), *once(kinds, (3,))[1:]], attrs, outputs=kinds - 1, domain=DOMAIN)),
            "y0",
            "x0",
            batched=True,
        )


# --- Dropout in training mode ----------------------------------------------------------------------

SEED = 5


def dropout(
    outputs: str = "y",
    ratio: str = "r",
    kind: int = FLOAT,
    ratio_kind: int = FLOAT,
    training: bool | None = None,
    opset: int = 22,
) -> onnx.ModelProto:
    """Return ``y = sin(x) · Dropout(x · w)``; the mode is fed unless it is given."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["p"]),
        helper.make_node(
            "Dropout", ["p", ratio, "t"], ["d", *(["m"] if "m" in outputs else [])], seed=SEED, name="drop"
        ),
        helper.make_node("Sin", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "d"], ["y"]),
    ]
    constants = {} if training is None else {"t": np.array(training)}
    if ratio:
        constants["r"] = np.array(0.3, helper.tensor_dtype_to_np_dtype(ratio_kind))
    inputs = {"x": (kind, ["N", 40]), "w": (kind, [40])}
    if training is None:
        inputs["t"] = (TensorProto.BOOL, [])
    return model_of(nodes, inputs, outputs.split(), constants, opset=opset)


def once_in_onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model once: of a session, only the first run draws the numbers that belong to the seed.

    Not optimized, since onnxruntime (1.32) takes a Dropout in training mode away if nobody uses its mask.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in model.graph.output]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("outputs", ["y", "y m"])
@pytest.mark.parametrize("ratio", ["r", ""])
@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("opset", [13, 22])
@pytest.mark.parametrize(("kind", "ratio_kind"), [(FLOAT, FLOAT), (DOUBLE, FLOAT), (DOUBLE, DOUBLE)])
def test_dropout(outputs: str, ratio: str, training: bool | None, opset: int, kind: int, ratio_kind: int) -> None:
    """Both modes of derivative are those of the draw that was made, which the derivatives leave as it was."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    model = dropout(outputs, ratio, kind, ratio_kind, training, opset)
    x, w, ct = positive(30, 40).astype(dtype), positive(40).astype(dtype), normal(30, 40).astype(dtype)
    back = onnxgrad.vjp(model, "y", ["x", "w"])
    ahead = onnxgrad.jvp(model, "y", ["x", "w"])
    assert [o.name for o in back.graph.output] == [*outputs.split(), "adj_x", "adj_w"]
    for mode in [True, False] if training is None else [training]:
        feeds = {"x": x, "w": w} | ({"t": np.array(mode)} if training is None else {})
        primal = once_in_onnxruntime(model, feeds)
        found = once_in_onnxruntime(back, {**feeds, "adj_y": ct})
        for name, value in primal.items():
            np.testing.assert_array_equal(found[name], value)
        scale = primal["y"] / (np.sin(x) * x * w)  # the mask, scaled
        share = np.mean(scale == 0)
        assert 0.2 < share < 0.6 if mode else share == 0
        tolerance = {"rtol": 1e-4 if kind == FLOAT else 1e-6}  # the quotient above; a float32 ratio
        by_x = (np.cos(x) * x + np.sin(x)) * w * scale
        by_w = np.sin(x) * x * scale
        np.testing.assert_allclose(found["adj_x"], ct * by_x, atol=1e-5, **tolerance)
        np.testing.assert_allclose(found["adj_w"], (ct * by_w).sum(0), atol=1e-4, **tolerance)
        pushed = once_in_onnxruntime(ahead, {**feeds, "fwd_x": ct, "fwd_w": w})["fwd_y"]
        np.testing.assert_allclose(pushed, by_x * ct + by_w * w, atol=1e-5, **tolerance)


def test_dropout_second_order() -> None:
    """The Hessian of Σ y² / 2 with ``y = x² · mask · scale`` is diagonal: ``6 x² · scale²``; one draw serves all."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["q"]),
        helper.make_node("Dropout", ["q", "r", "t"], ["y"], seed=SEED),
        helper.make_node("ReduceSumSquare", ["y"], ["z"], keepdims=0),
    ]
    constants = {"r": np.array(0.5), "t": np.array(True)}
    model = model_of(nodes, {"x": (DOUBLE, [40])}, ["z", "y"], constants)
    derived = onnxgrad.hessian(model, "z", "x")
    assert Counter(node.op_type for node in derived.graph.node)["Dropout"] == 1
    x = positive(40)
    found = once_in_onnxruntime(derived, {"x": x})
    scale = found["y"] / x**2
    assert {0.0, 2.0} == set(np.round(scale, 9))
    np.testing.assert_allclose(found["hess_z_x_x"], np.diag(12 * x**2 * scale**2), atol=1e-12)


def test_dropout_half_precision_and_ratio_of_another_type() -> None:
    """The derivative has the type of the data."""
    model = dropout(kind=TensorProto.FLOAT16, training=True)
    derived = onnxgrad.vjp(model, "y", "x", keep_outputs=False)
    x, w = positive(3, 40).astype(np.float16), positive(40).astype(np.float16)
    found = once_in_onnxruntime(derived, {"x": x, "w": w, "adj_y": np.ones_like(x)})["adj_x"]
    assert found.dtype == np.float16
    expected = ((np.cos(x) * x + np.sin(x)) * w / 0.7).astype(np.float64)
    assert 0 < np.count_nonzero(found == 0) < found.size
    np.testing.assert_allclose(found[found != 0], expected[found != 0], rtol=5e-3)  # half precision


def test_masks_keep_names_apart() -> None:
    """The mask that a node is given must not take the name of another value."""
    nodes = [
        helper.make_node("Dropout", ["x", "", "t"], ["a"], name="drop"),
        helper.make_node("Dropout", ["x", "", "t"], ["b"], name="other"),
        helper.make_node("Sin", ["a"], ["drop_mask"]),
        helper.make_node("Add", ["drop_mask", "b"], ["y"]),
    ]
    model = model_of(nodes, {"x": (FLOAT, [50])}, ["y"], {"t": np.array(True)})
    derived = onnxgrad.vjp(model, ["y", "drop_mask"], "x")
    names = [name for node in derived.graph.node for name in node.output]
    assert len(names) == len(set(names))
    masks = [node.output[1] for node in derived.graph.node if node.op_type == "Dropout"]
    assert masks == ["drop_mask_2", "other_mask"]
    ones = np.ones(50, np.float32)
    found = once_in_onnxruntime(derived, {"x": ones, "adj_y": ones, "adj_drop_mask": ones})
    assert len({tuple(found["adj_x"])}) == 1


def test_two_dropouts_are_two_draws() -> None:
    """Equal random nodes are not one: their derivatives have masks of their own."""
    nodes = [
        helper.make_node("Dropout", ["x", "", "t"], ["a"], name="first"),
        helper.make_node("Dropout", ["x", "", "t"], ["b"], name="second"),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    model = model_of(nodes, {"x": (DOUBLE, [200])}, ["y"], {"t": np.array(True)})
    found = once_in_onnxruntime(onnxgrad.vjp(model), {"x": np.ones(200), "adj_y": np.ones(200)})
    np.testing.assert_array_equal(found["adj_x"], found["y"])  # y is linear, and 1 is where it was taken
    assert set(found["y"]) == {-2.0, 0.0, 2.0}


def test_dropout_by_its_ratio() -> None:
    """At inference it has no part; in training mode it is refused, whether the mode is known or fed."""

    def model(mode: bool | None) -> onnx.ModelProto:
        constants = {} if mode is None else {"t": np.array(mode)}
        inputs: dict[str, tuple[int, list[Any]]] = {"x": (FLOAT, [4]), "r": (FLOAT, [])}
        inputs |= {"t": (TensorProto.BOOL, [])} if mode is None else {}
        return model_of([helper.make_node("Dropout", ["x", "r", "t"], ["y"])], inputs, ["y"], constants)

    for mode in (True, None):
        with pytest.raises(onnxgrad.NotDifferentiableError, match=r"jumps as the ratio changes.*out of `wrt`"):
            onnxgrad.vjp(model(mode))
        onnxgrad.vjp(model(mode), wrt="x")
    derived = onnxgrad.vjp(model(False))
    ones = np.ones(4, np.float32)
    found = once_in_onnxruntime(derived, {"x": ones, "r": np.array(0.4, np.float32), "adj_y": ones})
    assert found["adj_r"] == 0
    np.testing.assert_array_equal(found["adj_x"], ones)


def test_dropout_keeps_samples_apart() -> None:
    derived = onnxgrad.jacobian(dropout(training=True), "y", "x")
    assert onnxgrad.derivatives(derived)[0].batched
    x, w = positive(3, 40).astype(np.float32), positive(40).astype(np.float32)
    found = once_in_onnxruntime(derived, {"x": x, "w": w})
    scale = found["y"] / (np.sin(x) * x * w)
    expected = (np.cos(x) * x + np.sin(x)) * w * scale
    np.testing.assert_allclose(np.einsum("nii->ni", found["jac_y_x"]), expected, atol=1e-5, rtol=1e-4)


# --- random numbers --------------------------------------------------------------------------------

#: A node that draws from x, and whether its result is a floating-point number.
DRAWN = {
    "RandomNormalLike": {"dtype": DOUBLE},
    "RandomUniformLike": {"dtype": DOUBLE},
    "Bernoulli": {"dtype": DOUBLE},
    "RandomNormal": {"shape": [50], "dtype": DOUBLE},
    "RandomUniform": {"shape": [50], "dtype": DOUBLE},
}


def with_random(op: str) -> onnx.ModelProto:
    """Return ``y = x² · r + r`` with ``r`` drawn twice over: by two equal nodes."""
    nodes = [
        helper.make_node(op, [] if "shape" in DRAWN[op] else ["x"], [r], name=r, **DRAWN[op]) for r in ("r1", "r2")
    ]
    nodes += [
        helper.make_node("Mul", ["x", "x"], ["q"]),
        helper.make_node("Mul", ["q", "r1"], ["p"]),
        helper.make_node("Add", ["p", "r2"], ["y"]),
    ]
    return model_of(nodes, {"x": (DOUBLE, [50])}, ["y", "r1", "r2"], opset=21)  # onnxruntime has no newer


@pytest.mark.parametrize("op", DRAWN)
def test_a_random_value_is_a_constant(op: str) -> None:
    """The derivative is that for the numbers that were drawn, in every order, and they are drawn once."""
    x = rng.uniform(0.2, 0.8, size=50)
    for derive, name, expected in (
        (onnxgrad.vjp, "adj_x", lambda r: 2 * x * r),
        (onnxgrad.jvp, "fwd_y", lambda r: 2 * x * r),
        (onnxgrad.jacobian, "jac_y_x", lambda r: np.diag(2 * x * r)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # y depends on x all the same
            derived = derive(with_random(op), "y", "x")
        assert Counter(node.op_type for node in derived.graph.node)[op] == 2
        feeds = {i.name: x if i.name == "x" else np.ones(50) for i in derived.graph.input}
        found = once_in_onnxruntime(derived, feeds)
        assert not np.array_equal(found["r1"], found["r2"])
        np.testing.assert_allclose(found[name], expected(found["r1"]), rtol=1e-12)


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_zero_of_a_random_value_is_said(op: str) -> None:
    model = model_of([helper.make_node(op, ["x"], ["y"], name="n")], {"x": (DOUBLE, [5])}, ["y"], opset=21)
    with pytest.warns(onnxgrad.DisconnectedWarning, match=f"{op} .node 'n'.: (random numbers|0 or 1 by a random)"):
        derived = onnxgrad.vjp(model)
    (record,) = onnxgrad.derivatives(derived)
    assert record.zero is not None
    found = once_in_onnxruntime(derived, {"x": np.full(5, 0.5), "adj_y": np.ones(5)})
    np.testing.assert_array_equal(found["adj_x"], 0)


def test_multinomial() -> None:
    """Positions are no real numbers, but what is picked by them has a derivative."""
    nodes = [
        helper.make_node("Multinomial", ["x"], ["i"], sample_size=7, dtype=TensorProto.INT64),
        helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1),
    ]
    model = model_of(nodes, {"x": (FLOAT, [2, 4])}, ["y", "i"], opset=21)
    derived = onnxgrad.vjp(model)
    assert Counter(node.op_type for node in derived.graph.node)["Multinomial"] == 1
    found = once_in_onnxruntime(derived, {"x": np.ones((2, 4), np.float32), "adj_y": np.ones((2, 7), np.float32)})
    expected = np.stack([np.bincount(row, minlength=4) for row in found["i"]])
    np.testing.assert_array_equal(found["adj_x"], expected)


BODIES = {
    "in the body": "r = RandomNormalLike(s)",
    "in a body inside": """
        r = If (c) <
            then_branch = t () => (u) { u = RandomNormal <shape = [3], dtype = 11> () },
            else_branch = e () => (v) { v = RandomUniform <shape = [3], dtype = 11> () }
        >""",
}


@pytest.mark.parametrize("place", BODIES)
def test_a_body_that_draws_is_not_run_again(place: str) -> None:
    """It would draw other numbers, also where no derivative passes through those."""
    text = f"""
    <ir_version: 10, opset_import: ["": 21]>
    g (double[3] x, bool c) => (y) {{
        n = Constant <value = int64 {{3}}> ()
        yes = Constant <value = bool {{1}}> ()
        y = Loop (n, yes, x) <body = b (int64 i, bool go, double[3] s) => (bool on, double[3] s2) {{
            on = Identity(go)
            {BODIES[place]}
            s2 = Mul(s, r)
        }}>
    }}"""
    for transform in (onnxgrad.vjp, onnxgrad.jvp):
        with pytest.raises(onnxgrad.NotDifferentiableError, match=r"RandomNormal.* would draw other numbers"):
            transform(onnx.parser.parse_model(text), "y", "x")


def test_a_body_with_dropout_at_inference() -> None:
    """It draws nothing there."""
    text = """
    <ir_version: 10, opset_import: ["": 21]>
    g (double[3] x, bool c) => (y) {
        no = Constant <value = bool {0}> ()
        y = If (c) <
            then_branch = t () => (u) { d = Dropout(x)  f = Dropout(x, , no)  u = Mul(d, f) },
            else_branch = e () => (v) { v = Sin(x) }
        >
    }"""
    x = normal(3)
    derived = onnxgrad.vjp(onnx.parser.parse_model(text), "y", "x")
    for c, expected in ((True, 2 * x), (False, np.cos(x))):
        found = once_in_onnxruntime(derived, {"x": x, "c": np.array(c), "adj_y": np.ones(3)})
        np.testing.assert_allclose(found["adj_x"], expected, rtol=1e-14)


def test_a_wide_jacobian_is_of_one_draw() -> None:
    """It is not put together from runs that each draw other numbers: it fits into memory, or is refused."""
    text = """
    <ir_version: 10, opset_import: ["": 21]>
    g (double[600] x) => (y) {
        yes = Constant <value = bool {1}> ()
        q = Mul(x, x)
        s = Softmax(q)
        d = Dropout(s, , yes)
        y = Mul(d, d)
    }"""
    model, x = onnx.parser.parse_model(text), positive(600)
    value, jacobian = onnxgrad.load(model, max_bytes=2**28).value_and_jacobian(x)
    assert 200 < np.count_nonzero(value) < 400
    np.testing.assert_array_equal(np.asarray(jacobian).any(axis=1), np.asarray(value) != 0)
    with pytest.raises(onnxgrad.MemoryBoundError, match="would each draw other random numbers"):
        onnxgrad.load(model, max_bytes=3 * 2**20).jacobian(x)
    still = onnx.parser.parse_model(text.replace("bool {1}", "bool {0}"))
    assert np.asarray(onnxgrad.load(still, max_bytes=3 * 2**20).jacobian(x)).shape == (600, 600)
