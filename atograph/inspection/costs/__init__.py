"""What a plan leaves of a network, and what no plan can change: numbers that every view shows."""
