"""Derivatives through If, Loop and Scan: both modes, first and second order, nested, captured values, no iteration."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad
from onnxgrad.graph.builder import Builder
from onnxgrad.model.normalize import normalize
from onnxgrad.model.read import read
from onnxgrad.runtime.rows import Split, find_split
from tests.flow import ROUNDING, check_flow, parsed, run

rng = np.random.default_rng(11)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


IF = """g (double[{n}] x, double[{n}] w, bool c) => (double[{n}] y, double[{n}] z) {{
    t = Sin(w)
    y, z = If(c) <
        then_branch = a () => (double[{n}] p, double[{n}] r) {{ u = Mul(x, t) p = Tanh(u) r = Identity(p) }},
        else_branch = b () => (double[{n}] q, double[{n}] s) {{ q = Mul(x, x) s = Identity(x) }}
    >
}}"""


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("n", ["3", "N"])
def test_if(n: str, condition: bool) -> None:
    check_flow(parsed(IF.format(n=n)), {"x": a(3), "w": a(3), "c": np.array(condition)})


def test_branches_of_different_shapes() -> None:
    body = """g (double[N] x, bool c) => (double[M] y) {
        y = If(c) <
            then_branch = a () => (double[P] p) { p = Concat<axis=0>(x, x) },
            else_branch = b () => (double[Q] q) { q = Mul(x, x) }
        >
    }"""
    for condition in (True, False):
        check_flow(parsed(body), {"x": a(2), "c": np.array(condition)})


def test_only_the_branch_that_is_known_to_be_taken_matters() -> None:
    """As PyTorch writes ``squeeze``: the other branch would have another rank, and here a random operator."""
    body = """g (double[2,1,3] x) => (double[2,3] y) <int64 one = {1}, int64[1] at = {1}> {
        sizes = Shape(x) size = Gather(sizes, one) c = Equal(size, one)
        s = If(c) <
            then_branch = a () => (p) { p = Squeeze(x, at) },
            else_branch = b () => (q) { q = RandomNormalLike(x) }
        >
        y = Sin(s)
    }"""
    check_flow(parsed(body), {"x": a(2, 1, 3)})


SCAN = """g (double[2] s, double[{k},2] x, double[2,2] w) => (double[2] end, double[{k},2] y) {{
    end, y = Scan <num_scan_inputs = 1{attributes}, body = b (double[2] h, double[2] e) => (double[2] n, double[2] d) {{
        f = MatMul(w, h) g = Add(f, e) n = Tanh(g) d = Mul(n, e)
    }}> (s, x)
}}"""


@pytest.mark.parametrize("k", ["4", "K"])
@pytest.mark.parametrize("attributes", ["", ", scan_input_directions = [1]", ", scan_output_directions = [1]"])
def test_scan(k: str, attributes: str) -> None:
    check_flow(parsed(SCAN.format(k=k, attributes=attributes)), {"s": a(2), "x": a(4, 2), "w": a(2, 2)})


@pytest.mark.parametrize("axis", ["1", "-1"])
def test_scan_along_another_axis(axis: str) -> None:
    body = f"""g (double[2] s, double[2,K] x, double[2,K] v) => (double[2] end, double[2,K] y) {{
        end, y = Scan <num_scan_inputs = 2, scan_input_axes = [{axis}, 1], scan_output_axes = [{axis}],
            scan_input_directions = [0, 1],
            body = b (double[2] h, double[2] e, double[2] o) => (double[2] n, double[2] d) {{
                g = Mul(h, e) n = Sin(g) d = Mul(n, o)
            }}> (s, x, v)
    }}"""
    check_flow(parsed(body), {"s": a(2), "x": a(2, 3), "v": a(2, 3)})


LOOP = """g (double[2] s, int64 n, double[2,2] w) => (double[2] end, double[K,2] y) {
    end, y = Loop <body = b (int64 i, bool c, double[2] h) => (bool on, double[2] m, double[2] d) {
        on = Identity(c) k = Cast<to = 11>(i) f = MatMul(w, h) m = Tanh(f) mm = Mul(m, m) d = Add(mm, k)
    }> (n, , s)
}"""


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_loop(trips: int) -> None:
    check_flow(parsed(LOOP), {"s": a(2), "n": np.array(trips), "w": a(2, 2)})


def test_loop_whose_number_of_iterations_depends_on_the_data() -> None:
    body = """g (double[2] s, double[2,2] w, double[6] v) => (double[2] end, double[K,2] y) <double limit = {1.0}> {
        end, y = Loop <body = b (int64 i, bool c, double[2] h) => (bool on, double[2] n, double[2] d) {
            f = MatMul(w, h) t = Cos(f) vi = Gather(v, i) g = Mul(t, vi) n = Add(h, g) d = Mul(n, vi)
            sum = ReduceSum<keepdims = 0>(n) on = Less(sum, limit)
        }> (, , s)
    }"""
    v = np.array([0.3, 0.7, 2.9, 3.0, 3.0, 3.0])
    feeds = {"s": np.array([0.1, 0.2]), "w": 0.3 * np.eye(2), "v": v}
    assert 1 < len(run(parsed(body), feeds)["y"]) < 6
    check_flow(parsed(body), feeds)


def test_state_that_is_overwritten_passes_only_from_the_last_iteration() -> None:
    body = """g (double[2] s, double[K,2] x) => (double[2] end) {
        end = Scan <num_scan_inputs = 1, body = b (double[2] h, double[2] e) => (double[2] n) { n = Exp(e) }> (s, x)
    }"""
    check_flow(parsed(body), {"s": a(2), "x": a(3, 2)})


def test_loop_without_states() -> None:
    body = """g (double[N,2] x, int64 n, double[2] w) => (double[K,2] y) {
        y = Loop <body = b (int64 i, bool c) => (bool on, double[2] d) {
            on = Identity(c) e = Gather<axis = 0>(x, i) f = Mul(e, w) d = Sin(f)
        }> (n, )
    }""".replace("(n, )", "(n, always)").replace("=> (double[K,2] y) {", "=> (double[K,2] y) <bool always = {1}> {")
    check_flow(parsed(body), {"x": a(3, 2), "n": np.array(2), "w": a(2)})


NESTED = """g (double[2] s, double[2,2] w, double[3,2] x) => (double[2] end, double[3,2] y) <int64 three = {3}> {
    end, y = Scan <num_scan_inputs = 1, body = b (double[2] h, double[2] e) => (double[2] n, double[2] d) {
        f = Sin(e)
        n = Loop <body = bb (int64 i, bool c, double[2] hh) => (bool on, double[2] nn) {
            on = Identity(c) m = MatMul(w, hh) mm = Add(m, f) one = Constant<value_int = 1>() late = Greater(i, one)
            nn = If(late) <
                then_branch = t () => (double[2] p) { p = Tanh(mm) },
                else_branch = u () => (double[2] q) { q = Mul(mm, e) }
            >
        }> (three, , h)
        d = Mul(n, n)
    }> (s, x)
}"""


def test_nested() -> None:
    check_flow(parsed(NESTED), {"s": a(2), "w": a(2, 2), "x": a(3, 2)})


def _split(model: onnx.ModelProto) -> Split | None:
    form = normalize(read(model))
    return find_split(Builder(form), form.graph.inputs, form.graph.outputs)


@pytest.mark.parametrize("k", ["3", "K"])
def test_samples_stay_apart(k: str) -> None:
    body = f"""g (double[N,2] s, double[{k},N,3] x, double[5,2] w) => (double[N,2] end, double[N,{k},2] y) {{
        end, y = Scan <num_scan_inputs = 1, scan_output_axes = [1],
            body = b (double[N,2] h, double[N,3] e) => (double[N,2] n, double[N,2] d) {{
                both = Concat<axis = 1>(h, e) f = MatMul(both, w) n = Tanh(f) d = Mul(n, n)
            }}> (s, x)
    }}"""
    feeds = {"s": a(4, 2), "x": a(3, 4, 3), "w": a(5, 2)}
    assert _split(onnxgrad.jacobian(parsed(body), wrt="s")) is not None
    for mode in ("reverse", "forward"):
        each = run(onnxgrad.jacobian(parsed(body), wrt="s", mode=mode), feeds)
        full = run(onnxgrad.jacobian(parsed(body), wrt="s", mode=mode, batched=False), feeds)
        for y in ("end", "y"):
            for i in range(4):
                whole = full[f"jac_{y}_s"][i, ..., i, :]
                np.testing.assert_allclose(each[f"jac_{y}_s"][i], whole, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    "body",
    [
        """g (double[N,2] s, int64 n) => (double[N,2] y) {
            y = Loop <body = b (int64 i, bool c, double[N,2] h) => (bool on, double[N,2] m) {
                m = Tanh(h) sum = ReduceSum<keepdims = 0>(m) limit = Constant<value = double {9.0}>()
                on = Less(sum, limit)
            }> (n, , s)
        }""",
        """g (double[N,2] s, int64 n) => (double[N,2] y) {
            sum = ReduceSum<keepdims = 0>(s) zero = Constant<value = double {0.0}>() c = Less(sum, zero)
            y = If(c) <then_branch = t () => (double[N,2] p) { p = Tanh(s) },
                       else_branch = e () => (double[N,2] q) { q = Sin(s) }>
        }""",
    ],
)
def test_samples_that_only_choose_what_is_run(body: str) -> None:
    """All samples together choose; but that is a step, and the derivative of each is by itself alone."""
    model, feeds = parsed(body), {"s": a(3, 2), "n": np.array(2)}
    each = run(onnxgrad.jacobian(model), feeds)["jac_y_s"]
    full = run(onnxgrad.jacobian(model, batched=False), feeds)["jac_y_s"]
    np.testing.assert_allclose(each, np.stack([full[i, :, i] for i in range(3)]), rtol=0, atol=ROUNDING)
    assert _split(onnxgrad.jacobian(model)) is None  # and they cannot be run a few at a time


def test_samples_that_meet() -> None:
    body = """g (double[N,2] s) => (double[N,2] y) {
        y = Scan <num_scan_inputs = 1, body = b (double[2] e) => (double[2] d) { d = Sin(e) }> (s)
    }"""
    with pytest.raises(onnxgrad.MixedSamplesError, match="on which the samples lie"):
        onnxgrad.jacobian(parsed(body))


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_growing_state(trips: int) -> None:
    body = """g (double[2] s, int64 n, double[2] w) => (double[M] y, double[2] z) {
        y, z = Loop <body = b (int64 i, bool c, double[M] h, double[2] g) => (bool on, double[P] m, double[2] k) {
            on = Identity(c) t = Sin(h) m = Concat<axis = 0>(w, t) sum = ReduceSum<keepdims = 1>(h) k = Mul(g, sum)
        }> (n, , s, w)
    }"""
    check_flow(parsed(body), {"s": a(2), "n": np.array(trips), "w": a(2)}, again=False)


def test_state_of_which_it_is_not_known_whether_it_grows() -> None:
    """It is taken to keep its shape; where it does not, onnxruntime fails."""
    body = """g (double[N] s, double[K] w, int64 n) => (double[M] y) {
        y = Loop <body = b (int64 i, bool c, double[M] h) => (bool on, double[P] m) {
            on = Identity(c) t = Sin(h) m = Mul(w, t)
        }> (n, , s)
    }"""
    check_flow(parsed(body), {"s": a(2), "w": a(2), "n": np.array(2)})
    model = onnxgrad.vjp(parsed(body))
    with pytest.raises(Exception, match=r"[Ss]hape"):
        run(model, {"s": a(1), "w": a(2), "n": np.array(2), "adj_y": a(2)})


def test_random_operator_in_a_body_is_refused() -> None:
    body = """g (double[2] s, int64 n) => (double[2] y) {
        y = Loop <body = b (int64 i, bool c, double[2] h) => (bool on, double[2] m) {
            on = Identity(c) r = RandomNormalLike(h) m = Mul(h, r)
        }> (n, , s)
    }"""
    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"RandomNormalLike in it .* would draw other numbers"):
        onnxgrad.vjp(parsed(body))


def test_obstacles_inside_are_named() -> None:
    body = """g (double[2] s, bool c) => (double[2] y) {
        y = If(c) <
            then_branch = t () => (double[2] p) { p = Sin(s) },
            else_branch = e () => (double[2] q) { q = my.Odd(s) }
        >
    }"""
    model = parsed(body)
    model.opset_import.add(domain="my", version=1)
    with pytest.raises(onnxgrad.NotDifferentiableError) as caught:
        onnxgrad.vjp(model)
    assert [o.operator for o in caught.value.obstacles] == ["my::Odd"]


def test_values_inside_cannot_be_named() -> None:
    with pytest.raises(onnxgrad.UnknownNameError, match="'n' is not a tensor of the model"):
        onnxgrad.vjp(parsed(SCAN.format(k="K", attributes="")), of="n")


def test_a_step_inside_is_zero_and_said_so() -> None:
    body = """g (double[2] s, bool c) => (double[2] y) {
        y = If(c) <
            then_branch = t () => (double[2] p) { p = Round(s) },
            else_branch = e () => (double[2] q) { q = Floor(s) }
        >
    }"""
    with pytest.warns(onnxgrad.DisconnectedWarning, match="Round"):
        model = onnxgrad.vjp(parsed(body))
    feeds = {"s": a(2), "c": np.array(True), "adj_y": a(2)}
    np.testing.assert_array_equal(run(model, feeds)["adj_s"], np.zeros(2))


def test_condition_of_unknown_type_does_not_make_a_loop_endless() -> None:
    """Its number of iterations is then not that which the loop may count to."""
    body = """g (double[2] s, double[2] t) => (double[2] end, double[K,2] y) <int64 three = {3}> {
        go = my.Decide(t)
        end, y = Loop <body = b (int64 i, bool c, double[2] h) => (bool on, double[2] m, double[2] d) {
            on = Identity(c) m = Sin(h) d = Mul(m, m)
        }> (three, go, s)
    }"""
    model = parsed(body)
    model.opset_import.add(domain="my", version=1)
    op = Builder(normalize(read(model)))
    (y,) = (t for v in op.model.graph.outputs if v.name == "y" and (t := op.tensor(v)) is not None)
    assert y.shape[0] != 3
