"""Proofs: dense network = slim program = ONNX file, FLOPs as counted, the same result each time."""
