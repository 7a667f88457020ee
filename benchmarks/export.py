"""Networks become ONNX models, in files: by hand where they are fully connected, else by PyTorch's exporter."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.folders import BUILD, fingerprint
from benchmarks.networks import Network
from benchmarks.networks.base import is_statistic
from benchmarks.networks.pipeline import estimator
from benchmarks.tasks import STATIC, TASKS, Task

OPSET = 18


def model_of(task: Task, static: bool = False) -> str:
    """Return the path of the model of a task, which is made if it is not there.

    Args:
        task: the task.
        static: whether it takes just the number of samples of the task, or any.
    """
    training = task.asked == "weights"
    batch = str(task.batch) if static else "N"
    path = BUILD / f"{task.network.name}-{batch}{'-training' * training}-{fingerprint()}.onnx"
    if not path.exists():
        model = exported(task.network, task.batch if static else None, training)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(model.SerializeToString())
        part.replace(path)
    return str(path)


def exported(network: Network, batch: int | None, training: bool = False) -> onnx.ModelProto:
    """Return a network as a model.

    Args:
        network: the network.
        batch: its number of samples; None: any.
        training: whether all weights must stay as they are: else normalizations are merged into convolutions.
    """
    if network.sizes:
        return dense(network, batch)
    if network.name == "pipeline":
        return _by_skl2onnx()
    return _by_torch(network, batch, training)


def dense(network: Network, batch: int | None) -> onnx.ModelProto:
    """Return a fully connected network as Gemm and Tanh."""
    nodes, value, last = [], "x", len(network.sizes) - 1
    for i in range(1, last + 1):
        result = "y" if i == last else f"a{i}"
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [result], transB=1))
        if i < last:
            nodes.append(helper.make_node("Tanh", [result], [f"h{i}"]))
            value = f"h{i}"
    size = "N" if batch is None else batch
    graph = helper.make_graph(
        nodes,
        network.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, *network.sample])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, *network.output])],
        [numpy_helper.from_array(w, name) for name, w in network.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _by_skl2onnx() -> onnx.ModelProto:
    from skl2onnx import to_onnx

    fitted = estimator()
    sample = np.zeros((1, fitted.n_features_in_), np.float32)
    return to_onnx(fitted, sample, target_opset=OPSET)


def _by_torch(network: Network, batch: int | None, training: bool) -> onnx.ModelProto:
    import torch

    from benchmarks.networks import torch_ops

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in network.weights.items():
                tensor = torch.from_numpy(value)
                if is_statistic(name):
                    self.register_buffer(name, tensor)
                else:
                    self.register_parameter(name, torch.nn.Parameter(tensor))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = dict(self.named_parameters()) | dict(self.named_buffers())
            return network.forward(torch_ops, weights, x)

    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Module().eval(),
            (torch.from_numpy(network.input(batch or 2)),),
            dynamo=True,
            verbose=False,
            optimize=not training,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: torch.export.Dim("N")},) if batch is None else None,
        )
    logging.disable(logging.NOTSET)
    return program.model_proto


def make_all(names: Sequence[str]) -> None:
    """Make the models of tasks that are not there yet, and remove those of older sources."""
    for path in (*BUILD.glob("*.onnx"), *BUILD.glob("*.pickle")):
        if fingerprint() not in path.name:
            path.unlink()
    for task in TASKS:
        if task.name in names:
            model_of(task)
            if STATIC in task.also:
                model_of(task, static=True)
