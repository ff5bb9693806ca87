"""Progressive tightening: the budget falls step by step."""
