"""Every row of docs/kinks.md holds."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxgrad
from tests.harness import Runner

PAGE = Path(__file__).parents[2] / "docs" / "kinks.md"
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \|", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


def numbers(text: str) -> Any:
    """Evaluate a literal with fractions, `inf` and `nan`."""
    return eval(text, {"__builtins__": {}}, {"inf": np.inf, "nan": np.nan, "True": True, "False": False})


def assignments(text: str) -> dict[str, np.ndarray]:
    """Read ``x = 1.0, y = [2.0, 3.0]``."""
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {k.arg: np.array(numbers(ast.unparse(k.value)), np.float64) for k in call.keywords if k.arg}


def model_of(expression: str, point: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the model of one node, e.g. ``Clip(x, 0.0, 1.0)``."""
    call = ast.parse(expression, mode="eval").body
    assert isinstance(call, ast.Call)
    domain, _, op = ast.unparse(call.func).rpartition(".")
    names, constants = [], []
    for i, argument in enumerate(call.args):
        if isinstance(argument, ast.Name):
            names.append(argument.id)
            continue
        value = numbers(ast.unparse(argument))
        names.append("" if value is None else f"constant{i}")
        if value is not None:
            constants.append(onnx.numpy_helper.from_array(np.array(value), f"constant{i}"))
    attributes = {k.arg: numbers(ast.unparse(k.value)) for k in call.keywords if k.arg}
    schema = onnx.defs.get_schema(op, domain=domain)
    outputs = ["out", *(f"out{i}" for i in range(1, schema.min_output))]
    node = helper.make_node(op, names, outputs, domain=domain, **attributes)
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, a.shape) for n, a in point.items()]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name="out")], constants)
    opsets = [helper.make_opsetid("", 22 if domain else max(22, schema.since_version))]
    opsets += [helper.make_opsetid(domain, 3)] if domain else []
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def test_the_table_is_read() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(ROWS) == len(lines) >= 25


@pytest.mark.parametrize(("node", "point", "derivative"), ROWS, ids=[f"{row[0]} at {row[1]}" for row in ROWS])
def test_row(node: str, point: str, derivative: str) -> None:
    feeds = assignments(point)
    if "=" in derivative:
        expected = assignments(derivative)
    else:
        (name,) = feeds
        expected = {name: np.array(numbers(derivative), np.float64)}
    model = model_of(node, feeds)
    primal = Runner(model)(feeds)["out"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)  # of the steps
        derived = onnxgrad.vjp(model, "out", list(feeds))
    with np.errstate(all="ignore"):
        found = Runner(derived)({**feeds, "adj_out": np.ones_like(primal)})
    assert set(expected) == set(feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"adj_{name}"], value, rtol=1e-12, atol=0, err_msg=name)
