"""One model being given derivatives: names resolved, derivatives written, outputs named and recorded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnxgrad.autodiff.activity import analyze
from onnxgrad.autodiff.jacobian import cheapest_jacobians, second_derivatives
from onnxgrad.autodiff.proof import mixing_node, symbolic_batch
from onnxgrad.autodiff.sweep import sweep_back, sweep_forward
from onnxgrad.errors import (
    DisconnectedWarning,
    MixedSamplesError,
    TensorTypeError,
    UnknownNameError,
    level_outside,
)
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import size_of
from onnxgrad.graph.tensor import Tensor
from onnxgrad.lowering import working_form
from onnxgrad.model.metadata import Derivative, record, weights_relied_on
from onnxgrad.model.names import values_of
from onnxgrad.model.read import Source, read
from onnxgrad.model.signature import port_of

Names = str | Sequence[str] | None
Batched = bool | Literal["auto"]
Mode = Literal["auto", "reverse", "forward"]
#: An element of a wider output: a position, or "max" for the largest.
Index = int | Sequence[int] | Literal["max"] | None


class Augmentation:
    """Adds derivatives to a model.

    Each of the methods `vjp`, `jvp`, `gradient`, `jacobian`, `hessian` and `hvp` adds derivatives of `of` with
    respect to `wrt`; they share what they have in common. `finish` then gives the model. The module
    `onnxgrad.transforms` describes arguments and errors.

    Args:
        source: the model; it is not changed.
        straight_through: whether gradients pass straight through the roundings of quantized operators.
    """

    def __init__(self, source: Source, straight_through: bool = False) -> None:
        self.model = working_form(read(source), straight_through)
        self.op = Builder(self.model, straight_through)
        self.primal_outputs = list(self.model.graph.outputs)
        self._values = {v.name: v for v in values_of(self.model.graph) if v.name}
        self._records: list[Derivative] = []
        self._outputs: list[ir.Value] = []

    # --- names ---------------------------------------------------------------------------------

    def of(self, names: Names) -> list[Tensor]:
        """Return the tensors to differentiate."""
        if names is None:
            outputs = map(_behind_zip_map, self.primal_outputs)
            floats = [t for v in outputs if (t := self.op.tensor(v)) is not None and t.is_float]
            if not floats:
                raise TensorTypeError(
                    "the model has no floating-point output to differentiate "
                    f"(its outputs: {', '.join(_describe(v) for v in self.primal_outputs)}); name a tensor in `of`"
                )
            return floats
        return [self._tensor(name) for name in _names(names)]

    def wrt(self, names: Names) -> list[Tensor]:
        """Return the tensors to differentiate by."""
        if names is None:
            inputs = [v for v in self.model.graph.inputs if not v.is_initializer() and v.name not in self._seeds()]
            floats = [t for v in inputs if (t := self.op.tensor(v)) is not None and t.is_float]
            if not floats:
                raise TensorTypeError(
                    "the model has no floating-point input to differentiate by "
                    f"(its inputs: {', '.join(map(_describe, inputs)) or 'none'}); name a tensor in `wrt`"
                )
            return floats
        named = [self._tensor(name) for name in _names(names)]
        fixed = weights_relied_on(self.model)
        for x in named:
            if _name(x) in fixed:
                raise TensorTypeError(
                    f"the derivatives that this model has already were written for the number in {_name(x)!r}, and do "
                    "not depend on it any more; differentiate the model without them, or by all tensors in one call"
                )
            x.is_variable = True
        return named

    def weights(self, initializers: Sequence[str], of: Names) -> list[str]:
        """Return those of the initializers that are trained for `of`: all that it depends on, in a way that has a
        derivative, and that are no running mean or variance of a `BatchNormalization`. ``"weights"`` itself, if it is
        the name of a tensor.

        Raises:
            TensorTypeError: if there are none.
        """
        if "weights" in self._values:
            return ["weights"]
        known = self.model.graph.initializers
        candidates = [known[name] for name in initializers if name in known and not _is_statistic(known[name])]
        activity = analyze(self.op, self._nodes(), candidates, [y.value for y in self.of(of)])
        found = [v.name or "" for v in candidates if v in activity.values]
        if not found:
            raise TensorTypeError(
                "'weights' stands for the floating-point initializers of the model that are differentiated through, "
                "and there are none; name tensors in `wrt`"
            )
        return found

    def _seeds(self) -> set[str]:
        return {r.seed for r in self._records if r.seed}

    def _tensor(self, name: str) -> Tensor:
        value = self._values.get(name)
        if value is None:
            raise UnknownNameError.among("a tensor of the model", name, self._values)
        tensor = self.op.tensor(value)
        if tensor is None:
            port = port_of(value)
            what = "is no tensor" if port.kind not in ("tensor", "unknown") else "has no known rank"
            raise TensorTypeError(f"{name!r} {what} ({_describe(value)}), so it has no derivative; name another tensor")
        if not tensor.is_float:
            raise TensorTypeError(
                f"{name!r} has elements of type {tensor.dtype.name.lower()}, not floating-point numbers, "
                "so it has no derivative; choose a floating-point tensor"
            )
        return tensor

    # --- first order ---------------------------------------------------------------------------

    def vjp(self, of: Names = None, wrt: Names = None, seeds: str | None = None) -> None:
        """Add inputs ``adj_<y>`` and outputs ``adj_<x>`` (vector-Jacobian products)."""
        ys, xs = self.of(of), self.wrt(wrt)
        lead = () if seeds is None else (seeds,)
        cts = {y.value: self.op.input(self.op.unique_name(f"adj_{_name(y)}"), y.dtype, (*lead, *y.shape)) for y in ys}
        found = sweep_back(self.op, self._nodes(), cts, [x.value for x in xs], seeds)
        for x in xs:
            ct = found.get(x.value)
            zero = None if ct is not None else self._why_zero(ys, x)
            ct = ct if ct is not None else self.op.full((*lead, *x.shape), 0, x.dtype)
            output = self._output(f"adj_{_name(x)}", ct)
            for y in ys:
                self._record("vjp", y, x, output, seed=_name(cts[y.value]), mode="reverse", zero=zero)

    def jvp(self, of: Names = None, wrt: Names = None, seeds: str | None = None) -> None:
        """Add inputs ``fwd_<x>`` and outputs ``fwd_<y>`` (Jacobian-vector products)."""
        ys, xs = self.of(of), self.wrt(wrt)
        lead = () if seeds is None else (seeds,)
        ts = {x.value: self.op.input(self.op.unique_name(f"fwd_{_name(x)}"), x.dtype, (*lead, *x.shape)) for x in xs}
        found = sweep_forward(self.op, self._nodes(), ts, [y.value for y in ys], seeds)
        for y in ys:
            t = found.get(y.value)
            zero = None if t is not None else self._why_zero([y], xs[0])
            t = t if t is not None else self.op.full((*lead, *y.shape), 0, y.dtype)
            output = self._output(f"fwd_{_name(y)}", t)
            for x in xs:
                self._record("jvp", y, x, output, seed=_name(ts[x.value]), mode="forward", zero=zero)

    def jacobian(self, of: Names = None, wrt: Names = None, batched: Batched = "auto", mode: Mode = "auto") -> None:
        """Add outputs ``jac_<y>_<x>``, of shape ``(N, *y, *x)`` per sample, or ``(*y, *x)`` in full."""
        xs = self.wrt(wrt)
        for y in self.of(of):
            per_sample = {x.value: self.per_sample(y, x, batched) for x in xs}
            found: dict[ir.Value, tuple[Tensor, str]] = {}
            for flag in (True, False):
                group = [x for x in xs if per_sample[x.value] is flag]
                if group:
                    results, chosen = cheapest_jacobians(self.op, self._nodes(), y, group, flag, mode)
                    found.update((x.value, (result, chosen)) for x, result in zip(group, results, strict=True))
            for x in xs:
                result, chosen = found[x.value]
                zero = self._why_zero([y], x) if result.scalar == 0 else None
                output = self._output(f"jac_{_name(y)}_{_name(x)}", result)
                self._record("jacobian", y, x, output, batched=per_sample[x.value], mode=chosen, zero=zero)

    def gradient(self, of: Names = None, wrt: Names = None, index: Index = None, batched: Batched = "auto") -> None:
        """Add outputs ``grad_<y>_<x>``, shaped like x, of outputs with one element (per sample)."""
        xs = self.wrt(wrt)
        for y in self.of(of):
            for flag, group in self._groups(y, xs, batched):
                found = self._gradients(y, group, flag, index)
                for x in group:
                    ct = found.get(x.value)
                    zero = self._why_zero([y], x) if ct is None else None
                    output = self._output(f"grad_{_name(y)}_{_name(x)}", self._or_zeros(ct, x))
                    self._record("gradient", y, x, output, batched=flag, mode="reverse", zero=zero, index=index)

    # --- second order --------------------------------------------------------------------------

    def hessian(self, of: Names = None, wrt: Names = None, index: Index = None, batched: Batched = "auto") -> None:
        """Add outputs ``hess_<y>_<x1>_<x2>``, ``(N, *x1, *x2)`` per sample, or ``(*x1, *x2)``."""
        xs = self.wrt(wrt)
        for y in self.of(of):
            groups = list(self._groups(y, xs, batched))
            if len(groups) > 1:
                raise TensorTypeError(
                    f"the Hessian of {_name(y)!r} is per sample for some of {[_name(x) for x in xs]} "
                    "and not for others; ask for them one by one, or pass batched=False"
                )
            ((flag, _),) = groups
            gradients = self._gradients(y, xs, flag, index)
            written = _written(xs, gradients)
            second = second_derivatives(self.op, self._nodes(), written, xs, flag)
            for x1 in xs:
                for x2 in xs:
                    result = second.get((x1.value, x2.value))
                    zero = None
                    if result is None or result.scalar == 0:
                        zero = self._why_zero([y], x1, order=2)
                    if result is None:
                        shape = (*x1.shape, *(x2.shape[1:] if flag else x2.shape))
                        result = self.op.full(shape, 0, x1.dtype)
                    output = self._output(f"hess_{_name(y)}_{_name(x1)}_{_name(x2)}", result)
                    self._record("hessian", y, (x1, x2), output, batched=flag, mode="forward", zero=zero, index=index)

    def hvp(self, of: Names = None, wrt: Names = None, index: Index = None, batched: Batched = "auto") -> None:
        """Add inputs ``fwd_<x>`` and outputs ``hvp_<y>_<x>`` (Hessian times vector, shaped like x)."""
        xs = self.wrt(wrt)
        ts = {x.value: self.op.input(self.op.unique_name(f"fwd_{_name(x)}"), x.dtype, x.shape) for x in xs}
        for y in self.of(of):
            for flag, group in self._groups(y, xs, batched):
                gradients = self._gradients(y, group, flag, index)
                written = _written(group, gradients)
                found = sweep_forward(self.op, self._nodes(), ts, [g.value for g in written.values()])
                for x in group:
                    product = found.get(written[x.value].value) if x.value in written else None
                    zero = self._why_zero([y], x, order=2) if product is None else None
                    output = self._output(f"hvp_{_name(y)}_{_name(x)}", self._or_zeros(product, x))
                    seed = _name(ts[x.value])
                    self._record("hvp", y, x, output, seed=seed, batched=flag, mode="forward", zero=zero, index=index)

    # --- per sample or in full ---------------------------------------------------------------

    def per_sample(self, y: Tensor, x: Tensor, batched: Batched) -> bool:
        """Decide whether the derivative of `y` with respect to `x` is per sample, with the proof that it may be.

        Raises:
            MixedSamplesError: if it is to be per sample (which open sizes of both axes 0 mean, with "auto") and the
                proof fails.
        """
        both = symbolic_batch(y.shape) and symbolic_batch(x.shape)
        if batched is False or (batched == "auto" and not both):
            return False
        activity = analyze(self.op, self._nodes(), [x.value], [y.value])
        mixed = mixing_node(self.op, activity, x.value, y.value)
        no_axis = not x.shape or not y.shape or y.shape[0] != x.shape[0]
        if mixed is None and no_axis and (activity.nodes or batched is True):
            mixed = f"axis 0 of {_name(y)!r} ({list(y.shape)}) is not that of {_name(x)!r} ({list(x.shape)})"
        if mixed is None:
            return not no_axis
        activity.check()
        raise MixedSamplesError(
            f"no per-sample derivative of {_name(y)!r} with respect to {_name(x)!r}: samples mix, or cannot "
            f"be shown to stay apart, at {mixed}. {self._how_to_join_batches()}Pass batched=False for the full "
            "derivative."
        )

    def _how_to_join_batches(self) -> str:
        """Say what to do where inputs have batches of different names, if there are such."""
        inputs = [t for v in self.model.graph.inputs if not v.is_initializer() and (t := self.op.tensor(v)) is not None]
        batches = {_name(t): t.shape[0] for t in inputs if symbolic_batch(t.shape)}
        if len(set(batches.values())) < 2:
            return ""
        return (
            f"If the batches of {', '.join(map(repr, batches))} are one, say so: onnxgrad.fix_sizes, or `onnxgrad fix "
            f"MODEL -o OUT {' '.join(f'--size {name}[0]=batch' for name in batches)}`. "
        )

    # --- the end -------------------------------------------------------------------------------

    def finish(self, keep_outputs: bool | Sequence[str] = True) -> ir.Model:
        """Return the model with its derivatives.

        Args:
            keep_outputs: whether the primal outputs stay; a list of names keeps those.

        Raises:
            UnknownNameError: if a name in `keep_outputs` is no output of the model.
        """
        graph = self.model.graph
        if not isinstance(keep_outputs, bool):
            names = [v.name or "" for v in self.primal_outputs]
            for name in _names(keep_outputs):
                if name not in names:
                    raise UnknownNameError.among("an output of the model", name, names)
            kept = [v for v in self.primal_outputs if v.name in keep_outputs]
        else:
            kept = self.primal_outputs if keep_outputs else []
        graph.outputs[:] = [*kept, *self._outputs]
        self.op.finish(self._outputs)
        if keep_outputs is not True:
            RemoveUnusedNodesPass()(self.model)  # onnxruntime would run what leads to no output, too
        record(self.model, self._records, self.op.relied_on)
        return self.model

    @property
    def records(self) -> tuple[Derivative, ...]:
        """What was added, in the order of the outputs."""
        return tuple(self._records)

    # --- what they share -----------------------------------------------------------------------

    def _nodes(self) -> list[ir.Node]:
        return [*self.model.graph, *self.op.nodes]

    def _groups(self, y: Tensor, xs: Sequence[Tensor], batched: Batched) -> list[tuple[bool, list[Tensor]]]:
        flags = {x.value: self.per_sample(y, x, batched) for x in xs}
        groups = [(flag, [x for x in xs if flags[x.value] is flag]) for flag in (True, False)]
        return [(flag, group) for flag, group in groups if group]

    def _gradients(self, y: Tensor, xs: Sequence[Tensor], batched: bool, index: Index) -> dict[ir.Value, Tensor]:
        ct = self._picked(y, batched, index)
        found = sweep_back(self.op, self._nodes(), {y.value: ct}, [x.value for x in xs])
        return {x.value: found[x.value] for x in xs if x.value in found}

    def _picked(self, y: Tensor, batched: bool, index: Index) -> Tensor:
        """Return the cotangent that picks one element of `y` (of each sample of it)."""
        op = self.op
        inner = y.shape[1:] if batched else y.shape
        count = size_of(inner)
        whose = "per sample" if batched else "in all"
        if index is None:
            if count != 1:
                raise TensorTypeError(
                    f"{_name(y)!r} has {count} elements {whose} (shape {list(y.shape)}), "
                    "and a gradient is that of one number; pass index=… or index='max' to pick one, "
                    "or ask for the Jacobian"
                )
            return op.full(y.shape, 1, y.dtype)
        lead = y.shape[:1] if batched else ()
        if index == "max":
            flat = op.reshape(y, (*lead, count))
            largest = op.ArgMax(flat, axis=-1, keepdims=1)
            places = op.Range(
                op.constant(np.int64(0)), op.reshape(op.size(count), ()), op.constant(np.int64(1)), shape=(count,)
            )
            return op.reshape(op.cast(op.Equal(largest, places), y.dtype), y.shape)
        if not all(isinstance(d, int) for d in inner):
            raise TensorTypeError(
                f"index={index!r} needs an output of known size, and {_name(y)!r} has shape {list(y.shape)}"
            )
        sizes = [int(d) for d in inner]
        one = np.zeros(sizes)
        try:
            if isinstance(index, int):
                one.reshape(-1)[index] = 1
            else:
                one[tuple(int(i) for i in index)] = 1
            if one.sum() != 1:
                raise IndexError
        except IndexError:
            raise TensorTypeError(
                f"index={index!r} does not pick one element of {_name(y)!r}, which has shape {sizes} {whose}"
            ) from None
        return op.spread(op.constant(one, y.dtype), y.shape)

    def _or_zeros(self, ct: Tensor | None, x: Tensor) -> Tensor:
        return self.op.zeros_like(x) if ct is None else ct

    def _why_zero(self, ys: Sequence[Tensor], x: Tensor, order: int = 1) -> str | None:
        """Say why a derivative is zero everywhere, as a warning too; None where it merely turned out so."""
        activity = analyze(self.op, list(self.model.graph), [x.value], [y.value for y in ys])
        names = ", ".join(repr(_name(y)) for y in ys)
        if activity.nodes:
            return "zero everywhere" if order == 1 else "linear: the second derivative is zero"
        why = f"{names} does not depend on {_name(x)!r}"
        if activity.stops:
            why = f"{names} depends on {_name(x)!r} only through steps: {'; '.join(activity.stops)}"
        if any(y is x for y in ys):
            return None
        warnings.warn(f"{why}; the derivative is zero", DisconnectedWarning, stacklevel=level_outside())
        return why

    def _output(self, name: str, tensor: Tensor) -> str:
        """Make a tensor an output of the model under a name."""
        name = self.op.unique_name(name)
        value = tensor.value
        node = value.producer()
        if node is None or node.graph is not None or value in self._outputs:
            value = self.op.named_identity(tensor)
        value.name = name
        self._outputs.append(value)
        return name

    def _record(
        self,
        kind: str,
        y: Tensor,
        x: Tensor | tuple[Tensor, Tensor],
        output: str,
        *,
        seed: str | None = None,
        batched: bool = False,
        mode: str,
        zero: str | None = None,
        index: Index = None,
    ) -> None:
        wrt = _name(x) if isinstance(x, Tensor) else (_name(x[0]), _name(x[1]))
        picked = index if isinstance(index, (int, str, type(None))) else tuple(index)
        self._records.append(
            Derivative(
                kind=kind,
                of=_name(y),
                wrt=wrt,
                output=output,
                seed=seed,
                batched=batched,
                mode=mode,
                zero=zero,
                index=picked,
                straight_through=self.op.straight_through,
            )
        )


def _written(xs: Sequence[Tensor], gradients: Mapping[ir.Value, Tensor]) -> dict[ir.Value, Tensor]:
    """Return those of the gradients that are not zero, each written to the graph, so that it can be differentiated."""
    found = {x.value: gradients[x.value] for x in xs if x.value in gradients}
    for gradient in found.values():
        _ = gradient.value  # a broadcast is written when its value is asked for
    return found


def _behind_zip_map(value: ir.Value) -> ir.Value:
    """Return the scores of which a `ZipMap` makes a sequence of maps, as scikit-learn's classifiers end."""
    node = value.producer()
    scores = node.inputs[0] if node is not None and node.op_type == "ZipMap" else None
    return value if scores is None else scores


def float_initializers(model: ir.Model) -> list[str]:
    """Return the names of the initializers of a model that are floating-point tensors."""
    values = model.graph.initializers.items()
    return [name for name, v in values if v.const_value is not None and v.const_value.dtype.is_floating_point()]


def _is_statistic(value: ir.Value) -> bool:
    """Whether an initializer is nothing but a running mean or variance of normalizations."""
    uses = value.uses()
    return bool(uses) and all(use.node.op_type == "BatchNormalization" and use.idx > 2 for use in uses)


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _name(tensor: Tensor) -> str:
    return tensor.value.name or ""


def _describe(value: ir.Value) -> str:
    port = port_of(value)
    kind = port.kind if port.kind != "unknown" else "unknown type"
    return f"{port.name!r}: {kind if port.dtype is None else f'{kind} of {port.dtype}'}"
