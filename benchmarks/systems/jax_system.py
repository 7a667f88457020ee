"""JAX, compiled by XLA for the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from benchmarks.networks import jax_ops as ops
from benchmarks.networks.base import is_statistic
from benchmarks.systems.registry import Way
from benchmarks.tasks import INDEX, Task

#: Weights of up to so many bytes are constants of the compiled function, which saves the time to pass them.
_CONSTANT = 2**20


def ways(task: Task, threads: int) -> dict[str, Way]:  # noqa: ARG001 - its threads are the cores that it may run on
    """Return the modes in which JAX can do it."""
    network = task.network
    w = {name: jnp.asarray(value) for name, value in network.weights.items()}
    small = sum(value.nbytes for value in w.values()) <= _CONSTANT
    x = jnp.asarray(network.input(task.batch))
    ct, direction = (jnp.asarray(draw(task.batch)) for draw in (network.cotangent, network.direction))

    def one(w: Any, x: Any) -> Any:
        return network.forward(ops, w, x[None])[0]

    def each(derivative: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        return lambda w, x: jax.vmap(derivative(lambda one_x: one(w, one_x)))(x)

    def compiled(function: Callable[..., Any], *args: Any) -> Way:
        run = jax.jit(function if not small else lambda *args: function(w, *args))
        given = args if small else (w, *args)
        return lambda: jax.block_until_ready(run(*given))

    match task.asked:
        case "jacobian":
            modes = {"reverse": jax.jacrev, "forward": jax.jacfwd}
            return {modes[mode].__name__: compiled(each(modes[mode]), x) for mode in task.modes}
        case "gradient":

            def picked(w: Any, x: Any) -> Any:
                y = network.forward(ops, w, x)
                return y.reshape(len(y), -1)[:, INDEX].sum(), y

            def gradient(w: Any, x: Any) -> Any:
                (_, y), found = jax.value_and_grad(picked, argnums=1, has_aux=True)(w, x)
                return y, found

            return {"grad": compiled(gradient, x)}
        case "vjp":
            return {"vjp": compiled(lambda w, x, ct: jax.vjp(lambda x: network.forward(ops, w, x), x)[1](ct)[0], x, ct)}
        case "weights":
            fixed = {name: value for name, value in w.items() if is_statistic(name)}
            trained = {name: value for name, value in w.items() if not is_statistic(name)}

            def cost(trained: Any, x: Any, target: Any) -> Any:
                return jnp.mean((network.forward(ops, fixed | trained, x) - target) ** 2)

            run = jax.jit(jax.value_and_grad(cost))
            return {"grad": lambda: _named(jax.block_until_ready(run(trained, x, ct)))}
        case "hessian":

            def scalar(derivative: Callable[..., Any]) -> Callable[[Any, Any], Any]:
                return lambda w, x: jax.vmap(derivative(lambda one_x: one(w, one_x)[0]))(x)

            return {
                "jacfwd(grad)": compiled(scalar(jax.hessian), x),
                "jacrev(grad)": compiled(scalar(lambda f: jax.jacrev(jax.grad(f))), x),
            }
        case "hvp":

            def gradients(w: Any, x: Any) -> Any:
                return jax.grad(lambda x: network.forward(ops, w, x).sum())(x)

            return {
                "jvp(grad)": compiled(lambda w, x, v: jax.jvp(lambda x: gradients(w, x), (x,), (v,))[1], x, direction),
                "grad(jvp)": compiled(
                    lambda w, x, v: jax.grad(
                        lambda x: jax.jvp(lambda x: network.forward(ops, w, x).sum(), (x,), (v,))[1]
                    )(x),
                    x,
                    direction,
                ),
            }


def _named(found: Any) -> dict[str, Any]:
    cost, gradients = found
    return {"cost": cost, **gradients}
