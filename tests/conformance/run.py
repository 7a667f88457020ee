"""What becomes of each of ONNX's test cases when it is differentiated."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from onnxgrad.checks import check_model
from onnxgrad.errors import OnnxgradError, RunError, TensorTypeError
from tests.conformance.cases import Case, cases


@dataclass(frozen=True)
class Outcome:
    """The derivative of one output of a case by one input.

    Attributes:
        case, form: the case; see `Case`.
        pair: ``"output by input"``; empty where it concerns the case as a whole.
        operators: the operators of the model.
        verdict: as in `onnxgrad.checks.Row`, or "changed" (its outputs, by adding derivatives), or "crash".
        detail: the reason.
        jvp: whether the forward mode was checked, too.
    """

    case: str
    form: str
    pair: str
    operators: frozenset[str]
    verdict: str
    detail: str
    jvp: bool = False

    def __str__(self) -> str:
        return f"{self.case} ({self.form}) {self.pair}: {self.verdict}: {self.detail}"


def outcomes(module: str) -> Iterator[Outcome]:
    """Yield the outcome for each output and input of each case of a module."""
    for case in cases(module):
        yield from outcomes_of(case)


def outcomes_of(case: Case) -> Iterator[Outcome]:
    """Yield the outcome for each output and input of a case."""
    operators = frozenset(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in case.model.graph.node)

    def outcome(pair: str, verdict: str, detail: str, jvp: bool = False) -> Outcome:
        return Outcome(case.name, case.form, pair, operators, verdict, detail, jvp)

    try:
        report = check_model(case.model, data=case.feeds, threads=1)
    except (RunError, TensorTypeError) as error:
        yield outcome("", "not runnable", str(error))
        return
    except OnnxgradError as error:
        yield outcome("", "refused", str(error))
        return
    except Exception as error:  # whatever it is, it is a defect to be listed
        last = traceback.extract_tb(error.__traceback__)[-1]
        yield outcome("", "crash", f"{type(error).__name__} in {last.name}, line {last.lineno}: {error}")
        return
    for row in report.rows:
        yield outcome(f"{row.of} by {row.wrt}", row.verdict, row.detail, row.adjoint is not None)
    if report.primal.verdict == "changed":
        yield outcome("", "changed", report.primal.detail)
