"""Which systems there are."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.tasks import Task

#: Does a task once.
Way = Callable[[], Any]


class Unsupported(Exception):  # noqa: N818 - it is no error that a system cannot do something
    """A system cannot do a task, or nobody would do it this way; the message says why."""


@dataclass(frozen=True)
class System:
    """A system.

    Attributes:
        name: its name.
        module: the module of this package that runs it.
        needs: what must be installed.
        options: arguments of the module's function `ways`.
        everywhere: whether it takes part in all tasks, or only in those that name it.
        compared: whether its result is held against that of the others.
    """

    name: str
    module: str
    needs: Sequence[str]
    options: Mapping[str, Any]
    everywhere: bool = True
    compared: bool = True

    def ways(self) -> Callable[[Task, int], dict[str, Way]]:
        """Return the function that gives the ways to do a task with a number of threads."""
        return partial(importlib.import_module(f"benchmarks.systems.{self.module}").ways, **self.options)


#: The system that others are held against.
OURS = "onnxgrad"
#: The network without derivatives.
FORWARD = "forward"

SYSTEMS = {
    system.name: system
    for system in (
        System(OURS, "onnxgrad_system", (), {}),
        System(FORWARD, "forward_system", (), {}, compared=False),
        System("onnxgrad static", "onnxgrad_system", (), {"static": True}, everywhere=False),
        System("onnxgrad reverse", "onnxgrad_system", (), {"mode": "reverse"}, everywhere=False),
        System("onnxgrad forward", "onnxgrad_system", (), {"mode": "forward"}, everywhere=False),
        System("JAX", "jax_system", ("jax",), {}),
        System("PyTorch", "torch_system", ("torch",), {}),
        System("torch.compile", "torch_system", ("torch",), {"compiled": True}),
        System("onnx-ad", "onnx_ad_system", ("onnx_ad",), {}),
        System("numpy", "numpy_system", (), {}),
        System("differences", "differences_system", (), {}),
    )
}


def of(task: Task, chosen: Sequence[System]) -> list[System]:
    """Return those of the chosen systems that take part in a task."""
    there = [system for system in chosen if system.everywhere or system.name in task.also]
    return [system for system in there if system.name not in task.without]


def missing_packages(needed: Sequence[str]) -> list[str]:
    """Return those of some packages that are not installed."""
    return [package for package in needed if importlib.util.find_spec(package) is None]
