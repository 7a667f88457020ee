"""Convolution and its transpose."""

from __future__ import annotations

import numpy as np
import pytest

from tests.harness import Case, check_rule

rng = np.random.default_rng(3)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


CASES = [
    Case("Conv", [a(2, 2, 5), a(3, 2, 3), a(3)], {"kernel_shape": [3]}, label="1d"),
    Case("Conv", [a(2, 2, 4, 5), a(3, 2, 3, 2), a(3)], {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1]}, label="2d"),
    Case("Conv", [a(1, 2, 3, 4, 3), a(2, 2, 2, 2, 2)], {"kernel_shape": [2, 2, 2], "pads": [0, 1, 0, 1, 0, 1], "strides": [1, 2, 1]}, label="3d"),
    Case("ConvTranspose", [a(2, 2, 5), a(2, 3, 3), a(3)], {"kernel_shape": [3]}, label="1d"),
    Case("ConvTranspose", [a(2, 2, 5), a(2, 3, 3), a(3)], {"kernel_shape": [3], "strides":[2],"pads":[1,0],"output_padding":[1]}, label="1d-s"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)
