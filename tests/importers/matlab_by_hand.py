"""Networks by hand: what the networks of fixtures/matlab compute, in numpy, for complex numbers too.

Nothing of the importer is used, so derivatives by a complex step are independent of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fixtures.matlab.networks import Network, Source, Step

Array = np.ndarray[Any, Any]


def softmax(n: Array) -> Array:
    raised = np.exp(n - n.real.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def absolute(n: Array) -> Array:
    return n * np.sign(n.real)


def between(n: Array, low: float, high: float) -> Array:
    return np.where(n.real < low, low, np.where(n.real > high, high, n))


#: Of rows; where a function has pieces, the real part says which.
TRANSFER: dict[str, Callable[[Array], Array]] = {
    "purelin": lambda n: n,
    "tansig": np.tanh,
    "logsig": lambda n: 1 / (1 + np.exp(-n)),
    "softmax": softmax,
    "radbas": lambda n: np.exp(-n * n),
    "radbasn": lambda n: softmax(-n * n),
    "netinv": lambda n: 1 / n,
    "elliotsig": lambda n: n / (1 + absolute(n)),
    "poslin": lambda n: between(n, 0, np.inf),
    "satlin": lambda n: between(n, 0, 1),
    "satlins": lambda n: between(n, -1, 1),
    "tribas": lambda n: between(1 - absolute(n), 0, np.inf),
    "hardlim": lambda n: (n.real >= 0) * 1.0,
    "hardlims": lambda n: np.where(n.real >= 0, 1.0, -1.0),
    "compet": lambda n: np.eye(n.shape[1])[n.real.argmax(axis=1)],
}


def apply(step: Step, x: Array) -> Array:
    s = step.settings
    if step.function == "mapminmax":
        return (x - s["xoffset"]) * s["gain"] + s["ymin"]
    if step.function == "mapstd":
        return (x - s["xoffset"]) * s["gain"] + s["ymean"]
    if step.function == "processpca":
        return x @ s["transform"].T
    return x[:, s["keep"].astype(int) - 1]


def reverse(step: Step, y: Array) -> Array:
    s = step.settings
    if step.function == "mapminmax":
        return (y - s["ymin"]) / s["gain"] + s["xoffset"]
    if step.function == "mapstd":
        return (y - s["ymean"]) / s["gain"] + s["xoffset"]
    x = np.zeros((len(y), int(s["xrows"][0])), dtype=y.dtype)
    x[:, s["keep"].astype(int) - 1] = y
    x[:, s["remove"].astype(int) - 1] = s["constants"]
    return x


def processed(source: Source, x: Array) -> Array:
    for step in source.steps:
        x = apply(step, x)
    return x


def evaluate(net: Network, given: dict[str, Array], samples: int) -> dict[str, Array]:
    """Return the outputs by name; inputs are called as the model's, their rows are samples."""
    outputs: dict[int, Array] = {}

    def block(name: str, rows: int, delay: int) -> Array:
        depth = given[name].shape[1] // rows
        return given[name][:, (depth - delay) * rows : (depth - delay + 1) * rows]

    def tap(kind: str, of: int, delay: int) -> Array:
        if kind == "L":
            return block(f"ai{of}", net.size(of), delay) if delay else outputs[of]
        source = net.inputs[of - 1]
        return processed(source, block(f"xi{of}", source.rows, delay) if delay else given[f"x{of}"])

    for i, layer in enumerate(net.layers, 1):
        terms = [] if layer.bias is None else [np.broadcast_to(layer.bias, (samples, len(layer.bias)))]
        for w in (w for w in net.weights if w.to == i):
            p = np.concatenate([tap(w.kind, w.of, delay) for delay in w.delays], axis=1)
            if layer.weight_function == "dotprod":
                terms.append(p @ w.matrix.T)
            else:
                distance = np.sqrt(((p[:, None] - w.matrix[None]) ** 2).sum(axis=2))
                terms.append(-distance if layer.weight_function == "negdist" else distance)
        n = np.prod(terms, axis=0) if layer.weight_function == "dist" else np.sum(terms, axis=0)
        outputs[i] = TRANSFER[layer.transfer](n)
    found = {}
    for o, (i, source) in enumerate(net.outputs.items(), 1):
        y = outputs[i]
        for step in reversed(source.steps):
            y = reverse(step, y)
        found[f"y{o}"] = y
    return found


def jacobians(net: Network, given: dict[str, Array], samples: int, step: float = 1e-20) -> dict[tuple[str, str], Array]:
    """Return the Jacobians per sample, by output and input: ``imag(f(x + ih)) / h``."""
    found: dict[tuple[str, str], list[Array]] = {}
    for name, x in given.items():
        for j in range(x.shape[1]):
            moved = x.astype(complex)
            moved[:, j] += 1j * step
            for output, y in evaluate(net, {**given, name: moved}, samples).items():
                found.setdefault((output, name), []).append(np.imag(y) / step)
    return {key: np.stack(columns, axis=2) for key, columns in found.items()}
