"""Tensors without data: made directly, and what ops give for them."""
