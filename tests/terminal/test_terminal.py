"""What a file or a SPEC says is text: no command to a terminal, no end of an XML file, no gigabytes of memory."""

from __future__ import annotations

import io
import sys
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.table import Table
from runs import command

import atograph
from atograph.files.plan_file import read_plan
from atograph.files.reading import PLAN, REPORT, Unreadable, parse_json, read_bytes, read_json
from atograph.passes.errors import printable
from atograph.terminal.console import Console

EVIL = "a\x1b[2J\x1b]0;title\x07\u202e\x9b31m"

NET = f"""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module({EVIL!r}, nn.Linear(4, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(torch.relu(getattr(self, {EVIL!r})(x)))

model = Net

def example_inputs():
    return torch.randn(2, 4)
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net_of_terminal.py").write_text(NET)
    return str(tmp_path / "net_of_terminal.py")


def is_harmless(text: str) -> bool:
    return not any(char in text for char in "\x1b\x07\x9b\u202e")


INSPECT = [[], ["--expand"], ["--group", "g0"], ["--why", "head.weight"], ["--why", "nothing"]]
FORMATS = [["--format", name] for name in ("json", "dot", "graphml", "model-explorer", "html", "svg")]


@pytest.mark.parametrize("arguments", INSPECT + FORMATS, ids=" ".join)
def test_names_of_a_model_command_no_terminal(net: str, tmp_path: Path, arguments: list[str]) -> None:
    out = ["--out", tmp_path / "out"] if "model-explorer" in arguments else []
    code, output = command("inspect", net, *arguments, *out)
    assert is_harmless(output) and "Traceback" not in output
    if code:
        assert "there is no" in output.lower() or "no parameter" in output.lower() or "Graphviz" in output, output


def test_programs_and_errors_command_no_terminal(net: str) -> None:
    code, output = command("opt", net, "--passes", "infer-axes,find-groups", "--print-after-all")
    assert code == 0 and is_harmless(output) and "\\u001b[2J" in output
    code, output = command("compress", net, "--flops", "0.5", "--set", f"{EVIL}=1")
    assert code == 2 and is_harmless(output)


def test_what_ends_a_line_without_a_newline_is_shown() -> None:
    assert printable("a\u2028b\u2029c\x85d\u202ee\n") == "a\\u2028b\\u2029c\\u0085d\\u202ee\n"


def test_graphml_and_dot_are_read_by_others(net: str, tmp_path: Path) -> None:
    assert command("inspect", net, "--format", "graphml", "--out", tmp_path / "g.graphml")[0] == 0
    drawn = ElementTree.parse(tmp_path / "g.graphml").iter()
    nodes = [node.attrib["id"] for node in drawn if node.tag.endswith("node")]
    assert any("\\u001b[2J" in node for node in nodes) and len(set(nodes)) == len(nodes)
    assert command("inspect", net, "--format", "dot", "--out", tmp_path / "g.dot")[0] == 0
    assert "\x1b" not in (tmp_path / "g.dot").read_text()


def test_the_console_has_one_way_out() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out=out, err=err)
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL, style="red")
    for show in (console.say, console.warn, console.error, console.table):
        show(EVIL)  # type: ignore[operator]
    console.table(table)
    assert is_harmless(out.getvalue()) and is_harmless(err.getvalue())
    assert out.getvalue().count("\\u001b") >= 6 and err.getvalue().count("\\u001b") == 4


@pytest.mark.parametrize(
    "content",
    [b"[" + b"[]," * REPORT.elements + b"0]", b'{"a":[' + b'{"b":0},' * (REPORT.elements // 3) + b"0]}"],
)
def test_values_are_counted_before_they_are_made(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(atograph.UserError, match=r"it holds some [\d,]+ values, and at most [\d,]+ are read"):
            read_json(path, "not a report")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content)
    finally:
        tracemalloc.stop()


def test_each_kind_of_file_has_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for limit, read in ((REPORT, read_bytes), (PLAN, read_plan)):
        with path.open("wb") as file:
            file.truncate(limit.bytes + 1)
        with pytest.raises((Unreadable, atograph.UserError), match=rf"at most {limit.bytes:,} are read"):
            read(path)
    assert parse_json('{"a": [1, 2]}', most=4) == {"a": [1, 2]}
    with pytest.raises(Unreadable, match="at most 3 are read"):
        parse_json('{"a": [1, 2]}', most=3)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_arrows_gets_plainer_ones(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", written)
    console = Console()
    console.say("top-1 0.99 → 0.98, 2 × ─ ▁█ é")
    console.say("goes on")
    written.flush()
    first, second = written.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert second == "goes on"
    assert (
        first
        == {
            "ascii": "top-1 0.99 -> 0.98, 2 x - 18 ?",
            "latin-1": "top-1 0.99 -> 0.98, 2 × - 18 é",
            "utf-8": "top-1 0.99 → 0.98, 2 × ─ ▁█ é",
        }[encoding]
    )
