"""The textual form of programs: printed, and read back."""
