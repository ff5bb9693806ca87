"""A small HTML table, as notebooks show objects; all text is escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

_CELL = 'style="text-align: left; vertical-align: top"'
_NUMBER = 'style="text-align: right; vertical-align: top"'


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """A paragraph and a table.

    Args:
        title: the paragraph; lines stay lines.
        header: of each column.
        rows: their cells; lines stay lines.
        right: columns that are aligned to the right.
    """
    styles = [_NUMBER if column in right else _CELL for column in range(len(header))]

    def line(tag: str, cells: Sequence[str]) -> str:
        row = (f"<{tag} {style}>{_lines(cell)}</{tag}>" for style, cell in zip(styles, cells, strict=True))
        return f"<tr>{''.join(row)}</tr>"

    body = "".join(line("td", cells) for cells in rows)
    return f"<p>{_lines(title)}</p><table><thead>{line('th', header)}</thead><tbody>{body}</tbody></table>"


def _lines(text: str) -> str:
    return "<br>".join(map(escape, text.split("\n")))
