"""Files that are loaded in a runtime in a process of its own, and called like the program that they were made from."""
