"""Groups of repeated blocks as one row of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from atograph.inspection.overview import GroupView, Why
from atograph.passes.analysis.patterns import pattern_of
from atograph.passes.plan.names import fold, layer_of

Order = Literal["model", "units", "params", "flops"]
"""How rows are sorted: as the parameters stand in the model, or the largest first."""

ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class Row:
    """Groups of equal size whose members differ in the numbers of their blocks only.

    Attributes:
        groups: one, or several that are alike.
        made_by, read_by: modules, folded; a parameter that stands in the model itself by its own name.
    """

    groups: Sequence[GroupView]
    made_by: Sequence[str]
    read_by: Sequence[str]

    @property
    def title(self) -> str:
        """``g3``, or ``g3 … g25 (12)``."""
        first, last = self.groups[0].name, self.groups[-1].name
        return first if len(self.groups) == 1 else f"{first} … {last} ({len(self.groups)})"

    @property
    def sides(self) -> str:
        """``conv1, bn1 → conv2``."""
        arrow = "→ " + ", ".join(self.read_by) if self.read_by else ""
        return " ".join(filter(None, (", ".join(self.made_by), arrow)))

    @property
    def params(self) -> int:
        """Of all of them."""
        return sum(group.params for group in self.groups)

    @property
    def flops(self) -> int:
        """Of all of them."""
        return sum(group.flops for group in self.groups)

    @property
    def kept(self) -> str:
        """Units that stay, of each."""
        found = {group.kept for group in self.groups if group.kept is not None}
        return "" if not found else str(*found) if len(found) == 1 else f"{min(found)}–{max(found)}"


def rows(groups: Iterable[GroupView], *, folded: bool = True, order: Order = "model") -> list[Row]:
    """Groups as rows.

    Args:
        groups: in the model's order.
        folded: repeated blocks as one row.
        order: see `Order`.
    """
    alike: dict[object, list[GroupView]] = {}
    seen: Counter[object] = Counter()
    for group in groups:
        own = frozenset((each.parameter, each.dim) for each in group.members)
        seen[own] += 1  # heads and their width, say, stand in the same dimensions, and are no blocks
        alike.setdefault((seen[own], _kind(group)) if folded else group.name, []).append(group)
    made = [
        Row(each, _modules(each, "makes"), _modules(each, "reads")) for each in alike.values()
    ]  # fmt: skip
    if order == "model":
        return made
    keys: Mapping[Order, Callable[[Row], int]] = {
        "units": lambda row: row.groups[0].units, "params": lambda row: row.params, "flops": lambda row: row.flops,
    }  # fmt: skip
    return sorted(made, key=keys[order], reverse=True)


def _kind(group: GroupView) -> object:
    """What groups of repeated blocks have in common."""
    members = tuple((*_pattern(each.parameter), each.dim, each.role) for each in group.members)
    return group.units, group.least, _kind_of_reason(group.why), members


def _kind_of_reason(why: Why | None) -> object:
    return why and (why.text, pattern_of(why.module)[0], why.source, why.wish)


def _pattern(parameter: str) -> tuple[tuple[str, ...], str]:
    module, _, leaf = parameter.rpartition(".")
    return pattern_of(module)[0], leaf


def _modules(groups: Iterable[GroupView], role: str) -> list[str]:
    members = [each for group in groups for each in group.members if each.role == role]
    return fold(dict.fromkeys(layer_of(each.parameter) for each in members))
