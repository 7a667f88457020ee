"""Random networks, written in every form, compute what they do by hand, and have the derivatives by a complex step."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

import onnxgrad
from fixtures.make_matlab import inputs_of
from fixtures.matlab.networks import Layer, Network, Source, Step, Weight, kept, mapminmax, mapstd
from fixtures.matlab.saved import as_object, saved
from fixtures.matlab.text import Style, text_of
from onnxgrad.errors import DisconnectedWarning
from tests.importers import matlab_by_hand

#: Without netinv, hardlim and compet: poles and jumps make a comparison of two orders of summation meaningless.
TRANSFERS = "purelin tansig logsig softmax radbas radbasn elliotsig poslin satlin satlins tribas".split()
SAMPLES = 3


@st.composite
def sources(draw: Any, rng: np.random.Generator, output: int | None = None) -> Source:
    """An input, or what becomes of a layer of `output` neurons."""
    rows = output or draw(st.integers(1, 4))
    choices = ["none", "mapminmax", "mapstd", "removed"] + ([] if output else ["processpca"])
    match draw(st.sampled_from(choices)):
        case "mapminmax":
            return Source(rows, [mapminmax(rng, rows, output is not None)])
        case "mapstd":
            return Source(rows, [mapstd(rng, rows)])
        case "processpca":
            parts = draw(st.integers(1, rows))
            return Source(rows, [mapstd(rng, rows), Step("processpca", {"transform": rng.normal(size=(parts, rows))})])
        case "removed":
            where = np.sort(rng.permutation(rows + 2)[:rows]) + 1.0
            removed = np.setdiff1d(np.arange(rows + 2) + 1.0, where)
            fields = {"keep": where, "remove": removed}
            if output:
                fields = {"xrows": np.array([rows + 2.0]), **fields, "constants": rng.normal(size=2)}
            return Source(rows + 2, [Step("removeconstantrows", fields), mapminmax(rng, rows, output is not None)])
    return Source(rows)


@st.composite
def networks(draw: Any) -> Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    inputs = [draw(sources(rng)) for _ in range(draw(st.integers(1, 2)))]
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    timed = draw(st.booleans())

    def delays(least: int) -> tuple[int, ...]:
        return tuple(sorted(draw(st.sets(st.integers(least, 3), min_size=1, max_size=3)))) if timed else (0,)

    layers, weights = [], []
    for i, size in enumerate(sizes, 1):
        layers.append(Layer(draw(st.sampled_from(TRANSFERS)), rng.normal(size=size) if draw(st.booleans()) else None))
        for k, source in enumerate(inputs, 1):
            if i == 1 or draw(st.integers(0, 3)) == 0:
                ds = delays(0)
                weights.append(Weight("I", i, k, rng.normal(size=(size, kept(source) * len(ds))), ds))
        earlier = [k for k in range(1, i) if k == i - 1 or draw(st.integers(0, 3)) == 0]
        weights += [Weight("L", i, k, rng.normal(size=(size, sizes[k - 1]))) for k in earlier]
    if timed and draw(st.booleans()):
        of = draw(st.integers(1, len(sizes)))
        ds = delays(1)
        weights.append(Weight("L", 1, of, rng.normal(size=(sizes[0], sizes[of - 1] * len(ds))), ds))
    outputs = {len(sizes)} | ({1} if draw(st.booleans()) else set())
    return Network(inputs, layers, weights, {i: draw(sources(rng, sizes[i - 1])) for i in sorted(outputs)})


@st.composite
def styles(draw: Any, net: Network) -> Style:
    timed = bool(net.delays("I") or net.delays("L"))
    cell = draw(st.booleans())
    return Style(
        cell=cell,
        rows=draw(st.booleans()) and not timed,
        underscores=draw(st.booleans()),
        ends=draw(st.booleans()),
        indent=draw(st.sampled_from(["", "  "])),
        matrix_time=timed and not cell,
        gpu=False,
        short=draw(st.booleans()),
    )


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_networks(data: st.DataObject) -> None:
    net = data.draw(networks())
    rng = np.random.default_rng(1)
    given_ = {key: rng.normal(0, 2, (SAMPLES, rows * blocks)) for key, (rows, blocks) in inputs_of(net).items()}
    values = matlab_by_hand.evaluate(net, given_, SAMPLES)
    jacobians = matlab_by_hand.jacobians(net, given_, SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        function, file = Path(folder) / "net.m", Path(folder) / "net.mat"
        function.write_text(text_of("net", net, data.draw(styles(net))))
        savemat(file, {"net": as_object(saved(net))})
        for path in (function, file):
            f = onnxgrad.load(path)
            assert [port.name for port in f.inputs] == list(given_)
            found = f(given_)
            found = found if isinstance(found, dict) else {"y1": found}
            assert found.keys() == values.keys()
            for key, value in values.items():
                # Offsets and gains have 15 digits in a function, and are of tens where the network has numbers near 1.
                np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-12 * abs(value).max() + 1e-13)
            for (y, x), jacobian in jacobians.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DisconnectedWarning)
                    derivative = f.jacobian(given_, of=y, wrt=x)
                scale = abs(jacobian).max() + abs(values[y]).max()  # softmax saturates, and its derivative then cancels
                np.testing.assert_allclose(derivative, jacobian, rtol=0, atol=1e-12 * scale + 1e-13)
