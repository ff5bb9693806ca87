"""Names that a program's code may have: torch.fx writes the names of placeholders into Python as they are."""

from __future__ import annotations

import keyword
import re
import unicodedata

RESERVED = {*keyword.kwlist, "self", "dict", "zip", "torch", "device", "inf", "nan", "NoneType", "pytree", "fx_pytree"}
"""What no input may be called: Python's own words, and names that generated code reads, ours and that of torch.fx."""


def identifier(name: str) -> str:
    """A Python name like a given one: as Python reads it (NFKC), of letters, digits and ``_``, none of `RESERVED`."""
    plain = re.sub(r"\W+", "_", unicodedata.normalize("NFKC", name))
    plain = plain if f"_{plain}".isidentifier() else re.sub(r"\W+", "_", plain, flags=re.ASCII)
    if not plain.strip("_"):
        return "input"
    return plain if plain.isidentifier() and plain not in RESERVED else f"input_{plain}"
