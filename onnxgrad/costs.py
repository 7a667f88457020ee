"""Cost functions: a model goes in, the same model with the cost of its output against a target comes out.

The cost is one more output of the model, written in ordinary ONNX operators, so every transform applies to it. Samples
lie on axis 0. The cost of one sample is the mean over its elements (``"sse"``: the sum); `reduction` says what becomes
of the samples:

- ``"mean"``: the mean over all samples, one number. With it, ``"mse"`` is the mean over all elements.
- ``"sum"``: the sum over all samples, one number.
- ``"none"``: one number per sample, of which gradients are per sample, too.

The costs, with y the output, t the target, d = y - t:

- ``"mse"``: mean of d²; ``"sse"``: sum of d² in a sample; ``"mae"``: mean of ``|d|``;
- ``"huber"``: mean of d²/2 where ``|d| <= delta``, of ``delta (|d| - delta/2)`` elsewhere;
- ``"cross_entropy"``: mean of ``-log p[t]`` with t the integer class, and p the softmax of the scores y;
- ``"soft_cross_entropy"``: mean of the sums over the classes of ``-t log p`` with t the probabilities of the classes;
- ``"binary_cross_entropy"``: mean of ``-t log p - (1 - t) log(1 - p)`` with t in [0, 1], and p the sigmoid of y.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import onnx
import onnx_ir as ir

from onnxgrad.errors import ModelReadError, TensorTypeError, UnknownNameError
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.tensor import Tensor
from onnxgrad.lowering import working_form
from onnxgrad.model.names import values_of
from onnxgrad.model.normalize import Declared
from onnxgrad.model.opsets import agree_on_imports
from onnxgrad.model.read import Source, read
from onnxgrad.model.tensors import graphs_of
from onnxgrad.model.write import to_proto

CostName = Literal["mse", "sse", "mae", "huber", "cross_entropy", "soft_cross_entropy", "binary_cross_entropy"]
Reduction = Literal["mean", "sum", "none"]
Scores = Literal["auto", "logits", "probabilities"]
#: Which tensor of the model each input of a cost model is.
Match = str | Mapping[str, str] | None

#: Names of the costs.
COSTS: tuple[str, ...] = get_args(CostName)


class Costed(NamedTuple):
    """A model with a cost.

    Attributes:
        model: the model, in its working form; the cost is its last output.
        cost: name of that output.
        inputs: names of the floating-point inputs that the model had before.
    """

    model: ir.Model
    cost: str
    inputs: tuple[str, ...]


def add_cost(
    model: Source,
    cost: CostName,
    of: str | None = None,
    *,
    reduction: Reduction = "mean",
    scores: Scores = "auto",
    axis: int = 1,
    delta: float = 1.0,
) -> onnx.ModelProto:
    """Add a cost: a new input ``target`` and a new output ``cost`` (with a suffix where the name is taken).

    The cost is computed, and returned, in the type of the output, float32 at least.

    Args:
        model: the model; it is not changed.
        cost: which one; the module lists them.
        of: the output, or a value inside the graph, that the target is for. None: the only floating-point output.
        reduction: what becomes of the costs of the samples.
        scores: what a cross entropy takes y to be. ``"auto"``: where a Softmax (for the binary one: a Sigmoid) or a
            LogSoftmax makes it, what goes into that; where a linear layer does, logits; else it is refused. Logits
            are taken by a LogSoftmax, which is exact for scores of any size. ``"probabilities"``: by their logarithm,
            which is infinite at 0; y is not normalized, and nothing is clipped.
        axis: the axis of the classes, for ``"cross_entropy"``, whose target has all the others, and for
            ``"soft_cross_entropy"``.
        delta: where ``"huber"`` becomes linear.

    Returns:
        The model with the same inputs and outputs, and these two behind them. The target has the type and shape of the
        output, but for classes: int64, and a class beyond the scores makes the runtime fail.

    Raises:
        ModelReadError: if the model cannot be read.
        UnknownNameError: if there is no such cost, or no tensor of the name `of`.
        TensorTypeError: if the output is no floating-point tensor, there are several, it has no axis of classes, or it
            cannot be told whether it holds logits.
        ValueError: if `reduction`, `scores` or `delta` is none that there is.
    """
    return to_proto(with_cost(model, cost, of, reduction, scores=scores, axis=axis, delta=delta).model)


def with_cost(
    source: Source,
    cost: str | Source,
    of: str | None = None,
    reduction: Reduction | None = None,
    *,
    scores: Scores = "auto",
    axis: int = 1,
    delta: float = 1.0,
    straight_through: bool = False,
) -> Costed:
    """Return a model with a cost, by name or given as ONNX (then there is no `reduction`), in its working form.

    Raises:
        OnnxgradError: what `add_cost` and `compose` raise.
    """
    if not isinstance(cost, str) or cost.endswith((".onnx", ".onnxtxt", ".textproto", ".json")):
        if reduction is not None:
            raise ValueError(f"reduction={reduction!r} is for a cost by name; a cost model reduces by itself, or not")
        return _with_cost_model(source, cost, of, straight_through)
    if cost not in COSTS:
        raise UnknownNameError.among("a cost (or the path of a cost model, *.onnx)", cost, COSTS)
    reduction = "mean" if reduction is None else reduction
    _check_choice("reduction", reduction, Reduction)
    _check_choice("scores", scores, Scores)
    if not delta > 0:
        raise ValueError(f"delta={delta!r} is no positive number")
    model = working_form(read(source), straight_through)
    inputs = _float_inputs(model)
    op = Builder(model)
    y = _output(op, model, of)
    with op.named_after("cost"):
        each = _Elements(op, y, cost, scores, axis, delta)()
        result = _reduced(op, each, cost == "sse", reduction)
        value = op.named_identity(result)
    value.name = op.unique_name("cost")
    over = {"mean": "mean over the samples", "sum": "sum over the samples", "none": "one per sample"}[reduction]
    value.doc_string = f"{cost} of {y.value.name} against {model.graph.inputs[-1].name}, {over}"
    model.graph.outputs.append(value)
    op.finish([value])
    return Costed(model, value.name, inputs)


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r} is none of {', '.join(map(repr, get_args(choices)))}")


def _float_inputs(model: ir.Model) -> tuple[str, ...]:
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    return tuple(v.name or "" for v in inputs if v.dtype is not None and v.dtype.is_floating_point())


def _output(op: Builder, model: ir.Model, of: str | None) -> Tensor:
    if of is None:
        found = [t for v in model.graph.outputs if (t := op.tensor(v)) is not None and t.is_float]
        if len(found) != 1:
            names = ", ".join(repr(v.name) for v in model.graph.outputs)
            raise TensorTypeError(
                f"the model has {len(found)} floating-point outputs (of {names}), and a cost is that of one; "
                "name it in `of` (on the command line --cost-of)"
            )
        return found[0]
    values = {v.name: v for v in values_of(model.graph) if v.name}
    if of not in values:
        raise UnknownNameError.among("a tensor of the model", of, values)
    tensor = op.tensor(values[of])
    if tensor is None or not tensor.is_float:
        raise TensorTypeError(f"{of!r} is no floating-point tensor of known rank, so it has no cost; name another one")
    return tensor


def _reduced(op: Builder, each: Tensor, add_up: bool, reduction: Reduction) -> Tensor:
    """Reduce the costs of elements: within samples, and over them."""
    within = list(range(1 - each.rank, 0))
    if within:
        each = op.ReduceSum(each, within, keepdims=0) if add_up else op.ReduceMean(each, within, keepdims=0)
    if each.rank == 0 or reduction == "none":
        return each
    return op.ReduceMean(each, [0], keepdims=0) if reduction == "mean" else op.ReduceSum(each, [0], keepdims=0)


# --- the costs of elements -----------------------------------------------------------------------

#: Operators that only move or convert elements: what is known of their result, their input tells.
_MOVES = frozenset("Cast Flatten Identity Reshape Squeeze Transpose Unsqueeze".split())
#: Linear operators of layers: their results are not bounded, so they are no probabilities.
_LINEAR = frozenset("Conv Gemm MatMul".split())


class _Elements:
    """Writes the cost of each element (for classes: of each place) of an output.

    Args:
        op: the builder.
        y: the output.
        cost: name of the cost.
        scores: what a cross entropy takes y to be.
        axis: the axis of classes.
        delta: where the Huber cost becomes linear.
    """

    def __init__(self, op: Builder, y: Tensor, cost: str, scores: Scores, axis: int, delta: float) -> None:
        self.op, self.y, self.cost, self.scores, self.axis, self.delta = op, y, cost, scores, axis, delta

    def __call__(self) -> Tensor:
        """Return the costs."""
        if self.cost == "cross_entropy":
            return self._cross_entropy(self._classes())
        target = self.op.input(self.op.unique_name("target"), self.y.dtype, self.y.shape)
        if self.cost == "binary_cross_entropy":
            return self._binary_cross_entropy(self._wide(target))
        if self.cost == "soft_cross_entropy":
            return self._soft_cross_entropy(self._wide(target), self._classes())
        d = self._wide(self.y) - self._wide(target)
        if self.cost == "huber":
            return _huber(self.op, d, self.delta)
        return self.op.Abs(d) if self.cost == "mae" else d * d

    def _wide(self, x: Tensor) -> Tensor:
        """Return x in float32 at least: sums of half precision lose their digits."""
        return self.op.cast(x, ir.DataType.DOUBLE if x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT)

    def _classes(self) -> int:
        """Return the axis of classes."""
        y = self.y
        if y.rank < 2 or not -y.rank <= self.axis < y.rank or self.axis % y.rank == 0:
            raise TensorTypeError(
                f"{y.value.name!r} has shape {list(y.shape)}, and no axis {self.axis} of classes behind one of samples"
                "; pass axis=…, or take binary_cross_entropy"
            )
        return self.axis % y.rank

    def _cross_entropy(self, axis: int) -> Tensor:
        op, y = self.op, self.y
        logs = self._logarithms(axis)
        places = (*y.shape[:axis], *y.shape[axis + 1 :])
        labels = op.input(op.unique_name("target"), ir.DataType.INT64, places)
        # a negative label would count from the end: beyond the last class it is refused by the runtime
        labels = op.Where(op.Less(labels, 0), op.reshape(op.size(y.shape[axis]), ()), labels, shape=places)
        picked = op.GatherElements(logs, op.unsqueeze(labels, [axis - y.rank]), axis=axis)
        return -op.squeeze(picked, [axis])

    def _soft_cross_entropy(self, t: Tensor, axis: int) -> Tensor:
        """``-t log p``, summed over the classes; where t is 0, the logarithm is not taken: it may be infinite."""
        return -self.op.sum(t * self._logarithms(axis, self.op.Equal(t, 0)), [axis - t.rank], keepdims=False)

    def _logarithms(self, axis: int, unwanted: Tensor | None = None) -> Tensor:
        """Return the logarithms of the probabilities of classes; those of mere probabilities are 0 where unwanted."""
        op, y = self.op, self.y
        node = _maker(y, ("Softmax", "LogSoftmax"))
        if self.scores == "auto" and node is not None:
            made_along = int(op.view(node).attr("axis")) % y.rank
            if made_along != axis:
                raise TensorTypeError(
                    f"{y.value.name!r} is normalized along axis {made_along} (node {node.name!r}), so the classes "
                    f"are there and not on axis {axis}; pass axis={made_along}, or say what it holds by scores=…"
                )
            if node.op_type == "LogSoftmax":
                return self._wide(y)
            y = _entering(op, node)
        elif self._are_probabilities():
            p = self._wide(y)
            return op.Log(p if unwanted is None else op.Where(unwanted, 1, p, shape=p.shape))
        return op.LogSoftmax(self._wide(y), axis=axis)

    def _binary_cross_entropy(self, t: Tensor) -> Tensor:
        """``-t log p - (1 - t) log(1 - p)``; log p and log(1 - p) are the LogSoftmax of z and 0, without a kink."""
        op, z = self.op, self.y
        node = _maker(z, ("Sigmoid",))
        if self.scores == "auto" and node is not None:
            z = _entering(op, node)
        elif self._are_probabilities():
            p = self._wide(z)  # where t is 0 or 1, the other logarithm is not taken: it may be infinite
            log_p = op.Log(op.Where(op.Equal(t, 0), 1, p, shape=p.shape))
            log_q = op.Log(op.Where(op.Equal(t, 1), 1, 1 - p, shape=p.shape))
            return -(t * log_p + (1 - t) * log_q)
        z = op.unsqueeze(self._wide(z), [-1])
        logs = op.LogSoftmax(op.Concat(z, op.zeros_like(z), axis=-1), axis=-1)
        chosen = op.Concat(op.unsqueeze(t, [-1]), op.unsqueeze(1 - t, [-1]), axis=-1)
        return -op.sum(chosen * logs, [-1], keepdims=False)

    def _are_probabilities(self) -> bool:
        if self.scores != "auto":
            return self.scores == "probabilities"
        if _is_linear(self.y.value):
            return False
        node = self.y.value.producer()
        made = "an input" if node is None else f"{node.op_type}, node {node.name!r}"
        raise TensorTypeError(
            f"it cannot be told whether {self.y.value.name!r} (made by {made}) holds logits or probabilities; "
            "pass scores='logits' or scores='probabilities' to onnxgrad.add_cost"
        )


def _is_linear(value: ir.Value) -> bool:
    """Whether a linear layer makes a value, perhaps with a bias, or several of them added up."""
    node = value.producer()
    if node is None or node.domain != "":
        return False
    inputs = [v for v in node.inputs if v is not None and not v.is_initializer()]
    if node.op_type == "Add":
        return bool(inputs) and all(map(_is_linear, inputs))
    return node.op_type in _LINEAR or (node.op_type in _MOVES and _is_linear(inputs[0]) if inputs else False)


def _maker(y: Tensor, operators: tuple[str, ...]) -> ir.Node | None:
    """Return the node that makes y, perhaps behind an `Identity`, if it is one of the operators."""
    node = y.value.producer()
    while node is not None and node.domain == "" and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.domain == "" and node.op_type in operators else None


def _entering(op: Builder, node: ir.Node) -> Tensor:
    tensor = op.view(node).input(0)
    assert tensor is not None
    return tensor


def _huber(op: Builder, d: Tensor, delta: float) -> Tensor:
    """``c (d - c/2)`` with c = d clipped to ±delta: its derivative is c, and it has no kink at 0."""
    c = op.Clip(d, op.constant(-delta, d.dtype), op.constant(delta, d.dtype))
    return c * (d - c * 0.5)


# --- a cost given as ONNX ------------------------------------------------------------------------


def compose(model: Source, cost_model: Source, match: Match = None) -> onnx.ModelProto:
    """Put a model and a cost that is given as ONNX together: outputs of the one become inputs of the other.

    Inputs of the cost model that are not matched, as the target, become new inputs of the result.

    Args:
        model: the model.
        cost_model: the cost.
        match: which tensor of the model each input of the cost is: ``{"prediction": "y"}``, or just the tensor for the
            first input, ``"y"``. None: inputs with the name of an output are that output; where there is none, the
            first input is the model's only output.

    Returns:
        The model with the new inputs behind its own, and the outputs of the cost behind its own. Names of the cost that
        the model has already get a numeric suffix.

    Raises:
        ModelReadError: if one of them cannot be read, or they import opsets that do not go together.
        UnknownNameError: if `match` names what is not there.
        TensorTypeError: if nothing matches, or types or sizes do not fit.
    """
    return to_proto(_composed(working_form(read(model)), working_form(read(cost_model)), match)[0])


def _with_cost_model(source: Source, cost: Source, of: str | None, straight_through: bool) -> Costed:
    model = working_form(read(source), straight_through)
    inputs = _float_inputs(model)
    result, outputs = _composed(model, working_form(read(cost), straight_through), of)
    if len(outputs) != 1:
        raise TensorTypeError(
            f"the cost model has {len(outputs)} outputs ({', '.join(map(repr, outputs))}), and a cost is one; use "
            "onnxgrad.compose, and name the output to differentiate"
        )
    return Costed(result, outputs[0], inputs)


def _composed(model: ir.Model, cost: ir.Model, match: Match) -> tuple[ir.Model, list[str]]:
    """Return the two as one model, which is the first of them, and the names of the cost's outputs."""
    pairs = _matched(model, cost, match)
    _check_fit(model, pairs)
    _share_imports(model, cost)
    _give_other_names(model, cost)
    body, graph = cost.graph, model.graph
    results = [pairs.get(v, v) for v in body.outputs]
    body.outputs.clear()
    for value, source in pairs.items():
        ir.convenience.replace_all_uses_with(value, source)
    left = [v for v in body.inputs if v not in pairs and not v.is_initializer()]
    weights, nodes = list(body.initializers.values()), list(body)
    body.inputs.clear()
    body.initializers.clear()
    body.remove(nodes)
    graph.inputs.extend(left)
    for value in weights:
        graph.register_initializer(value)
    graph.extend(nodes)
    taken = {v.name for v in values_of(graph)}
    written = []
    for value in results:
        if value in graph.outputs or value in written or value.is_graph_input() or value.is_initializer():
            node = ir.node("Identity", [value])  # an output needs a name of its own
            node.outputs[0].name = _unique(f"{value.name}_cost", taken)
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            value = node.outputs[0]
        written.append(value)
    graph.outputs.extend(written)
    return model, [v.name or "" for v in written]


def _matched(model: ir.Model, cost: ir.Model, match: Match) -> dict[ir.Value, ir.Value]:
    """Return the tensor of the model that each input of the cost is."""
    inputs = {v.name or "": v for v in cost.graph.inputs if not v.is_initializer()}
    outputs = {v.name or "": v for v in model.graph.outputs}
    if not inputs:
        raise TensorTypeError("the cost model has no inputs, so nothing of the model enters it; give another one")
    if isinstance(match, str):
        match = {next(iter(inputs)): match}
    if match is None:
        match = {name: name for name in inputs if name in outputs}
        if not match and len(outputs) == 1:
            match = {next(iter(inputs)): next(iter(outputs))}
    if not match:
        raise TensorTypeError(
            f"no input of the cost model ({', '.join(map(repr, inputs))}) has the name of an output of the model "
            f"({', '.join(map(repr, outputs))}); say which is which: match={{{next(iter(inputs))!r}: "
            f"{next(iter(outputs), '…')!r}}}"
        )
    values = {v.name or "": v for v in values_of(model.graph) if v.name}
    for name, source in match.items():
        if name not in inputs:
            raise UnknownNameError.among("an input of the cost model", name, inputs)
        if source not in values:
            raise UnknownNameError.among("a tensor of the model", source, values)
    return {inputs[name]: values[source] for name, source in match.items()}


def _check_fit(model: ir.Model, pairs: Mapping[ir.Value, ir.Value]) -> None:
    """Check types and sizes of what is put together, and give the cost's other inputs the sizes that follow.

    Raises:
        TensorTypeError: if they do not fit.
    """
    op = Builder(model)
    sizes: dict[str, int | str] = {}
    for value, source in pairs.items():
        tensor = op.tensor(source)
        what = f"input {value.name!r} of the cost model"
        if tensor is None or value.dtype is None:
            raise TensorTypeError(f"{what} or {source.name!r} is no tensor, or of unknown rank; match other tensors")
        if value.dtype != tensor.dtype:
            raise TensorTypeError(
                f"{what} takes {value.dtype.name.lower()}, and {source.name!r} is {tensor.dtype.name.lower()}; export "
                "the cost in that type"
            )
        if value.shape is None:
            continue
        dims = [d if isinstance(d, int) else d.value for d in value.shape]
        fits = len(dims) == tensor.rank and all(
            not isinstance(d, int) or d == s for d, s in zip(dims, tensor.shape, strict=True)
        )
        if not fits:
            shape = ", ".join("?" if d is None else str(d) for d in dims)
            raise TensorTypeError(
                f"{what} takes shape [{shape}], and {source.name!r} has {list(tensor.shape)}; export the cost for that "
                "shape, or with open sizes"
            )
        for dim, size in zip(dims, tensor.shape, strict=True):
            if isinstance(dim, str) and sizes.setdefault(dim, size) != size and isinstance(size, int):
                raise TensorTypeError(f"the size {dim!r} of the cost model would be {sizes[dim]} and {size}")
    taken = {d for v in values_of(model.graph) if (t := op.tensor(v)) is not None for d in t.shape}
    cost_graph = next(iter(pairs)).graph
    assert cost_graph is not None
    for value in cost_graph.inputs:
        if value not in pairs:
            value.shape = _renamed(value.shape, sizes, taken)
    for value in cost_graph.outputs:
        declared = value.meta.get("declared")
        if declared is not None:
            value.meta["declared"] = Declared(declared.type, _renamed(declared.shape, sizes, taken))


def _renamed(shape: ir.Shape | None, sizes: dict[str, int | str], taken: set[Any]) -> ir.Shape | None:
    """Return a shape of the cost model with the sizes that the model has; those that it has not get names of their
    own.
    """
    if shape is None:
        return None
    dims = [d if isinstance(d, int) else d.value for d in shape]
    for dim in dims:
        if isinstance(dim, str) and dim not in sizes:
            sizes[dim] = _unique(dim, taken)
    return ir.Shape([sizes[d] if isinstance(d, str) else d for d in dims])


def _share_imports(model: ir.Model, cost: ir.Model) -> None:
    """Bring both to the same opsets, in place, and put their functions together.

    Raises:
        ModelReadError: if that cannot be done.
    """
    function = ir.Function("onnxgrad", "cost", graph=cost.graph, attributes={})
    both = ir.Model(
        model.graph, ir_version=10, functions=[function, *model.functions.values(), *cost.functions.values()]
    )
    try:
        agree_on_imports(both)
    except ModelReadError as error:
        raise ModelReadError(
            f"the model and the cost model are of opsets that do not go together: {error}; export both with one opset"
        ) from error
    model.graph.opset_imports.update(cost.graph.opset_imports)
    model.ir_version = max(model.ir_version, cost.ir_version)
    for key, body in cost.functions.items():
        known = model.functions.setdefault(key, body)
        if known is not body and ir.serde.serialize_function(known) != ir.serde.serialize_function(body):
            raise ModelReadError(f"the model and the cost model define the function {key} differently; rename one")


def _give_other_names(model: ir.Model, cost: ir.Model) -> None:
    """Rename what has a name in the cost, in place, that the model has, too."""
    values = {v.name for graph in graphs_of(model) for v in values_of(graph)}
    nodes = {node.name for graph in graphs_of(model) for node in graph}
    for graph in (cost.graph, *cost.graph.subgraphs()):
        for value in values_of(graph):
            if value.name:
                value.name = _unique(value.name, values)
        for node in graph:
            node.name = _unique(node.name or node.op_type, nodes)


def _unique(name: str, taken: set[Any]) -> str:
    """Return `name`, with a numeric suffix if it is taken, and take it."""
    candidate, n = name, 1
    while candidate in taken:
        n += 1
        candidate = f"{name}_{n}"
    taken.add(candidate)
    return candidate
