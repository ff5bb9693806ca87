"""The command line: one file a command, and how a command runs."""
