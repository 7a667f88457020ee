"""What docs/matlab.md says can be done, can be done."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.io import savemat
from typer.testing import CliRunner

import onnxgrad
from fixtures.make_matlab import FUNCTIONS
from fixtures.matlab.networks import Network
from fixtures.matlab.saved import as_object, saved
from onnxgrad.cli import app
from onnxgrad.importers.matlab.functions import DISTANCES, PROCESSING, TRANSFER
from tests.importers import matlab_by_hand

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "matlab.md").read_text(encoding="utf-8")
FIXTURES = ROOT / "fixtures" / "matlab"
RECORDED = np.load(FIXTURES / "recorded.npz")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIXTURES / "static.m", "net.m")
    shutil.copy(FIXTURES / "static.mat", "net.mat")
    return tmp_path


def test_the_recipe(folder: Path) -> None:
    x = RECORDED["static/x1"]
    names: dict[str, object] = {"onnxgrad": onnxgrad, "x": x}
    block = BLOCKS[0]
    exec(block, names)
    np.testing.assert_allclose(names["y"], RECORDED["static/y1"], rtol=1e-12)
    np.testing.assert_allclose(names["jacobian"], RECORDED["static/jac_y1_x1"], rtol=1e-11)
    (other,) = re.findall(r'onnxgrad\.load\("net\.mat".*?\)', block)
    np.testing.assert_allclose(eval(other, names)(x), RECORDED["static/y1"], rtol=1e-12)


def by_complex_steps(net: Network, cost: Callable[[Network], Any]) -> np.ndarray:
    """The gradient of a cost by all weights and biases."""
    net, found = copy.deepcopy(net), []
    arrays = [(w, "matrix") for w in net.weights] + [(a, "bias") for a in net.layers if a.bias is not None]
    for holder, field in arrays:
        start = getattr(holder, field).astype(complex)
        for place in np.ndindex(start.shape):
            moved = start.copy()
            moved[place] += 1e-20j
            setattr(holder, field, moved)
            found.append(np.imag(cost(net)) / 1e-20)
        setattr(holder, field, start)
    return np.array(found)


def trained(name: str, x: np.ndarray, t: np.ndarray, train: np.ndarray, gradient: list[float]) -> None:
    """Write what the page says is saved: samples are columns, whole numbers small, indices count from 1."""
    record = {"trainInd": train[None] + 1.0, "gradient": [gradient], "best_epoch": np.uint8(1), "num_epochs": 3.0}
    fields = {"net": as_object(saved(FUNCTIONS[name][0])), "tr": record, "x": x.T.astype(np.uint8), "t": t.T}
    savemat("trained.mat", fields)


@pytest.mark.parametrize("name", ["static", "deep", "cascade", "without_bias", "one_of_each"])
def test_the_gradient_of_the_training(folder: Path, name: str) -> None:
    """Against complex steps of the network by hand, which knows nothing of the importer."""
    rng, net = np.random.default_rng(4), FUNCTIONS[name][0]
    (y,) = matlab_by_hand.evaluate(net, {"x1": np.zeros((1, net.inputs[0].rows))}, 1).values()
    x, t = rng.integers(0, 9, (12, net.inputs[0].rows)), rng.normal(size=(12, y.shape[1]))
    train = np.array([0, 2, 3, 5, 7, 8, 11])

    def mse(net: Network) -> Any:
        (y,) = matlab_by_hand.evaluate(net, {"x1": x[train].astype(float)}, len(train)).values()
        return np.mean((y - t[train]) ** 2)

    expected = by_complex_steps(net, mse)
    trained(name, x, t, train, [1.0, float(np.linalg.norm(expected)), 3.0])
    names: dict[str, Any] = {"onnxgrad": onnxgrad}
    exec(BLOCKS[1], names)
    assert len(expected) == sum(names["found"][d.output].size for d in onnxgrad.derivatives(names["model"]))
    np.testing.assert_allclose(names["norm"], names["recorded"], rtol=1e-12)


def test_the_gradient_of_a_cross_entropy(folder: Path) -> None:
    rng, net = np.random.default_rng(5), FUNCTIONS["pattern"][0]
    x = rng.normal(size=(6, 5))
    p = matlab_by_hand.evaluate(net, {"x1": x}, 6)["y1"]
    t = np.eye(p.shape[1])[rng.integers(0, p.shape[1], 6)]

    def crossentropy(net: Network) -> Any:
        return np.mean(-t * np.log(matlab_by_hand.evaluate(net, {"x1": x}, 6)["y1"]))

    shutil.copy(FIXTURES / "pattern.m", "pattern.m")
    model = onnxgrad.gradient("pattern.m", cost="soft_cross_entropy", wrt="weights")
    found = onnxgrad.load(model)(x1=x, target=t)
    norm = np.sqrt(sum(np.sum(found[d.output] ** 2) for d in onnxgrad.derivatives(model))) / p.shape[1]
    np.testing.assert_allclose(norm, np.linalg.norm(by_complex_steps(net, crossentropy)), rtol=1e-12)


def test_windows_of_a_series() -> None:
    names: dict[str, Any] = {"np": np}
    exec(BLOCKS[2], names)
    x1, xi1 = names["windows"](np.arange(10.0).reshape(5, 2), 2)
    np.testing.assert_array_equal(x1, [[4, 5], [6, 7], [8, 9]])
    np.testing.assert_array_equal(xi1, [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]])


def test_every_function_and_command_takes_such_files(folder: Path) -> None:
    assert "All other functions and commands of onnxgrad take such a file" in PAGE
    for file in ("net.m", "net.mat"):
        assert [o.name for o in onnxgrad.jacobian(file).graph.output] == ["y1", "jac_y1_x1"]
        for line in (
            f"inspect {file}",
            f"augment {file} -o out.onnx --jacobian",
            f"check {file}",
            f"lower {file} -o l.onnx",
        ):
            result = CliRunner().invoke(app, line.split(), catch_exceptions=False)
            assert result.exit_code == 0, (line, result.output)


def test_the_commands(folder: Path) -> None:
    lines = re.findall(r"^    onnxgrad (.+)$", PAGE, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        result = CliRunner().invoke(app, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
    outputs = [output.name for output in onnx.load("net_with_jacobian.onnx").graph.output]
    assert outputs == ["y1", "jac_y1_x1"]


@pytest.mark.parametrize(
    ("row", "functions"),
    [("transfer functions", TRANSFER), ("weight functions", ["dotprod", *DISTANCES]), ("processing", PROCESSING)],
)
def test_the_table_is_complete(row: str, functions: list[str]) -> None:
    (cells,) = re.findall(rf"^\| {row} \| (.+) \|$", PAGE, re.MULTILINE)
    assert set(functions) <= set(re.findall(r"\w+", cells))


def test_the_order_of_delayed_values() -> None:
    """`xi1` is one block of inputs for each delay, the oldest first."""
    f = onnxgrad.load(FIXTURES / "late.m")  # delays 1 and 3 of three, two inputs
    jacobian = f.jacobian({k: RECORDED[f"late/{k}"] for k in ("x1", "xi1")}, of="y1", wrt="xi1")
    used = abs(jacobian).max(axis=(0, 1)) > 0
    assert used.tolist() == [True, True, False, False, True, True]


def test_derivatives_by_weights_have_the_shape_of_matlab(folder: Path) -> None:
    assert 'f.jacobian(x, wrt="LW2_1")' in PAGE
    assert onnxgrad.load("net.m").jacobian(RECORDED["static/x1"], wrt="LW2_1").shape == (4, 2, 2, 4)
