"""The model itself, ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from onnxgrad.augmentation import Augmentation
from onnxgrad.errors import FeedError, OnnxgradError, RunError
from onnxgrad.model.metadata import KEY
from onnxgrad.model.signature import signature
from onnxgrad.runtime.buffers import BufferPool
from onnxgrad.runtime.chunks import Plan, even_parts, run_in_parts, run_without_rows
from onnxgrad.runtime.feeds import Feeds
from onnxgrad.runtime.results import arrange, layout_of
from onnxgrad.runtime.session import Session, Sessions, Settings, open_model
from onnxgrad.runtime.shortcut import Shortcut
from onnxgrad.runtime.sources import Origin

#: A run with less input than this is not worth looking into.
_SMALL_INPUT = 256 * 2**10


class Plain:
    """A model, in a session of its own: the one that came, not the one that derivatives are taken of.

    Its rows are run in parts where they need much memory and it is proven that they do not meet. The bound is then
    one for the outputs; what the model needs to compute a single row, or all of them, it needs.

    Args:
        origin: the model.
        settings: how its session is made.
        max_bytes: bound of the memory.
    """

    def __init__(self, origin: Origin, settings: Settings, max_bytes: int) -> None:
        described = signature(origin.model)
        self._outputs = [port.name for port in described.outputs]
        self._layout = layout_of([(name,) for name in self._outputs])
        self._feeds = Feeds(described.inputs, origin.columns)
        self._origin = origin
        self._max_bytes = max_bytes
        self._sessions = Sessions(partial(_open, origin), settings)
        self._workers = settings.workers
        self._session = self._sessions.get()
        self._buffers = BufferPool()
        self._shortcut = Shortcut(self._feeds.names, self._outputs)
        self._derived = KEY in origin.model.metadata_props  # a small input may then have wide results
        self._looked: tuple[Plan, Feeds] | bool | None = False

    def __call__(self, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Return the outputs: the only one, or all by name."""
        results = None if named else self._shortcut.run(args)
        if results is None:
            results = self.run(self._feeds.bind(args, named))
        return arrange(self._layout, results)

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the outputs in order.

        Raises:
            MemoryBoundError: if they would take more than `max_bytes`.
            RunError: if onnxruntime fails.
        """
        if not self._derived and 0 < sum([getattr(value, "nbytes", 0) for value in feeds.values()]) < _SMALL_INPUT:
            return self._run(feeds)
        looked = self._look()
        if looked is None:
            return self._run(feeds)
        plan, inputs = looked
        try:
            sizes = inputs.sizes(feeds)
        except FeedError:  # the file gives two sizes one name, and onnxruntime does not mind
            return self._run(feeds)
        plan.check_results(sizes, "the outputs")
        split = plan.rows
        if split is None:
            return self._run(feeds)
        rows, (whole, part, workers) = sizes[split.size], plan.at_once(sizes)
        if rows == 0:
            return run_without_rows(self._run, feeds, split, self._outputs)
        if rows <= max(whole, 1):
            return self._run(feeds)
        known = plan.footprint.arrays(sizes)
        splits = [(split, even_parts(rows, max(part, 1), workers), rows)]
        try:
            return run_in_parts(self._sessions, self._outputs, feeds, splits, known, self._buffers, workers)
        except RunError:
            return self._run(feeds)  # a constant in the model may be made for just so many rows

    def _run(self, feeds: Mapping[str, Any]) -> list[Any]:
        results = self._session.run(self._outputs, feeds)
        self._shortcut.offer(self._session, feeds, results)
        return results

    def _look(self) -> tuple[Plan, Feeds] | None:
        """Find out, once, how the model can be run in parts, and what its inputs call their sizes."""
        looked = self._looked
        if not isinstance(looked, bool):
            return looked
        try:
            augmentation = Augmentation(self._origin.model)
        except OnnxgradError:  # onnxruntime runs it, and more need not be known
            self._looked = None
            return None
        graph = augmentation.model.graph
        inputs = [v for v in graph.inputs if not v.is_initializer()]
        plan = Plan(augmentation.op, inputs, list(graph.outputs), self._max_bytes, self._workers)
        self._looked = plan, Feeds(signature(augmentation.model).inputs)
        return self._looked


def _open(origin: Origin, settings: Settings) -> Session:
    """Return a session of the model as it came, or, if onnxruntime refuses that, of what was read of it."""
    if origin.file is None:
        return open_model(origin.model, settings)
    try:
        return Session(origin.file, settings)
    except RunError as refusal:
        try:  # text forms, imports that are missing or doubled: what reading puts in order
            return open_model(origin.model, settings)
        except OnnxgradError:
            raise refusal from None
