"""The table of rules, and the ways to write one.

A rule says how the cotangents of a node's outputs become cotangents of its inputs (its vector-Jacobian product). It
is a formula over the builder `op`. The driver does everything else: it sums over broadcast axes, spreads what is
smaller than its input, accumulates, and leaves out what nobody wants. A cotangent may have one axis of seeds more
than its output, in front; so rules count axes from the right.

What a rule returns for one input is a tensor, or a function without arguments that makes it (called only if it is
wanted).

Example:
    The derivative of a custom operator ``my.domain::Cube``::

        @onnxgrad.register("Cube", domain="my.domain")
        def cube(op, node, ct):
            return ct * 3.0 * node.x * node.x
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxgrad.errors import Refusal
from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node, attribute_names
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.samples import Following

#: One cotangent, or a function that makes it, or None where an input has none.
Cotangent = Tensor | Callable[[], Tensor] | None
#: A rule: ``f(op, node, *cotangents of the outputs)`` gives the cotangent of the first input, or of each input.
Vjp = Callable[..., Any]
#: An expression in simpler operators that equals the outputs of a node: ``f(op, node)``.
Expression = Callable[[Builder, Node], "Tensor | Sequence[Tensor | None]"]
#: A partial derivative of an elementwise operator: ``f(op, y, *inputs, **attributes)``.
Partial = Callable[..., Tensor | float]


@dataclass(frozen=True)
class Rule:
    """How one operator is differentiated.

    Attributes:
        operator: ``domain::Op``, without domain for ai.onnx.
        kind: "vjp", "elementwise", "linear", "composed", "control flow" (the sweeps go through its bodies), "resolved"
            (the builder puts others in its place, where it can) or "not differentiable".
        versions: the operator versions that the rule was written against (empty: any, for operators without a schema).
        vjp: the rule, or None.
        differentiates_captured: whether the rule follows values that graphs in the attributes capture.
        quantizes: of a straight-through rule, whether integer outputs stand for real numbers, and have cotangents.
        expression: of a composed operator, the expression that equals its outputs, or None.
        wrt: positions of the inputs with a derivative (None: every one that is floating-point).
        zero: positions of floating-point inputs whose derivative is zero, with the reason.
        follow: how the axis of samples passes through the operator.
        remark: what a user should know, for the table of operators.
    """

    operator: str
    kind: str
    versions: frozenset[int]
    vjp: Vjp | None
    wrt: frozenset[int] | None = None
    zero: Mapping[int, str] = field(default_factory=dict)
    follow: Following | None = None
    remark: str = ""
    expression: Expression | None = None
    differentiates_captured: bool = False
    quantizes: bool = False

    def differentiates(self, index: int) -> bool:
        """Whether there is a derivative with respect to an input that can be other than zero."""
        if self.kind in ("control flow", "resolved"):
            return True
        if self.vjp is None and self.expression is None:
            return False
        return index not in self.zero and (self.wrt is None or index in self.wrt)

    def is_zero(self, index: int) -> bool:
        """Whether the derivative with respect to an input is known to be zero."""
        return self.kind == "not differentiable" or index in self.zero


class Registry:
    """Rules by operator."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}

    def add(self, rule: Rule, replace: bool = False) -> None:
        """Enter a rule.

        Raises:
            ValueError: if the operator has one already and `replace` is not set.
        """
        if rule.operator in self._rules and not replace:
            raise ValueError(f"{rule.operator} has a rule already; pass replace=True to put another in its place")
        self._rules[rule.operator] = rule

    def remove(self, operator: str) -> None:
        """Take a rule out (``"domain::Op"``)."""
        del self._rules[operator]

    def get(self, operator: str) -> Rule | None:
        """Return the rule of an operator (``"domain::Op"``, or ``"Op"`` of ai.onnx)."""
        return self._rules.get(operator)

    def __iter__(self) -> Iterator[Rule]:
        return iter(sorted(self._rules.values(), key=lambda r: ("::" in r.operator, r.operator)))


REGISTRY = Registry()
#: Rules that take the place of those of `REGISTRY` where gradients pass straight through roundings.
STRAIGHT_THROUGH = Registry()


def rule_of(op: Builder, operator: str) -> Rule | None:
    """Return the rule of an operator that is in force in a model."""
    return (STRAIGHT_THROUGH.get(operator) if op.straight_through else None) or REGISTRY.get(operator)


def _operators(names: str, domain: str) -> list[str]:
    return [f"{domain}::{name}" if domain not in ("", "ai.onnx") else name for name in names.split()]


def vjp(
    names: str,
    *,
    versions: Collection[int],
    domain: str = "",
    wrt: Collection[int] | None = None,
    zero: Mapping[int, str] | None = None,
    follow: Following | None = None,
    remark: str = "",
) -> Callable[[Vjp], Vjp]:
    """Enter the decorated function ``f(op, node, *cts)`` as the rule of one or more operators (names by spaces).

    There is one `ct` per output; that of an output that is no floating-point tensor is None. The function returns the
    cotangent of the first input if `wrt` names just one, else a sequence with one entry per input.
    """

    def enter(function: Vjp) -> Vjp:
        for operator in _operators(names, domain):
            REGISTRY.add(
                Rule(
                    operator,
                    "vjp",
                    frozenset(versions),
                    function,
                    None if wrt is None else frozenset(wrt),
                    dict(zero or {}),
                    follow,
                    remark,
                )
            )
        return function

    return enter


def register(
    name: str,
    domain: str,
    *,
    wrt: Collection[int] | None = None,
    zero: Mapping[int, str] | None = None,
    samples_axis_0: bool = False,
    versions: Collection[int] = (),
    replace: bool = False,
) -> Callable[[Vjp], Vjp]:
    """Enter a rule for an operator or function of any domain; a decorator for ``f(op, node, *cts)``.

    Args:
        name: the operator.
        domain: its domain.
        wrt: positions of the inputs that have a derivative (None: every floating-point one). With one position, the
        function
            returns one cotangent; otherwise one per input, each a tensor or a function without arguments.
        zero: positions of floating-point inputs whose derivative is zero, each with the reason.
        samples_axis_0: whether sample i of each output depends on sample i of the inputs only, with the samples on
            axis 0 of all of them. Without it, per-sample Jacobians through this operator are refused.
        versions: operator versions that the rule is right for (empty: all).
        replace: put the rule in the place of an existing one.

    Raises:
        ValueError: if there is a rule already and `replace` is not set.
    """

    def enter(function: Vjp) -> Vjp:
        (operator,) = _operators(name, domain)
        rule = Rule(
            operator,
            "vjp",
            frozenset(versions),
            function,
            None if wrt is None else frozenset(wrt),
            dict(zero or {}),
            samples.first_axis if samples_axis_0 else None,
            "custom",
        )
        REGISTRY.add(rule, replace)
        return function

    return enter


def elementwise(names: str, *partials: Partial | str, versions: Collection[int], remark: str = "") -> None:
    """Enter operators that act on each element alone, by one partial derivative per input.

    A partial is ``f(op, y, *inputs)``; attributes that it wants are its keyword-only parameters. It gives a
    floating-point factor, or a mask (bool) of the elements through which the cotangent passes. A text in the place of
    a partial is the reason why the derivative with respect to that input is zero.
    """
    zero = {i: p for i, p in enumerate(partials) if isinstance(p, str)}
    wanted = [_attributes_of(p) if callable(p) else () for p in partials]

    def rule(op: Builder, node: Node, ct: Tensor) -> Sequence[Cotangent]:
        def cotangent(i: int) -> Callable[[], Tensor]:
            def make() -> Tensor:
                partial = partials[i]
                assert callable(partial)
                factor = partial(op, node.y, *node.inputs, **{name: node.attr(name) for name in wanted[i]})
                if isinstance(factor, Tensor) and not factor.is_float:
                    return op.masked(factor, ct)
                return ct * factor

            return make

        return [cotangent(i) for i in range(len(node.inputs))]

    for operator in _operators(names, ""):
        for attributes in wanted:
            assert set(attributes) <= attribute_names("", operator), operator
        REGISTRY.add(
            Rule(
                operator,
                "elementwise",
                frozenset(versions),
                rule,
                frozenset(range(len(partials))) - set(zero),
                zero,
                samples.aligned,
                remark,
            )
        )


def _attributes_of(partial: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(partial).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def linear(
    names: str,
    adjoint: Callable[[Builder, Node, Tensor], Tensor],
    *,
    versions: Collection[int],
    follow: Following | None = None,
    remark: str = "",
) -> None:
    """Enter operators that are linear in their first input, by the adjoint; other inputs are no numbers to
    differentiate by.
    """
    for operator in _operators(names, ""):
        REGISTRY.add(Rule(operator, "linear", frozenset(versions), adjoint, frozenset({0}), {}, follow, remark))


def composed(
    names: str,
    expression: Expression,
    *,
    versions: Collection[int],
    domain: str = "",
    wrt: Collection[int] | None = None,
    zero: Mapping[int, str] | None = None,
    follow: Following | None = None,
    remark: str = "",
) -> None:
    """Enter operators by an expression in simpler operators that equals their output(s).

    The node itself stays in the model; its derivative is the derivative of the expression, which must be built from
    ``node.inputs`` by `op` alone. For what would be long as a formula and is rare or cheap.
    """
    for operator in _operators(names, domain):
        REGISTRY.add(
            Rule(
                operator,
                "composed",
                frozenset(versions),
                None,
                None if wrt is None else frozenset(wrt),
                dict(zero or {}),
                follow,
                remark,
                expression,
            )
        )


def not_differentiable(names: str, why: str, *, versions: Collection[int], domain: str = "") -> None:
    """Enter operators whose derivative is zero wherever it exists, or whose outputs are no real numbers; `why` says
    it.
    """
    for operator in _operators(names, domain):
        REGISTRY.add(Rule(operator, "not differentiable", frozenset(versions), None, remark=why))


__all__ = [
    "REGISTRY",
    "STRAIGHT_THROUGH",
    "Cotangent",
    "Refusal",
    "Registry",
    "Rule",
    "composed",
    "elementwise",
    "linear",
    "not_differentiable",
    "register",
    "rule_of",
    "vjp",
]
