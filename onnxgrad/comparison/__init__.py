"""Two models side by side, or one and what was recorded of it: outputs and derivatives."""

from onnxgrad.comparison.compare import compare
from onnxgrad.comparison.golden import read_golden, record, verify
from onnxgrad.comparison.report import Comparison, Place, Row, Spread

__all__ = ["Comparison", "Place", "Row", "Spread", "compare", "read_golden", "record", "verify"]
