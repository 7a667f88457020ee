"""PyTorch's models, trained for a few steps, and exported by both exporters."""

from __future__ import annotations

import copy
import functools
import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from tests.frameworks.comparing import Batch, Case, DType, Export

SAMPLES = 3


class MLP(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 2))


#: What the row is called, what makes the module, and the shape of one sample.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (MLP, (4,)),
}


@functools.cache
def trained(name: str) -> nn.Module:
    """Return a module in float64, in eval mode, after some steps toward a smooth target of its inputs."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    module = make().double()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    x = torch.randn(16, *shape, dtype=torch.float64)
    target = torch.sin(x.reshape(16, -1).sum(1) / np.sqrt(np.prod(shape)))
    for _ in range(10):
        optimizer.zero_grad()
        y = module(x).reshape(16, -1)
        torch.mean((y - target[:, None]) ** 2).backward()
        optimizer.step()
    return module.eval()


def batch_of(name: str, dtype: DType) -> Tensor:
    shape = MODELS[name][1]
    return torch.from_numpy(np.random.default_rng(1).normal(size=(SAMPLES, *shape)).astype(dtype))


@functools.cache
def own(name: str, dtype: DType) -> dict[str, np.ndarray]:
    """Return what PyTorch says: value, Jacobian, gradient and Hessian, each sample by itself."""
    module = copy.deepcopy(trained(name)).to(getattr(torch, dtype))
    x = batch_of(name, dtype)

    def first(one: Tensor) -> Tensor:
        return module(one[None]).reshape(-1)[0]

    each = {
        "jacobian": [torch.func.jacrev(lambda one: module(one[None])[0])(one) for one in x],
        "gradient": [torch.func.grad(first)(one) for one in x],
        "hessian": [torch.func.jacrev(torch.func.jacrev(first))(one) for one in x],
    }
    return {"value": module(x).detach().numpy(), **{k: torch.stack(v).detach().numpy() for k, v in each.items()}}


def exported(name: str, dtype: DType, batch: Batch, dynamo: bool) -> onnx.ModelProto:
    """Return the model as one of the exporters writes it."""
    module = copy.deepcopy(trained(name)).to(getattr(torch, dtype))
    x = batch_of(name, dtype)
    file = io.BytesIO()
    options: dict[str, object] = {"input_names": ["x"], "output_names": ["y"], "dynamo": dynamo}
    if batch == "dynamic" and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif batch == "dynamic":
        options["dynamic_axes"] = {"x": {0: "batch"}, "y": {0: "batch"}}
    with warnings.catch_warnings():  # that TorchScript is to go, and what PyTorch says to itself
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), file, verbose=False, **options)
    return onnx.load_model_from_string(file.getvalue())


def case(name: str, exporter: str, dtype: DType, batch: Batch) -> Case:
    def make() -> Export:
        model = exported(name, dtype, batch, exporter == "dynamo")
        return Export(model, {"x": batch_of(name, dtype).numpy()}, **own(name, dtype))

    return Case("PyTorch", exporter, name, dtype, batch, make)


CASES = [
    case(name, exporter, dtype, batch)
    for exporter in ("dynamo", "TorchScript")
    for name in MODELS
    for dtype in ("float64", "float32")
    for batch in ("dynamic", "static")
]
