"""Latency of slim models in ONNX Runtime and OpenVINO."""
