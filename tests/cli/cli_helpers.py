"""Models and a runner for tests of the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
from typer.testing import CliRunner

from onnxgrad.cli import app


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def message(self) -> str:
        """What is on stderr, in one line."""
        return " ".join(self.err.split())


def command(*arguments: object) -> Outcome:
    """Run the command line within this process; what is no exit is raised."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return Outcome(result.exit_code, result.stdout, result.stderr)


def save(folder: Path, text: str, name: str = "model.onnx") -> Path:
    """Write a model, given as text without its header, to a file."""
    path = folder / name
    header = '<ir_version: 10, opset_import: ["": 18, "my.domain": 1, "ai.onnx.ml": 3]>'
    onnx.save(onnx.parser.parse_model(f"{header}\n{text}"), path)
    return path


#: ``y = tanh(x W)``
LAYER = """
net (double[N, 3] x) => (double[N, 2] y)
<double[3, 2] W = {0.5, -0.25, 1, 0.75, -1, 0.125}>
{
  h = MatMul(x, W)
  y = Tanh(h)
}
"""

#: One number for each sample, of two inputs with one column each.
COLUMNS = """
net (double[N, 1] speed, double[N] mass) => (double[N, 1] energy)
<double half = {0.5}, int64[1] one = {1}>
{
  m = Unsqueeze(mass, one)
  squared = Mul(speed, speed)
  product = Mul(m, squared)
  energy = Mul(product, half)
}
"""

#: Two inputs of several columns.
WIDE = """
net (double[N, 2] a, double[N, 3] b) => (double[N, 5] y, double[N] total)
<int64[1] last = {1}>
{
  y = Concat<axis = 1>(a, b)
  squares = Mul(y, y)
  total = ReduceSum<keepdims = 0>(squares, last)
}
"""

#: Samples are averaged.
MIXING = """
net (double[N, 3] x) => (double[N, 3] y)
<int64[1] zero = {0}>
{
  mean = ReduceMean<keepdims = 1>(x, zero)
  y = Sub(x, mean)
}
"""

#: Two operators without a rule.
STRANGE = """
net (double[N, 3] x) => (double[N, 3] y)
{
  a = my.domain.Fold(x)
  b = Tanh(a)
  y = my.domain.Unfold(b)
}
"""
