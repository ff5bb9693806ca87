"""What an error says in one line: the reason within, where torch wraps it into words about its compiler."""

from __future__ import annotations

import re

_WITHIN = re.compile(r"\bgot (?P<kind>\w+)\((?P<quote>['\"])(?P<text>.+)(?P=quote)\)\s*$")
"""How Dynamo ends the line that tells what an op raised: ``... got RuntimeError("...")``."""
_UNTOLD = ("RuntimeError when making fake tensor call", "This higher order operator doesn't work unless it is captured")
"""First lines of Dynamo that say nothing of the user's code; the reason is among those after them."""


def reason_of(error: Exception) -> tuple[str, str]:
    """Kind of an error, and its first line; one that ends in a colon goes on, and one of Dynamo's gives way to what
    it wraps."""
    kind = type(error).__name__
    first, *lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if first.startswith(_UNTOLD) and lines:
        found = next((found for line in lines if (found := _WITHIN.search(line))), None)
        if found is not None:
            return found["kind"], found["text"].encode("latin-1", "replace").decode("unicode_escape").splitlines()[0]
        first = lines.pop(0)
    while first.endswith(":") and lines:
        first = f"{first} {lines.pop(0)}"
    return kind, first
