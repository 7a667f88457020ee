"""MATLAB's shallow networks (`fitnet`, `feedforwardnet`, `patternnet`, `narxnet`, …): objects of the class `network`.

Two kinds of files hold them: functions that ``genFunction(net, 'name')`` wrote, and .mat files with networks in them.
The scaling of inputs and outputs is inside the graph, so derivatives come at the scale of the data.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from onnxgrad.errors import ModelReadError
from onnxgrad.importers.files import DType, checked_dtype, checked_path
from onnxgrad.importers.matlab import genfunction, matfile
from onnxgrad.importers.matlab.source import Source


def convert(path: str | os.PathLike[str], variable: str | None = None, dtype: DType = "float64") -> onnx.ModelProto:
    """Return the network in a file as an ONNX model.

    Samples are rows: inputs have the shape (N, inputs), outputs (N, outputs). Delays become inputs: the model computes
    one time step, and gets the delayed values of input 1 as ``xi1``, the oldest first, one block of values for each
    delay; and those of layer 2, where the loop is closed, as ``ai2``. Weights have the names that genFunction gives
    them: ``IW1_1``, ``b1``, ``LW2_1``.

    Args:
        path: a function that genFunction wrote (.m), or a file that `save` wrote (.mat).
        variable: the variable of a .mat file that holds the network; None: the only one that does.
        dtype: the type of the model's numbers.

    Raises:
        ModelReadError: if there is no network in the file, or it has something that is not supported.
    """
    numbers = checked_dtype(dtype)
    file = Path(path)
    if file.suffix.lower() == ".mat":
        return matfile.read(checked_path(file), variable, numbers)
    if variable is not None:
        raise ModelReadError(f"variable={variable!r} is of use only with a .mat file, and {str(file)!r} is none")
    text = checked_path(file).read_bytes().decode("utf-8-sig", errors="replace")
    return genfunction.read(Source(str(file), text.replace("\r\n", "\n").replace("\r", "\n")), numbers)


__all__ = ["DType", "convert"]
