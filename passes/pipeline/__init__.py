"""Passes in a row: their names, the verifier between them, the text of what they work on."""
