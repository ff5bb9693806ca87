"""Tables on a terminal that is too narrow for them: each row as a few lines, so that no number is cut in two."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_WORDS = 12
"""Columns of characters that a text needs at least, where it is folded."""


def fitted(shown: RenderableType, console: Console) -> RenderableType:
    """The same, with rows as lines in place of tables whose figures the console has no room for."""
    if isinstance(shown, Group):
        return Group(*(fitted(each, console) for each in shown.renderables))
    if isinstance(shown, Table) and _needs(shown, console) > console.width:
        return as_lines(shown)
    return shown


def as_lines(table: Table) -> RenderableType:
    """A table without columns: the first cell of each row, and below it the others, each behind its heading.

    FLOPs
      dense 3.30 M, slim 988 K, slim / dense 30.0 %
    """
    columns = [list(column.cells) for column in table.columns]
    headings = [_plain(column.header) for column in table.columns]
    lines: list[RenderableType] = [Text()]
    if headings and headings[0]:
        lines.append(Text(headings[0], style="bold"))
    for row in zip(*columns, strict=True):
        first, *others = row
        lines.append(_shown(first))
        short, long = list[str](), list[RenderableType]()
        for heading, cell in zip(headings[1:], others, strict=True):
            if not isinstance(cell, str | Text):
                long += [Text(heading), cell]
            elif text := _plain(cell).strip():
                short.append(f"{heading} {text}".strip())
        lines += [Padding(each, (0, 0, 0, 2)) for each in ([Text(", ".join(short))] if short else []) + long]
    if table.caption:
        lines += [Text(), _shown(table.caption)]
    return Group(*lines)


def _needs(table: Table, console: Console) -> int:
    """The least width in which all figures, to the right in their columns, stay whole."""
    width = 0
    for column in table.columns:
        widest = max(
            (Measurement.get(console, console.options, cell).maximum for cell in (column.header, *column.cells)),
            default=0,
        )
        cells = max((Measurement.get(console, console.options, cell).maximum for cell in column.cells), default=0)
        figures = column.justify == "right" or column.no_wrap
        width += (cells if figures else min(widest, _WORDS)) + sum(table.padding[1::2])
    return width


def _shown(cell: RenderableType) -> RenderableType:
    return Text(cell) if isinstance(cell, str) else cell


def _plain(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
