"""Decoding with a slim cache in ONNX Runtime."""
