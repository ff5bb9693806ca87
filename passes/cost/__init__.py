"""What a program costs at any widths, and the budgets on it."""
