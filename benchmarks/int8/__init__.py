"""Int8 beside float32, in ONNX Runtime and OpenVINO."""
