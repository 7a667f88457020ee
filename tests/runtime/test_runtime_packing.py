"""Weights that are left as they are for a single row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from runtime_models import Net, model, value

import onnxgrad
from onnxgrad.runtime import packing

NET = Net(40, 400, 300, 2)  # 1.1 MB of weights in float64
X = np.random.default_rng(0).normal(size=(3, 40))
#: Sums of 400 products, in another order.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def kinds(f: onnxgrad.Function) -> set[str]:
    """Return which sessions the derivatives have made."""
    return {kind for program in f._programs.values() for kind in program._sessions._made}


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_single_row_is_run_without_copies(batch: int | str) -> None:
    net = Net(40, 400, 300, 2, batch=batch)
    f = onnxgrad.load(net.bytes)
    expected = net.jacobian(X[:1])[:, 1]
    for _ in range(3):  # the long way, and the short one
        np.testing.assert_allclose(f.gradient(X[:1], index=1).reshape(1, 40), expected, **CLOSE)
    assert kinds(f) == {"unpacked"}


def test_more_rows_have_their_copies() -> None:
    f = onnxgrad.load(NET.bytes)
    np.testing.assert_allclose(f.gradient(X, index=1), NET.jacobian(X)[:, 1], **CLOSE)
    np.testing.assert_allclose(f.gradient(X[:1], index=1), NET.jacobian(X[:1])[:, 1], **CLOSE)
    assert kinds(f) == {"as set", "unpacked"}


def test_a_row_for_each_output_is_more_rows() -> None:
    f = onnxgrad.load(NET.bytes)
    np.testing.assert_allclose(f.jacobian(X[:1]), NET.jacobian(X[:1]), **CLOSE)
    assert kinds(f) == {"as set"}


@pytest.mark.parametrize(
    "options",
    [
        {"session_options": onnxgrad.runtime.session.ort.SessionOptions},
        {"providers": ["CPUExecutionProvider"], "session_options": onnxgrad.runtime.session.ort.SessionOptions},
    ],
)
def test_sessions_of_others_stay_as_they_are(options: dict[str, Any]) -> None:
    f = onnxgrad.load(NET.bytes, **options)
    f.gradient(X[:1], index=1)
    assert kinds(f) == {"as set"}


def test_small_weights_have_their_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_LEAST_BYTES", 2**22)
    f = onnxgrad.load(NET.bytes)
    f.gradient(X[:1], index=1)
    assert kinds(f) == {"as set"}


def test_other_operators_keep_theirs() -> None:
    rng = np.random.default_rng(1)
    weights = {"k": rng.normal(size=(64, 128, 6, 6)).astype("f4"), "w": rng.normal(size=(64, 2)).astype("f4")}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    ports = [value("x", ["N", 128, 6, 6], np.float32)], [value("y", ["N", 2], np.float32)]
    f = onnxgrad.load(model(nodes, *ports, weights))
    x = rng.normal(size=(1, 128, 6, 6)).astype("f4")
    expected = np.einsum("o,oijk->ijk", weights["w"][:, 1], weights["k"])
    np.testing.assert_allclose(f.gradient(x, index=1)[0], expected, rtol=1e-4, atol=1e-5)  # float32, 64 terms
    assert kinds(f) == {"as set"}
