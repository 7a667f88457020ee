"""Modules of PyTorch as sources of `onnxgrad.load`: what they compute, its derivatives, and what is refused."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onnxgrad
from onnxgrad.errors import ModelReadError
from tests.frameworks import models_torch
from tests.frameworks.comparing import relative

X = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
#: Of float32, after some tens of products.
ROUNDING = 1e-6


def module_of(function: Callable[..., Any]) -> nn.Module:
    """Return a module whose `forward` is a function."""

    class Module(nn.Module):
        pass

    Module.forward = staticmethod(function)
    return Module()


# --- values and derivatives -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CNN", "LSTM"])
def test_models(name: str) -> None:
    module = models_torch.in_type(name, "float32").train()
    own, x = models_torch.own(name, "float32"), models_torch.batch_of(name, "float32")
    f = onnxgrad.load(module, sample=x)
    assert module.training
    assert f.inputs[0].shape == ("N", *x.shape[1:])
    assert f.inputs[0].dtype == np.float32
    assert relative(f(x.numpy()), own["value"]) < ROUNDING
    assert relative(f.jacobian(x.numpy()), own["jacobian"]) < ROUNDING
    assert f(np.repeat(x.numpy(), 3, axis=0)).shape[0] == 9


def test_names_of_inputs_and_outputs() -> None:
    def forward(x: Tensor, scale: Tensor) -> dict[str, Any]:
        return {"scaled": x * scale, "others": (x + 1, x.sum(1))}

    both = (X, torch.tensor(2.0))
    by_position = onnxgrad.load(module_of(forward), sample=both)
    by_name = onnxgrad.load(module_of(forward), sample={"x": both[0].numpy(), "scale": both[1]})
    for f in (by_position, by_name):
        assert [(p.name, p.shape) for p in f.inputs] == [("x", ("N", 4)), ("scale", ())]
        assert [p.name for p in f.outputs] == ["scaled", "others0", "others1"]
        found = f(x=X.numpy(), scale=3.0)
        np.testing.assert_array_equal(found["scaled"], 3 * X.numpy())
        np.testing.assert_allclose(found["others1"], X.numpy().sum(1), rtol=1e-6)


def test_an_output_is_not_called_like_an_input() -> None:
    f = onnxgrad.load(module_of(lambda y: torch.sin(y)), sample=X)
    assert (f.inputs[0].name, f.outputs[0].name) == ("y", "y_out")


def test_any_number_of_inputs() -> None:
    f = onnxgrad.load(module_of(lambda *parts: parts[0] * parts[1]), sample=(X, X))
    assert [(p.name, p.shape) for p in f.inputs] == [("parts0", ("N", 4)), ("parts1", ("N", 4))]


def test_categories_beside_numbers() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(5, 4)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        def forward(self, x: Tensor, kind: Tensor) -> Tensor:
            return torch.tanh(x * self.table(kind)).sum(1)

    kind = torch.tensor([4, 0, 2])
    f = onnxgrad.load(Mixed(), sample=(X, kind))
    assert f.inputs[1].dtype == np.int64
    rows = table(kind).detach()
    expected = rows * (1 - torch.tanh(X * rows) ** 2)
    assert relative(f.gradient(X.numpy(), kind.numpy()), expected.numpy()) < ROUNDING


def test_one_row_is_a_batch() -> None:
    f = onnxgrad.load(nn.Linear(4, 2), sample=X[:1])
    assert f.inputs[0].shape == ("N", 4)


def test_a_batch_that_cannot_be_open_is_fixed() -> None:
    f = onnxgrad.load(module_of(lambda x: torch.sin(x.reshape(3, 2, 2).sum(0))), sample=X)
    assert f.inputs[0].shape == (3, 4)
    assert f.jacobian(X.numpy()).shape == (2, 2, 3, 4)


def test_what_torch_compile_wraps() -> None:
    linear = nn.Linear(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which PyTorch itself imports for it
        compiled = torch.compile(linear)
    f = onnxgrad.load(compiled, sample=X)
    np.testing.assert_array_equal(f.jacobian(X.numpy()), np.stack([linear.weight.detach().numpy()] * 3))


def test_gradients_by_weights() -> None:
    linear = nn.Linear(4, 1)
    f = onnxgrad.load(linear, sample=X)
    np.testing.assert_allclose(f.jacobian(X.numpy(), wrt="bias"), np.ones((3, 1, 1)), rtol=0)


def test_detached_values_count() -> None:
    """ONNX knows no `detach`: the derivative is that of the function, where PyTorch leaves a part out."""
    f = onnxgrad.load(module_of(lambda x: x * x.detach()), sample=X)
    assert relative(f.vjp(X.numpy(), np.ones((3, 4))), 2 * X.numpy()) < ROUNDING


def test_each_part_keeps_its_mode_and_weights() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    module.train()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    f = onnxgrad.load(module, sample=X)
    assert [part.training for part in module.modules()] == [True, True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    expected = module.eval()(X).detach().numpy()
    assert relative(f(X.numpy()), expected) < ROUNDING


def test_the_other_exporter_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.onnx.export

    def export(*args: Any, dynamo: bool, **options: Any) -> Any:
        if dynamo:
            raise RuntimeError("not today")
        return real(*args, dynamo=dynamo, **options)

    monkeypatch.setattr(torch.onnx, "export", export)
    linear = nn.Linear(4, 2)
    f = onnxgrad.load(linear, sample=X)
    assert f.inputs[0].shape == ("N", 4)
    np.testing.assert_array_equal(f.jacobian(X.numpy()), np.stack([linear.weight.detach().numpy()] * 3))
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: export(*args, dynamo=True))
    with pytest.raises(ModelReadError, match=r"torch.export says: not today; its exporter on TorchScript says: not"):
        onnxgrad.load(linear, sample=X)


def test_a_model_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real, wrong = torch.onnx.export, nn.Linear(4, 2)
    monkeypatch.setattr(torch.onnx, "export", lambda module, *args, **options: real(wrong, *args, **options))
    with pytest.raises(ModelReadError, match=r"computes something else: 'y' is off by up to \d"):
        onnxgrad.load(nn.Linear(4, 2), sample=X)


def test_no_kernel_in_float64_is_said() -> None:
    module = nn.Conv1d(2, 3, 2).double()
    x = torch.zeros(3, 2, 5, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"does not run this Conv1d in the types of the sample.*module\.float\(\)"):
        f = onnxgrad.load(module, sample=x)
    assert f.inputs[0].dtype == np.float64


# --- refusals -------------------------------------------------------------------------------------


def random(x: Tensor) -> Tensor:
    return torch.nn.functional.dropout(x)


def branches(x: Tensor) -> Tensor:
    return 2 * x if x.sum() > 0 else 3 * x


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "class": (nn.Linear, X, "Linear is a class of PyTorch modules; give an object"),
    "no sample": (nn.Linear(4, 2), None, r"not known; pass an example: onnxgrad\.load\(module, sample=x\)"),
    "empty sample": (nn.Linear(4, 2), (), "the sample is empty"),
    "other type": (nn.Linear(4, 2).double(), X, "fails on the sample in eval mode: .*dtype"),
    "other size": (nn.Linear(5, 2), X, "fails on the sample in eval mode: .*shapes"),
    "no tensor": (nn.Linear(4, 2), [1.0, 2.0], "input 0 of the sample is of type float"),
    "strings": (nn.Linear(4, 2), np.array(["a"]), "an array of <U1"),
    "bfloat16": (nn.Linear(4, 2).bfloat16(), X.bfloat16(), r"'weight' .*bfloat16.*: module\.float\(\)"),
    "bfloat16 sample": (nn.Linear(4, 2), X.bfloat16(), r"input 0 of the sample is .*bfloat16.*: sample\.float\(\)"),
    "complex": (nn.Linear(4, 2), X.to(torch.complex64), "complex"),
    "complex output": (module_of(lambda x: torch.fft.fft(x)), X, "output 'y' is complex"),
    "no numbers": (nn.Linear(4, 2, device="meta"), X, "'weight' .* meta, which holds no numbers"),
    "no shape": (nn.LazyLinear(2), X, "'weight' .* has no shape yet; call the module once"),
    "sparse": (nn.Linear(4, 2), X.to_sparse(), "sparse"),
    "random": (module_of(random), X, "draws random numbers"),
    "no result": (module_of(lambda x: None), X, "returns no tensor"),
    "text": (module_of(lambda x: (x, "a")), X, "returns a value of type str"),
    "branch on data": (
        module_of(branches),
        X,
        r"torch\.export says: Could not guard.*TorchScript says: .*boolean.*where",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    module, sample, words = REFUSED[name]
    with pytest.raises(ModelReadError, match=words):
        onnxgrad.load(module, sample=sample)
    assert capfd.readouterr() == ("", "")


def test_a_module_of_torchscript() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such
        module = torch.jit.trace(nn.Linear(4, 2), X)
    with pytest.raises(ModelReadError, match="compiled by TorchScript"):
        onnxgrad.load(module, sample=X)


def test_a_module_on_another_device() -> None:
    class Elsewhere(torch.Tensor):
        device = torch.device("cuda:0")

    module = nn.Linear(4, 2)
    module.register_buffer("mean", torch.zeros(2).as_subclass(Elsewhere))
    with pytest.raises(ModelReadError, match=r"'mean' of this Linear is on the device cuda:0.*: module\.cpu\(\)"):
        onnxgrad.load(module, sample=X)


@pytest.mark.parametrize(("missing", "words"), [("torch", "install torch"), ("onnxscript", "pip install onnxscript")])
def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str, words: str) -> None:
    real = builtins.__import__

    def import_(name: str, *args: Any, **options: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", import_)
    with pytest.raises(ModelReadError, match=words):
        onnxgrad.load(nn.Linear(4, 2), sample=X)


def test_what_load_takes_is_said() -> None:
    with pytest.raises(ModelReadError, match="or a PyTorch module, each with a sample"):
        onnxgrad.load(object())


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onnxgrad.load(nn.Linear(4, 2), sample=X)
