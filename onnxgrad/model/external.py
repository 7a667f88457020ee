"""Weights that lie in files of their own ("external data"): checked before anything is read from them."""

from __future__ import annotations

import os
from pathlib import PureWindowsPath

import onnx_ir as ir

from onnxgrad.errors import ModelReadError


def check_external(tensor: ir.ExternalTensor, where: str) -> None:
    """Check that the data of `tensor` is there, whole, and inside of the model's folder.

    Args:
        tensor: the tensor; its `base_dir` is the model's folder.
        where: the model, for the message.

    Raises:
        ModelReadError: if the file is missing, too short, or may not be read because it lies outside of the folder.
    """
    location = os.fspath(tensor.location)
    about = f"{where}: the weights {tensor.name!r} lie in the file {location!r}"
    if not location or _leaves_its_folder(location):
        raise ModelReadError(
            f"{about}, which is not a path inside of the model's folder; "
            "put the file into that folder and save the model anew with this file as its external data"
        )
    if not os.path.isfile(tensor.path):
        raise ModelReadError(
            f"{about}, and there is no such file in {_folder(tensor)!r}; copy it there, it belongs to the model"
        )
    folder, path = os.path.realpath(_folder(tensor)), os.path.realpath(tensor.path)
    if os.path.commonpath((folder, path)) != folder:
        raise ModelReadError(
            f"{about}, a link that leads out of the model's folder, to {path!r}; put a copy of the file in its place"
        )
    status = os.stat(path)
    if status.st_nlink > 1:  # onnx_ir refuses to map these, since a link could smuggle in any file
        raise ModelReadError(f"{about}, which has several hard links; put a copy of the file in its place")
    _check_extent(tensor, status.st_size, about)


def _check_extent(tensor: ir.ExternalTensor, file_size: int, about: str) -> None:
    offset = tensor.offset or 0
    if tensor.length not in (None, tensor.nbytes):
        raise ModelReadError(
            f"{about} with {tensor.length} bytes, but their type and shape {tensor.dtype}{list(tensor.shape)} take "
            f"{tensor.nbytes}; the model is damaged, export it again"
        )
    if offset < 0 or offset + tensor.nbytes > file_size:
        raise ModelReadError(
            f"{about} at bytes {offset} to {offset + tensor.nbytes}, but that file has only {file_size} bytes; "
            "it is incomplete, copy it or export it again"
        )


def _leaves_its_folder(location: str) -> bool:
    """Return whether a location is absolute or climbs out with ``..``, on any system."""
    path = PureWindowsPath(location)  # splits at both kinds of slash
    return bool(path.drive or path.root) or ".." in path.parts


def _folder(tensor: ir.ExternalTensor) -> str:
    return os.fspath(tensor.base_dir) or os.curdir
