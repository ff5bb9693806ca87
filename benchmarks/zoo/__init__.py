"""Known models: captured, pruned, proved equal."""
