"""Analyses: axes of every tensor, zero-invariant groups, the proof that they are."""
