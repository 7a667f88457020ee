"""What is no time per call: the transform, the file, the session, memory, and the overhead of a call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

import onnxgrad
from benchmarks.export import dense, model_of
from benchmarks.networks.mlp import mlp
from benchmarks.processes import in_process, peak_memory
from benchmarks.systems.sessions import Session
from benchmarks.tasks import INDEX, TASKS, Task
from benchmarks.worker import fastest

#: Numbers of nodes of the models whose transform is timed.
NODES = (1_000, 2_000, 5_000, 10_000, 20_000)
#: The tasks whose models are described.
_DESCRIBED = (
    "mlp-10-20-1/jacobian/1",
    "mlp-64-256-256-32/jacobian/1024",
    "resnet18/gradient/1",
    "unet/vjp/1",
    "transformer/gradient/1",
    "lstm/gradient/8",
)
#: The bound of memory for the Jacobian in chunks, and the number of samples.
BOUND, _SAMPLES = 256_000_000, 20_000


@dataclass(frozen=True)
class Transform:
    """Seconds to add a vector-Jacobian product to a chain of so many nodes; by onnx-ad, None if it is not installed."""

    nodes: int
    seconds: float
    onnx_ad: float | None


@dataclass(frozen=True)
class Described:
    """A model without and with its derivative: bytes, seconds to make it, seconds to load it."""

    name: str
    plain_bytes: int
    bytes: int
    transform: float
    plain_load: float
    load: float


@dataclass(frozen=True)
class Memory:
    """Peak memory of a process: in all, and beyond that of one that only loaded the model and its input."""

    what: str
    peak: int
    more: int
    result: int


@dataclass(frozen=True)
class Overhead:
    """Seconds of a call of ``f.jacobian(x)``, and of a bare run of the same session's model, at one sample."""

    name: str
    call: float
    run: float


@dataclass
class Facts:
    """All of them."""

    overhead: list[Overhead] = field(default_factory=list)
    transforms: list[Transform] = field(default_factory=list)
    models: list[Described] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)


def find_all(threads: int, quick: bool = False) -> Facts:
    """Measure all; or a little of each."""
    facts = Facts()
    sizes = ((10, 20, 1),) if quick else ((1, 3, 1), (10, 20, 1), (10, 64, 64, 4))
    facts.overhead += [in_process(overhead, s, threads, 0.3 if quick else 2.0) for s in sizes]
    facts.transforms += [in_process(transform, n) for n in NODES[: 1 if quick else None]]
    described = [t for name in _DESCRIBED[: 2 if quick else None] for t in TASKS if t.name == name]
    facts.models += [in_process(describe, t.name, threads) for t in described]
    facts.memory += list(_memory(threads, quick))
    return facts


# --- overhead of a call ------------------------------------------------------------------------------


def overhead(sizes: Sequence[int], threads: int, seconds: float) -> Overhead:
    """Measure the overhead of a call, in blocks in turn."""
    network = mlp(*sizes)
    model = dense(network, None)
    x = network.input(1)
    f = onnxgrad.load(model, threads=threads)
    session = Session(onnxgrad.jacobian(model, keep_outputs=False), threads)
    names, feeds = session.outputs, {"x": x}
    calls, runs = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        calls.append(_block(lambda: f.jacobian(x)))
        runs.append(_block(lambda: session.run(names, feeds)))
    return Overhead(network.name, statistics.median(calls), statistics.median(runs))


def _block(run: Callable[[], Any], count: int = 200) -> float:
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


# --- the transform, the file, the session -------------------------------------------------------------


def transform(nodes: int) -> Transform:
    """Measure the transform of a network of layers of width 4, two nodes each."""
    model = dense(mlp(*[4] * (nodes // 2 + 1)), None)
    start = time.perf_counter()
    onnxgrad.vjp(model)
    seconds = time.perf_counter() - start
    try:
        import onnx_ad
    except ImportError:
        return Transform(len(model.graph.node), seconds, None)
    start = time.perf_counter()
    onnx_ad.reverse(model)
    return Transform(len(model.graph.node), seconds, time.perf_counter() - start)


def describe(task_name: str, threads: int) -> Described:
    """Measure the model of a task, with what the task asks for."""
    task = _task(task_name)
    path = model_of(task)
    start = time.perf_counter()
    model = _augmented(task, path)
    seconds = time.perf_counter() - start
    contents = Path(path).read_bytes(), model.SerializeToString()
    loads = [fastest(lambda content=content: Session(content, threads), 0.3) for content in contents]
    return Described(task.name, *map(len, contents), seconds, *loads)


def _task(name: str) -> Task:
    return next(task for task in TASKS if task.name == name)


def _augmented(task: Task, path: str) -> onnx.ModelProto:
    match task.asked:
        case "gradient":
            return onnxgrad.gradient(path, index=INDEX)
        case "vjp":
            return onnxgrad.vjp(path)
        case _:
            return onnxgrad.jacobian(path)


# --- memory ----------------------------------------------------------------------------------------


def _memory(threads: int, quick: bool) -> Iterator[Memory]:
    cases = {"resnet18/gradient/8": ("forward", "gradient")} if not quick else {}
    cases["mlp-64-256-256-32/jacobian/1024"] = ("forward", "gradient", "jacobian at once", "jacobian in chunks")
    for name, kinds in cases.items():
        loaded, _ = in_process(peak, name, "loaded", threads)
        for kind in kinds:
            found, result = in_process(peak, name, kind, threads)
            yield Memory(f"{name.split('/')[0]}, {kind}", found, found - loaded, result)


def peak(task_name: str, kind: str, threads: int) -> tuple[int, int]:
    """Return the peak memory of this process, which does one thing, and the bytes of the result."""
    task = _task(task_name)
    path, wide = model_of(task), task.asked == "jacobian"
    x = task.network.input(_SAMPLES if wide else task.batch)
    f = onnxgrad.load(path, threads=threads, max_bytes=2**40)
    match kind:
        case "loaded":
            f(x[:1])
            result = x[:0]
        case "forward":
            result = f(x)
        case "gradient":
            result = f.gradient(x, index=INDEX)
        case "jacobian at once":
            session = Session(onnxgrad.jacobian(path, keep_outputs=False), threads)
            (result,) = session.run(None, {session.inputs[0]: x})
        case _:
            result = onnxgrad.load(path, threads=threads, max_bytes=BOUND).jacobian(x)
    return peak_memory(), result.nbytes
