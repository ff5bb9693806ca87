"""Losses and metrics: the default ones, and those of a whole data set."""
