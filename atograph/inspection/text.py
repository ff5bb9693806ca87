"""An overview as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from atograph.inspection.chain import Cause
from atograph.inspection.overview import GroupView, Member, Overview, SourceOp, Why
from atograph.inspection.rows import Order, Row, rows
from atograph.passes.analysis.slices import Slice
from atograph.passes.plan.names import fold
from atograph.report import numbers


def overview_table(shown: Overview, *, folded: bool = True, order: Order = "model") -> RenderableType:
    """Totals, then a row for each group, or for those of repeated blocks together."""
    planned = any(group.kept is not None for group in shown.groups)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("group", no_wrap=True)
    table.add_column("units", justify="right", no_wrap=True)
    if planned:
        table.add_column("kept", justify="right", no_wrap=True)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("FLOPs", justify="right", no_wrap=True)
    table.add_column("made by → read by", overflow="fold")
    for row in rows(shown.groups, folded=folded, order=order):
        shares = (_share(row.params, shown.params), _share(row.flops, shown.flops))
        cells = (row.title, f"{row.groups[0].units:,}", *([row.kept] if planned else []), *shares)
        table.add_row(*map(Text, cells), _sides(row, shown.floor))
    return Group(*map(Text, headlines(shown, folded=folded)), Text(), table, Text(), Text(_LEGEND, style="dim"))


def headlines(shown: Overview, *, folded: bool = True) -> list[str]:
    """Totals, and what holds for all groups; names of repeated blocks together."""
    units = sum(group.units for group in shown.prunable)
    empties = [group for group in shown.prunable if group.least == 0]
    titles = ", ".join(row.title for row in rows(empties, folded=folded))
    return [
        f"{shown.name}: {numbers.count(shown.params)} parameters, {numbers.count(shown.flops)} FLOPs; "
        f"{len(shown.prunable)} of {len(shown.groups)} groups can be pruned, with {units:,} units",
        *([f"coupled: {', '.join(f'{a} with {b}' for a, b in shown.coupled)}"] if shown.coupled else []),
        *([f"of each, at least {numbers.percent(shown.floor)} of its units stay"] if shown.floor else []),
        *([f"{len(empties)} of them may lose all of their units: {titles}"] if empties else []),
        *([shown.note] if shown.note else []),
    ]


_LEGEND = (
    "params and FLOPs: the share that hangs on the group's units, and shrinks with them. "
    "A weight hangs on two groups, so shares add up to more than 100 %."
)


def _sides(row: Row, floor: float) -> Text:
    text = Text(row.sides)
    first = row.groups[0]
    if first.why is not None:
        text.append(f"\nstays: {reason(*row.groups)}", style="dim")
    elif first.least > max(1, ceil(floor * first.units)):
        text.append(f"\nat least {first.least:,} of each stay", style="dim")
    return text


def reason(*groups: GroupView) -> str:
    """Why a group stays, or several do that are alike, and where."""
    found = [group.why for group in groups if group.why is not None]
    modules = fold(dict.fromkeys(why.module for why in found), blocks=True)
    where = ", ".join(part for part in (*modules, found[0].source) if part)
    return f"{found[0].text} ({where})" if where else found[0].text


def told(why: Why) -> str:
    """A reason with its place."""
    where = ", ".join(part for part in (why.module, why.source) if part)
    return f"{why.text} ({where})" if where else why.text


def group_text(shown: Overview, group: GroupView) -> RenderableType:
    """All of one group: members with their slices and the ops that take them, and what ties them together."""
    hanging = (
        f"{_share(group.params, shown.params)} of the parameters and {_share(group.flops, shown.flops)} of the FLOPs"
    )
    parts: list[RenderableType] = [Text(f"{group.name}: {group.units:,} units; {hanging} hang on it")]
    if group.why is not None:
        parts.append(Text(f"stays whole: {reason(group)}"))
    if group.slices:
        parts.append(Text("unit u can go once its slices are zero"))
    if group.least > 1:
        parts.append(Text(f"at least {group.least:,} units stay"))
    if group.whole is not None:
        saved = f"{_share(group.whole.params, shown.params)} of the parameters and "
        saved += f"{_share(group.whole.flops, shown.flops)} of the FLOPs"
        parts.append(Text(f"all of it may go (--depth), and {saved} with it"))
    elif group.prunable and group.why_not_whole is not None:
        parts.append(Text(f"one unit stays in any case: {told(group.why_not_whole)}"))
    if group.kept is not None:
        parts.append(Text(f"the plan keeps {group.kept:,}"))
    shapes = {each.name: each.shape for each in shown.parameters}
    for role, title in (("makes", "made by"), ("reads", "read by")):
        members = [each for each in group.members if each.role == role]
        if members:
            parts += [Text(), Text(title), _members(group, members, shapes)]
    if tied := ties(group):
        parts += [Text(), Text("tied together by"), *map(_indented, tied)]
    return Group(*parts)


def ties(group: GroupView) -> list[str]:
    """What makes the units of several layers one: ops, and the user's wish."""
    return [*places(group.joins), *(f"your coupling with {name}" for name in group.wished)]


def _share(part: int, whole: int) -> str:
    return numbers.percent(part / max(whole, 1))


def _members(group: GroupView, members: Iterable[Member], shapes: Mapping[str, tuple[int, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    for each in members:
        units = [units_at(part) for part in group.slices if (part.parameter, part.dim) == (each.parameter, each.dim)]
        zeroed = f"zero: {', '.join(units)}" if units else ""
        cells = (f"  {each.parameter}[{each.dim}]", "×".join(map(str, shapes[each.parameter])),
                 "; ".join(places(each.reads)), zeroed)  # fmt: skip
        table.add_row(*map(Text, cells))
    return table


def units_at(part: Slice) -> str:
    """Where unit ``u`` of a group lies in a dimension, as a slice: ``[64u:64u+64]``."""
    place = "u" if part.positions is None else "p(u)"  # of units in another order
    first = f"{part.inner}{place}" if part.inner > 1 else place
    first = f"{part.offset}+{first}" if part.offset else first
    found = f"[{first}]" if part.inner == 1 else f"[{first}:{first}+{part.inner}]"
    return f"{found} of each {part.stride}" if part.outer > 1 else found


def places(found: Iterable[SourceOp]) -> list[str]:
    """``conv2d in layer1.0–2.conv1 (resnet.py:146)``: an op of repeated blocks once."""
    modules: dict[tuple[str, str], list[str]] = {}
    for each in found:
        modules.setdefault((each.op, each.source), []).append(each.module)
    return [
        f"{op}{f' in {module}' if module else ''}{f' ({source})' if source else ''}"
        for (op, source), inside in modules.items()
        for module in fold(dict.fromkeys(inside), blocks=True)
    ]


def causes_text(shown: Overview, found: Iterable[Cause]) -> RenderableType:
    """Why a parameter can, or cannot, be pruned, group by group; kernel sizes in one line."""
    parts: list[RenderableType] = []
    structural: dict[str, list[str]] = {}
    views = {group.name: group for group in shown.groups}
    for cause in found:
        if cause.group is None:
            text = "it is no width" if cause.reason is None else cause.reason.text
            structural.setdefault(text, []).extend(cause.asked)
        else:
            parts += [*([Text()] if parts else []), *_cause_lines(cause, views[cause.group.name])]
    for text, asked in structural.items():
        parts += [*([Text()] if parts else []), Text(f"{', '.join(asked)}: no width, but {text}")]
    return Group(*parts) if parts else Text("it has a single element, so there is nothing to prune.")


def _cause_lines(cause: Cause, group: GroupView) -> Iterator[RenderableType]:
    more = f" and {len(cause.asked) - _SHOWN} more" if len(cause.asked) > _SHOWN else ""
    asked = ", ".join(cause.asked[:_SHOWN]) + more
    (row,) = rows([group])
    if group.why is None:
        yield Text(f"{asked}: can be pruned, with {group.name} of {group.units:,} units.")
        yield from _listed("its units go together from", row.made_by)
        yield from _listed("and from what reads them:", row.read_by)
        yield from _listed("tied together by", ties(group))
        return
    yield Text(f"{asked}: stays, with {group.name} of {group.units:,} units, because of: {reason(group)}.")
    for link in cause.links:
        at = f"{link.what} {link.where}".rstrip()
        yield _indented(f"× {at}, both summed over by {link.through}" if link.through else f"{_ARROWS[link.how]} {at}")
    if group.why.wish:
        yield from _listed("that keeps whole", (*row.made_by, *row.read_by))


def _listed(title: str, names: Sequence[str]) -> Iterator[RenderableType]:
    if names:
        yield _indented(f"{title} {', '.join(names)}")


def _indented(text: str) -> RenderableType:
    return Padding(Text(text), (0, 0, 0, 2))


_SHOWN = 6
_ARROWS = {"start": " ", "computed": "→", "computes": "←"}
