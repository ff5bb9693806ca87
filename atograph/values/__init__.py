"""Batches, outputs and models as values: moved, compared, copied, put back."""
