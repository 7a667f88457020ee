"""onnx-ad, on onnxruntime: many seeds in one run, or one after another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ad
from onnx import helper, numpy_helper

from benchmarks.export import model_of
from benchmarks.networks.base import is_statistic
from benchmarks.systems.registry import Way
from benchmarks.systems.sessions import Session
from benchmarks.tasks import INDEX, Task

Array = np.ndarray[Any, Any]


def ways(task: Task, threads: int) -> dict[str, Way]:
    """Return both modes, with all seeds in one run and one by one."""
    try:
        return _ways(task, _loaded(model_of(task)), threads)
    except onnx_ad.UnsupportedOperator:  # some operators only with a fixed number of samples
        found = _ways(task, _loaded(model_of(task, static=True)), threads)
        return {f"{name}, fixed batch": way for name, way in found.items()}


def _loaded(path: str) -> onnx.ModelProto:
    """Return a model with the shapes of all values, which onnx-ad needs for some operators."""
    return onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)


def _ways(task: Task, model: onnx.ModelProto, threads: int) -> dict[str, Way]:
    network, n = task.network, task.batch
    x = network.input(n)
    if task.asked == "weights":
        return {"reverse": _weight_gradients(model, x, network.cotangent(n), threads)}
    (x_name,), (y_name,) = ([v.name for v in values] for values in (model.graph.input, model.graph.output))
    reverse = onnx_ad.reverse(model, layout="onnx")
    backward = Session(reverse, threads)
    adj_y, adj_x = f"adj_{y_name}", f"adj_{x_name}"
    one = np.zeros((n, *network.output, 1), np.float32)
    one.reshape(n, -1)[:, INDEX] = 1

    match task.asked:
        case "gradient":
            return {"reverse": lambda: _dropped(backward.run([y_name, adj_x], {x_name: x, adj_y: one}))}
        case "vjp":
            ct = network.cotangent(n)[..., None]
            return {"reverse": lambda: backward.run([adj_x], {x_name: x, adj_y: ct})[0][..., 0]}
        case "jacobian":
            found = {}
            for mode in task.modes:
                if mode == "reverse":
                    found |= _rows(task, backward, x_name, y_name)
                else:
                    ahead = Session(onnx_ad.forward(model, layout="onnx"), threads)
                    found |= _columns(task, ahead, x_name, y_name)
            return found
        case _:
            second = onnx_ad.forward(reverse, inputs=[x_name], outputs=[adj_x], layout="onnx")
            session = Session(second, threads)
            name = session.outputs[-1]
            directions = _identity(n, network.sample) if task.asked == "hessian" else network.direction(n)[..., None]

            def run() -> Array:
                found = session.run([name], {x_name: x, adj_y: one, f"fwd_{x_name}": directions})[0]
                return found[..., 0, :] if task.asked == "hessian" else found[..., 0, 0]

            return {"forward over reverse": run}


def _rows(task: Task, session: Session, x_name: str, y_name: str) -> dict[str, Way]:
    """Return the ways of reverse mode to a Jacobian."""
    n, network = task.batch, task.network
    pull = partial(session.one, f"adj_{x_name}", x_name, network.input(n), f"adj_{y_name}")
    seeds, shape = _identity(n, network.output), (n, *network.output, *network.sample)
    return {
        "reverse, at once": lambda: np.moveaxis(pull(seeds), -1, 1).reshape(shape),
        "reverse, one by one": lambda: np.stack(_each(pull, seeds), 1).reshape(shape),
    }


def _columns(task: Task, session: Session, x_name: str, y_name: str) -> dict[str, Way]:
    """Return the ways of forward mode to a Jacobian."""
    n, network = task.batch, task.network
    push = partial(session.one, f"fwd_{y_name}", x_name, network.input(n), f"fwd_{x_name}")
    seeds, shape = _identity(n, network.sample), (n, *network.output, *network.sample)
    return {
        "forward, at once": lambda: push(seeds).reshape(shape),
        "forward, one by one": lambda: np.stack(_each(push, seeds), -1).reshape(shape),
    }


def _identity(n: int, shape: tuple[int, ...]) -> Array:
    """Return the identity as directions for all samples: ``(N, *shape, count)``."""
    count = int(np.prod(shape))
    return np.ascontiguousarray(np.broadcast_to(np.eye(count, dtype=np.float32), (n, count, count))).reshape(
        n, *shape, count
    )


def _each(run: Callable[[Array], Array], seeds: Array) -> list[Array]:
    return [run(np.ascontiguousarray(seeds[..., i : i + 1]))[..., 0] for i in range(seeds.shape[-1])]


def _dropped(results: list[Array]) -> tuple[Array, Array]:
    y, found = results
    return y, found[..., 0]


def _weight_gradients(model: onnx.ModelProto, x: Array, target: Array, threads: int) -> Way:
    """Differentiate by initializers: as inputs, of the cost, which is added here."""
    graph = model.graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer if not is_statistic(t.name)}
    weights = {name: w for name, w in weights.items() if w.dtype == np.float32}
    kept = [t for t in graph.initializer if t.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    float32 = onnx.TensorProto.FLOAT
    graph.input.extend(helper.make_tensor_value_info(name, float32, w.shape) for name, w in weights.items())
    graph.input.append(helper.make_tensor_value_info("target", float32, target.shape))
    graph.node.extend(
        [
            helper.make_node("Sub", [graph.output[0].name, "target"], ["error"]),
            helper.make_node("Mul", ["error", "error"], ["squares"]),
            helper.make_node("ReduceMean", ["squares"], ["cost"], keepdims=0),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("cost", float32, []))
    x_name = graph.input[0].name
    session = Session(onnx_ad.reverse(model, inputs=list(weights), layout="onnx"), threads)
    feeds = {x_name: x, "target": target, "adj_cost": np.ones(1, np.float32), **weights}
    names = [f"adj_{name}" for name in weights]

    def run() -> dict[str, Array]:
        cost, *found = session.run(["cost", *names], feeds)
        return {"cost": cost, **{name: g[..., 0] for name, g in zip(weights, found, strict=True)}}

    return run
