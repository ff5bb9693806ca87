"""An overview, and the run that came of it, as one page of HTML that asks for nothing from outside.

Names in it are the user's, and so may be anything: they travel as JSON, and the script only ever makes text of them.
A Content-Security-Policy lets nothing run but the scripts that stand in the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from markupsafe import Markup

from atograph.inspection.overview import GroupView, Overview
from atograph.inspection.rows import rows
from atograph.inspection.template import asset, digest, template
from atograph.inspection.text import places, ties, units_at
from atograph.report.run import Report

_SCRIPTS = ("dom.js", "network.js", "tree.js", "groups.js", "panel.js", "stops.js", "run.js", "page.js")
"""Joined in this order, the page's one script."""


def page(shown: Overview, report: Report | None = None) -> str:
    """A page to walk through the network, and with a report through its run.

    Args:
        shown: the network; with a plan's widths, the page tells them too.
        report: of the run; its curves are plotted, so that the page grows by some 5 MB.
    """
    style, script = asset("page.css"), "\n".join(map(asset, _SCRIPTS))
    plots = None if report is None else _plots()
    data = {
        "overview": shown.model_dump(mode="json", exclude={"groups"}) | {"groups": list(map(_group, shown.groups))},
        "report": None if report is None else json.loads(report.model_dump_json()),  # no NaN, which JSON has not
    }
    return template("page.html.j2").render(
        name=shown.name,
        policy=_policy(style, script, plots),
        data=data,
        style=Markup(style),
        script=Markup(script),
        plots=None if plots is None else Markup(plots),
    )


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


def _plots() -> str:
    from plotly.offline import get_plotlyjs

    found: str = get_plotlyjs()
    return found.replace("\r\n", "\n").replace("\r", "\n")  # as the browser reads it: the policy names its digest


def _policy(style: str, script: str, plots: str | None) -> str:
    """Nothing from outside, and of what stands in the page only what was put there."""
    scripts = [script] if plots is None else [plots, script]
    styles = digest(style) if plots is None else "'unsafe-inline'"  # Plotly brings its own, and styles what it draws
    return (
        f"default-src 'none'; script-src {' '.join(map(digest, scripts))}; style-src {styles}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
