"""Running: a model becomes a callable on onnxruntime. The only part of onnxgrad that knows a runtime."""
