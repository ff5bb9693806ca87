"""How long models take in ONNX Runtime: measured, told layer by layer, and predicted for any widths."""
