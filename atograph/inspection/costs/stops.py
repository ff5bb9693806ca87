"""What keeps a network from being pruned, reason by reason, and how much that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from atograph.inspection.interfaces import Traced
from atograph.passes.analysis.groups import Group
from atograph.passes.cost.cost import flops_by_node, params_with
from atograph.passes.cost.widths import Widths
from atograph.passes.ir.polynomial import Polynomial, added, value_at


class Share(BaseModel):
    """Parameters and FLOPs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: int
    flops: int
    """For a batch of one."""


class Stop(BaseModel):
    """One reason why groups stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    wish: bool
    """Whether it is the user's own wish."""
    groups: tuple[str, ...]
    """Those that stay for it."""
    places: tuple[str, ...]
    """Lines of code that are the cause: ``file:line``."""
    whole: Share
    """What no plan changes: all groups along it stay, one of them for this reason."""
    hanging: Share
    """All that has units of these groups, and would shrink with them if they could go."""


def stops(graph: Traced) -> tuple[Stop, ...]:
    """The reasons why groups stay, those first that keep the most FLOPs."""
    frozen = [group for group in graph.groups if group.frozen is not None]
    counts = Widths(replace(graph.groups, listed=tuple(replace(group, frozen=None) for group in graph.groups)))
    costs = {
        "params": params_with(graph.program, counts),
        "flops": added(flops_by_node(graph.groups.axes, counts).values()),
    }
    stay = frozenset(group.name for group in frozen)
    made = list(_by_reason(frozen, stay, costs, counts.sizes))
    return tuple(sorted(made, key=lambda each: (-each.whole.flops, -each.whole.params, -each.hanging.flops)))


def _by_reason(
    frozen: Iterable[Group], stay: frozenset[str], costs: Mapping[str, Polynomial], sizes: Mapping[str, int]
) -> Iterator[Stop]:
    alike: dict[tuple[bool, str], list[Group]] = {}
    for group in frozen:
        assert group.frozen is not None
        alike.setdefault((group.frozen.wish, group.frozen.text), []).append(group)
    for (wish, text), groups in alike.items():
        names = frozenset(group.name for group in groups)

        whole, hanging = (
            Share(**{what: _at(cost, names, of, sizes) for what, cost in costs.items()})
            for of in (stay, frozenset(sizes))
        )
        places = dict.fromkeys(group.frozen.source for group in groups if group.frozen and group.frozen.source)
        yield Stop(
            text=text, wish=wish, groups=tuple(group.name for group in groups), places=tuple(places),
            whole=whole, hanging=hanging,
        )  # fmt: skip


def _at(cost: Polynomial, names: frozenset[str], of: frozenset[str], sizes: Mapping[str, int]) -> int:
    """Of the terms that have a group among ``names``, those whose groups are all among ``of``."""

    def counts(held: tuple[str, ...]) -> bool:
        groups = sizes.keys() & {*held}  # other factors are conditions
        return bool(names & groups) and groups <= of

    return value_at(Polynomial({held: factor for held, factor in cost.terms.items() if counts(held)}), sizes)
