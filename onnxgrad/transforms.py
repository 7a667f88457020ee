"""The transforms: a model goes in, the same model goes out with derivatives as further outputs.

All of them take `model` as a path, bytes, an ``onnx.ModelProto`` or an ``ir.Model`` (which they leave as it is) and
return an ``onnx.ModelProto``. `of` and `wrt` are names or lists of names of graph inputs and outputs, initializers
(weights), or values inside the graph; None means every floating-point graph output, or every floating-point graph
input.

With `straight_through`, the gradient passes the roundings of quantized operators as if they were the identity (and is
zero where the quantized value saturates); it is then not the true derivative, which is zero. docs/quantized.md says
more.

Errors that all of them raise:
    ModelReadError: the source cannot be read as a model.
    UnknownNameError: a name in `of` or `wrt` is not in the model; the nearest names are given.
    TensorTypeError: a tensor in `of` or `wrt` is not floating-point, no tensor at all, or of unknown rank.
    NotDifferentiableError: with every node in the way, why, and what to do.
    MixedSamplesError: a per-sample derivative was asked for, and samples mix; the node is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxgrad.augmentation import Augmentation, Batched, Index, Mode, Names, float_initializers
from onnxgrad.costs import Reduction, add_cost, compose, with_cost
from onnxgrad.errors import TensorTypeError
from onnxgrad.lowering import has_gradients
from onnxgrad.model.metadata import Derivative, derivatives
from onnxgrad.model.read import Source, read
from onnxgrad.model.sizes import set_sizes
from onnxgrad.model.write import to_proto

Keep = bool | Sequence[str]


def vjp(
    model: Source,
    of: Names = None,
    wrt: Names = None,
    *,
    seeds: str | None = None,
    keep_outputs: Keep = True,
    straight_through: bool = False,
) -> onnx.ModelProto:
    """Add vector-Jacobian products: cotangents of outputs go in, cotangents of inputs come out.

    New inputs ``adj_<y>`` are shaped like y, new outputs ``adj_<x>`` like x:
    ``adj_x = Σ_y (∂y/∂x)ᵀ adj_y``, summed over all of `of`.

    Args:
        model: the model.
        of: what to differentiate.
        wrt: what to differentiate by.
        seeds: name of a symbolic size; the new inputs and outputs then have one more, leading, axis of that size, for
        many
            cotangents in one run.
        keep_outputs: whether the primal outputs stay; a list of names keeps those.
        straight_through: whether gradients pass straight through the roundings of quantized operators.
    """
    augmentation = Augmentation(model, straight_through)
    augmentation.vjp(of, wrt, seeds)
    return to_proto(augmentation.finish(keep_outputs))


def jvp(
    model: Source,
    of: Names = None,
    wrt: Names = None,
    *,
    seeds: str | None = None,
    keep_outputs: Keep = True,
    straight_through: bool = False,
) -> onnx.ModelProto:
    """Add Jacobian-vector products: tangents of inputs go in, tangents of outputs come out.

    New inputs ``fwd_<x>`` are shaped like x, new outputs ``fwd_<y>`` like y:
    ``fwd_y = Σ_x (∂y/∂x) fwd_x``, summed over all of `wrt`. The arguments are those of `vjp`.
    """
    augmentation = Augmentation(model, straight_through)
    augmentation.jvp(of, wrt, seeds)
    return to_proto(augmentation.finish(keep_outputs))


def gradient(
    model: Source,
    of: Names = None,
    wrt: Names = None,
    *,
    cost: str | Source | None = None,
    reduction: Reduction | None = None,
    index: Index = None,
    batched: Batched = "auto",
    keep_outputs: Keep = True,
    straight_through: bool = False,
) -> onnx.ModelProto:
    """Add gradients ``grad_<y>_<x>``, shaped like x, of outputs that are one number, in all or per sample.

    With `cost`, the model first gets a cost, as by `add_cost` or `compose`: a new input ``target``, a new output
    ``cost``, and then ``grad_cost_<x>``, the gradient of that.

    Args:
        model: the model.
        of: what to differentiate; with `cost`, the one output that enters it (None: the only floating-point one).
        wrt: what to differentiate by. ``"weights"`` means, unless a tensor is called so, all floating-point
            initializers of the file that `of` depends on, without means and variances of batch normalizations. None
            means the floating-point inputs that the model had, without the target.
        cost: name of a cost (``"mse"``, ``"mae"``, …, see `add_cost`), or a cost model with one output. None: none.
        reduction: for a cost by name, whether it is the ``"mean"`` over all samples (None, too), the ``"sum"``, or one
            per sample (``"none"``), of which the gradient by inputs is per sample, too.
        index: picks one element of a wider output: its position (in the flattened output of one sample, or one
        position per
            axis), or ``"max"`` for the largest one, e.g. the predicted class (the first of several equal ones).
        batched: as in `jacobian`.
        keep_outputs: whether the primal outputs stay; a list of names keeps those.
        straight_through: whether gradients pass straight through the roundings of quantized operators.

    Raises:
        TensorTypeError: if an output has more than one element (per sample) and no `index` is given; if gradients by
            weights are asked of one cost per sample; or if there are no weights.
        ValueError: if there is a `reduction` without a cost by name.
    """
    source = read(model)
    initializers = float_initializers(source)
    if cost is not None:
        if not (of is None or isinstance(of, str)):
            raise TensorTypeError(f"a cost is that of one output, and of={of!r} names several; ask for them one by one")
        costed = with_cost(source, cost, of, reduction, straight_through=straight_through)
        source, of = costed.model, costed.cost
        wrt = list(costed.inputs) or None if wrt is None else wrt
        if reduction == "none" and batched == "auto":
            batched = True
    elif reduction is not None:
        raise ValueError(f"reduction={reduction!r} is for a cost; name one: cost='mse'")
    augmentation = Augmentation(source, straight_through)
    if wrt == "weights":
        wrt = augmentation.weights(initializers, of)
    if batched is True and cost is not None:
        named = [wrt] if isinstance(wrt, str) else wrt or ()
        shared = [name for name in named if name in augmentation.model.graph.initializers]
        if shared:
            raise TensorTypeError(
                f"{', '.join(map(repr, shared))} serve all samples, and the cost is one number per sample; pass "
                "reduction='mean' or 'sum', or ask for the Jacobian of the cost (onnxgrad.add_cost, onnxgrad.jacobian)"
            )
    augmentation.gradient(of, wrt, index, batched)
    return to_proto(augmentation.finish(keep_outputs))


def jacobian(
    model: Source,
    of: Names = None,
    wrt: Names = None,
    *,
    batched: Batched = "auto",
    mode: Mode = "auto",
    keep_outputs: Keep = True,
    straight_through: bool = False,
) -> onnx.ModelProto:
    """Add Jacobians ``jac_<y>_<x>``: of shape ``(N, *y, *x)`` per sample, else ``(*y, *x)``.

    Args:
        model: the model.
        of: what to differentiate.
        wrt: what to differentiate by.
        batched: True: per sample, where axis 0 of y and x holds N samples and it is proven that they do not mix.
            False: in full. ``"auto"``: per sample where the size of both axes 0 is symbolic, else in full.
        mode: ``"reverse"`` (one sweep per output element), ``"forward"`` (one per input element), or ``"auto"``: the
        one with
            fewer floating-point operations, counted.
        keep_outputs: whether the primal outputs stay; a list of names keeps those.
        straight_through: whether gradients pass straight through the roundings of quantized operators.
    """
    augmentation = Augmentation(model, straight_through)
    augmentation.jacobian(of, wrt, batched, mode)
    return to_proto(augmentation.finish(keep_outputs))


def hessian(
    model: Source,
    of: Names = None,
    wrt: Names = None,
    *,
    index: Index = None,
    batched: Batched = "auto",
    keep_outputs: Keep = True,
    straight_through: bool = False,
) -> onnx.ModelProto:
    """Add Hessians ``hess_<y>_<x1>_<x2>`` of outputs that are one number, for all pairs of `wrt`.

    They have shape ``(N, *x1, *x2)`` per sample, else ``(*x1, *x2)``, and are the forward-mode Jacobian of the
    gradient. The arguments are those of `gradient`.
    """
    augmentation = Augmentation(model, straight_through)
    augmentation.hessian(of, wrt, index, batched)
    return to_proto(augmentation.finish(keep_outputs))


def hvp(
    model: Source,
    of: Names = None,
    wrt: Names = None,
    *,
    index: Index = None,
    batched: Batched = "auto",
    keep_outputs: Keep = True,
    straight_through: bool = False,
) -> onnx.ModelProto:
    """Add Hessian-vector products: new inputs ``fwd_<x>``, new outputs ``hvp_<y>_<x>``, both shaped like x.

    ``hvp_y_x1 = Σ_x2 (∂²y/∂x1∂x2) fwd_x2``, without forming the Hessian. The arguments are those of `gradient`.
    """
    augmentation = Augmentation(model, straight_through)
    augmentation.hvp(of, wrt, index, batched)
    return to_proto(augmentation.finish(keep_outputs))


def lower_gradients(model: Source, *, straight_through: bool = False) -> onnx.ModelProto:
    """Replace the ONNX standard's own ``Gradient`` nodes by ordinary operators, so that any runtime can run the model.

    A node ``Gradient(inputs…, xs=[…], zs=[…], y=…)`` of the domain ai.onnx.preview.training (version 1) asks for the
    gradient of the tensor `y`, which has one element, by each of the tensors that `xs` names, with those that `zs`
    names held, even where they are computed from `xs`. Its inputs are the values of `xs` and then of `zs` at which the
    gradient is taken. Each output has the shape and type of its input. Nodes may stand behind each other: gradients of
    gradients, and gradients at values that were computed from gradients. All other transforms do the same with such
    nodes before they add their own derivatives.

    Args:
        model: the model; it is not changed.
        straight_through: whether gradients pass straight through the roundings of quantized operators.

    Returns:
        The model with the same inputs and outputs, and no such node; its functions are inlined. A model without such
        nodes comes back as it is.

    Raises:
        ModelReadError: if a node is malformed: attributes missing, as many inputs as `xs` and `zs` do not have, `xs`
            that are not independent of each other, or `y` that depends on its own gradient.
        UnknownNameError: if `xs`, `zs` or `y` names what its graph does not have.
        TensorTypeError: if `y` has more than one element (the standard does not say what is meant then), if a tensor is
            not floating-point, or if an input does not have the type and rank of the tensor whose place it takes.
        NotDifferentiableError: with every node in the way; or if a ``Gradient`` stands in the body of another node, or
            asks for other values of random operators.

    Warns:
        DisconnectedWarning: where a gradient is zero, because `y` does not depend on the tensor, or only in steps.
    """
    source = read(model)
    return to_proto(Augmentation(source, straight_through).model if has_gradients(source) else source)


def fix_sizes(model: Source, sizes: Mapping[str, int | str]) -> onnx.ModelProto:
    """Give open sizes of a model's inputs a number, or the name of another, wherever they occur.

    For models in which a size decides how many axes a tensor has: as `Squeeze` without axes, and the ``squeeze`` of
    PyTorch on an axis of open size, do. There is no derivative for all sizes at once then. And for models with several
    inputs whose batches have different names (tf2onnx numbers them), so that nothing says that they are one.

    Args:
        model: the model; it is not changed.
        sizes: numbers by name (``{"batch": 1}``), or by input and axis (``{"x[0]": 1}``), which also serves for sizes
            without a name. A name instead of a number (``{"unk__8": "batch"}``) makes sizes of that name one size.

    Returns:
        The model, which computes the same for inputs of these sizes, and takes no others.

    Raises:
        ModelReadError: if the source cannot be read as a model.
        UnknownNameError: if no input has an open size of that name, or no such axis.
        TensorTypeError: if a number is no integer of at least 0, or a name no identifier.
    """
    source = read(model)
    set_sizes(source, sizes)
    return to_proto(source)


__all__ = [
    "Derivative",
    "add_cost",
    "compose",
    "derivatives",
    "fix_sizes",
    "gradient",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "lower_gradients",
    "vjp",
]
