"""``onnxgrad run``: values and derivatives for the data in a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import typer

from onnxgrad.cli.data import check_rows, check_target, read_feeds, write_results
from onnxgrad.cli.output import print_json, print_table, print_text, progress, say, shape_text
from onnxgrad.cli.requests import (
    BatchedOption,
    Gradient,
    Hessian,
    Hvp,
    IndexOption,
    Jacobian,
    Jvp,
    KeepOutputsOption,
    ModeOption,
    StraightThroughOption,
    Vjp,
    augmented,
    parse_index,
    requests_in,
)
from onnxgrad.model.metadata import Derivative, derivatives
from onnxgrad.model.signature import Port, signature
from onnxgrad.runtime import load
from onnxgrad.runtime.function import MAX_BYTES


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The ONNX model.")],
    data: Annotated[str, typer.Option("--data", metavar="X", help="What to feed: a .csv, .npz or .npy file.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="The .csv or .npz file to write.")],
    jacobian: Jacobian = None,
    gradient: Gradient = None,
    hessian: Hessian = None,
    vjp: Vjp = None,
    jvp: Jvp = None,
    hvp: Hvp = None,
    index: IndexOption = None,
    batched: BatchedOption = None,
    mode: ModeOption = "auto",
    keep_outputs: KeepOutputsOption = True,
    straight_through: StraightThroughOption = False,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider", metavar="NAME", help="Execution provider of onnxruntime (repeatable); by default the CPU."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads within an operator; by default one per core.")
    ] = None,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", min=1, help="Bound of the results, and of the working memory of one run.")
    ] = MAX_BYTES,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run MODEL on data, with derivatives if they are asked for (as for `augment`).

    Columns of a .csv file are found by name: x for an input with one column, x[0,3] for an element of a wider one. For
    a model with one input, columns with other names are taken in order. Results have columns such as jac_y_x[0,3]. In
    an .npz file, arrays have the names of inputs and outputs.

    The directions of --vjp, --jvp and --hvp are inputs, too: adj_y, fwd_x.
    """
    wanted = requests_in(jacobian=jacobian, gradient=gradient, hessian=hessian, vjp=vjp, jvp=jvp, hvp=hvp)
    check_target(output)
    start = time.perf_counter()
    with progress("running") as advance:
        finished = augmented(
            model,
            wanted,
            advance,
            index=parse_index(index),
            batched=batched,
            mode=mode,
            keep_outputs=keep_outputs,
            straight_through=straight_through,
        )
        records = derivatives(finished)
        ports = signature(finished)
        feeds = read_feeds(data, ports.inputs)
        per_row = _per_row(ports.inputs, ports.outputs, records)
        check_rows(output, per_row)
        function = load(finished if wanted else model, providers=provider, threads=threads, max_bytes=max_bytes)
        found = function(feeds)
        results = _arrays(found if isinstance(found, dict) else {ports.outputs[0].name: found})
        seconds = time.perf_counter() - start
        write_results(output, results, per_row)
    if as_json:
        keys = [column.replace(" ", "_") for column in _COLUMNS]
        rows = [dict(zip(keys, row, strict=True)) for row in map(_numbers, results.items())]
        print_json(
            {"file": output, "seconds": seconds, "results": rows, "derivatives": [asdict(record) for record in records]}
        )
        return
    print_table(
        "results",
        _COLUMNS,
        [_texts(_numbers(item)) for item in results.items()],
        right=("smallest", "mean", "largest", "not finite"),
    )
    print_text(f"{output}: written, {seconds:.2f} s for reading, differentiating and running")


_COLUMNS = ("name", "shape", "type", "smallest", "mean", "largest", "not finite")


def _per_row(inputs: Sequence[Port], outputs: Sequence[Port], records: Sequence[Derivative]) -> dict[str, bool]:
    """Return which outputs have one row per sample, by name."""
    leads = {port.shape[0] for port in inputs if port.shape}
    full = {record.output for record in records if record.kind in ("jacobian", "hessian") and not record.batched}

    def has_rows(port: Port) -> bool:
        if port.name in full or port.shape is None or not port.shape:
            return port.name not in full and port.shape is None
        lead, inner = port.shape[0], port.shape[1:]
        return (lead is None or lead in leads) and not any(isinstance(size, str) and size == lead for size in inner)

    return {port.name: has_rows(port) for port in outputs}


def _arrays(results: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {}
    for name, value in results.items():
        if isinstance(value, (list, dict)):
            say("warning", "bold yellow", f"{name!r} is no array and left out of the file (a sequence or map)")
        else:
            arrays[name] = np.asarray(value)
    return arrays


def _numbers(item: tuple[str, np.ndarray[Any, Any]]) -> tuple[Any, ...]:
    name, array = item
    head = (name, list(array.shape), "string" if array.dtype.kind in "OU" else array.dtype.name)
    if array.dtype.kind in "OUbc":
        return *head, None, None, None, None
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return *head, None, None, None, values.size
    return *head, float(finite.min()), float(finite.mean()), float(finite.max()), values.size - finite.size


def _texts(row: tuple[Any, ...]) -> tuple[str, ...]:
    name, shape, dtype, *numbers, odd = row
    return name, shape_text(shape), dtype, *("" if n is None else f"{n:.6g}" for n in numbers), str(odd or "")
