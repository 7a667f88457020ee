"""One request, made ready to run: the model with what was asked for, its session, and how results are handed out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.augmentation import Augmentation, Batched, Index, Mode
from onnxgrad.errors import FeedError, MemoryBoundError, OnnxgradError, UnknownNameError
from onnxgrad.graph.dims import Shape
from onnxgrad.model.metadata import Derivative
from onnxgrad.model.signature import Port, signature
from onnxgrad.runtime.chunks import Plan, even_parts, run_in_parts
from onnxgrad.runtime.feeds import Array, Feeds, Slot, is_frame, take
from onnxgrad.runtime.memory import numbers
from onnxgrad.runtime.rows import Split
from onnxgrad.runtime.session import Session, Settings, open_model
from onnxgrad.runtime.sources import Origin

#: Name of the size of the axis of seeds.
SEEDS = "onnxgrad_seeds"
#: A plain run of less input than this is not worth looking into.
_SMALL_INPUT = 256 * 2**10

Names = tuple[str, ...] | None
#: Where a result stands in a list, or dictionaries of that.
Layout = int | dict[str, "Layout"]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        kind: the derivative, by the name of its method.
        of: what to differentiate; None: every floating-point output.
        wrt: what to differentiate by; None: every floating-point input.
        index: which element of a wider output.
        batched: whether per sample.
        mode: which way.
        seeds: whether directions have an axis of seeds in front.
        values: whether the model's own outputs are returned too.
    """

    kind: str
    of: Names = None
    wrt: Names = None
    index: Index = None
    batched: Batched = "auto"
    mode: Mode = "auto"
    seeds: bool = False
    values: bool = False

    def add_to(self, augmentation: Augmentation) -> None:
        """Add the derivative to a model."""
        match self.kind:
            case "jacobian":
                augmentation.jacobian(self.of, self.wrt, self.batched, self.mode)
            case "vjp":
                augmentation.vjp(self.of, self.wrt, SEEDS if self.seeds else None)
            case "jvp":
                augmentation.jvp(self.of, self.wrt, SEEDS if self.seeds else None)
            case "gradient":
                augmentation.gradient(self.of, self.wrt, self.index, self.batched)
            case "hessian":
                augmentation.hessian(self.of, self.wrt, self.index, self.batched)
            case "hvp":
                augmentation.hvp(self.of, self.wrt, self.index, self.batched)


class Plain:
    """The model itself.

    Args:
        origin: the model.
        settings: how its session is made.
        max_bytes: bound of the memory.
    """

    def __init__(self, origin: Origin, settings: Settings, max_bytes: int) -> None:
        described = signature(origin.model)
        self.outputs = [port.name for port in described.outputs]
        self._feeds = Feeds(described.inputs, origin.columns)
        self._origin = origin
        self._max_bytes = max_bytes
        self._session = _open_plain(origin, settings)
        self._plan: Plan | None = None
        self._sizes: Feeds | None = None
        self._layout = _layout([(name,) for name in self.outputs])

    def __call__(self, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Return the outputs: the only one, or all by name."""
        return _arrange(self._layout, self.run(self._feeds.bind(args, named)))

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the outputs in order.

        Raises:
            MemoryBoundError: if they would take more than `max_bytes`.
            RunError: if onnxruntime fails.
        """
        if sum(getattr(value, "nbytes", 0) for value in feeds.values()) < _SMALL_INPUT:
            return self._session.run(self.outputs, feeds)
        self._look()
        if self._plan is None or self._sizes is None:
            return self._session.run(self.outputs, feeds)
        try:
            sizes = self._sizes.sizes(feeds)
        except FeedError:  # the file gives two sizes one name: not a reason not to run it
            return self._session.run(self.outputs, feeds)
        _check_result(self._plan, sizes, self._max_bytes, "the outputs")
        split = self._plan.rows
        if split is None or sizes[split.size] <= max(self._plan.at_once(sizes), 1):
            return self._session.run(self.outputs, feeds)
        rows = sizes[split.size]
        parts = even_parts(rows, max(self._plan.at_once(sizes), 1))
        return run_in_parts(self._portion, feeds, [(split, parts, rows)], self.outputs)

    def _portion(self, feeds: Mapping[str, Any]) -> list[Any]:
        return self._session.run(self.outputs, feeds)

    def _look(self) -> None:
        """Find out, once, how the model can be run in parts."""
        if self._sizes is not None:
            return
        try:
            augmentation = Augmentation(self._origin.model)
        except OnnxgradError:  # onnxruntime runs it, and that is all there is to say
            self._sizes = Feeds(())
            return
        graph = augmentation.model.graph
        inputs = [v for v in graph.inputs if not v.is_initializer()]
        self._plan = Plan(augmentation.op, inputs, list(graph.outputs), self._max_bytes)
        self._sizes = Feeds(signature(augmentation.model).inputs)


class Program:
    """A derivative.

    Args:
        request: what is asked for.
        origin: the model.
        settings: how its session is made.
        max_bytes: bound of the memory.
        other: gives the program of another request for the same model.
        plain: gives the model itself.
    """

    def __init__(
        self,
        request: Request,
        origin: Origin,
        settings: Settings,
        max_bytes: int,
        other: Callable[[Request], Program],
        plain: Callable[[], Plain],
    ) -> None:
        augmentation = Augmentation(origin.model)
        self.request = request
        self._of = _names(augmentation.of(request.of))
        self._wrt = _names(augmentation.wrt(request.wrt))
        count = len(augmentation.primal_outputs) if request.values else 0
        request.add_to(augmentation)
        model = augmentation.finish(request.values)
        self.records = augmentation.records
        self.outputs = [v.name or "" for v in model.graph.outputs]
        self._session = open_model(model, settings)
        self._max_bytes = max_bytes
        self._other = other
        self._plain = plain
        self._set_up_inputs(model, origin)
        inputs = [v for v in model.graph.inputs if not v.is_initializer()]
        derived = self.outputs[count:]
        by_seed = {name: slot.name for name, slot in self._directions.items()}
        seeds = Split(SEEDS, dict.fromkeys(by_seed.values(), 0), dict.fromkeys(derived, 0)) if request.seeds else None
        self.plan = Plan(augmentation.op, inputs, list(model.graph.outputs), max_bytes, seeds)
        self.shapes: dict[str, Shape] = {
            name: t.shape
            for name in (*self._of, *self._wrt, *self.outputs)
            if (t := augmentation.op.tensor(augmentation.value(name))) is not None
        }
        self._values = count
        self._value_layout = _layout([(name,) for name in self.outputs[:count]])
        self._layout = _layout(self._paths(), count)

    def _set_up_inputs(self, model: ir.Model, origin: Origin) -> None:
        """Tell the model's own inputs from those for directions, and take names of sizes as the derivative does."""
        ports = {port.name: port for port in signature(model).inputs}
        seeds = {r.seed: (r.of if r.kind == "vjp" else r.wrt) for r in self.records if r.seed is not None}
        self._directions = {str(name): Slot.of(ports[seed]) for seed, name in seeds.items()}
        own = [port for port in signature(origin.model).inputs if port.name in ports]
        self._feeds = Feeds(own, origin.columns)
        self._sizes = Feeds([port for port in ports.values()])

    def _paths(self) -> list[tuple[str, ...]]:
        """Return what each derived output is a derivative of: of what, with respect to what."""
        paths: dict[str, tuple[str, ...]] = {}
        for r in self.records:
            wrt = (r.wrt,) if isinstance(r.wrt, str) else r.wrt
            paths[r.output] = wrt if r.kind == "vjp" else (r.of,) if r.kind == "jvp" else (r.of, *wrt)
        return list(paths.values())

    # --- running -------------------------------------------------------------------------------

    def __call__(self, args: Sequence[Any], named: Mapping[str, Any], direction: Any = None) -> Any:
        """Return the derivative, or the outputs and the derivative."""
        feeds = self._feeds.bind(args, named)
        if self._directions:
            given = self._given(direction)
            if given and all(np.ndim(v) == self._rank(k) + 1 for k, v in given.items()) and not self.request.seeds:
                if self.request.kind != "hvp":
                    return self._other(replace(self.request, seeds=True)).result(feeds, given)
            return self.result(feeds, given)
        results = self.run(feeds)
        if not self._values and type(self._layout) is int:
            return results[0]
        return self._handed_out(results)

    def result(self, feeds: dict[str, Any], directions: Mapping[str, Any]) -> Any:
        """Return the derivative in the given directions."""
        for name, slot in self._directions.items():
            if name in directions:
                feeds[slot.name] = take(slot, directions[name])
        missing = [name for name in self._directions if name not in directions]
        if missing:
            sizes = self._sizes.sizes(feeds)
            for name in missing:
                slot = self._directions[name]
                shape = numbers(self._seed_shape(name), sizes)
                if shape is None:
                    raise FeedError(f"no direction is given for {name!r}, whose shape is not known before; give one, of zeros")
                feeds[slot.name] = np.zeros(shape, slot.dtype)
        return self._handed_out(self.run(feeds))

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the outputs in order.

        Raises:
            MemoryBoundError: if they would take more than `max_bytes`, or the least part of the work would.
            RunError: if onnxruntime fails.
        """
        sizes = self._sizes.sizes(feeds)
        plan = self.plan
        fit = plan.at_once(sizes)
        rows = 1 if plan.rows is None else sizes[plan.rows.size]
        if rows <= fit:
            return self._session.run(self.outputs, feeds)
        _check_result(plan, sizes, self._max_bytes, f"the {_SPOKEN[self.request.kind]}")
        if fit == 0 and self.request.kind == "jacobian":
            return self._by_seeds(feeds, sizes)
        splits = []
        one = dict(sizes)
        if plan.rows is not None:
            splits.append((plan.rows, even_parts(rows, max(fit, 1)), rows))
            one[plan.rows.size] = 1
        if fit == 0:
            seeds = 0 if plan.seeds is None else plan.portion(one, SEEDS, self._max_bytes)
            if seeds == 0 or plan.seeds is None:
                raise self._too_large(one)
            splits.append((plan.seeds, even_parts(sizes[SEEDS], seeds), sizes[SEEDS]))
        return run_in_parts(self._portion, feeds, splits, self.outputs)

    def _portion(self, feeds: Mapping[str, Any]) -> list[Any]:
        return self._session.run(self.outputs, feeds)
