"""`atograph sensitivity`: the table, the JSON and the page, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from fakes import TwoConvs
from safetensors.torch import save_file
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.inspection import overview
from atograph.inspection.curves.page import sensitivity_page
from atograph.inspection.curves.record import SensitivityView, sensitivity_view
from atograph.inspection.curves.text import sensitivity_table
from atograph.inspection.formats import plain
from atograph.train.pruning.sensitivity import Curve, Sensitivity

NET = """
    import torch
    from torch import nn

    def model():
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

    def train_data():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(256, 4, generator=generator)
        return [(x[i : i + 64], x[i : i + 64, :3].argmax(1)) for i in range(0, 256, 64)]
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(dedent(NET))
    return tmp_path


def command(*args: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, args)
    return done.exit_code, done.stdout, done.stderr


def test_table_json_and_page(net: Path) -> None:
    code, out, err = command(
        "sensitivity",
        "net.py",
        "--flops",
        "0.5,30%",
        "--json",
        "s.json",
        "--html",
        "s.html",
        "--floor",
        "0",
    )
    assert code == 0, err
    shown = SensitivityView.model_validate_json((net / "s.json").read_text())
    assert shown.batches == 4 and shown.by == "taylor" and shown.name == "net"
    assert {curve.units: curve.counts[-1] for curve in shown.curves} == {16: 16, 8: 8}
    assert [budget.flops for budget in shown.budgets] == [0.5, 0.3]
    for budget in shown.budgets:
        for widths in (budget.knapsack, budget.greedy):
            assert 0 < widths.flops <= budget.flops and widths.kept.keys() == {curve.group for curve in shown.curves}
        assert budget.knapsack.rise <= budget.greedy.rise + 1e-9
    assert re.search(r"^net: loss 1\.\d\d over 4 batches; units go by taylor$", out, re.MULTILINE)
    assert "at 0.5  at 0.3" in out and "At 30.0 % of the FLOPs the curves foretell +" in out
    halves = [curve.rise(0.5) for curve in shown.curves]
    assert halves == sorted(halves, reverse=True)
    assert [out.index(f"\n{curve.group} ") for curve in shown.curves] == sorted(
        out.index(f"\n{curve.group} ") for curve in shown.curves
    )
    page = (net / "s.html").read_text()
    assert page.count("<svg") == 2 and page.count('class="mark"') == 4 and "<script" not in page
    assert len(re.findall(r"(?:src|href)=\"(?!data:)", page)) == 0


def test_the_weights_are_those_of_a_file_where_one_is_given(net: Path) -> None:
    torch.manual_seed(5)
    made = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )
    save_file({name: 3 * value for name, value in made.state_dict().items()}, net / "w.safetensors")
    runs = [("--json", "a.json"), ("--json", "b.json"), ("--json", "c.json", "--init", "w.safetensors")]
    for options in runs:
        assert command("sensitivity", "net.py", "--batches", "1", *options)[0] == 0
    first, second, third = ((net / f"{name}.json").read_text() for name in "abc")
    assert first == second and json.loads(first)["dense"] != json.loads(third)["dense"]


BAD = [
    (["--by", "beauty"], "error: --by beauty: there is no such choice. There are: magnitude, "),
    (["--batches", "0"], "error: --batches 0: 1 batch or more is looked at."),
    (["--flops", "0.5,1.5"], "error: --flops 1.5 is out of range"),
    (["--flops", "0.001"], "error: the budget of 0.1 % of the flops is out of reach: the smallest reachable is "),
    (["--init", "no.pt"], "error: no.pt: no such file."),
    (["--only", "nothing"], "error: "),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_one_paragraph(net: Path, options: list[str], message: str) -> None:
    code, out, err = command("sensitivity", "net.py", *options, "--json", "s.json")
    assert code == 2 and out == "" and err.startswith(message) and err.count("\n") == 1, err
    assert not (net / "s.json").exists()


def test_a_file_without_data_is_told(net: Path) -> None:
    (net / "bare.py").write_text("def model(): ...\ndef example_inputs(): ...\n")
    code, _out, err = command("sensitivity", "bare.py")
    assert code == 2 and err.startswith("error: bare.py: the file defines no `train_data`") and err.count("\n") == 1


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)


def test_losses_that_break_and_names_that_are_no_names() -> None:
    graph = atograph.trace(TwoConvs(8), torch.randn(2, 1, 8, 8))
    first, second = (group.name for group in graph.prunable)
    curves = {first: Curve((1, 8), (math.nan, 2.0)), second: Curve((1, 8, 16), (5.0, 2.0, 2.0))}
    seen = Sensitivity(curves, {}, 2.0, "<b>", 1)
    shown = sensitivity_view(seen, overview(graph, name="<script>alert(1)</script>"))
    assert SensitivityView.model_validate_json(shown.model_dump_json()) == shown
    assert shown.curves[0].losses == (None, 2.0) and shown.curves[0].rise(0.5) is None and shown.highest == 3.0
    text = plain(sensitivity_table(shown))
    assert "loss 2.00 over 1 batch;" in text
    assert re.search(rf"^{first} +8 +broken +broken +broken +broken +█▁ ", text, re.MULTILINE)
    assert re.search(rf"^{second} +16 +\+2\.571 .* \+0\.000 +\+0\.000 +█▁▁ ", text, re.MULTILINE)
    page = sensitivity_page(shown)
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.seen and "b" not in tags.seen and "&lt;script&gt;" in page
