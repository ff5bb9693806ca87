"""What a program holds its inputs to, in ONNX files, which have no op that raises: limits of sizes, and decisions."""
