"""Several budgets in one go."""
