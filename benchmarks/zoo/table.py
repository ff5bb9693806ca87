"""The zoo table: its columns, and the Markdown that is printed and written."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.zoo.rows import Row
from benchmarks.zoo.summary import seconds_to_program, speed_ratio, summary
from benchmarks.zoo.verdict import depth_verdict, onnx_verdict, peer_verdict, reachable, sizes_of_export, verdict

MARKER = "<!-- table: python -m benchmarks.zoo -->"
"""What stands above this line in a Markdown file is written by hand."""


@dataclass(frozen=True)
class Column:
    """A column; its cell is empty in rows that lack what it shows."""

    header: str
    cell: Callable[[Row], str]


def _at(*path: str) -> Callable[[Row], Any]:
    def value(row: Row) -> Any:
        found: Any = row
        for key in path:
            found = found[key]
        return found

    return value


def _number(header: str, *path: str, form: str = ",", scale: float = 1) -> Column:
    at = _at(*path)
    return Column(header, lambda row: format(at(row) * scale if scale != 1 else at(row), form))


def _yes(header: str, *path: str) -> Column:
    at = _at(*path)
    return Column(header, lambda row: "yes" if at(row) else "no")


def _seconds(header: str, stage: str, form: str = ".2f", scale: float = 1) -> Column:
    return _number(header, "atograph", "seconds", stage, form=form, scale=scale)


def _plan(title: str, name: str) -> list[Column]:
    return [
        _number(f"{title}: difference", "atograph", name, "difference", form=".1e"),
        _number("moved", "atograph", name, "moved", form=".1e"),
        _number("alive", "atograph", name, "alive", form=".1e"),
        _number("FLOPs kept", "atograph", name, "kept", form=".1%"),
    ]


def _as_counted(row: Row) -> str:
    plans = [row["atograph"][name] for name in ("random", "magnitude") if "counted" in row["atograph"].get(name, {})]
    return ("yes" if all(plan["predicted"] == plan["counted"] for plan in plans) else "no") if plans else ""


def _reachable(row: Row) -> str:
    if "magnitude" not in row["atograph"]:
        return ""
    return "yes" if reachable(row) else "no"


def _ratio(row: Row) -> str:
    ratio = speed_ratio(row)
    return "" if ratio is None else f"{ratio:.1f}"


MODEL = Column("model", lambda row: str(row["model"]))
COLUMNS: tuple[Column, ...] = (
    Column("verdict", verdict),
    _number("nodes", "atograph", "nodes"),
    Column("ops without a rule", lambda row: str(sum(row["atograph"]["unknown"].values()))),
    _number("groups", "atograph", "groups"),
    _number("units", "atograph", "units"),
    _number("params", "atograph", "share", form=".1%"),
    _number("least FLOPs", "atograph", "smallest", form=".1%"),
    Column("0.3 reached", _reachable),
    *_plan("random half", "random"),
    *_plan("0.3 of FLOPs", "magnitude"),
    Column("as counted", _as_counted),
    _yes("float32 inside", "atograph", "float32_inside"),
    _yes("module", "module", "slim"),
    _number("attributes set", "module", "attributes"),
    _number("calls corrected", "module", "calls"),
    _number("module s", "module", "seconds", "module", form=".2f"),
    _seconds("capture s", "capture"),
    _seconds("analysis ms, warm", "analysis warm", form=".0f", scale=1e3),
    _seconds("plan s", "plan"),
    _seconds("rewrite s", "rewrite"),
    Column("model to program s", lambda row: "" if (found := seconds_to_program(row)) is None else f"{found:.2f}"),
)
ONNX = (Column("ONNX Runtime", onnx_verdict),)
SIZES = (
    Column("torch.export at any size", lambda row: sizes_of_export(row)),
    Column("dynamic", lambda row: ", ".join(row["sizes"]["dynamic"]) or "none"),
    _number("largest difference at three sizes", "sizes", "largest", form=".1e"),
    _number("in ONNX Runtime", "sizes", "largest_onnx", form=".1e"),
)
DEPTH = (
    _number("may go", "depth", "may_go"),
    _number("gone", "depth", "emptied"),
    Column("without them", lambda row: depth_verdict(row) if "depth" in row else ""),
    _number("difference", "depth", "difference", form=".1e"),
    _number("moved", "depth", "moved", form=".1e"),
    _number("FLOPs kept", "depth", "kept", form=".1%"),
    _yes("module", "depth", "slim"),
)
PEER = (
    Column("Torch-Pruning", peer_verdict),
    _number("its s", "torch-pruning", "total", form=".2f"),
    Column("times faster", _ratio),
)


def columns(rows: Sequence[Row]) -> list[Column]:
    """The model, and the columns for the parts that some row has."""
    optional = [("atograph", COLUMNS), ("onnx", ONNX), ("sizes", SIZES), ("depth", DEPTH), ("torch-pruning", PEER)]
    return [MODEL, *(column for part, more in optional if any(part in row for row in rows) for column in more)]


def cell(column: Column, row: Row) -> str:
    """The text of a cell; a vertical bar would end it in Markdown."""
    try:
        return " ".join(column.cell(row).split()).replace("|", "/")
    except KeyError:
        return ""


def markdown(rows: Sequence[Row]) -> str:
    """The table and the summary."""
    shown = columns(rows)
    table = Table(box=box.MARKDOWN)
    for column in shown:
        table.add_column(Text(column.header), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell(column, row)) for column in shown))
    out = io.StringIO()
    Console(file=out, width=10_000, color_system=None).print(table)
    lines = [line.rstrip() for line in out.getvalue().strip("\n").splitlines()]
    return "\n".join([*(line for line in lines if line), "", summary(rows)]) + "\n"
