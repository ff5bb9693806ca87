"""Costs that a plan can be held to: one budget a file, the table of them, and several of them at once."""
