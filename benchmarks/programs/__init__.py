"""Ways in for a dozen models."""
