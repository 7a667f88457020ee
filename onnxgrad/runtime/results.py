"""How results are handed out: one as it is, several in dictionaries by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxgrad.model.metadata import Derivative

#: Where a result stands in a list, or dictionaries of that.
Layout = int | dict[str, "Layout"]


def layout_of(paths: Sequence[tuple[str, ...]], first: int = 0) -> Layout:
    """Return the dictionaries for results that stand in a list in the order of `paths`, from position `first` on.

    A path names a result: by the output, by what is differentiated and what it is differentiated by. A level of names
    of which there is only one makes no dictionary.
    """
    told = [level for level in range(len(paths[0])) if len({path[level] for path in paths}) > 1]
    if not told:
        return first
    layout: dict[str, Layout] = {}
    for i, path in enumerate(paths):
        inner = layout
        for level in told[:-1]:
            inner = inner.setdefault(path[level], {})  # type: ignore[assignment]
        inner[path[told[-1]]] = first + i
    return layout


def arrange(layout: Layout, results: Sequence[Any]) -> Any:
    """Return the results in the dictionaries of a layout."""
    if isinstance(layout, int):
        return results[layout]
    return {name: arrange(inner, results) for name, inner in layout.items()}


def paths_of(records: Sequence[Derivative]) -> list[tuple[str, ...]]:
    """Return for each derived output, in order, what is differentiated and what it is differentiated by.

    A product with the Jacobian is named by the end at which it arrives, since it sums over the other.
    """
    paths: dict[str, tuple[str, ...]] = {}
    for r in records:
        wrt = (r.wrt,) if isinstance(r.wrt, str) else r.wrt
        paths[r.output] = wrt if r.kind == "vjp" else (r.of,) if r.kind == "jvp" else (r.of, *wrt)
    return list(paths.values())
