"""A small model as data: printed, it is Python that builds it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One ai.onnx node."""

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        attrs = f", {dict(self.attrs)}" if self.attrs else ""
        return f"Node({self.op!r}, {list(self.inputs)}, {list(self.outputs)}{attrs})"


@dataclass
class Program:
    """A model with a point.

    Attributes:
        nodes: the nodes, in order.
        inputs: shapes of the inputs.
        weights: shapes of the initializers that are floating-point.
        numbers: scalars that are floating-point.
        constants: integers and booleans, as nested lists.
        of: the outputs.
        wrt: the inputs to differentiate by.
        opset: opset of the model.
        sizes: how sizes of inputs are declared: "fixed"; "batch": that of the first axis is open; "shared": all are
            open, and equal ones have one name; "open": all are open, each with its own name.
        seed: of the numbers in inputs, weights, cotangents and tangents.
        whole: whether the numbers in inputs and weights are whole ones, so that many tie, and many are 0.
    """

    nodes: Sequence[Node]
    inputs: dict[str, Shape]
    of: Sequence[str]
    wrt: Sequence[str]
    weights: dict[str, Shape] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 22
    sizes: str = "fixed"
    seed: int = 0
    whole: bool = False

    def __repr__(self) -> str:
        lines = "".join(f"        {node!r},\n" for node in self.nodes)
        rest = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name in ("inputs", "of", "wrt", "weights", "numbers", "constants", "opset", "sizes", "seed", "whole")
        )
        return f"Program(\n    nodes=[\n{lines}    ],\n    {rest},\n)"

    def script(self, check: str) -> str:
        """Return a runnable script that repeats a check of `tests.properties.checks`, and the model as ONNX text."""
        model = "".join(f"# {line}\n" for line in onnx.printer.to_text(self.model()).splitlines())
        return (
            "# run in the root of the repository\n"
            "from tests.properties import checks\nfrom tests.properties.program import Node, Program\n\n"
            f"program = {self!r}\nchecks.{check}(program)\n\n{model}"
        )

    def normal(self, name: str, shape: Shape) -> np.ndarray:
        """Return normally distributed numbers that depend on the seed and the name."""
        return np.random.default_rng([self.seed, *name.encode()]).normal(size=shape)

    def values(self, name: str, shape: Shape) -> np.ndarray:
        """Return the numbers of an input or weight."""
        array = self.normal(name, shape)
        return np.rint(array) if self.whole else array

    def feeds(self, dtype: type = np.float64) -> dict[str, np.ndarray]:
        return {name: self.values(name, shape).astype(dtype) for name, shape in self.inputs.items()}

    def _declared(self, name: str) -> list[int | str]:
        shape = self.inputs[name]
        first = next(iter(self.inputs.values()))
        if self.sizes == "batch" and shape and first and shape[0] == first[0]:
            return ["N", *shape[1:]]
        if self.sizes == "shared":
            return [f"n{size}" for size in shape]
        if self.sizes == "open":
            return [f"{name}_{axis}" for axis in range(len(shape))]
        return list(shape)

    def model(self, dtype: type = np.float64, weights_fed: bool = False) -> onnx.ModelProto:
        """Return the model; with `weights_fed`, its weights are inputs of fixed shape."""
        real = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        inputs = [helper.make_tensor_value_info(name, real, self._declared(name)) for name in self.inputs]
        arrays = {name: np.asarray(value, dtype) for name, value in self.numbers.items()}
        for name, value in self.constants.items():
            arrays[name] = np.array(value, bool if np.array(value).dtype == bool else np.int64)
        for name, shape in self.weights.items():
            if weights_fed:
                inputs.append(helper.make_tensor_value_info(name, real, shape))
            else:
                arrays[name] = self.values(name, shape).astype(dtype)
        graph = helper.make_graph(
            [helper.make_node(n.op, n.inputs, n.outputs, name=n.outputs[0], **n.attrs) for n in self.nodes],
            "g",
            inputs,
            [helper.make_tensor_value_info(y, real, None) for y in self.of],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
