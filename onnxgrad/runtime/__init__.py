"""Running: a model becomes a callable on onnxruntime. The only part of onnxgrad that knows a runtime."""

from onnxgrad.runtime.function import Function, load

__all__ = ["Function", "load"]
