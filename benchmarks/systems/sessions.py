"""Plain sessions of onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

Array = np.ndarray[Any, Any]


class Session:
    """A model that onnxruntime has loaded, with the options that onnxgrad sets.

    Args:
        model: the model, its bytes, or its path.
        threads: threads within an operator.

    Attributes:
        inputs: names of the inputs.
        outputs: names of the outputs.
    """

    def __init__(self, model: onnx.ModelProto | bytes | str, threads: int) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
        session = ort.InferenceSession(content, options, ["CPUExecutionProvider"])
        self.inputs = [v.name for v in session.get_inputs()]
        self.outputs = [v.name for v in session.get_outputs()]
        self._run = session.run

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """Return outputs by name, or all."""
        return self._run(outputs, feeds)

    def one(self, output: str, x_name: str, x: Array, seed_name: str, seeds: Array) -> Array:
        """Return one output for an input and seeds."""
        return self._run([output], {x_name: x, seed_name: seeds})[0]
