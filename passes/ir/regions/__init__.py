"""Regions: the graphs that ops of control flow run, as parts of programs."""
