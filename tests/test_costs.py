"""Cost functions: values against numpy in float64, derivatives against hand-written ones and differences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnxgrad
from onnxgrad.costs import COSTS
from onnxgrad.errors import ModelReadError, NotDifferentiableError, RunError, TensorTypeError, UnknownNameError
from tests.cli.cli_helpers import command

HEAD = '<ir_version: 10, opset_import: ["": 18]>\n'
rng = np.random.default_rng(5)
X = rng.normal(size=(6, 3))
W1, B1, W2, B2 = (rng.normal(size=s) for s in ((3, 5), (5,), (5, 4), (4,)))
LABELS = np.array([0, 3, 1, 1, 2, 3])
TARGET = rng.uniform(0.05, 0.95, size=(6, 4))


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEAD + text)


def mlp(last: str = "y = Identity(z)", dtype: Any = np.float64) -> onnx.ModelProto:
    """``z = tanh(x W1 + b1) W2 + b2``, and what follows."""
    name = {"float64": "double", "float32": "float", "float16": "float16"}[np.dtype(dtype).name]
    text = f"""net ({name}[N, 3] x) => ({name}[N, 4] y) {{
        a = MatMul(x, W1)  s = Add(a, b1)  h = Tanh(s)  c = MatMul(h, W2)  z = Add(c, b2)  {last} }}"""
    model = parse(text)
    for array, key in ((W1, "W1"), (B1, "b1"), (W2, "W2"), (B2, "b2")):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), key))
    return model


def run(model: onnx.ModelProto, **feeds: Any) -> dict[str, Any]:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def forward(x: Any, w1: Any = W1, b1: Any = B1, w2: Any = W2, b2: Any = B2) -> Any:
    return np.tanh(x @ w1 + b1) @ w2 + b2


def log_softmax(z: Any) -> Any:
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def huber(d: Any) -> Any:
    return np.where(np.abs(d) <= 1, d * d / 2, np.abs(d) - 0.5)


#: The cost of each sample, in numpy; the target is `LABELS` for classes, else `TARGET`.
EXPECTED: dict[str, Callable[[Any], Any]] = {
    "mse": lambda z: ((z - TARGET) ** 2).mean(axis=1),
    "sse": lambda z: ((z - TARGET) ** 2).sum(axis=1),
    "mae": lambda z: np.abs(z - TARGET).mean(axis=1),
    "huber": lambda z: huber(z - TARGET).mean(axis=1),
    "cross_entropy": lambda z: -log_softmax(z)[np.arange(len(z)), LABELS],
    "soft_cross_entropy": lambda z: -(TARGET * log_softmax(z)).sum(axis=1),
    "binary_cross_entropy": lambda z: (TARGET * np.log1p(np.exp(-z)) + (1 - TARGET) * np.log1p(np.exp(z))).mean(axis=1),
}
REDUCED: dict[str, Callable[[Any], Any]] = {"mean": np.mean, "sum": np.sum, "none": lambda c: c}


def target_of(cost: str) -> Any:
    return LABELS if cost == "cross_entropy" else TARGET


def difference(f: Callable[[Any], Any], x: Any, h: float = 1e-6) -> Any:
    """Central differences of ``sum(f(x))``."""
    result = np.empty_like(x)
    for place in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[place] = h
        result[place] = (np.sum(f(x + step)) - np.sum(f(x - step))) / (2 * h)
    return result


def test_all_costs_are_here() -> None:
    assert set(EXPECTED) == set(COSTS)


@pytest.mark.parametrize(("cost", "reduction"), list(itertools.product(COSTS, REDUCED)))
def test_values_and_gradients_by_inputs(cost: Any, reduction: Any) -> None:
    found = run(onnxgrad.gradient(mlp(), cost=cost, reduction=reduction), x=X, target=target_of(cost))
    each = EXPECTED[cost]
    np.testing.assert_allclose(found["y"], forward(X), rtol=1e-13)
    np.testing.assert_allclose(found["cost"], REDUCED[reduction](each(forward(X))), rtol=1e-12)
    # one cost per sample: the gradient of each by its own sample, which is the gradient of their sum
    expected = difference(lambda x: each(forward(x)), X) / (len(X) if reduction == "mean" else 1)
    np.testing.assert_allclose(found["grad_cost_x"], expected, atol=1e-9)  # differences: 1e-16 / 1e-6
    (record,) = onnxgrad.derivatives(onnxgrad.gradient(mlp(), cost=cost, reduction=reduction))
    assert record.batched is (reduction == "none")


def test_weights_against_backpropagation_by_hand() -> None:
    """The gradient of the mean squared error of an MLP, line by line."""
    found = run(onnxgrad.gradient(mlp(), cost="mse", wrt="weights"), x=X, target=TARGET)
    h = np.tanh(X @ W1 + B1)
    d2 = 2 * (h @ W2 + B2 - TARGET) / TARGET.size
    d1 = (d2 @ W2.T) * (1 - h * h)
    expected = {"W1": X.T @ d1, "b1": d1.sum(axis=0), "W2": h.T @ d2, "b2": d2.sum(axis=0)}
    assert {name for name in found if name.startswith("grad")} == {f"grad_cost_{name}" for name in expected}
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"grad_cost_{name}"], value, rtol=1e-12, atol=1e-15)


def test_weights_by_name_and_the_default_leaves_out_the_target() -> None:
    assert outputs(onnxgrad.gradient(mlp(), cost="mae", wrt="W2")) == ["y", "cost", "grad_cost_W2"]
    assert outputs(onnxgrad.gradient(mlp(), cost="mae")) == ["y", "cost", "grad_cost_x"]
    assert outputs(onnxgrad.gradient(mlp(), cost="mae", wrt=["x", "target"]))[2:] == ["grad_cost_x", "grad_cost_target"]


def outputs(model: onnx.ModelProto) -> list[str]:
    return [o.name for o in model.graph.output]


@pytest.mark.parametrize("cost", COSTS)
def test_second_order(cost: Any) -> None:
    """The Hessian of each sample's cost by its inputs, against differences of the gradient."""
    model = onnxgrad.add_cost(mlp(), cost, reduction="none")
    found = run(onnxgrad.hessian(model, of="cost", wrt="x"), x=X, target=target_of(cost))["hess_cost_x_x"]
    gradient = onnxgrad.load(onnxgrad.gradient(model, of="cost", wrt="x"))
    for j in range(3):
        step = np.zeros((1, 3))
        step[0, j] = 1e-5
        up, down = (gradient(x=X + s, target=target_of(cost))["grad_cost_x"] for s in (step, -step))
        np.testing.assert_allclose(found[:, :, j], (up - down) / 2e-5, atol=2e-9)  # error of differences: h² and ε/h


@pytest.mark.parametrize("z", [0.0, 1e-9, 800.0, -800.0, 1e30])
@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_binary_cross_entropy_where_it_is_delicate(z: float, t: float) -> None:
    """At 0, where stable forms with |z| have a kink, and far out, where the naive form overflows."""
    model = parse("net (double[N, 1] x) => (double[N, 1] y) <double[1] zero = {0}> { y = Add(x, zero) }")
    cost = onnxgrad.add_cost(model, "binary_cross_entropy", reduction="none", scores="logits")
    found = run(
        onnxgrad.hessian(onnxgrad.gradient(cost, "cost", "x"), "cost", "x"), x=np.array([[z]]), target=np.array([[t]])
    )
    p = 1 / (1 + np.exp(-z)) if z > -700 else 0.0
    np.testing.assert_allclose(found["cost"], [t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)], rtol=1e-13)
    np.testing.assert_allclose(found["grad_cost_x"], [[p - t]], atol=1e-15)
    np.testing.assert_allclose(found["hess_cost_x_x"], [[[p * (1 - p)]]], atol=1e-15)


def test_huber_has_its_curvature_at_0() -> None:
    model = parse("net (double[N, 1] x) => (double[N, 1] y) { y = Identity(x) }")
    model = onnxgrad.hessian(onnxgrad.add_cost(model, "huber", reduction="sum", delta=0.5), "cost", "x")
    found = run(model, x=np.array([[0.0], [0.4], [-2.0]]), target=np.zeros((3, 1)))
    np.testing.assert_allclose(found["cost"], 0.4**2 / 2 + 0.5 * (2 - 0.25), rtol=1e-15)
    np.testing.assert_array_equal(found["hess_cost_x_x"][:, 0, :, 0], np.diag([1.0, 1.0, 0.0]))


# --- logits and probabilities --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "cost"),
    [
        ("y = Softmax<axis = 1>(z)", "cross_entropy"),
        ("y = Softmax(z)", "cross_entropy"),
        ("y = LogSoftmax(z)", "cross_entropy"),
        ("p = Softmax(z) y = Identity(p)", "cross_entropy"),
        ("y = Softmax(z)", "soft_cross_entropy"),
        ("y = LogSoftmax(z)", "soft_cross_entropy"),
        ("y = Sigmoid(z)", "binary_cross_entropy"),
    ],
)
def test_what_makes_probabilities_is_seen(last: str, cost: Any) -> None:
    """Logits are taken from before the Softmax or Sigmoid: huge ones have a finite cost."""
    target = target_of(cost)
    found = run(onnxgrad.gradient(mlp(last), cost=cost), x=X, target=target)
    np.testing.assert_allclose(found["cost"], EXPECTED[cost](forward(X)).mean(), rtol=1e-12)
    model = mlp(last)
    model.graph.initializer[3].CopyFrom(onnx.numpy_helper.from_array(np.array([2000.0, 0, 0, -2000.0]), "b2"))
    far = run(onnxgrad.gradient(model, cost=cost), x=X, target=target)
    assert np.isfinite(far["cost"])
    assert np.isfinite(far["grad_cost_x"]).all()


PROBABILITIES = [("Softmax", "cross_entropy"), ("Softmax", "soft_cross_entropy"), ("Sigmoid", "binary_cross_entropy")]


@pytest.mark.parametrize(("last", "cost"), PROBABILITIES)
def test_probabilities_by_their_logarithm(last: str, cost: Any) -> None:
    model = onnxgrad.add_cost(mlp(f"y = {last}(z)"), cost, scores="probabilities")
    found = run(onnxgrad.gradient(model, "cost", "x"), x=X, target=target_of(cost))
    assert "Log" in {node.op_type for node in model.graph.node}
    np.testing.assert_allclose(found["cost"], EXPECTED[cost](forward(X)).mean(), rtol=1e-12)
    np.testing.assert_allclose(found["grad_cost_x"], difference(lambda x: EXPECTED[cost](forward(x)), X) / 6, atol=1e-9)


def test_certain_probabilities_of_right_answers_cost_nothing() -> None:
    model = parse("net (double[N, 2] x) => (double[N, 2] y) { y = Abs(x) }")
    model = onnxgrad.add_cost(model, "binary_cross_entropy", reduction="none", scores="probabilities")
    found = run(onnxgrad.gradient(model, "cost", "x"), x=np.array([[1.0, 0.0]]), target=np.array([[1.0, 0.0]]))
    np.testing.assert_array_equal(found["cost"], [0])
    np.testing.assert_array_equal(found["grad_cost_x"], [[-0.5, 0.0]])  # |x|'(0) = 0
    model = parse("net (double[N, 2] x) => (double[N, 2] y) { y = Abs(x) }")
    model = onnxgrad.add_cost(model, "soft_cross_entropy", reduction="none", scores="probabilities")
    found = run(onnxgrad.gradient(model, "cost", "x"), x=np.array([[1.0, 0.0]]), target=np.array([[1.0, 0.0]]))
    np.testing.assert_array_equal(found["cost"], [0])
    np.testing.assert_array_equal(found["grad_cost_x"], [[-1.0, 0.0]])


@pytest.mark.parametrize("cost", ["cross_entropy", "soft_cross_entropy", "binary_cross_entropy"])
def test_unclear_scores_are_refused(cost: Any) -> None:
    with pytest.raises(TensorTypeError, match=r"'y' \(made by Tanh.*pass scores='logits'"):
        onnxgrad.add_cost(mlp("y = Tanh(z)"), cost)
    with pytest.raises(TensorTypeError, match=r"made by Add"):  # of probabilities and a small number
        onnxgrad.add_cost(mlp("p = Sigmoid(z) y = Add(p, b2)"), cost)
    onnxgrad.add_cost(mlp("y = Tanh(z)"), cost, scores="logits")
    onnxgrad.add_cost(mlp("r = Add(z, c) y = Identity(r)"), cost)


def test_classes_on_other_axes() -> None:
    z = rng.normal(size=(2, 5, 3))
    model = parse("net (double[N, T, 3] x) => (double[N, T, 3] y) <double[3] w = {1, 2, 3}> { y = Add(x, w) }")
    labels = rng.integers(0, 3, size=(2, 5))
    found = run(
        onnxgrad.add_cost(model, "cross_entropy", axis=-1, scores="logits", reduction="none"), x=z, target=labels
    )
    p = np.exp(z + np.arange(1, 4))
    p /= p.sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, labels[..., None], -1))[..., 0].mean(axis=1)
    np.testing.assert_allclose(found["cost"], expected, rtol=1e-12)
    soft = onnxgrad.add_cost(model, "soft_cross_entropy", axis=-1, scores="logits", reduction="none")
    np.testing.assert_allclose(run(soft, x=z, target=np.eye(3)[labels])["cost"], expected, rtol=1e-12)
    with pytest.raises(TensorTypeError, match=r"normalized along axis 2 .* pass axis=2"):
        onnxgrad.add_cost(parse("net (double[N, T, 3] x) => (double[N, T, 3] y) { y = Softmax(x) }"), "cross_entropy")


@pytest.mark.parametrize("label", [4, -1, -100])
def test_labels_that_are_no_class_fail(label: int) -> None:
    model = onnxgrad.load(onnxgrad.add_cost(mlp(), "cross_entropy"))
    with pytest.raises(RunError):
        model(x=X[:1], target=np.array([label]))


# --- types, names, refusals ----------------------------------------------------------------------


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 5e-3)])
def test_narrow_types(cost: Any, dtype: Any, tolerance: float) -> None:
    """The cost of a float16 model is computed in float32; the gradient has the type of the input."""
    target = LABELS if cost == "cross_entropy" else TARGET.astype(dtype)
    found = run(onnxgrad.gradient(mlp(dtype=dtype), cost=cost), x=X.astype(dtype), target=target)
    assert found["cost"].dtype == np.float32
    assert found["grad_cost_x"].dtype == dtype
    np.testing.assert_allclose(found["cost"], EXPECTED[cost](forward(X)).mean(), rtol=tolerance)


def test_other_shapes() -> None:
    """One number in all, one per sample, a fixed batch, images."""
    for shape in ("", "N", "2", "2, 3", "N, 3, H, H"):
        name = f"double[{shape}]" if shape else "double"
        model = parse(f"net ({name} x) => ({name} y) {{ y = Exp(x) }}")
        sizes = [{"N": 2, "H": 4}.get(d.strip()) or int(d) for d in shape.split(",") if d.strip()]
        x, t = rng.normal(size=sizes), rng.normal(size=sizes)
        found = run(onnxgrad.gradient(model, cost="mse"), x=x, target=t)
        np.testing.assert_allclose(found["cost"], np.mean((np.exp(x) - t) ** 2), rtol=1e-12)
        np.testing.assert_allclose(found["grad_cost_x"], 2 * (np.exp(x) - t) * np.exp(x) / x.size, rtol=1e-12)
        if sizes:
            each = run(onnxgrad.gradient(model, cost="mse", reduction="none"), x=x, target=t)
            np.testing.assert_allclose(each["cost"].mean(), found["cost"], rtol=1e-12)
            np.testing.assert_allclose(each["grad_cost_x"] / sizes[0], found["grad_cost_x"], rtol=1e-12)


def test_names_that_are_taken() -> None:
    model = parse("net (double[N] target) => (double[N] cost) { cost = Exp(target) }")
    made = onnxgrad.gradient(model, cost="mse")
    assert [i.name for i in made.graph.input] == ["target", "target_2"]
    assert outputs(made) == ["cost", "cost_2", "grad_cost_2_target"]
    assert made.graph.output[1].doc_string == "mse of cost against target_2, mean over the samples"


def test_values_inside_and_one_of_several_outputs() -> None:
    model = parse("net (double[N, 2] x) => (double[N, 2] a, double[N, 2] b) { h = Exp(x) a = Neg(h) b = Tanh(h) }")
    with pytest.raises(TensorTypeError, match=r"2 floating-point outputs .*name it in `of`"):
        onnxgrad.add_cost(model, "mse")
    for of, f in (("a", lambda x: -np.exp(x)), ("h", np.exp)):
        found = run(onnxgrad.add_cost(model, "mse", of), x=np.ones((3, 2)), target=np.zeros((3, 2)))
        np.testing.assert_allclose(found["cost"], f(1.0) ** 2, rtol=1e-13)


def test_means_and_variances_are_no_weights() -> None:
    model = parse(
        """net (float[N, 2] x) => (float[N, 2] y)
        <float[2] scale = {1, 2}, float[2] bias = {0, 1}, float[2] mean = {0, 0}, float[2] var = {1, 1},
         float[2] unused = {1, 1}>
        { y = BatchNormalization(x, scale, bias, mean, var) }"""
    )
    assert outputs(onnxgrad.gradient(model, cost="mse", wrt="weights"))[2:] == ["grad_cost_scale", "grad_cost_bias"]


def test_a_tensor_called_weights_is_meant_itself() -> None:
    model = parse("net (double[N, 2] weights) => (double[N, 2] y) <double[2] w = {1, 2}> { y = Mul(weights, w) }")
    assert outputs(onnxgrad.gradient(model, cost="mse", wrt="weights"))[2:] == ["grad_cost_weights"]


def test_weights_without_a_cost() -> None:
    model = parse(
        "net (double[2] x) => (double y) <double[2] w = {1, 2}> { p = Mul(x, w) y = ReduceSum<keepdims=0>(p) }"
    )
    found = run(onnxgrad.gradient(model, wrt="weights"), x=np.array([3.0, 4.0]))
    np.testing.assert_array_equal(found["grad_y_w"], [3, 4])


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (UnknownNameError, "'mes' is not a cost .*did you mean 'mse'", {"cost": "mes"}),
        (UnknownNameError, "'Y' is not a tensor", {"cost": "mse", "of": "Y"}),
        (ValueError, "reduction='average' is none of 'mean'", {"cost": "mse", "reduction": "average"}),
        (ValueError, "name one: cost='mse'", {"reduction": "mean"}),
        (
            TensorTypeError,
            "'W1' serve all samples.*reduction='mean'",
            {"cost": "mse", "wrt": "W1", "reduction": "none"},
        ),
        (TensorTypeError, "names several", {"cost": "mse", "of": ["y", "z"]}),
    ],
)
def test_refusals(error: type[Exception], match: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        onnxgrad.gradient(mlp(), **options)


def test_further_refusals() -> None:
    with pytest.raises(ValueError, match=r"delta=0 is no positive number"):
        onnxgrad.add_cost(mlp(), "huber", delta=0)
    with pytest.raises(TensorTypeError, match=r"no axis 1 of classes"):
        onnxgrad.add_cost(parse("net (double[N] x) => (double[N] y) { y = Exp(x) }"), "cross_entropy")
    with pytest.raises(TensorTypeError, match="0 floating-point outputs"):
        onnxgrad.add_cost(parse("net (int64[N] x) => (int64[N] y) { y = Neg(x) }"), "mse")
    with pytest.raises(TensorTypeError, match="there are none"):
        onnxgrad.gradient(parse("net (double[N] x) => (double[N] y) { y = Exp(x) }"), cost="mse", wrt="weights")
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18, "my": 1]> n (double[N] x) => (double[N] y) { y = my.F(x) }'
    )
    with pytest.raises(NotDifferentiableError):
        onnxgrad.gradient(model, cost="mse")


def test_weights_of_a_matlab_network(tmp_path: Path) -> None:
    """The gradient by all weights and biases, through the scaling of the targets, against differences."""
    path = tmp_path / "net.onnx"
    onnxgrad.load(Path(__file__).parents[1] / "fixtures" / "matlab" / "static.mat").save(path)
    model = onnx.load(path)
    weights = [w.name for w in model.graph.initializer if re.fullmatch(r"b\d+|[IL]W\d+_\d+", w.name)]
    assert sorted(weights) == ["IW1_1", "LW2_1", "b1", "b2"]
    x, t = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    found = run(onnxgrad.gradient(model, cost="mse", wrt=weights), x1=x, target=t)

    for weight in model.graph.initializer:
        if weight.name in weights:
            start = onnx.numpy_helper.to_array(weight).copy()

            def cost(w: Any, weight: Any = weight) -> Any:
                weight.CopyFrom(onnx.numpy_helper.from_array(w, weight.name))
                return np.mean((run(model, x1=x)["y1"] - t) ** 2)

            expected = difference(cost, start)
            cost(start)  # puts it back
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found[f"grad_cost_{weight.name}"], expected, atol=1e-7 * scale)


# --- costs given as ONNX -------------------------------------------------------------------------

COST = """cost (double[B, K] prediction, double[B, K] truth, double[K] w) => (double[B] loss)
<int64[1] one = {1}> { a = Sub(prediction, truth)  h = Mul(a, a)  z = Mul(h, w)
  loss = ReduceSum<keepdims = 0>(z, one) }"""
SCALE = np.array([1.0, 2.0, 0.5, 3.0])


@pytest.mark.parametrize("match", [None, "y", {"prediction": "y"}])
@pytest.mark.parametrize("weight", ["one", "W1"])
def test_compose(match: Any, weight: str) -> None:
    """Names inside of the cost that the model has, too, do not matter; sizes take the model's names."""
    model = onnxgrad.compose(mlp(), parse(COST.replace("one", weight)), match)
    assert [i.name for i in model.graph.input] == ["x", "truth", "w"]
    assert outputs(model) == ["y", "loss"]
    assert [d.dim_param for d in model.graph.output[1].type.tensor_type.shape.dim] == ["N"]
    assert [d.dim_param for d in model.graph.input[1].type.tensor_type.shape.dim][:1] == ["N"]
    found = run(onnxgrad.jacobian(model, "loss", "x"), x=X, truth=TARGET, w=SCALE)
    np.testing.assert_allclose(found["loss"], ((forward(X) - TARGET) ** 2 * SCALE).sum(axis=1), rtol=1e-12)
    expected = difference(lambda x: (forward(x) - TARGET) ** 2 * SCALE, X)
    np.testing.assert_allclose(found["jac_loss_x"], expected, atol=1e-8)


def test_compose_by_name_and_with_an_input_of_the_model() -> None:
    model = parse("net (double[N] x) => (double[N] a, double[N] b) { a = Exp(x) b = Sin(x) }")
    cost = parse("cost (double[N] t, double[N] b, double[N] x) => (double[N] c) { p = Mul(t, b) c = Mul(p, x) }")
    x, t = rng.normal(size=4), rng.normal(size=4)
    composed = onnxgrad.compose(model, cost)
    assert [i.name for i in composed.graph.input] == ["x", "t", "x_2"]  # nothing but outputs is matched unasked
    np.testing.assert_allclose(run(composed, x=x, t=t, x_2=2 * x)["c"], t * np.sin(x) * 2 * x, rtol=1e-14)
    composed = onnxgrad.compose(model, cost, {"b": "b", "x": "x"})
    np.testing.assert_allclose(run(composed, x=x, t=t)["c"], t * np.sin(x) * x, rtol=1e-14)


def test_compose_with_bodies() -> None:
    """The bodies of an If see the matched input from outside, and have names that the model has, too."""
    cost = parse("""cost (double[N, 4] p, double[N, 4] t) => (double[N, 4] loss) <double limit = {36}> {
      s = ReduceSum<keepdims = 0>(p)
      g = Greater(s, limit)
      loss = If(g)<then_branch = yes () => (double[N, 4] h) { d = Sub(p, t) h = Mul(d, d) },
                   else_branch = no () => (double[N, 4] z) { z = Sub(p, t) }> }""")
    model = onnxgrad.jacobian(onnxgrad.compose(mlp(), cost), "loss", "x", batched=False)
    for x in (X, -3 * X):
        found, y = run(model, x=x, t=TARGET), forward(x)
        square = y.sum() > 36
        np.testing.assert_allclose(found["loss"], (y - TARGET) ** 2 if square else y - TARGET, rtol=1e-11)
        factor = 2 * (y - TARGET) if square else np.ones_like(y)
        expected = difference(lambda x: forward(x) * factor, x)  # noqa: B023 - called at once
        np.testing.assert_allclose(found["jac_loss_x"].sum((0, 1)), expected, atol=2e-7)  # sums of 1e2, ε/h
    assert {bool(forward(x).sum() > 36) for x in (X, -3 * X)} == {True, False}


def test_compose_across_opsets() -> None:
    old = parse(COST)
    del old.opset_import[:]
    old.opset_import.append(onnx.helper.make_opsetid("", 13))
    new = mlp()
    new.opset_import[0].version = 21
    for a, b in ((new, old), (mlp(), parse(COST))):
        found = run(onnxgrad.compose(a, b), x=X, truth=TARGET, w=SCALE)
        np.testing.assert_allclose(found["loss"], ((forward(X) - TARGET) ** 2 * SCALE).sum(axis=1), rtol=1e-12)


def test_a_cost_that_returns_what_it_takes() -> None:
    cost = parse("cost (double[N, 4] p) => (double[N, 4] p, double[N, 4] q) { q = Neg(p) }")
    found = run(onnxgrad.compose(mlp(), cost), x=X)
    assert list(found) == ["y", "y_cost", "q"]
    np.testing.assert_array_equal(found["y_cost"], found["y"])


def test_gradient_of_a_cost_model(tmp_path: Any) -> None:
    path = str(tmp_path / "cost.onnx")
    onnx.save(parse(COST), path)
    for cost in (path, parse(COST)):
        found = run(onnxgrad.gradient(mlp(), cost=cost), x=X, truth=TARGET, w=SCALE)
        expected = difference(lambda x: (forward(x) - TARGET) ** 2 * SCALE, X)
        np.testing.assert_allclose(found["grad_loss_x"], expected, atol=1e-8)
    with pytest.raises(ValueError, match="a cost model reduces by itself"):
        onnxgrad.gradient(mlp(), cost=path, reduction="sum")


@pytest.mark.parametrize(
    ("error", "match", "cost", "how"),
    [
        (UnknownNameError, "'p' is not an input of the cost", COST, {"p": "y"}),
        (UnknownNameError, "'Y' is not a tensor", COST, "Y"),
        (TensorTypeError, "takes float, and 'y' is double", COST.replace("double", "float"), None),
        (TensorTypeError, r"takes shape \[B, 7\], and 'y' has \['N', 4\]", COST.replace("K] pred", "7] pred"), None),
        (TensorTypeError, r"takes shape \[K\]", "c (double[K] p) => (double[K] q) { q = Neg(p) }", None),
        (TensorTypeError, "has no inputs", "c () => (double q) { q = Constant<value_float = 1.0>() }", None),
        (ModelReadError, "cannot be read|no such file|damaged", b"no model", None),
    ],
)
def test_compositions_that_are_refused(error: type[Exception], match: str, cost: Any, how: Any) -> None:
    with pytest.raises(error, match=match):
        onnxgrad.compose(mlp(), parse(cost) if isinstance(cost, str) else cost, how)


def test_several_outputs_need_a_match() -> None:
    model = parse("net (double[N] x) => (double[N] a, double[N] b) { a = Exp(x) b = Sin(x) }")
    cost = parse("cost (double[N] p, double[N] t) => (double[N] c) { c = Mul(p, t) }")
    with pytest.raises(TensorTypeError, match=r"match=\{'p': 'a'\}"):
        onnxgrad.compose(model, cost)
    assert outputs(onnxgrad.compose(model, cost, {"p": "b"})) == ["a", "b", "c"]


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "names", "batched"),
    [
        (["--cost", "mse"], ["grad_cost_x"], False),
        (["--cost", "mse", "--reduction", "none"], ["grad_cost_x"], True),
        (["--cost", "mse", "--gradient", ":weights"], [f"grad_cost_{w}" for w in ("W1", "b1", "W2", "b2")], False),
        (["--cost", "mae", "--gradient", "cost:W1,b2"], ["grad_cost_W1", "grad_cost_b2"], False),
        (["--cost", "sse", "--reduction", "none", "--hessian"], ["hess_cost_x_x"], True),
        (["--cost", "mse", "--cost-of", "z", "--jacobian", "y:x"], ["jac_y_x"], True),
    ],
)  # fmt: skip
def test_command(tmp_path: Any, words: list[str], names: list[str], batched: bool) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    outcome = command("augment", tmp_path / "m.onnx", *words, "-o", tmp_path / "out.onnx", "--json")
    assert outcome.code == 0, outcome.message
    assert [d["output"] for d in outcome.json["derivatives"]] == names
    assert {d["batched"] for d in outcome.json["derivatives"]} == {batched}
    assert outputs(onnx.load(tmp_path / "out.onnx")) == ["y", "cost", *names]


def test_command_with_a_cost_model(tmp_path: Any) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    onnx.save(parse(COST), tmp_path / "cost.onnx")
    outcome = command("augment", tmp_path / "m.onnx", "--cost", tmp_path / "cost.onnx", "-o", tmp_path / "out.onnx")
    assert outcome.code == 0, outcome.message
    found = run(onnx.load(tmp_path / "out.onnx"), x=X, truth=TARGET, w=SCALE)
    expected = difference(lambda x: (forward(x) - TARGET) ** 2 * SCALE, X)
    np.testing.assert_allclose(found["grad_loss_x"], expected, atol=1e-8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cost", "mes"], "did you mean 'mse'"),
        (["--reduction", "sum", "--gradient"], "are for a cost"),
        (["--cost", "cost.onnx", "--reduction", "sum"], "only these are reduced"),
        (["--cost", "cost.onnx"], "cost.onnx"),
        (["--cost", "mse", "--gradient", ":W3"], "'W3' is not a tensor"),
    ],
)
def test_command_refuses(tmp_path: Any, words: list[str], message: str) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    outcome = command("augment", tmp_path / "m.onnx", *words, "-o", tmp_path / "out.onnx")
    assert outcome.code == 2
    assert message in outcome.message
    assert not (tmp_path / "out.onnx").exists()
