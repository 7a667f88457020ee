"""Operator sets: which version of each a model means."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, MutableMapping

import onnx
import onnx_ir as ir

from onnxgrad.errors import ModelReadError
from onnxgrad.model.tensors import scopes_of

#: The `ai.onnx` version from which on models are worked with as they are; older ones are lifted to it.
WORKING_OPSET = 18

#: Versions that say more than the one before, and nothing else for what could be said before.
_EXTENDED_ONLY = {("Cast", 19), ("Pad", 19), ("ReduceMax", 20), ("ReduceMin", 20), ("Resize", 19)}


def tidy_imports(model: ir.Model, where: str) -> None:
    """Make the imports of `model` one version per domain, in place, with one for `ai.onnx`.

    - ``"ai.onnx"`` and ``""`` are one domain. Of two imports of a domain the last counts, as in onnxruntime.
    - An import of `ai.onnx` that is missing beside others means a current version, as in onnxruntime, and is taken as
      the `WORKING_OPSET`.
    - Without any import, a model with an IR version below 3 means version 1: imports did not exist yet. A newer model
      without any is invalid, and what is left of a truncated file looks like this, so it is refused.
    - A missing IR version is taken as the one that came with the opset.

    Raises:
        ModelReadError: if these rules do not give the version, or it is newer than the installed `onnx` knows.
    """
    imports = model.opset_imports
    if not imports and not 0 < model.ir_version < 3:
        raise ModelReadError(
            f"{where}: the model does not say which operator set it uses (`opset_import` is empty); "
            "the file may be truncated: fetch or export it again"
        )
    _merge_aliases(imports)
    imports.setdefault("", WORKING_OPSET if imports else 1)
    newest = onnx.defs.onnx_opset_version()
    for scope in scopes_of(model):
        _merge_aliases(scope.opset_imports)
        version = scope.opset_imports.setdefault("", imports[""])
        if not 1 <= version <= newest:
            raise ModelReadError(
                f"{where}: the model uses version {version} of the ONNX operators, and the installed onnx "
                f"{onnx.__version__} knows versions 1 to {newest}; "
                "install a newer onnx, or export the model with an older opset"
            )
    if model.ir_version > onnx.IR_VERSION:
        raise ModelReadError(
            f"{where}: the file format has IR version {model.ir_version}, and the installed onnx {onnx.__version__} "
            f"knows versions up to {onnx.IR_VERSION}; install a newer onnx, or export the model with an older one"
        )
    model.ir_version = model.ir_version or ir_version_of(imports[""])


def ir_version_of(opset: int) -> int:
    """Return the IR version of the first ONNX release that had this version of `ai.onnx`."""
    return next((row[1] for row in onnx.helper.VERSION_TABLE if row[2] >= opset), onnx.IR_VERSION)


def agree_on_imports(model: ir.Model) -> None:
    """Bring the imports of the model and of its functions to one version per domain, in place: the highest of them.

    Only then can a function be inlined. `ai.onnx` is to be at the working opset or above everywhere.

    Raises:
        ModelReadError: if an operator in a function, or around it, may mean something else in that version.
    """
    highest: dict[str, int] = {}
    for scope in scopes_of(model):
        for domain, version in scope.opset_imports.items():
            highest[domain] = max(version, highest.get(domain, 0))
    for scope in scopes_of(model):
        for domain, version in scope.opset_imports.items():
            if version != highest[domain]:
                node = next(_changed_nodes(scope, domain, version, highest[domain]), None)
                if node is not None:
                    raise ModelReadError(
                        f"the graph and its functions import versions {version} and {highest[domain]} of "
                        f"{domain or 'ai.onnx'!r}, between which {node.op_type} (node {node.name!r}) has changed; "
                        "export the model with one version for all"
                    )
                scope.opset_imports[domain] = highest[domain]


def _merge_aliases(imports: MutableMapping[str, int]) -> None:
    in_order = list(imports.items())
    imports.clear()
    for domain, version in in_order:
        imports["" if domain == "ai.onnx" else domain] = version


def _changed_nodes(scope: ir.Graph, domain: str, old: int, new: int) -> Iterator[ir.Node]:
    """Yield the nodes of a domain whose operators may mean something else in version `new` than in `old`."""
    for node in ir.traversal.RecursiveGraphIterator(scope):
        if node.domain == domain and onnx.defs.has(node.op_type, domain):
            try:
                forms = {s.since_version: s for s in _schemas(node.op_type, domain, range(old, new + 1))}
            except onnx.defs.SchemaError:
                yield node
                continue
            steps = itertools.pairwise(forms.values())
            if not all(_means_the_same(a, b) for a, b in steps):
                yield node


def _schemas(operator: str, domain: str, versions: Iterable[int]) -> list[onnx.defs.OpSchema]:
    return [onnx.defs.get_schema(operator, version, domain) for version in versions]


def _means_the_same(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    """Return whether a version of an operator differs from the one before only in the types that it takes."""
    return (new.name, new.since_version) in _EXTENDED_ONLY or _meaning(old) == _meaning(new)


def _meaning(schema: onnx.defs.OpSchema) -> object:
    attributes = sorted((a.name, str(a.type), a.default_value.SerializeToString()) for a in schema.attributes.values())
    parameters = [(p.name, str(p.option)) for p in (*schema.inputs, *schema.outputs)]
    return attributes, parameters, (schema.doc or "").split()
