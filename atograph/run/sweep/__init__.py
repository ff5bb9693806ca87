"""One-shot plans at several budgets, without any training."""
