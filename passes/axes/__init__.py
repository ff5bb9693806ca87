"""Dimensions as expressions over axes, and their unification."""
