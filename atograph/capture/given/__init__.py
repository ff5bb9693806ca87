"""Programs that are there already: their own sizes, and the module that is its program."""
