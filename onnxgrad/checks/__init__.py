"""Numerical checks: derivatives against differences."""

from onnxgrad.checks.check import check_model
from onnxgrad.checks.report import VERDICTS, CheckReport, Primal, Row, Verdict

__all__ = ["VERDICTS", "CheckReport", "Primal", "Row", "Verdict", "check_model"]
