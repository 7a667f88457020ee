"""Steps are exact: each is 1 just where the comparison that it stands for holds, as onnxruntime computes it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxgrad.graph.steps import comparison_of, step_of
from tests.harness import Runner

COMPARE = {"Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal}
#: Among them powers of two, where float32 has neighbors at different distances.
BOUNDS = [6.0, -3.0, 3.0, 1.0, -1.0, 0.25, -0.125, 0.1, -0.6, 1e-6, -1e-20, 255.0, 8191.5, -4096.0, 0.0]


def around(bound: float) -> np.ndarray:
    """Return float32 numbers: the bound, its neighbors, and others far and wide."""
    at = np.float32(bound)
    up = down = at
    near = [at]
    for _ in range(4 if bound else 0):
        up, down = np.nextafter(up, np.float32(np.inf)), np.nextafter(down, np.float32(-np.inf))
        near += [up, down]
    draw = np.random.default_rng(0)
    wide = draw.standard_normal(200) * 10.0 ** draw.integers(-30, 37, 200)
    ends = [np.inf, -np.inf, np.finfo(np.float32).max, np.finfo(np.float32).min, 0.0, -0.0]
    return np.concatenate([near, wide, bound + draw.standard_normal(50), ends]).astype(np.float32)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("comparison", COMPARE)
def test_a_step_is_exact(comparison: str, bound: float) -> None:
    bound = float(np.float32(bound))
    step = step_of(comparison, bound)
    assert step is not None
    x = around(bound)
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(x)]) for name in "xy"]
    nodes = [helper.make_node("HardSigmoid", ["x"], ["y"], alpha=step[0], beta=step[1])]
    graph = helper.make_graph(nodes, "g", port[:1], port[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(proto)
    np.testing.assert_array_equal(Runner(proto)({"x": x})["y"], COMPARE[comparison](x, np.float32(bound)))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("comparison", COMPARE)
def test_what_was_written_is_recognized(comparison: str, bound: float) -> None:
    bound = float(np.float32(bound))
    written = step_of(comparison, bound)
    assert written is not None
    slope, offset = (float(np.float32(number)) for number in written)  # as attributes hold them
    found = comparison_of(slope, offset)
    assert found is not None
    x = around(bound)
    same = COMPARE[found[0]](x, np.float32(found[1]))
    np.testing.assert_array_equal(same, COMPARE[comparison](x, np.float32(bound)))


@pytest.mark.parametrize(
    ("slope", "offset"), [(0.2, 0.5), (1 / 6, 0.5), (-1.0, 1.0), (1.0, 0.0), (0.0, 0.5), (1024.5, 3.0), (2048.0, 0.3)]
)
def test_other_lines_are_no_steps(slope: float, offset: float) -> None:
    assert comparison_of(slope, offset) is None


@pytest.mark.parametrize("bound", [0.1, 1e300, 1e6, float("inf"), float("nan")])
def test_some_bounds_have_no_step(bound: float) -> None:
    """No float32, too large, no number."""
    assert step_of("Greater", bound) is None


def test_equality_is_no_step() -> None:
    assert step_of("Equal", 1.0) is None
