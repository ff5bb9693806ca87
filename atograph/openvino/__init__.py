"""OpenVINO in a process of its own: ONNX files become its own format, and run there."""
