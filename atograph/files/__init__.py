"""Files that are read with care and written as a whole."""
