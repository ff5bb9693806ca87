"""What a module does while it runs: its calls, the integers in them, samples of what it computes."""
