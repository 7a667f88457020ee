"""Determinants."""

from __future__ import annotations

import numpy as np
import pytest

import onnxgrad
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model

rng = np.random.default_rng(12)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def of_rank(n: int, rank: int) -> np.ndarray:
    return a(n, rank) @ a(rank, n)


CASES = [
    *(Case("Det", [a(n, n)], label=str(n)) for n in (1, 2, 3, 4, 5)),
    Case("Det", [a(2, 3, 3)], label="batch"),
    Case("Det", [a(2, 1, 4, 4)], label="batch-4"),
    Case("Det", [a(0, 3, 3)], label="no-matrices"),
    Case("Det", [a(2, 2, 2)], label="old", opset=18),
    *(Case("Det", [of_rank(n, rank)], label=f"rank-{rank}-of-{n}") for n, rank in ((2, 1), (3, 1), (3, 2), (4, 3))),
    Case("Det", [of_rank(4, 2)], label="rank-2-of-4"),
    *(Case("Det", [np.zeros((n, n))], label=f"zeros-{n}") for n in (2, 3, 4)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_of_the_inverse(n: int, dynamic: bool) -> None:
    """``det(A) · A⁻ᵀ``, where there is an inverse."""
    x = a(3, n, n)
    model = make_model(Case("Det", [x]), dynamic=dynamic)
    found = Runner(onnxgrad.vjp(model))({"x0": x, "adj_y0": np.ones(3)})["adj_x0"]
    close(found, np.linalg.det(x)[:, None, None] * np.swapaxes(np.linalg.inv(x), 1, 2), 1e-12, "cofactors")


def test_third_derivative_of_a_singular_matrix() -> None:
    """``d³ det / da₁₁ da₂₂ da₃₃ = 1`` at zero, where all lower derivatives vanish."""
    model = make_model(Case("Det", [np.zeros((4, 4))[None]]))
    x = np.zeros((1, 4, 4))
    x[0, 3, 3] = 2.0
    units = np.zeros((3, 1, 4, 4))
    units[range(3), 0, range(3), range(3)] = 1
    for _ in range(3):
        model = onnxgrad.jvp(model, model.graph.output[-1].name, "x0")
    feeds = {"x0": x, **{i.name: u for i, u in zip(list(model.graph.input)[1:], units, strict=True)}}
    close(Runner(model)(feeds)[model.graph.output[-1].name], np.array([2.0]), 1e-14, "third derivative")


def test_half_precision() -> None:
    x = a(2, 4, 4).astype(np.float16)
    added = onnxgrad.vjp(make_model(Case("Det", [x.astype(float)]), np.float16))
    found = Runner(added, only_runtime=True)({"x0": x, "adj_y0": np.ones(2, np.float16)})["adj_x0"]
    exact = np.linalg.det(x.astype(float))[:, None, None] * np.swapaxes(np.linalg.inv(x.astype(float)), 1, 2)
    close(found, exact, 1e-3, "adj_x0")  # rounding of the result


def test_samples() -> None:
    check_samples(Case("Det", [a(2, 3, 2, 2)]), [0, 1])
