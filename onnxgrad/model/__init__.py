"""What a model is: reading, normalizing, describing, annotating and writing it. Knows `onnx_ir`, never a runtime."""
