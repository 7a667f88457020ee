"""A loaded model, called for its values and its derivatives, against the formulas by hand."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
from onnx import helper
from runtime_models import SAME, Net, diagonal, model, two_by_two, value

import onnxgrad

RNG = np.random.default_rng(1)
X = RNG.normal(size=(5, 4))
A, B = RNG.normal(size=(2, 3, 2))


@pytest.fixture(scope="module")
def net() -> Net:
    return Net(4, 6, 3)


@pytest.fixture(scope="module")
def f(net: Net) -> onnxgrad.Function:
    return onnxgrad.load(net.bytes)


@pytest.fixture(scope="module")
def g() -> onnxgrad.Function:
    return onnxgrad.load(two_by_two())


# --- one input, one output ------------------------------------------------------------------------


def test_a_call_gives_the_values(f: onnxgrad.Function, net: Net) -> None:
    np.testing.assert_allclose(f(X), net(X), **SAME)


@pytest.mark.parametrize("feed", [(X,), ({"x": X},), (X.tolist(),)], ids=["array", "dictionary", "list"])
def test_all_forms_of_arguments_mean_the_same(f: onnxgrad.Function, feed: tuple[object]) -> None:
    np.testing.assert_array_equal(f.jacobian(*feed), f.jacobian(x=X))
    np.testing.assert_array_equal(f(*feed), f(x=X))


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_jacobian(f: onnxgrad.Function, net: Net, mode: str) -> None:
    np.testing.assert_allclose(f.jacobian(X, mode=mode), net.jacobian(X), **SAME)


def test_jacobian_in_full_holds_that_of_each_sample_on_its_diagonal(f: onnxgrad.Function, net: Net) -> None:
    full = f.jacobian(X, batched=False)
    assert full.shape == (5, 3, 5, 4)
    np.testing.assert_allclose(full, np.einsum("nyx,nm->nymx", net.jacobian(X), np.eye(5)), **SAME)


def test_value_and_jacobian(f: onnxgrad.Function, net: Net) -> None:
    y, jacobian = f.value_and_jacobian(X)
    np.testing.assert_allclose(y, net(X), **SAME)
    np.testing.assert_allclose(jacobian, net.jacobian(X), **SAME)


@pytest.mark.parametrize("index", [0, 2, -1])
def test_gradient_of_an_element_is_a_row_of_the_jacobian(f: onnxgrad.Function, net: Net, index: int) -> None:
    np.testing.assert_allclose(f.gradient(X, index=index), net.jacobian(X)[:, index], **SAME)


def test_gradient_of_the_largest_element(f: onnxgrad.Function, net: Net) -> None:
    y, gradient = f.value_and_gradient(X, index="max")
    np.testing.assert_allclose(y, net(X), **SAME)
    np.testing.assert_allclose(gradient, net.jacobian(X)[np.arange(5), net(X).argmax(1)], **SAME)


def test_products_with_the_jacobian(f: onnxgrad.Function, net: Net) -> None:
    ct, t, jacobian = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 4)), net.jacobian(X)
    np.testing.assert_allclose(f.vjp(X, ct), np.einsum("ny,nyx->nx", ct, jacobian), **SAME)
    np.testing.assert_allclose(f.jvp(X, t), np.einsum("nyx,nx->ny", jacobian, t), **SAME)
    np.testing.assert_array_equal(f.vjp(x=X, cotangent=ct), f.vjp(X, ct))
    np.testing.assert_array_equal(f.jvp({"x": X}, tangent={"x": t}), f.jvp(X, t))


def test_products_in_many_directions_at_once(f: onnxgrad.Function, net: Net) -> None:
    cts, ts, jacobian = RNG.normal(size=(7, 5, 3)), RNG.normal(size=(7, 5, 4)), net.jacobian(X)
    np.testing.assert_allclose(f.vjp(X, cts), np.einsum("sny,nyx->snx", cts, jacobian), **SAME)
    np.testing.assert_allclose(f.jvp(X, ts), np.einsum("nyx,snx->sny", jacobian, ts), **SAME)


def test_hessian_and_its_products(f: onnxgrad.Function, net: Net) -> None:
    """``∂²y_k/∂x∂x = Σ_j W1_jk · (-2 t_j (1 - t_j²)) · w_j w_jᵀ`` with ``t = tanh(x W0 + b0)``."""
    t = np.tanh(X @ net.weights[0] + net.biases[0])
    expected = np.einsum("nj,ij,lj->nil", net.weights[1][:, 1] * -2 * t * (1 - t**2), net.weights[0], net.weights[0])
    np.testing.assert_allclose(f.hessian(X, index=1), expected, **SAME)
    v = RNG.normal(size=X.shape)
    np.testing.assert_allclose(f.hvp(X, v, index=1), np.einsum("nil,nl->ni", expected, v), **SAME)
    np.testing.assert_array_equal(f.hvp(X, vector=v, index=1), f.hvp(X, v, index=1))


def test_by_weights_and_of_inner_values(f: onnxgrad.Function, net: Net) -> None:
    h = np.tanh(X @ net.weights[0] + net.biases[0])
    expected = np.einsum("nj,yk->nyjk", h, np.eye(3))
    np.testing.assert_allclose(f.jacobian(X, wrt="W1"), expected, **SAME)
    np.testing.assert_allclose(f.jacobian(X, of="h0"), (1 - h**2)[:, :, None] * net.weights[0].T, **SAME)
    np.testing.assert_allclose(f.jacobian(X, wrt="h0"), np.broadcast_to(net.weights[1].T, (5, 3, 6)), **SAME)


@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_and_one_row(f: onnxgrad.Function, net: Net, rows: int) -> None:
    x = X[:rows]
    assert f(x).shape == (rows, 3)
    np.testing.assert_allclose(f.jacobian(x), net.jacobian(x), **SAME)
    assert f.hessian(x, index=0).shape == (rows, 4, 4)
    assert f.vjp(x, np.ones((rows, 3))).shape == (rows, 4)
    assert f.vjp(x, np.ones((2, rows, 3))).shape == (2, rows, 4)
    assert f.jacobian(x, batched=False).shape == (rows, 3, rows, 4)


def test_nan_stays_in_its_row(f: onnxgrad.Function, net: Net) -> None:
    x = X.copy()
    x[2, 1] = np.nan
    jacobian = f.jacobian(x)
    assert np.isnan(jacobian[2]).any()
    np.testing.assert_allclose(np.delete(jacobian, 2, 0), np.delete(net.jacobian(X), 2, 0), **SAME)


def test_results_have_the_type_of_the_model() -> None:
    net = Net(4, 6, 3, dtype=np.float32)
    f = onnxgrad.load(net.proto)
    assert {f(X).dtype, f.jacobian(X).dtype, f.vjp(X, np.ones((5, 3))).dtype} == {np.dtype(np.float32)}
    np.testing.assert_allclose(f.jacobian(X), net.jacobian(X), rtol=1e-5, atol=1e-6)


def test_a_batch_of_fixed_size() -> None:
    net = Net(4, 6, 3, batch=5)
    f = onnxgrad.load(net.proto)
    assert f.jacobian(X).shape == (5, 3, 5, 4)
    np.testing.assert_allclose(f.jacobian(X, batched=True), net.jacobian(X), **SAME)


# --- several inputs and outputs -------------------------------------------------------------------


def test_several_are_dictionaries_by_name(g: onnxgrad.Function) -> None:
    results = g(A, B)
    assert list(results) == ["s", "p"]
    np.testing.assert_allclose(results["s"], A * np.sin(B), **SAME)
    np.testing.assert_array_equal(g(b=B, a=A)["p"], results["p"])
    np.testing.assert_array_equal(g(A, b=B)["p"], results["p"])
    np.testing.assert_array_equal(g({"b": B, "a": A})["p"], results["p"])


JACOBIANS = {
    ("s", "a"): diagonal(np.sin(B)),
    ("s", "b"): diagonal(A * np.cos(B)),
    ("p", "a"): diagonal(np.ones_like(A)),
    ("p", "b"): diagonal(2 * B),
}


def test_jacobians_are_found_by_output_and_then_input(g: onnxgrad.Function) -> None:
    found = g.jacobian(A, B)
    for (y, x), expected in JACOBIANS.items():
        np.testing.assert_allclose(found[y][x], expected, **SAME)
        np.testing.assert_allclose(g.jacobian(A, B, of=y)[x], expected, **SAME)
        np.testing.assert_allclose(g.jacobian(A, B, wrt=x)[y], expected, **SAME)
        np.testing.assert_allclose(g.jacobian(A, B, of=[y], wrt=[x]), expected, **SAME)
    values, again = g.value_and_jacobian(A, B)
    assert list(values) == ["s", "p"]
    np.testing.assert_array_equal(again["p"]["b"], found["p"]["b"])


def test_products_are_found_by_the_end_at_which_they_arrive(g: onnxgrad.Function) -> None:
    cts = {"s": RNG.normal(size=(3, 2)), "p": RNG.normal(size=(3, 2))}
    found = g.vjp(A, B, cts)
    np.testing.assert_allclose(found["a"], cts["s"] * np.sin(B) + cts["p"], **SAME)
    np.testing.assert_allclose(found["b"], cts["s"] * A * np.cos(B) + cts["p"] * 2 * B, **SAME)
    ts = {"a": RNG.normal(size=(3, 2)), "b": RNG.normal(size=(3, 2))}
    found = g.jvp({"a": A, "b": B}, ts)
    np.testing.assert_allclose(found["s"], ts["a"] * np.sin(B) + ts["b"] * A * np.cos(B), **SAME)


def test_missing_directions_are_zero(g: onnxgrad.Function) -> None:
    ct, cts = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 3, 2))
    np.testing.assert_allclose(g.vjp(A, B, {"s": ct})["a"], ct * np.sin(B), **SAME)
    np.testing.assert_allclose(g.vjp(A, B, {"s": cts})["a"], cts * np.sin(B), **SAME)
    np.testing.assert_allclose(g.jvp(A, B, {"b": ct})["p"], 2 * B * ct, **SAME)
    np.testing.assert_allclose(g.vjp(A, B, {})["a"], np.zeros((3, 2)), **SAME)


def test_hessians_are_found_by_both_inputs() -> None:
    """``y = Σ a sin b`` over a row."""
    nodes = [
        helper.make_node("Sin", ["b"], ["sin"]),
        helper.make_node("Mul", ["a", "sin"], ["product"]),
        helper.make_node("ReduceSum", ["product", "axes"], ["y"], keepdims=1),
    ]
    inputs = [value("a", ["N", 2]), value("b", ["N", 2])]
    f = onnxgrad.load(model(nodes, inputs, [value("y", ["N", 1])], {"axes": np.array([1])}))
    found = f.hessian(A, B)
    np.testing.assert_allclose(found["a"]["b"], diagonal(np.cos(B)), **SAME)
    np.testing.assert_allclose(found["b"]["b"], diagonal(-A * np.sin(B)), **SAME)
    np.testing.assert_allclose(found["a"]["a"], np.zeros((3, 2, 2)), **SAME)
    np.testing.assert_allclose(f.hvp(A, B, {"a": A})["b"], np.cos(B) * A, **SAME)


def test_inputs_called_like_options_go_in_a_dictionary() -> None:
    nodes = [helper.make_node("Mul", ["of", "tangent"], ["y"])]
    f = onnxgrad.load(model(nodes, [value("of", ["N", 2]), value("tangent", ["N", 2])], [value("y", ["N", 2])]))
    found = f.jacobian({"of": A, "tangent": B}, wrt="tangent")
    np.testing.assert_allclose(found, diagonal(A), **SAME)
    np.testing.assert_allclose(f.jvp({"of": A, "tangent": B}, {"of": A}), A * B, **SAME)


def test_integers_beside_numbers_are_fed_but_not_differentiated_by() -> None:
    nodes = [helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)]
    f = onnxgrad.load(model(nodes, [value("x", ["N", 4]), value("i", ["N", 1], np.int64)], [value("y", ["N", 1])]))
    rows = np.array([[3], [0], [1], [1], [2]])
    np.testing.assert_array_equal(f.jacobian(X, rows)[:, 0], np.eye(4)[rows[:, 0]])


# --- kept, refused --------------------------------------------------------------------------------


def test_what_is_asked_again_is_not_made_again(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = onnxgrad.runtime.program.open_model
    monkeypatch.setattr(onnxgrad.runtime.program, "open_model", lambda *args: made.append(args) or make(*args))
    f = onnxgrad.load(net.proto)
    for _ in range(2):
        f.jacobian(X)
        f.jacobian(X, of=["y"], wrt=("x",))
        f.jacobian(X, of="y", wrt="x")
    assert len(made) == 2  # None, and y by x


def test_a_plain_call_runs_the_plain_model(net: Net) -> None:
    f = onnxgrad.load(net.bytes)
    f.jacobian(X)
    f(X)
    assert f._plain is not None
    assert f._plain._session._session.get_outputs()[0].name == "y"
    assert len(f._plain._session._session.get_outputs()) == 1


def test_a_zero_derivative_is_told_where_it_is_asked_for() -> None:
    f = onnxgrad.load(model([helper.make_node("Floor", ["x"], ["y"])], [value("x", ["N", 4])], [value("y", ["N", 4])]))
    with pytest.warns(onnxgrad.DisconnectedWarning, match="only through steps") as found:
        jacobian = f.jacobian(X)
    assert not jacobian.any()
    assert jacobian.shape == (5, 4, 4)
    assert found[0].filename == __file__


def test_errors_of_the_transforms_come_through(f: onnxgrad.Function) -> None:
    with pytest.raises(onnxgrad.UnknownNameError, match="'h0'"):
        f.jacobian(X, of="h_0")
    with pytest.raises(onnxgrad.TensorTypeError, match="pass index="):
        f.gradient(X)
    softmax = model([helper.make_node("Softmax", ["x"], ["y"], axis=0)], [value("x", ["N", 4])], [value("y", ["N", 4])])
    with pytest.raises(onnxgrad.MixedSamplesError, match="Softmax"):
        onnxgrad.load(softmax).jacobian(X)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"batched": "yes"}, "batched='yes'"), ({"batched": None}, "batched=None"), ({"mode": "backward"}, "'reverse'")],
)
def test_options_that_do_not_exist(f: onnxgrad.Function, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        f.jacobian(X, **options)  # type: ignore[arg-type]


def test_its_text_says_what_it_takes_and_returns(g: onnxgrad.Function) -> None:
    assert repr(g) == "Function(a: float64[N, 2], b: float64[N, 2] -> s: float64[N, 2], p: float64[N, 2])"
    assert [port.name for port in g.inputs] == ["a", "b"]
    assert [port.name for port in g.outputs] == ["s", "p"]


# --- files ----------------------------------------------------------------------------------------


def test_save_writes_what_is_asked_for(f: onnxgrad.Function, net: Net, tmp_path) -> None:
    path = tmp_path / "with.onnx"
    f.save(path, jacobian=True, gradient=[{"index": 0}, {"index": 2}], vjp={"wrt": "x"})
    kinds = [(d.kind, d.index) for d in onnxgrad.derivatives(path)]
    assert kinds == [("jacobian", None), ("gradient", 0), ("gradient", 2), ("vjp", None)]
    found = onnxgrad.load(path)(X, np.ones((5, 3)))
    np.testing.assert_allclose(found["y"], net(X), **SAME)
    np.testing.assert_allclose(found["jac_y_x"], net.jacobian(X), **SAME)
    np.testing.assert_allclose(found["adj_x"], net.jacobian(X).sum(1), **SAME)


def test_save_without_derivatives_writes_the_model(f: onnxgrad.Function, net: Net, tmp_path) -> None:
    f.save(tmp_path / "plain.onnx")
    assert [n.op_type for n in onnx.load(tmp_path / "plain.onnx").graph.node] == [
        n.op_type for n in net.proto.graph.node
    ]
    f.save(tmp_path / "only.onnx", jacobian=True, keep_outputs=False)
    assert [o.name for o in onnx.load(tmp_path / "only.onnx").graph.output] == ["jac_y_x"]


def test_save_leaves_nothing_behind_when_it_fails(f: onnxgrad.Function, tmp_path) -> None:
    with pytest.raises(onnxgrad.UnknownNameError):
        f.save(tmp_path / "a.onnx", jacobian={"of": "nothing"})
    with pytest.raises(TypeError, match="jacobian has no option 'off', only of, wrt, batched, mode"):
        f.save(tmp_path / "a.onnx", jacobian={"off": "y"})
    with pytest.raises(onnxgrad.ModelWriteError, match="no folder"):
        f.save(tmp_path / "nowhere" / "a.onnx", jacobian=True)
    assert list(tmp_path.iterdir()) == []


def test_save_does_not_overwrite_weights_in_use(net: Net, tmp_path) -> None:
    onnx.save(net.proto, tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    f = onnxgrad.load(tmp_path / "a.onnx")
    with pytest.raises(onnxgrad.ModelWriteError, match="goes on using"):
        f.save(tmp_path / "b.onnx", jacobian=True, external_data="a.data")
    f.save(tmp_path / "b.onnx", jacobian=True, external_data="b.data")
    np.testing.assert_allclose(onnxgrad.load(tmp_path / "b.onnx")(X)["jac_y_x"], net.jacobian(X), **SAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(f.jacobian(X), net.jacobian(X), **SAME)
