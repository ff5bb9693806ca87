"""ONNX files as programs: read, their constants sorted into weights and numbers, their ops computed by a table."""
