"""Assertions about derivatives, for tests. The pytest fixture `derivative_regression` is in `pytest_onnxgrad`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnxgrad.comparison.compare import MAX_ELEMENTS, Tolerance, compare_subjects
from onnxgrad.comparison.differences import Tolerances
from onnxgrad.comparison.portions import in_portions
from onnxgrad.comparison.report import Comparison
from onnxgrad.comparison.subjects import FunctionSubject, ModelSubject, Subject
from onnxgrad.runtime import Function

__all__ = ["assert_derivatives_close"]


def assert_derivatives_close(
    actual: Any,
    expected: Any,
    data: Any = None,
    *,
    jacobian: Callable[..., Any] | None = None,
    of: str | Sequence[str] | None = None,
    wrt: str | Sequence[str] | None = None,
    rtol: Tolerance = None,
    atol: Tolerance = None,
    straight_through: bool | None = None,
    max_elements: int = MAX_ELEMENTS,
    seed: int = 0,
) -> Comparison:
    """Assert that a model has the outputs and the derivatives of another model, or of a Python function.

    Example:
        >>> assert_derivatives_close("new.onnx", "old.onnx", {"x": x})                      # doctest: +SKIP
        >>> assert_derivatives_close("net.onnx", lambda x: np.tanh(x @ W), {"x": x})        # doctest: +SKIP
        >>> assert_derivatives_close("net.onnx", f, {"x": x}, jacobian=jax.jacobian(f))     # doctest: +SKIP

    Args:
        actual: a model: what `onnxgrad.load` takes, or a `Function`.
        expected: another one, or a Python function. The function takes the inputs of the model as arrays, by position
            in the model's order, and returns its outputs: an array for a single one, else a dictionary by name, or a
            sequence in order. It must keep complex numbers, unless `jacobian` is given.
        data: what is fed, as for `onnxgrad.compare`; None: random numbers.
        jacobian: for a function, another one which takes the same arguments and returns the Jacobian: of shape
            ``(N, *y, *x)`` per sample, or ``(*y, *x)`` in full, as ``jax.jacobian`` gives it; for several outputs, a
            dictionary or sequence of them; for several inputs, one of those of each output. None: the derivative by
            complex steps, ``Im f(x + ih) / h``, exact to rounding for a function of analytic operations.
        of: the outputs to compare; None: all.
        wrt: the inputs to differentiate by; None: all that are floating-point.
        rtol: relative tolerance, as for `onnxgrad.compare`.
        atol: absolute tolerance.
        straight_through: as for `onnxgrad.compare`.
        max_elements: Jacobians with more elements are compared along random cotangents.
        seed: seed of random numbers.

    Returns:
        What was compared.

    Raises:
        AssertionError: if they differ, or if a derivative is refused: with what differs, where, and by how much.
        OnnxgradError: what `onnxgrad.compare` raises.
    """
    __tracebackhide__ = True
    model = in_portions(ModelSubject(actual, "actual", straight_through), data)
    other: Subject
    if callable(expected) and not isinstance(expected, Function):
        other = FunctionSubject(expected, jacobian, model)
    else:
        if jacobian is not None:
            raise TypeError("`jacobian` goes with a function; a model has its own derivatives")
        other = in_portions(ModelSubject(expected, "expected", straight_through), data)
    found = compare_subjects(
        model, other, data, of, wrt, Tolerances(rtol, atol), True, max_elements, worst=3, seed=seed
    )
    if not found.ok or any(row.verdict == "refused" for row in found.rows):
        raise AssertionError(str(found))
    return found
