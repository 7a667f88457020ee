"""``onnxgrad fix``: open sizes of a model become numbers, or one size."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxgrad.cli.output import print_json, print_text
from onnxgrad.model.read import read
from onnxgrad.model.write import write
from onnxgrad.transforms import fix_sizes


def fix(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX model.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="The file to write.")],
    size: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=N",
            help="An open size and its number: by name (`batch=1`), or by input and axis (`x[0]=1`). A name instead of "
            "a number (`b=batch`) makes two sizes one. May be repeated.",
        ),
    ],
    external_data: Annotated[
        str | None,
        typer.Option("--external-data", metavar="NAME", help="Put the weights into a file of this name beside OUT."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write MODEL with open sizes of its inputs fixed.

    For models in which a size decides how many axes a tensor has, so that there is no derivative for all sizes at once;
    and for those with several inputs whose batches are one, but go by different names.
    """
    result = read(fix_sizes(model, dict(map(_size, size))))
    write(result, output, external_data)
    shapes = {value.name: [str(dim) for dim in value.shape or ()] for value in result.graph.inputs}
    if as_json:
        print_json({"file": output, "inputs": shapes})
    else:
        print_text(f"{output}: {', '.join(f'{name} ({chr(215).join(dims)})' for name, dims in shapes.items())}")


def _size(text: str) -> tuple[str, int | str]:
    name, equals, number = text.rpartition("=")
    if not equals or not name or not (number.isdecimal() or number.isidentifier()):
        raise typer.BadParameter(f"{text!r} is not of the form NAME=N, such as batch=1", param_hint="--size")
    return name, int(number) if number.isdecimal() else number
