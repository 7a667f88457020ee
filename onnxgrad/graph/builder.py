"""Emission of nodes: typed as they are built, simplified as they are built, each written once.

`Builder` knows the types of all values of a model and appends nodes to it. It knows no calculus. What it does for
those who use it:

- ``op.MatMul(a, b)`` emits any ai.onnx operator; Python numbers and lists among the inputs become constants.
- The result's type and (possibly symbolic) shape are known at once.
- `simplify` rewrites as nodes are asked for; equal nodes are emitted once; a broadcast is not written until it is
needed.
- Nodes that no output needs in the end are never written to the model (`finish`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph import content, flow, forms, infer, operands, products, sequences, simplify
from onnxgrad.graph.dims import Dim, Shape, broadcast, broadcast_of, dim_mul, division_of, terms_of
from onnxgrad.graph.node import Node, attribute, attribute_defaults, hashable, python_attributes, since_version
from onnxgrad.graph.random import drawing_node, is_random
from onnxgrad.graph.scope import Scope
from onnxgrad.graph.tensor import Tensor

#: Operators behind which onnxruntime moves a `DequantizeLinear`.
_PROPAGATED = frozenset("Flatten Gather MaxPool Slice Squeeze Transpose Unsqueeze Reshape".split())


class Builder:
    """Appends nodes to a model's graph.

    Args:
        model: the model, in the working form of `onnxgrad.model.normalize`; only `finish` changes it.
        straight_through: whether gradients pass straight through roundings.

    Attributes:
        relied_on: names of weights whose numbers were written into formulas.
        straight_through: whether gradients pass straight through roundings.
        sequences: what sequences hold, where that is known.
        optionals: what optionals hold, where that is known.
        grown: of tensors that stack what a loop appended to a sequence, that sequence.
        equals: tensors that are known to be equal to a value which is not computed otherwise.
        settled: whether the types that are being found are the final ones, not those of a trial.
        has_sequences: whether the model has sequences or optionals.
    """

    def __init__(self, model: ir.Model, straight_through: bool = False) -> None:
        self.model = model
        self.straight_through = straight_through
        self.opset = model.graph.opset_imports[""]
        self.scope = ""
        self._within = Scope()
        self._tensors: dict[ir.Value, Tensor] = {}
        self._views: dict[ir.Node, Node] = {}
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        values = ir.convenience.create_value_mapping(model.graph).values()
        self._names = {v.name for v in values}
        self._dim_names = {d.value for v in values if v.shape is not None for d in v.shape if not isinstance(d, int)}
        self._phantoms: set[ir.Value] = set()
        self._fixed: dict[ir.Value, bool] = {}
        self.relied_on: set[str] = set()
        self._node_names = {node.name for node in model.graph.all_nodes()}
        self._fresh = 0
        self.sequences: dict[ir.Value, sequences.Items] = {}
        self.optionals: dict[ir.Value, ir.Value] = {}
        self.grown: dict[ir.Value, ir.Value] = {}
        self.equals: dict[ir.Value, Tensor] = {}
        self.settled = True
        self.has_sequences = any(
            node.op_type in sequences.RESOLVERS.keys() - {"Identity"} for node in model.graph.all_nodes()
        )
        self._functions = [ir.serde.serialize_function(f) for f in model.functions.values()]
        self._read(model.graph)

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes emitted so far into the graph, or body, that is being built; `finish` decides which are written."""
        return self._within.nodes

    # --- what is there -----------------------------------------------------------------------

    def _read(self, graph: ir.Graph) -> None:
        for value in graph.inputs:
            self._declare(value, value)
        self.type_body(graph)

    def type_body(self, graph: ir.Graph) -> None:
        """Give types to the values of a graph whose inputs have theirs."""
        for value in graph.initializers.values():
            tensor = value.const_value
            if value not in self._tensors and tensor is not None:
                value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
                self._declare(value, value)
        for node in list(graph):
            self._type_node(node)
        if self.settled and self.has_sequences:
            sequences.remove_unused(graph)

    def _declare(self, value: ir.Value, declared: ir.Value) -> None:
        """Take a value's type from its declaration."""
        if not isinstance(declared.type, ir.TensorType) or declared.shape is None:
            return
        shape = tuple(d if isinstance(d, int) else d.value for d in declared.shape)
        self._register(value, (declared.type.dtype, shape))

    def _register(self, value: ir.Value, found: operands.Type | None) -> Tensor | None:
        """Make the tensor of a value, give open sizes a name, and remember where each size can be read."""
        if found is None or found[1] is None:
            return None
        dtype, dims = found
        assert dims is not None
        shape = tuple(self.fresh_dim() if d is None else d for d in dims)
        tensor = self._tensors[value] = Tensor(self, dtype, shape, value)
        for axis, dim in enumerate(shape):
            if isinstance(dim, str) and value not in self._phantoms:
                self._within.sources.setdefault(dim, (tensor, axis))
        if value.is_initializer():
            const = tensor.const if dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL) else None
            tensor.content = None if const is None else tuple(int(i) for i in const.flat)
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
        return tensor

    def _type_node(self, node: ir.Node) -> Tensor | None:
        """Find the types of a node's outputs; return the tensor that is its output instead, if there is one."""
        inputs = tuple(None if v is None else self._tensors.get(v) for v in node.inputs)
        if node.op_type == "CastLike" and not node.domain and inputs[1] is not None:
            # of constants it is one only then: onnxruntime (1.32) takes a bias that is cast to the type of an input for
            # one that varies, and the convolution out of its blocked layout
            node.attributes["to"] = ir.AttrInt64("to", inputs[1].dtype.value)
            node.op_type, inputs = "Cast", inputs[:1]
            node.resize_inputs(1)
        attrs = python_attributes(node)
        found: Sequence[operands.Type | None] = [None] * len(node.outputs)
        if flow.is_flow(node) or None not in (t for t, v in zip(inputs, node.inputs, strict=True) if v is not None):
            with contextlib.suppress(infer.InferenceError):
                if flow.is_flow(node):
                    found = flow.infer_flow(self, node, inputs)
                else:
                    version, outer = self._version(node.domain), self._captured(node)
                    found = infer.infer_types(node, inputs, attrs, version, outer, self._functions)
        stated = node.meta.get(flow.STATED_SHAPE)
        if stated is not None and found[0] is not None and found[0][1] is not None:  # a copy of a node of our own
            sizes = zip(found[0][1], stated, strict=True)
            found = [(found[0][0], tuple(s if self.is_known(s) else d for d, s in sizes)), *found[1:]]
        if node.op_type == "If" and not node.domain:
            contents = flow.contents_of_branches(self, node)
        else:
            contents = content.infer_contents(node, inputs, attrs, found)
        for value, guess, elements in zip(node.outputs, found, contents, strict=True):
            declared = value.meta.get("declared", value)
            tensor = self._register(value, guess)
            if tensor is None:
                self._declare(value, declared)
            else:
                tensor.content = elements
            if tensor is not None and value in self.grown:
                self.sequences[self.grown[value]] = sequences.Items(stack=tensor)
        if node.domain == "" and not is_random(node) and not any(isinstance(a, ir.Graph) for a in attrs.values()):
            key = (node.op_type, tuple(id(v) if v else None for v in node.inputs), hashable(attrs), len(node.outputs))
            self._within.memo.setdefault(key, tuple(self._tensors.get(v) for v in node.outputs))
        if not self.has_sequences:
            return None
        if node.op_type == "Loop" and node.graph is not None and self.settled:
            new = sequences.stack_appended(self, node)
            return None if new is None else self._type_node(new)
        return self._resolve(node) if node.op_type in sequences.RESOLVERS else None

    def _resolve(self, node: ir.Node) -> Tensor | None:
        """Find out what a sequence holds, or put in the place of a node that takes a tensor out of one what gives it
        without.
        """
        y = node.outputs[0]
        with self._in(Scope(self._within, beside=True)):
            found = sequences.resolve(self, node)
            if isinstance(found, list):
                self.sequences.update(zip(node.outputs, found, strict=False))
            if not isinstance(found, Tensor):
                found = None
            elif self.settled and node.graph is not None:
                value = self.named_identity(found) if y.is_graph_output() else found.value
            new = list(self.nodes)
        if node.graph is None:  # of a body that is emitted
            self.nodes.extend(new)
            return found
        if not self.settled:
            if found is not None:
                self._register(y, (found.dtype, found.shape))
            return None
        for each in new:
            each.meta[sequences.FOR_SEQUENCES] = True
        node.graph.insert_before(node, new)
        if found is not None:
            named, name = y.is_graph_output(), y.name
            ir.convenience.replace_all_uses_with(y, value, replace_graph_outputs=True)
            if named:
                y.name, value.name = None, name
        return None

    def _captured(self, node: ir.Node) -> dict[str, Tensor]:
        return {v.name: self._tensors[v] for v in flow.captured_values(node) if v.name and v in self._tensors}

    def _version(self, domain: str) -> int:
        return self.model.graph.opset_imports.get(domain, 1)

    def tensor(self, value: ir.Value) -> Tensor | None:
        """Return the tensor of a value; None where it is no tensor or its rank is not known."""
        return self._tensors.get(value)

    def known(self, value: ir.Value) -> Tensor | None:
        """Return the tensor of a value, or rather one that is equal to it and is there already."""
        return self.equals.get(value, self.tensor(value))

    def view(self, node: ir.Node) -> Node:
        """Return the node as rules see it."""
        view = self._views.get(node)
        if view is None:
            opset = self._version(node.domain)
            view = self._views[node] = Node(
                ir=node,
                inputs=tuple(None if v is None else self._tensors.get(v) for v in node.inputs),
                outputs=tuple(self._tensors.get(v) for v in node.outputs),
                attrs={**attribute_defaults(node.domain, node.op_type, opset), **python_attributes(node)},
                version=since_version(node.domain, node.op_type, opset),
            )
        return view

    def become(self, node: ir.Node, op_type: str, inputs: Sequence[Tensor]) -> None:
        """Turn an emitted node into one of another operator that gives the same output."""
        old, y = node.name or "", node.outputs[0]
        node.op_type, node.name = op_type, self._unique(f"{old.rpartition('/')[0]}/{op_type}", self._node_names)
        if y.name == old:
            y.name = node.name
        node.resize_inputs(len(inputs))
        for i, tensor in enumerate(inputs):
            node.replace_input_with(i, tensor.value)
        self._views.pop(node, None)

    # --- emission ----------------------------------------------------------------------------

    def __getattr__(self, op_type: str) -> Callable[..., Tensor]:
        """Return the function that emits an operator with one output: ``op.Conv(x, w, strides=[2, 2])``.

        A keyword `shape` states the result's shape where the caller knows it better than inference does.
        """
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def emit(*inputs: Any, shape: Sequence[Dim] | None = None, **attrs: Any) -> Tensor:
            return self.emit(op_type, *inputs, shape=shape, **attrs)[0]

        return emit

    def emit(
        self, op_type: str, *inputs: Any, outputs: int = 1, shape: Sequence[Dim] | None = None, **attrs: Any
    ) -> tuple[Tensor, ...]:
        """Emit one ai.onnx node and return its outputs.

        Args:
            op_type: the operator.
            inputs: tensors; None for an absent one; numbers (constants of the first tensor's dtype), lists of
                integers (int64) and arrays.
            outputs: how many outputs to name.
            shape: shape of the first output, where the caller knows it better than inference does.
            attrs: attributes; None for an absent one.
        """
        like = next((i.dtype for i in inputs if isinstance(i, Tensor) and i.dtype != ir.DataType.BOOL), None)
        operands = [self._operand(i, like) for i in inputs]
        if op_type in _PROPAGATED and operands[0] is not None:
            operands[0] = self._apart(operands[0])
        while operands and operands[-1] is None:
            operands.pop()
        given = {name: value for name, value in attrs.items() if value is not None}
        if outputs == 1:
            simpler = simplify.simplify(self, op_type, operands, given)
            if simpler is not None:
                if shape is not None:
                    self.retype(simpler, shape)
                return (simpler,)
        result = self._emit_shared(op_type, operands, given, outputs, shape)
        known = result[0].ints if outputs == 1 else None
        if known is not None:  # small integers that follow from fixed sizes
            return (self.constant(np.reshape(known, result[0].shape), result[0].dtype),)
        return result

    def _apart(self, x: Tensor) -> Tensor:
        """Return x, or, where it is a dequantized int8 tensor, a copy of it that onnxruntime takes for something else.

        From opset 21 on, onnxruntime 1.32 on x64 moves the pair of `QuantizeLinear` and `DequantizeLinear` behind
        operators that move elements, gives the copy an `output_dtype` of int8, makes all zero points uint8, and then
        refuses its own result.
        """
        node = None if x._value is None else x._value.producer()
        if node is None or node.op_type != "DequantizeLinear" or self.opset < 21 or node.inputs[0] is None:
            return x
        q = node.inputs[0]
        concerned = q.dtype == ir.DataType.INT8 and not q.is_initializer()
        return self._emit_shared("Sum", [x], {}, 1, x.shape)[0] if concerned else x

    def _emit_shared(
        self, op_type: str, operands: Sequence[Tensor | None], attrs: dict[str, Any], outputs: int, shape: Any
    ) -> tuple[Tensor, ...]:
        """Emit a node, unless there is an equal one."""
        key = (op_type, tuple(id(t.value) if t else None for t in operands), hashable(attrs), outputs)
        known = self._within.memo.get(key)
        if known is None or None in known:
            known = self._within.memo[key] = self._append(op_type, operands, attrs, outputs, shape)
        return known  # type: ignore[return-value]

    def _append(
        self, op_type: str, operands: Sequence[Tensor | None], attrs: dict[str, Any], outputs: int, shape: Any
    ) -> tuple[Tensor, ...]:
        name = self._unique(f"{self.scope}/{op_type}" if self.scope else op_type, self._node_names)
        node = ir.Node(
            "",
            op_type,
            [t.value if t is not None else None for t in operands],
            [attribute(k, v) for k, v in attrs.items()],
            num_outputs=outputs,
            name=name,
        )
        for i, value in enumerate(node.outputs):
            value.name = self._unique(name if i == 0 else f"{name}:{i}", self._names)
        found = infer.infer_types(node, operands, attrs, self.opset)
        if shape is not None and found[0] is not None:
            found[0] = found[0][0], tuple(shape)
            node.meta[flow.STATED_SHAPE] = tuple(shape)
        self.nodes.append(node)
        if not self._phantoms.isdisjoint(v for v in node.inputs if v is not None):
            self._phantoms.update(node.outputs)
        result: list[Tensor] = []
        for value, guess in zip(node.outputs, found, strict=True):
            tensor = self._register(value, guess)
            assert tensor is not None, f"{op_type}: no type for {value.name}"
            result.append(tensor)
        result[0].content = content.infer_content(node, operands, attrs, found[0])
        return tuple(result)

    def _operand(self, operand: Any, dtype: ir.DataType | None) -> Tensor | None:
        if operand is None or isinstance(operand, Tensor):
            return operand
        if isinstance(operand, (bool, float, int, np.number)):
            assert dtype is not None, "a Python number needs a tensor beside it"
            return self.constant(operand, dtype)
        if isinstance(operand, np.ndarray):
            return self.constant(operand)
        if isinstance(operand, (list, tuple)):
            return self.ints(operand)
        raise TypeError(f"{type(operand).__name__} is no operand")

    # --- constants and sizes -----------------------------------------------------------------

    def constant(self, value: Any, dtype: ir.DataType | None = None) -> Tensor:
        """Return a constant (an initializer; equal ones are shared)."""
        plain = (type(value), repr(value), dtype) if isinstance(value, (bool, int, float)) else None
        if plain in self._constants:
            return self._constants[plain]
        array = np.asarray(value) if dtype is None else np.asarray(value).astype(dtype.numpy())
        tensor = ir.tensor(array, dtype=dtype)
        key = (tensor.dtype, array.shape, array.tobytes())
        known = self._constants.get(key)
        if known is None:
            name = self._unique("onnxgrad/const", self._names)
            initializer = ir.Value(name=name, const_value=tensor)
            self.model.graph.register_initializer(initializer)
            known = self._register(initializer, (tensor.dtype, array.shape))
            assert known is not None
            known.is_literal = True
            self._constants[key] = known
        if plain is not None:
            self._constants[plain] = known
        return known

    def eye(self, n: int, dtype: ir.DataType) -> Tensor:
        """Return the identity matrix, shape ``(n, n)``."""
        if n <= 64:
            result = self.constant(np.eye(n), dtype)
        else:
            result = self.EyeLike(self.ConstantOfShape([n, n]), dtype=dtype)
        result.is_identity = True
        return result

    def full(self, shape: Sequence[Dim], value: float, dtype: ir.DataType) -> Tensor:
        """Return a tensor filled with one number; nothing is written before it is needed."""
        return self.spread(self.constant(value, dtype), shape)

    def zeros_like(self, x: Tensor) -> Tensor:
        """Return zeros of the shape and dtype of `x`; nothing is written before they are needed."""
        return self.full(x.shape, 0, x.dtype)

    def fresh_dim(self) -> str:
        """Return a new name for a size of which nothing is known."""
        self._fresh += 1
        while f"d{self._fresh}_" in self._dim_names:
            self._fresh += 1
        return f"d{self._fresh}_"

    def size(self, dim: Dim) -> Tensor:
        """Return a size as an int64 tensor of shape ``(1,)``."""
        if isinstance(dim, int):
            return self.constant(np.array([dim], np.int64))
        if dim in self._within.sources:
            tensor, axis = self._within.sources[dim]
            return self.Shape(tensor, start=axis, end=axis + 1)
        total: Tensor | None = None
        for coefficient, atoms in terms_of(dim):
            term: Tensor | None = None
            for atom in atoms:
                term = self._size_of_atom(atom) if term is None else term * self._size_of_atom(atom)
            term = self.constant(np.array([coefficient], np.int64)) if term is None else term * coefficient
            total = term if total is None else total + term
        assert total is not None
        total.content = (dim,)
        return total

    def _size_of_atom(self, atom: str) -> Tensor:
        if atom in self._within.sources:
            return self.size(atom)
        division, parts = division_of(atom), broadcast_of(atom)
        if division is not None:
            return self.size(division[0]) / division[1]
        assert parts is not None, f"no tensor has the size {atom}"
        total = self.size(parts[0])
        for part in parts[1:]:
            total = self.Where(self.Equal(total, 1), self.size(part), total)
        return total

    def ints(self, dims: Sequence[Dim]) -> Tensor:
        """Return sizes as one int64 tensor of shape ``(len(dims),)``."""
        if all(isinstance(d, int) for d in dims):
            return self.constant(np.array(dims, np.int64).reshape(-1))
        for tensor, _ in (self._within.sources[d] for d in dims if d in self._within.sources):
            if tensor.shape == tuple(dims):
                return self.Shape(tensor)
        parts: list[Tensor] = []
        run: list[int] = []
        for dim in dims:
            if isinstance(dim, int):
                run.append(dim)
                continue
            if run:
                parts.append(self.ints(run))
                run = []
            parts.append(self.size(dim))
        if run:
            parts.append(self.ints(run))
        return parts[0] if len(parts) == 1 else self.Concat(*parts, axis=0)

    def range(self, dim: Dim) -> Tensor:
        """Return ``0, 1, …, dim - 1`` as an int64 tensor of shape ``(dim,)``."""
        start, step = (self.constant(np.array(i, np.int64)) for i in (0, 1))
        return self.Range(start, self.reshape(self.size(dim), ()), step, shape=(dim,))

    def one_over(self, dim: Dim, dtype: ir.DataType) -> Tensor:
        """Return ``1 / dim`` as a scalar (1 for a size of 0, of which there are no elements to take a share of)."""
        if isinstance(dim, int):
            return self.constant(1 / max(dim, 1), dtype)
        exact = ir.DataType.DOUBLE if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT  # a size may overflow float16
        return self.cast(self.Reciprocal(self.cast(self.reshape(self.size(dim), ()), exact)), dtype)

    # --- shapes ------------------------------------------------------------------------------

    def spread(self, x: Tensor, shape: Sequence[Dim]) -> Tensor:
        """Broadcast `x` to `shape`; the `Expand` is written only if something needs the result itself."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        source, within = x if x.spread is None else x.spread, self._within

        def write() -> ir.Value:
            with self._in(within):  # it may be asked for inside of a body only, and serve outside of it later
                return self._write_expand(source, shape)

        result = Tensor(self, x.dtype, shape, make=write)
        result.spread = source
        return result

    def _write_expand(self, source: Tensor, shape: Shape) -> ir.Value:
        if 0 in shape:  # onnxruntime's optimizer takes an Expand to a constant size of 0 for one that does nothing
            zero = ir.tensor(np.zeros(1, source.dtype.numpy()), dtype=source.dtype)
            return self._append("ConstantOfShape", [self.ints(shape)], {"value": zero}, 1, shape)[0].value
        return self._append("Expand", [source, self.ints(shape)], {}, 1, shape)[0].value

    def reshape(self, x: Tensor, shape: Sequence[Dim]) -> Tensor:
        """Reshape `x` to `shape`, of which at most what cannot be inferred is computed at run time."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        result = simplify.reshape(self, x, shape)
        if result is None:
            symbolic = [i for i, d in enumerate(shape) if not isinstance(d, int)]
            if len(symbolic) == 1 and 0 not in shape:
                target, zeros = self.ints([-1 if i in symbolic else d for i, d in enumerate(shape)]), {}
            else:  # allowzero: a size that is 0 at run time means 0, not "as in the input"
                target, zeros = self.ints(shape), {"allowzero": 1} if symbolic or 0 in shape else {}
            result = self._emit_shared("Reshape", [self._apart(x), target], zeros, 1, shape)[0]
        if x.is_identity and shape[:1] == shape[-1:] and all(d == 1 for d in shape[1:-1]) and len(shape) > 1:
            result.is_identity = True
        return result

    def unsqueeze(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Insert axes of size 1; `axes` are negative and count in the result."""
        rank = x.rank + len(axes)
        places = {a % rank for a in axes}
        rest = iter(x.shape)
        return self.reshape(x, [1 if i in places else next(rest) for i in range(rank)])

    def squeeze(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Remove axes of size 1."""
        places = {a % x.rank for a in axes}
        return self.reshape(x, [d for i, d in enumerate(x.shape) if i not in places])

    def swap(self, x: Tensor, a: int = -2, b: int = -1) -> Tensor:
        """Exchange two axes (the transpose of matrices by default)."""
        order = list(range(x.rank))
        order[a], order[b] = order[b], order[a]
        return self.Transpose(x, perm=order)

    def sum(self, x: Tensor, axes: Sequence[int], keepdims: bool = True) -> Tensor:
        """Sum over `axes`."""
        if not axes:
            return x
        return self.ReduceSum(x, sorted(a % x.rank - x.rank for a in axes), keepdims=int(keepdims))

    def mean(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Average over `axes`, which stay with size 1."""
        return self.ReduceMean(x, sorted(a % x.rank - x.rank for a in axes)) if axes else x

    def sum_to(self, x: Tensor, shape: Sequence[Dim]) -> Tensor:
        """Undo a broadcast: sum `x` over the axes in which `shape`, aligned from the right, has no size or size 1.

        Sizes of which it is not known whether they were broadcast are decided at run time. Axes in which `x` is the
        smaller one stay as they are.
        """
        shape = tuple(shape)
        extra = x.rank - len(shape)
        x = self.sum(x, [i - x.rank for i in range(extra)], keepdims=False)
        ones = [i - x.rank for i, d in enumerate(shape) if d == 1 and x.shape[i] != 1]
        x = self.sum(x, ones)
        open_axes = [i for i, d in enumerate(shape) if broadcast((d,), (x.shape[i],)) != (d,)]
        if open_axes:
            result = tuple(d if i in open_axes else x.shape[i] for i, d in enumerate(shape))
            differ = self.Not(self.Equal(self.ints(result), self.ints(x.shape)))
            axes = self.Reshape(self.NonZero(differ), [-1])
            x = self.ReduceSum(x, axes, keepdims=1, noop_with_empty_axes=1, shape=result)
        return x

    def ramp(self, x: Tensor, slope: float, offset: float) -> Tensor:
        """Return ``clip(slope · x + offset, 0, 1)``: one operator where its attributes, float32, have all digits."""
        if x.dtype == ir.DataType.FLOAT:
            return self.HardSigmoid(x, alpha=slope, beta=offset)
        return self.Clip(x * slope + offset, 0.0, 1.0)

    def repeated(self, x: Tensor, times: Sequence[int]) -> Tensor:
        """Repeat each element of the last axes so many times along each of them."""
        lead, shape = x.rank - len(times), x.shape
        result = (*shape[:lead], *(dim_mul(n, d) for n, d in zip(times, shape[lead:], strict=True)))
        if x.dtype == ir.DataType.FLOAT and len(times) == 2:  # as onnxruntime does it in the layout of convolutions
            scales = self.constant(np.array([*[1] * lead, *times], np.float32))
            nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return self.Resize(x, None, scales, shape=result, **nearest)
        apart = self.reshape(x, (*shape[:lead], *(d for one in shape[lead:] for d in (one, 1))))
        pairs = (d for one, n in zip(shape[lead:], times, strict=True) for d in (one, n))
        return self.reshape(self.spread(apart, (*shape[:lead], *pairs)), result)

    def cast(self, x: Tensor, dtype: ir.DataType) -> Tensor:
        """Convert `x` to another element type."""
        return self.Cast(x, to=dtype)

    def masked(self, mask: Tensor, ct: Tensor, holds: bool = True) -> Tensor:
        """Return a cotangent where `mask` holds (or does not), else 0.

        So it is known to be no guard against numbers that are none, and may be written as a product (`forms`).
        """
        result = self.Where(mask, ct, 0) if holds else self.Where(mask, 0, ct)
        node = None if result.spread is not None else result.value.producer()
        if node is not None and node.op_type == "Where":
            node.meta[forms.MASKS_COTANGENT] = True
        return result

    # --- names -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def named_after(self, name: str) -> Iterator[None]:
        """Name the nodes emitted within after `name`."""
        before, self.scope = self.scope, name
        try:
            yield
        finally:
            self.scope = before

    def _unique(self, name: str, taken: set[str | None]) -> str:
        candidate = name
        while candidate in taken:
            self._fresh += 1
            candidate = f"{name}_{self._fresh}"
        taken.add(candidate)
        return candidate

    def unique_name(self, name: str) -> str:
        """Return `name`, with a numeric suffix if the model has it already; the name is then taken."""
        candidate, n = name, 1
        while candidate in self._names:
            n += 1
            candidate = f"{name}_{n}"
        self._names.add(candidate)
        return candidate

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim]) -> Tensor:
        """Add an input to the model."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.model.graph.inputs.append(value)
        tensor = self._register(value, (dtype, tuple(shape)))
        assert tensor is not None
        return tensor

    def symbol(self, like: Tensor) -> Tensor:
        """Return a placeholder for a cotangent of `like`: it stands for a value to be determined later, and must not
        survive.
        """
        value = ir.Value(name=self._unique("onnxgrad/symbol", self._names))
        tensor = Tensor(self, like.cotangent_dtype, like.shape, value)
        self._tensors[value] = tensor
        self._phantoms.add(value)
        return tensor

    def is_fixed(self, x: Tensor) -> bool:
        """Whether a tensor is a weight, or computed from weights alone, which runtimes do once, in advance."""
        asked = x.value if x.spread is None else x.spread.value
        pending = [asked]  # no recursion: a network may be deeper than Python's stack
        while pending:
            value = pending[-1]
            node = value.producer()
            sources = [] if node is None else [v for v in node.inputs if v is not None]
            if node is None or is_random(node) or flow.is_flow(node):
                self._fixed[value] = value.is_initializer()
            elif all(v in self._fixed for v in sources) or any(self._fixed.get(v) is False for v in sources):
                self._fixed[value] = all(self._fixed.get(v) for v in sources)
            else:
                pending.append(next(v for v in sources if v not in self._fixed))
            if value in self._fixed:
                pending.remove(value)
        return self._fixed[asked]

    def is_placeholder(self, x: Tensor) -> bool:
        """Whether a tensor is a placeholder, or depends on one."""
        return x.value in self._phantoms

    def named_identity(self, x: Tensor) -> ir.Value:
        """Return a new value equal to `x`, for an output that must have a name of its own."""
        return self._append("Identity", [x], {}, 1, x.shape)[0].value

    def retype(self, x: Tensor, shape: Sequence[Dim]) -> None:
        """State the shape of a tensor where the caller knows it better than inference does."""
        x.shape = tuple(shape)
        if x._value is not None and not x._value.is_graph_input():
            x._value.shape = ir.Shape(x.shape)

    # --- bodies --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _in(self, scope: Scope) -> Iterator[None]:
        before, self._within = self._within, scope
        try:
            yield
        finally:
            self._within = before

    @contextlib.contextmanager
    def body(self) -> Iterator[list[ir.Node]]:
        """Emit what follows into a body of its own, which can use all that is around; `close` makes it a graph.

        Gives the list of its nodes.
        """
        with self._in(Scope(self._within)):
            yield self.nodes

    def declare(self, value: ir.Value, known: operands.Type | None) -> Tensor | None:
        """Give an input of a body its type; None where it is not known."""
        if known is None or known[1] is None:
            self._tensors.pop(value, None)
            return None
        return self._register(value, known)

    def local(
        self,
        like: Tensor,
        name: str,
        lead: Sequence[Dim] = (),
        shape: Sequence[Dim | None] | None = None,
        dtype: ir.DataType | None = None,
    ) -> Tensor:
        """Return a new input of the body that is being built.

        Args:
            like: a tensor of its dtype and shape; sizes that are known inside of another body only are left open.
            name: what to call it.
            lead: sizes of further axes in front.
            shape: its shape, if it is not that of `like`.
            dtype: its dtype, if it is not that of `like`.
        """
        dims = [d if self.is_known(d) else None for d in (like.shape if shape is None else shape)]
        tensor = self._register(
            ir.Value(name=self._unique(f"onnxgrad/{name}", self._names)), (dtype or like.dtype, (*lead, *dims))
        )
        assert tensor is not None
        return tensor

    def inline(self, graph: ir.Graph, inputs: Mapping[ir.Value, Tensor]) -> list[Tensor | None]:
        """Emit the nodes of a body anew, with other inputs, and return its outputs (None: of unknown type).

        Raises:
            Refusal: if a node in it is random, and so would give other numbers when it is run again.
        """
        mapping = {value: tensor.value for value, tensor in inputs.items()}
        self._take_out_initializers(graph, mapping)
        random = drawing_node(graph)
        if random is not None:
            raise Refusal(
                f"its body is run again to differentiate it, and {random.op_type} in it (node {random.name!r}) would "
                "draw other numbers then",
                "take the random operator out of the body, or export the model for inference",
            )
        for node in graph:
            copy = flow.clone_node(node, mapping, lambda name: self._unique(name, self._names))
            self.nodes.append(copy)
            if not self._phantoms.isdisjoint(flow.reads(copy)):
                self._phantoms.update(copy.outputs)
            instead = self._type_node(copy)
            if instead is not None:
                mapping[node.outputs[0]] = instead.value
        return [self._tensors.get(mapping.get(v, v)) for v in graph.outputs]

    def _take_out_initializers(self, graph: ir.Graph, mapping: dict[ir.Value, ir.Value]) -> None:
        """Let constants in a body, and in those inside it, be constants of the model, which all bodies can use."""
        for value in graph.initializers.values():
            known = self._constants.get(("initializer", value))
            if known is None and value.const_value is not None:
                tensor = value.const_value
                copy = ir.Value(name=self._unique(value.name or "constant", self._names), const_value=_alias(tensor))
                self.model.graph.register_initializer(copy)
                known = self._register(copy, (tensor.dtype, tuple(tensor.shape.numpy())))
                assert known is not None
                self._constants["initializer", value] = known
            if known is not None:
                known.is_literal = True
                mapping[value] = known.value
        for node in graph:
            for _, inner in flow.graphs_in(node):
                self._take_out_initializers(inner, mapping)

    def needed(self, outputs: Iterable[Tensor]) -> set[ir.Value]:
        """Return the values on which tensors depend within the body that is being built."""
        return self._within.needed(t.value for t in outputs)

    def close(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], hoist: bool = False) -> ir.Graph:
        """Return the body that is being built as a graph, with what `outputs` need.

        With `hoist`, nodes that are the same in each iteration, such as transposes of weights, are put in front of it.
        """
        values = [tensor.value for tensor in outputs]
        inside = {value for node in self.nodes for value in node.outputs}
        results: list[ir.Value] = []
        for value, tensor in zip(values, outputs, strict=True):
            fits = value in inside and value not in results  # else it needs a name of its own
            results.append(value if fits else self.named_identity(tensor))
        if hoist:
            self.hoist(results, inputs)
        live = self._within.live(set(results))
        self.nodes.clear()
        return ir.Graph([t.value for t in inputs], results, nodes=live, name=self._unique("body", self._names))

    def hoist(self, outputs: Iterable[ir.Value], inputs: Iterable[Tensor]) -> None:
        """Leave in the body that is being built only what `outputs` need; what is the same in each iteration goes to
        what is around it, except those themselves. Nothing may be emitted into the body after that but by `close`.
        """
        self._within.hoist(outputs, (t.value for t in inputs))

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Emit what follows into what is around the body that is being built."""
        assert self._within.outer is not None
        with self._in(self._within.outer):
            yield

    def emit_flow(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        graphs: Mapping[str, ir.Graph],
        types: Sequence[operands.Type],
        **attrs: Any,
    ) -> list[Tensor]:
        """Emit a node of control flow, and return its outputs, of which the types are given."""
        name = self._unique(f"{self.scope}/{op_type}" if self.scope else op_type, self._node_names)
        node = ir.Node(
            "",
            op_type,
            [None if t is None else t.value for t in inputs],
            [*(ir.AttrGraph(k, g) for k, g in graphs.items()), *(attribute(k, v) for k, v in attrs.items())],
            num_outputs=len(types),
            name=name,
        )
        self.nodes.append(node)
        if not self._phantoms.isdisjoint(flow.reads(node)):
            self._phantoms.update(node.outputs)
        result = []
        for i, (value, (dtype, shape)) in enumerate(zip(node.outputs, types, strict=True)):
            value.name = self._unique(name if i == 0 else f"{name}:{i}", self._names)
            assert shape is not None
            tensor = self._register(value, (dtype, tuple(shape)))
            assert tensor is not None
            result.append(tensor)
        return result

    def is_known(self, dim: Dim | None) -> bool:
        """Whether a size can be read where nodes are emitted now."""
        return self._within.knows(dim)

    def is_size_of(self, dim: Dim, values: Iterable[ir.Value]) -> bool:
        """Whether a size is one of values that are the only place to read it from."""
        return self._within.is_size_of(dim, values)

    def is_known_around(self, dim: Dim) -> bool:
        """Whether a size can be read around the body that is being built."""
        assert self._within.outer is not None
        return self._within.outer.knows(dim)

    def trips(self, count: Dim) -> Dim:
        """Return how often a loop runs that counts to `count`: that itself, where it is known not to be negative."""
        if isinstance(count, int):
            return max(count, 0)
        return count if count in self._within.sources else self.fresh_dim()

    # --- the end -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def unshared(self) -> Iterator[None]:
        """Write the nodes emitted within anew, even where there are equal ones."""
        before, self._within.memo = self._within.memo, {}
        try:
            yield
        finally:
            self._within.memo = before

    def finish(self, outputs: Iterable[ir.Value]) -> None:
        """Write to the model the emitted nodes that `outputs` (further outputs of it) need, and drop the rest."""
        results = set(outputs) | set(self.model.graph.outputs)
        needed = set(results)
        live = self._within.live(needed)
        self._within.memo.clear()  # what was discarded must not be found again
        assert all(v not in self._phantoms for node in live for v in node.outputs), "a placeholder survived"
        fast = forms.fast_forms(self, flow.without_empty_scans(self, live))
        self.model.graph.extend(products.in_cheapest_order(self, fast, results))
        for value in {tensor.value for tensor in self._constants.values()}:
            if not value.uses() and value not in needed:
                self.model.graph.initializers.pop(value.name)  # type: ignore[arg-type]
        self.nodes.clear()


def _alias(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return the same data under another object, since a tensor is renamed along with what it initializes."""
    if isinstance(tensor, ir.StringTensor):
        return ir.StringTensor(tensor.raw, shape=tensor.shape)
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()))
