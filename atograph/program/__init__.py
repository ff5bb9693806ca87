"""``slim.pt2``: a slim program as a file, written, read without trust, and run in a process of its own."""
