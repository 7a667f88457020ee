"""Sequences and optionals become tensors: same outputs, and derivatives that pass through."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.flow import check_flow, parsed, run

rng = np.random.default_rng(12)
X = rng.normal(size=(3, 4))

MODELS = {
    "split, at, erase, insert, join": (
        """g (double[3,4] x) => (double[2,4] y, double[3,4] z)
            <int64 one = {1}, int64[2] sizes = {1, 2}, int64 last = {-1}> {
            s = SplitToSequence<axis = 0>(x, sizes) y = SequenceAt(s, one) t = SequenceErase(s)
            u = SequenceInsert(t, y) m = SequenceAt(u, last) mm = Sin(m) v = SequenceInsert(t, mm)
            z = ConcatFromSequence<axis = 0>(v)
        }""",
        {},
    ),
    "of equal parts, the last one smaller": (
        """g (double[3,4] x) => (double[3,3] y, double[3,1] z) <int64 three = {3}, int64 zero = {0}, int64 one = {1}> {
            s = SplitToSequence<axis = 1>(x, three) a = SequenceAt(s, zero) b = SequenceAt(s, one) y = Sin(a) z = Exp(b)
        }""",
        {},
    ),
    "insert in the middle, and the length": (
        """g (double[3,4] x) => (double[9,4] z, int64 n) <int64 one = {1}> {
            t = Tanh(x) s = SequenceConstruct(x, x) u = SequenceInsert(s, t, one) z = ConcatFromSequence<axis = 0>(u)
            n = SequenceLength(u)
        }""",
        {},
    ),
    "empty, then filled": (
        """g (double[3,4] x) => (double[3,8] z) {
            e = SequenceEmpty<dtype = 11>() t = Tanh(x) s = SequenceInsert(e, x) u = SequenceInsert(s, t)
            z = ConcatFromSequence<axis = -1>(u)
        }""",
        {},
    ),
    "stacked, of open length": (
        """g (double[N,4] x, int64 i) => (double[4] y, double[4,N] z) {
            s = SplitToSequence<axis = 0, keepdims = 0>(x) a = SequenceAt(s, i) y = Exp(a)
            b = ConcatFromSequence<axis = 1, new_axis = 1>(s) z = Tanh(b)
        }""",
        {"i": np.array(-1)},
    ),
    "stacked, with the split axis kept": (
        """g (double[4,N] x) => (double[4,M] z) {
            s = SplitToSequence<axis = 1>(x) b = ConcatFromSequence<axis = 1>(s) z = Tanh(b)
        }""",
        {},
    ),
    "mapped, of open length": (
        """g (double[N,4] x, double[4] w) => (double[N,4] z) {
            s = SplitToSequence<axis = 0, keepdims = 0>(x)
            t = SequenceMap<body = b (double[4] a, double[4] c) => (double[4] d) { e = Mul(a, c) d = Sin(e) }>(s, w)
            z = ConcatFromSequence<axis = 0, new_axis = 1>(t)
        }""",
        {"w": rng.normal(size=4)},
    ),
    "mapped, of two sequences of tensors that differ in shape": (
        """g (double[3,4] x) => (double[3,4] z) <int64[2] sizes = {1, 2}> {
            s = SplitToSequence<axis = 0>(x, sizes) u = SplitToSequence<axis = 0>(x, sizes)
            t = SequenceMap<
                body = b (double[M,4] a, double[M,4] c) => (double[M,4] d) { e = Mul(a, c) d = Sin(e) }
            >(s, u)
            z = ConcatFromSequence<axis = 0>(t)
        }""",
        {},
    ),
    "mapped, with two results": (
        """g (double[N,4] x) => (double[N,4] z, double[N,4] v) {
            s = SplitToSequence<axis = 0, keepdims = 0>(x)
            t, u = SequenceMap<body = b (double[4] a) => (double[4] c, double[4] d) { c = Cos(a) d = Sin(c) }>(s)
            z = ConcatFromSequence<axis = 0, new_axis = 1>(t) v = ConcatFromSequence<axis = 0, new_axis = 1>(u)
        }""",
        {},
    ),
    "appended to in a loop": (
        """g (double[N,4] x, double[4] h0, double[4,4] w) => (double[N,4] z, double[4] h) {
            e = SequenceEmpty<dtype = 11>() s0 = SplitToSequence<axis = 0, keepdims = 0>(x) n = SequenceLength(s0)
            h, s = Loop<body = b (int64 i, bool c, double[4] hh, seq(double[4]) ss)
                => (bool on, double[4] next, seq(double[4]) longer) {
                on = Identity(c) xi = SequenceAt(s0, i) m = MatMul(hh, w) a = Add(m, xi) next = Tanh(a)
                longer = SequenceInsert(ss, next)
            }>(n, , h0, e)
            z = ConcatFromSequence<axis = 0, new_axis = 1>(s)
        }""",
        {"h0": rng.normal(size=4), "w": rng.normal(size=(4, 4))},
    ),
    "optional": (
        """g (double[3,4] x) => (double[3,4] y, bool b) {
            o = Optional(x) b = OptionalHasElement(o) e = OptionalGetElement(o) y = Sin(e)
        }""",
        {},
    ),
    "optional sequence": (
        """g (double[3,4] x) => (double[6,4] y) {
            t = Sin(x) s = SequenceConstruct(x, t) o = Optional(s) e = OptionalGetElement(o)
            y = ConcatFromSequence<axis = 0>(e)
        }""",
        {},
    ),
    "what is no optional": ("g (double[3,4] x) => (double[3,4] y) { y = OptionalGetElement(x) }", {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_derivatives(name: str) -> None:
    body, feeds = MODELS[name]
    x = X.T if body.startswith("g (double[4,N]") else X
    check_flow(parsed(body), {"x": x, **feeds})


def test_sequences_that_are_outputs_stay() -> None:
    body = """g (double[3,4] x) => (seq(double[1,4]) s, double[1,4] y) <int64 one = {1}> {
        s = SplitToSequence<axis = 0>(x) a = SequenceAt(s, one) y = Sin(a)
    }"""
    found = run(onnxgrad.vjp(parsed(body)), {"x": X, "adj_y": np.ones((1, 4))})
    np.testing.assert_array_equal(np.concatenate(found["s"]), X)
    expected = np.vstack([np.zeros(4), np.cos(X[1]), np.zeros(4)])
    np.testing.assert_allclose(found["adj_x"], expected, rtol=3e-15)  # two libraries' cosines


def test_what_cannot_be_resolved_is_refused() -> None:
    body = """g (double[N,4] x, int64[K] sizes, int64 i) => (double[M,4] y) {
        s = SplitToSequence<axis = 0>(x, sizes) y = SequenceAt(s, i)
    }"""
    with pytest.raises(onnxgrad.NotDifferentiableError) as caught:
        onnxgrad.vjp(parsed(body))
    assert {o.operator for o in caught.value.obstacles} == {"SplitToSequence", "SequenceAt"}
    assert "which tensors the sequence holds" in str(caught.value)


def test_shape_that_changes_in_the_loop_is_not_stacked() -> None:
    body = """g (double[2] x, int64 n) => (double[M] z) {
        e = SequenceEmpty<dtype = 11>()
        h, s = Loop<body = b (int64 i, bool c, double[P] hh, seq(double[Q]) ss)
            => (bool on, double[R] next, seq(double[Q]) longer) {
            on = Identity(c) next = Concat<axis = 0>(hh, hh) longer = SequenceInsert(ss, next)
        }>(n, , x, e)
        z = ConcatFromSequence<axis = 0>(s)
    }"""
    model = parsed(body)
    assert run(model, {"x": X[0, :2], "n": np.array(2)})["z"].shape == (12,)
    with pytest.raises(onnxgrad.NotDifferentiableError, match="ConcatFromSequence"):
        onnxgrad.vjp(model)


def test_nothing_of_a_sequence_remains() -> None:
    body, _ = MODELS["split, at, erase, insert, join"]
    model = onnxgrad.vjp(parsed(body))
    onnx.checker.check_model(model)
    assert not [n.op_type for n in model.graph.node if "Sequence" in n.op_type]


def test_sequence_that_is_used_in_a_branch_stays() -> None:
    """What a branch does with it may not be resolved, so the loop goes on making it."""
    body = """g (double[2] x, int64 n, bool c) => (double[K,2] z, double[2] w) {
        e = SequenceEmpty<dtype = 11>() w = Cos(x)
        h, s = Loop<body = b (int64 i, bool on, double[2] hh, seq(double[2]) ss)
            => (bool next, double[2] t, seq(double[2]) longer) {
            next = Identity(on) t = Sin(hh) longer = SequenceInsert(ss, t)
        }>(n, , x, e)
        z = If(c) <then_branch = a () => (double[P,2] p) { p = ConcatFromSequence<axis = 0, new_axis = 1>(s) },
                   else_branch = d () => (double[Q,2] q) { q = ConcatFromSequence<axis = 0, new_axis = 1>(s) }>
    }"""
    model = parsed(body)
    feeds = {"x": X[0, :2], "n": np.array(2), "c": np.array(True)}
    before = run(model, feeds)["z"]
    with pytest.raises(onnxgrad.NotDifferentiableError, match="ConcatFromSequence"):
        onnxgrad.vjp(model, of="z")
    other = onnxgrad.vjp(model, of="w", wrt="x")
    np.testing.assert_array_equal(run(other, {**feeds, "adj_w": np.ones(2)})["z"], before)
