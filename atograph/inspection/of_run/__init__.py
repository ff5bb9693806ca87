"""What a page tells of a finished run: what it came to, how to load it, its layers, its curves."""
