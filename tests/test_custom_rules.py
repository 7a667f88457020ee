"""Rules of one's own, for operators and functions of any domain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

import onnxgrad
from onnxgrad.rules import REGISTRY
from tests.test_transforms import EXACT, run

X = np.random.default_rng(5).normal(size=(4, 3))


def model_with_function() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 20, "my.own": 1]>
        g (double[N,3] x) => (double[N,3] y) { c = my.own.Cube(x)  y = Sin(c) }
        <domain: "my.own", opset_import: ["": 20]>
        Cube (a) => (b) { s = Mul(a, a)  b = Mul(s, a) }"""
    )


@pytest.fixture
def _clean() -> Iterator[None]:
    yield
    REGISTRY.remove("my.own::Cube")


def expected() -> np.ndarray:
    return np.einsum("ni,ij->nij", np.cos(X**3) * 3 * X**2, np.eye(3))


def test_functions_are_differentiated_through_their_bodies() -> None:
    augmented = onnxgrad.jacobian(model_with_function())
    np.testing.assert_allclose(run(augmented, x=X)["jac_y_x"], expected(), **EXACT)
    assert not augmented.functions


@pytest.mark.usefixtures("_clean")
def test_a_function_with_a_rule_is_kept() -> None:
    seen = []

    @onnxgrad.register("Cube", domain="my.own", samples_axis_0=True)
    def cube(op, node, ct):  # type: ignore[no-untyped-def]
        seen.append(node.operator)
        return ct * 3.0 * node.x * node.x

    augmented = onnxgrad.jacobian(model_with_function())
    assert set(seen) == {"my.own::Cube"}
    assert [f.name for f in augmented.functions] == ["Cube"]
    np.testing.assert_allclose(run(augmented, x=X)["jac_y_x"], expected(), **EXACT)


@pytest.mark.usefixtures("_clean")
def test_samples_are_not_assumed_to_stay_apart() -> None:
    onnxgrad.register("Cube", domain="my.own")(lambda op, node, ct: ct * 3.0 * node.x * node.x)
    with pytest.raises(onnxgrad.MixedSamplesError, match=r"my\.own::Cube"):
        onnxgrad.jacobian(model_with_function())
    full = run(onnxgrad.jacobian(model_with_function(), batched=False), x=X)["jac_y_x"]
    np.testing.assert_allclose(full, np.einsum("nij,nm->nimj", expected(), np.eye(4)), **EXACT)


@pytest.mark.usefixtures("_clean")
def test_a_second_rule_must_say_that_it_replaces_the_first() -> None:
    onnxgrad.register("Cube", domain="my.own")(lambda op, node, ct: ct)
    with pytest.raises(ValueError, match="replace=True"):
        onnxgrad.register("Cube", domain="my.own")(lambda op, node, ct: ct)
    onnxgrad.register("Cube", domain="my.own", replace=True)(lambda op, node, ct: ct * 2.0)


@pytest.mark.usefixtures("_clean")
def test_a_rule_may_refuse() -> None:
    @onnxgrad.register("Cube", domain="my.own")
    def cube(op, node, ct):  # type: ignore[no-untyped-def]
        raise onnxgrad.Refusal("it is Tuesday", "come back tomorrow")

    with pytest.raises(onnxgrad.NotDifferentiableError, match=r"my\.own::Cube.*it is Tuesday; come back tomorrow"):
        onnxgrad.vjp(model_with_function())
