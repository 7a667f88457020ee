"""The page docs/benchmarks.md, written after a full run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks import machine
from benchmarks.facts import BOUND, Facts
from benchmarks.report import duration, find, in_words, median, ratio, size
from benchmarks.systems.registry import FORWARD, OURS, SYSTEMS

if TYPE_CHECKING:
    from benchmarks.measure import Timing
    from benchmarks.run import Line

_INTRODUCTION = """\
# Benchmarks

Derivatives by onnxgrad and by other systems, side by side. This page is written by a full run of

    pip install -e '.[bench]' && python -m benchmarks

so all of its figures come from one run on one machine: {machine}. {versions}.

## How it is measured

- **The same work.** All systems get the same float32 weights and the same float32 data. The networks are written once
  (`benchmarks/networks`), as a function of operations that PyTorch and JAX provide; the ONNX models come from PyTorch's
  exporter, fully connected ones from ten lines of `onnx.helper`.
- **Compared first.** Before anything is timed, each result is held against that of the others, in the 2-norm,
  relative. Limits are {smooth:g} for smooth networks (float32 rounds by 6e-8, and sums are made in another order),
  {deep:g} for deep ones with kinks, {crowded:g} for MobileNetV2 (rounding moves single elements across a kink), and
  {differences} times that for central differences (which have two thirds of the digits). What differs is called wrong,
  and is not timed.
- **Each at its best.** Of JAX and PyTorch, several ways are tried in each task (`jacrev` and `jacfwd`; eager autograd
  and `torch.func`), of onnx-ad, both modes with all seeds at once and one by one, and the fastest is taken; it is named
  below. JAX runs compiled (`jit`), with small weights as constants. `torch.compile` stands apart, since it compiles for
  seconds to minutes, which is not counted for anybody. onnxgrad is called as a user calls it, with its own choice.
- **Nobody converts.** Data lie in the system's own arrays before the clock starts (numpy, `jax.Array`,
  `torch.Tensor`), and the clock stops when the result is there, in the system's own arrays (`block_until_ready` for
  JAX). onnxgrad, onnx-ad and onnxruntime take and give numpy arrays, so for them the way there and back is counted.
- **In turn.** Each system has a process of its own for each task, so that nobody's threads or caches disturb others.
  The processes take turns, several times, and only one runs at a time. A turn begins with a call that is not counted.
  Figures are medians over all turns; quartiles stand below.
- **The same threads** for all, {threads} in this run.

*Forward alone* is the network in onnxruntime, without any derivative, for the same input. Some tasks have further
columns: onnxgrad told to use one mode, and onnxgrad on the model exported with a fixed number of samples (static).

`python -m benchmarks --only TASK --systems onnxgrad,JAX` measures some of it, `--quick` a little of everything, and
`python -m benchmarks models FOLDER` the time of value and vector-Jacobian product over that of the model alone, in one
thread, for any ONNX models.

"""

_BRACKETS = "Medians. In brackets: how many times that of onnxgrad; of forward alone, which part of it."

_NAMES = {"forward": "forward alone", "numpy": "numpy, by hand", "differences": "central differences"}


def write(lines: Sequence[Line], facts: Facts, threads: int, images: Sequence[str]) -> str:
    """Return the page."""
    from benchmarks.tasks import CROWDED, DEEP, DIFFERENCES, GROWTH, SMOOTH

    text = _INTRODUCTION.format(
        machine=machine.described(threads),
        versions=machine.versions(),
        smooth=SMOOTH,
        deep=DEEP,
        crowded=CROWDED,
        differences=DIFFERENCES,
        threads=threads,
    )
    parts: dict[str, list[Line]] = {}
    for line in lines:
        parts.setdefault(line.task.part, []).append(line)
    blocks = ["## Times", "", _BRACKETS, ""]
    for part, members in parts.items():
        blocks += [f"### {part}", "", *_matrix(members), ""]
        if part == GROWTH:
            blocks += [line for image in images for line in (f"![Time of a Jacobian](images/{image})", "")]
    blocks += [*_facts(facts), "", "## All figures", "", *_details(lines), ""]
    return text + "\n".join(blocks)


def _matrix(lines: Sequence[Line]) -> Iterator[str]:
    """Yield a table: tasks down, systems across."""
    systems = [s for s in SYSTEMS if any(_told(find(line, s)) for line in lines)]
    systems = [s for s in systems if s not in (OURS, FORWARD)]
    heads = [OURS, "forward alone", *(_NAMES.get(s, s) for s in systems)]
    yield "| | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(heads)
    for line in lines:
        cells = [f"**{_time(line, OURS)}**", _forward(line), *(_cell(line, s) for s in systems)]
        yield f"| {in_words(line.task)} | " + " | ".join(cells) + " |"


def _told(timing: Timing | None) -> bool:
    return timing is not None and timing.status != "left out"


def _time(line: Line, system: str) -> str:
    timing = find(line, system)
    if timing is None or timing.status == "left out":
        return ""
    return duration(timing.median) if timing.timed else timing.status


def _cell(line: Line, system: str) -> str:
    factor = median(line, system) / median(line, OURS)
    return _time(line, system) + ("" if math.isnan(factor) else f" ({ratio(factor)})")


def _forward(line: Line) -> str:
    factor = median(line, OURS) / median(line, FORWARD)
    return _time(line, FORWARD) + ("" if math.isnan(factor) else f" (1/{ratio(factor)})")


def _details(lines: Sequence[Line]) -> Iterator[str]:
    """Yield every figure, way and reason."""
    yield "| task | system | way | median | quartiles | difference | note |"
    yield "|---|---|---|---:|---:|---:|---|"
    for line in lines:
        for i, timing in enumerate(line.timings):
            low, high = timing.quartiles
            cells = (
                in_words(line.task) if i == 0 else "",
                _NAMES.get(timing.system, timing.system),
                timing.way,
                duration(timing.median) if timing.timed else timing.status,
                f"{duration(low)} … {duration(high)}" if timing.timed else "",
                "" if timing.difference is None else f"{timing.difference:.0e}",
                timing.note.replace("|", "\\|").replace("<", "&lt;"),
            )
            yield "| " + " | ".join(cells) + " |"


def _facts(facts: Facts) -> Iterator[str]:
    yield from ("## Overhead of a call", "")
    yield "`f.jacobian(x)` at one sample, against a bare `session.run` of the same augmented model."
    yield from ("", "| | f.jacobian(x) | session.run | difference |", "|---|---:|---:|---:|")
    for o in facts.overhead:
        yield f"| {o.name} | {duration(o.call)} | {duration(o.run)} | {duration(o.call - o.run)} |"
    yield from ("", "## Time of the transform", "")
    yield "A vector-Jacobian product is added to a chain of layers of width 4, two nodes each; by onnx-ad, too."
    yield from ("", "| nodes | onnxgrad | each node | onnx-ad |", "|---:|---:|---:|---:|")
    for t in facts.transforms:
        other = "" if t.onnx_ad is None else duration(t.onnx_ad)
        yield f"| {t.nodes:,} | {duration(t.seconds)} | {duration(t.seconds / t.nodes)} | {other} |"
    yield from ("", "## Files and sessions", "")
    yield "What the derivative of the task adds to the file, how long it takes to make, and to load in onnxruntime."
    yield from ("", "| | file | with derivative | transform | loading | with derivative |", "|---|" + "---:|" * 5)
    for m in facts.models:
        sizes = f"{size(m.plain_bytes)} | {size(m.bytes)}"
        yield f"| {m.name} | {sizes} | {duration(m.transform)} | {duration(m.plain_load)} | {duration(m.load)} |"
    yield from ("", "## Peak memory", "")
    yield "Of a process that does one thing, and what that is beyond one that only loaded the model and its input."
    bound = size(BOUND)
    yield f"In chunks: with `max_bytes` of {bound}, which bounds the result, and the working memory beside it."
    yield from ("", "| | peak | beyond loading | result |", "|---|---:|---:|---:|")
    for memory in facts.memory:
        yield f"| {memory.what} | {size(memory.peak)} | {size(memory.more)} | {size(memory.result)} |"
