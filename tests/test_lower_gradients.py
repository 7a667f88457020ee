"""The ONNX standard's own `Gradient` operator, in plain operators."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxgrad
from tests.harness import Runner, close, differences

SIMPLE = Path(onnx.__file__).parent / "backend" / "test" / "data" / "simple"
rng = np.random.default_rng(31)


def model_of(text: str, functions: str = "", opset: int = 22, ir_version: int = 10) -> onnx.ModelProto:
    """Return a model of a graph as text, in which ``Gradient`` is that of the standard."""
    text = text.replace("Gradient", "ai.onnx.preview.training.Gradient")
    functions = functions.replace("Gradient", "ai.onnx.preview.training.Gradient")
    imports = f'"": {opset}, "ai.onnx.preview.training": 1, "local": 1'
    return parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]>\n{text}\n{functions}")


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def lowered(model: onnx.ModelProto) -> Runner:
    """Lower, and check what holds for every model: only ordinary operators, the same inputs and outputs, valid."""
    before = model.SerializeToString(deterministic=True)
    result = onnxgrad.lower_gradients(model)
    assert model.SerializeToString(deterministic=True) == before
    assert {node.domain for node in result.graph.node} <= {""}
    assert {i.domain for i in result.opset_import} == {""}
    for side in ("input", "output"):
        assert [v.name for v in getattr(result.graph, side)] == [v.name for v in getattr(model.graph, side)]
    onnx.checker.check_model(result, full_check=True)
    return Runner(result, only_runtime=True)


def numbers(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


# --- what the standard says ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_gradient_of_add", "test_gradient_of_add_and_mul"])
def test_cases_of_onnx(name: str) -> None:
    model = onnx.load(SIMPLE / name / "model.onnx")
    run = lowered(model)
    for data in sorted((SIMPLE / name).glob("test_data_set_*")):
        feeds, expected = (
            {
                v.name: numpy_helper.to_array(onnx.load_tensor(str(data / f"{side}_{i}.pb")))
                for i, v in enumerate(values)
            }
            for side, values in (("input", model.graph.input), ("output", model.graph.output))
        )
        found = run(feeds)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value)
            assert found[key].dtype == value.dtype


NETWORK = """
g (double[N, 1, 4, 4] X, double[2, 1, 3, 3] W, double[8, 5] Z, double[8, 5] Z1, double[N, 8] H1)
  => (double Y, {outputs}) {{
    C = Conv(X, W)
    H = Flatten(C)
    T = MatMul(H, Z)
    S = Tanh(T)
    Y = ReduceSum <keepdims = 0> (S)
    {nodes}
}}
"""
POINT = {
    "X": numbers(3, 1, 4, 4),
    "W": numbers(2, 1, 3, 3),
    "Z": numbers(8, 5),
    "Z1": numbers(8, 5),
    "H1": numbers(3, 8),
}


def network(outputs: str, nodes: str) -> onnx.ModelProto:
    return model_of(NETWORK.format(outputs=outputs, nodes=nodes))


def slope(h: np.ndarray, z: np.ndarray) -> np.ndarray:
    return 1 - np.tanh(h @ z) ** 2


def run_reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Run a lowered model; onnxruntime has no convolution in float64."""
    return Runner(onnxgrad.lower_gradients(model))(feeds or POINT)


def hidden() -> np.ndarray:
    x, w = POINT["X"], POINT["W"]
    windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (3, 3), axis=(1, 2))
    return np.einsum("nijkl,ckl->ncij", windows, w[:, 0]).reshape(3, 8)


def test_weights_with_data_held() -> None:
    """The standard's first example: xs=["W", "Z"], zs=["X"]."""
    model = network("dW, dZ", 'dW, dZ = Gradient <xs = ["W", "Z"], zs = ["X"], y = "Y"> (W, Z, X)')
    found = run_reference(model)
    h, z = hidden(), POINT["Z"]
    close(found["dZ"], h.T @ slope(h, z), 1e-13, "dZ")
    back = (slope(h, z) @ z.T).reshape(3, 2, 2, 2)
    windows = np.lib.stride_tricks.sliding_window_view(POINT["X"][:, 0], (3, 3), axis=(1, 2))
    close(found["dW"], np.einsum("ncij,nijkl->ckl", back, windows)[:, None], 1e-13, "dW")


def test_intermediate_tensor() -> None:
    """The second: by H, which the graph computes."""
    model = network("dH, dZ", 'dH, dZ = Gradient <xs = ["H", "Z"], y = "Y"> (H, Z)')
    found = run_reference(model)
    h, z = hidden(), POINT["Z"]
    close(found["dH"], slope(h, z) @ z.T, 1e-13, "dH")
    close(found["dZ"], h.T @ slope(h, z), 1e-13, "dZ")
    assert operators(onnxgrad.lower_gradients(model))["Conv"] == 1
    assert operators(onnxgrad.lower_gradients(model))["Tanh"] == 1  # what is computed already is used


def test_other_values() -> None:
    """The last: at H_1 and Z_1, for which the graph from there on is run once more."""
    model = network("dH, dZ", 'dH, dZ = Gradient <xs = ["H", "Z"], y = "Y"> (H1, Z1)')
    found = run_reference(model)
    h, z = POINT["H1"], POINT["Z1"]
    close(found["dH"], slope(h, z) @ z.T, 1e-13, "dH")
    close(found["dZ"], h.T @ slope(h, z), 1e-13, "dZ")
    close(found["Y"], np.tanh(hidden() @ POINT["Z"]).sum(), 1e-13, "Y")
    assert operators(onnxgrad.lower_gradients(model))["Conv"] == 1


def test_other_values_of_another_size() -> None:
    text = NETWORK.replace("double[N, 8] H1", "double[M, 8] H1").format(
        outputs="dH", nodes='dH = Gradient <xs = ["H"], zs = ["Z"], y = "Y"> (H1, Z1)'
    )
    h, z = numbers(5, 8), POINT["Z1"]
    found = run_reference(model_of(text), {**POINT, "H1": h})
    close(found["dH"], slope(h, z) @ z.T, 1e-13, "dH")


def test_one_of_the_values_is_another() -> None:
    model = network("dH, dZ", 'dH, dZ = Gradient <xs = ["H", "Z"], y = "Y"> (H, Z1)')
    found = run_reference(model)
    h, z = hidden(), POINT["Z1"]
    close(found["dH"], slope(h, z) @ z.T, 1e-13, "dH")
    close(found["dZ"], h.T @ slope(h, z), 1e-13, "dZ")


def test_second_order() -> None:
    """The standard's linear model with a loss, differentiated twice: O = L (XW)³, all of one element."""
    model = model_of(
        """
        g (double[1, 1] X, double[1, 1] W, double[1, 1] L) => (dX, dW, dWdX, dWdW) {
            Y = Gemm(X, W)
            S = Mul(Y, Y)
            C = Mul(S, Y)
            O = Mul(C, L)
            dX, dW = Gradient <xs = ["X", "W"], zs = ["L"], y = "O"> (X, W, L)
            dWdX, dWdW = Gradient <xs = ["X", "W"], zs = ["L"], y = "dW"> (X, W, L)
        }"""
    )
    x, w, c = 0.7, -1.3, 2.0
    found = lowered(model)({"X": np.array([[x]]), "W": np.array([[w]]), "L": np.array([[c]])})
    expected = {
        "dX": 3 * c * x**2 * w**3,
        "dW": 3 * c * x**3 * w**2,
        "dWdX": 9 * c * x**2 * w**2,
        "dWdW": 6 * c * x**3 * w,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [[value]], rtol=1e-13)


# --- which tensors are held ----------------------------------------------------------------------


def simple(nodes: str, outputs: str, inputs: str = "double[3] a, double[3] b") -> onnx.ModelProto:
    return model_of(f"g ({inputs}) => ({outputs}) {{ {nodes} }}")


A, B = np.array([1.5, -2.0, 0.5]), np.array([0.25, 3.0, -1.0])


def test_held_tensor_that_depends_on_the_variable() -> None:
    """With c = a + b held, the gradient of Σ c·a by a is c, and not 2a + b."""
    nodes = "c = Add(a, b) d = Mul(c, a) y = ReduceSum <keepdims = 0> (d)"
    both = simple(
        f'{nodes} whole = Gradient <xs = ["a"], zs = ["b"], y = "y"> (a, b) '
        'held = Gradient <xs = ["a"], zs = ["c"], y = "y"> (a, c)',
        "whole, held",
    )
    found = lowered(both)({"a": A, "b": B})
    np.testing.assert_allclose(found["whole"], 2 * A + B)
    np.testing.assert_allclose(found["held"], A + B)


def test_one_value_for_two_names() -> None:
    """The gradients of Σ a²b by a and b, at a for both: 2a·a and a²."""
    model = simple(
        "s = Mul(a, a) p = Mul(s, b) y = ReduceSum <keepdims = 0> (p) "
        'da, db = Gradient <xs = ["a", "b"], y = "y"> (b, b)',
        "y, da, db",
    )
    found = lowered(model)({"a": A, "b": B})
    np.testing.assert_allclose(found["da"], 2 * B * B)
    np.testing.assert_allclose(found["db"], B * B)
    np.testing.assert_allclose(found["y"], (A * A * B).sum())


def test_values_change_places() -> None:
    model = simple(
        "s = Mul(a, a) p = Mul(s, b) y = ReduceSum <keepdims = 0> (p) "
        'da, db = Gradient <xs = ["a", "b"], y = "y"> (b, a)',
        "da, db",
    )
    found = lowered(model)({"a": A, "b": B})
    np.testing.assert_allclose(found["da"], 2 * A * B)
    np.testing.assert_allclose(found["db"], B * B)


def test_y_itself() -> None:
    model = simple(
        'y = ReduceSum <keepdims = 0> (a) dy = Gradient <xs = ["y"], y = "y"> (y) '
        'other = ReduceSum <keepdims = 0> (b) dz = Gradient <xs = ["y"], y = "y"> (other)',
        "dy, dz",
    )
    found = lowered(model)({"a": A, "b": B})
    assert found["dy"] == found["dz"] == 1


def test_an_unlisted_tensor_is_a_constant() -> None:
    """What is neither in xs nor in zs keeps its value."""
    model = simple('p = Mul(a, b) y = ReduceSum <keepdims = 0> (p) da = Gradient <xs = ["a"], y = "y"> (b)', "da")
    np.testing.assert_allclose(lowered(model)({"a": A, "b": B})["da"], B)


# --- several nodes, and what becomes of their outputs --------------------------------------------


def test_outputs_that_are_left_out() -> None:
    model = simple(
        'p = Mul(a, b) y = ReduceSum <keepdims = 0> (p) , db = Gradient <xs = ["a", "b"], y = "y"> (a, b)', "db"
    )
    np.testing.assert_allclose(lowered(model)({"a": A, "b": B})["db"], A)
    model = simple(
        'p = Mul(a, b) y = ReduceSum <keepdims = 0> (p) da = Gradient <xs = ["a", "b"], y = "y"> (a, b)', "da"
    )
    np.testing.assert_allclose(lowered(model)({"a": A, "b": B})["da"], B)


def test_one_result_for_two_outputs() -> None:
    """a + b has the same gradient by both, under two names."""
    model = simple(
        "s = Add(a, b) q = Mul(s, s) y = ReduceSum <keepdims = 0> (q) "
        'da, db = Gradient <xs = ["a", "b"], y = "y"> (a, b) again = Gradient <xs = ["a"], y = "y"> (a)',
        "da, db, again, y",
    )
    found = lowered(model)({"a": A, "b": B})
    for name in ("da", "db", "again"):
        np.testing.assert_allclose(found[name], 2 * (A + B))


DESCENT = """
g (double[N, 3] x, double[N] t, double[3] w, double rate) => (double[3] w2, double loss, double final) {
    p = MatMul(x, w)
    q = Tanh(p)
    e = Sub(q, t)
    s = Mul(e, e)
    loss = ReduceSum <keepdims = 0> (s)
    g0 = Gradient <xs = ["w"], zs = ["x", "t"], y = "loss"> (w, x, t)
    r0 = Mul(rate, g0)
    w1 = Sub(w, r0)
    g1 = Gradient <xs = ["w"], zs = ["x", "t"], y = "loss"> (w1, x, t)
    r1 = Mul(rate, g1)
    w2 = Sub(w1, r1)
    u = Mul(w2, w2)
    final = ReduceSum <keepdims = 0> (u)
}"""
DESCENT_POINT = {"x": numbers(5, 3), "t": numbers(5), "w": numbers(3), "rate": np.array(0.05)}


def descend(feeds: dict[str, np.ndarray]) -> np.ndarray:
    w = feeds["w"]
    for _ in range(2):
        q = np.tanh(feeds["x"] @ w)
        w = w - feeds["rate"] * feeds["x"].T @ (2 * (q - feeds["t"]) * (1 - q**2))
    return w


def test_steps_of_descent() -> None:
    """A gradient at a point that was computed from a gradient."""
    found = lowered(model_of(DESCENT))(DESCENT_POINT)
    np.testing.assert_allclose(found["w2"], descend(DESCENT_POINT), rtol=1e-12)


def test_derivative_of_the_descent() -> None:
    """All of it is differentiated once more: what the transforms make of a model with such nodes."""
    model = model_of(DESCENT)
    plain = Runner(onnxgrad.lower_gradients(model))
    derived = Runner(onnxgrad.vjp(model, "w2", ["x", "t", "w", "rate"]))
    ct = numbers(3)
    found = derived({**DESCENT_POINT, "adj_w2": ct})
    for name, value in DESCENT_POINT.items():
        direction = numbers(*value.shape)
        change = differences(plain, DESCENT_POINT, {name: direction})["w2"]
        np.testing.assert_allclose(np.sum(found[f"adj_{name}"] * direction), ct @ change, rtol=1e-8)


TRAINING = """
g (double[N, 3] x, int64[N] t, double[3, 4] w, double[3, 4] v, double rate, int64 count)
  => (double loss, double[3, 4] w1, double[3, 4] v1) {
    s = MatMul(x, w)
    loss = SoftmaxCrossEntropyLoss (s, t)
    dw = Gradient <xs = ["w"], zs = ["x", "t"], y = "loss"> (w, x, t)
    w1, v1 = ai.onnx.preview.training.Momentum <alpha = 0.5, beta = 1.0, mode = "nesterov", norm_coefficient = 0.0>
        (rate, count, w, dw, v)
}"""


def test_a_step_of_training() -> None:
    """A loss, its gradient and an optimizer, as the standard writes them; then the step is differentiated, too."""
    model = model_of(TRAINING)
    result = onnxgrad.lower_gradients(model)
    assert operators(result)["Momentum"] == 1
    assert operators(result)["Gradient"] == 0
    assert {i.domain for i in result.opset_import} == {"", "ai.onnx.preview.training"}
    feeds = {"x": numbers(5, 3), "w": numbers(3, 4), "v": numbers(3, 4), "rate": np.array(0.1)}
    whole = {**feeds, "t": np.array([0, 3, 1, 1, 2]), "count": np.array(1)}
    run = Runner(result)
    found = run(whole)
    p = np.exp(feeds["x"] @ feeds["w"])
    p /= p.sum(axis=1, keepdims=True)
    dw = feeds["x"].T @ (p - np.eye(4)[whole["t"]]) / 5
    v1 = 0.5 * feeds["v"] + dw
    np.testing.assert_allclose(found["v1"], v1, rtol=1e-12)
    np.testing.assert_allclose(found["w1"], feeds["w"] - 0.1 * (dw + 0.5 * v1), rtol=1e-12)
    ct = numbers(3, 4)
    back = Runner(onnxgrad.vjp(model, "w1", list(feeds)))({**whole, "adj_w1": ct})
    for name, value in feeds.items():
        direction = numbers(*value.shape)
        change = differences(run, whole, {name: direction})["w1"]
        np.testing.assert_allclose(np.sum(back[f"adj_{name}"] * direction), np.sum(ct * change), rtol=1e-8)


@pytest.mark.parametrize("kind", ["vjp", "jvp", "jacobian", "gradient", "hessian", "hvp"])
def test_every_transform_lowers(kind: str) -> None:
    model = model_of(DESCENT)
    transform = getattr(onnxgrad, kind)
    results = [transform(source, "final", "w") for source in (model, onnxgrad.lower_gradients(model))]
    seeds = {"vjp": {"adj_final": np.array(2.0)}, "jvp": {"fwd_w": numbers(3)}, "hvp": {"fwd_w": numbers(3)}}
    found = [Runner(result, only_runtime=True)({**DESCENT_POINT, **seeds.get(kind, {})}) for result in results]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-12)


def test_a_loaded_model() -> None:
    """`load` runs it, too, and differentiates it."""
    function = onnxgrad.load(model_of(DESCENT))
    found = function(**DESCENT_POINT)
    np.testing.assert_allclose(found["w2"], descend(DESCENT_POINT), rtol=1e-12)
    assert function.jacobian(**DESCENT_POINT, of="w2", wrt="w").shape == (3, 3)


def test_order_of_nodes_does_not_matter() -> None:
    """A node may stand before what computes its y: only its inputs order it."""
    model = simple(
        'da = Gradient <xs = ["a"], zs = ["b"], y = "y"> (a, b) p = Mul(a, b) y = ReduceSum <keepdims = 0> (p) '
        "z = Add(da, a)",
        "z",
    )
    np.testing.assert_allclose(lowered(model)({"a": A, "b": B})["z"], A + B)


# --- functions, weights, older models, control flow ------------------------------------------------


def test_within_a_function() -> None:
    """Names are those of the function, which is called twice."""
    function = """
    <domain: "local", opset_import: ["": 22, "ai.onnx.preview.training": 1]>
    slope (a) => (da) {
        s = Sin(a)
        y = ReduceSum <keepdims = 0> (s)
        da = Gradient <xs = ["a"], y = "y"> (a)
    }"""
    model = model_of("g (double[3] x) => (z) { c = local.slope(x) z = local.slope(c) }", function)
    np.testing.assert_allclose(lowered(model)({"x": A})["z"], np.cos(np.cos(A)))


def test_a_weight_and_its_number() -> None:
    """The first gradient must not be written for the number in p, since the second is by p: d/dp (p x^(p-1))."""
    model = model_of(
        """
        g (double x) => (dx, dxdp) <double p = {2.0}> {
            y = Pow(x, p)
            dx = Gradient <xs = ["x"], zs = ["p"], y = "y"> (x, p)
            dxdp = Gradient <xs = ["p"], zs = ["x"], y = "dx"> (p, x)
        }"""
    )
    x = 1.7
    found = lowered(model)({"x": np.array(x)})
    np.testing.assert_allclose(found["dx"], 2 * x)
    np.testing.assert_allclose(found["dxdp"], x + 2 * x * np.log(x))


def test_a_weight_whose_number_is_written_down() -> None:
    """Who differentiates by p what was written for its number is refused, as after any other transform."""
    model = model_of(
        """
        g (double x) => (dx) <double p = {2.0}> {
            y = Pow(x, p)
            dx = Gradient <xs = ["x"], zs = ["p"], y = "y"> (x, p)
        }"""
    )
    for source in (model, onnxgrad.lower_gradients(model)):
        with pytest.raises(onnxgrad.TensorTypeError, match="written for the number in 'p'"):
            onnxgrad.vjp(source, "dx", "p")


@pytest.mark.parametrize("opset", [12, 17, 18, 25])
def test_opsets(opset: int) -> None:
    axes = ", axes" if opset > 12 else ""
    constant = "axes = Constant <value = int64[1] {0}> ()" if axes else ""
    model = model_of(
        f"g (float[3] a) => (da) {{ {constant} s = Sin(a) y = ReduceSum <keepdims = 0> (s{axes}) "
        'da = Gradient <xs = ["a"], y = "y"> (a) }',
        opset=opset,
        ir_version=8,
    )
    found = lowered(model)({"a": A.astype(np.float32)})["da"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.cos(A), rtol=1e-6)


def test_through_control_flow_at_other_values() -> None:
    """The bodies are copied along, with what they capture."""
    model = model_of(
        """
        g (bool c, double[3] a, double[3] b) => (y, da) {
            s = If (c) <
                then_branch = t () => (u) { u = Sin(a) },
                else_branch = e () => (v) { w = Mul(a, a)  k = Constant <value = double {3.0}> ()  v = Mul(w, k) }
            >
            y = ReduceSum <keepdims = 0> (s)
            da = Gradient <xs = ["a"], zs = ["c"], y = "y"> (b, c)
        }"""
    )
    run = lowered(model)
    for c, expected in ((True, np.cos(B)), (False, 6 * B)):
        np.testing.assert_allclose(run({"c": np.array(c), "a": A, "b": B})["da"], expected)


# --- random operators ------------------------------------------------------------------------------

RANDOM = """
g (float[1000] a, float[1000] b) => (y, m, da) {{
    r = Constant <value = float {{0.25}}> ()
    t = Constant <value = bool {{1}}> ()
    d, m = Dropout(a, r, t)
    noise = RandomNormalLike(a)
    s = Add(d, noise)
    q = Mul(s, s)
    y = ReduceSum <keepdims = 0> (q)
    da = Gradient <xs = ["a"], y = "y"> ({at})
}}"""


def test_the_draw_is_the_same() -> None:
    model = model_of(RANDOM.format(at="a").replace("(y, m, da)", "(s, m, da)"), opset=21)  # onnxruntime has no newer
    result = onnxgrad.lower_gradients(model)
    assert operators(result)["Dropout"] == operators(result)["RandomNormalLike"] == 1
    found = Runner(result, only_runtime=True)({"a": np.ones(1000, np.float32), "b": np.ones(1000, np.float32)})
    assert 150 < np.sum(~found["m"]) < 350
    np.testing.assert_allclose(found["da"], 2 * found["s"] * found["m"] / 0.75, rtol=1e-5)


def test_no_second_draw() -> None:
    with pytest.raises(
        onnxgrad.NotDifferentiableError, match=r"RandomNormalLike on the way to 'y' .node 'RandomNormalLike'."
    ):
        onnxgrad.lower_gradients(model_of(RANDOM.format(at="b")))


# --- nothing to be had -----------------------------------------------------------------------------


def test_zero_is_said() -> None:
    model = simple('y = ReduceSum <keepdims = 0> (a) db = Gradient <xs = ["b"], zs = ["a"], y = "y"> (b, a)', "db")
    with pytest.warns(onnxgrad.DisconnectedWarning, match="'y' does not depend on 'b'"):
        result = onnxgrad.lower_gradients(model)
    np.testing.assert_array_equal(Runner(result)({"a": A, "b": B})["db"], np.zeros(3))


def test_nothing_to_do() -> None:
    model = simple("y = Add(a, b)", "y")
    again = onnxgrad.lower_gradients(copy.deepcopy(model))
    assert operators(again) == {"Add": 1}


Y = "c = Add(a, b) y = ReduceSum <keepdims = 0> (c)"
CIRCLE = "c = Add(d, b) y = ReduceSum(c)"
MALFORMED, TYPE, UNKNOWN = onnxgrad.ModelReadError, onnxgrad.TensorTypeError, onnxgrad.UnknownNameError
#: The graph, the node, and the error with its words.
BAD: dict[str, tuple[str, str, type[Exception], str]] = {
    "unknown-x": (Y, 'd = Gradient <xs = ["aa"], y = "y"> (a)', UNKNOWN, "'aa' is not a tensor .* 'n'"),
    "unknown-z": (Y, 'd = Gradient <xs = ["a"], zs = ["q"], y = "y"> (a, b)', UNKNOWN, "'q' is not"),
    "unknown-y": (Y, 'd = Gradient <xs = ["a"], y = "yy"> (a)', UNKNOWN, "did you mean 'y'"),
    "no-xs": (Y, 'd = Gradient <y = "y"> (a)', MALFORMED, "needs the attributes `xs`"),
    "no-y": (Y, 'd = Gradient <xs = ["a"]> (a)', MALFORMED, "and `y`, a name"),
    "y-is-a-number": (Y, 'd = Gradient <xs = ["a"], y = 3> (a)', MALFORMED, "and `y`, a name"),
    "few-inputs": (Y, 'd = Gradient <xs = ["a", "b"], y = "y"> (a)', MALFORMED, "1 inputs for the 2 tensors"),
    "many-inputs": (Y, 'd = Gradient <xs = ["a"], y = "y"> (a, b)', MALFORMED, "2 inputs for the 1 tensors"),
    "no-input": (Y, 'd = Gradient <xs = ["a", "b"], y = "y"> (a, "")', MALFORMED, "an input is left out"),
    "many-outputs": (Y, 'd, e = Gradient <xs = ["a"], y = "y"> (a)', MALFORMED, "2 outputs for the 1 tensors"),
    "twice": (Y, 'd = Gradient <xs = ["a", "a"], y = "y"> (a, b)', MALFORMED, "name a tensor twice"),
    "both": (Y, 'd = Gradient <xs = ["a"], zs = ["a"], y = "y"> (a, b)', MALFORMED, "name a tensor twice"),
    "dependent": (Y, 'd, e = Gradient <xs = ["a", "c"], y = "y"> (a, c)', MALFORMED, "'c', which is computed from 'a'"),
    "circle": (CIRCLE, 'd = Gradient <xs = ["a"], y = "y"> (a)', MALFORMED, "depends on its own output"),
    "wide-y": (Y, 'd = Gradient <xs = ["a"], y = "c"> (a)', TYPE, r"'c', which has shape \[3\]"),
    "integer-y": (f"{Y} s = Size(a)", 'd = Gradient <xs = ["a"], y = "s"> (a)', TYPE, "'s', of type int64"),
    "integer-x": (f"{Y} s = Shape(a)", 'd = Gradient <xs = ["s"], y = "y"> (s)', TYPE, "'s', of type int64"),
    "other-rank": (Y, 'd = Gradient <xs = ["a"], y = "y"> (y)', TYPE, "'y' in the place of 'a'"),
    "other-type": (f"{Y} f = Cast <to = 1> (a)", 'd = Gradient <xs = ["a"], y = "y"> (f)', TYPE, "'f' in the place"),
    "no-rule": (
        "f = BitCast <to = 11> (a) y = ReduceSum <keepdims = 0> (f)",
        'd = Gradient <xs = ["a"], y = "y"> (a)',
        onnxgrad.NotDifferentiableError,
        "BitCast",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("transform", [onnxgrad.lower_gradients, onnxgrad.jacobian])
def test_bad_nodes(name: str, transform: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    nodes, bad, error, words = BAD[name]
    model = model_of(f"g (double[3] a, double[3] b) => (d) {{ {nodes} {bad} }}", opset=26, ir_version=11)
    next(node for node in model.graph.node if node.op_type == "Gradient").name = "n"
    with pytest.raises(error, match=words):
        transform(model)


def test_in_a_body() -> None:
    model = model_of(
        """
        g (bool c, double[3] a) => (d) {
            d = If (c) <
                then_branch = t () => (u) { y = ReduceSum <keepdims = 0> (a)  u = Gradient <xs = ["a"], y = "y"> (a) },
                else_branch = e () => (v) { v = Identity(a) }
            >
        }"""
    )
    with pytest.raises(onnxgrad.NotDifferentiableError, match="in the body of another node; put it in the graph"):
        onnxgrad.lower_gradients(model)
