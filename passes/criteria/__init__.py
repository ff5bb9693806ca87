"""How important units are: one criterion a file, the table of them, and scores made of what they say."""
