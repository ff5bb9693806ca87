"""Commands that measure: each prints its table. Run them from a checkout, `python -m benchmarks.NAME`."""
