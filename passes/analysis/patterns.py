"""Names and patterns that a user gives for layers: which parameters they stand for, and what to say if none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase

from atograph.passes.errors import UserError

Numbers = tuple[int, ...]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$|\[)|^\d+(?=\.|$|\[)|(?<=[A-Za-z_])\d+(?=\.)")


def pattern_of(name: str) -> tuple[tuple[str, ...], Numbers]:
    """The text between the numbers of a name that may count blocks, and these numbers.

    They are numbers that are a whole part of the name (``blocks.3``), or end a part that is not the last one
    (``denselayer3.norm1``): the ``1`` of a layer called ``conv1`` counts nothing.
    """
    return tuple(_NUMBER.split(name)), tuple(int(number) for number in _NUMBER.findall(name))


def names_for(parameter: str) -> Iterator[str]:
    """The names that a parameter goes by: its own, and those of all modules that it is in."""
    while parameter:
        yield parameter
        parameter = parameter.rpartition(".")[0]


def stands_for(pattern: str, parameter: str) -> bool:
    """Whether a glob (``blocks.*.attn``; ``*`` is any text, dots included) names a parameter or a module around it."""
    return any(name == pattern or fnmatchcase(name, pattern) for name in names_for(parameter))


def unknown_name(name: str, parameters: Iterable[str], others: Iterable[str] = ()) -> UserError:
    """What to say of a name or a glob that stands for nothing.

    Args:
        name: as the user gave it.
        parameters: of the model.
        others: what else there is to name.
    """
    known = {each for parameter in parameters for each in names_for(parameter)} | {each for each in others if each}
    near = get_close_matches(name.replace("*", ""), sorted(known), n=3, cutoff=0.3)
    return UserError(
        f"no parameter, module or group is called '{name}'.",
        hint=f"Perhaps {', '.join(near)}?" if near else "`atograph inspect SPEC` lists them.",
    )
