"""Sizes of inputs that are dynamic: asked for, recorded at several points, and what code decides by them."""
