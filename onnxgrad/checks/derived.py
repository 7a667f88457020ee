"""The derivatives under test, and the function that they are the derivatives of, as plain functions on arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.errors import DisconnectedWarning, NotDifferentiableError, RunError
from onnxgrad.runtime.evaluate import Evaluator
from onnxgrad.transforms import jvp, vjp

Array = np.ndarray[Any, Any]
Arrays = dict[str, Any]


class Derived:
    """A model with its VJP or JVP, for some outputs and inputs.

    Args:
        kind: "vjp" or "jvp".
        source: the model.
        of, wrt: outputs and inputs.
        seeds: an array for each value that a seed belongs to, of the same shape and type.
        optimize, threads: as in `Evaluator`.

    Raises:
        NotDifferentiableError: if there is none.
    """

    def __init__(
        self,
        kind: str,
        source: ir.Model,
        of: Sequence[str],
        wrt: Sequence[str],
        seeds: Mapping[str, Array],
        *,
        optimize: bool = True,
        threads: int = 0,
    ) -> None:
        transform = vjp if kind == "vjp" else jvp
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DisconnectedWarning)
            self.proto = transform(source, list(of), list(wrt))
        seeded, found = (of, wrt) if kind == "vjp" else (wrt, of)
        inputs, outputs = self.proto.graph.input[-len(seeded) :], self.proto.graph.output[-len(found) :]
        self._seeds = {name: value.name for name, value in zip(seeded, inputs, strict=True)}
        self._results = {name: value.name for name, value in zip(found, outputs, strict=True)}
        self._zeros = {name: np.zeros_like(seeds[name]) for name in self._seeds}
        self.evaluator = Evaluator(self.proto, optimize=optimize, threads=threads)

    def __call__(self, feeds: Mapping[str, Any], seeds: Mapping[str, Array]) -> Arrays:
        """Return the results by the name of what they belong to; a seed that is not given is zero.

        Raises:
            RunError: if no runtime runs the model.
        """
        out = self.all_outputs(feeds, seeds)
        return {name: out[output] for name, output in self._results.items()}

    def all_outputs(self, feeds: Mapping[str, Any], seeds: Mapping[str, Array]) -> Arrays:
        """Return everything that the model returns, by name."""
        given = {self._seeds[name]: seeds.get(name, zero) for name, zero in self._zeros.items()}
        return self.evaluator({**feeds, **given})


class Derivatives:
    """VJP and JVP of one model for those of its outputs and inputs that have them.

    They are made for all at once where that is possible, else one by one.

    Args:
        source: the model.
        pairs: outputs and inputs.
        points: by name, arrays of the shapes and types of all of them.
        modes: "vjp", "jvp" or both.
        threads: as in `Evaluator`.

    Attributes:
        refused: by pair, why there is no VJP.
        no_jvp: by pair, why there is no JVP.
    """

    def __init__(
        self,
        source: ir.Model,
        pairs: Sequence[tuple[str, str]],
        points: Mapping[str, Array],
        modes: Sequence[str] = ("vjp", "jvp"),
        threads: int = 0,
    ) -> None:
        self.refused: dict[tuple[str, str], str] = {}
        self.no_jvp: dict[tuple[str, str], str] = {}
        self._made: dict[str, dict[tuple[str, str], Derived]] = {"vjp": {}, "jvp": {}}
        of, wrt = list(dict.fromkeys(y for y, _ in pairs)), list(dict.fromkeys(x for _, x in pairs))
        for kind in modes if pairs else ():
            self._make(kind, source, of, wrt, set(pairs), points, threads)

    def _make(
        self,
        kind: str,
        source: ir.Model,
        of: Sequence[str],
        wrt: Sequence[str],
        pairs: Set[tuple[str, str]],
        points: Mapping[str, Array],
        threads: int,
    ) -> None:
        try:
            made = Derived(kind, source, of, wrt, points, threads=threads)
        except NotDifferentiableError as error:
            if len(of) == len(wrt) == 1:
                (self.refused if kind == "vjp" else self.no_jvp)[of[0], wrt[0]] = str(error)
                return
            for y, x in sorted(pairs):
                self._make(kind, source, [y], [x], {(y, x)}, points, threads)
        else:
            self._made[kind].update(dict.fromkeys(pairs, made))

    def vjp(self, of: str, wrt: str, feeds: Mapping[str, Any], ct: Array) -> Array:
        """Return the VJP of one output by one input."""
        return np.asarray(self._made["vjp"][of, wrt](feeds, {of: ct})[wrt])

    def jvp(self, of: str, wrt: str, feeds: Mapping[str, Any], tangent: Array) -> Array | None:
        """Return the JVP of one output by one input, or None if there is none; `no_jvp` then has the reason."""
        made = self._made["jvp"].get((of, wrt))
        if made is None:
            return None
        try:
            return np.asarray(made(feeds, {wrt: tangent})[of])
        except RunError as error:
            self.no_jvp[of, wrt] = str(error)
            del self._made["jvp"][of, wrt]
            return None

    def any_vjp(self) -> Derived | None:
        """Return one of the models with a VJP."""
        return next(iter(self._made["vjp"].values()), None)

    def engine(self, of: str, wrt: str) -> str | None:
        """Return what ran the VJP of a pair."""
        made = self._made["vjp"].get((of, wrt))
        return None if made is None else made.evaluator.engine
