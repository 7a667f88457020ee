"""``onnxgrad record``: values and derivatives, written down to be held against later versions of a model."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from onnxgrad.cli.compare import (
    AtolOption,
    DataOption,
    JsonOption,
    MaxElementsOption,
    OfOption,
    RtolOption,
    SeedOption,
    StraightOption,
    WrtOption,
    tolerances,
)
from onnxgrad.cli.data import read_feeds
from onnxgrad.cli.output import print_json, print_table, print_text, progress, say, shape_text
from onnxgrad.comparison.golden import MAX_ELEMENTS, Recorded
from onnxgrad.comparison.golden import record as record_model
from onnxgrad.runtime import load


def record(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="GOLDEN", help="The .npz file to write.")],
    data: DataOption = None,
    of: OfOption = None,
    wrt: WrtOption = None,
    rtol: RtolOption = None,
    atol: AtolOption = None,
    straight_through: StraightOption = None,
    max_elements: MaxElementsOption = MAX_ELEMENTS,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Write outputs and Jacobians of MODEL to a golden file, for `onnxgrad verify`.

    The file holds the data, too, and the tolerance of each tensor.
    """
    relative, absolute = tolerances(rtol, "--rtol"), tolerances(atol, "--atol")
    with progress("recording") as advance:
        golden = record_model(
            model,
            None if data is None else read_feeds(data, load(model).inputs, partial=True),
            output,
            of=of,
            wrt=wrt,
            rtol=relative,
            atol=absolute,
            straight_through=straight_through,
            max_elements=max_elements,
            seed=seed,
            progress=advance,
        )
    for tensor in golden.tensors:
        if tensor.value is None and tensor.entry is not None:
            say("warning", "bold yellow", f"{_name(tensor)} is refused, and recorded so: {tensor.entry.result}")
    if as_json:
        rows = [
            {
                "of": t.of,
                "wrt": t.wrt,
                "kind": _kind(t),
                "shape": None if t.value is None else list(t.value.shape),
                "rtol": t.rtol,
                "atol": t.atol,
            }
            for t in golden.tensors
        ]
        print_json({"file": output, "data": golden.data, "tensors": rows, "made_with": golden.made_with})
        return
    print_table(
        "recorded",
        ("tensor", "kind", "shape", "rtol", "atol"),
        [
            (
                _name(t),
                _kind(t),
                "refused" if t.value is None else shape_text(t.value.shape),
                f"{t.rtol:.0e}",
                f"{t.atol:.0e}",
            )
            for t in golden.tensors
        ],
        right=("rtol", "atol"),
    )
    samples = ", ".join(f"{name} {shape_text(np.shape(value))}" for name, value in golden.feeds.items())
    print_text(f"inputs: {golden.data} ({samples})")
    print_text(f"{output}: written")


def _name(tensor: Recorded) -> str:
    return tensor.of if tensor.wrt is None else f"{tensor.of}:{tensor.wrt}"


def _kind(tensor: Recorded) -> str:
    return "output" if tensor.entry is None else tensor.entry.kind
