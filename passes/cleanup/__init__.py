"""Passes that leave out what a program can do without; each gives what the program gave."""
