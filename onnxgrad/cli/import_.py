"""``onnxgrad import``: a network that is no ONNX model becomes one."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from onnxgrad.cli.output import print_json, print_table, print_text, progress, shape_text
from onnxgrad.importers import FORMATS, format_of, read_file
from onnxgrad.model.read import read
from onnxgrad.model.signature import signature
from onnxgrad.model.write import write

_WHAT = ", or ".join(each.what for each in FORMATS)


class _DType(enum.StrEnum):
    float64 = "float64"
    float32 = "float32"


def import_(
    net: Annotated[str, typer.Argument(metavar="NET", help=f"The file: {_WHAT}.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="The ONNX file to write.")],
    variable: Annotated[
        str | None,
        typer.Option(
            "--variable",
            metavar="NAME",
            help="Which network is meant: the variable of a .mat file, or the modelName in a PMML file.",
        ),
    ] = None,
    dtype: Annotated[_DType, typer.Option("--dtype", help="The type of the model's numbers.")] = _DType.float64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write a trained network of another program as an ONNX model: of MATLAB (fitnet, patternnet, narxnet, …), or in
    PMML (SPSS, STATISTICA, R, KNIME, …).

    Samples are rows; the scaling of inputs and outputs is inside. Of MATLAB's networks, delays become inputs: xi1 holds
    the delayed values of input 1, the oldest first. In PMML, each field is an input of its own, with its name.
    """
    taken = format_of(output)
    if taken is not None:
        raise typer.BadParameter(
            f"{output!r} is named like a {taken.program} file; name it .onnx", param_hint="--output"
        )
    with progress("importing"):
        model = read(read_file(net, variable, dtype.value))
        write(model, output)
    ports = signature(model)
    if as_json:
        inputs, outputs = (
            [{"name": port.name, "dtype": str(port.dtype), "shape": port.shape} for port in side]
            for side in (ports.inputs, ports.outputs)
        )
        print_json({"file": output, "nodes": len(model.graph), "inputs": inputs, "outputs": outputs})
        return
    rows = [("input", p) for p in ports.inputs] + [("output", p) for p in ports.outputs]
    print_table(
        "inputs and outputs",
        ("", "name", "type", "shape"),
        [(kind, p.name, p.dtype, shape_text(p.shape)) for kind, p in rows],
    )
    print_text(f"{output}: {len(model.graph)} nodes")
