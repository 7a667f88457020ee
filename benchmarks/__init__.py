"""Derivatives by onnxgrad and by other systems, measured side by side: ``python -m benchmarks --help``."""
