"""A plan as people read it: a row for each width of the model, those of repeated blocks together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atograph.passes.analysis.patterns import pattern_of
from atograph.passes.plan.names import fold, layer_of


@dataclass(frozen=True)
class Row:
    """One group of a plan, or groups of one size whose layers differ in the numbers of their blocks only.

    Attributes:
        groups: their names.
        size: number of units of each in the dense model.
        kept: how many of them stay, of each.
        made_by, read_by: the layers, folded.
    """

    groups: tuple[str, ...]
    size: int
    kept: tuple[int, ...]
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]

    @property
    def title(self) -> str:
        """``g3``, or ``g3 … g25 (12)``."""
        first, last = self.groups[0], self.groups[-1]
        return first if len(self.groups) == 1 else f"{first} … {last} ({len(self.groups)})"

    @property
    def counts(self) -> str:
        """``24``, or ``20–28`` where they differ."""
        least, most = min(self.kept), max(self.kept)
        return f"{least:,}" if least == most else f"{least:,}–{most:,}"

    @property
    def sides(self) -> str:
        """``conv1, bn1 → conv2``."""
        read_by = f"→ {', '.join(self.read_by)}" if self.read_by else ""
        return " ".join(filter(None, (", ".join(self.made_by), read_by)))


def rows(sizes: Mapping[str, int], counts: Mapping[str, int], words: Mapping[str, str]) -> list[Row]:
    """The groups of a plan as rows.

    Args:
        sizes: group name → units of the dense model.
        counts: group name → units that stay.
        words: group name → its members, as `Group.description` says them; may be missing in an old plan.
    """
    alike: dict[object, list[str]] = {}
    for name, size in sizes.items():
        sides = _layers(words.get(name, ""))
        kind = (size, *(tuple(pattern_of(f"{layer}.")[0] for layer in side) for side in sides)) if any(sides) else name
        alike.setdefault(kind, []).append(name)
    return [
        Row(
            groups=tuple(names),
            size=sizes[names[0]],
            kept=tuple(counts[name] for name in names),
            made_by=_folded(words, names, 0),
            read_by=_folded(words, names, 1),
        )
        for names in alike.values()
    ]


def _layers(words: str) -> tuple[list[str], list[str]]:
    makers, _, readers = words.partition("→")
    return _of_side(makers), _of_side(readers)


def _of_side(words: str) -> list[str]:
    """The layers of ``16 units  conv1.weight[0], conv1.bias[0]``."""
    members = (each.rpartition("  ")[2].strip() for each in words.split(", "))
    return list(dict.fromkeys(layer_of(each.rpartition("[")[0]) for each in members if "[" in each))


def _folded(words: Mapping[str, str], names: list[str], side: int) -> tuple[str, ...]:
    return tuple(fold([layer for name in names for layer in _layers(words.get(name, ""))[side]]))
