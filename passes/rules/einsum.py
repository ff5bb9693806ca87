"""Equations of einsum, read."""

from __future__ import annotations


def spelt_out(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the output; an ellipsis gets letters of its own, and the output that an
    equation without an arrow implies is written down (letters that occur once, in alphabetical order)."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow:
        letters = inputs.replace(",", "").replace(".", "")
        output = ("..." if "..." in inputs else "") + "".join(sorted(c for c in letters if letters.count(c) == 1))
    free = [chr(code) for code in range(ord("α"), ord("ω") + 1)]
    widest = max((rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term), default=0)
    rest = "".join(free[:widest])
    spelt = [
        term.replace("...", rest[widest - (rank - len(term) + 3) :] if "..." in term else "")
        for term, rank in zip(terms, ranks, strict=True)
    ]
    return spelt, output.replace("...", rest)
