"""Other ways that a module's code can go than the one that was traced."""
