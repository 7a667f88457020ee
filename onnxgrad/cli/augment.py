"""``onnxgrad augment``: a model goes in, the same model with derivatives comes out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from onnxgrad.augmentation import Augmentation, Batched, Index, Mode
from onnxgrad.cli.output import derivatives_table, print_json, print_text, progress
from onnxgrad.cli.requests import (
    KINDS,
    BatchedOption,
    Gradient,
    Hessian,
    Hvp,
    IndexOption,
    Jacobian,
    Jvp,
    ModeOption,
    Request,
    Vjp,
    parse_index,
    requests_in,
)
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
    keep_outputs: Annotated[
        bool, typer.Option("--keep-outputs/--no-keep-outputs", help="Whether the model's own outputs stay.")
    ] = True,
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
    if not wanted:
        options = ", ".join(f"--{kind}" for kind in KINDS)
        raise typer.BadParameter(f"no derivative is asked for; give at least one of {options}")
    place = parse_index(index)
    augmentation = Augmentation(model)
    with progress("differentiating") as advance:
        for done, request in enumerate(wanted):
            advance(done, len(wanted))
            _add(augmentation, request, place, "auto" if batched is None else batched, mode, seeds)
        result = augmentation.finish(keep_outputs)
        write(result, output, external_data)
    records = derivatives(result)
    if as_json:
        print_json({"file": output, "nodes": len(result.graph), "derivatives": [asdict(record) for record in records]})
        return
    derivatives_table("derivatives", records, {port.name: port.shape for port in signature(result).outputs})
    print_text(f"{output}: {len(result.graph)} nodes")


def _add(
    augmentation: Augmentation, request: Request, index: Index, batched: Batched, mode: Mode, seeds: str | None
) -> None:
    of, wrt = request.names(augmentation)
    match request.kind:
        case "vjp":
            augmentation.vjp(of, wrt, seeds)
        case "jvp":
            augmentation.jvp(of, wrt, seeds)
        case "jacobian":
            augmentation.jacobian(of, wrt, batched, mode)
        case "gradient":
            augmentation.gradient(of, wrt, index, batched)
        case "hessian":
            augmentation.hessian(of, wrt, index, batched)
        case "hvp":
            augmentation.hvp(of, wrt, index, batched)
