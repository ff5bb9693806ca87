"""Running ONNX files in ONNX Runtime, in a process of its own."""
