"""MATLAB's shallow networks (`fitnet`, `feedforwardnet`, `patternnet`, `narxnet`, …): objects of the class `network`.

Two kinds of files hold them: functions that ``genFunction(net, 'name')`` wrote, and .mat files with networks in them.
The scaling of inputs and outputs is inside the graph, so derivatives come at the scale of the data.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from onnxgrad.errors import ModelReadError
from onnxgrad.importers.matlab import genfunction, matfile
from onnxgrad.importers.matlab.source import Source

DType = Literal["float64", "float32"]


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
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype={dtype!r} is neither 'float64' nor 'float32'")
    file = Path(path)
    if file.suffix.lower() == ".mat":
        return matfile.read(_checked(file), variable, np.dtype(dtype))
    if variable is not None:
        raise ModelReadError(f"variable={variable!r} is of use only with a .mat file, and {str(file)!r} is none")
    text = _checked(file).read_bytes().decode("utf-8-sig", errors="replace")
    return genfunction.read(Source(str(file), text.replace("\r\n", "\n").replace("\r", "\n")), np.dtype(dtype))


def _checked(file: Path) -> Path:
    """Return a path that can be read."""
    if file.is_dir():
        raise ModelReadError(f"{str(file)!r} is a folder; give the path of a file in it")
    try:
        with file.open("rb"):
            pass
    except FileNotFoundError as error:
        raise ModelReadError(
            f"{str(file)!r}: there is no such file; check the path (the current folder is {os.getcwd()!r})"
        ) from error
    except OSError as error:
        raise ModelReadError(
            f"{str(file)!r} cannot be read: {error.strerror or error}; check its permissions"
        ) from error
    return file


__all__ = ["DType", "convert"]
