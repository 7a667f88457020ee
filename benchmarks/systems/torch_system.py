"""PyTorch: eager autograd, torch.func, and both compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from benchmarks.networks import torch_ops as ops
from benchmarks.networks.base import is_statistic
from benchmarks.systems.registry import Way
from benchmarks.tasks import INDEX, Task


def ways(task: Task, threads: int, compiled: bool = False) -> dict[str, Way]:
    """Return eager autograd and the transforms of torch.func; or the likelier one of them, compiled."""
    torch.set_num_threads(threads)
    network = task.network
    w = {name: torch.from_numpy(value) for name, value in network.weights.items()}
    x, ct, direction = (
        torch.from_numpy(draw(task.batch)) for draw in (network.input, network.cotangent, network.direction)
    )
    make = partial(torch.compile, dynamic=False) if compiled else _as_is
    found = _ways(task, lambda w, x: network.forward(ops, w, x), w, x, ct, direction, make)
    if compiled:  # the first is the likeliest; compiling all takes minutes
        name = next(iter(found))
        return {name: found[name]}
    return found


def _as_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _ways(
    task: Task,
    f: Callable[[Any, Tensor], Tensor],
    w: dict[str, Tensor],
    x: Tensor,
    ct: Tensor,
    direction: Tensor,
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> dict[str, Way]:
    whole = make(lambda x: f(w, x))

    def one(x: Tensor) -> Tensor:
        return f(w, x[None])[0]

    match task.asked:
        case "jacobian":
            modes = {"reverse": jacrev, "forward": jacfwd}
            found = {modes[mode].__name__: partial(make(vmap(modes[mode](one))), x) for mode in task.modes}
            if "reverse" in task.modes:
                found["autograd, batched"] = lambda: _batched_jacobian(whole, x)
                found["autograd, row by row"] = lambda: _jacobian_by_rows(whole, x)
            return found
        case "gradient":
            return {"autograd": lambda: _gradient(whole, x)}
        case "vjp":
            return {"autograd": lambda: _product(whole, x, ct)}
        case "weights":
            trained = {name: v.clone().requires_grad_() for name, v in w.items() if not is_statistic(name)}
            fixed = {name: v for name, v in w.items() if is_statistic(name)}
            cost = make(lambda trained, x: torch.nn.functional.mse_loss(f(fixed | trained, x), ct))
            return {"autograd": lambda: _weight_gradients(cost, trained, x)}
        case "hessian":
            scalar = lambda x: one(x)[0]  # noqa: E731 - as torch.func wants it
            return {
                "hessian": partial(make(vmap(hessian(scalar))), x),
                "jacrev(grad)": partial(make(vmap(jacrev(grad(scalar)))), x),
            }
        case "hvp":
            total = grad(lambda x: f(w, x).sum())
            return {
                "jvp(grad)": partial(make(lambda x, v: jvp(total, (x,), (v,))[1]), x, direction),
                "autograd twice": lambda: _hessian_product(whole, x, direction),
            }


def _tracked(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _batched_jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = _tracked(x)
    y = f(x)
    n, count = len(y), y[0].numel()
    seeds = torch.eye(count)[:, None].expand(count, n, count).reshape(count, *y.shape)
    (rows,) = torch.autograd.grad(y, x, seeds, is_grads_batched=True)
    return rows.transpose(0, 1).reshape(*y.shape, *x.shape[1:])


def _jacobian_by_rows(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = _tracked(x)
    y = f(x)
    sums = y.flatten(1).sum(0)
    rows = [torch.autograd.grad(s, x, retain_graph=True)[0] for s in sums]
    return torch.stack(rows, 1).reshape(*y.shape, *x.shape[1:])


def _gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = _tracked(x)
    y = f(x)
    (found,) = torch.autograd.grad(y.flatten(1)[:, INDEX].sum(), x)
    return y.detach(), found


def _product(f: Callable[[Tensor], Tensor], x: Tensor, ct: Tensor) -> Tensor:
    x = _tracked(x)
    (found,) = torch.autograd.grad(f(x), x, ct)
    return found


def _weight_gradients(cost: Callable[..., Tensor], trained: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    value = cost(trained, x)
    found = torch.autograd.grad(value, list(trained.values()))
    return {"cost": value.detach(), **dict(zip(trained, found, strict=True))}


def _hessian_product(f: Callable[[Tensor], Tensor], x: Tensor, vector: Tensor) -> Tensor:
    x = _tracked(x)
    (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(first, x, vector)
    return found
