"""Processes, the memory of the machine, and what is said while something takes long."""
