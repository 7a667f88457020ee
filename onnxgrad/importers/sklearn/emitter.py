"""Emission of what estimators compute: a registry of formulas, and the emitter that they are written with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.tensor import Tensor

INT64 = ir.DataType.INT64


class Unsupported(Exception):  # noqa: N818 - not an error of its own: the driver puts it into one message
    """Raised inside a formula: what this estimator computes cannot be written as ONNX, for the given reason."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


class Columns(dict[str, Tensor]):
    """The columns of a data frame by name, each ``(N, 1)``."""


#: What an estimator is given: a matrix, or the columns of a data frame.
Given = Tensor | Columns
#: What a method of an estimator gives: ``formula(g, estimator, x)``; numbers as ``(N, k)``, labels as ``(N,)``.
Formula = Callable[["Emitter", Any, Any], Any]

_FORMULAS: dict[tuple[str, str], Formula] = {}


_F = TypeVar("_F", bound=Formula)


def formula(names: str, method: str) -> Callable[[_F], _F]:
    """Enter a formula for a method of some classes of scikit-learn, given by their names."""

    def enter(function: _F) -> _F:
        for name in names.split():
            assert (name, method) not in _FORMULAS, f"there are two formulas for {name}.{method}"
            _FORMULAS[name, method] = function
        return function

    return enter


def formula_of(estimator: Any, method: str) -> Formula | None:
    """Return the formula for a method; a class that derives from one of scikit-learn may compute something else."""
    kind = type(estimator)
    return _FORMULAS.get((kind.__name__, method)) if kind.__module__.split(".")[0] == "sklearn" else None


class Emitter:
    """What formulas are written with.

    Attributes:
        op: the builder: ``g.op.Exp(x)`` emits any operator.
        dtype: the type of numbers.
        path: the steps that lead to the estimator at hand, with their estimators.
        borrowed: names of the estimators that are written by skl2onnx.
        narrow: names of those of them that are computed in float32 all the same.
    """

    def __init__(self, op: Builder, dtype: ir.DataType) -> None:
        self.op = op
        self.dtype = dtype
        self.path: list[tuple[str, Any]] = []
        self._known: dict[Any, Tensor] = {}
        self._grafts = 0
        self.borrowed: list[str] = []
        self.narrow: list[str] = []

    # --- estimators ------------------------------------------------------------------------------

    def call(self, estimator: Any, method: str, x: Given, step: str | None = None) -> Any:
        """Emit what a method of an estimator gives; `step` is what a user calls the estimator, where it is a part."""
        from onnxgrad.importers.sklearn.leaves import leaf

        self.path.append((step or "", estimator))
        named = (
            self.op.named_after("/".join(name for name, _ in self.path if name)) if step else contextlib.nullcontext()
        )
        with named:
            found = formula_of(estimator, method)
            if found is None:
                result = leaf(self, estimator, method, x)
            else:
                result = found(self, estimator, x)
        self.path.pop()  # stays where it failed
        return result

    def numbers(self, x: Given) -> Tensor:
        """Return an input as one matrix of numbers."""
        op = self.op
        if isinstance(x, Columns):
            texts = [name for name, column in x.items() if column.dtype == ir.DataType.STRING]
            if texts:
                raise Unsupported(
                    f"it takes numbers, and column {texts[0]!r} holds texts", "encode it in a ColumnTransformer"
                )
            columns = [op.cast(column, self.dtype) for column in x.values()]
            return columns[0] if len(columns) == 1 else op.Concat(*columns, axis=1)
        if x.dtype == ir.DataType.STRING:
            raise Unsupported("it takes numbers, and is given texts", "encode them first")
        return op.cast(x, self.dtype)

    # --- constants -------------------------------------------------------------------------------

    def weight(self, name: str, array: Any) -> Tensor:
        """Return an attribute of an estimator as a weight that can be found, and differentiated by, under its name."""
        values = np.asarray(array.toarray() if hasattr(array, "toarray") else array)
        return self._initializer(name, ir.tensor(np.ascontiguousarray(values.astype(self.dtype.numpy()))))

    def texts(self, name: str, texts: Sequence[Any]) -> Tensor:
        """Return texts, such as labels."""
        shape = ir.Shape([len(texts)])
        return self._initializer(name, ir.StringTensor([str(text).encode() for text in texts], shape=shape))

    def _initializer(self, name: str, tensor: Any) -> Tensor:
        scoped = f"{self.op.scope}/{name}" if self.op.scope else name
        key = (scoped, tuple(tensor.shape.numpy()), tensor.dtype, _bytes_of(tensor))
        known = self._known.get(key)  # several methods share what they are computed from
        if known is not None:
            return known
        full = self.op.unique_name(scoped)
        tensor.name = full
        value = ir.Value(name=full, const_value=tensor)
        self.op.model.graph.register_initializer(value)
        declared = self.op.declare(value, (tensor.dtype, tuple(tensor.shape.numpy())))
        assert declared is not None
        self._known[key] = declared
        return declared

    def constant(self, array: Any) -> Tensor:
        """Return numbers that are part of a formula."""
        return self.op.constant(np.asarray(array), self.dtype)

    # --- other models ----------------------------------------------------------------------------

    def graft(self, model: ir.Model, x: Tensor) -> list[Tensor | None]:
        """Put in a model, in the working form, of one input; return its outputs."""
        self._grafts += 1
        imports = self.op.model.graph.opset_imports
        for domain, version in model.graph.opset_imports.items():  # all are written for one version, and may say less
            imports[domain] = max(imports.get(domain, 1), version)
        for node in model.graph.all_nodes():
            node.name = f"{self.op.scope}/graft{self._grafts}/{node.name}"
        (entry,) = model.graph.inputs
        return self.op.inline(model.graph, {entry: x})

    # --- shorthands ------------------------------------------------------------------------------

    def columns(self, x: Tensor, chosen: Iterable[Any]) -> Tensor:
        """Return some columns of a matrix, in the order given."""
        chosen = [int(i) for i in chosen]
        if chosen == list(range(int(x.shape[1]))):
            return x
        return self.op.Gather(x, chosen, axis=1)

    def picked(self, x: Tensor, chosen: Iterable[int]) -> Tensor:
        """Return columns as `columns` does, of a matrix of finite numbers.

        Where it has few, by a product with a matrix of zeros and ones: onnxruntime (1.32) takes 3 ns for each number
        that it gathers along rows.
        """
        chosen, n = list(chosen), int(x.shape[1])
        if n > 64 or n * len(chosen) > 2**14 or chosen == list(range(n)):
            return self.columns(x, chosen)
        return x @ self.constant(np.eye(n)[:, chosen])

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return matrices side by side."""
        return parts[0] if len(parts) == 1 else self.op.Concat(*parts, axis=1)

    def total(self, x: Tensor, axis: int = -1, keepdims: bool = True) -> Tensor:
        """Return sums along an axis."""
        return self.op.sum(x, [axis], keepdims)

    def largest(self, x: Tensor) -> Tensor:
        """Return the positions of the largest elements of rows, ``(N,)``; the first of equal ones."""
        return self.op.ArgMax(x, axis=1, keepdims=0)

    def pick(self, index: Tensor, values: Any) -> Tensor:
        """Return the elements of a list at some positions: labels, of any type."""
        values = np.asarray(values)
        if values.dtype.kind in "OUS":
            known = self.texts("classes_", values)
        else:  # floating-point numbers among them are whole: scikit-learn takes no others for classes
            known = self.op.constant(values.astype(np.int64))
        return self.op.Gather(known, index, axis=0)


def _bytes_of(tensor: Any) -> bytes:
    return b"\0".join(tensor.raw) if isinstance(tensor, ir.StringTensor) else bytes(tensor.tobytes())


def refuse(condition: Any, why: str, remedy: str) -> None:
    """Refuse if a condition holds."""
    if condition:
        raise Unsupported(why, remedy)
