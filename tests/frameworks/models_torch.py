"""PyTorch's models, trained for a few steps, and exported by both exporters."""

from __future__ import annotations

import copy
import functools
import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import weight_norm

from tests.frameworks.comparing import Batch, Case, DType, Export

#: Which element of the output gradients and Hessians are of: the last, which depends on all tokens of a sequence.
SAMPLES, INDEX = 3, -1
INPUTS = ("x", "kind")
#: For normalizations, whose epsilon is a float32 in ONNX: one that has all its digits there.
EPS = 2.0**-17


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 2))


class Residual(nn.Module):
    """Blocks that add to what they take, as in transformers and mixers: normalization, GELU, dropout."""

    def __init__(self) -> None:
        super().__init__()
        block = [nn.LayerNorm(6, EPS), nn.Linear(6, 12), nn.GELU(), nn.Dropout(0.1), nn.Linear(12, 6)]
        self.first, self.block, self.last = nn.Linear(5, 6), nn.Sequential(*block), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return torch.log_softmax(self.last(h + self.block(h)), dim=-1)


def cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.ELU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(4, 2)),
    )


def mobile() -> nn.Module:
    """Convolutions of single channels, one with strides, and the activations of networks for small devices."""
    return nn.Sequential(
        *(nn.Conv2d(2, 16, 1), nn.BatchNorm2d(16), nn.ReLU6()),
        *(nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6()),
        *(nn.Conv2d(16, 4, 1), nn.LeakyReLU(0.125), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.SiLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 2)),
    )


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a way around; resized by bilinear interpolation at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.GroupNorm(3, 3, EPS)
        self.up = nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1)
        self.last = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(F.softplus(self.norm(self.down(x))))
        y = self.last(torch.cat([torch.tanh(up), x], dim=1))
        return F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layers, self.last = kind(3, 4, num_layers=2, batch_first=True, bidirectional=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x)[0][:, -1])


class Encoder(nn.Module):
    """PyTorch's own encoder layers, with positions, and a mean over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, "gelu", EPS, batch_first=True, norm_first=True)
        self.first, self.positions = nn.Linear(3, 8), nn.Parameter(torch.randn(5, 8))
        self.layers, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(self.first(x) + self.positions).mean(dim=1))


class Causal(nn.Module):
    """Attention as it is written by hand today."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.last = nn.Linear(4, 12), nn.Linear(4, 2)
        self.register_buffer("positions", torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (part.view(n, length, 2, 2).transpose(1, 2) for part in self.qkv(x + self.positions).chunk(3, dim=-1))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.last(h.transpose(1, 2).reshape(n, length, 4))


class Temporal(nn.Module):
    """Causal, dilated convolutions along a sequence, to a direction of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 4, 2), weight_norm(nn.Conv1d(4, 2, 2, dilation=2))

    def forward(self, x: Tensor) -> Tensor:
        h = F.mish(self.first(F.pad(x.transpose(1, 2), (1, 0))))
        return F.normalize(self.second(F.pad(h, (2, 0)))[:, :, -1], dim=-1)


class Categories(nn.Module):
    """Numbers beside a category, which is embedded, and picks one of two experts by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gate = nn.Embedding(5, 4), nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 4), nn.Sigmoid(), nn.Linear(4, 2)) for _ in range(2))

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        h = torch.cat([x, self.table(kind)], dim=-1)
        parts = torch.stack([expert(h) for expert in self.experts], dim=-1)
        return (parts * torch.softmax(self.gate(h), dim=-1).unsqueeze(1)).sum(dim=-1)


#: What the row is called, what makes the module, and the shape of one sample.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (mlp, (4,)),
    "residual MLP": (Residual, (5,)),
    "CNN": (cnn, (2, 6, 6)),
    "mobile CNN": (mobile, (2, 16, 16)),
    "U-Net": (UNet, (1, 6, 6)),
    "LSTM": (lambda: Recurrent(nn.LSTM), (5, 3)),
    "GRU": (lambda: Recurrent(nn.GRU), (5, 3)),
    "transformer encoder": (Encoder, (5, 3)),
    "causal attention": (Causal, (4, 4)),
    "temporal convolution": (Temporal, (5, 3)),
    "categories and experts": (Categories, (4,)),
}

#: Models with a category for each sample as a further input, of so many.
CATEGORIES = {"categories and experts": 5}
#: Models whose Hessian is compared in a product with a vector.
ALONG = {"mobile CNN", "U-Net"}


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
        y = module(x, *categories(name, 16)).reshape(16, -1)
        torch.mean((y - target[:, None]) ** 2).backward()
        optimizer.step()
    return module.eval()


def categories(name: str, samples: int = SAMPLES) -> tuple[Tensor, ...]:
    """Return the further inputs of a model."""
    return (torch.arange(samples) * 2 % CATEGORIES[name],) if name in CATEGORIES else ()


def in_type(name: str, dtype: DType) -> nn.Module:
    """Return a copy of a trained module with all its numbers in a type."""
    return copy.deepcopy(trained(name)).to(getattr(torch, dtype))


def batch_of(name: str, dtype: DType) -> Tensor:
    shape = MODELS[name][1]
    return torch.from_numpy(np.random.default_rng(1).normal(size=(SAMPLES, *shape)).astype(dtype))


def direction_of(name: str, dtype: DType) -> Tensor | None:
    """Return a vector for the Hessian where its product is compared instead of all of it."""
    return torch.cos(7 * batch_of(name, dtype)) if name in ALONG else None


@functools.cache
def own(name: str, dtype: DType) -> dict[str, np.ndarray]:
    """Return what PyTorch says: value, Jacobian, gradient and Hessian, each sample by itself."""
    module = in_type(name, dtype)
    x, direction = batch_of(name, dtype), direction_of(name, dtype)

    found: dict[str, list[Tensor]] = {"jacobian": [], "gradient": [], "hessian": []}
    for i, one in enumerate(x):
        others = [c[i : i + 1] for c in categories(name)]

        def output(one: Tensor, others: Sequence[Tensor] = others) -> Tensor:
            return module(one[None], *others)[0]

        slope = torch.func.grad(lambda one, output=output: output(one).reshape(-1)[INDEX])
        with sdpa_kernel(SDPBackend.MATH):  # the attention that PyTorch has second derivatives of
            found["jacobian"].append(torch.func.jacrev(output)(one))
            found["gradient"].append(slope(one))
            along = None if direction is None else direction[i]
            found["hessian"].append(torch.func.jacrev(slope)(one) if along is None else forward(slope, one, along))
    results = {"value": module(x, *categories(name)), **{k: torch.stack(v) for k, v in found.items()}}
    return {k: v.detach().numpy() for k, v in results.items()}


def forward(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of a function along a direction, in forward mode."""
    with warnings.catch_warnings():  # the first such call in a process compiles PyTorch's own formulas by TorchScript
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", DeprecationWarning)
        return torch.func.jvp(function, (x,), (direction,))[1]


def exported(name: str, dtype: DType, batch: Batch, dynamo: bool) -> onnx.ModelProto:
    """Return the model as one of the exporters writes it."""
    module = in_type(name, dtype)
    args = (batch_of(name, dtype), *categories(name))
    names = list(INPUTS[: len(args)])
    file = io.BytesIO()
    options: dict[str, object] = {"input_names": names, "output_names": ["y"], "dynamo": dynamo}
    if batch == "dynamic" and dynamo:
        options["dynamic_shapes"] = tuple({0: torch.export.Dim("batch")} for _ in args)
    elif batch == "dynamic":
        options["dynamic_axes"] = {"y": {0: "batch"}, **{one: {0: "batch"} for one in names}}
    with warnings.catch_warnings():  # that TorchScript is to go, and what PyTorch says to itself
        warnings.simplefilter("ignore")
        torch.onnx.export(module, args, file, verbose=False, **options)
    return onnx.load_model_from_string(file.getvalue())


def case(name: str, exporter: str, dtype: DType, batch: Batch) -> Case:
    def make() -> Export:
        model = exported(name, dtype, batch, exporter == "dynamo")
        along = direction_of(name, dtype)
        vector = None if along is None else along.numpy()
        fed = (batch_of(name, dtype), *categories(name))
        inputs = {one: tensor.numpy() for one, tensor in zip(INPUTS, fed, strict=False)}
        return Export(model, inputs, **own(name, dtype), direction=vector, index=INDEX, wrt="x")

    return Case("PyTorch", exporter, name, dtype, batch, make)


def forms(name: str, exporter: str) -> list[tuple[DType, Batch]]:
    """Return the types and batches of a model: all four, but two of them where an export takes seconds."""
    if exporter == "dynamo" and name != "MLP":
        return [("float64", "dynamic"), ("float32", "static")]
    return [(dtype, batch) for dtype in ("float64", "float32") for batch in ("dynamic", "static")]


CASES = [
    case(name, exporter, dtype, batch)
    for exporter in ("dynamo", "TorchScript")
    for name in MODELS
    for dtype, batch in forms(name, exporter)
]
