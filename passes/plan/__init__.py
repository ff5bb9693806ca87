"""Plans: which units stay, and how they are chosen."""
