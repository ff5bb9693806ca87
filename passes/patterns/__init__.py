"""Patterns of ops and what takes their place, both written as Python functions."""
