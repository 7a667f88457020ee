"""Which derivatives a command line asks for: ``--jacobian``, ``--jacobian y:x``, ``--jacobian=y:x`` and the like."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import onnx_ir as ir
import typer
from typer.core import TyperCommand

from onnxgrad.augmentation import Augmentation, Batched, Index, Mode, float_initializers
from onnxgrad.costs import COSTS, Costed, Reduction, with_cost
from onnxgrad.errors import UnknownNameError
from onnxgrad.model.read import read

#: Kinds of derivatives; each is an option.
KINDS = ("jacobian", "gradient", "hessian", "vjp", "jvp", "hvp")


class CommandWithDerivatives(TyperCommand):
    """A command whose options named like `KINDS` have a value that can be left out.

    The word behind such an option is its value if it has a colon and is not the name of a file.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join each of these options with its value; without one, the value is empty."""
        joined: list[str] = []
        rest = list(args)
        while rest and rest[0] != "--":
            word = rest.pop(0)
            if word.startswith("--") and word[2:] in KINDS:
                has_value = bool(rest) and _is_pair(rest[0])
                word = f"{word}={rest.pop(0) if has_value else ''}"
            joined.append(word)
        return super().parse_args(ctx, joined + rest)


def _is_pair(word: str) -> bool:
    return ":" in word and not word.startswith("-") and not os.path.exists(word)


def _option(kind: str, text: str) -> Any:
    return typer.Option(
        f"--{kind}", metavar="[OF:WRT]", help=text, rich_help_panel="Derivatives (each can be repeated)"
    )


Jacobian = Annotated[list[str] | None, _option("jacobian", "Jacobian, per sample where samples do not mix.")]
Gradient = Annotated[
    list[str] | None, _option("gradient", "Gradient of an output that is one number (or see --index).")
]
Hessian = Annotated[list[str] | None, _option("hessian", "Hessian of an output that is one number (or see --index).")]
Vjp = Annotated[list[str] | None, _option("vjp", "Vector-Jacobian product: a new input takes the cotangent.")]
Jvp = Annotated[list[str] | None, _option("jvp", "Jacobian-vector product: a new input takes the tangent.")]
Hvp = Annotated[list[str] | None, _option("hvp", "Hessian-vector product: a new input takes the vector.")]
IndexOption = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="I | I,J,… | max",
        help="Which element of a wider output is meant: its position (in a sample, flat or by axis), or the largest.",
    ),
]
BatchedOption = Annotated[
    bool | None,
    typer.Option(
        "--batched/--full",
        help="Derivatives per sample, or in full (batched=False); by default per sample where axis 0 is open.",
    ),
]
ModeOption = Annotated[Mode, typer.Option("--mode", help="How Jacobians are computed; auto: the fewest operations.")]

KeepOutputsOption = Annotated[
    bool, typer.Option("--keep-outputs/--no-keep-outputs", help="Whether the model's own outputs stay.")
]

StraightThroughOption = Annotated[
    bool,
    typer.Option(
        "--straight-through", help="Let gradients pass straight through the roundings of quantized operators."
    ),
]


CostOption = Annotated[
    str | None,
    typer.Option(
        "--cost",
        metavar="NAME | COST.onnx",
        help=f"Add a cost against a new input, the target: {', '.join(COSTS)}, or a cost model. Derivatives are those "
        "of the cost then, by default its gradient with respect to the inputs; weights stands for all weights "
        "(--gradient :weights).",
    ),
]
CostOfOption = Annotated[
    str | None, typer.Option("--cost-of", metavar="NAME", help="The output that the cost is for, if there are several.")
]
ReductionOption = Annotated[
    Reduction | None,
    typer.Option("--reduction", help="What becomes of the costs of the samples; by default their mean."),
]


@dataclass(frozen=True)
class Cost:
    """The cost asked for: its name or file, the output that it is for, and what becomes of the samples."""

    name: str
    of: str | None = None
    reduction: Reduction | None = None


@dataclass(frozen=True)
class Request:
    """One derivative asked for: its kind, and the text behind the option (empty: of all, with respect to all)."""

    kind: str
    text: str

    def names(self, model: Augmentation) -> tuple[list[str] | None, list[str] | None]:
        """Return the names in `of` and `wrt`, each None where it is left out.

        Several names are separated by commas. A name may have colons itself: the text is divided where both sides are
        known to the model.

        Raises:
            UnknownNameError: if it cannot be divided so.
        """
        if not self.text:
            return None, None
        splits = [(self.text[:i], self.text[i + 1 :]) for i, letter in enumerate(self.text) if letter == ":"]
        failure: UnknownNameError | None = None
        for of_text, wrt_text in [*splits, (self.text, "")]:
            of, wrt = (text.split(",") if text else None for text in (of_text, wrt_text))
            try:
                model.of(of)
                model.wrt(wrt)
            except UnknownNameError as error:
                failure = failure or error
            else:
                return of, wrt
        assert failure is not None
        raise failure

    def of_cost(
        self, model: Augmentation, costed: Costed, initializers: list[str]
    ) -> tuple[list[str] | None, list[str] | None]:
        """Return the names in `of` and `wrt`: the cost, and the inputs without the target, where they are left out.

        `initializers` are what ``weights`` may stand for.

        Raises:
            UnknownNameError: if the text cannot be divided into names.
        """
        text, colon, last = self.text.rpartition(":")
        if last == "weights":
            of = [costed.cost] if not text else Request(self.kind, f"{text}{colon}").names(model)[0]
            return of, model.weights(initializers, of)
        of, wrt = self.names(model)
        return of or [costed.cost], wrt or list(costed.inputs) or None


def requests_in(**options: list[str] | None) -> list[Request]:
    """Return what the options ask for, which is given by kind."""
    return [Request(kind, text) for kind in KINDS for text in options.get(kind) or ()]


def augmented(
    model: str,
    wanted: list[Request],
    advance: Callable[[int, int], None],
    *,
    index: Index,
    batched: bool | None,
    mode: Mode,
    keep_outputs: bool,
    seeds: str | None = None,
    straight_through: bool = False,
    cost: Cost | None = None,
) -> ir.Model:
    """Return a model with the derivatives that are asked for; with a cost, those of it where nothing else is named."""
    source = read(model)
    initializers = float_initializers(source)
    costed: Costed | None = None
    if cost is not None:
        costed = with_cost(source, cost.name, cost.of, cost.reduction, straight_through=straight_through)
        source = costed.model
    augmentation = Augmentation(source, straight_through)
    flag: Batched = "auto" if batched is None else batched
    for done, request in enumerate(wanted):
        advance(done, len(wanted))
        if costed is None:
            of, wrt = request.names(augmentation)
        else:
            of, wrt = request.of_cost(augmentation, costed, initializers)
        match request.kind:
            case "jacobian":
                augmentation.jacobian(of, wrt, flag, mode)
            case "gradient":
                augmentation.gradient(of, wrt, index, flag)
            case "hessian":
                augmentation.hessian(of, wrt, index, flag)
            case "vjp":
                augmentation.vjp(of, wrt, seeds)
            case "jvp":
                augmentation.jvp(of, wrt, seeds)
            case "hvp":
                augmentation.hvp(of, wrt, index, flag)
    return augmentation.finish(keep_outputs)


def parse_index(text: str | None) -> Index:
    """Return the index that is written in `text`.

    Raises:
        typer.BadParameter: if it is none.
    """
    if text is None:
        return None
    if text == "max":
        return "max"
    try:
        positions = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no index; give a position such as 3, one per axis such as 0,3, or max", param_hint="--index"
        ) from None
    return positions[0] if len(positions) == 1 else positions
