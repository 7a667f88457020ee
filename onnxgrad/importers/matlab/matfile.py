"""Networks in .mat files: objects of the class `network`, or what ``struct(net)`` makes of them."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxgrad.errors import ModelReadError
from onnxgrad.importers.matlab.functions import DISTANCES, PROCESSING, TRANSFER, Settings, SettingsError
from onnxgrad.importers.matlab.network import Array, Input, Product, Size, SizeError, Vector, Weights, join, to_model

#: Fields that make a struct a network.
_FIELDS = frozenset("IW LW b layers inputs outputs inputConnect layerConnect outputConnect".split())
_V7 = "save('f.mat','net','-v7')"
#: Classes of deep-learning networks, which MATLAB itself can write as ONNX.
_DEEP = ("SeriesNetwork", "DAGNetwork", "dlnetwork", "LayerGraph", "layerGraph")
#: So deep in structs a network is looked for.
_DEPTH = 3


def read(path: Path, variable: str | None, dtype: np.dtype[np.floating]) -> onnx.ModelProto:
    """Return the network in a .mat file as a model.

    Raises:
        ModelReadError: if there is none, or several and none is chosen, or it has something that is not supported.
    """
    variables = _variables(path)
    name, fields = _chosen(path, variables, variable)
    return _Saved(f"{str(path)!r}, variable {name!r}", fields).model(re.sub(r"\W", "_", name), dtype)


# --- files ----------------------------------------------------------------------------------------


def _variables(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import varmats_from_mat
    except ImportError as error:
        raise ModelReadError(
            f"{str(path)!r} is read by scipy, which is not installed; install it with: pip install 'onnxgrad[matlab]'"
        ) from error
    with path.open("rb") as file:
        start = file.read(512)
    try:
        if b"MATLAB 7.3 MAT-file" in start or start.startswith(b"\x89HDF"):
            raise NotImplementedError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of objects that scipy cannot read, all are called None
            found: dict[str, Any] = loadmat(str(path))
            if any(map(_is_opaque, found.values())):
                with path.open("rb") as file:
                    parts = [loadmat(stream)[name] for name, stream in varmats_from_mat(file)]
                found |= {_latin(_opaque(part, "s0")): part for part in parts if _is_opaque(part)}
                found.pop("None", None)
    except NotImplementedError as error:
        raise ModelReadError(
            f"{str(path)!r} is a .mat file of version 7.3 (HDF5), in which networks cannot be read; save the network "
            f"in version 7, in MATLAB: {_V7}"
        ) from error
    except Exception as error:  # damaged files make scipy raise nearly anything
        raise ModelReadError(
            f"{str(path)!r} is no .mat file, or is damaged or cut off ({' '.join(str(error).split())[:200]}); "
            f"save the network again, in MATLAB: {_V7}"
        ) from error
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _is_opaque(value: Any) -> bool:
    """Whether a variable is of a class that scipy cannot read."""
    return type(value).__name__ == "MatlabOpaque"


def _opaque(value: Any, field: str) -> bytes:
    """Return the name ("s0") or the class ("s2") of such a variable."""
    found = value.reshape(-1)[0][field]
    return found if isinstance(found, bytes) else str(found).encode()


def _latin(text: bytes) -> str:
    return text.decode("latin-1")


def _chosen(path: Path, variables: Mapping[str, Any], variable: str | None) -> tuple[str, Any]:
    """Return the name and the fields of the network that is meant."""
    networks = dict(_networks(variables))
    if variable is not None:
        if variable in networks:
            return variable, networks[variable]
        if variable not in variables:
            raise ModelReadError(f"{str(path)!r} has no variable {variable!r}; {_listed(variables, networks)}")
        raise _no_network(path, variables, networks, {variable: variables[variable]})
    if len(networks) == 1:
        return next(iter(networks.items()))
    if networks:
        first = next(iter(networks))
        raise ModelReadError(
            f"{str(path)!r} has several networks: {', '.join(map(repr, networks))}; choose one, for instance "
            f"variable={first!r} (on the command line: onnxgrad import --variable {shlex.quote(first)})"
        )
    raise _no_network(path, variables, networks, variables)


def _networks(variables: Mapping[str, Any], prefix: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield the networks among variables, and in the structs and cell arrays among them, by name."""
    for name, value in variables.items():
        struct = _struct(value)
        if struct is None:
            if depth > 1:
                yield from _networks(_elements(prefix + name, value), depth=depth - 1)
            continue
        names = struct.dtype.names or ()
        is_object = getattr(value, "classname", "") == "network"
        if is_object or ("classname" not in dir(value) and set(names) >= _FIELDS):
            yield prefix + name, struct
        elif depth > 1:
            yield from _networks({field: struct[field] for field in names}, f"{prefix}{name}.", depth - 1)


def _elements(name: str, value: Any) -> dict[str, Any]:
    """Return the elements of a cell array, or of an array of structs, by the names that MATLAB has for them."""
    if not isinstance(value, np.ndarray) or value.size == 1 or not (value.dtype == object or value.dtype.names):
        return {}
    opening, closing = "()" if value.dtype.names else "{}"
    return {f"{name}{opening}{k}{closing}": v for k, v in enumerate(value.reshape(-1, order="F"), 1)}


def _no_network(
    path: Path, variables: Mapping[str, Any], networks: Mapping[str, Any], looked_at: Mapping[str, Any]
) -> ModelReadError:
    where = str(path)
    for name, value in looked_at.items():
        kind = _class(value)
        if kind in _DEEP:
            return ModelReadError(
                f"{where!r}: the variable {name!r} is a deep-learning object of the class {kind}, which only MATLAB "
                f"can read; write it as ONNX there: exportONNXNetwork({name},'{path.stem}.onnx')"
            )
        if _is_opaque(value):
            return ModelReadError(
                f"{where!r}: the variable {name!r} is an object of the class {kind}, which only MATLAB can read; if "
                f"there is a shallow network in it, save that alone: {_V7} (deep-learning networks are written as "
                "ONNX by exportONNXNetwork)"
            )
    what = f"the variable {next(iter(looked_at))!r} is no network" if len(looked_at) == 1 else "it has no network"
    return ModelReadError(f"{where!r}: {what}; {_listed(variables, networks)}; save the network, in MATLAB: {_V7}")


def _listed(variables: Mapping[str, Any], networks: Mapping[str, Any]) -> str:
    """Say what variables there are."""
    if networks:
        return f"there is the network {' and the network '.join(map(repr, networks))}"
    shown = [f"{name!r} ({_class(value)})" for name, value in list(variables.items())[:12]]
    return f"there is {', '.join(shown) or 'no variable at all'}"


def _class(value: Any) -> str:
    """Return the class of a variable, as MATLAB calls it."""
    if _is_opaque(value):
        return _latin(_opaque(value, "s2"))
    if hasattr(value, "classname"):
        return str(value.classname)
    array = np.asarray(value)
    if array.dtype.names:
        return "struct"
    kinds = {"O": "cell", "U": "char", "b": "logical"}
    return kinds.get(array.dtype.kind, f"matrix of {' x '.join(map(str, array.shape))}")


# --- values ---------------------------------------------------------------------------------------


def _struct(value: Any) -> Any:
    """Return a struct, or an object, of size 1; else None."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
        value = value.reshape(-1)[0]
    return value if isinstance(value, np.void) and value.dtype.names else None


def _bare(value: Any) -> Array:
    """Take a value out of the cells that it lies in alone; an empty cell may be None."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.reshape(-1)[0]
    return np.zeros((0, 0)) if value is None else np.asarray(value)


def _numbers(value: Any) -> Array:
    """Return a matrix of numbers; MATLAB stores whole ones in the smallest type."""
    array = _bare(value)
    if array.dtype == object or array.dtype.kind not in "fiub":
        return np.zeros((0, 0))
    return np.atleast_2d(array.astype(np.float64))


def _text(value: Any) -> str:
    array = _bare(value)
    return str(array.reshape(-1)[0]) if array.size and array.dtype.kind == "U" else ""


def _items(value: Any) -> list[Any]:
    """Return the elements of a cell array, or of an array of structs."""
    return [] if value is None else list(np.asarray(value).reshape(-1))


def _at(cells: Any, row: int, column: int) -> Any:
    """Return an element of a cell array; None where it has none."""
    array = np.asarray(cells)
    if array.dtype != object or array.ndim != 2 or row >= array.shape[0] or column >= array.shape[1]:
        return None
    return array[row, column]


# --- networks -------------------------------------------------------------------------------------


class _Saved:
    """A saved network, of which one time step is computed.

    Args:
        where: the file and variable, for messages.
        fields: the network's fields.
    """

    def __init__(self, where: str, fields: Any) -> None:
        self.where = where
        self.fields = fields
        if missing := sorted(_FIELDS - set(fields.dtype.names)):
            raise self.fail(
                f"the network has no field {missing[0]!r}: it is of a version of MATLAB that is not known",
                f"load it in a newer one and save it again: {_V7}",
            )
        self.layers = [_struct(layer) for layer in _items(fields["layers"])]
        self.sources = [_struct(source) for source in _items(fields["inputs"])]
        self.weights = dict(self._weights("I", len(self.sources))) | dict(self._weights("L", len(self.layers)))
        self.delays = {
            kind: max((d for (k, *_), (_, ds, _) in self.weights.items() if k == kind for d in ds), default=0)
            for kind in "IL"
        }
        self.values: dict[int, Vector | Array] = {}
        self.processed: dict[tuple[int, int], Any] = {}
        inputs, depth = range(len(self.sources)), self.delays["I"]
        self.current = [Input(f"x{i + 1}", self._input_size(i)) for i in inputs]
        self.earlier = [Input(f"xi{i + 1}", self.current[i].size, depth) for i in inputs] if depth else []
        looped = sorted({of for (kind, _, of), (_, ds, _) in self.weights.items() if kind == "L" and max(ds) > 0})
        self.loops = {layer: Input(f"ai{layer + 1}", Size(), self.delays["L"]) for layer in looped}

    def fail(
        self, why: str, remedy: str = "write it as a function with genFunction(net,'name'), if MATLAB can"
    ) -> ModelReadError:
        return ModelReadError(f"{self.where}: {why}; {remedy}")

    def field(self, struct: Any, name: str, what: str) -> Any:
        if struct is None or name not in (struct.dtype.names or ()):
            raise self.fail(f"{what} has no field {name!r}: the network is not complete", f"save it again: {_V7}")
        return struct[name]

    def _input_size(self, i: int) -> Size:
        size = _numbers(self.field(self.sources[i], "size", f"input {i + 1}"))
        return Size(int(size.item())) if size.size == 1 else Size()

    def _weights(
        self, kind: str, columns: int
    ) -> Iterator[tuple[tuple[str, int, int], tuple[Array, tuple[int, ...], str]]]:
        """Yield the connected weights: matrix, delays and weight function by kind, layer, and where from."""
        word = {"I": "input", "L": "layer"}[kind]
        connected = _numbers(self.fields[f"{word}Connect"])
        for to in range(len(self.layers)):
            for of in range(columns):
                if to >= connected.shape[0] or of >= connected.shape[1] or not connected[to, of]:
                    continue
                name = f"{kind}W{{{to + 1},{of + 1}}}"
                described = _struct(_at(self.fields[f"{word}Weights"], to, of))
                matrix = _numbers(_at(self.fields[f"{kind}W"], to, of))
                delays = _numbers(self.field(described, "delays", name)).reshape(-1)
                function = _text(self.field(described, "weightFcn", name))
                if not matrix.size or not delays.size:
                    raise self.fail(f"the weights {name} are empty: the network is not trained, or not complete")
                yield (kind, to, of), (matrix, tuple(int(d) for d in delays), function)

    # --- one time step -----------------------------------------------------------------------------

    def model(self, name: str, dtype: np.dtype[np.floating]) -> onnx.ModelProto:
        for layer in self.order():
            self.within(f"layer {layer + 1}", partial(self.compute, layer))
        outputs: list[tuple[str, Vector | Array]] = []
        connected = np.flatnonzero(_numbers(self.fields["outputConnect"])).tolist()
        places = _items(self.fields["outputs"])
        for k, layer in enumerate(connected, 1):
            described = _struct(places[layer]) if layer < len(places) else None
            work = partial(self.process, described, self.values[layer], f"output {k}", True)
            value = self.within(f"output {k}", work)
            outputs.append((f"y{k}", value))
        if not outputs:
            raise self.fail("the network has no output", "connect one: net.outputConnect")
        for size in (given.size for given in self.current):
            size.settle(None)
        return to_model(name, [*self.current, *self.earlier, *self.loops.values()], outputs, dtype)

    def within(self, what: str, work: Callable[[], Any]) -> Any:
        """Do something; say of what is wrong where it is."""
        try:
            return work()
        except (SizeError, SettingsError, ValueError, IndexError) as error:  # the last two are numpy's
            raise self.fail(
                f"{what}: {error}", f"the network is damaged, or was edited; save it again: {_V7}"
            ) from error

    def order(self) -> list[int]:
        """Return the layers so that each comes behind those that it needs in the same time step."""
        needs: dict[int, set[int]] = {layer: set() for layer in range(len(self.layers))}
        for (kind, to, of), (_, delays, _) in self.weights.items():
            if kind == "L" and 0 in delays:
                needs[to].add(of)
        found: list[int] = []
        while len(found) < len(needs):
            ready = [layer for layer in needs if layer not in found and needs[layer] <= set(found)]
            if not ready:
                raise self.fail("there is a loop of layers without a delay", "give it a delay")
            found.append(ready[0])
        return found

    def compute(self, layer: int) -> None:
        """Compute the output of a layer."""
        described, what = self.layers[layer], f"layer {layer + 1}"
        terms: list[Any] = []
        biases = _items(self.fields["b"])
        connected = (
            _numbers(self.fields["biasConnect"]).reshape(-1) if "biasConnect" in self.fields.dtype.names else None
        )
        if connected is None or (layer < len(connected) and connected[layer]):
            bias = _numbers(biases[layer]).reshape(-1, 1) if layer < len(biases) else np.zeros((0, 1))
            if bias.size:
                terms.append(Weights(bias, f"b{layer + 1}"))
            elif connected is not None:
                raise self.fail(f"the bias b{{{layer + 1}}} is empty: the network is not complete")
        for (kind, to, of), (matrix, delays, function) in self.weights.items():
            if to == layer:
                weights = Weights(matrix, f"{kind}W{to + 1}_{of + 1}")
                terms.append(self.weighted(weights, self.tapped(kind, of, delays), function))
        n = self.net_input(terms, _text(self.field(described, "netInputFcn", what)), what)
        transfer = _text(self.field(described, "transferFcn", what))
        if transfer not in TRANSFER:
            raise self.fail(
                f"{what} has the transfer function {transfer!r}, which is not known: {', '.join(TRANSFER)} are"
            )
        activation = TRANSFER[transfer]
        value = activation(n) if isinstance(n, Vector) else activation.compute(n)
        if isinstance(value, Vector):
            value.label = value.label or f"a{layer + 1}"
        if layer in self.loops:
            size = self.loops[layer].size
            size.be_like(value.size) if isinstance(value, Vector) else size.be(len(value))
        self.values[layer] = value

    def net_input(self, terms: list[Any], function: str, what: str) -> Any:
        if function not in ("netsum", "netprod"):
            raise self.fail(
                f"{what} has the net input function {function!r}, which is not known: netsum and netprod are"
            )
        if not terms:
            raise self.fail(f"{what} has neither weights nor a bias")
        arrays = [term.array for term in terms if isinstance(term, Weights)] + [
            t for t in terms if isinstance(t, np.ndarray)
        ]
        vectors = [term for term in terms if isinstance(term, Vector)]
        for array in arrays:  # a single number is not spread over several neurons
            for vector in vectors:
                vector.size.be(len(array))
        terms = terms if vectors else arrays
        total = terms[0]
        for term in terms[1:]:
            total = total + term if function == "netsum" else total * term
        return total

    def weighted(self, weights: Weights, p: Any, function: str) -> Any:
        """Apply a weight function."""
        if function == "dotprod":
            return Product(weights, p) if isinstance(p, Vector) else weights.array @ p
        if function not in DISTANCES:
            raise self.fail(
                f"the weights {weights.name} have the weight function {function!r}, which is not known: dotprod, "
                f"{', '.join(DISTANCES)} are"
            )
        distance = DISTANCES[function]
        return distance.of(weights, p) if isinstance(p, Vector) else distance.compute(weights.array, p)

    def tapped(self, kind: str, of: int, delays: tuple[int, ...]) -> Any:
        """Return the values of an input or layer at some delays, below each other."""
        parts = [self.tap(kind, of, delay) for delay in delays]
        if all(isinstance(part, np.ndarray) for part in parts):
            return np.concatenate(parts)
        if not all(isinstance(part, Vector) for part in parts):
            raise self.fail("constant layers with a delay are not supported")
        return join(parts)

    def tap(self, kind: str, of: int, delay: int) -> Any:
        if kind == "L":
            return self.values[of] if not delay else self.loops[of].blocks[-delay]
        if (of, delay) not in self.processed:
            value = self.earlier[of].blocks[-delay] if delay else self.current[of]
            self.processed[of, delay] = self.within(
                f"input {of + 1}", partial(self.process, self.sources[of], value, f"input {of + 1}", False)
            )
        return self.processed[of, delay]

    def process(self, described: Any, value: Any, what: str, reverse: bool) -> Any:
        """Apply the processing functions of an input, or reverse those of an output."""
        names = [_text(name) for name in _items(self.field(described, "processFcns", what))]
        settings = _items(self.field(described, "processSettings", what))
        steps = list(zip(names, settings, strict=False))
        if len(names) != len(settings):
            raise self.fail(f"{what} has {len(names)} processing functions, and settings for {len(settings)}")
        for name, setting in reversed(steps) if reverse else steps:
            if name not in PROCESSING:
                raise self.fail(
                    f"{what} has the processing function {name!r}, which is not known: {', '.join(PROCESSING)} are"
                )
            struct = _struct(setting)
            fields = {field: _numbers(struct[field]) for field in struct.dtype.names} if struct is not None else {}
            unchanged = fields.get("no_change")
            if unchanged is not None and unchanged.size == 1 and unchanged.item():
                continue
            value = PROCESSING[name][reverse](value, Settings(fields))
        return value


__all__ = ["read"]
