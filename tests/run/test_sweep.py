"""One-shot plans at several budgets: what each network costs and is worth, and what is told where there is none."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.files.plan_file import read_plan
from atograph.inspection.tradeoff.sweep import sweep_page
from atograph.passes.errors import UserError
from atograph.proof.flop_count import count_flops
from atograph.report.sweep import SweepReport
from atograph.run.sweep import sweeping

TRAIN, VAL = blobs(4), blobs(2, seed=1)
SHARES = [0.3, 0.7]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = TwoConvs()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for x, y in 20 * TRAIN:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> atograph.Graph:
    return atograph.trace(model, TRAIN[0][0])


def accuracy(model: Any) -> float:
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in VAL)
    return right / sum(len(y) for _x, y in VAL)


def test_each_plan_is_the_one_that_plan_makes_and_its_metric_that_of_the_slim_network(
    model: nn.Module, graph: atograph.Graph
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = atograph.sweep(graph, SHARES, by=["magnitude", "taylor"], data=TRAIN, val_data=VAL)
    assert torch.equal(torch.get_rng_state(), random) and not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(found.plans) == [("magnitude", 0.7), ("magnitude", 0.3), ("taylor", 0.7), ("taylor", 0.3)]
    report = found.report
    assert report.dense.metric == pytest.approx(accuracy(model)) and report.dense.flops == 1.0
    for row in report.rows:
        plan = found.plans[row.by, row.asked]
        assert plan == graph.plan(row.asked, by=row.by, data=TRAIN) and row.kept == plan.counts and row.point
        slim = atograph.slim(graph, plan)
        assert row.point.flops * graph.flops == pytest.approx(slim.flops) and row.point.flops <= row.asked
        assert count_flops(slim.as_module(), VAL[0][0][:1]) == slim.flops
        assert row.point.params * graph.params == pytest.approx(slim.params)
        assert row.point.metric == pytest.approx(accuracy(slim)) and row.point.ms is None
    assert report.better == "max" and report.metric == "top-1" and report.complete
    assert repr(found) == "<Sweep of TwoConvs: 4 plans by magnitude, taylor>" and len(found) == 4
    assert str(found).count("magnitude") == 3, "two rows and the legend"


def test_data_that_can_be_read_once_serves_every_criterion(graph: atograph.Graph) -> None:
    found = atograph.sweep(graph, 0.5, by=["taylor", "activation"], data=iter(TRAIN))
    assert found.plans == {(name, 0.5): graph.plan(0.5, by=name, data=TRAIN) for name in ("taylor", "activation")}


def test_a_model_without_values_is_told(graph: atograph.Graph) -> None:
    with torch.device("meta"):
        empty = atograph.trace(TwoConvs(), torch.randn(2, 1, 8, 8))
    with pytest.raises(UserError, match="a sweep needs the values of the weights"):
        atograph.sweep(empty, 0.5, val_data=VAL)
    with pytest.raises(UserError, match="a sweep measures the model, and this graph has none"):
        atograph.sweep(atograph.Graph(graph.program), 0.5)


def test_dense_and_all_slim_networks_are_timed_in_one_go(graph: atograph.Graph) -> None:
    report = atograph.sweep(graph, SHARES, latency=True).report
    assert (report.batch, report.threads) == (1, 1) and report.dense.ms
    assert all(row.point and row.point.ms and row.point.spread is not None for row in report.rows)
    assert report.notes == ["no metric was measured, because there is no validation data."]


def test_a_sweep_outlives_a_failure_of_its_timing(graph: atograph.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_options: object) -> None:
        raise UserError("ONNX Runtime has died.")

    monkeypatch.setattr(sweeping, "time_in_turns", fails)
    report = atograph.sweep(graph, 0.5, val_data=VAL, latency=True).report
    assert report.notes == ["latency could not be measured: ONNX Runtime has died."] and report.batch is None


def test_a_plan_that_cannot_be_made_is_a_row_with_its_reason(graph: atograph.Graph) -> None:
    """A budget that is out of reach, and a criterion that has no data."""
    found = atograph.sweep(graph, [0.5, 0.001], by=["magnitude", "taylor"], val_data=VAL)
    assert list(found.plans) == [("magnitude", 0.5)]
    _plan, *others = found.report.rows
    assert [(row.by, row.asked, row.point, row.kept) for row in others] == [
        ("magnitude", 0.001, None, {}), ("taylor", 0.5, None, {}), ("taylor", 0.001, None, {})
    ]  # fmt: skip
    told = str(found)
    assert told.count("no plan") == 6  # in three rows, and below them for three reasons
    folded = " ".join(told.split())
    assert "no plan at 0.001 by magnitude: the budget of 0.1 % of the flops is out of reach" in folded
    assert "no plan at 0.5 by taylor: the criterion 'taylor' looks at gradients, for which it needs data." in folded
    assert "No plan at 0.5 by taylor: the criterion" in sweep_page(found.report)


class Line(nn.Module):
    """A regression."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x).relu())


def test_without_a_metric_it_is_the_loss() -> None:
    torch.manual_seed(0)
    net, x = Line(), torch.randn(8, 4)
    data = [(x, x.sum(1, keepdim=True))]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    found = atograph.sweep(atograph.trace(net, x), 0.5, val_data=data, loss=loss)
    assert (found.report.metric, found.report.better) == ("loss", "min")
    assert found.report.dense.metric == pytest.approx(loss(net, data[0]).item())
    masked = atograph.mask(net, found.plans["magnitude", 0.5])
    assert found.report.rows[0].point is not None
    assert found.report.rows[0].point.metric == pytest.approx(loss(masked, data[0]).item())


@pytest.mark.parametrize(
    ("flops", "options", "message"),
    [
        ([0.001], {}, "the budget of 0.1 % of the flops is out of reach"),
        ([0.5, 2], {}, "flops 2 is out of range"),
        ([0.5], {"by": "beauty"}, "there is no criterion 'beauty'"),
        ([0.5], {"by": ["magnitude", "magnitude"]}, "one or several, each once, not magnitude, magnitude"),
        ([0.5], {"by": []}, "one or several, each once, not none"),
        ([0.5], {"by": "taylor"}, "no plan can be made: the criterion 'taylor' looks at gradients"),
        ([0.5], {"metric": lambda model, batch: model.nothing}, "the model or the metric rejects this batch"),
    ],
)
def test_what_is_no_sweep(graph: atograph.Graph, flops: list[float], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        atograph.sweep(graph, flops, val_data=VAL, **options)


NET = """
    import torch
    from torch import nn

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

    def train_data():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(256, 4, generator=generator)
        return [(x[i : i + 64], x[i : i + 64, :3].argmax(1)) for i in range(0, 256, 64)]

    val_data = train_data
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "swept.py").write_text(dedent(NET))
    return tmp_path


def command(*args: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["sweep", *args])
    return done.exit_code, done.stdout, done.stderr


def test_table_json_and_page(net: Path) -> None:
    options = ["--flops", "0.7,40%", "--method", "magnitude, taylor", "--floor", "0"]
    code, out, err = command("swept.py", *options, "--json", "s.json", "--html", "s.html", "--plans", "plans")
    assert code == 0, err
    report = SweepReport.load(net / "s.json")
    assert [(row.by, row.asked) for row in report.rows] == [
        ("magnitude", 0.7), ("magnitude", 0.4), ("taylor", 0.7), ("taylor", 0.4)
    ]  # fmt: skip
    assert report.name == "swept" and [(group.units, group.layers) for group in report.groups] == [
        (16, "0 → 2"), (8, "2 → 4")
    ]  # fmt: skip
    plans = [f"{by}-{share}.json" for by in ("magnitude", "taylor") for share in ("0.4", "0.7")]
    assert sorted(path.name for path in (net / "plans").iterdir()) == plans
    for row, name in zip(sorted(report.rows, key=lambda each: (each.by, each.asked)), plans, strict=True):
        plan = read_plan(net / "plans" / name)
        assert row.kept == {group: plan.counts[group] for group in row.kept} and row.kept
    lines = out.splitlines()
    assert lines[0] == "swept: 432 FLOPs, 243 parameters; one-shot plans, nothing is trained"
    assert re.split(r"\s{2,}", lines[2].strip()) == [
        "criterion", "budget", "FLOPs", "parameters", "top-1", "Pareto", "narrowest"
    ]  # fmt: skip
    assert [line.split()[:1] for line in lines[4:9]] == [["dense"], *2 * [["magnitude"]], *2 * [["taylor"]]]
    first = report.rows[0]
    narrowest = report.narrowest(first)
    assert narrowest and lines[5].split()[-1] == f"{narrowest[1]}/{narrowest[0].units}"
    assert "A magnitude, B taylor, ◆ dense: on the Pareto front" in out
    page = (net / "s.html").read_text()
    assert page.count('role="img"') == 1 and "<script" not in page and not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count("<details>") == 1 and '<td class="words">0 → 2</td>' in page


BAD = [
    (["--method", "magnitude,beauty"], "error: --method beauty: there is no such choice. There are: magnitude, "),
    (["--method", "ato"], "error: --method ato: there is no such choice."),
    (["--batches", "0"], "error: --batches 0: 1 batch or more is looked at."),
    (["--flops", "0.5,1.5"], "error: --flops 1.5 is out of range"),
    (["--flops", "0.001"], "error: the budget of 0.1 % of the flops is out of reach: the smallest reachable is "),
    (["--init", "no.pt"], "error: no.pt: no such file."),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_one_paragraph(net: Path, options: list[str], message: str) -> None:
    code, out, err = command("swept.py", *options, "--json", "s.json")
    assert code == 2 and out == "" and err.startswith(message) and err.count("\n") == 1, err
    assert not (net / "s.json").exists()


def test_data_is_needed_by_those_that_look_at_it(net: Path) -> None:
    bare = dedent(NET).partition("def train_data")[0] + "def example_inputs():\n    return torch.randn(2, 4)\n"
    (net / "swept_bare.py").write_text(bare)
    code, _out, err = command("swept_bare.py")
    assert code == 2 and err.startswith("error: swept_bare.py: the file defines no `train_data`")
    code, out, err = command("swept_bare.py", "--method", "magnitude")
    assert code == 0 and "no metric was measured, because there is no validation data." in out and "│" not in out, err


def test_what_is_there_when_it_is_interrupted_is_shown_and_written(net: Path) -> None:
    stopping = "\ncalls = []\ndef metric(model, batch):\n    calls.append(1)\n    if len(calls) == 14:\n"
    stopping += "        raise KeyboardInterrupt\n    return (model(batch[0]).argmax(1) == batch[1]).float().mean()\n"
    (net / "swept_stopped.py").write_text(dedent(NET) + stopping)
    code, out, err = command("swept_stopped.py", "--metric-mode", "max", "--json", "s.json")
    assert code == 130 and err == "interrupted (sweeping): The plans that there were are shown.\n"
    found = json.loads((net / "s.json").read_text())
    assert [row["asked"] for row in found["rows"]] == [0.9, 0.7] and found["complete"] is False
    assert "the sweep was stopped before all plans were there." in out
