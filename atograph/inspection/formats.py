"""The forms that an overview is written in, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO

from rich.console import Console, RenderableType

from atograph.inspection.overview import Overview


@dataclass(frozen=True)
class Format:
    """One form.

    Attributes:
        text: an overview in this form.
        suffix: what a file of it is called.
        meant: what it is for, in a few words.
    """

    text: Callable[[Overview], str]
    suffix: str
    meant: str


def plain(shown: RenderableType, width: int = 120) -> str:
    """What the terminal would show, as text."""
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(shown, markup=False, highlight=False)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _text(shown: Overview) -> str:
    from atograph.inspection.text import overview_table

    return plain(overview_table(shown))


def _json(shown: Overview) -> str:
    return shown.model_dump_json(indent=1) + "\n"


def _dot(shown: Overview) -> str:
    from atograph.inspection.drawing import dot

    source: str = dot(shown).source
    return source


def _graphml(shown: Overview) -> str:
    from atograph.inspection.drawing import graphml

    return graphml(shown)


def _svg(shown: Overview) -> str:
    from atograph.inspection.drawing import svg

    return svg(shown)


def _html(shown: Overview) -> str:
    from atograph.inspection.page import page

    return page(shown)


def _model_explorer(shown: Overview) -> str:
    from atograph.inspection.model_explorer import graph_json

    return graph_json(shown)


FORMATS: Mapping[str, Format] = {
    "text": Format(_text, ".txt", "a table"),
    "json": Format(_json, ".json", "all there is, as data"),
    "dot": Format(_dot, ".dot", "layers and groups, for Graphviz"),
    "svg": Format(_svg, ".svg", "the same, drawn by Graphviz"),
    "graphml": Format(_graphml, ".graphml", "parameters and groups, for networkx, yEd or Gephi"),
    "html": Format(_html, ".html", "a page to walk through the network"),
    "model-explorer": Format(_model_explorer, ".json", "for Google's Model Explorer"),
}
