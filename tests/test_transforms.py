"""The transforms as a user meets them: names, shapes, layouts, order of outputs, metadata, second order."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxgrad

RNG = np.random.default_rng(7)
#: float64 throughout; what differs is the order of a few sums.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def mlp(sizes: list[int], batch: str | int = "N", dtype: type = np.float64, last: str = "Identity") -> onnx.ModelProto:
    """Return a tanh network ``x -> y`` with weights ``W0, b0, …`` and layers ``h0, …``."""
    rng = np.random.default_rng(0)
    nodes, weights, at = [], [], "x"
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        weights.append(numpy_helper.from_array((rng.normal(size=(a, b)) / a**0.5).astype(dtype), f"W{i}"))
        weights.append(numpy_helper.from_array(rng.normal(size=b).astype(dtype), f"b{i}"))
        end = i == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [at, f"W{i}", f"b{i}"], [f"z{i}"]))
        at = "y" if end else f"h{i}"
        nodes.append(helper.make_node(last if end else "Tanh", [f"z{i}"], [at]))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", kind, [batch, sizes[0]])],
        [helper.make_tensor_value_info("y", kind, [batch, sizes[-1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def jacobian_by_hand(model: onnx.ModelProto, x: np.ndarray, layers: int) -> np.ndarray:
    """The chain rule for `mlp`, sample by sample: ``(N, y, x)``."""
    w, result, h = weights(model), [], x
    for i in range(layers):
        z = h @ w[f"W{i}"] + w[f"b{i}"]
        local = np.broadcast_to(w[f"W{i}"].T, (len(x), *w[f"W{i}"].T.shape))
        if i < layers - 1:
            h = np.tanh(z)
            local = (1 - h**2)[:, :, None] * local
        result.append(local)
    total = result[0]
    for local in result[1:]:
        total = local @ total
    return total


X = RNG.normal(size=(6, 3))


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_jacobian_per_sample(mode: str) -> None:
    model = mlp([3, 5, 4, 2])
    found = run(onnxgrad.jacobian(model, mode=mode), x=X)
    assert list(found) == ["y", "jac_y_x"]
    np.testing.assert_allclose(found["jac_y_x"], jacobian_by_hand(model, X, 3), **EXACT)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("batch", ["N", 6])
def test_jacobian_in_full(mode: str, batch: str | int) -> None:
    model = mlp([3, 5, 2], batch)
    found = run(onnxgrad.jacobian(model, batched=False, mode=mode), x=X)
    expected = np.einsum("nm,nij->nimj", np.eye(6), jacobian_by_hand(model, X, 2))
    np.testing.assert_allclose(found["jac_y_x"], expected, **EXACT)


def test_fixed_batch_is_full_unless_per_sample_is_asked_for() -> None:
    model = mlp([3, 5, 2], 6)
    assert run(onnxgrad.jacobian(model), x=X)["jac_y_x"].shape == (6, 2, 6, 3)
    found = run(onnxgrad.jacobian(model, batched=True), x=X)["jac_y_x"]
    np.testing.assert_allclose(found, jacobian_by_hand(model, X, 2), **EXACT)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_any_number_of_samples(n: int) -> None:
    model = mlp([3, 5, 2])
    found = run(onnxgrad.jacobian(model), x=X[:n])["jac_y_x"]
    np.testing.assert_allclose(found, jacobian_by_hand(model, X, 2)[:n], **EXACT)


def test_jacobian_adds_few_nodes() -> None:
    """The Jacobian of a three-layer tanh network is as short as a person would write it (at most 15 nodes more)."""
    model = mlp([3, 5, 4, 2])
    assert len(onnxgrad.jacobian(model, mode="reverse").graph.node) - len(model.graph.node) <= 15


def test_mode_is_chosen_by_counted_operations() -> None:
    wide_out, wide_in = mlp([3, 32, 32, 32]), mlp([32, 32, 32, 3])
    assert onnxgrad.derivatives(onnxgrad.jacobian(wide_out))[0].mode == "forward"
    assert onnxgrad.derivatives(onnxgrad.jacobian(wide_in))[0].mode == "reverse"


@pytest.mark.parametrize("batched", [True, False])
def test_narrow_waist_is_found(batched: bool) -> None:
    """An autoencoder's Jacobian is the product of those of its halves."""
    model = mlp([40, 10, 2, 10, 40], 3 if not batched else "N")
    x = RNG.normal(size=(3, 40))
    augmented = onnxgrad.jacobian(model, batched=batched)
    assert onnxgrad.derivatives(augmented)[0].mode == "mixed"
    expected = jacobian_by_hand(model, x, 4)
    if not batched:
        expected = np.einsum("nm,nij->nimj", np.eye(3), expected)
    np.testing.assert_allclose(run(augmented, x=x)["jac_y_x"], expected, **EXACT)


def test_weights_and_inner_values() -> None:
    model = mlp([3, 5, 2])
    found = run(onnxgrad.jacobian(model, wrt=["W1", "b0", "h0"]), x=X)
    w = weights(model)
    h = np.tanh(X @ w["W0"] + w["b0"])
    np.testing.assert_allclose(found["jac_y_W1"], np.einsum("nk,ij->nikj", h, np.eye(2)), **EXACT)
    expected = np.einsum("ki,nk->nik", w["W1"], 1 - h**2)
    np.testing.assert_allclose(found["jac_y_b0"], expected, **EXACT)
    np.testing.assert_allclose(found["jac_y_h0"], np.broadcast_to(w["W1"].T, (6, 2, 5)), **EXACT)
    inner = run(onnxgrad.jacobian(model, of="h0"), x=X)
    np.testing.assert_allclose(inner["jac_h0_x"], (1 - h**2)[:, :, None] * w["W0"].T, **EXACT)


def test_vjp_and_jvp() -> None:
    model = mlp([3, 5, 2])
    jac = jacobian_by_hand(model, X, 2)
    ct, t = RNG.normal(size=(6, 2)), RNG.normal(size=(6, 3))
    back = run(onnxgrad.vjp(model), x=X, adj_y=ct)
    ahead = run(onnxgrad.jvp(model), x=X, fwd_x=t)
    assert list(back) == ["y", "adj_x"]
    assert list(ahead) == ["y", "fwd_y"]
    np.testing.assert_allclose(back["adj_x"], np.einsum("nij,ni->nj", jac, ct), **EXACT)
    np.testing.assert_allclose(ahead["fwd_y"], np.einsum("nij,nj->ni", jac, t), **EXACT)


def test_several_seeds_in_one_run() -> None:
    model = mlp([3, 5, 2])
    jac = jacobian_by_hand(model, X, 2)
    ct = RNG.normal(size=(4, 6, 2))
    found = run(onnxgrad.vjp(model, seeds="s"), x=X, adj_y=ct)
    np.testing.assert_allclose(found["adj_x"], np.einsum("nij,sni->snj", jac, ct), **EXACT)


def test_primal_outputs_are_unchanged_bit_for_bit() -> None:
    model = mlp([3, 5, 2])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    both = [model, onnxgrad.jacobian(model)]
    sessions = [ort.InferenceSession(m.SerializeToString(), options) for m in both]
    plain, augmented = (s.run(["y"], {"x": X})[0] for s in sessions)
    np.testing.assert_array_equal(plain, augmented)


# --- gradients -------------------------------------------------------------------------------


def test_gradient_of_one_scalar_per_sample() -> None:
    model = mlp([3, 5, 1])
    found = run(onnxgrad.gradient(model), x=X)
    np.testing.assert_allclose(found["grad_y_x"], jacobian_by_hand(model, X, 2)[:, 0], **EXACT)


def test_gradient_of_a_picked_element() -> None:
    model = mlp([3, 5, 4])
    jac = jacobian_by_hand(model, X, 2)
    np.testing.assert_allclose(run(onnxgrad.gradient(model, index=2), x=X)["grad_y_x"], jac[:, 2], **EXACT)
    np.testing.assert_allclose(run(onnxgrad.gradient(model, index=[1]), x=X)["grad_y_x"], jac[:, 1], **EXACT)
    found = run(onnxgrad.gradient(model, index="max"), x=X)
    best = found["y"].argmax(axis=1)
    assert len(set(best)) > 1, "the test needs different classes"
    np.testing.assert_allclose(found["grad_y_x"], jac[np.arange(6), best], **EXACT)


def test_gradient_of_a_wider_output_needs_an_index() -> None:
    with pytest.raises(onnxgrad.TensorTypeError, match=r"'y' has 4 elements per sample .* index="):
        onnxgrad.gradient(mlp([3, 5, 4]))
    with pytest.raises(onnxgrad.TensorTypeError, match=r"index=7 does not pick one element of 'y'"):
        onnxgrad.gradient(mlp([3, 5, 4]), index=7)


# --- second order ----------------------------------------------------------------------------


def hessian_by_differences(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Central differences of the gradient by hand; step 1e-5: off by 1e-10 (truncation) and 1e-11 (rounding)."""
    columns = []
    for j in range(x.shape[1]):
        step = 1e-5 * np.eye(x.shape[1])[j]
        columns.append((jacobian_by_hand(model, x + step, 2)[:, 0] - jacobian_by_hand(model, x - step, 2)[:, 0]) / 2e-5)
    return np.stack(columns, axis=-1)


def test_hessian_per_sample() -> None:
    model = mlp([3, 5, 1])
    found = run(onnxgrad.hessian(model), x=X)
    assert list(found) == ["y", "hess_y_x_x"]
    np.testing.assert_allclose(found["hess_y_x_x"], hessian_by_differences(model, X), atol=1e-8)


def test_hessian_vector_product() -> None:
    model = mlp([3, 5, 1])
    v = RNG.normal(size=X.shape)
    found = run(onnxgrad.hvp(model), x=X, fwd_x=v)
    expected = np.einsum("nij,nj->ni", run(onnxgrad.hessian(model), x=X)["hess_y_x_x"], v)
    np.testing.assert_allclose(found["hvp_y_x"], expected, **EXACT)


def test_hessian_equals_nested_transforms() -> None:
    model = mlp([3, 5, 1])
    hessian = run(onnxgrad.hessian(model), x=X)["hess_y_x_x"]
    nested = run(onnxgrad.jacobian(onnxgrad.gradient(model), of="grad_y_x"), x=X)["jac_grad_y_x_x"]
    np.testing.assert_allclose(nested, hessian, **EXACT)
    v = RNG.normal(size=X.shape)
    back = onnxgrad.vjp(model)
    over = run(onnxgrad.jvp(back, of="adj_x", wrt="x"), x=X, adj_y=np.ones((6, 1)), fwd_x=v)
    np.testing.assert_allclose(over["fwd_adj_x"], np.einsum("nij,nj->ni", hessian, v), **EXACT)


def test_mixed_second_derivatives() -> None:
    model = mlp([3, 5, 1], batch=1)
    found = run(onnxgrad.hessian(model, wrt=["x", "b0"]), x=X[:1])
    assert found["hess_y_b0_x"].shape == (5, 1, 3)
    np.testing.assert_allclose(found["hess_y_b0_x"], found["hess_y_x_b0"].transpose(2, 0, 1), **EXACT)
    w = weights(model)
    h = np.tanh(X[0] @ w["W0"] + w["b0"])
    expected = np.diag(-2 * h * (1 - h**2) * w["W1"][:, 0])
    np.testing.assert_allclose(found["hess_y_b0_b0"], expected, **EXACT)


def test_third_order() -> None:
    model = mlp([2, 3, 1], batch=1)
    x = X[:1, :2]
    third = onnxgrad.jacobian(onnxgrad.hessian(model), of="hess_y_x_x")
    found = run(third, x=x)["jac_hess_y_x_x_x"].reshape(2, 2, 2)
    w = weights(model)
    h = np.tanh(x[0] @ w["W0"] + w["b0"])
    curve = (1 - h**2) * (6 * h**2 - 2) * w["W1"][:, 0]
    np.testing.assert_allclose(found, np.einsum("k,ak,bk,ck->abc", curve, w["W0"], w["W0"], w["W0"]), **EXACT)


# --- outputs, names, metadata ------------------------------------------------------------------


def test_outputs_to_keep() -> None:
    model = onnxgrad.gradient(mlp([3, 5, 1]))
    names = [o.name for o in onnxgrad.vjp(model, of="y", keep_outputs=False).graph.output]
    assert names == ["adj_x"]
    kept = onnxgrad.vjp(model, of="y", keep_outputs=["grad_y_x"])
    assert [o.name for o in kept.graph.output] == ["grad_y_x", "adj_x"]
    with pytest.raises(onnxgrad.UnknownNameError, match="did you mean 'grad_y_x'"):
        onnxgrad.vjp(model, of="y", keep_outputs=["grad_y"])


def test_what_leads_to_no_output_is_taken_out() -> None:
    """The last layer of the network is not needed for its own derivative."""
    model = mlp([3, 5, 1])
    kinds = [node.output[0] for node in onnxgrad.gradient(model, keep_outputs=False).graph.node]
    assert "h0" in kinds
    assert not {"y", "z1"} & set(kinds)
    assert "y" in [node.output[0] for node in onnxgrad.gradient(model).graph.node]


def test_scores_behind_a_zip_map() -> None:
    model = parsed(
        """g (float[N,3] x) => (float[N,3] z) { s = Softmax(x)
        z = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1, 2]>(s) }"""
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    model.graph.output[0].CopyFrom(
        helper.make_value_info(
            "z",
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(
                    onnx.TensorProto.INT64, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
                )
            ),
        )
    )
    augmented = onnxgrad.jacobian(model)
    assert [o.name for o in augmented.graph.output] == ["z", "jac_s_x"]


def test_taken_names_get_a_suffix() -> None:
    once = onnxgrad.jacobian(mlp([3, 2]))
    twice = onnxgrad.jacobian(once, of="y")
    assert [o.name for o in twice.graph.output] == ["y", "jac_y_x", "jac_y_x_2"]
    assert [d.output for d in onnxgrad.derivatives(twice)] == ["jac_y_x", "jac_y_x_2"]


def test_metadata() -> None:
    (jac,) = onnxgrad.derivatives(onnxgrad.jacobian(mlp([3, 2])))
    assert (jac.kind, jac.of, jac.wrt, jac.output, jac.seed, jac.batched) == (
        "jacobian",
        "y",
        "x",
        "jac_y_x",
        None,
        True,
    )
    (back,) = onnxgrad.derivatives(onnxgrad.vjp(mlp([3, 2])))
    assert (back.kind, back.seed, back.output, back.mode) == ("vjp", "adj_y", "adj_x", "reverse")
    (hess,) = onnxgrad.derivatives(onnxgrad.hessian(mlp([3, 4, 1]), index=0))
    assert (hess.wrt, hess.index) == (("x", "x"), 0)


def test_unconnected_pair_is_zero_and_says_so() -> None:
    model = mlp([3, 5, 2])
    with pytest.warns(onnxgrad.DisconnectedWarning, match="'h0' does not depend on 'W1'"):
        found = onnxgrad.jacobian(model, of="h0", wrt="W1")
    (item,) = onnxgrad.derivatives(found)
    assert item.zero is not None
    assert "does not depend" in item.zero
    result = run(found, x=X)["jac_h0_W1"]
    assert result.shape == (6, 5, 5, 2)
    assert not result.any()


def test_a_step_in_between_is_zero_and_says_so() -> None:
    graph = onnx.parser.parse_graph("g (double[N,3] x) => (double[N,3] y) { f = Floor(x) y = Sin(f) }")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    with pytest.warns(onnxgrad.DisconnectedWarning, match="only through steps: Floor .* constant between its jumps"):
        found = onnxgrad.jacobian(model)
    assert not run(found, x=X)["jac_y_x"].any()


# --- the batch proof -----------------------------------------------------------------------------


def parsed(text: str) -> onnx.ModelProto:
    model = helper.make_model(onnx.parser.parse_graph(text), opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    return model


def test_mixing_samples_is_refused_and_named() -> None:
    model = parsed(
        """g (double[N,3] x) => (double[N,3] y) <int64[1] axes = {0}>
        { m = ReduceSum(x, axes) c = Sub(x, m) y = Tanh(c) }"""
    )
    with pytest.raises(onnxgrad.MixedSamplesError, match=r"'ReduceSum_0' .* reduces axis 0, on which the samples lie"):
        onnxgrad.jacobian(model)
    found = run(onnxgrad.jacobian(model, batched=False), x=X)
    np.testing.assert_array_equal(found["jac_y_x"].shape, (6, 3, 6, 3))
    slope = 1 - found["y"] ** 2
    own = np.einsum("ni,nm,ij->nimj", slope, np.eye(6), np.eye(3))
    expected = own - np.einsum("ni,ij,m->nimj", slope, np.eye(3), np.ones(6))
    np.testing.assert_allclose(found["jac_y_x"], expected, **EXACT)


def test_samples_are_followed_through_merged_axes() -> None:
    """Reshape to (N*T, D) and back, as TensorFlow's exporters write it."""
    model = parsed(
        """g (double[N,4,3] x) => (double[N,4,3] y)
        <int64[2] flat = {-1, 3}, int64[3] back = {-1, 4, 3}>
        { f = Reshape(x, flat) t = Tanh(f) y = Reshape(t, back) }"""
    )
    x = RNG.normal(size=(2, 4, 3))
    found = run(onnxgrad.jacobian(model), x=x)["jac_y_x"]
    expected = np.einsum("nij,ia,jb->nijab", 1 - np.tanh(x) ** 2, np.eye(4), np.eye(3))
    np.testing.assert_allclose(found, expected, **EXACT)


def test_samples_that_end_elsewhere_are_refused() -> None:
    model = parsed("g (double[N,3] x) => (double[M,N] y) { t = Tanh(x) y = Transpose(t) }")
    with pytest.raises(onnxgrad.MixedSamplesError, match="axis 1 of 'y'"):
        onnxgrad.jacobian(model, batched=True)


def test_two_batches_crossing_are_refused() -> None:
    model = parsed("g (double[N,3] x) => (double[N,N] y) { t = Transpose(x) y = MatMul(x, t) }")
    with pytest.raises(onnxgrad.MixedSamplesError, match="different axes"):
        onnxgrad.jacobian(model)


# --- refusals --------------------------------------------------------------------------------


def test_every_node_in_the_way_is_named() -> None:
    model = parsed(
        "g (double[N,3] x) => (double[N,3] y) { a = Tanh(x) b = my.own.Magic(a) c = my.own.Trick(b) y = Exp(c) }"
    )
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    with pytest.raises(onnxgrad.NotDifferentiableError) as caught:
        onnxgrad.jacobian(model)
    assert [o.operator for o in caught.value.obstacles if "no rule" in o.why] == ["my.own::Magic", "my.own::Trick"]
    assert "register a rule" in str(caught.value)


def test_an_operator_that_is_none_of_onnx() -> None:
    """tf2onnx says in its log only that it left an operator of TensorFlow where it was."""
    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"Erfc.*ONNX has none of this name; export .*tf2onnx"):
        onnxgrad.jacobian(parsed("g (double[N,3] x) => (double[N,3] y) { y = Erfc(x) }"))


def test_captured_values_are_no_silent_zero() -> None:
    body = """g (bool c, double[N] x) => (double[N] y) {
        y = If(c) <
            then_branch = t () => (double[N] a) { a = Sin(x) },
            else_branch = e () => (double[N] b) { b = Cos(x) }
        >
    }"""
    augmented = onnxgrad.vjp(parsed(body), wrt="x")
    x, ct = np.array([0.3, -2.0]), np.array([1.0, 10.0])
    for c, derivative in ((True, np.cos(x)), (False, -np.sin(x))):
        found = run(augmented, c=np.array(c), x=x, adj_y=ct)["adj_x"]
        np.testing.assert_allclose(found, ct * derivative, rtol=1e-15)  # one sine, one product


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"of": "yy"}, onnxgrad.UnknownNameError, "'yy' is not a tensor of the model; did you mean 'y'"),
        ({"wrt": "quite different"}, onnxgrad.UnknownNameError, "there is"),
        ({"of": "n"}, onnxgrad.TensorTypeError, "int64"),
        ({"wrt": "k"}, onnxgrad.TensorTypeError, "int64"),
    ],
)
def test_bad_names(arguments: dict, error: type, words: str) -> None:
    model = parsed("g (double[N,3] x, int64[N] k) => (double[N,3] y, int64[2] n) { y = Tanh(x) n = Shape(x) }")
    with pytest.raises(error, match=words):
        onnxgrad.jacobian(model, **arguments)


# --- types -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types_follow_the_model(dtype: type) -> None:
    model = mlp([3, 5, 2], dtype=dtype)
    found = run(onnxgrad.jacobian(model), x=X.astype(dtype))["jac_y_x"]
    assert found.dtype == dtype
    expected = jacobian_by_hand(model, X.astype(dtype).astype(np.float64), 2)
    np.testing.assert_allclose(found, expected, atol=20 * np.finfo(dtype).eps)


def test_mixed_precision() -> None:
    model = parsed("g (float16[N,3] x) => (float[N,3] y) { a = Tanh(x) b = Cast<to=1>(a) y = Exp(b) }")
    found = run(onnxgrad.jacobian(model), x=X.astype(np.float16))["jac_y_x"]
    assert found.dtype == np.float16


@pytest.mark.parametrize(
    "body",
    [
        "g (float[N] x) => (float[N] y) { i = BitCast<to = 6>(x) y = BitCast<to = 1>(i) }",
        """g (float[N] x) => (float[N] y) <int32 one = {1}, int32 magic = {1597463007}> {
            i = BitCast<to = 6>(x) h = Div(i, one) j = Sub(magic, h) y = BitCast<to = 1>(j)
        }""",
        "g (float[N] x) => (float[N] y) { i = BitCast<to = 6>(x) j = Identity(i) k = BitCast<to = 1>(j) y = Sin(k) }",
        """g (float[N] x, bool c) => (float[N] y) {
            i = BitCast<to = 6>(x)
            j = If(c) <then_branch = a () => (int32[N] p) { p = Identity(i) },
                       else_branch = b () => (int32[N] q) { q = Neg(i) }>
            y = BitCast<to = 1>(j)
        }""",
    ],
)
def test_bits_are_no_silent_zero(body: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 13, opset_import: ["" : 26]>\n{body}')
    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"BitCast.*bits of a real number"):
        onnxgrad.vjp(model)


def test_bits_that_come_back_as_no_number() -> None:
    body = "g (float[N] x) => (float[N] y, int32[N] i) { i = BitCast<to = 6>(x) y = Sin(x) }"
    model = onnx.parser.parse_model(f'<ir_version: 13, opset_import: ["" : 26]>\n{body}')
    assert [o.name for o in onnxgrad.vjp(model).graph.output] == ["y", "i", "adj_x"]
