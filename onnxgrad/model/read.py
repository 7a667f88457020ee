"""Reading: from a file, bytes or an object in memory to an `onnx_ir` model, or to one error that says what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Set

import onnx
import onnx_ir as ir

from onnxgrad.errors import ModelReadError
from onnxgrad.model import maps
from onnxgrad.model.external import check_external
from onnxgrad.model.opsets import tidy_imports
from onnxgrad.model.tensors import external, graphs_of, replace_tensors, same_data, scopes_of, tensors_of

#: What a model can be read from.
Source = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
#: A path of a file.
Path = str | os.PathLike[str]

_READERS: list[tuple[Callable[[Path], bool], Callable[[Path], onnx.ModelProto]]] = []


def register_reader(applies: Callable[[Path], bool], convert: Callable[[Path], onnx.ModelProto]) -> None:
    """Let `read` take files of another kind: where ``applies(path)`` holds, which must be told by the path alone."""
    _READERS.append((applies, convert))


def read(source: Source) -> ir.Model:
    """Read a model; what was given stays as it is.

    Weights in files of their own ("external data") are mapped into memory, not read, so that models of any size can be
    opened; the weights of an `ir.Model` are shared, not copied. Nodes come in topological order. Which operator set an
    incomplete or doubled import means is told in `onnxgrad.model.opsets.tidy_imports`. Only what serves training
    (`training_info`) is left behind.

    Args:
        source: path of a model, in binary form or, by its suffix, in one of ONNX's text forms, or of a file that
            becomes a model (see `register_reader`); or its content as bytes; or a model.

    Raises:
        ModelReadError: if there is no model, it is damaged or contradicts itself, its external data is missing,
            incomplete or outside of its folder, or it needs a newer `onnx`.
    """
    if isinstance(source, ir.Model):
        where = "the given ir.Model"
        model = _copy(source)
    elif isinstance(source, onnx.ModelProto):
        where = "the given ModelProto"
        proto = onnx.ModelProto()
        proto.CopyFrom(source)  # renaming a value renames the tensor behind it
        model = _deserialize(proto, where, folder=None)
    elif isinstance(source, bytes):
        where = "the given bytes"
        model = _deserialize(_parse(source, where), where, folder=None)
    elif isinstance(source, str | os.PathLike):
        where = repr(os.fspath(source))
        converted = next((convert(source) for applies, convert in _READERS if applies(source)), None)
        folder = os.path.dirname(os.path.abspath(source)) if converted is None else None
        model = _deserialize(converted or _load(source, where), where, folder)
    else:
        raise ModelReadError(
            f"a model cannot be read from an object of type {type(source).__name__}; "
            "give a path, bytes, an onnx.ModelProto or an onnx_ir.Model"
        )
    tidy_imports(model, where)
    _check_tensors(model, where)
    _sort(model, where)
    return model


def _load(path: Path, where: str) -> onnx.ModelProto:
    if os.path.isdir(path):
        raise ModelReadError(f"{where} is a folder; give the path of a model file in it")
    if not os.path.exists(path):
        raise ModelReadError(f"{where}: there is no such file; check the path (the current folder is {os.getcwd()!r})")
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ModelReadError(f"{where} cannot be read: {error.strerror or error}; check its permissions") from error
    except Exception as error:  # each of the forms has a parse error of its own
        with open(path, "rb") as file:
            raise _unparsable(where, file.read(64)) from error


def _parse(content: bytes, where: str) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, of which onnx has no name
        raise _unparsable(where, content[:64]) from error


def _unparsable(where: str, start: bytes) -> ModelReadError:
    if start.startswith(b"version https://git-lfs"):
        return ModelReadError(f"{where} only points to a file in Git LFS; fetch the file itself with `git lfs pull`")
    return _not_onnx(where, f"it begins with {start[:16]!r}")


def _not_onnx(where: str, sign: str) -> ModelReadError:
    return ModelReadError(
        f"{where} is not an ONNX model, or is damaged or cut off ({sign}); "
        "give an .onnx file, and fetch or export it again if it is one"
    )


def _deserialize(proto: onnx.ModelProto, where: str, folder: str | None) -> ir.Model:
    """Return the model in `proto`, which is used up; `folder` is where its external data lies, if that is known."""
    # Protobuf skips what it does not know, so that nearly anything may parse: as a message with nothing in it.
    if not proto.HasField("graph") or not (proto.ir_version or proto.opset_import):
        raise _not_onnx(where, "it has no graph")
    _check_names(proto, where)
    _give_inputs_back_their_types(proto.graph)
    aside = maps.put_aside(proto.graph)
    try:
        model = ir.serde.deserialize_model(proto)
    except (ir.serde.SerdeError, ValueError, NotImplementedError, TypeError) as error:
        raise ModelReadError(
            f"{where}: the model has a part that cannot be represented: {_root_of(error)}; export it without that part"
        ) from error
    maps.keep(model.graph, aside)
    if folder is not None:
        replace_tensors(model, lambda t: external(t, folder=folder) if isinstance(t, ir.ExternalTensor) else t)
    else:
        _check_self_contained(model, where)
    return model


def _give_inputs_back_their_types(graph: onnx.GraphProto) -> None:
    """Declare outputs that are inputs as the inputs are: onnx_ir believes what is said last, and it may be nothing."""
    inputs = {info.name: info for info in graph.input}
    for info in graph.output:
        if info.name in inputs:
            info.type.CopyFrom(inputs[info.name].type)


def _check_self_contained(model: ir.Model, where: str) -> None:
    for tensor in tensors_of(model):
        if isinstance(tensor, ir.ExternalTensor):
            raise ModelReadError(
                f"{where}: the weights {tensor.name!r} lie in the file {os.fspath(tensor.location)!r} of an unknown "
                "folder; give the path of the model file, or load the weights too (onnx.load does by default)"
            )


def _check_names(proto: onnx.ModelProto, where: str) -> None:
    _check_graph_names(proto.graph, frozenset(), where)
    for function in proto.functions:
        body = onnx.GraphProto(name=function.name, node=function.node)
        body.input.extend(onnx.ValueInfoProto(name=name) for name in function.input)
        body.output.extend(onnx.ValueInfoProto(name=name) for name in function.output)
        _check_graph_names(body, frozenset(), where)


def _check_graph_names(graph: onnx.GraphProto, outer: Set[str], where: str) -> None:
    """Check that each name has one definition, and each use of a name has one in this graph or around it."""
    if graph.sparse_initializer:
        raise ModelReadError(
            f"{where}: the weights {graph.sparse_initializer[0].values.name!r} are sparse, which is not supported; "
            "export the model with dense weights"
        )
    inputs = [info.name for info in graph.input]
    weights = [tensor.name for tensor in graph.initializer]
    results = [name for node in graph.node for name in node.output if name]
    for names in (inputs + results, weights + results):  # an input may have an initializer: its default
        name, count = next(iter(Counter(names).most_common(1)), ("", 0))
        if count > 1:
            raise ModelReadError(
                f"{where}: the name {name!r} is defined {count} times in graph {graph.name!r}; "
                "the model is invalid, export it again"
            )
    local = {*inputs, *weights, *results}
    known = local | outer
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise ModelReadError(
                    f"{where}: node {node.name!r} ({node.op_type}) uses {name!r}, which nothing in the model defines; "
                    "the model is incomplete, export it again"
                )
        for attribute in node.attribute:
            if not attribute.type and not attribute.ref_attr_name:
                raise ModelReadError(
                    f"{where}: attribute {attribute.name!r} of node {node.name!r} ({node.op_type}) has no type, as in "
                    "the first files of 2017; convert the model with a newer onnx"
                )
            for subgraph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _check_graph_names(subgraph, known, where)
    for info in graph.output:
        if info.name not in local:
            hint = "put an Identity node between" if info.name in outer else "the model is incomplete, export it again"
            raise ModelReadError(
                f"{where}: graph {graph.name!r} returns {info.name!r}, which nothing in that graph defines; {hint}"
            )


def _copy(source: ir.Model) -> ir.Model:
    for graph in graphs_of(source):
        for node in graph:
            for value in node.inputs:
                if value is not None and value.producer() is None and value.graph is None:
                    raise ModelReadError(
                        f"the given ir.Model: node {node.name!r} ({node.op_type}) uses {value.name!r}, which is no "
                        "input, initializer or node's output; register it with the graph"
                    )
    try:
        model = source.clone()
    except Exception as error:  # onnx_ir raises RuntimeError around whatever it was
        raise ModelReadError(
            f"the given ir.Model cannot be copied: {_root_of(error)}; "
            "if its nodes are not in order, call `model.graph.sort()` first"
        ) from error
    replace_tensors(model, same_data)
    return model


def _check_tensors(model: ir.Model, where: str) -> None:
    if not model.graph.outputs:
        raise ModelReadError(f"{where}: the model has no outputs; export it again")
    for graph in graphs_of(model):
        for value in graph.initializers.values():
            if value.const_value is None:
                raise ModelReadError(f"{where}: the weights {value.name!r} have no data; set their `const_value`")
    for tensor in tensors_of(model):
        if isinstance(tensor, ir.ExternalTensor):
            check_external(tensor, where)
        elif isinstance(tensor, ir.TensorProtoTensor):
            _check_size(tensor, where)


def _check_size(tensor: ir.TensorProtoTensor, where: str) -> None:
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise ModelReadError(f"{where}: the weights {tensor.name!r} have no element type; export the model again")
    found = len(tensor.tobytes())
    if found != tensor.nbytes:
        raise ModelReadError(
            f"{where}: the weights {tensor.name!r} have {found} bytes, but their type and shape "
            f"{tensor.dtype}{list(tensor.shape)} take {tensor.nbytes}; the model is damaged, fetch or export it again"
        )


def _sort(model: ir.Model, where: str) -> None:
    for scope in scopes_of(model):
        try:
            scope.sort()
        except ValueError as error:
            raise ModelReadError(
                f"{where}: the nodes of graph {scope.name!r} depend on each other in a cycle; "
                "the model is invalid, export it again"
            ) from error


def _root_of(error: BaseException) -> str:
    """Return the message of the error that began a chain, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
