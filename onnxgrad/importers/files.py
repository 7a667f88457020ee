"""What the readers of files of other programs share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxgrad.errors import ModelReadError

#: The types that the numbers of an imported network can have.
DType = Literal["float64", "float32"]


def checked_dtype(dtype: str) -> np.dtype[Any]:
    """Return the type of that name.

    Raises:
        ValueError: if it is none that networks are imported in.
    """
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype={dtype!r} is neither 'float64' nor 'float32'")
    return np.dtype(dtype)


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that can be read.

    Raises:
        ModelReadError: if it cannot.
    """
    file = Path(path)
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


__all__ = ["DType", "checked_dtype", "checked_path"]
