"""What a user can meet, and the wording of it.

Every message says *what* is wrong, *where*, and *what to do*. All errors derive from `OnnxgradError`, so one
``except`` catches them; the command line turns each into exit code 2.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class OnnxgradError(Exception):
    """Base of every error that onnxgrad raises on purpose."""


class ModelReadError(OnnxgradError):
    """The source cannot be read as an ONNX model (missing, damaged, external data astray, …)."""


class ModelWriteError(OnnxgradError):
    """The model cannot be written where it was asked to be written."""


class UnknownNameError(OnnxgradError):
    """A name in `of`, `wrt` or a feed is not in the model."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Return the error for `name`, with the nearest of the `known` names.

        `kind` says what was looked for, e.g. ``"a tensor of the model"``.
        """
        names = list(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {_or(near)}?" if near else f"there is {_or(names[:12]) or 'none'}."
        return cls(f"{name!r} is not {kind}; {hint}")


class TensorTypeError(OnnxgradError):
    """A tensor has a type or rank for which the request makes no sense (integer, string, sequence, unknown rank)."""


class FeedError(OnnxgradError):
    """What was fed to a model does not fit its inputs: names, shapes or dtypes."""


class MemoryBoundError(OnnxgradError):
    """A result would exceed the memory bound; nothing was run."""


class MixedSamplesError(OnnxgradError):
    """A per-sample derivative was asked of a model in which samples mix, or cannot be proven to stay apart."""


class RunError(OnnxgradError):
    """The runtime refused the model or failed to run it."""


class SignatureError(OnnxgradError):
    """Two models cannot be compared: they do not take or return the same things."""


class GoldenError(OnnxgradError):
    """A golden file cannot be read, or was made from another model."""


@dataclass(frozen=True)
class Obstacle:
    """One node in the way of a derivative.

    Attributes:
        node: name of the node.
        operator: ``domain::Op`` (no domain for ai.onnx).
        version: the operator's version (`since_version`) in this model, or None where it has no schema.
        why: the reason.
        remedy: what the user can do.
    """

    node: str
    operator: str
    version: int | None
    why: str
    remedy: str = "register a rule with onnxgrad.register, or choose another `wrt` or `of`"

    def __str__(self) -> str:
        version = f" (version {self.version})" if self.version else ""
        return f"{self.operator}{version}, node {self.node!r}: {self.why}; {self.remedy}."


class NotDifferentiableError(OnnxgradError):
    """A derivative does not exist or has no rule. `obstacles` lists every node in the way."""

    def __init__(self, obstacles: Sequence[Obstacle]) -> None:
        self.obstacles = tuple(obstacles)
        nodes = "1 node is" if len(obstacles) == 1 else f"{len(obstacles)} nodes are"
        super().__init__("\n".join([f"{nodes} in the way of the derivative:", *(f"  - {o}" for o in obstacles)]))

    def __reduce__(self) -> tuple[type[NotDifferentiableError], tuple[tuple[Obstacle, ...]]]:
        return type(self), (self.obstacles,)


class Refusal(Exception):  # noqa: N818 - not an error of its own: the driver collects it into one report
    """Raised inside a rule: this node has no derivative, for the given reason."""

    def __init__(self, why: str, remedy: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


class DisconnectedWarning(UserWarning):
    """An output does not depend on an input, or only in steps: the derivative asked for is zero."""


def level_outside() -> int:
    """Return the `stacklevel` with which a warning points at the code that called this package."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] == "onnxgrad":
        frame, level = frame.f_back, level + 1
    return level


def _or(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)
