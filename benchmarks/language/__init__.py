"""Bits per character at a budget."""
