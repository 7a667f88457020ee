"""``onnxgrad lower``: gradients that a model asks for in the standard's own words become ordinary operators."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxgrad.cli.output import print_json, print_text, progress
from onnxgrad.model.read import read
from onnxgrad.model.write import write
from onnxgrad.transforms import lower_gradients


def lower(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX model.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="The file to write.")],
    external_data: Annotated[
        str | None,
        typer.Option("--external-data", metavar="NAME", help="Put the weights into a file of this name beside OUT."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write MODEL with its nodes ai.onnx.preview.training::Gradient replaced by ordinary operators.

    Runtimes do not have that operator of the ONNX standard; they can run the result. The other commands replace such
    nodes by themselves.
    """
    with progress("lowering"):
        result = read(lower_gradients(model))
        write(result, output, external_data)
    if as_json:
        print_json({"file": output, "nodes": len(result.graph)})
    else:
        print_text(f"{output}: {len(result.graph)} nodes")
