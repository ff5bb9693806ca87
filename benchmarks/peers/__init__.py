"""Other libraries, on the same models."""
