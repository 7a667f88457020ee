"""The network alone, in onnxruntime, without any derivative: what all derivatives are held against."""

from __future__ import annotations

from benchmarks.export import model_of
from benchmarks.systems.registry import Way
from benchmarks.systems.sessions import Session
from benchmarks.tasks import Task


def ways(task: Task, threads: int) -> dict[str, Way]:
    """Return the only way."""
    session = Session(model_of(task), threads)
    feeds = {session.inputs[0]: task.network.input(task.batch)}
    return {"onnxruntime": lambda: session.run(None, feeds)}
