"""How `make docs` makes a site from the documents and the docstrings."""
