"""What is compared: something with values and derivatives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.comparison.differences import is_float
from onnxgrad.errors import DisconnectedWarning, MixedSamplesError, ModelReadError, OnnxgradError
from onnxgrad.model.read import read
from onnxgrad.model.signature import Port
from onnxgrad.runtime import Function, load

Array = np.ndarray[Any, Any]
#: A derivative, or why there is none.
Result = Array | OnnxgradError


class Subject(Protocol):
    """Something with values and derivatives.

    Attributes:
        name: how it is called in a report.
        inputs: what it takes.
        outputs: what it returns.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def values(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name."""

    def jacobians(self, feeds: Mapping[str, Any], y: str, xs: Sequence[str], per_sample: bool) -> dict[str, Result]:
        """Return the Jacobians of an output, by input: of shape ``(N, *y, *x)`` per sample, else ``(*y, *x)``."""

    def vjps(self, feeds: Mapping[str, Any], y: str, xs: Sequence[str], cotangents: Array) -> dict[str, Result]:
        """Return vector-Jacobian products of an output, by input; cotangents and results have seeds in front."""


class ModelSubject:
    """A model; see `Subject`.

    Attributes:
        function: the model, loaded.
        straight_through: whether its gradients pass straight through roundings without being asked to.
    """

    def __init__(self, source: Any, name: str, straight_through: bool | None = None) -> None:
        self.name = name if not isinstance(source, (str, os.PathLike)) else os.fspath(source)
        self.straight_through = False
        if isinstance(source, Function):
            self.function = source
        else:
            self.straight_through = straight_through is None and _is_quantized(source)
            self.function = load(source, straight_through=bool(straight_through) or self.straight_through)
        self.inputs, self.outputs = self.function.inputs, self.function.outputs

    def values(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """See `Subject.values`."""
        found = self.function(dict(feeds))
        named = found if isinstance(found, dict) else {self.outputs[0].name: found}
        return {name: np.asarray(v) if isinstance(v, np.generic) else v for name, v in named.items()}

    def jacobians(self, feeds: Mapping[str, Any], y: str, xs: Sequence[str], per_sample: bool) -> dict[str, Result]:
        """See `Subject.jacobians`; all in one run, unless one of them is refused."""
        return self._each(xs, lambda wrt: self.function.jacobian(dict(feeds), of=y, wrt=wrt, batched=per_sample))

    def vjps(self, feeds: Mapping[str, Any], y: str, xs: Sequence[str], cotangents: Array) -> dict[str, Result]:
        """See `Subject.vjps`."""
        return self._each(xs, lambda wrt: self.function.vjp(dict(feeds), cotangent=cotangents, of=y, wrt=wrt))

    def _each(self, xs: Sequence[str], derive: Callable[[list[str]], Any]) -> dict[str, Result]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DisconnectedWarning)  # both are zero, or the comparison says so
            try:
                return _by_input(xs, derive(list(xs)))
            except OnnxgradError as error:
                if len(xs) == 1:
                    return {xs[0]: error}
            found: dict[str, Result] = {}
            for x in xs:
                try:
                    found.update(_by_input([x], derive([x])))
                except OnnxgradError as error:
                    found[x] = error
            return found


def _by_input(xs: Sequence[str], found: Any) -> dict[str, Result]:
    return dict(found) if isinstance(found, dict) else {xs[0]: found}


_QUANTIZED = ("QuantizeLinear", "DynamicQuantize", "QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger")


def _is_quantized(source: Any) -> bool:
    if not isinstance(source, (str, os.PathLike, bytes, onnx.ModelProto, ir.Model)):
        return False
    try:
        model = read(source)
    except ModelReadError:  # no ONNX: an importer's
        return False
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    return any(node.op_type.startswith(_QUANTIZED) for graph in graphs for node in graph.all_nodes())


class FunctionSubject:
    """A Python function, with the signature of a model that it is compared with; see `Subject`.

    Args:
        function: takes the inputs of the model, in order, and returns its outputs: an array for one, else a dictionary
            by name, or a sequence in order.
        jacobian: takes the same, and returns the Jacobian as `onnxgrad.Function.jacobian` does, with or without the
            zeros between samples. None: by complex steps of the function.
        model: the model.
    """

    def __init__(self, function: Callable[..., Any], jacobian: Callable[..., Any] | None, model: ModelSubject) -> None:
        self.name = getattr(function, "__name__", "the function")
        self.inputs, self.outputs = model.inputs, model.outputs
        self._function = function
        self._jacobian = jacobian

    def values(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """See `Subject.values`."""
        return self._named(self._function(*(feeds[port.name] for port in self.inputs)))

    def _named(self, found: Any) -> dict[str, Any]:
        names = [port.name for port in self.outputs]
        if isinstance(found, Mapping):
            missing = [name for name in names if name not in found]
            if missing:
                raise ValueError(
                    f"{self.name} returns no {', '.join(missing)}; it returns {', '.join(map(str, found))}"
                )
            return {name: np.asarray(found[name]) for name in names}
        if len(names) == 1:
            return {names[0]: np.asarray(found)}
        if not isinstance(found, (tuple, list)) or len(found) != len(names):
            raise ValueError(f"{self.name} must return {len(names)} outputs: {', '.join(names)}")
        return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}

    def jacobians(self, feeds: Mapping[str, Any], y: str, xs: Sequence[str], per_sample: bool) -> dict[str, Result]:
        """See `Subject.jacobians`."""
        if self._jacobian is None:
            return {x: self._complex_step(feeds, y, x, per_sample) for x in xs}
        found = self._jacobian(*(feeds[port.name] for port in self.inputs))
        floats_out, floats_in = ([p.name for p in ports if is_float(p.dtype)] for ports in (self.outputs, self.inputs))
        by_output = _entry(found, y, floats_out)
        rank = np.ndim(self.values(feeds)[y])
        results: dict[str, Result] = {}
        for x in xs:
            array = np.asarray(_entry(by_output, x, floats_in))
            if per_sample and array.ndim == rank + np.ndim(feeds[x]):  # zeros between samples, too
                array = _own_samples(array, rank, self.name)
            results[x] = array
        return results

    def _complex_step(self, feeds: Mapping[str, Any], y: str, x: str, per_sample: bool) -> Array:
        """Return the Jacobian as ``Im f(x + i h e) / h``, exact to rounding (Squire and Trapp, 1998).

        Per sample, an element of all samples at once is perturbed: a function that mixes them gives something else than
        one that does not.
        """
        step = 1e-30
        point = {name: np.asarray(value) for name, value in feeds.items()}
        for name, value in point.items():
            if is_float(value.dtype):
                point[name] = value.astype(np.complex128)
        shape = point[x].shape[1:] if per_sample else point[x].shape
        columns = []
        for index in np.ndindex(*shape):
            moved = point[x].copy()
            moved[(slice(None), *index) if per_sample else index] += 1j * step
            out = self._named(self._function(*({**point, x: moved}[port.name] for port in self.inputs)))[y]
            if out.dtype.kind != "c":
                raise TypeError(
                    f"{self.name} returns {out.dtype.name} for complex input, so its derivative cannot be found by "
                    "complex steps; pass a function that returns it as `jacobian`"
                )
            columns.append(out.imag / step)
        rank = np.ndim(self.values(feeds)[y])
        if not columns:
            return np.zeros((*np.shape(self.values(feeds)[y]), *shape))
        return np.stack(columns, axis=-1).reshape(*columns[0].shape[:rank], *shape)

    def vjps(self, feeds: Mapping[str, Any], y: str, xs: Sequence[str], cotangents: Array) -> dict[str, Result]:
        """See `Subject.vjps`; from the Jacobian in full."""
        found: dict[str, Result] = {}
        for x, jacobian in self.jacobians(feeds, y, xs, False).items():
            rank = cotangents.ndim - 1
            if not isinstance(jacobian, OnnxgradError):
                if jacobian.ndim < rank + np.ndim(feeds[x]):
                    raise ValueError(
                        f"the Jacobian of {y!r} with respect to {x!r} must be in full, {self.name} is too wide"
                    )
                jacobian = np.tensordot(cotangents, jacobian, axes=rank)
            found[x] = jacobian
        return found


def _entry(found: Any, name: str, names: Sequence[str]) -> Any:
    """Return what belongs to a name: of a dictionary, of a sequence in order, or the only thing."""
    if isinstance(found, Mapping):
        return found[name]
    if isinstance(found, (tuple, list)) and len(found) == len(names) and (len(names) > 1 or np.ndim(found[0]) > 0):
        return found[names.index(name)]
    return found


def _own_samples(array: Array, rank: int, name: str) -> Array:
    """Return ``(N, *y, *x)`` of ``(N, *y, N, *x)``, in which samples do not mix.

    Raises:
        MixedSamplesError: if they do.
    """
    moved = np.moveaxis(array, rank, 1)
    n = np.arange(len(moved))
    apart = moved.copy()
    apart[n, n] = 0
    if np.any(apart):
        raise MixedSamplesError(f"the Jacobian of {name} is not zero between samples, and that of the model is")
    return np.asarray(moved[n, n])
