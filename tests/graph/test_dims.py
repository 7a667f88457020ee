"""Exact arithmetic on symbolic sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgrad.graph.dims import (
    Dim,
    atoms_of,
    broadcast,
    broadcast_of,
    dim_add,
    dim_div,
    dim_floordiv,
    dim_mul,
    dim_sub,
    evaluate,
)

NAMES = ["N", "H", "W"]


def expressions() -> st.SearchStrategy[tuple[Dim, object]]:
    """Sizes, each with a function that computes it from numbers."""
    leaves = st.one_of(
        st.integers(0, 9).map(lambda i: (i, lambda s: i)),
        st.sampled_from(NAMES).map(lambda n: (n, lambda s: s[n])),
    )

    def grow(children: st.SearchStrategy) -> st.SearchStrategy:
        pairs = st.tuples(children, children)
        return st.one_of(
            pairs.map(lambda p: (dim_add(p[0][0], p[1][0]), lambda s: p[0][1](s) + p[1][1](s))),
            pairs.map(lambda p: (dim_sub(p[0][0], p[1][0]), lambda s: p[0][1](s) - p[1][1](s))),
            pairs.map(lambda p: (dim_mul(p[0][0], p[1][0]), lambda s: p[0][1](s) * p[1][1](s))),
            st.tuples(children, st.integers(1, 4)).map(
                lambda p: (dim_floordiv(p[0][0], p[1]), lambda s: p[0][1](s) // p[1])
            ),
        )

    return st.recursive(leaves, grow, max_leaves=8)


@given(expressions(), st.lists(st.integers(0, 20), min_size=3, max_size=3))
def test_arithmetic_is_exact(expression: tuple, numbers: list[int]) -> None:
    dim, compute = expression
    sizes = dict(zip(NAMES, numbers, strict=True))
    assert evaluate(dim, sizes) == compute(sizes)


@given(expressions())
def test_spelling_is_canonical(expression: tuple) -> None:
    """Reading a spelling back gives the same spelling, so equal text is all that equality needs."""
    dim = expression[0]
    assert dim_add(dim, 0) == dim
    assert dim_sub(dim_add(dim, "K"), "K") == dim
    assert dim_add(dim_sub(dim, dim), 3) == 3


@given(expressions(), st.sampled_from(["K", 3, "2*K"]))
def test_division_undoes_multiplication(expression: tuple, factor: Dim) -> None:
    dim = expression[0]
    if dim != 0:
        assert dim_div(dim_mul(dim, factor), factor) == dim


def test_division_that_is_not_known_to_be_exact_is_none() -> None:
    assert dim_div("N", 2) is None
    assert dim_div(7, 2) is None
    assert dim_div("N*H", "W") is None
    assert dim_div("N", "N+1") is None


def test_two_ways_to_one_size() -> None:
    """A stride-2 convolution with kernel 3 and padding 1, and one with kernel 1 and no padding, give the same size."""
    one = dim_add(dim_floordiv(dim_sub(dim_add("H", 2), 3), 2), 1)
    other = dim_add(dim_floordiv(dim_sub("H", 1), 2), 1)
    assert one == other == "((H+1)//2)"


@pytest.mark.parametrize("name", ["batch size", "unk__0", "?x", "floor(s0/2)", "Max(1,s0)", "a-b", "x.y", "()"])
def test_any_name_is_a_size(name: str) -> None:
    assert dim_add(name, 0) == name
    assert dim_sub(dim_add(name, 5), 5) in (name, dim_add(name, 5, -5))


def test_broadcast() -> None:
    assert broadcast(("N", 1), (3,)) == ("N", 3)
    assert broadcast(("N",), (5,)) == (5,)
    both = broadcast(("N",), ("M",))
    assert both == ("broadcast(M,N)",)
    assert broadcast(both, ("N",)) == both
    assert broadcast(both, ("K",)) == ("broadcast(K,M,N)",)
    assert broadcast_of("broadcast(M,((N+1)//2))") == ["M", "((N+1)//2)"]
    assert broadcast_of("2*broadcast(M,N)") is None
    assert dim_div(dim_mul(both[0], 6), 3) == dim_mul(2, both[0])
    assert atoms_of(dim_mul(both[0], "K")) == {"broadcast(M,N)", "K"}
