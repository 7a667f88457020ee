"""Images sampled at given points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxgrad
from tests.expressions import check_expression
from tests.harness import Case, Runner, check_rule, close, make_model

rng = np.random.default_rng(8)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def points(*shape: int, lengths: tuple[int, ...], reach: float = 1.9) -> np.ndarray:
    """Points inside and outside of ``[-1, 1]``, none near a place where a pixel gives way to the next.

    In both conventions these places are whole and half pixels, or points whose reflections are.
    """
    found = rng.uniform(-reach, reach, size=shape)
    for j, length in enumerate(reversed(lengths)):  # x first
        g = found[..., j]
        for _ in range(100):
            pixel = np.stack([(g + 1) / 2 * (length - 1), ((g + 1) * length - 1) / 2])
            near = (np.abs(2 * pixel - np.round(2 * pixel)) < 0.1).any(axis=0) | (np.abs(np.abs(g) - 1) < 0.05)
            g[near] = rng.uniform(-reach, reach, size=int(near.sum()))
    return found


def sample(label: str, image: np.ndarray, grid: np.ndarray, **attrs: Any) -> Case:
    options = {name: attrs.pop(name) for name in ("opset", "fixed", "smooth", "dynamic") if name in attrs}
    return Case("GridSample", [image, grid], attrs, label=label, **options)


flat, flat_points = a(2, 2, 3, 4), points(2, 2, 3, 2, lengths=(3, 4))
small = a(1, 1, 3, 4), points(1, 2, 2, 2, lengths=(3, 4))
deep, deep_points = a(1, 2, 2, 3, 4), points(1, 1, 2, 2, 3, lengths=(2, 3, 4))

CASES = [
    *(
        sample(
            f"linear-{padding}-{aligned}",
            flat,
            flat_points,
            padding_mode=padding,
            align_corners=aligned,
            dynamic=aligned == 0,
            smooth=padding == "border",
        )
        for padding in ("zeros", "border", "reflection")
        for aligned in (0, 1)
    ),
    *(
        sample(
            f"cubic-{padding}-{aligned}",
            *small,
            mode="cubic",
            padding_mode=padding,
            align_corners=aligned,
            dynamic=padding == "reflection" and not aligned,
            smooth=padding == "border",
        )
        for padding, aligned in (("zeros", 0), ("border", 1), ("reflection", 0), ("reflection", 1))
    ),
    *(
        sample(f"nearest-{padding}", flat, flat_points, mode="nearest", padding_mode=padding, fixed=[1])
        for padding in ("zeros", "border", "reflection")
    ),
    *(
        sample(
            f"deep-{padding}",
            deep,
            deep_points,
            padding_mode=padding,
            align_corners=i % 2,
            dynamic=i == 0,
            smooth=False,
        )
        for i, padding in enumerate(("zeros", "border", "reflection"))
    ),
    sample("deep-nearest", deep, deep_points, mode="nearest", fixed=[1]),
    sample("one-pixel", a(1, 1, 1, 1), points(1, 2, 2, 2, lengths=(1, 1)), padding_mode="zeros"),
    sample("one-pixel-row", a(1, 1, 1, 3), points(1, 2, 2, 2, lengths=(1, 3)), padding_mode="reflection"),
    sample("one-point", a(1, 1, 2, 3), points(1, 1, 1, 2, lengths=(2, 3))),
    *(
        Case("AffineGrid", [a(2, 2, 3), np.array([2, 3, 2, 4])], {"align_corners": c}, label=f"flat-{c}", smooth=False)
        for c in (0, 1)
    ),
    Case("AffineGrid", [a(2, 3, 4), np.array([2, 3, 2, 4, 3])], label="deep", smooth=False),
    Case("AffineGrid", [a(2, 2, 3), np.array([2, 3, 2, 4])], label="fed", smooth=False, fed=[1]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_old_names(mode: str) -> None:
    """Until opset 20 modes had other names, which ONNX's reference does not know."""
    check_expression(sample("", flat, flat_points, mode=mode, opset=18, padding_mode="border", fixed=[1]))


def test_nearest_is_constant_in_its_points() -> None:
    model = make_model(sample("", flat, flat_points, mode="nearest"))
    with_vjp = onnxgrad.vjp(model, wrt="x1")
    found = Runner(with_vjp)({"x0": flat, "x1": flat_points, "adj_y0": np.ones((2, 2, 2, 3))})
    assert not found["adj_x1"].any()


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_per_sample(mode: str) -> None:
    model = make_model(sample("", flat, flat_points, mode=mode, padding_mode="border"))
    feeds = {"x0": flat, "x1": flat_points}
    for x in feeds:
        per_sample, whole = (
            Runner(onnxgrad.jacobian(model, wrt=x, batched=batched))(feeds)[f"jac_y0_{x}"] for batched in (True, False)
        )
        for n in range(2):
            close(per_sample[n], np.take(whole[n], n, axis=3), 1e-12, f"sample {n} of {x}")


def test_cubic_in_space() -> None:
    case = sample("", deep, deep_points, mode="cubic")
    with pytest.raises(onnxgrad.NotDifferentiableError, match="two axes"):
        onnxgrad.vjp(make_model(case))
