"""Which values a derivative passes through, and what stands in its way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.errors import NotDifferentiableError, Obstacle
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.flow import bodies_of, captured_values, is_flow, reads
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules.registry import REGISTRY, STRAIGHT_THROUGH, Rule, rule_of

#: Operators whose rules hold for integers that stand for real numbers, too: these are moved, added up or compared.
_MOVES = frozenset(
    """
    Add Cast CastLike CenterCropPad Compress Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity
    MaxPool Pad Reshape ReverseSequence ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Sub Tile Transpose
    Trilu Unsqueeze Where
    """.split()
)
#: Integers that are no quantized numbers: truth values, sizes and positions.
_NO_NUMBERS = (ir.DataType.BOOL, ir.DataType.INT64)


@dataclass(frozen=True)
class Activity:
    """What lies between `wrt` and `of`.

    Attributes:
        values: values that depend on `wrt` and that `of` depends on, both included.
        nodes: the nodes in between, in the order of the graph.
        obstacles: what is in the way.
        stops: texts on nodes at which the dependence ends, because their derivative is zero.
        varied: values that depend on `wrt`.
    """

    values: frozenset[ir.Value]
    nodes: Sequence[ir.Node]
    obstacles: Sequence[Obstacle]
    stops: Sequence[str]
    varied: frozenset[ir.Value]

    def check(self) -> None:
        """Raise the report of all obstacles, if there are any.

        Raises:
            NotDifferentiableError: naming every node in the way.
        """
        if self.obstacles:
            raise NotDifferentiableError(self.obstacles)


def analyze(op: Builder, nodes: Iterable[ir.Node], wrt: Collection[ir.Value], of: Collection[ir.Value]) -> Activity:
    """Find the nodes through which `of` depends, differentiably, on `wrt`."""
    varied: set[ir.Value] = set(wrt)
    reached: list[ir.Node] = []
    stops: list[str] = []
    for node in nodes:
        if not _reads(node, varied):
            continue
        view = op.view(node)
        rule = rule_of(op, view.operator)
        entering = [i for i, v in enumerate(node.inputs) if v in varied]
        bits = _takes_bits(op, view, entering)
        if rule is not None and entering and all(rule.is_zero(i) for i in entering) and not bits:
            rounds = STRAIGHT_THROUGH.get(rule.operator) is not None
            if rounds or any(_is_real(op, view, rule, t) for t in view.outputs if t is not None):
                why = rule.remark if rule.kind == "not differentiable" else rule.zero[entering[0]]
                stops.append(f"{view.operator} (node {view.name!r}): {why}")
            continue
        outputs = zip(node.outputs, view.outputs, strict=True)
        differentiable = [v for v, t in outputs if t is None or bits or _is_real(op, view, rule, t, entering)]
        if is_flow(node):
            within = through_bodies(op, node, varied)
            stops.extend(within.stops)
            differentiable = [v for v in node.outputs if v in within.left]
        if not differentiable and rule is not None and STRAIGHT_THROUGH.get(rule.operator) is not None:
            stops.append(f"{view.operator} (node {view.name!r}): its output is rounded")
        elif not differentiable and op.straight_through and _has_numbers(view, entering):
            stops.append(f"{view.operator} (node {view.name!r}): its output counts as positions, or true and false")
        if differentiable:
            varied.update(v for v in differentiable if v.name)
            reached.append(node)

    useful: set[ir.Value] = set(of)
    active: list[ir.Node] = []
    obstacles: list[Obstacle] = []
    for node in reversed(reached):
        if useful.isdisjoint(node.outputs):
            continue
        active.append(node)
        view = op.view(node)
        rule = rule_of(op, view.operator)
        if is_flow(node):
            within = through_bodies(op, node, varied, useful)
            useful.update(within.entered)
            obstacles.extend(reversed(within.obstacles))
        else:
            bits = _takes_bits(op, view, [i for i, v in enumerate(node.inputs) if v in varied])
            obstacles.extend([_of_bits(view)] if bits else [])
            through = [i for i in range(len(node.inputs)) if rule is None or bits or not rule.is_zero(i)]
            useful.update(v for i in through if (v := node.inputs[i]) in varied and v is not None)
            useful.update(captured_values(node) & varied)
        obstacles.extend(_obstacles(op, view, rule, varied))
    return Activity(frozenset(varied & useful), active[::-1], obstacles[::-1], stops, frozenset(varied))


@dataclass(frozen=True)
class Within:
    """What lies between `wrt` and `of` inside the bodies of a node of control flow.

    Attributes:
        values: values inside that depend on `wrt` and that `of` depends on.
        entered: the values around the node that these depend on.
        left: the outputs of the node that depend on `wrt`.
        obstacles: what is in the way.
        stops: texts on nodes at which the dependence ends.
    """

    values: frozenset[ir.Value]
    entered: frozenset[ir.Value]
    left: frozenset[ir.Value]
    obstacles: Sequence[Obstacle]
    stops: Sequence[str]


def through_bodies(
    op: Builder, node: ir.Node, wrt: Collection[ir.Value], of: Collection[ir.Value] | None = None
) -> Within:
    """Analyze the bodies of an `If`, `Loop` or `Scan`.

    Args:
        op: the builder.
        node: the node.
        wrt: values around it to depend on.
        of: outputs of it that matter (None: all).
    """
    values: set[ir.Value] = set()
    entered: set[ir.Value] = set()
    left: set[ir.Value] = set()
    obstacles: list[Obstacle] = []
    stops: list[str] = []
    captured = captured_values(node)
    for body in bodies_of(op, node):
        varied = {v for v in captured if v in wrt} | {inside for outside, inside in body.enter if outside in wrt}
        useful = {inside for inside, outside in body.leave if of is None or outside in of}
        while True:  # what leaves one iteration enters the next
            activity = analyze(op, body.graph, varied, useful)
            more = {entering for leaving, entering in body.back if leaving in activity.varied} - varied
            matter = {leaving for leaving, entering in body.back if entering in activity.values} - useful
            if not more and not matter:
                break
            varied |= more
            useful |= matter
        values |= activity.values
        left |= {outside for inside, outside in body.leave if inside in activity.varied}
        entered |= {outside for outside, inside in body.enter if inside in activity.values and outside in wrt}
        entered |= {v for v in captured if v in activity.values}
        left |= {final for initial, final in body.past if initial in wrt}
        entered |= {initial for initial, final in body.past if initial in wrt and (of is None or final in of)}
        obstacles.extend(activity.obstacles)
        stops.extend(activity.stops)
    return Within(frozenset(values), frozenset(entered), frozenset(left), obstacles, stops)


def _is_real(op: Builder, view: Node, rule: Rule | None, y: Tensor, entering: Collection[int] = ()) -> bool:
    """Whether an output stands for real numbers: floating-point ones, or, where gradients pass straight through
    roundings, quantized ones.
    """
    if y.is_float or not op.straight_through or y.dtype in _NO_NUMBERS:
        return y.is_float
    return is_flow(view.ir) or (rule is not None and rule.quantizes) or _has_numbers(view, entering)


def _takes_bits(op: Builder, view: Node, entering: Iterable[int]) -> bool:
    """Whether a node takes the bits of a real number for another number (`BitCast`), or works on such ones.

    That is no step, although numbers on the way may be integers: the fast inverse root is made so.
    """
    if view.operator == "BitCast":
        return True
    return not op.straight_through and any((x := view.inputs[i]) is not None and not x.is_float for i in entering)


def _of_bits(view: Node) -> Obstacle:
    why = "it works on the bits of a real number, of which it is no smooth function"
    return Obstacle(view.name, view.operator, view.version, why, "use Cast to change the type of a number")


def _has_numbers(view: Node, entering: Iterable[int]) -> bool:
    """Whether one of the given inputs holds quantized numbers."""
    return any((x := view.inputs[i]) is not None and not x.is_float and x.dtype not in _NO_NUMBERS for i in entering)


def _reads(node: ir.Node, values: set[ir.Value]) -> bool:
    return any(v in values for v in reads(node))


def _obstacles(op: Builder, view: Node, rule: Rule | None, varied: set[ir.Value]) -> Iterable[Obstacle]:
    def obstacle(why: str, **remedy: str) -> Obstacle:
        return Obstacle(view.name, view.operator, view.version, why, **remedy)

    if rule is None:
        if view.ir.domain:
            yield obstacle("there is no rule for this operator")
        else:
            yield obstacle(
                "there is no rule for this operator, and ONNX has none of this name",
                remedy="export the model in operators of ONNX (tf2onnx leaves what it does not know as it is in "
                "TensorFlow), register a rule with onnxgrad.register, or choose another `wrt` or `of`",
            )
        return
    if rule.kind == "resolved":
        yield obstacle(rule.remark, remedy="write the model without sequences there, or choose another `wrt` or `of`")
        return
    if rule.versions and view.version not in rule.versions:
        known = ", ".join(map(str, sorted(rule.versions)))
        yield obstacle(f"its rule is written for versions {known} only")
    for i, value in enumerate(view.ir.inputs):
        if value not in varied or rule.is_zero(i):
            continue
        if not rule.differentiates(i):
            yield obstacle(f"its rule has no derivative with respect to input {i} ({value.name!r})")
    entering = [i for i, v in enumerate(view.ir.inputs) if v in varied]
    knows = rule.quantizes or is_flow(view.ir) or view.operator in _MOVES
    if not knows and _has_numbers(view, entering) and not any(y.is_float for y in view.outputs if y is not None):
        yield obstacle(
            "gradients do not pass straight through it on integers",
            remedy="let it work on floating-point numbers, behind a DequantizeLinear or Cast",
        )
    yield from _unknown_types(op, view, varied, obstacle)
    if captured_values(view.ir) & varied and not rule.differentiates_captured:
        yield obstacle("values from around it enter its body, and its rule does not follow them")


def _is_resolved(value: ir.Value) -> bool:
    """Whether a value is made by an operator on sequences or optionals."""
    node = value.producer()
    rule = None if node is None else REGISTRY.get(node.op_type)
    return node is not None and not node.domain and rule is not None and rule.kind == "resolved"


def _unknown_types(
    op: Builder, view: Node, varied: set[ir.Value], obstacle: Callable[..., Obstacle]
) -> Iterable[Obstacle]:
    """Name the values whose rank is lost in this node, or before any node; behind it, nothing else can be known."""
    incoming = [v for v, t in zip(view.ir.inputs, view.inputs, strict=True) if v is not None and t is None]
    outgoing = [v for v, t in zip(view.ir.outputs, view.outputs, strict=True) if v.name and t is None]
    for value in [v for v in incoming if v.producer() is None or v not in varied] if incoming else outgoing:
        if isinstance(value.type, (ir.SequenceType, ir.OptionalType)) or (value in varied and _is_resolved(value)):
            continue  # the node that makes it, or takes from it, is named
        if value in varied or (value in incoming and value.type is None):
            yield obstacle(
                _why_unknown(op, view, value),
                remedy="fix open sizes (onnxgrad.fix_sizes, or the command `onnxgrad fix`), export the model with "
                "shape information, or choose another `wrt` or `of`",
            )


def _why_unknown(op: Builder, view: Node, value: ir.Value) -> str:
    """Say why the type of a value that a node takes or gives is not known: by the node where it is lost."""
    unknown, lost = value, value.producer()
    while lost is not None:
        before = [v for v in lost.inputs if v is not None and op.tensor(v) is None]
        if is_flow(lost) and not before:
            inside = [i for body in bodies_of(op, lost) for i, o in body.leave if o is unknown]
            before = [v for v in inside if op.tensor(v) is None and v.producer() is not None]
        if not before:
            break
        unknown, lost = before[0], before[0].producer()
    if lost is None:
        return f"the type or rank of {value.name!r} is not known"
    maker = op.view(lost)
    here = "it" if lost is view.ir else f"{maker.operator} (node {maker.name!r})"
    ranks = _ranks_of_branches(op, maker, unknown)
    if len(set(ranks)) > 1:
        return f"{here} gives {unknown.name!r} different ranks in its branches ({', '.join(map(str, ranks))})"
    if maker.operator == "Squeeze":
        return f"{here} takes out axes of size 1, which depends on the open sizes in {list(maker.x.shape)}"
    return f"the type or rank of {value.name!r} is not known"


def _ranks_of_branches(op: Builder, view: Node, value: ir.Value) -> list[int]:
    """Return the ranks that the branches of an `If` give an output, where they are known."""
    if view.operator != "If" or value not in view.ir.outputs:
        return []
    index = list(view.ir.outputs).index(value)
    found = [op.tensor(body.graph.outputs[index]) for body in bodies_of(op, view.ir)]
    return [tensor.rank for tensor in found if tensor is not None]
