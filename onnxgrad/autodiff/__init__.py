"""Differentiation: what lies in between, the two sweeps, Jacobians, the proof that samples stay apart, cost."""

from onnxgrad.autodiff import control

__all__ = ["control"]
