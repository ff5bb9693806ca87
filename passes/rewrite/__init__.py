"""Passes that give a new program."""
