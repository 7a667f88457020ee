"""onnxgrad, as a user calls it."""

from __future__ import annotations

from functools import partial
from typing import Any

import onnxgrad
from benchmarks.export import model_of
from benchmarks.networks.pipeline import estimator
from benchmarks.systems.registry import Way
from benchmarks.tasks import INDEX, Task


def ways(task: Task, threads: int, mode: Any = "auto", static: bool = False) -> dict[str, Way]:
    """Return the only way: the method of that name."""
    network, path = task.network, model_of(task, static)
    x = network.input(task.batch)
    if task.asked == "weights":
        model = onnxgrad.gradient(path, cost="mse", wrt="weights", keep_outputs=["cost"])
        names = {record.output: str(record.wrt) for record in onnxgrad.derivatives(model)}
        f, target = onnxgrad.load(model, threads=threads), network.cotangent(task.batch)
        return {"gradient": lambda: {names.get(name, name): value for name, value in f(x, target).items()}}
    if task.network.name == "pipeline":  # as it comes from scikit-learn
        return {"jacobian": partial(onnxgrad.load(estimator(), x[:1], threads=threads).jacobian, x)}
    f = onnxgrad.load(path, threads=threads)
    match task.asked:
        case "jacobian":
            made = onnxgrad.jacobian(path, mode=mode, batched=True)
            return {onnxgrad.derivatives(made)[0].mode or "": partial(f.jacobian, x, mode=mode, batched=True)}
        case "gradient":
            return {"gradient": partial(f.value_and_gradient, x, index=INDEX, batched=True)}
        case "vjp":
            return {"vjp": partial(f.vjp, x, network.cotangent(task.batch))}
        case "hessian":
            return {"hessian": partial(f.hessian, x)}
        case "hvp":
            return {"hvp": partial(f.hvp, x, network.direction(task.batch))}
