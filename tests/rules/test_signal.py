"""Fourier transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.harness import Case, Runner, check_rule, check_samples, close, make_model

rng = np.random.default_rng(11)


def a(*shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def n(value: int) -> np.ndarray:
    return np.array(value, np.int64)


def dft(label: str, x: np.ndarray, length: int | None = None, axis: int | None = None, **options: Any) -> Case:
    """A transform; up to opset 19 the axis is an attribute."""
    attrs = {name: options.pop(name) for name in ("inverse", "onesided") if name in options}
    inputs = [x, None if length is None else n(length), None if axis is None else n(axis)]
    if options.get("opset", 22) < 20:
        attrs |= {} if axis is None else {"axis": axis}
        inputs.pop()
    while inputs[-1] is None:
        inputs.pop()
    return Case("DFT", inputs, attrs, label=label, smooth=False, **options)


def stft(label: str, x: np.ndarray, step: int, window: Any = None, length: int | None = None, **options: Any) -> Case:
    attrs = {name: options.pop(name) for name in ("onesided",) if name in options}
    inputs = [x, n(step), window, None if length is None else n(length)]
    while inputs[-1] is None:
        inputs.pop()
    return Case("STFT", inputs, attrs, label=label, **options)


#: (inverse, onesided, parts of the input)
KINDS = [(0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 2), (1, 1, 2)]

CASES = [
    *(
        dft(f"{i}{o}{c}-{length}", a(2, 5, c), length, inverse=i, onesided=o, fed=[1] if length == 6 else [])
        for i, o, c in KINDS
        for length in (None, 3, 4, 6, 9)
    ),
    *(
        dft(f"axis-{axis}-{i}{o}{c}", a(3, 2, 4, c), None, axis, inverse=i, onesided=o)
        for axis in (0, -3)
        for i, o, c in KINDS
    ),
    *(
        dft(f"fed-axis-{i}{o}{c}", a(2, 5, 3, c), length, axis, inverse=i, onesided=o, fed=[1, 2])
        for axis, length in ((1, None), (-3, 4))
        for i, o, c in KINDS
    ),
    *(dft(f"old-{i}{o}{c}", a(2, 5, 3, c), 6, 2, inverse=i, onesided=o, opset=18) for i, o, c in KINDS[:4]),
    dft("old-default", a(2, 5, 3, 1), onesided=1, opset=19),
    dft("default", a(2, 5, 3, 1), onesided=1),
    dft("one-element", a(2, 1, 1), onesided=1),
    dft("one-batch", a(1, 4, 2), inverse=1),
    stft("window", a(2, 10, 1), 3, a(4)),
    stft("odd-window", a(2, 10, 1), 2, a(5)),
    stft("fixed-window", a(2, 10, 1), 3, a(4), fixed=[2], smooth=False),
    stft("window-and-length", a(2, 10, 1), 4, a(4), 4),
    stft("length", a(2, 10, 1), 2, None, 4, smooth=False),
    stft("fed-length", a(2, 10, 1), 2, None, 4, fed=[1, 3], smooth=False),
    stft("fed-step", a(2, 10, 1), 2, a(4), fed=[1]),
    stft("two-sided", a(2, 10, 1), 2, a(4), onesided=0),
    stft("complex", a(1, 10, 2), 3, a(4), onesided=0),
    stft("whole", a(2, 6, 1), 3, None, None, smooth=False, float32=None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule(case: Case) -> None:
    check_rule(case)


@pytest.mark.parametrize(
    ("case", "kept"),
    [
        (dft("", a(2, 3, 4, 1), onesided=1), [0, 1]),
        (dft("", a(2, 3, 4, 2), 2, 0), [1, 2]),
        (stft("", a(2, 6, 1), 2, a(3), fixed=[2]), [0]),
    ],
    ids=["dft", "dft-axis", "stft"],
)
def test_samples(case: Case, kept: list[int]) -> None:
    check_samples(case, kept)


def test_a_fed_axis_may_be_that_of_the_samples() -> None:
    case = dft("", a(2, 3, 1), None, 1, fed=[2])
    with pytest.raises(onnxgrad.MixedSamplesError, match="axis that it works along is not known"):
        onnxgrad.jacobian(make_model(case, dynamic=True), batched=True)


def test_frequencies_without_a_mirror_count_once() -> None:
    """The one-sided inverse by hand: the mean of all frequencies, of which those in between come twice."""
    x = np.zeros((1, 3, 2))
    for length, expected in ((4, [1, 2, 1]), (5, [1, 2, 2]), (3, [1, 2, 0]), (2, [1, 1, 0]), (1, [1, 0, 0])):
        model = make_model(dft("", x, length, inverse=1, onesided=1))
        ct = np.zeros((1, length, 1))
        ct[0, 0] = length
        found = Runner(onnxgrad.vjp(model))({"x0": x, "adj_y0": ct})["adj_x0"]
        close(found[0, :, 0], np.array(expected, float), 1e-15, f"length {length}")
        assert not found[0, :, 1].any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_types(dtype: type) -> None:
    """Half precision is transformed in float32, by onnxruntime."""
    x = a(2, 6, 1)
    model = make_model(dft("", x, onesided=1), dtype)
    run = Runner(onnxgrad.vjp(model), only_runtime=True)
    ct = a(2, 4, 2)
    exact = Runner(onnxgrad.vjp(make_model(dft("", x, onesided=1))))({"x0": x, "adj_y0": ct})["adj_x0"]
    found = run({"x0": x.astype(dtype), "adj_y0": ct.astype(dtype)})["adj_x0"]
    assert found.dtype == dtype
    close(found, exact, 16 * float(np.finfo(dtype).eps), "adj_x0")  # a sum of 6 products


def test_mel_weights_are_steps() -> None:
    """They do not change with the edge frequencies between the jumps of whole frequency bins."""
    text = """<ir_version: 9, opset_import: ["" : 22]> g (double low, double high) => (double[N, M] y) {
        bins = Constant<value = int64 {8}>() length = Constant<value = int64 {64}>()
        rate = Constant<value = int64 {8192}>()
        y = MelWeightMatrix<output_datatype = 11>(bins, length, rate, low, high)
    }"""
    model = onnx.parser.parse_model(text)
    plain = Runner(model)
    low, high = np.array(21.0), np.array(3217.0)
    near = [plain({"low": low + d, "high": high - d})["y"] for d in (-1e-3, 0, 1e-3)]
    assert np.abs(near[1]).sum() > 1
    np.testing.assert_array_equal(near[0], near[1])
    np.testing.assert_array_equal(near[2], near[1])
    with pytest.warns(onnxgrad.DisconnectedWarning, match="steps"):
        added = onnxgrad.vjp(model)
    found = Runner(added)({"low": low, "high": high, "adj_y": np.ones_like(near[1])})
    assert found["adj_low"] == found["adj_high"] == 0
