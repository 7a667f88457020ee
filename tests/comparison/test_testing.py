"""`assert_derivatives_close`, and the fixture `derivative_regression`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad
from onnxgrad.testing import assert_derivatives_close
from tests.comparison.comparison_models import APART, X, function, jacobian, network, parsed

pytest_plugins = ["pytester"]


def test_two_models() -> None:
    assert assert_derivatives_close(network(), network("double"), X).ok
    with pytest.raises(AssertionError, match=r"(?s)actual and expected differ.*y:x \(jacobian\): differs.*moved"):
        assert_derivatives_close(network(), network(planted=1e-4), X)


def test_a_function_by_complex_steps() -> None:
    assert assert_derivatives_close(network("double"), function, X).ok
    assert assert_derivatives_close(network("double"), function, {"x": X}, max_elements=10).ok
    with pytest.raises(AssertionError, match="y:x"):
        assert_derivatives_close(network("double", 1e-4), function, X)


def test_a_function_with_its_jacobian() -> None:
    assert assert_derivatives_close(network("double"), function, X, jacobian=jacobian).ok
    with pytest.raises(AssertionError, match=r"y:x \(jacobian\): differs"):
        assert_derivatives_close(network("double"), function, X, jacobian=lambda x: 1.0001 * jacobian(x))


def test_a_jacobian_in_full() -> None:
    """As frameworks give it: with the zeros between samples."""

    def full(x: np.ndarray) -> np.ndarray:
        n = len(x)
        wide = np.zeros((n, 3, n, 4))
        wide[np.arange(n), :, np.arange(n)] = jacobian(x)
        return wide

    assert assert_derivatives_close(network("double"), function, X, jacobian=full).ok
    assert assert_derivatives_close(network("double"), function, X, jacobian=full, max_elements=10).ok
    with pytest.raises(onnxgrad.MixedSamplesError, match="not zero between samples"):
        assert_derivatives_close(network("double"), function, X, jacobian=lambda x: full(x) + 1e-9)


def test_several_inputs_and_outputs() -> None:
    model = parsed(APART % 2.0)
    data = {"u": X[:, :2], "v": X[:, 2:]}
    assert assert_derivatives_close(model, lambda u, v: (2 * np.sin(u), np.cos(v)), data).ok
    assert assert_derivatives_close(model, lambda u, v: {"q": np.cos(v), "p": 2 * np.sin(u)}, data).ok

    def derivative(u: np.ndarray, v: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
        eye = np.eye(2)
        zero = np.zeros((6, 2, 2))
        return (2 * np.cos(u)[:, :, None] * eye, zero), (zero, -np.sin(v)[:, :, None] * eye)

    found = assert_derivatives_close(model, lambda u, v: (2 * np.sin(u), np.cos(v)), data, jacobian=derivative)
    assert [row.name for row in found.rows] == ["p", "q", "p:u", "p:v", "q:u", "q:v"]
    with pytest.raises(AssertionError, match="q:v"):
        assert_derivatives_close(model, lambda u, v: (2 * np.sin(u), np.cos(v + 1e-6)), data)


def test_functions_that_cannot_be_used() -> None:
    with pytest.raises(TypeError, match="returns float64 for complex input"):
        assert_derivatives_close(network("double"), lambda x: function(x).real, X)
    with pytest.raises(ValueError, match="must return 2 outputs: p, q"):
        assert_derivatives_close(parsed(APART % 1.0), lambda u, v: (u,))
    with pytest.raises(ValueError, match="returns no q"):
        assert_derivatives_close(parsed(APART % 1.0), lambda u, v: {"p": u})
    with pytest.raises(TypeError, match="goes with a function"):
        assert_derivatives_close(network(), network(), X, jacobian=jacobian)


# --- the fixture -------------------------------------------------------------------------------

TEST = """
def test_net(derivative_regression):
    derivative_regression.check("net.onnx")
"""


def prepared(pytester: pytest.Pytester, model: onnx.ModelProto) -> None:
    onnx.save(model, pytester.path / "net.onnx")


def outcome(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "pytest_onnxgrad", *arguments)


def test_the_fixture(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written at first, held at the next run, differing when the model changes, and made anew on demand."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    prepared(pytester, network())
    pytester.makepyfile(test_it=TEST)
    result = outcome(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*File not found in data directory, created:*"])
    golden = pytester.path / "test_it" / "test_net.npz"
    assert golden.is_file()
    outcome(pytester).assert_outcomes(passed=1)
    assert onnxgrad.verify(network(), golden).ok  # the command line can read it
    prepared(pytester, network(planted=1e-4))
    result = outcome(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*y:x (jacobian): differs*moved: *x[[]2]*"])
    outcome(pytester, "--force-regen").assert_outcomes(failed=1)
    outcome(pytester).assert_outcomes(passed=1)
    prepared(pytester, network("double"))
    result = outcome(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*was made from another model*"])


def test_the_plugin_imports_nothing_heavy() -> None:
    heavy = ("onnxgrad", "onnx", "onnxruntime", "numpy")
    code = f"import sys, pytest_onnxgrad; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert found.stdout.strip() == "[]"


def test_without_pytest_regressions(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    prepared(pytester, network())
    pytester.makeconftest("import sys\nsys.modules['pytest_regressions.common'] = None\n")
    pytester.makepyfile(test_it=f"{TEST}\n\ndef test_other():\n    pass\n")
    result = outcome(pytester)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*pip install 'onnxgrad[[]testing[]]'*"])


def test_a_model_of_one_sample() -> None:
    """It is run on the samples one by one."""
    assert_derivatives_close(network("double", batch="1"), function, {"x": X})
    assert_derivatives_close(network("double", batch="1"), network("double"), X)
