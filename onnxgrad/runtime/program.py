"""A derivative of a model, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from onnxgrad.augmentation import Augmentation
from onnxgrad.errors import FeedError, MemoryBoundError, RunError, UnknownNameError
from onnxgrad.model.signature import signature
from onnxgrad.runtime.buffers import BufferPool
from onnxgrad.runtime.chunks import Parts, Plan, even_parts, run_in_parts, run_without_rows
from onnxgrad.runtime.feeds import Feeds, Slot, is_frame, take
from onnxgrad.runtime.memory import in_bytes, numbers
from onnxgrad.runtime.packing import multiplies_rows
from onnxgrad.runtime.plain import Plain
from onnxgrad.runtime.request import SEEDS, SPOKEN, Request
from onnxgrad.runtime.results import arrange, layout_of, paths_of
from onnxgrad.runtime.rows import Split
from onnxgrad.runtime.session import Sessions, Settings, open_model
from onnxgrad.runtime.shortcut import Shortcut
from onnxgrad.runtime.sources import Origin
from onnxgrad.runtime.wide import jacobians_by_seeds


class Program:
    """A derivative.

    Args:
        request: what is asked for.
        origin: the model.
        settings: how its session is made.
        max_bytes: bound of the memory.
        other: gives the program of another request for the same model.
        plain: gives the model itself.

    Attributes:
        records: what each derived output is.
        outputs: names of the outputs, the model's own ones first.
        plan: how much can be run at once.
        types: element types and shapes of what is differentiated, what it is differentiated by, and of the outputs.
        seed_inputs: the input for each direction.
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
        augmentation = Augmentation(origin.model, request.straight_through)
        tensors = [*augmentation.of(request.of), *augmentation.wrt(request.wrt)]
        request.add_to(augmentation)
        model = augmentation.finish(request.values)
        outputs = list(model.graph.outputs)
        tensors += [t for v in outputs if (t := augmentation.op.tensor(v)) is not None]
        self.request = request
        self.records = augmentation.records
        self.outputs = [v.name or "" for v in outputs]
        self.types = {t.value.name or "": (np.dtype(t.dtype.numpy()), t.shape) for t in tensors}
        self.max_bytes = max_bytes
        self.other = other
        self.plain = plain

        ports = {port.name: port for port in signature(model).inputs}
        seeds = {r.seed: r.of if r.kind == "vjp" else str(r.wrt) for r in self.records if r.seed is not None}
        self._directions = {name: Slot.of(ports[seed]) for seed, name in seeds.items()}
        self.seed_inputs = {name: slot.name for name, slot in self._directions.items()}
        # the model's own inputs are described as in its file, but sizes have the names that the derivative is written
        # with
        self._feeds = Feeds([port for port in signature(origin.model).inputs if port.name in ports], origin.columns)
        self._sizes = Feeds(list(ports.values()))

        paths = paths_of(self.records)
        count = len(outputs) - len(paths)
        self._values = layout_of([(name,) for name in self.outputs[:count]]) if request.values else None
        self._layout = layout_of(paths, count)
        split = None
        if request.seeds:
            split = Split(SEEDS, dict.fromkeys(self.seed_inputs.values(), 0), dict.fromkeys(self.outputs[count:], 0))
        inputs = [v for v in model.graph.inputs if not v.is_initializer()]
        self.plan = Plan(augmentation.op, inputs, outputs, max_bytes, settings.workers, split)
        self._sessions = Sessions(partial(open_model, model), settings)
        self._row_by_row = settings.workers is not None and multiplies_rows(augmentation.op, self.plan.rows)
        self._buffers = BufferPool()
        self._shortcut = Shortcut([*self._feeds.names, *self.seed_inputs.values()], self.outputs)

    @property
    def seed_dtype(self) -> np.dtype[Any]:
        """Element type of the only direction."""
        (slot,) = self._directions.values()
        assert slot.dtype is not None
        return slot.dtype

    # --- what comes in and goes out --------------------------------------------------------------

    def __call__(self, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Return the derivative, or a pair of the model's outputs and the derivative."""
        results = None if named else self._shortcut.run(args)
        if results is None:
            results = self.run(self._feeds.bind(args, named))
        if self._values is None:
            return arrange(self._layout, results)
        return arrange(self._values, results), arrange(self._layout, results)

    def along(self, args: Sequence[Any], direction: Any, named: Mapping[str, Any]) -> Any:
        """Return the derivative along a direction: an array, or several by name, each perhaps with seeds in front."""
        results = None if named else self._shortcut.run((*args, direction))
        if results is not None:
            return arrange(self._layout, results)
        feeds = self._feeds.bind(args, named)
        given = self._given(direction)
        if self.request.kind != "hvp" and given:
            extra = {np.ndim(value) - (self._directions[name].rank or 0) for name, value in given.items()}
            if extra == {1}:
                seeded = self.other(replace(self.request, seeds=True))
                return seeded._along(feeds, given)
        return self._along(feeds, given)

    def _along(self, feeds: dict[str, Any], given: Mapping[str, Any]) -> Any:
        for name, value in given.items():
            feeds[self.seed_inputs[name]] = take(self._directions[name], value)
        for name, slot in self._directions.items():
            if name not in given:
                shape = numbers(self.types[name][1], self._sizes.sizes(feeds))
                if shape is None:
                    raise FeedError(
                        f"a direction for {name!r} is missing, and its shape is not known; give one, of zeros"
                    )
                seeds = next((feeds[self.seed_inputs[n]].shape[:1] for n in given), (0,)) if self.request.seeds else ()
                feeds[slot.name] = np.zeros((*seeds, *shape), slot.dtype)
        return arrange(self._layout, self.run(feeds))

    def _given(self, direction: Any) -> Mapping[str, Any]:
        """Return directions by the name of what they belong to."""
        names = list(self._directions)
        if isinstance(direction, Mapping):
            for name in direction:
                if name not in self._directions:
                    what = "differentiated" if self.request.kind == "vjp" else "differentiated by"
                    raise FeedError(str(UnknownNameError.among(f"a tensor that is {what}", str(name), names)))
            return direction
        if len(names) == 1:
            return {names[0]: direction}
        if is_frame(direction) and set(names) <= {str(c) for c in direction.columns}:
            return {name: direction[name] for name in names}
        raise FeedError(
            f"there are {len(names)} directions ({', '.join(map(repr, names))}); pass them in a dictionary by name"
        )

    # --- running ---------------------------------------------------------------------------------

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the outputs in order.

        Raises:
            MemoryBoundError: if they would take more than `max_bytes`, or the least part of the work would.
            RunError: if onnxruntime fails.
        """
        sizes = self._sizes.sizes(feeds)
        plan = self.plan
        whole, part, workers = plan.at_once(sizes)
        rows = 1 if plan.rows is None else sizes[plan.rows.size]
        if rows <= whole:
            if rows == 0 and plan.rows is not None:
                return run_without_rows(self.run_at_once, feeds, plan.rows, self.outputs)
            session = self._sessions.get("unpacked" if rows == 1 and self._row_by_row else "as set")
            found = session.run(self.outputs, feeds)
            self._shortcut.offer(session, feeds, found)
            return found
        plan.check_results(sizes, f"the {SPOKEN[self.request.kind]}")
        if whole == 0 and self.request.kind == "jacobian" and not plan.draws:
            derived = jacobians_by_seeds(self, feeds, sizes)
            return [*(self.plain().run(feeds) if self.request.values else ()), *derived]
        splits: list[Parts] = []
        least = dict(sizes)
        if plan.rows is not None:
            splits.append((plan.rows, even_parts(rows, max(part, 1), workers), rows))
            least[plan.rows.size] = 1
        if whole == 0:
            seeds = 0 if plan.seeds is None else plan.portion(least, SEEDS, self.max_bytes)
            if plan.seeds is None or seeds == 0:
                raise self.too_large(least)
            splits.append((plan.seeds, even_parts(sizes[SEEDS], seeds), sizes[SEEDS]))
        known = plan.footprint.arrays(sizes)
        try:
            return run_in_parts(self._sessions, self.outputs, feeds, splits, known, self._buffers, workers)
        except RunError:
            if whole == 0:
                raise
            return self.run_at_once(feeds)  # a constant in the model may be made for just so many rows

    def run_at_once(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the outputs of one run."""
        return self._sessions.get().run(self.outputs, feeds)  # made late: what is too wide at once never needs it

    def too_large(self, least: Mapping[str, int]) -> MemoryBoundError:
        """Return the error for work of which the least part, with the given sizes, exceeds the bound."""
        needed = self.plan.footprint.working({**least, SEEDS: 1} if SEEDS in least else least)
        whole = ", and it is not proven that its samples could be run one after another"
        if self.plan.draws:
            whole = ", since parts of it would each draw other random numbers"
        elif self.plan.rows is not None:
            whole = ""
        return MemoryBoundError(
            f"the {SPOKEN[self.request.kind]} needs about {in_bytes(needed)} of working memory at once{whole}; "
            f"max_bytes is {in_bytes(self.max_bytes)}: pass a larger one to onnxgrad.load, or feed less"
        )
