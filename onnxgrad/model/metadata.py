"""What a model says about its derivatives: one record for each, as JSON in the model's metadata."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from onnxgrad.errors import ModelReadError
from onnxgrad.model.read import Source, read

#: The key in the model's `metadata_props`.
KEY = "onnxgrad"

_VERSION = 1


@dataclass(frozen=True)
class Derivative:
    """One derivative that a model returns.

    Attributes:
        kind: ``"vjp"``, ``"jvp"``, ``"jacobian"``, ``"gradient"``, ``"hessian"`` or ``"hvp"``.
        of: the tensor that is differentiated.
        wrt: the tensor it is differentiated by; two of them for second order.
        output: the graph output that holds the derivative.
        seed: the graph input with the direction, for those kinds that have one.
        batched: whether it is one derivative per sample, along axis 0.
        mode: how it is computed, e.g. ``"reverse"`` or ``"forward"``.
        zero: why it is zero, if it is zero whatever the input.
        index: which element of `of` is differentiated, if not all are.
        straight_through: whether gradients passed straight through roundings: it is then not the true derivative,
            which is zero there.
    """

    kind: str
    of: str
    wrt: str | tuple[str, ...]
    output: str
    seed: str | None = None
    batched: bool = False
    mode: str = "reverse"
    zero: str | None = None
    index: int | tuple[int, ...] | str | None = None
    straight_through: bool = False


def record(model: ir.Model, items: Sequence[Derivative], relied_on: Collection[str] = ()) -> None:
    """Write down in `model`, in place, what derivatives it returns, after those that it has already.

    Args:
        model: the model.
        items: the derivatives.
        relied_on: names of weights whose numbers are written into the derivatives, so that these do not depend on them.

    Raises:
        ModelReadError: if what is there already is damaged.
    """
    everything = [asdict(item) for item in (*_recorded(model), *items)]
    envelope = {
        "version": _VERSION,
        "derivatives": everything,
        "relied_on": sorted({*relied_on, *weights_relied_on(model)}),
    }
    model.metadata_props[KEY] = json.dumps(envelope, ensure_ascii=False)


def weights_relied_on(model: ir.Model) -> list[str]:
    """Return the names of the weights whose numbers are written into the derivatives of a model.

    Raises:
        ModelReadError: if the record is damaged.
    """
    _recorded(model)
    return list(json.loads(model.metadata_props.get(KEY, "{}")).get("relied_on", []))


def derivatives(source: Source) -> list[Derivative]:
    """Return the derivatives that a model says it returns, in the order in which they were added; it may say nothing.

    Raises:
        ModelReadError: if the model cannot be read, or what it says is damaged or was written by a newer onnxgrad.
    """
    return _recorded(read(source))


def _recorded(model: ir.Model) -> list[Derivative]:
    text = model.metadata_props.get(KEY)
    if text is None:
        return []
    try:
        envelope = json.loads(text)
        if envelope["version"] > _VERSION:
            raise ModelReadError(
                f"the derivatives in this model were recorded by a newer onnxgrad (format {envelope['version']}); "
                "upgrade onnxgrad"
            )
        return [_derivative(fields) for fields in envelope["derivatives"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelReadError(
            f"the record of derivatives in the model's metadata (key {KEY!r}) is damaged: {error!r}; "
            "derive the model again, or remove that key"
        ) from error


def _derivative(fields: dict[str, Any]) -> Derivative:
    values: dict[str, Any] = {name: tuple(f) if isinstance(f, list) else f for name, f in fields.items()}
    item = Derivative(**values)
    if not all(isinstance(field, str) for field in (item.kind, item.of, item.output)):
        raise TypeError(f"{item} lacks names")
    return item
