"""What is left in the loops of derivatives: the recurrence proper, and nothing that can be computed outside of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxgrad
from tests.flow import ROUNDING, check_flow, parsed, run

rng = np.random.default_rng(5)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def loops(graph: onnx.GraphProto) -> list[Counter[str]]:
    """The operators in the body of each loop."""
    found = []
    for node in graph.node:
        inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        if node.op_type in ("Loop", "Scan"):
            found.append(Counter(n.op_type for n in inner[0].node))
        for each in inner:
            found += loops(each)
    return found


def derived(model: onnx.ModelProto, of: str, wrt: list[str]) -> list[Counter[str]]:
    """The loops of a gradient in reverse mode, without those of the model."""
    return loops(onnxgrad.vjp(model, of, wrt).graph)[len(loops(model.graph)) :]


# --- layers ----------------------------------------------------------------------------------------

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def layer(op: str, steps: int | str, outputs: tuple[str, ...] = ("y",), **attrs: Any) -> onnx.ModelProto:
    """A layer of 3 inputs and 4 states, with all weights as inputs, too."""
    g, kind = GATES[op], onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w", "r", "b"], list(outputs), name="cell", hidden_size=4, **attrs)],
        "g",
        [
            helper.make_tensor_value_info("x", kind, [steps, 2, 3]),
            helper.make_tensor_value_info("w", kind, [1, g * 4, 3]),
            helper.make_tensor_value_info("r", kind, [1, g * 4, 4]),
            helper.make_tensor_value_info("b", kind, [1, 2 * g * 4]),
        ],
        [helper.make_tensor_value_info(outputs[-1], kind, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


KEPT = {"Mul": 1, "Add": 1, "Identity": 1}  # c' = f c + i g, of which each c is kept
BACKWARD = {
    "LSTM": {"Add": 2, "Mul": 3, "Concat": 1, "MatMul": 1},
    "GRU": {"Add": 3, "Neg": 1, "Mul": 4, "Concat": 2, "MatMul": 1},
    "RNN": {"Add": 1, "Mul": 1, "MatMul": 1},
}


@pytest.mark.parametrize("steps", [20, "T"])
@pytest.mark.parametrize("op", GATES)
def test_a_layer_has_one_product_of_matrices_in_its_loop(op: str, steps: int | str) -> None:
    """Gates are computed for all steps at once, from outputs that the layer's own node has computed; what goes back
    through a step is one product, and gradients of weights are products outside. Nothing runs the layer again.
    """
    attrs = {"linear_before_reset": 1} if op == "GRU" else {}
    expected = [KEPT, BACKWARD[op]] if op == "LSTM" else [BACKWARD[op]]
    model = layer(op, steps, **attrs)
    assert derived(model, "y", ["x"]) == expected
    for each in derived(model, "y", ["x", "w", "r", "b"]):
        assert each["MatMul"] <= 1
        assert each["Transpose"] == 0
        assert each["Identity"] == (each == KEPT), "no result is written twice"


@pytest.mark.parametrize("op", GATES)
def test_outputs_that_a_node_does_not_give_are_computed_by_one_that_does(op: str) -> None:
    """Where only the last state is asked for, the same operator gives the outputs of all steps: not a loop."""
    attrs = {"activations": ["Tanh"]} if op == "RNN" else {}
    last, whole = layer(op, 20, ("", "y"), **attrs), layer(op, 20, ("all", "y"), **attrs)
    added = onnxgrad.vjp(last, "y", "x")
    assert Counter(n.op_type for n in added.graph.node)[op] == 2
    assert loops(added.graph) == loops(onnxgrad.vjp(whole, "y", "x").graph)
    feeds = {i.name: a(*(d.dim_value for d in i.type.tensor_type.shape.dim)) for i in added.graph.input}
    feeds = {name: x.astype(np.float32) for name, x in feeds.items()}
    found, expected = (run(onnxgrad.vjp(m, "y", "x"), feeds)["adj_x"] for m in (last, whole))
    np.testing.assert_array_equal(found, expected)


def test_a_loop_that_may_be_empty_runs_in_a_branch() -> None:
    model = onnxgrad.vjp(layer("RNN", "T"), "y", "x").graph
    (branch,) = [node for node in model.node if node.op_type == "If"]
    assert {a.name: [n.op_type for n in a.g.node].count("Scan") for a in branch.attribute} == {
        "then_branch": 1,
        "else_branch": 0,
    }
    assert not any(node.op_type in ("Scan", "Loop") for node in model.node)


# --- what leaves a loop ------------------------------------------------------------------------------

FORMULAS = {
    "Sin": "f = Sin(e)",
    "Where": "m = Greater(e, v) f = Where(m, e, v)",
    "Max": "f = Max(e, v)",
    "Clip": "f = Clip(e, low)",
    "Cast": "m = Greater(e, v) d = Cast<to = 11>(m) f = Add(d, e)",
    "Identity": "i = Identity(e) f = Sin(i)",
    "MatMul": "f = MatMul(e, w)",
    "MatMul left": "f = MatMul(w2, e)",
    "MatMul both": "t = Transpose(e) p = MatMul(e, t) f = MatMul(p, e)",
    "MatMul row": "r = ReduceSum<keepdims = 0>(e, zero) p = MatMul(r, w) f = Add(p, e)",
    "MatMul column": "r = ReduceMean<keepdims = 0>(e, zero) p = MatMul(e, r) q = Unsqueeze(p, one) f = Add(q, e)",
    "Transpose": "t = Transpose<perm = [1, 0]>(e) u = Sin(t) f = Transpose(u)",
    "Reshape": "t = Reshape(e, sizes) u = ReduceMax<keepdims = 0>(t, one) f = Add(u, e)",
    "Flatten": "t = Flatten<axis = 0>(e) u = ReduceL2(t, minus) f = Mul(u, e)",
    "Unsqueeze": "t = Unsqueeze(e, one) u = Cos(t) f = Squeeze(u, one)",
    "Expand": "r = ReduceSum(e, zero) p = Expand(r, shape) f = Mul(p, e)",
    "Split": "p, q = Split<axis = 0, num_outputs = 2>(e) f = Concat<axis = 0>(q, p)",
    "Concat": "p, q = Split<axis = -1>(e, parts) c = Concat<axis = 1>(q, column) f = Cos(c)",
}
#: Those of which the second derivative is looked at, too: one of each kind.
SECOND = ("Where", "MatMul both", "Reshape", "Split")
OUTSIDE = """<double[3,3] w = {0.1, 0.2, -0.3, 0.4, 0.5, -0.6, 0.7, 0.8, 0.9}, double[2,2] w2 = {0.3, -0.4, 0.2, 0.9},
    double[3] v = {0.1, 0.2, -0.3}, double low = {-0.4}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] minus = {-1},
    int64[2] shape = {2, 3}, int64[3] sizes = {2, 1, 3}, int64[2] parts = {1, 2}, double[2,1] column = {0.5, -0.4}>"""


def taking(formula: str, result: str = "") -> onnx.ModelProto:
    """A `Scan` that multiplies its state by what a formula makes of a slice `e`."""
    outputs, given, stacked = ("end, y", ", double[2,3] n2", ", double[K,2,3] y") if result else ("end", "", "")
    return parsed(
        f"""g (double[2,3] s, double[K,2,3] x) => (double[2,3] end{stacked}) {OUTSIDE} {{
            {outputs} = Scan<num_scan_inputs = 1, body = b (double[2,3] h, double[2,3] e) => (double[2,3] n{given}) {{
                {formula} g = Tanh(h) n = Mul(g, f) {result}
            }}> (s, x)
        }}"""
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_what_depends_on_slices_only_leaves_the_loop(name: str) -> None:
    """Into neither the loop that keeps states nor the one that runs backward comes any of it, but what they carry."""
    model = taking(FORMULAS[name])
    forward, backward = derived(model, "end", ["s"])
    assert forward == {"Tanh": 1, "Mul": 1, "Identity": 1}
    assert backward == {"Mul": 1}, "f (1 - tanh² h), one product with what is carried"
    check_flow(model, {"s": a(2, 3), "x": a(3, 2, 3) / 2}, second=name in SECOND)


def test_states_that_are_results_are_not_computed_again() -> None:
    model = taking("f = Sin(e)", "n2 = Identity(n)")
    (backward,) = derived(model, "end", ["s"])
    assert backward == {"Mul": 1}
    check_flow(model, {"s": a(2, 3), "x": a(3, 2, 3)})
    for directions in ("scan_input_directions = [1]", "scan_output_directions = [1]"):
        other = onnx.ModelProto.FromString(model.SerializeToString())
        other.graph.node[0].attribute.append(helper.make_attribute(directions.split(" = ")[0], [1]))
        assert len(derived(other, "end", ["s"])) == 1
        check_flow(other, {"s": a(2, 3), "x": a(3, 2, 3)})


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_states_of_a_loop_that_are_results_are_not_computed_again(trips: int) -> None:
    model = parsed(
        """g (double[2] s, int64 n, double[2,2] w) => (double[2] end, double[K,2] y) {
            end, y = Loop<body = b (int64 i, bool c, double[2] h) => (bool on, double[2] m, double[2] d) {
                on = Identity(c) f = MatMul(w, h) m = Tanh(f) d = Identity(m)
            }> (n, , s)
        }"""
    )
    assert len(derived(model, "end", ["s", "w"])) == 1
    check_flow(model, {"s": a(2), "n": np.array(trips), "w": a(2, 2)}, second=False)


def test_large_slices_stay_in_the_cache() -> None:
    """A pointwise node on slices that are known to be large is not for all iterations at once; a product is."""
    model = parsed(
        """g (float[100,100] s, float[K,100,100] x, float[100,100] w) => (float[100,100] end) {
            end = Scan<num_scan_inputs = 1, body = b (float[100,100] h, float[100,100] e) => (float[100,100] n) {
                t = MatMul(e, w) u = Sin(t) n = Mul(h, u)
            }> (s, x)
        }"""
    )
    assert derived(model, "end", ["s"]) == [{"Sin": 1, "Mul": 1}]


def test_a_sum_that_is_read_on_the_way_is_carried() -> None:
    """Only a sum of which nothing but the total counts is taken outside."""
    model = parsed(
        """g (double[2] s, double[K,2] x) => (double[2] end, double[K,2] y) {
            end, y = Scan<num_scan_inputs = 1, body = b (double[2] h, double[2] e) => (double[2] n, double[2] d) {
                f = Sin(e) n = Add(h, f) d = Mul(h, h)
            }> (s, x)
        }"""
    )
    kept, _ = derived(model, "y", ["x"])
    assert kept == {"Add": 1, "Identity": 1}
    check_flow(model, {"s": a(2), "x": a(3, 2)})


def test_a_loop_that_carries_nothing_vanishes() -> None:
    """All of it is computed at once, in either direction, sums for what the body captures included."""
    model = parsed(
        """g (double[K,2] x, double[2] w) => (double[K,2] y) {
            y = Scan<num_scan_inputs = 1, body = b (double[2] e) => (double[2] d) { f = Mul(e, w) d = Sin(f) }> (x)
        }"""
    )
    assert derived(model, "y", ["x", "w"]) == []
    assert len(loops(onnxgrad.jvp(model, "y", "x").graph)) == 1, "that of the model itself"
    check_flow(model, {"x": a(3, 2), "w": a(2)})


def test_what_would_be_dear_to_keep_stays_inside() -> None:
    """An outer product of slices has many times their elements."""
    model = parsed(
        """g (double[30] s, double[K,30] x) => (double[30] end) <int64[1] one = {1}, int64[1] zero = {0}> {
            end = Scan<num_scan_inputs = 1, body = b (double[30] h, double[30] e) => (double[30] n) {
                u = Unsqueeze(e, one) v = Unsqueeze(e, zero) p = MatMul(u, v) q = Sin(p) n = MatMul(q, h)
            }> (s, x)
        }"""
    )
    (backward,) = derived(model, "end", ["s"])
    assert backward["Sin"] == 1
    feeds = {"s": a(30), "x": a(2, 30) / 30, "adj_end": a(30)}
    found = run(onnxgrad.vjp(model, "end", "s"), feeds)["adj_s"]
    first, second = (np.sin(np.outer(e, e)) for e in feeds["x"])
    np.testing.assert_allclose(found, first.T @ second.T @ feeds["adj_end"], rtol=0, atol=ROUNDING)


# --- factors -----------------------------------------------------------------------------------------


def chain(body: str, kind: str = "double", result: str = "h") -> onnx.ModelProto:
    """A `Scan` over slices p and q of shape (2, 3), and r of shape (3,)."""
    return parsed(
        f"""g ({kind}[2,3] s, {kind}[K,2,3] x, {kind}[K,2,3] y, {kind}[K,3] z)
            => ({kind}[2,3] end, {kind}[K,2,3] all) {{
            end, all = Scan<num_scan_inputs = 3, body = b ({kind}[2,3] h, {kind}[2,3] p, {kind}[2,3] q, {kind}[3] r)
                => ({kind}[2,3] n, {kind}[2,3] m) {{ {body} m = Identity({result}) }}> (s, x, y, z)
        }}"""
    )


SLICES = {"s": (2, 3), "x": (3, 2, 3), "y": (3, 2, 3), "z": (3, 3)}


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Mul(h, p) b = Mul(q, a) n = Mul(b, r)", {"Mul": 1}),
        ("a = Mul(r, h) b = Sin(p) n = Mul(a, b)", {"Mul": 1}),
        ("a = Mul(h, p) b = Mul(a, q) c = Mul(a, r) n = Add(b, c)", {"Mul": 3, "Add": 1}),
    ],
    ids=["chain", "of different shapes", "used twice"],
)
def test_factors_are_multiplied_outside(body: str, left: dict[str, int]) -> None:
    model = chain(body)
    assert derived(model, "end", ["s"]) == [left]
    check_flow(model, {name: a(*shape) for name, shape in SLICES.items()})


def test_products_that_are_joined_are_one() -> None:
    """``[m · a, n · b] = [m, n] · [a, b]``, also in parts, of which one has a chain of factors, and by broadcasting."""
    model = parsed(
        """g (double[2,2] s, double[K,2,2] x, double[K,2] y, double[8,2] w) => (double[2,2] end) {
            end = Scan<num_scan_inputs = 2, body = b (double[2,2] h, double[2,2] p, double[2] q) => (double[2,2] n) {
                a = Mul(h, p) b = Mul(h, q) c = Concat<axis = 1>(a, b) r = Concat<axis = -1>(q, q) d = Mul(c, r)
                e = Mul(h, p) f = Mul(e, q) g = Mul(h, p) k = Concat<axis = -1>(d, f, g) n = MatMul(k, w)
            }> (s, x, y)
        }"""
    )
    feeds = {"s": a(2, 2), "x": a(3, 2, 2), "y": a(3, 2), "w": a(8, 2)}
    kept, _ = derived(model, "end", ["x"])
    assert kept == {"Concat": 1, "Mul": 1, "MatMul": 1, "Identity": 1}
    check_flow(model, feeds)


def test_narrow_types_keep_the_order_of_their_products() -> None:
    """In float16, a product of two factors may be 0 where that of all three is not."""
    model = chain("a = Mul(h, p) n = Mul(a, q)", "float16")
    assert derived(model, "end", ["s"]) == [{"Mul": 2}]
    one = np.ones((1, 2, 3), np.float16)
    feeds = {"s": one[0], "x": 1e-5 * one, "y": 1e-4 * one, "z": one[0, :1], "adj_end": 6e4 * one[0]}
    found = run(onnxgrad.vjp(model, "end", "s"), {name: x.astype(np.float16) for name, x in feeds.items()})
    np.testing.assert_allclose(found["adj_s"], 6e-5, rtol=0.02)  # subnormal, of some 1000 steps


def test_gradient_of_weights_is_one_product() -> None:
    """Of a factor that many matrices share; with and without seeds."""
    weights = numpy_helper.from_array(a(3, 2), "w")
    model = parsed("g (double[B,T,3] x) => (double[B,T,2] y) { y = MatMul(x, w) }")
    model.graph.initializer.append(weights)
    x, ct = a(4, 5, 3), a(4, 5, 2)
    added = onnxgrad.vjp(model, "y", "w")
    assert "ReduceSum" not in {node.op_type for node in added.graph.node}
    found = run(added, {"x": x, "adj_y": ct})["adj_w"]
    np.testing.assert_allclose(found, np.einsum("btk,btm->km", x, ct), rtol=0, atol=ROUNDING)
    fixed = parsed("g (double[4,5,3] x) => (double[4,5,2] y) { y = MatMul(x, w) }")
    fixed.graph.initializer.append(weights)
    for mode in ("reverse", "forward"):
        found = run(onnxgrad.jacobian(fixed, "y", "w", mode=mode, batched=False), {"x": x})["jac_y_w"]
        np.testing.assert_allclose(found, np.einsum("btk,mn->btmkn", x, np.eye(2)), rtol=0, atol=ROUNDING)
