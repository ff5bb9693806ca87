"""ONNX files as modules: read, their constants sorted into weights and numbers, their ops computed by a table of rows."""
