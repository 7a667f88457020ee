"""``onnxgrad augment``: a model goes in, the same model with derivatives comes out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from onnxgrad.cli.output import derivatives_table, print_json, print_text, progress
from onnxgrad.cli.requests import (
    KINDS,
    BatchedOption,
    Cost,
    CostOfOption,
    CostOption,
    Gradient,
    Hessian,
    Hvp,
    IndexOption,
    Jacobian,
    Jvp,
    KeepOutputsOption,
    ModeOption,
    ReductionOption,
    StraightThroughOption,
    Vjp,
    augmented,
    parse_index,
    requests_in,
)
from onnxgrad.costs import COSTS
from onnxgrad.model.metadata import derivatives
from onnxgrad.model.signature import signature
from onnxgrad.model.write import write


def augment(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX model.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="The file to write.")],
    jacobian: Jacobian = None,
    gradient: Gradient = None,
    hessian: Hessian = None,
    vjp: Vjp = None,
    jvp: Jvp = None,
    hvp: Hvp = None,
    index: IndexOption = None,
    batched: BatchedOption = None,
    mode: ModeOption = "auto",
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="NAME",
            help="Give --vjp and --jvp a leading axis of this name: many directions in one run.",
        ),
    ] = None,
    cost: CostOption = None,
    cost_of: CostOfOption = None,
    reduction: ReductionOption = None,
    keep_outputs: KeepOutputsOption = True,
    straight_through: StraightThroughOption = False,
    external_data: Annotated[
        str | None,
        typer.Option("--external-data", metavar="NAME", help="Put the weights into a file of this name beside OUT."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write MODEL with derivatives as further outputs.

    Behind a derivative's option, OF:WRT says of which tensor it is, with respect to which: --jacobian y:x. Either may
    be left out (y: or :x), or name several (y1,y2:x). Without it, the derivatives are those of all floating-point
    outputs with respect to all floating-point inputs. Inputs, outputs, weights, and values inside the graph can be
    named.
    """
    wanted = requests_in(jacobian=jacobian, gradient=gradient, hessian=hessian, vjp=vjp, jvp=jvp, hvp=hvp)
    if cost is None and (cost_of is not None or reduction is not None):
        raise typer.BadParameter("--cost-of and --reduction are for a cost; name one by --cost")
    if cost is not None and reduction is not None and cost not in COSTS:
        raise typer.BadParameter(f"{cost!r} is none of {', '.join(COSTS)}, and only these are reduced so")
    if cost is not None and not wanted:
        wanted = requests_in(gradient=[""])
        batched = True if batched is None and reduction == "none" else batched
    if not wanted:
        options = ", ".join(f"--{kind}" for kind in KINDS)
        raise typer.BadParameter(f"no derivative is asked for; give at least one of {options}")
    with progress("differentiating") as advance:
        result = augmented(
            model,
            wanted,
            advance,
            index=parse_index(index),
            batched=batched,
            mode=mode,
            keep_outputs=keep_outputs,
            seeds=seeds,
            straight_through=straight_through,
            cost=None if cost is None else Cost(cost, cost_of, reduction),
        )
        write(result, output, external_data)
    records = derivatives(result)
    if as_json:
        print_json({"file": output, "nodes": len(result.graph), "derivatives": [asdict(record) for record in records]})
        return
    derivatives_table("derivatives", records, {port.name: port.shape for port in signature(result).outputs})
    print_text(f"{output}: {len(result.graph)} nodes")
