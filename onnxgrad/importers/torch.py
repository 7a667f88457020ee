"""Modules of PyTorch, through its own exporters."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxgrad.errors import ModelReadError, OnnxgradError, RunError, level_outside
from onnxgrad.runtime.evaluate import ORT, Evaluator
from onnxgrad.runtime.sources import Imported

#: Name of the size of the axis of samples, and of the outputs where the module gives them none.
SAMPLES, OUTPUT = "N", "y"

#: The largest difference between module and model, relative to the largest element, that is rounding: sums of many
#: terms in another order, and constants that an exporter or a kernel keeps in float32.
_AGREEING = {"float64": 1e-6, "float32": 1e-3, "float16": 3e-2}
#: Larger modules do not fit into one message of protobuf, which ends at 2 GB.
_LARGEST = 1_800_000_000


def convert(module: Any, sample: Any) -> Imported:
    """Return the ONNX model that computes what a module of PyTorch does in eval mode.

    Inputs are called like the parameters of `forward`, and have the types of the sample; outputs are called like the
    keys where the module returns a dictionary, else ``y``, or ``y0``, ``y1``, …. Axis 0 of the inputs is open and
    called ``N`` where the module can be exported so; else the model takes batches of the size of the sample.

    PyTorch's exporter on `torch.export` is tried first, then the one on TorchScript. The module is as before
    afterwards, in its mode, too.

    Args:
        module: the module.
        sample: an input: a tensor or an array; several in a tuple, or by name in a dictionary.

    Raises:
        ModelReadError: if a package is missing, this is no module that can be exported, there is no sample, or the
            model computes something else on the sample than the module.
    """
    torch = _torch()
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    _check_module(torch, module, sample)
    call = _Call.of(torch, module, sample)
    with _in_eval_mode(module), torch.no_grad(), _quiet():
        values = call.run(module)
        _check_repeatable(call, module, values)
        proto, engine = _exported(torch, module, call)
    if engine != ORT:
        warnings.warn(
            f"onnxruntime does not run this {type(module).__name__} in the types of the sample: it lacks kernels, for "
            "float64 mostly; derivatives can be written, and to run them, load it in float32: "
            "onnxgrad.load(module.float(), sample=x.float())",
            stacklevel=level_outside(),
        )
    return Imported(proto)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ModelReadError("this is a module of PyTorch, which is not installed; install torch") from error
    try:
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it
    except ImportError as error:
        raise ModelReadError(
            "a module of PyTorch is exported by torch.onnx.export, which needs onnxscript, and that is not installed; "
            "install it with: pip install onnxscript"
        ) from error
    return torch


# --- what can be exported -------------------------------------------------------------------------


def _check_module(torch: Any, module: Any, sample: Any) -> None:
    if isinstance(module, type):
        raise ModelReadError(f"{module.__name__} is a class of PyTorch modules; give an object of it")
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelReadError(
            f"this {name} is compiled by TorchScript, which PyTorch's exporter does not take; give the module that it "
            "was made of"
        )
    if sample is None:
        raise ModelReadError(
            f"the input of this {name} is not known; pass an example: onnxgrad.load(module, sample=x), with several "
            "inputs as a tuple, or as a dictionary by name"
        )
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for spelled, tensor in tensors:
        _check_tensor(torch, tensor, f"{spelled!r} of this {name}", "module")
    if sum(tensor.numel() * tensor.element_size() for _, tensor in tensors) > _LARGEST:
        raise ModelReadError(
            f"this {name} has more than {_LARGEST / 1e9:.1f} GB of weights; export it with torch.onnx.export(…, "
            "external_data=True) to a file, and load that"
        )


def _check_tensor(torch: Any, tensor: Any, what: str, whose: str) -> None:
    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        raise ModelReadError(f"{what} has no shape yet; call the module once on an input")
    if tensor.is_meta:
        raise ModelReadError(f"{what} is on the device meta, which holds no numbers; load the weights first")
    if tensor.device.type != "cpu":
        raise ModelReadError(
            f"{what} is on the device {tensor.device}; move it to the CPU first: {whose}.cpu() (the model can run "
            "elsewhere: see `providers`)"
        )
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise ModelReadError(f"{what} is sparse or quantized, and PyTorch exports only dense tensors of numbers")
    if tensor.dtype.is_complex:
        raise ModelReadError(f"{what} is complex ({tensor.dtype}), which ONNX's operators do not take; use two reals")
    if tensor.dtype.is_floating_point and str(tensor.dtype).removeprefix("torch.") not in _AGREEING:
        raise ModelReadError(f"{what} is {tensor.dtype}, which onnxruntime does not run; convert it: {whose}.float()")


# --- calls ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A call of a module: its inputs by name, the first of them by position."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    names: tuple[str, ...]
    outputs: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, torch: Any, module: Any, sample: Any) -> _Call:
        """Return the call that a sample stands for."""
        named = dict(sample) if isinstance(sample, Mapping) else {}
        listed = () if named else tuple(sample) if isinstance(sample, (tuple, list)) else (sample,)
        if not named and not listed:
            raise ModelReadError(f"the sample is empty; give the inputs of this {type(module).__name__}")
        args = tuple(_tensor(torch, x, f"input {i} of the sample") for i, x in enumerate(listed))
        kwargs = {str(name): _tensor(torch, x, f"input {name!r} of the sample") for name, x in named.items()}
        return cls(args, kwargs, (*_positional(module, len(args)), *kwargs))

    @property
    def tensors(self) -> tuple[Any, ...]:
        return *self.args, *self.kwargs.values()

    def batched(self) -> list[str]:
        """Return the inputs whose axis 0 is that of the batch: those that have as many rows as the first."""
        sizes = {name: x.shape[0] if x.ndim else None for name, x in zip(self.names, self.tensors, strict=True)}
        size = next(iter(sizes.values()))
        return [name for name, other in sizes.items() if size and other == size]

    def with_rows(self, rows: Sequence[int]) -> _Call:
        """Return the call on some rows of the batch."""
        chosen = self.batched()
        picked = [x[list(rows)] if n in chosen else x for n, x in zip(self.names, self.tensors, strict=True)]
        count = len(self.args)
        return _Call(tuple(picked[:count]), dict(zip(self.kwargs, picked[count:], strict=True)), self.names)

    def run(self, module: Any) -> dict[str, np.ndarray]:
        """Return the outputs of the module, by name."""
        try:
            found = module(*copy.deepcopy(self.args), **copy.deepcopy(dict(self.kwargs)))
        except Exception as error:  # whatever the module raises
            raise ModelReadError(
                f"this {type(module).__name__} fails on the sample in eval mode: {_words(error)}; give a sample that "
                "it takes (of its types, too)"
            ) from error
        results = dict(_flattened(found, ""))
        if not results:
            raise ModelReadError(f"this {type(module).__name__} returns no tensor")
        if len(results) == 1 and not isinstance(found, Mapping):
            results = {_free(OUTPUT, self.names): next(iter(results.values()))}
        return {_free(name, self.names): tensor.numpy(force=True) for name, tensor in results.items()}

    def feeds(self) -> dict[str, np.ndarray]:
        return {name: x.numpy(force=True) for name, x in zip(self.names, self.tensors, strict=True)}


def _tensor(torch: Any, x: Any, what: str) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        try:
            x = torch.from_numpy(np.array(x))
        except TypeError as error:
            raise ModelReadError(f"{what} is an array of {x.dtype}, which PyTorch does not take") from error
    if not isinstance(x, torch.Tensor):
        raise ModelReadError(
            f"{what} is of type {type(x).__name__}; give tensors (or arrays), and fix other arguments in "
            "a module around this one"
        )
    _check_tensor(torch, x, what, "sample")
    return x.detach()


def _positional(module: Any, count: int) -> Iterator[str]:
    """Yield the names of the first parameters of `forward`, and numbers behind those of ``*args``."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in kinds]
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "x")
    for i in range(count):
        yield names[i] if i < len(names) else f"{rest}{i - len(names)}"


def _flattened(found: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a result with their names, in the order of the exporters."""
    if isinstance(found, Mapping):
        for key, part in found.items():
            yield from _flattened(part, f"{name}.{key}" if name else str(key))
    elif isinstance(found, (tuple, list)):
        for i, part in enumerate(found):
            yield from _flattened(part, f"{name or OUTPUT}{i}")
    elif hasattr(found, "numpy") and hasattr(found, "is_complex"):
        if found.is_complex():
            raise ModelReadError(f"the output {name or OUTPUT!r} is complex, which ONNX's operators do not give")
        yield name or OUTPUT, found
    elif found is not None:
        raise ModelReadError(
            f"the module returns a value of type {type(found).__name__}; return tensors only, from a module around "
            "it if need be"
        )


def _free(name: str, taken: Sequence[str]) -> str:
    return f"{name}_out" if name in taken else name


def _check_repeatable(call: _Call, module: Any, values: Mapping[str, np.ndarray]) -> None:
    again = call.run(module)
    if any(not np.array_equal(values[name], again[name], equal_nan=values[name].dtype.kind == "f") for name in values):
        raise ModelReadError(
            f"this {type(module).__name__} gives other outputs each time it is run, in eval mode, too: it draws random "
            "numbers (torch.nn.functional.dropout without training=self.training?) or keeps a state; it must be a "
            "function of its inputs"
        )


# --- export ---------------------------------------------------------------------------------------


def _exported(torch: Any, module: Any, call: _Call) -> tuple[onnx.ModelProto, str | None]:
    """Return the model of the first way that works, and what runs it: with an open batch before a fixed one."""
    said: dict[str, str] = {}
    for batched in (True, False) if call.batched() else (False,):
        for export in (_by_torch_export, _by_torchscript):
            try:
                proto = export(torch, module, call, batched)
                return proto, _checked(module, call, proto, batched)
            except OnnxgradError as error:
                said.setdefault(_EXPORTERS[export], str(error))
            except Exception as error:  # exporters have many kinds, and let through what the module raises
                said[_EXPORTERS[export]] = _words(error)
    spoken = "; ".join(f"{name} says: {words}" for name, words in said.items())
    raise ModelReadError(
        f"PyTorch cannot export this {type(module).__name__}: {spoken}. A branch on the data can be written as "
        "torch.where or torch.cond; what else is in the way must be replaced in the module"
    )


def _by_torch_export(torch: Any, module: Any, call: _Call, batched: bool) -> onnx.ModelProto:
    shapes: Any = None
    if batched:
        if call.tensors[0].shape[0] == 1:  # a size of 1 is taken for a constant
            call = call.with_rows([0, 0])
        size = torch.export.Dim(SAMPLES)
        chosen = call.batched()
        each = [{0: size} if name in chosen else None for name in call.names]
        count = len(call.args)
        shapes = (*each[:count],) if not call.kwargs else dict(zip(call.kwargs, each[count:], strict=True))
        if call.args and any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values()):
            shapes = (shapes,)
    program = torch.onnx.export(
        module,
        call.args,
        kwargs=dict(call.kwargs) or None,
        input_names=list(call.names),
        output_names=list(call.run(module)),
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    return program.model_proto  # type: ignore[no-any-return]


def _by_torchscript(torch: Any, module: Any, call: _Call, batched: bool) -> onnx.ModelProto:
    outputs = list(call.run(module))
    file = io.BytesIO()
    with warnings.catch_warnings():
        # a trace keeps the branch that the sample takes, and numbers that come from it: wrong for other inputs
        warnings.simplefilter("error", torch.jit.TracerWarning)
        torch.onnx.export(
            module,
            call.args,
            file,
            kwargs=dict(call.kwargs) or None,
            input_names=list(call.names),
            output_names=outputs,
            dynamic_axes={name: {0: SAMPLES} for name in call.batched()} if batched else None,
            dynamo=False,
            verbose=False,
        )
    return onnx.load_model_from_string(file.getvalue())


_EXPORTERS = {_by_torch_export: "its exporter on torch.export", _by_torchscript: "its exporter on TorchScript"}


# --- agreement ------------------------------------------------------------------------------------


def _checked(module: Any, call: _Call, proto: onnx.ModelProto, batched: bool) -> str | None:
    """Check that model and module agree, on the sample and on its rows in another order and number.

    Returns:
        What ran the model.

    Raises:
        ModelReadError: if they do not, or nothing runs it.
    """
    calls = [call]
    if call.batched():
        rows = range(call.tensors[0].shape[0])
        calls.append(call.with_rows([*reversed(rows), *([0, 0] if batched else [])]))
    evaluate = Evaluator(proto)
    for one in calls:
        expected = one.run(module)
        feeds = {name: x for name, x in one.feeds().items() if name in evaluate.inputs}
        try:
            found = evaluate(feeds)
        except RunError as error:
            raise ModelReadError(f"makes a model that does not run: {error}") from error
        if list(found) != list(expected):
            raise ModelReadError(f"makes a model with other outputs: {', '.join(found)}")
        for name, value in expected.items():
            _check_agreement(name, np.asarray(found[name]), value)
    return evaluate.engine


def _check_agreement(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        raise ModelReadError(
            f"makes a model that gives {name!r} as {found.dtype} {list(found.shape)}, and the module gives "
            f"{expected.dtype} {list(expected.shape)}"
        )
    bound = _AGREEING.get(expected.dtype.name, 0.0)
    finite = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
    scale = float(np.max(finite, initial=0))
    near = np.isclose(found.astype(np.float64), expected.astype(np.float64), rtol=0, atol=bound * scale, equal_nan=True)
    if not near.all():
        raise ModelReadError(
            f"makes a model that computes something else: {name!r} is off by up to "
            f"{np.nanmax(np.abs(found.astype(np.float64) - expected)):.3g}"
        )


# --- how the module is treated --------------------------------------------------------------------


@contextlib.contextmanager
def _in_eval_mode(module: Any) -> Iterator[None]:
    """Put a module into eval mode, and each of its parts back into its own mode at the end."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what exporters say on the way: of their own deprecation, of packages they would like."""
    level, dump = logging.root.manager.disable, io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(dump), contextlib.redirect_stderr(dump):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


def _words(error: BaseException) -> str:
    """Return what an exporter says is wrong: the first paragraph of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).strip().split("\n\n")[0].split()).rstrip(".!") or type(error).__name__
    return words if len(words) <= 400 else f"{words[:399]}…"


__all__ = ["OUTPUT", "SAMPLES", "convert"]
