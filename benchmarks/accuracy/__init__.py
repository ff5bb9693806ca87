"""Accuracy at a budget against what one would do instead."""
