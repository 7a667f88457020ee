"""Writing: a model comes out as a `ModelProto`, or as files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.external_data import convert_tensors_to_external

from onnxgrad.errors import ModelWriteError
from onnxgrad.model.maps import map_type_of
from onnxgrad.model.tensors import external, graphs_of, replace_tensors, tensors_of

#: Protobuf cannot hold more weights than this; the rest, up to 2 GB, is for names, nodes and shapes.
_PROTOBUF_LIMIT = 2**31 - 2**24
#: From this size on, `write` puts the weights into a file of their own.
_EXTERNAL_FROM = 1_800_000_000
#: Tensors of so few bytes stay in the model file, where any tool can look at them.
_SMALL = 1024


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return `model` as a `ModelProto` that is complete in itself: with all weights, those from external data too.

    Graph outputs without a type get the declared one, since in a file they must have one.

    Raises:
        ModelWriteError: if that is more than a `ModelProto` can hold (2 GB).
    """
    size = _weight_bytes(model)
    if size > _PROTOBUF_LIMIT:
        raise ModelWriteError(
            f"the model has {size / 1e9:.1f} GB of weights, and a ModelProto holds 2 GB at most; "
            "write it to a file instead, which puts the weights beside it"
        )
    whole = model.clone()
    replace_tensors(whole, lambda t: _loaded(t) if isinstance(t, ir.ExternalTensor) else t)
    return serialize(whole)


def write(
    model: ir.Model, path: str | os.PathLike[str], external_data: str | None = None, overwrite: bool = True
) -> None:
    """Write `model` to a file, which appears whole or not at all.

    Weights go into a file of their own beside it if they take more than 1.8 GB, or if `external_data` names that file;
    they are streamed there, not held in memory. It may be the very file that they are mapped from: `model` then goes on
    with the new one, and tensors of other models that refer to the old one are invalid.

    Args:
        model: the model.
        path: the file.
        external_data: name of the file for the weights, in the same folder. None: ``<name>.data``, if one is needed.
        overwrite: whether files that exist may be replaced.

    Raises:
        ModelWriteError: if this cannot be done; then nothing has changed.
    """
    target = _checked_target(path, overwrite)
    if external_data is None and _weight_bytes(model) <= _EXTERNAL_FROM:
        with write_all_or_nothing(target) as temporary:
            temporary.write_bytes(_to_bytes(to_proto(model)))
        return
    data_name = external_data or f"{target.name}.data"
    if Path(data_name).name != data_name or data_name == target.name:
        raise ModelWriteError(
            f"external_data={external_data!r} is not the name of another file in the folder of the model; "
            f"give a mere name, for instance {target.name + '.data'!r}"
        )
    data_target = _checked_target(target.with_name(data_name), overwrite)
    with write_all_or_nothing(target) as temporary, write_all_or_nothing(data_target) as temporary_data:
        moved = _move_weights(model, temporary_data, data_target)
        clone = model.clone()
        replace_tensors(clone, lambda tensor: moved.get(id(tensor), tensor))
        temporary.write_bytes(_to_bytes(serialize(clone)))
    _follow(model, data_target, moved)


@contextlib.contextmanager
def write_all_or_nothing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a temporary file to write, with the suffix of `path`; in the end it takes the place of `path`.

    If the body raises, the file at `path` stays as it was. Either way nothing is left beside it.

    Raises:
        ModelWriteError: if there is no such folder, or it, the file or the disk does not admit writing.
    """
    target = Path(os.path.realpath(_checked_target(path, overwrite=True)))
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise ModelWriteError(
            f"{os.fspath(path)!r} cannot be written: {error.strerror or error}; "
            "check the permissions of its folder and the space left on the disk"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _checked_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return `path`, made absolute, after checking that a file can be there."""
    target = Path(os.path.abspath(path))
    if target.is_dir():
        raise ModelWriteError(f"{os.fspath(path)!r} is a folder; give the path of a file in it")
    if not target.parent.is_dir():
        raise ModelWriteError(
            f"{os.fspath(path)!r} cannot be written: there is no folder {os.fspath(target.parent)!r}; create it first"
        )
    if target.exists() and not target.is_file():
        raise ModelWriteError(f"{os.fspath(path)!r} is a device or pipe, which cannot be replaced; give another path")
    if target.exists() and not overwrite:
        raise ModelWriteError(f"{os.fspath(path)!r} exists; give another path, or allow it to be overwritten")
    return target


def _weight_bytes(model: ir.Model) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(model))


def _move_weights(model: ir.Model, file: Path, later: Path) -> dict[int, ir.TensorProtocol]:
    """Write the weights of `model` to `file`; return what replaces each tensor, by `id`, once that file is `later`."""
    candidates = [v.const_value for graph in graphs_of(model) for v in graph.initializers.values()]
    large = {id(t): t for t in candidates if t is not None and _belongs_outside(t)}
    written = convert_tensors_to_external(list(large.values()), base_dir=file.parent, relative_path=file.name)
    moved: dict[int, ir.TensorProtocol] = {
        key: external(new, folder=os.fspath(later.parent), location=later.name)
        for key, new in zip(large, written, strict=True)
    }
    for tensor in tensors_of(model):
        if isinstance(tensor, ir.ExternalTensor) and id(tensor) not in moved:
            moved[id(tensor)] = _loaded(tensor)
    return moved


def _belongs_outside(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes > _SMALL


def _follow(model: ir.Model, replaced: Path, moved: dict[int, ir.TensorProtocol]) -> None:
    """Let the tensors of `model` that lay in a file which has been replaced go on with what took their place."""
    stale = {
        id(tensor): tensor
        for tensor in tensors_of(model)
        if isinstance(tensor, ir.ExternalTensor) and os.path.realpath(tensor.path) == os.path.realpath(replaced)
    }
    replace_tensors(model, lambda tensor: moved[id(tensor)] if id(tensor) in stale else tensor)
    for tensor in stale.values():
        tensor.invalidate()


def _loaded(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    """Return a tensor that is stored with its model, not as a reference to a file; it is still mapped, not read."""
    return ir.Tensor(
        tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name, doc_string=tensor.doc_string
    )


def serialize(model: ir.Model) -> onnx.ModelProto:
    """Return `model` as a `ModelProto`, which refers to external data where `model` does.

    Graph outputs without a type get the declared one, since in a file they must have one.
    """
    proto = ir.to_proto(model)
    for infos, values in ((proto.graph.input, model.graph.inputs), (proto.graph.output, model.graph.outputs)):
        for info, value in zip(infos, values, strict=True):
            with_map = map_type_of(value)
            declared = value.meta.get("declared")
            if with_map is not None:
                info.type.CopyFrom(with_map)
            elif value.type is None and declared is not None and declared.type is not None:
                shape = declared.shape if value.shape is None else value.shape
                stand_in = ir.Value(name=value.name, type=declared.type, shape=shape)
                info.type.CopyFrom(ir.serde.serialize_value(stand_in).type)
    return proto


def _to_bytes(proto: onnx.ModelProto) -> bytes:
    try:
        return bytes(proto.SerializeToString())
    except Exception as error:  # protobuf's EncodeError, of which onnx has no name
        raise ModelWriteError(
            f"the model does not fit into one file: {error}; give `external_data`, a file for its weights"
        ) from error
