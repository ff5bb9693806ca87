"""An overview, and the run that came of it, as one page of HTML that asks for nothing from outside.

Names in it are the user's, and so may be anything: they travel as JSON or are escaped, and the script only ever makes
text of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atograph.inspection.of_run.view import run_view
from atograph.inspection.overview import GroupView, Overview
from atograph.inspection.pages import lines
from atograph.inspection.pages.template import rendered
from atograph.inspection.rows import rows
from atograph.inspection.text import places, ties, units_at
from atograph.report import numbers
from atograph.report.run import Report

_SCRIPTS = ("dom.js", "network.js", "tree.js", "groups.js", "panel.js", "stops.js", "run.js", "page.js")
"""Joined in this order, the page's one script."""

_SIZE = {
    "width": lines.WIDTH, "height": lines.HEIGHT, "left": lines.LEFT, "right": lines.WIDTH - lines.RIGHT,
    "top": lines.TOP, "bottom": lines.HEIGHT - lines.BOTTOM,
}  # fmt: skip


@dataclass(frozen=True)
class _Total:
    """A figure of the header: ``after`` is what a plan leaves, empty where there is none."""

    name: str
    before: str
    after: str
    title: str


def page(shown: Overview, report: Report | None = None) -> str:
    """A page to walk through the network, and with a report through its run.

    Args:
        shown: the network; with a plan's widths, the page tells them too.
        report: of the run.
    """
    data = shown.model_dump(mode="json", exclude={"groups", "inputs"}) | {"groups": list(map(_group, shown.groups))}
    return rendered(
        "page.html.j2",
        styles=("network.css", *(["run.css"] if report else [])),
        scripts=_SCRIPTS,
        title=shown.name,
        note=shown.note,
        totals=list(_totals(shown)),
        run=None if report is None else run_view(report, shown),
        size=_SIZE,
        data=data,
    )


def _totals(shown: Overview) -> Iterator[_Total]:
    costs = (
        ("FLOPs", shown.flops, shown.kept_flops, " for a batch of one"),
        ("parameters", shown.params, shown.kept_params, ""),
    )
    for name, before, after, of in costs:
        if after is None:
            yield _Total(name, numbers.count(before), "", f"{before:,} {name}{of}")
        else:
            title = f"{before:,} {name} before, {after:,} after, {numbers.percent(after / max(before, 1))}{of}"
            yield _Total(name, numbers.count(before), numbers.count(after), title)
    prunable = shown.prunable
    units = sum(group.units for group in prunable)
    kept = sum(group.units if group.kept is None else group.kept for group in prunable)
    left = "" if shown.kept_flops is None else f"{kept:,}"
    title = f"{len(prunable):,} of {len(shown.groups):,} groups can be pruned; units are those of these groups"
    yield _Total("units", f"{units:,}", left, title)
    if shown.kept_flops is None:
        yield _Total("groups can be pruned", f"{len(prunable):,} of {len(shown.groups):,}", "", "")


def _group(group: GroupView) -> dict[str, object]:
    """A group, with what `text` would say of its members."""
    (row,) = rows([group])
    found = group.model_dump(mode="json", exclude={"members", "slices", "joins"})
    found |= {"made_by": list(row.made_by), "read_by": list(row.read_by), "joins": ties(group)}
    found["members"] = list(_members(group))
    return found


def _members(group: GroupView) -> Iterator[dict[str, object]]:
    zero: dict[tuple[str, int], list[str]] = {}
    for part in group.slices:
        zero.setdefault((part.parameter, part.dim), []).append(units_at(part))
    for each in group.members:
        yield {
            "parameter": each.parameter,
            "dim": each.dim,
            "role": each.role,
            "ops": places(each.reads),
            "zero": zero.get((each.parameter, each.dim), []),
        }
