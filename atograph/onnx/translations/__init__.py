"""Ops that atograph writes to ONNX by itself: each a function that torch.onnx traces, and the table of them."""
