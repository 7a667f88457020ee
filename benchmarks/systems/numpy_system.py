"""Derivatives of fully connected networks, written by hand in numpy."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.systems.registry import Unsupported, Way
from benchmarks.tasks import Task

Array = np.ndarray[Any, Any]
#: Weights and biases of each layer.
Layers = list[tuple[Array, Array]]


def ways(task: Task, threads: int) -> dict[str, Way]:  # noqa: ARG001 - numpy's threads are those of the environment
    """Return the ways to multiply the factors of a Jacobian, and the only way of all else."""
    network = task.network
    if not network.sizes:
        raise Unsupported("only fully connected networks are written by hand")
    layers = [(network.weights[f"w{i}"], network.weights[f"b{i}"]) for i in range(1, len(network.sizes))]
    x = network.input(task.batch)
    match task.asked:
        case "jacobian":
            inner = network.sizes[1:-1]
            narrowest = 1 + min(range(len(inner)), key=inner.__getitem__)
            starts = {"from the output": len(layers), "from the input": 0}
            if inner[narrowest - 1] < min(network.sizes[0], network.sizes[-1]):
                starts["from the narrowest layer"] = narrowest
            return {how: partial(jacobian, layers, x, start) for how, start in starts.items()}
        case "weights":
            return {"by hand": partial(weight_gradients, layers, x, network.cotangent(task.batch))}
        case "hessian":
            return {"by hand": partial(hessian, layers, x)}
        case "hvp":
            return {"by hand": partial(hessian_product, layers, x, network.direction(task.batch))}
    raise Unsupported(f"{task.asked} is not written by hand")


def activations(layers: Layers, x: Array) -> list[Array]:
    """Return the input of every layer."""
    found = [x]
    for w, b in layers[:-1]:
        found.append(np.tanh(found[-1] @ w.T + b))
    return found


def jacobian(layers: Layers, x: Array, start: int) -> Array:
    """Return the product of all layers' Jacobians, ``W_L D_{L-1} W_{L-1} … D_1 W_1`` with ``D = diag(1 - h²)``.

    The factors are multiplied from the value behind layer `start` on, outward to both ends, and the two products
    last. At the output that is reverse mode, at the input forward mode.
    """
    slopes = [1 - h * h for h in activations(layers, x)]
    weights = [w for w, _ in layers]
    n, total = len(x), len(layers)
    left = right = None
    if start < total:  # what comes behind, from left to right: the columns of the product are those of layer `start`
        left = np.broadcast_to(weights[start], (n, *weights[start].shape))
        for layer in range(start + 1, total):
            left = np.matmul(weights[layer], slopes[layer][:, :, None] * left)
    if start > 0:
        right = np.broadcast_to(weights[start - 1], (n, *weights[start - 1].shape))
        for layer in range(start - 2, -1, -1):
            right = (right * slopes[layer + 1][:, None, :]).reshape(-1, len(weights[layer])) @ weights[layer]
            right = right.reshape(n, -1, weights[layer].shape[1])
    if left is None or right is None:
        return np.array(right if left is None else left)
    return np.matmul(left * slopes[start][:, None, :], right)


def weight_gradients(layers: Layers, x: Array, target: Array) -> dict[str, Array]:
    """Return the mean squared error, and its gradient by all weights, by backpropagation."""
    inputs = activations(layers, x)
    w, b = layers[-1]
    error = inputs[-1] @ w.T + b - target
    found = {"cost": np.mean(error * error)}
    ct = error * np.float32(2 / error.size)
    for i in range(len(layers), 0, -1):
        h = inputs[i - 1]
        found |= {f"w{i}": ct.T @ h, f"b{i}": ct.sum(axis=0)}
        if i > 1:
            ct = (ct @ layers[i - 1][0]) * (1 - h * h)
    return found


def hessian(layers: Layers, x: Array) -> Array:
    """Return ``Σ_l A_lᵀ diag(g_l φ''_l) A_l`` over the hidden layers: `A_l` is the Jacobian of what enters the tanh of
    a layer, `g_l` the gradient of the output by what leaves it, and ``φ'' = -2 h (1 - h²)``.
    """
    inputs = activations(layers, x)
    slopes = [1 - h * h for h in inputs]
    n, hidden = len(x), len(layers) - 1
    entering = [np.broadcast_to(layers[0][0], (n, *layers[0][0].shape))]
    for layer in range(1, hidden):
        entering.append(np.matmul(layers[layer][0], slopes[layer][:, :, None] * entering[-1]))
    result = np.zeros((n, x.shape[1], x.shape[1]), x.dtype)
    ct = np.broadcast_to(layers[-1][0], (n, layers[-1][0].shape[1]))
    for layer in range(hidden, 0, -1):
        a = entering[layer - 1]
        curvature = ct * -2 * inputs[layer] * slopes[layer]
        result += np.matmul((a * curvature[:, :, None]).transpose(0, 2, 1), a)
        ct = (ct * slopes[layer]) @ layers[layer - 1][0]
    return result


def hessian_product(layers: Layers, x: Array, vector: Array) -> Array:
    """Return the derivative of the gradient along a vector: tangents forward, then cotangents and theirs backward."""
    h, t = x, vector
    kept = []
    for w, b in layers[:-1]:
        h, t = np.tanh(h @ w.T + b), t @ w.T
        slope = 1 - h * h
        kept.append((slope, -2 * h * slope * t))
        t = t * slope
    ct = np.broadcast_to(layers[-1][0], (len(x), layers[-1][0].shape[1]))
    ct_t = np.zeros_like(ct)
    for (slope, slope_t), (w, _) in zip(reversed(kept), reversed(layers[:-1]), strict=True):
        ct, ct_t = (ct * slope) @ w, (ct_t * slope + ct * slope_t) @ w
    return ct_t
