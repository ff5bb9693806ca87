"""ONNX files in, ONNX files out."""
