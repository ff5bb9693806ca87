"""A table of a page, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Head:
    """A column: what stands above it, and whether numbers stand below."""

    text: str
    number: bool = True


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file beside the page."""

    text: str
    href: str


@dataclass(frozen=True)
class Verdict:
    """A cell that says whether something holds."""

    text: str
    good: bool


Cell: TypeAlias = str | Link | Verdict


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first one of each names it.

    Attributes:
        title: what stands above; without ``heads``, rows are pairs of a name and a text.
        notes: sentences below it.
    """

    title: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())
