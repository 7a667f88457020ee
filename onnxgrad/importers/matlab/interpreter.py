"""What the statements of a generated file mean: on known matrices as MATLAB computes, and on vectors that depend on
the inputs as expressions of a network. Nothing but this little language is understood, and nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from onnxgrad.importers.matlab import arithmetic
from onnxgrad.importers.matlab import syntax as s
from onnxgrad.importers.matlab.arithmetic import ArgumentError, places
from onnxgrad.importers.matlab.functions import SettingsError
from onnxgrad.importers.matlab.network import Array, SizeError, Vector
from onnxgrad.importers.matlab.operations import (
    Unsupported,
    beside,
    combine,
    extent,
    flag,
    grown,
    named,
    operator_of,
    part_of,
    positions,
    signed,
    stacked,
    transposed_of,
)
from onnxgrad.importers.matlab.source import GENERATE, Source
from onnxgrad.importers.matlab.values import (
    About,
    Cell,
    FunctionHandle,
    Known,
    Signals,
    Struct,
    Text,
    Value,
    number,
    related,
)

#: Functions of one element that a file may call on what depends on its inputs.
_ELEMENTWISE = {"tanh": "Tanh", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs"}
_LOGARITHMS = {"log2": 2.0, "log10": 10.0}
#: Functions that only say something, or stop; what they are told does not matter.
_SPEAKING = frozenset("assert disp display fprintf validateattributes warning".split())
#: What genFunction calls the arguments with delayed values.
_STATES = "Xi and Ai, or xi1, xi2, …, ai1, ai2, …"
#: Classes of MATLAB that the matrices here are of.
_CLASSES = ("double", "float", "numeric")
#: So many statements are followed; a generated file has few.
_LIMIT = 200_000

Variables = dict[str, Value]


class _Returned(Exception):  # noqa: N818 - no error
    """The function has come to a ``return``."""


class Interpreter:
    """Follows the statements of functions.

    Args:
        source: the file.
        functions: its functions, by name.
    """

    def __init__(self, source: Source, functions: Mapping[str, s.Function]) -> None:
        self.source = source
        self.functions = functions
        self._steps = 0
        #: In an index, the number of elements that ``end`` means.
        self._ends: list[int] = []

    # --- statements ------------------------------------------------------------------------------

    def run(self, function: s.Function, arguments: Sequence[Value]) -> Variables:
        """Follow a function; return its variables at its end."""
        variables: Variables = dict(zip(function.parameters, arguments, strict=False))
        variables["nargin"] = number(len(arguments))
        with suppress(_Returned):
            self._block(function.body, variables)
        return variables

    def _block(self, statements: Iterable[s.Statement], variables: Variables) -> None:
        for statement in statements:
            self._steps += 1
            if self._steps > _LIMIT:
                raise self.source.refusal(statement.line, "the function takes too many steps")
            try:
                self._follow(statement, variables)
            except (Unsupported, ArgumentError, SizeError, SettingsError) as error:
                remedy = error.remedy if isinstance(error, Unsupported) else GENERATE
                raise self.source.refusal(statement.line, str(error), remedy) from error
            except (ValueError, IndexError) as error:  # numpy's, of settings that do not fit each other
                raise self.source.refusal(statement.line, f"sizes or indices do not fit: {error}") from error

    def _follow(self, statement: s.Statement, variables: Variables) -> None:
        match statement:
            case s.Assign(targets=targets, value=value):
                found = self._several(value, variables, len(targets))
                for target, result in zip(targets, found, strict=False):
                    if target is not None:
                        self._assign(target, result, variables)
                if len(found) < len(targets):
                    raise Unsupported(f"{len(targets)} values are assigned, and there are {len(found)}")
            case s.If(branches=branches):
                for condition, body in branches:
                    if condition is None or self._holds(condition, variables):
                        self._block(body, variables)
                        return
            case s.For(name=name, over=over, body=body):
                values = self.evaluate(over, variables)
                if not isinstance(values, Known):
                    raise Unsupported("the range of a loop depends on the inputs")
                if values.array.shape[1] > _LIMIT:
                    raise Unsupported("the function takes too many steps")
                for column in values.array.T:
                    variables[name] = Known(column.reshape(-1, 1), values.about)
                    self._block(body, variables)
            case s.Evaluate(value=s.Apply(of=s.Name(name=name))) if name in _SPEAKING and name not in variables:
                return
            case s.Evaluate(value=value):
                self._several(value, variables, 0)
            case s.Return():
                raise _Returned
            case s.Foreign(refusal=refusal):
                raise refusal

    def _holds(self, condition: s.Expression, variables: Variables) -> bool:
        value = self.evaluate(condition, variables)
        if not isinstance(value, Known):
            raise Unsupported("a condition depends on the inputs, which is no differentiable arithmetic")
        if value.about is About.COUNT:
            raise Unsupported("a condition depends on the number of samples")
        return bool(value.array.size) and bool(value.array.all())

    def _assign(self, target: s.Expression, value: Value, variables: Variables) -> None:
        match target:
            case s.Name(name=name):
                variables[name] = named(value, name)
            case s.Field(of=s.Name(name=name), name=field):
                holder = variables.setdefault(name, Struct())
                if not isinstance(holder, Struct):
                    raise Unsupported(f"{name!r} is no struct")
                holder.fields[field] = named(value, f"{name}_{field}")
            case s.Content(of=s.Name(name=name), arguments=arguments):
                cell = variables.get(name, Cell(()))
                if not isinstance(cell, Cell):
                    raise Unsupported(f"{name!r} is no cell array")
                if layer := re.fullmatch(r"[Aa]d(\d+)", name):
                    value = named(value, f"a{layer[1]}")
                array = cell.array()
                indices, _ = self._indices(arguments, array.shape, variables)
                array = grown(array, indices, None)
                array[positions(indices, array.shape)] = value
                variables[name] = Cell.of(array)
            case s.Apply(of=s.Name(name=name), arguments=arguments):
                if layer := re.fullmatch(r"ad(\d+)", name):
                    value = named(value, f"a{layer[1]}")
                variables[name] = self._assign_part(variables.get(name), arguments, value, variables)
            case _:
                raise Unsupported("nothing is assigned to such an expression in what genFunction writes")

    def _assign_part(
        self, old: Value | None, arguments: tuple[s.Expression, ...], value: Value, variables: Variables
    ) -> Value:
        if isinstance(old, Cell) and isinstance(value, Cell):
            array = old.array()
            array[positions(self._indices(arguments, array.shape, variables)[0], array.shape)] = (
                value.rows[0][0] if value.shape == (1, 1) else value.array()
            )
            return Cell.of(array)
        if isinstance(value, Signals) or isinstance(old, Signals):
            return self._assign_signals(old, arguments, value, variables)
        if isinstance(value, Known) and (old is None or isinstance(old, Known)):
            matrix = np.zeros((0, 0)) if old is None else old.array
            indices, about = self._indices(arguments, matrix.shape, variables)
            matrix = grown(matrix.astype(np.float64), indices, 0.0)
            where = positions(indices, matrix.shape)
            new = value.array.astype(np.float64)
            if len(indices) == 1 and new.size != 1:
                new = new.reshape(-1, order="F")
            try:
                matrix[where] = new.item() if new.size == 1 else new
            except ValueError as error:
                raise ArgumentError("what is assigned does not fit to the elements that it is assigned to") from error
            return Known(matrix, related(value, Known(matrix, about), *([old] if old else [])))
        raise Unsupported("such a part of a variable is not assigned to in what genFunction writes")

    def _assign_signals(
        self, old: Value | None, arguments: tuple[s.Expression, ...], value: Value, variables: Variables
    ) -> Signals:
        """``x(:,k) = vector``, or ``x(k,:) = vector`` where samples or time steps are rows."""
        if len(arguments) != 2:
            raise Unsupported("a part of what depends on the inputs is assigned to")
        transposed = isinstance(arguments[1], s.Everything)
        place = self.evaluate(arguments[0 if transposed else 1], variables)
        if isinstance(arguments[0 if not transposed else 1], s.Everything) and isinstance(place, Known):
            if isinstance(old, Known):
                matrix = old.array.T if transposed else old.array
                old = Signals(tuple(column.reshape(-1, 1) for column in matrix.T), transposed)
            if isinstance(old, Signals) and old.transposed == transposed:
                columns = list(old.columns)
                (k,) = places(place.array, len(columns))
                column = value.columns[0] if isinstance(value, Signals) else None
                if column is None or k >= len(columns) or len(value.columns) != 1:  # type: ignore[union-attr]
                    raise SizeError(
                        f"column {k + 1} of {len(columns)} is assigned to: the delays do not fit together (delayed "
                        f"values are those of the arguments {_STATES})"
                    )
                rows = next((len(known) for known in columns if not isinstance(known, Vector)), 0)
                if rows and isinstance(column, Vector):
                    column.size.be(rows)
                columns[k] = column
                return Signals(tuple(columns), transposed)
        raise Unsupported("a part of what depends on the inputs is assigned to")

    # --- expressions -----------------------------------------------------------------------------

    def evaluate(self, expression: s.Expression, variables: Variables) -> Value:
        """Return the value of an expression."""
        found = self._several(expression, variables, 1)
        if len(found) != 1:
            raise Unsupported(f"one value is used, and there are {len(found)}")
        return found[0]

    def _several(self, expression: s.Expression, variables: Variables, wanted: int) -> Sequence[Value]:
        """Return the values of an expression, of which a call or the content of a cell array may have several."""
        match expression:
            case s.Content(of=of, arguments=arguments):
                cell = self.evaluate(of, variables)
                if not isinstance(cell, Cell):
                    raise Unsupported("the content of what is no cell array is taken")
                found = part_of(cell.array(), self._indices(arguments, cell.shape, variables)[0])
                if any(value is None for value in found.flat):
                    raise Unsupported("an element of a cell array is used before it has a value")
                return list(found.reshape(-1, order="F"))
            case s.Apply(of=s.Name(name=name), arguments=arguments) if name not in variables:
                return self.call(name, self._all(arguments, variables), wanted)[: max(wanted, 1)]
            case s.Name(name=name) if name == "end" and self._ends:
                return [number(self._ends[-1])]
            case s.Name(name=name) if name not in variables:
                return self.call(name, [], wanted)[: max(wanted, 1)]
        return [self._one(expression, variables)]

    def _all(self, expressions: Iterable[s.Expression], variables: Variables) -> list[Value]:
        return [value for expression in expressions for value in self._several(expression, variables, 1)]

    def _one(self, expression: s.Expression, variables: Variables) -> Value:
        match expression:
            case s.Number(value=value):
                return Known(value) if isinstance(value, np.ndarray) else number(value)
            case s.String(text=text):
                return Text(text)
            case s.Handle(name=name):
                return FunctionHandle(name)
            case s.Name(name=name):
                return variables[name]
            case s.Field(of=of, name=name):
                struct = self.evaluate(of, variables)
                if not isinstance(struct, Struct) or name not in struct.fields:
                    raise Unsupported(f"there is no field {name!r}: the constants of the file are not complete")
                return struct.fields[name]
            case s.Apply(of=of, arguments=arguments):
                return self._indexed(self.evaluate(of, variables), arguments, variables)
            case s.Transpose(of=of):
                return transposed_of(self.evaluate(of, variables))
            case s.Unary(operator=operator, of=of):
                return signed(operator, self.evaluate(of, variables))
            case s.Binary(operator=("&&" | "||") as operator, a=a, b=b):
                first = self._holds(a, variables)
                decided = first if operator == "||" else not first
                return Known(np.array([[first if decided else self._holds(b, variables)]]))
            case s.Binary(operator=operator, a=a, b=b):
                return combine(operator, self.evaluate(a, variables), self.evaluate(b, variables))
            case s.Range():
                return self._range(expression, variables)
            case s.Matrix(rows=rows):
                return stacked([beside(self._all(row, variables)) for row in rows])
            case s.Cells(rows=rows):
                return Cell(tuple(tuple(self._all(row, variables)) for row in rows))
        raise Unsupported("such an expression does not occur in what genFunction writes")

    def _range(self, expression: s.Range, variables: Variables) -> Known:
        parts = [expression.start, expression.stop, *([expression.step] if expression.step else [])]
        values = [self.evaluate(part, variables) for part in parts]
        numbers = [value.array.item() for value in values if isinstance(value, Known) and value.array.size == 1]
        if len(numbers) != len(values):
            raise Unsupported("the bounds of a range are no numbers")
        start, stop, step = (*numbers, 1.0)[:3]
        length = (stop - start) / step + 1e-10 if step else -1.0
        arithmetic.check_count(length)
        count = max(int(np.floor(length)) + 1, 0)
        return Known((start + step * np.arange(count)).reshape(1, -1), related(*values))

    # --- parts -----------------------------------------------------------------------------------

    def _indices(
        self, arguments: tuple[s.Expression, ...], shape: tuple[int, ...], variables: Variables
    ) -> tuple[list[Array | None], About]:
        """Return the places, from 0, that are meant on each axis, or on the only one (None: all), and what they are
        about.
        """
        if not 1 <= len(arguments) <= 2:
            raise Unsupported("matrices have two dimensions")
        lengths = shape if len(arguments) == 2 else (shape[0] * shape[1],)
        found: list[Array | None] = []
        known: list[Known] = []
        for argument, length in zip(arguments, lengths, strict=True):
            if isinstance(argument, s.Everything):
                found.append(None)
                continue
            self._ends.append(length)
            value = self.evaluate(argument, variables)
            self._ends.pop()
            if not isinstance(value, Known):
                raise Unsupported("an index depends on the inputs, which is no differentiable arithmetic")
            found.append(places(value.array, length))
            known.append(value)
        return found, related(*known)

    def _indexed(self, value: Value, arguments: tuple[s.Expression, ...], variables: Variables) -> Value:
        """``value(arguments)``."""
        if isinstance(value, Known):
            indices, about = self._indices(arguments, value.array.shape, variables)
            part = part_of(value.array, indices)
            if len(arguments) == 1 and not isinstance(arguments[0], s.Everything):
                part = self._shaped_like_index(part, value.array, arguments[0], variables)
            return Known(part, related(value, Known(part, about)))
        if isinstance(value, Cell):
            return Cell.of(part_of(value.array(), self._indices(arguments, value.shape, variables)[0]))
        whole = len(arguments) == 1 and isinstance(arguments[0], s.Everything)
        if isinstance(value, Signals) and whole and len(value.columns) == 1:  # a sample, however it was given
            return Signals(value.columns)
        if isinstance(value, Signals) and len(arguments) == 2:
            rows, columns = arguments[::-1] if value.transposed else arguments
            if not isinstance(columns, s.Everything):
                ((kept,), _) = self._indices((columns,), (1, len(value.columns)), variables)
                assert kept is not None
                if (kept >= len(value.columns)).any():
                    raise SizeError(
                        f"column {kept.max() + 1} is used, and there are {len(value.columns)}: one for each sample or "
                        f"delay (delayed values are those of the arguments {_STATES})"
                    )
                value = Signals(tuple(value.columns[k] for k in kept), value.transposed)
            if not isinstance(rows, s.Everything):
                ((taken,), about) = self._indices((rows,), (1, 2**31), variables)
                assert taken is not None
                if about is About.COUNT:
                    raise Unsupported("an index of rows depends on the number of samples or time steps")
                return value.map(lambda column: column.take(taken) if isinstance(column, Vector) else column[taken])
            return value
        raise Unsupported("such a part of a variable is not used in what genFunction writes")

    def _shaped_like_index(self, part: Array, of: Array, argument: s.Expression, variables: Variables) -> Array:
        """Give the part of a matrix that one index picks its shape: that of the index, or the direction of a vector."""
        self._ends.append(of.size)
        index = self.evaluate(argument, variables)
        self._ends.pop()
        assert isinstance(index, Known)
        if 1 in of.shape and 1 in index.array.shape and of.size != 1:
            return part.reshape((1, -1) if of.shape[0] == 1 else (-1, 1))
        if index.array.dtype == bool:
            return part.reshape((1, -1) if index.array.shape[0] == 1 else (-1, 1))
        return part.reshape(index.array.shape, order="F")

    # --- calls -----------------------------------------------------------------------------------

    def call(self, name: str, arguments: list[Value], wanted: int) -> Sequence[Value]:
        """Call a function by name."""
        if name in self.functions:
            return self.call_own(self.functions[name], arguments, wanted)
        match name, arguments:
            case "iscell", [value]:
                return [flag(isinstance(value, Cell))]
            case "isa", [value, Text(text=kind)]:
                return [flag(not isinstance(value, (Cell, Struct, Text)) and kind in _CLASSES)]
            case (("isnumeric" | "isreal" | "isfloat"), [value]):
                return [flag(isinstance(value, (Known, Signals)))]
            case "struct", [*_] if _are_fields(arguments):
                fields = [text.text for text in arguments[::2] if isinstance(text, Text)]
                return [Struct(dict(zip(fields, arguments[1::2], strict=True)))]
            case "isstruct", [value]:
                return [flag(isinstance(value, Struct))]
            case "isfield", [Struct(fields=fields), Text(text=field)]:
                return [flag(field in fields)]
            case "isempty", [Cell(rows=rows)]:
                return [flag(not rows or not rows[0])]
            case "isempty", [Signals()]:
                return [flag(False)]
            case ("cell", [Known(array=height), Known(array=width)]):
                return [Cell(((None,) * int(width.item()),) * int(height.item()))]
            case "size", [Cell() as cell, *rest]:
                return self._size(Known(np.zeros(cell.shape), About.COUNT), rest, wanted)
            case "size", [Signals() as signals, Known(array=dim)]:
                return [extent(signals, int(dim.item()))]
            case "size", [Signals() as signals]:
                extents = [extent(signals, dim, known=False) for dim in (1, 2)]
                whole = Known(np.concatenate([e.array for e in extents], axis=1), About.COUNT)
                return extents if wanted > 1 else [whole]
            case "bsxfun", [FunctionHandle(name=function), a, b]:
                return [combine(operator_of(function), a, b)]
            case "cellfun", [FunctionHandle(name=("transpose" | "ctranspose")), Cell(rows=rows), *_]:
                return [Cell(tuple(tuple(v if v is None else transposed_of(v) for v in row) for row in rows))]
            case "error", [*_]:
                text = arguments[0].text if arguments and isinstance(arguments[0], Text) else ""
                raise Unsupported(f"the file itself stops here with an error: {text}")
            case "size", [Known() as value, *rest]:
                return self._size(value, rest, wanted)
        if any(isinstance(value, Signals) for value in arguments):
            return [self._call_on_signals(name, arguments)]
        return self._call_on_numbers(name, arguments)

    def call_own(self, function: s.Function, arguments: list[Value], wanted: int) -> Sequence[Value]:
        """Call a function of the file."""
        variables = self.run(function, arguments)
        missing = [name for name in function.returns[: max(wanted, 1)] if name not in variables]
        if missing:
            raise Unsupported(f"{function.name!r} returns {missing[0]!r}, which it gives no value")
        return [variables[name] for name in function.returns[: max(wanted, 1)]]

    def _size(self, value: Known, rest: Sequence[Value], wanted: int) -> Sequence[Value]:
        about = value.about
        if wanted > 1:
            return [Known(np.array([[float(n)]]), about) for n in value.array.shape]
        return [Known(arithmetic.apply("size", [value.array, *(r.array for r in rest if isinstance(r, Known))]), about)]

    def _call_on_numbers(self, name: str, arguments: list[Value]) -> Sequence[Value]:
        if name not in arithmetic.FUNCTIONS:
            called = "the function" if arguments else "the variable, or function,"
            raise Unsupported(f"{called} {name!r} is unknown")
        for i, value in enumerate(arguments):  # zeros(2, 3, 'like', x)
            if isinstance(value, Text):
                arguments = arguments[:i]
                break
        numbers = [value for value in arguments if isinstance(value, Known)]
        if len(numbers) != len(arguments):
            raise Unsupported(f"{name!r} is called on what is no matrix")
        found = arithmetic.apply(name, [value.array for value in numbers])
        about = related(*numbers)
        if name in arithmetic.SHAPING and about is About.COUNT:
            about = About.COLUMNS
        kept = numbers[0].name if name == "repmat" else ""
        return [Known(part, about, kept) for part in (found if isinstance(found, tuple) else (found,))]

    def _call_on_signals(self, name: str, arguments: list[Value]) -> Value:
        first = arguments[0]
        match name, arguments:
            case "cat", [Known(array=dim), *parts]:
                return stacked(parts) if dim.item() == 1 else beside(parts)
            case "vertcat", parts:
                return stacked(parts)
            case "horzcat", parts:
                return beside(parts)
            case "reshape", [Signals(transposed=False) as value, Known(array=rows), Known(array=columns)]:
                if columns.size == 1 and columns.item() == 1 and rows.size <= 1:
                    joined = stacked([Signals((column,)) for column in value.columns])
                    assert isinstance(joined, Signals)
                    if rows.size:
                        joined.vector.size.be(int(rows.item()))
                    return joined
            case "double", [value]:
                return value
            case (("transpose" | "ctranspose"), [value]):
                return transposed_of(value)
            case "repmat", [value, *_]:
                raise Unsupported("what depends on the inputs is repeated")
            case (("max" | "min"), [Known(array=bound), Signals() as value] | [Signals() as value, Known(array=bound)]):
                if bound.size == 1:
                    return value.map(lambda x: x.combine(name.capitalize(), bound))
        if len(arguments) == 2 and name in arithmetic.OPERATORS.values():
            return combine(operator_of(name), *arguments)
        if name in _ELEMENTWISE and isinstance(first, Signals) and len(arguments) == 1:
            return first.map(
                lambda x: x.elementwise(_ELEMENTWISE[name]) if isinstance(x, Vector) else arithmetic.apply(name, [x])
            )
        if name in _LOGARITHMS and isinstance(first, Signals):
            natural = self._call_on_signals("log", arguments)
            return combine("./", natural, number(np.log(_LOGARITHMS[name])))
        raise Unsupported(f"the function {name!r} is not known on what depends on the inputs")


def _are_fields(arguments: Sequence[Value]) -> bool:
    """Whether ``struct(arguments)`` is one struct: names and values by turns, none of them a cell array."""
    names, values = arguments[::2], arguments[1::2]
    texts = all(isinstance(name, Text) for name in names)
    return texts and len(names) == len(values) and not any(isinstance(value, Cell) for value in values)


__all__ = ["Interpreter", "Variables"]
