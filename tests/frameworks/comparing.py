"""What every exported model is held to: its derivatives are those that its own framework computes.

A `Case` is one export of one model. Making it gives an `Export`: the ONNX model, a batch of inputs, and what the
framework itself says there, all of it from the framework's own differentiation. `compare` holds onnxgrad against that.

Each derivative is per sample. A model with an open batch is asked as users ask; one with a fixed batch is asked for the
derivatives per sample (which needs the proof that samples do not mix) and for the whole Jacobian, whose blocks off the
diagonal must be exactly zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx

import onnxgrad
from onnxgrad.errors import DisconnectedWarning, RunError
from onnxgrad.runtime.evaluate import Evaluator

DType = Literal["float32", "float64"]
Batch = Literal["dynamic", "static"]
#: What is compared, in order.
QUANTITIES = ("value", "Jacobian", "gradient", "Hessian")

#: Two ways to the same number: each sums some hundred products, so a hundred roundings (2.2e-16, 1.2e-7) are between
#: them at most. A second derivative adds terms that cancel, in both frameworks.
TOLERANCES: Mapping[DType, Mapping[str, float]] = {
    "float64": {"value": 2e-14, "Jacobian": 2e-14, "gradient": 2e-14, "Hessian": 1e-13},
    "float32": {"value": 1e-5, "Jacobian": 1e-5, "gradient": 1e-5, "Hessian": 5e-5},
}


@dataclass(frozen=True)
class Export:
    """An exported model and what its framework says at a batch of N samples.

    Where the Hessian would be large, `direction` (shaped like x) is given, and `hessian` holds the product with it.

    Attributes:
        model: the exported model.
        inputs: what is fed, by name; axis 0 of each is that of samples.
        value: the output, of shape ``(N, *y)``.
        jacobian: of shape ``(N, *y, *x)``.
        gradient: that of the element `index` of the flattened output of each sample, of shape ``(N, *x)``.
        hessian: that of the same element, of shape ``(N, *x, *x)``, or ``(N, *x)`` with a `direction`.
        direction: a vector for the Hessian, of shape ``(N, *x)``; None: the whole Hessian.
        index: which element of the output the gradient and the Hessian are of.
        of: name of the output; None: the only one.
        wrt: name of the input x; None: the only one.
    """

    model: onnx.ModelProto
    inputs: Mapping[str, np.ndarray]
    value: np.ndarray
    jacobian: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    direction: np.ndarray | None = None
    index: int = 0
    of: str | None = None
    wrt: str | None = None


@dataclass(frozen=True)
class Case:
    """One export of one model; ``str`` of it is the name of its test.

    Attributes:
        framework: as in `tests.frameworks.catalog`.
        exporter: what writes the ONNX model.
        model: what kind of model it is; one row of the table for each, of both types and batches.
        dtype: of all numbers in the model.
        batch: whether the size of the batch is open.
        make: exports the model.
        tolerances: wider ones by quantity, with the reason beside them where they are written.
    """

    framework: str
    exporter: str
    model: str
    dtype: DType
    batch: Batch
    make: Callable[[], Export]
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join(part.replace(" ", "_") for part in (self.exporter, self.model, self.dtype, self.batch))

    @property
    def row(self) -> tuple[str, str, str]:
        """The row of the table that the case belongs to."""
        return self.framework, self.exporter, self.model

    def tolerance(self, quantity: str) -> float:
        """Return the largest relative difference of a quantity that is rounding."""
        return self.tolerances.get(quantity, TOLERANCES[self.dtype][quantity])


@dataclass(frozen=True)
class Differences:
    """What was found for a case.

    Attributes:
        row: that of the case.
        dtype: that of the case.
        largest: the largest difference by quantity, relative to the largest element of the framework's own result.
        reference: whether ONNX's reference ran the model, since onnxruntime has no float64 kernel of some operator.
    """

    row: tuple[str, str, str]
    dtype: DType
    largest: Mapping[str, float]
    reference: bool


def compare(case: Case) -> Differences:
    """Hold one export against its framework.

    Raises:
        AssertionError: if a value or a derivative has another type or shape, or differs beyond the tolerance.
    """
    export = case.make()
    onnx.checker.check_model(export.model)
    samples = len(export.value)
    assert {len(array) for array in export.inputs.values()} == {samples}, "one value for each sample"
    asked = Asked(export, "auto" if case.batch == "dynamic" else True)
    quantities = {
        "value": (asked.value(), export.value),
        "Jacobian": (asked.jacobian(), export.jacobian),
        "gradient": (asked.gradient(), export.gradient),
        "Hessian": (asked.hessian(), export.hessian),
    }
    largest = {}
    for quantity, (ours, own) in quantities.items():
        assert own.dtype == case.dtype, f"{case.framework} gives its {quantity} as {own.dtype}"
        difference, bound = relative(ours, own), case.tolerance(quantity)
        assert difference <= bound, f"the {quantity} differs by {difference:.1e}, more than {bound:.0e}"
        largest[quantity] = difference
    if case.batch == "static":
        whole = asked.jacobian(batched=False).reshape(samples, -1, samples, export.inputs[asked.wrt][0].size)
        blocks = np.zeros_like(whole)
        every = np.arange(samples)
        blocks[every, :, every] = quantities["Jacobian"][0].reshape(samples, *blocks.shape[1::2])
        assert (whole != 0)[blocks == 0].sum() == 0, "samples meet in the whole Jacobian, and do not in the model"
        assert relative(whole, blocks) <= case.tolerance("Jacobian"), "per sample, the Jacobian is another"
    return Differences(case.row, case.dtype, largest, asked.reference)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest element of `expected`; 0 only where both are equal."""
    assert found.dtype == expected.dtype, f"{found.dtype} instead of {expected.dtype}"
    assert found.shape == expected.shape, f"shape {found.shape} instead of {expected.shape}"
    assert np.isfinite(expected).all(), "the framework's own result is not finite"
    difference = float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64)), initial=0))
    scale = float(np.max(np.abs(expected), initial=0))
    if scale == 0:
        return 0.0 if difference == 0 else np.inf
    return difference / scale if np.isfinite(difference) else np.inf


class Asked:
    """onnxgrad's answers for an export, as users get them: from `onnxgrad.load`.

    onnxruntime has no float64 kernels of some operators (convolutions among them), and says so. Such a model is given
    the same derivatives by the transforms, and ONNX's reference runs what comes out.

    Attributes:
        reference: whether that was so.
    """

    def __init__(self, export: Export, batched: Any) -> None:
        self._export = export
        self._options = {"of": export.of, "wrt": export.wrt, "batched": batched}
        self._function = onnxgrad.load(export.model)
        self.wrt = export.wrt or self._function.inputs[0].name
        self.of = export.of or self._function.outputs[0].name
        self.reference = False

    def value(self) -> np.ndarray:
        try:
            found = self._function(self._export.inputs)
        except RunError as error:
            if "has no kernel of this operator" not in str(error) or self._dtype != np.float64:
                raise
            self.reference = True
            found = self._refer(self._export.model)
        return found[self.of] if isinstance(found, dict) else found

    def jacobian(self, **options: Any) -> np.ndarray:
        return self._derive("jacobian", **options)

    def gradient(self) -> np.ndarray:
        return self._derive("gradient", index=self._export.index)

    def hessian(self) -> np.ndarray:
        if self._export.direction is None:
            return self._derive("hessian", index=self._export.index)
        return self._derive("hvp", index=self._export.index)

    def _derive(self, kind: str, **options: Any) -> np.ndarray:
        options = {**self._options, "of": self.of, "wrt": self.wrt, **options}
        direction = {} if kind != "hvp" else {"vector": self._export.direction}
        with warnings.catch_warnings():  # where a derivative is zero, so must be the framework's
            warnings.simplefilter("ignore", DisconnectedWarning)
            if not self.reference:
                return getattr(self._function, kind)(self._export.inputs, **direction, **options)
            model = getattr(onnxgrad, kind)(self._export.model, **options)
            (record,) = onnxgrad.derivatives(model)
            seed = {record.seed: direction["vector"]} if direction else {}
            return self._refer(model, seed)[record.output]

    def _refer(self, model: onnx.ModelProto, more: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        return Evaluator(model, prefer="reference", only=True)({**self._export.inputs, **(more or {})})

    @property
    def _dtype(self) -> Any:
        return self._export.inputs[self.wrt].dtype
