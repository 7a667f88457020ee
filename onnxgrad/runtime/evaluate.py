"""Running a model once, in whichever runtime can: what numerical checks need, and no more.

onnxruntime is fast, and lacks kernels (for float64, for some types and new operators); ONNX's own reference evaluator
has nearly all operators in all types, and is slow. `Evaluator` takes the first of the two that runs the model.
A model that draws random numbers is a function only if it draws the same ones each time it is run: given a seed, the
reference does, and onnxruntime goes on to the next ones. So such a model is run by the reference alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from onnxgrad.errors import RunError
from onnxgrad.model.write import to_proto
from onnxgrad.runtime.operators import OPERATORS

ORT, REFERENCE = "onnxruntime", "onnx.reference"

#: What is fed to a model, or comes out of it: arrays by name (lists of arrays for sequences).
Arrays = dict[str, Any]
_Run = Callable[[Mapping[str, Any]], Sequence[Any]]


class Evaluator:
    """Runs a model in the first runtime that can.

    Args:
        model: the model.
        optimize: whether onnxruntime may rewrite the graph. Without, it computes node by node what the file says.
        prefer: the runtime to try first.
        only: whether no other one is tried.
        threads: number of threads of onnxruntime (0: its own choice).

    Attributes:
        inputs: names of the inputs that must be fed.
        names: names of the outputs.
        engine: the runtime that ran the model last, or None before the first run.
    """

    def __init__(
        self,
        model: onnx.ModelProto | ir.Model,
        *,
        optimize: bool = True,
        prefer: Literal["onnxruntime", "reference"] = "onnxruntime",
        only: bool = False,
        threads: int = 0,
    ) -> None:
        self._proto = to_proto(model) if isinstance(model, ir.Model) else model
        initialized = {tensor.name for tensor in self._proto.graph.initializer}
        self.inputs = [value.name for value in self._proto.graph.input if value.name not in initialized]
        self.names = [value.name for value in self._proto.graph.output]
        self.engine: str | None = None
        self._optimize = optimize
        self._threads = threads
        order = [(ORT, self._onnxruntime), (REFERENCE, self._reference)]
        self._pending = (order if prefer == "onnxruntime" else order[::-1])[: 1 if only else 2]
        if _draws(self._proto.graph):
            self._pending = order[1:]
        self._run: _Run | None = None

    def __call__(self, feeds: Mapping[str, Any]) -> Arrays:
        """Return the outputs by name.

        Raises:
            RunError: with the words of each runtime that was tried.
        """
        # arithmetic on arrays without axes gives numbers, which onnxruntime does not take
        feeds = {name: np.asarray(x) if isinstance(x, np.generic) else x for name, x in feeds.items()}
        if self._run is not None:
            return self._results(self._run, feeds)
        said = []
        for engine, prepare in self._pending:
            try:
                run = prepare()
                results = self._results(run, feeds)
            except RunError as error:
                said.append(str(error))
            else:
                self._run, self.engine = run, engine
                return results
        raise RunError("; ".join(said))

    def _results(self, run: _Run, feeds: Mapping[str, Any]) -> Arrays:
        return dict(zip(self.names, run(feeds), strict=True))

    def _onnxruntime(self) -> _Run:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads
        if not self._optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            content = self._proto.SerializeToString()
            session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has some twenty kinds, and protobuf one
            raise RunError(f"{ORT}: {_one_line(error)}") from error

        def run(feeds: Mapping[str, Any]) -> Sequence[Any]:
            try:
                return session.run(None, dict(feeds))  # type: ignore[no-any-return]
            except Exception as error:
                raise RunError(f"{ORT}: {_one_line(error)}") from error

        return run

    def _reference(self) -> _Run:
        try:
            with _quiet():
                evaluator = ReferenceEvaluator(self._proto, new_ops=list(OPERATORS))
        except Exception as error:  # it lets through whatever numpy or Python says
            raise RunError(f"{REFERENCE}: {_one_line(error)}") from error

        def run(feeds: Mapping[str, Any]) -> Sequence[Any]:
            try:
                with _quiet():
                    return list(evaluator.run(None, dict(feeds)))
            except Exception as error:
                raise RunError(f"{REFERENCE}: {_one_line(error)}") from error

        return run


_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}


def _draws(graph: onnx.GraphProto) -> bool:
    """Whether a graph draws random numbers, as far as its nodes tell, without those in bodies and functions."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        if node.domain == "" and node.op_type in _RANDOM:
            return True
        for mode in node.input[2:3] if node.op_type == "Dropout" else ():
            if mode and (mode not in constants or onnx.numpy_helper.to_array(constants[mode]).any()):
                return True
    return False


class _quiet:  # noqa: N801 - reads as a word in a `with` statement
    """Let numpy compute infinities without a warning, as runtimes do."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._errors = np.errstate(all="ignore")
        self._warnings.__enter__()
        self._errors.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        self._errors.__exit__(None, None, None)
        self._warnings.__exit__(None, None, None)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"
