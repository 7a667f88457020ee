"""Sequences and optionals, resolved into tensors.

Sequences hold tensors on their way between operators. Where the builder can say which tensors these are, an operator
that takes a tensor out of a sequence is replaced by ordinary operators on tensors, of the same result to the bit, and
the sequence has no part in a derivative any more. It is known in one of two forms: as a list of tensors, if its length
is fixed, or as one tensor that stacks them along a new axis 0, if they have one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import Refusal
from onnxgrad.graph.dims import Dim, dim_mul
from onnxgrad.graph.flow import Iteration, State, scan
from onnxgrad.graph.node import attribute_defaults, python_attributes
from onnxgrad.graph.tensor import Tensor

if TYPE_CHECKING:
    from onnxgrad.graph.builder import Builder

#: Key in the `meta` of nodes that were put in the place of those that work on sequences.
FOR_SEQUENCES = "onnxgrad.for_sequences"
#: Length up to which a sequence of slices is a list; above, it is stacked.
_LONGEST_LIST = 64


@dataclass(frozen=True)
class Items:
    """What a sequence holds: `tensors`, or the slices of `stack` along axis 0."""

    tensors: tuple[Tensor, ...] | None = None
    stack: Tensor | None = None

    def stacked(self, op: Builder) -> Tensor | None:
        """Return the tensors stacked along a new axis 0, or None if they have not one shape."""
        if self.stack is not None or not self.tensors:
            return self.stack
        if any(t.shape != self.tensors[0].shape or t.dtype != self.tensors[0].dtype for t in self.tensors):
            return None
        return op.Concat(*(op.unsqueeze(t, [-1 - t.rank]) for t in self.tensors), axis=0)


@dataclass(frozen=True)
class _Use:
    """A node with what is known of its inputs."""

    op: Builder
    node: ir.Node
    attrs: dict[str, Any]

    def value(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def tensor(self, index: int) -> Tensor | None:
        value = self.value(index)
        return None if value is None else self.op.tensor(value)

    def items(self, index: int = 0) -> Items | None:
        value = self.value(index)
        return None if value is None else self.op.sequences.get(value)

    def position(self, index: int, absent: int) -> int | None:
        """Return a position where it is known; `absent` where there is none."""
        if self.value(index) is None:
            return absent
        tensor = self.tensor(index)
        return tensor.ints[0] if tensor is not None and tensor.ints else None


#: What becomes of a node: the items of the sequences that it gives, or the tensor, or None if that is not known.
Resolution = list[Items] | Tensor | None


def resolve(op: Builder, node: ir.Node) -> Resolution:
    """Say what a node gives that has to do with sequences or optionals; nodes are emitted for it."""
    resolver = RESOLVERS.get(node.op_type) if node.domain == "" else None
    if resolver is None:
        return None
    defaults = attribute_defaults("", node.op_type, op.opset)
    try:
        return resolver(_Use(op, node, {**defaults, **python_attributes(node)}))
    except Refusal:  # of a body that cannot be run for each element: the node stays as it is
        return None


def _construct(use: _Use) -> Resolution:
    tensors = [use.tensor(i) for i in range(len(use.node.inputs))]
    return [Items(tuple(t for t in tensors if t is not None))] if None not in tensors else None


def _empty(_: _Use) -> Resolution:
    return [Items(())]


def _insert(use: _Use) -> Resolution:
    items, t = use.items(), use.tensor(1)
    if items is None or t is None:
        return None
    if items.tensors is not None:
        n = len(items.tensors)
        at = use.position(2, n)
        if at is None:
            return None
        at += n * (at < 0)
        return [Items((*items.tensors[:at], t, *items.tensors[at:]))]
    assert items.stack is not None
    if use.value(2) is not None or items.stack.shape[1:] != t.shape:
        return None
    return [Items(stack=use.op.Concat(items.stack, use.op.unsqueeze(t, [-1 - t.rank]), axis=0))]


def _erase(use: _Use) -> Resolution:
    items, at = use.items(), use.position(1, -1)
    if items is None or at is None or not items.tensors:
        return None
    at %= len(items.tensors)
    return [Items((*items.tensors[:at], *items.tensors[at + 1 :]))]


def _at(use: _Use) -> Resolution:
    items, at = use.items(), use.position(1, 0)
    if items is None:
        return None
    if items.tensors and at is not None and -len(items.tensors) <= at < len(items.tensors):
        return items.tensors[at]
    stack, index = items.stacked(use.op), use.tensor(1)
    return None if stack is None or index is None else use.op.Gather(stack, use.op.reshape(index, ()), axis=0)


def _length(use: _Use) -> Resolution:
    items = use.items()
    if items is None:
        return None
    length: Dim = len(items.tensors) if items.tensors is not None else items.stack.shape[0]  # type: ignore[union-attr]
    return use.op.reshape(use.op.size(length), ())


def _split(use: _Use) -> Resolution:
    x, axis, op = use.tensor(0), use.attrs["axis"], use.op
    if x is None:
        return None
    axis %= x.rank
    length = x.shape[axis]
    if use.value(1) is None:  # slices of size 1
        if isinstance(length, int) and 0 < length <= _LONGEST_LIST:
            parts = op.emit("Split", x, [1] * length, axis=axis, outputs=length)
            return [Items(parts if use.attrs["keepdims"] else tuple(op.squeeze(p, [axis]) for p in parts))]
        order = [axis, *(i for i in range(x.rank) if i != axis)]
        stack = op.Transpose(x, perm=order)
        return [Items(stack=op.unsqueeze(stack, [axis - x.rank]) if use.attrs["keepdims"] else stack)]
    sizes = use.tensor(1)
    if sizes is None or sizes.content is None:
        return None
    if sizes.rank == 0:
        each = sizes.content[0]
        if not isinstance(each, int) or not isinstance(length, int):
            return None
        whole, rest = divmod(length, each)
        content: tuple[Dim, ...] = (each,) * whole + (rest,) * (rest > 0)
    else:
        content = sizes.content
    if not 0 < len(content) <= _LONGEST_LIST:
        return None
    parts = op.emit("Split", x, op.ints(content), axis=axis, outputs=len(content))
    for part, size in zip(parts, content, strict=True):
        op.retype(part, (*x.shape[:axis], size, *x.shape[axis + 1 :]))
    return [Items(parts)]


def _joined(use: _Use) -> Resolution:
    items, axis, new, op = use.items(), use.attrs["axis"], use.attrs["new_axis"], use.op
    if items is None or items.tensors == ():
        return None
    if items.tensors is not None:
        rank = items.tensors[0].rank + new
        axis %= rank
        parts = [op.unsqueeze(t, [axis - rank]) for t in items.tensors] if new else items.tensors
        return op.Concat(*parts, axis=axis)
    assert items.stack is not None
    stack, rank = items.stack, items.stack.rank - 1 + new
    axis %= rank
    order = [*range(1, axis + 1), 0, *range(axis + 1, stack.rank)]
    moved = op.Transpose(stack, perm=order)
    if new:
        return moved
    return op.reshape(moved, (*moved.shape[:axis], dim_mul(*moved.shape[axis : axis + 2]), *moved.shape[axis + 2 :]))


def _same(use: _Use) -> Resolution:
    items = use.items()
    return None if items is None else [items]


def _optional(use: _Use) -> Resolution:
    value = use.value(0)
    if value is None:
        return None
    use.op.optionals[use.node.outputs[0]] = value
    return None


def _get_element(use: _Use) -> Resolution:
    value = use.value(0)
    held = use.op.optionals.get(value, value) if value is not None else None
    if held is None:
        return None
    items = use.op.sequences.get(held)
    return use.op.tensor(held) if items is None else [items]


def _has_element(use: _Use) -> Resolution:
    value = use.value(0)
    if value is None:
        return use.op.constant(np.array(False))
    known = value in use.op.optionals or use.op.tensor(value) is not None or value in use.op.sequences
    return use.op.constant(np.array(True)) if known else None


def _mapped(use: _Use) -> Resolution:
    """`SequenceMap`: the body for each element; other sequences go along, tensors are the same for all."""
    op, body = use.op, use.attrs["body"]
    items = [use.items(i) for i in range(len(use.node.inputs))]
    tensors = [use.tensor(i) for i in range(len(use.node.inputs))]
    if items[0] is None or any(s is None and t is None for s, t in zip(items, tensors, strict=True)):
        return None

    def run(elements: Sequence[Tensor]) -> list[Tensor] | None:
        slices = iter(elements)
        inputs = [t if s is None else next(slices) for s, t in zip(items, tensors, strict=True)]
        outputs = op.inline(body, {v: t for v, t in zip(body.inputs, inputs, strict=True) if t is not None})
        return None if None in outputs else [t for t in outputs if t is not None]

    lists = [s.tensors for s in items if s is not None and s.tensors is not None]
    if len(lists) == sum(s is not None for s in items) and len({len(tensors) for tensors in lists}) == 1:
        each = [outputs for elements in zip(*lists, strict=True) if (outputs := run(elements)) is not None]
        return [Items(results) for results in zip(*each, strict=True)] if len(each) == len(lists[0]) else None
    stacks = [stack for s in items if s is not None and (stack := s.stacked(op)) is not None]
    if len(stacks) < sum(s is not None for s in items):
        return None

    def step(_: Sequence[Tensor], slices: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        results = run(slices)
        if results is None:
            raise Refusal("the types in its body are not known")
        return [], results

    return [Items(stack=stack) for stack in scan(op, step, [], stacks)[1]]


RESOLVERS: dict[str, Callable[[_Use], Resolution]] = {
    "ConcatFromSequence": _joined,
    "Identity": _same,
    "Optional": _optional,
    "OptionalGetElement": _get_element,
    "OptionalHasElement": _has_element,
    "SequenceAt": _at,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SequenceMap": _mapped,
    "SplitToSequence": _split,
}


#: Operators that can always be resolved for a sequence that is stacked.
_OF_STACKS = {"ConcatFromSequence", "SequenceAt", "SequenceLength"}

# --- sequences that grow in a loop ----------------------------------------------------------------


def stack_appended(op: Builder, node: ir.Node) -> ir.Node | None:
    """Give a `Loop` that appends a tensor to a sequence in each iteration that tensor as a result instead.

    That is done to sequences with which the body does nothing else, where the tensors have one shape in all iterations,
    and where what the sequence is used for can be resolved.

    Returns:
        The new node, in the place of the old one, or None if there is no such sequence.
    """
    it = Iteration.of(node)
    appended = {s: t for s in it.states if (t := _appended(op, s, node.graph)) is not None}
    if not appended:
        return None
    graph = it.graph
    kept = [s for s in it.states if s not in appended]
    for s, t in appended.items():
        identity = ir.Node("", "Identity", [t.value], name=op.unique_name(f"{node.name}/appended"))
        identity.outputs[0].name = op.unique_name(f"{t.value.name}_appended")
        insert = s.leaving.producer()
        assert insert is not None
        place = list(graph.outputs).index(s.leaving)
        del graph.outputs[place]
        graph.remove(insert, safe=True)
        graph.inputs.remove(s.entering)
        graph.append(identity)
        graph.outputs.append(identity.outputs[0])
    new = ir.Node(
        "",
        "Loop",
        [*node.inputs[:2], *(s.initial for s in kept)],
        list(node.attributes.values()),
        num_outputs=len(node.outputs),
        name=node.name,
    )
    old_outputs = [*(s.final for s in kept), *(r.whole for r in it.results)]
    for old, value in zip(old_outputs, new.outputs, strict=False):
        value.name = old.name
        value.meta.update(old.meta)
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        old.name = None
    assert node.graph is not None
    node.graph.insert_before(node, new)
    node.graph.remove(node)
    for s, value in zip(appended, new.outputs[len(old_outputs) :], strict=True):
        value.name = op.unique_name(f"{s.final.name}_stacked")
        op.grown[value] = s.final
    return new


def _appended(op: Builder, s: State, user_graph: object) -> Tensor | None:
    """Return the tensor that each iteration appends to a sequence, where that is all that is done to it."""
    node = s.leaving.producer()
    if node is None or node.op_type != "SequenceInsert" or node.domain or len(node.inputs) > 2:
        return None
    value = node.inputs[1]
    tensor = None if value is None else op.tensor(value)
    alone = node.inputs[0] is s.entering and len(s.entering.uses()) == 1 and not s.leaving.uses()
    users = [user for user, _ in s.final.uses()]  # in the same graph: branches that are not taken are not resolved
    resolved = not s.final.is_graph_output() and all(u.op_type in _OF_STACKS and u.graph is user_graph for u in users)
    before = op.sequences.get(s.initial)
    if not (alone and resolved and tensor is not None and before is not None and before.tensors == ()):
        return None
    return tensor if all(map(op.is_known, tensor.shape)) else None


def remove_unused(graph: ir.Graph) -> None:
    """Remove what had to do with sequences and is used no more; such values cannot be asked for."""
    for node in reversed(list(graph)):
        concerned = node.domain == "" and (node.op_type in RESOLVERS or FOR_SEQUENCES in node.meta)
        tensor = node.op_type == "Identity" and FOR_SEQUENCES not in node.meta
        if concerned and not tensor and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            graph.remove(node, safe=True)
