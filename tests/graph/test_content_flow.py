"""Sizes that are followed through branches, and splits, as function bodies and exporters write them."""

from __future__ import annotations

import numpy as np
import pytest

import onnxgrad
from tests.flow import check_flow, parsed


def test_sizes_through_a_branch_and_a_split() -> None:
    """A rank that follows from elements that a known branch gives, and from the parts of a list."""
    body = """g (double[2,3] x) => (double[3,2] y) <int64[2] sizes = {3, 2}, int64 two = {2}> {
        n = Size(sizes) known = Equal(n, two)
        h, w = If(known) <
            then_branch = a () => (int64[1] p, int64[1] q) { p, q = Split<num_outputs = 2>(sizes) },
            else_branch = b () => (int64[1] r, int64[1] s) { r = Identity(sizes) s = Identity(sizes) }
        >
        shape = Concat<axis = 0>(h, w) z = Reshape(x, shape) y = Sin(z)
    }"""
    check_flow(parsed(body), {"x": np.arange(6.0).reshape(2, 3)})


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_the_larger_of_one_open_size_and_itself(op: str) -> None:
    """As tf2onnx writes an Einsum: sizes are broadcast by hand, so samples stay apart only if they are followed."""
    body = f"""g (double[N,6] x) => (double[N,2,3] y) <int64[1] axis = {{0}}, int64[2] image = {{2, 3}}> {{
        s = Shape(x) a = Gather(s, axis) w = Sin(x) t = Shape(w) b = Gather(t, axis)
        n = {op}(a, b) shape = Concat<axis = 0>(n, image) z = Reshape(w, shape) y = Sin(z)
    }}"""
    check_flow(parsed(body), {"x": np.arange(12.0).reshape(2, 6)})
    assert onnxgrad.load(parsed(body)).jacobian(np.arange(12.0).reshape(2, 6)).shape == (2, 2, 3, 6)


def test_rank_of_an_expansion_to_sizes_that_are_fed() -> None:
    body = """g (double[3] x, int64[2] shape) => (double[A,B] y) { e = Expand(x, shape) y = Sin(e) }"""
    check_flow(parsed(body), {"x": np.arange(3.0), "shape": np.array([2, 1])})


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_sizes_that_follow_from_a_remainder(fmod: int, sign: int) -> None:
    """As PyTorch's `unflatten` is exported: an axis counted from the end is found by ``axis mod rank``."""
    body = f"""g (double[2,12] x) => (double[a,b,c] y) <int64[1] zero = {{0}}, int64[2] tail = {{3, 4}}> {{
        axis = Constant<value = int64[1] {{-1}}>() rank = Constant<value = int64[1] {{{sign * 2}}}>()
        end = Mod<fmod = {fmod}>(axis, rank) sizes = Shape(x)
        head = Slice(sizes, zero, end) shape = Concat<axis = 0>(head, tail) z = Reshape(x, shape) y = Sin(z)
    }}"""
    check_flow(parsed(body), {"x": np.arange(24.0).reshape(2, 12)})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "g (double[N,1,3] x) => (double[M] y) { s = Squeeze(x) y = Sin(s) }",
            r"Squeeze .* takes out axes of size 1, which depends on the open sizes in \['N', 1, 3\]",
        ),
        (
            """g (double[N,3] x, bool c) => (double[M] y) <int64[1] zero = {0}> {
                s = If(c) <then_branch = a () => (double[K] p) { p = Squeeze(x, zero) },
                           else_branch = b () => (double[L,M] q) { q = Identity(x) }>
                y = Sin(s)
            }""",
            r"If .* it gives 's' different ranks in its branches \(1, 2\)",
        ),
    ],
)
def test_ranks_that_depend_on_what_is_known_at_run_time_are_refused(body: str, words: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=words):
        onnxgrad.vjp(parsed(body))
