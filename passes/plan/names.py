"""Dotted names of repeated blocks, folded: ``blocks.0–11.attn.qkv`` for twelve names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from atograph.passes.analysis.patterns import Numbers, pattern_of


def fold(names: Iterable[str], *, blocks: bool = False) -> list[str]:
    """Names, those that differ in such numbers only as one, in the order of the first of each.

    Every name that a folded one stands for was given: ``a.0–1.b.0–1`` stands for four.

    Args:
        names: of modules.
        blocks: whether a number at the very end of a name counts blocks, too (``denselayer3``).
    """
    if blocks:
        return [name.removesuffix(".") for name in fold(f"{name}." if name else "" for name in names)]
    by_pattern: dict[tuple[str, ...], dict[Numbers, None]] = {}
    for name in names:
        pattern, numbers = pattern_of(name)
        by_pattern.setdefault(pattern, {})[numbers] = None
    folded = []
    for pattern, found in by_pattern.items():
        for block in _blocks(list(found)):
            texts = [*map(ranges, block), ""]
            folded.append("".join(part for pair in zip(pattern, texts, strict=True) for part in pair))
    return folded


def _blocks(tuples: Sequence[Numbers]) -> list[list[list[int]]]:
    """Tuples as products of sets of numbers, which together hold each of them once."""
    if not tuples[0]:
        return [[]]
    rests: dict[int, list[Numbers]] = {}
    for first, *rest in tuples:
        rests.setdefault(first, []).append(tuple(rest))
    firsts: dict[frozenset[Numbers], list[int]] = {}
    for first, found in rests.items():
        firsts.setdefault(frozenset(found), []).append(first)
    return [
        [sorted(alike), *inner] for alike in firsts.values() for inner in _blocks(rests[alike[0]])
    ]  # fmt: skip


def ranges(numbers: Sequence[int]) -> str:
    """Increasing numbers as text: ``0–3,5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def layer_of(parameter: str) -> str:
    """What a person calls a parameter's layer: its module, or the parameter itself where it has a name of its own."""
    module, _, leaf = parameter.rpartition(".")
    return module if module and leaf in ("weight", "bias") else parameter
