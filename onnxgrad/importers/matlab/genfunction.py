"""Functions that genFunction wrote: ``genFunction(net, 'name')``.

The main function is followed for one sample, or one time step, which stands for all: its matrices are columns. Helper
functions are known by name, and what stands in their bodies is compared, in numbers, with what the name promises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxgrad.importers.matlab import syntax as s
from onnxgrad.importers.matlab.functions import DISTANCES, PROCESSING, TRANSFER, Settings
from onnxgrad.importers.matlab.interpreter import Interpreter, Variables
from onnxgrad.importers.matlab.network import Array, Input, Size, SizeError, Vector, Weights, to_model
from onnxgrad.importers.matlab.operations import Unsupported, combine
from onnxgrad.importers.matlab.parser import parse
from onnxgrad.importers.matlab.source import GENERATE, Source
from onnxgrad.importers.matlab.values import Cell, Known, Signals, Struct, Value, number

_STATE_ARGUMENT = re.compile(r"(?i)([xa])i(\d*)")
_STATE_RESULT = re.compile(r"(?i)[xa]f\d*")
#: What a generated function has for certain.
_HAS_FUNCTION = re.compile(r"(?m)^[ \t]*function\b")
_HAS_WEIGHTS = re.compile(r"(?m)^[ \t]*(?:[IL]W\d+_\d+|b\d+)[ \t]*=")
_WEIGHTS = re.compile(r"[IL]W\d+_\d+|b\d+")
_HEADER = re.compile(r"(?:(?:\bQ|TS)x(\d+)|(\d+)x(?:Q|TS)) matrix, input #(\d+)")
_NO_INPUTS = re.compile(r"= 0x(?:TS|Q|\d+) cell, 0 inputs")
#: Columns that helper functions are tried on, and how near they must come.
_PROBES, _NEAR = 5, 1e-9


def read(source: Source, dtype: np.dtype[np.floating]) -> onnx.ModelProto:
    """Return the network in a generated file as a model.

    Raises:
        ModelReadError: if it is no such file, or something in it is outside of what genFunction writes.
    """
    if not (_HAS_FUNCTION.search(source.text) and _HAS_WEIGHTS.search(source.text)):
        first = next((i for i, line in enumerate(source.text.split("\n"), 1) if line.strip()), 1)
        raise source.refusal(
            first,
            "this is no file that MATLAB's genFunction wrote: it has no function with weights such as 'IW1_1 = [...]'",
            "give such a file, which genFunction(net,'name') writes, or a .mat file with the network in it",
        )
    try:
        functions = parse(source)
        _check_first(source, functions)
        return _Tracer(source, functions).model(dtype)
    except RecursionError as error:
        raise source.refusal(1, "expressions are nested too deeply") from error


def _check_first(source: Source, functions: Sequence[s.Function]) -> None:
    """Check that the first function is the network's, not one that calls it."""
    networks = [
        function
        for function in functions
        if any(
            isinstance(node, s.Assign) and _WEIGHTS.fullmatch(_base(node.targets[0])) for node in s.walk(function.body)
        )
    ]
    if networks and networks[0] is not functions[0]:
        raise source.refusal(
            functions[0].line,
            f"the first function, {functions[0].name!r}, is no network, but {networks[0].name!r} in line "
            f"{networks[0].line} is",
            "put that with its helper functions in a file of its own",
        )


@dataclass(frozen=True, eq=False)
class _Check:
    """A call of a helper function, which must compute what its name says.

    Attributes:
        function: the function.
        arguments: its arguments; that which depends on the inputs is None.
        vector: the vector in its place.
        compute: what the name says, of columns.
    """

    function: s.Function
    arguments: tuple[Value | None, ...]
    vector: Vector
    compute: Callable[[Array], Any]


class _Tracer(Interpreter):
    def __init__(self, source: Source, functions: list[s.Function]) -> None:
        super().__init__(source, {function.name: function for function in functions[1:]})
        self.main = functions[0]
        self.nodes = list(s.walk(self.main.body))
        self.inputs: list[Input] = []
        self.sizes: dict[tuple[str, int | str], Size] = {}
        self.header = {int(found[3]): int(found[1] or found[2]) for found in _HEADER.finditer(source.text)}
        self.checks: list[_Check] = []
        self.needed = _needed(self.main)

    def model(self, dtype: np.dtype[np.floating]) -> onnx.ModelProto:
        arguments = [self.argument(name) for name in self.main.parameters]
        variables = self.run(self.main, arguments)
        outputs = self.outputs(variables)
        try:
            self.settle()
        except SizeError as error:
            raise self.source.refusal(self.main.line, str(error)) from error
        for check in self.checks:
            self.verify(check)
        return to_model(self.main.name, self.inputs, outputs, dtype)

    def _follow(self, statement: s.Statement, variables: Variables) -> None:
        """Follow a statement, unless no output needs it: those that compute the final states of delays."""
        if isinstance(statement, s.Assign) and self.needed.isdisjoint(map(_base, statement.targets)):
            return
        super()._follow(statement, variables)

    # --- inputs ----------------------------------------------------------------------------------

    def argument(self, name: str) -> Value:
        """Return what the main function gets for an argument: one sample of one time step, and the delayed values."""
        if name == "~":
            return number(0)
        state = _STATE_ARGUMENT.fullmatch(name)
        kind = state[1].lower() if state else "x"
        transposed = any(_transposes(node, name) for node in self.nodes)
        delays = self.delays(kind) if state else 1
        if not self.are_cells():
            given = self.input(name, kind, self.number(name), delays)
            return Signals(tuple(given.blocks), transposed)
        rows = []
        for i in range(1, self.height(kind) + 1):
            given = self.input(f"{kind}i{i}" if state else f"x{i}", kind, i, delays)
            rows.append(tuple(Signals((block,), transposed) for block in given.blocks))
        return Cell(tuple(rows))

    def number(self, name: str) -> int | str:
        """Return the number of the input, or layer, that an argument holds; its name if it has none among several."""
        if suffix := re.search(r"\d+$", name):
            return int(suffix[0])
        others = [n for n in self.main.parameters if n not in (name, "~") and not _STATE_ARGUMENT.fullmatch(n)]
        return name if others and not _STATE_ARGUMENT.fullmatch(name) else 1

    def input(self, name: str, kind: str, number: int | str, delays: int) -> Input:
        size = self.sizes.setdefault((kind, number), Size())
        given = Input(name, size, delays, optional=self.are_cells() and (kind == "a" or self.is_unread()))
        if delays:
            self.inputs.append(given)
        return given

    def are_cells(self) -> bool:
        """Whether the arguments are cell arrays."""
        return any(
            (isinstance(node, s.Content) and _base(node) in self.main.parameters)
            or (isinstance(node, s.Apply) and _base(node) == "iscell")
            for node in self.nodes
        )

    def is_unread(self) -> bool:
        """Whether the header says that the cell array of inputs has none, as that of a closed loop on its own."""
        return _NO_INPUTS.search(self.source.text) is not None

    def height(self, kind: str) -> int:
        """Return how many inputs, or layers, the cell arrays of one kind are indexed for."""
        found = 1
        names = [
            name
            for name in self.main.parameters
            if (state := _STATE_ARGUMENT.fullmatch(name)) and state[1].lower() == kind
        ]
        if kind == "x":
            names += [name for name in self.main.parameters if not _STATE_ARGUMENT.fullmatch(name)]
        for node in self.nodes:
            if isinstance(node, (s.Content, s.Apply)) and _base(node) in names and len(node.arguments) == 2:
                row = node.arguments[0]
                if isinstance(row, s.Number) and isinstance(row.value, float):
                    found = max(found, int(row.value))
        return found

    def delays(self, kind: str) -> int:
        """Return for how many time steps values are delayed, from the ring ``xdts = mod(ts+D-1,D+1)+1``."""
        for node in self.nodes:
            match node:
                case s.Assign(
                    targets=(s.Name(name=name),),
                    value=s.Binary(
                        operator="+", a=s.Apply(of=s.Name(name="mod"), arguments=(_, s.Number(value=float(slots))))
                    ),
                ) if name == f"{kind}dts":
                    return int(slots) - 1
        return 0

    def settle(self) -> None:
        """Give sizes to the inputs that nothing in the arithmetic gives one: from the header, or the least."""
        for (kind, i), size in self.sizes.items():
            size.settle(self.header.get(i) if kind == "x" and isinstance(i, int) else None)

    def settle_asked(self, value: Value, dim: Value) -> None:
        """Give an input the size that the header says, if the file asks for that before anything else tells."""
        if not (isinstance(value, Signals) and isinstance(dim, Known) and (dim.array == 1).all() != value.transposed):
            return
        for (kind, i), size in self.sizes.items():
            if kind == "x" and i in self.header and any(getattr(c, "size", None) is size for c in value.columns):
                size.settle(self.header[i])

    # --- outputs ---------------------------------------------------------------------------------

    def outputs(self, variables: Variables) -> list[tuple[str, Vector | Array]]:
        found: list[tuple[str, Vector | Array]] = []
        line = self.main.line
        for name in self.main.returns:
            if _STATE_RESULT.fullmatch(name):
                continue
            if name not in variables:
                raise self.source.refusal(
                    line, f"the function returns {name!r}, which it gives no value: the file is cut off"
                )
            value = variables[name]
            if isinstance(value, Cell):
                if value.shape[1] != 1:
                    raise self.source.refusal(line, f"{name!r} has {value.shape[1]} time steps instead of one")
                found += [(f"y{i}", self.output(name, row[0])) for i, row in enumerate(value.rows, 1)]
            else:
                found.append((name, self.output(name, value)))
        if not found:
            raise self.source.refusal(line, "the function returns no output")
        return found

    def output(self, name: str, value: Value | None) -> Vector | Array:
        if isinstance(value, Signals) and len(value.columns) == 1:
            return value.columns[0]
        if isinstance(value, Known) and 1 in value.array.shape:
            if any(isinstance(node, s.Assign) and _base(node.targets[0]).startswith("IW") for node in self.nodes):
                raise self.source.refusal(
                    self.main.line, f"the output {name!r} depends on no input, but there are weights of inputs"
                )
            return value.array.reshape(-1, 1).astype(np.float64)
        raise self.source.refusal(self.main.line, f"the output {name!r} is no vector for each sample")

    # --- helper functions ------------------------------------------------------------------------

    def call(self, name: str, arguments: list[Value], wanted: int) -> Sequence[Value]:
        if name == "size" and len(arguments) == 2:
            self.settle_asked(*arguments)
        base, _, way = name.rpartition("_")
        if way not in ("apply", "reverse"):
            base, way = name, ""
        is_own = name in self.functions
        if way and not is_own:
            raise Unsupported(f"the function {name!r} is called and not defined: the file is cut off")
        if base in TRANSFER and way != "reverse" and arguments:
            return [self.transfer(name, base, arguments)]
        if base in (*DISTANCES, "dotprod") and way != "reverse" and len(arguments) >= 2:
            return [self.distance(name, base, arguments)]
        if base in PROCESSING and way and len(arguments) >= 2:
            return [self.process(name, base, way, arguments)]
        if is_own:
            raise Unsupported(
                f"the function {name!r} is unknown",
                f"known are the transfer functions {', '.join(TRANSFER)}, the weight functions dotprod, "
                f"{', '.join(DISTANCES)}, and the processing functions {', '.join(PROCESSING)}: use these",
            )
        return super().call(name, arguments, wanted)

    def transfer(self, name: str, base: str, arguments: list[Value]) -> Value:
        n = arguments[0]
        function = TRANSFER[base]
        if isinstance(n, Known):
            return Known(function.compute(n.array), n.about)
        if not isinstance(n, Signals) or (function.joint and n.transposed):
            raise Unsupported(f"{name!r} is not called on a matrix with samples as columns")
        return n.map(lambda x: function(self.checked(name, [None], x, function.compute)))

    def distance(self, name: str, base: str, arguments: list[Value]) -> Value:
        w, p = arguments[:2]
        if not isinstance(w, Known) or not isinstance(p, Signals) or p.transposed:
            raise Unsupported(f"{name!r} is called on other things than weights and a vector")
        if base == "dotprod":
            return combine("*", w, p.map(lambda x: self.checked(name, [w, None], x, lambda q: w.array @ q)))
        weights, distance = Weights(w.array, w.name), DISTANCES[base]
        return p.map(
            lambda x: distance.of(weights, self.checked(name, [w, None], x, lambda q: distance.compute(w.array, q)))
        )

    def process(self, name: str, base: str, way: str, arguments: list[Value]) -> Value:
        x, *rest = arguments
        settings = self.settings(name, rest)
        function = PROCESSING[base][way == "reverse"]
        if isinstance(x, Known):
            return Known(function(x.array, settings), x.about)
        if not isinstance(x, Signals) or x.transposed:
            raise Unsupported(f"{name!r} is not called on a matrix with samples as columns")
        return x.map(
            lambda c: function(self.checked(name, [None, *rest], c, lambda q: function(q, settings)), settings)
        )

    def settings(self, name: str, rest: list[Value]) -> Settings:
        """Return the settings of a processing function: a struct, or arguments, by the names of the parameters."""
        if len(rest) == 1 and isinstance(rest[0], Struct):
            fields = rest[0].fields
        else:
            names = [parameter.rpartition("_")[2] for parameter in self.functions[name].parameters[1:]]
            if any(not isinstance(value, Known) for value in rest) or len(names) < len(rest):
                raise Unsupported(f"{name!r} is called with other arguments than its settings")
            fields = dict(zip(names, rest, strict=False))
        return Settings({field: value.array for field, value in fields.items() if isinstance(value, Known)})

    def checked(self, name: str, arguments: list[Value | None], x: Any, compute: Callable[[Array], Any]) -> Any:
        """Note that a function of the file is to be compared; return its argument."""
        if name in self.functions and isinstance(x, Vector):
            self.checks.append(_Check(self.functions[name], tuple(arguments), x, compute))
        return x

    def verify(self, check: _Check) -> None:
        """Check that the body of a helper function computes what its name says."""
        function, rows = check.function, check.vector.size.value or 0
        # Numbers around the bends of all transfer functions, no two alike; any would do.
        probe = np.random.default_rng(7).normal(0, 1.5, (rows, _PROBES))
        arguments: list[Value] = [Known(probe) if value is None else value for value in check.arguments]
        try:
            result = Interpreter(self.source, self.functions).call_own(function, arguments, 1)
            with np.errstate(all="ignore"):
                expected = check.compute(probe)
        except (Unsupported, ValueError, IndexError) as error:
            raise self.source.refusal(function.line, str(error)) from error
        found = result[0] if result else None
        near = _NEAR * np.nanmax(abs(expected), initial=1)
        if not (
            isinstance(found, Known)
            and found.array.shape == expected.shape
            and np.allclose(found.array, expected, rtol=0, atol=near, equal_nan=True)
        ):
            raise self.source.refusal(
                function.line,
                f"the function {function.name!r} does not compute what its name says: it was changed, or is cut off",
                f"undo the change, or {GENERATE}",
            )


def _needed(function: s.Function) -> set[str]:
    """Return the variables that the outputs may depend on, wherever they are assigned."""
    needed = {name for name in function.returns if not _STATE_RESULT.fullmatch(name)}
    nodes = list(s.walk(function.body))
    for node in nodes:
        if isinstance(node, s.If):
            needed |= _names(tuple(condition for condition, _ in node.branches))
        elif isinstance(node, s.For):
            needed |= {node.name} | _names(node.over)
        elif isinstance(node, s.Evaluate):
            needed |= _names(node.value)
    while True:
        before = len(needed)
        for node in nodes:
            if isinstance(node, s.Assign) and not needed.isdisjoint(map(_base, node.targets)):
                needed |= _names(node.value) | _names(node.targets)
        if len(needed) == before:
            return needed


def _transposes(node: s.Node, name: str) -> bool:
    """Whether an expression is the transpose of a variable, or of what is in it."""
    if isinstance(node, s.Transpose):
        return _base(node.of) == name
    if isinstance(node, s.Apply) and _base(node) in ("transpose", "ctranspose", "cellfun"):
        return name in map(_base, node.arguments[:2])
    return False


def _names(node: object) -> set[str]:
    return {found.name for found in s.walk(node) if isinstance(found, s.Name)}


def _base(expression: s.Expression | None) -> str:
    """Return the variable that an expression is, or is a part of."""
    while isinstance(expression, (s.Apply, s.Content, s.Field)):
        expression = expression.of
    return expression.name if isinstance(expression, s.Name) else ""


__all__ = ["read"]
