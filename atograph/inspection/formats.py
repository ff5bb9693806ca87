"""The forms that a graph is written in, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO

from rich.console import Console, RenderableType

from atograph.inspection.interfaces import Traced
from atograph.inspection.overview import Overview

Writer = Callable[[Traced, Overview], str]


@dataclass(frozen=True)
class Format:
    """One form.

    Attributes:
        write: a graph, and the overview of it, in this form.
        beside: ending of a second file → what is in that.
    """

    write: Writer
    beside: Mapping[str, Writer] | None = None


def plain(shown: RenderableType, width: int = 120) -> str:
    """What the terminal would show, as text."""
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(shown, markup=False, highlight=False)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _text(_graph: Traced, shown: Overview) -> str:
    from atograph.inspection.text import overview_table

    return plain(overview_table(shown))


def _json(_graph: Traced, shown: Overview) -> str:
    return shown.model_dump_json(indent=1) + "\n"


def _dot(_graph: Traced, shown: Overview) -> str:
    from atograph.inspection.drawing import dot

    source: str = dot(shown).source
    return source


def _graphml(_graph: Traced, shown: Overview) -> str:
    from atograph.inspection.drawing import graphml

    return graphml(shown)


def _svg(_graph: Traced, shown: Overview) -> str:
    from atograph.inspection.drawing import svg

    return svg(shown)


def _html(_graph: Traced, shown: Overview) -> str:
    from atograph.inspection.page import page

    return page(shown)


def _model_explorer(graph: Traced, shown: Overview) -> str:
    from atograph.inspection.model_explorer import graph_json

    return graph_json(graph, shown)


def _model_explorer_groups(graph: Traced, shown: Overview) -> str:
    from atograph.inspection.model_explorer import groups_json

    return groups_json(graph, shown)


FORMATS: Mapping[str, Format] = {
    "text": Format(_text),
    "json": Format(_json),
    "dot": Format(_dot),
    "svg": Format(_svg),
    "graphml": Format(_graphml),
    "html": Format(_html),
    "model-explorer": Format(_model_explorer, {".groups.json": _model_explorer_groups}),
}
