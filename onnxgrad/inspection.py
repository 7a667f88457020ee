"""What can be differentiated in a model, what stands in the way, and what it would cost; nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnxgrad.augmentation import Augmentation
from onnxgrad.autodiff.activity import analyze
from onnxgrad.autodiff.cost import live_flops
from onnxgrad.autodiff.jacobian import forward_jacobian, jacobian_shape, reverse_jacobian
from onnxgrad.errors import MixedSamplesError, NotDifferentiableError, Obstacle, OnnxgradError
from onnxgrad.graph.dims import Dim
from onnxgrad.graph.tensor import Tensor
from onnxgrad.model.metadata import Derivative, derivatives
from onnxgrad.model.read import Source, read
from onnxgrad.model.signature import Signature, signature
from onnxgrad.model.tensors import tensors_of

Progress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Pair:
    """The derivative of one output with respect to one input.

    Attributes:
        of: the output.
        wrt: the input.
        obstacles: what stands in the way; with any, there is no derivative.
        batched: whether the Jacobian is one per sample, by default.
        mixing: where both have a batch axis of open size and the Jacobian is not per sample: where samples meet.
        shape: shape of the Jacobian; sizes may be names.
        zero: why the derivative is zero, where it is for any input.
        flops: floating-point operations of the Jacobian by mode, counted, not measured; a size that is not known before
            run time counts as `onnxgrad.graph.dims.NOMINAL`.
    """

    of: str
    wrt: str
    obstacles: tuple[Obstacle, ...] = ()
    batched: bool = False
    mixing: str | None = None
    shape: tuple[Dim, ...] | None = None
    zero: str | None = None
    flops: dict[str, float] | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a derivative."""
        return not self.obstacles


@dataclass(frozen=True)
class Inspection:
    """What `inspect` finds.

    Attributes:
        signature: inputs and outputs.
        opsets: version by domain ("" is ai.onnx), as in the file.
        nodes: number of nodes in the main graph.
        operators: how many nodes of each type there are, functions and subgraphs aside.
        weight_bytes: size of all weights.
        recorded: derivatives that the model says it returns already.
        refused: why the model as a whole cannot be differentiated, or None.
        pairs: for each floating-point output, each floating-point input.
        flops: floating-point operations of the model itself, counted like those of the derivatives.
    """

    signature: Signature
    opsets: dict[str, int]
    nodes: int
    operators: dict[str, int]
    weight_bytes: int
    recorded: tuple[Derivative, ...]
    refused: str | None
    pairs: tuple[Pair, ...]
    flops: float | None


def inspect(source: Source, progress: Progress = None, straight_through: bool = False) -> Inspection:
    """Look at a model and try each of its derivatives.

    Args:
        source: the model.
        progress: called with the number of pairs looked at and of all pairs, as they come.
        straight_through: whether gradients pass straight through the roundings of quantized operators.

    Raises:
        ModelReadError: if the source cannot be read as a model.
    """
    model = read(source)
    operators: dict[str, int] = {}
    for node in model.graph:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        operators[name] = operators.get(name, 0) + 1
    refused: str | None = None
    pairs: tuple[Pair, ...] = ()
    flops: float | None = None
    try:
        augmentation = Augmentation(model, straight_through)
        outputs = [t.value for v in augmentation.primal_outputs if (t := augmentation.op.tensor(v)) is not None]
        flops = live_flops(augmentation.op, augmentation.model.graph, outputs)
        pairs = tuple(_pairs(augmentation, progress))
    except OnnxgradError as error:
        refused = str(error)
    return Inspection(
        signature=signature(model),
        opsets=dict(model.opset_imports),
        nodes=len(model.graph),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        weight_bytes=sum(tensor.nbytes for tensor in tensors_of(model)),
        recorded=tuple(derivatives(model)),
        refused=refused,
        pairs=pairs,
        flops=flops,
    )


def _pairs(augmentation: Augmentation, progress: Progress) -> Iterator[Pair]:
    pairs = [(y, x) for y in augmentation.of(None) for x in augmentation.wrt(None)]
    for done, (y, x) in enumerate(pairs):
        if progress is not None:
            progress(done, len(pairs))
        try:
            yield _pair(augmentation, y, x)
        except NotDifferentiableError as error:
            yield Pair(y.value.name or "", x.value.name or "", error.obstacles)


def _pair(augmentation: Augmentation, y: Tensor, x: Tensor) -> Pair:
    op, nodes = augmentation.op, list(augmentation.model.graph)
    of, wrt = y.value.name or "", x.value.name or ""
    activity = analyze(op, nodes, [x.value], [y.value])
    activity.check()
    batched, mixing = False, None
    try:
        batched = augmentation.per_sample(y, x, "auto")
    except MixedSamplesError as error:
        mixing = str(error)
    shape = jacobian_shape(y, x, batched)
    if y is not x and not activity.nodes:
        why = (
            f"depends on it only through steps: {'; '.join(activity.stops)}"
            if activity.stops
            else "no floating-point path leads there"
        )
        return Pair(of, wrt, (), batched, mixing, shape, zero=why)
    found = {
        "reverse": reverse_jacobian(op, nodes, y, [x], batched)[0],
        "forward": forward_jacobian(op, nodes, [y], x, batched)[0],
    }
    flops = {mode: live_flops(op, [*nodes, *op.nodes], [t.value]) for mode, t in found.items()}
    return Pair(of, wrt, (), batched, mixing, shape, flops=flops)
