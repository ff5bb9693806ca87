"""Several budgets in one go: each rung is a proved run of its own, and goes on from the one before."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.passes.cost.share import shares_of
from atograph.passes.errors import UserError
from atograph.report.ladder import LadderReport
from atograph.run import steps as steps_module
from atograph.run.ladder import descend as descend_module
from atograph.run.ladder import summary
from atograph.train import DenseTrained, TrainSettings, dense_training
from atograph.train import fit as fit_module
from atograph.train.processes.replicas import Alone

SHARES = [0.3, 0.7]


class Stopped(Exception):
    """The user's code."""


def descend(out: Path | None = None, stop_at: int | None = None, **options: Any) -> atograph.Ladder:
    torch.manual_seed(0)
    x, y = (torch.cat(parts) for parts in zip(*blobs(4), strict=True))
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True, generator=torch.Generator().manual_seed(3))
    steps: list[None] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        steps.extend([None] * (model.training and torch.is_grad_enabled()))
        if len(steps) == stop_at:
            raise Stopped
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    given = {"flops": SHARES, "epochs": 7, "device": "cpu", "val_data": blobs(2, seed=1), **options}
    return atograph.compress_ladder(TwoConvs(), loader, loss=loss, out=out, **given)


@pytest.fixture(scope="module")
def whole() -> atograph.Ladder:
    return descend()


def test_each_rung_is_proved_and_goes_on_from_the_one_before(whole: atograph.Ladder) -> None:
    assert [rung.asked for rung in whole.report.rungs] == [0.7, 0.3] and len(whole) == 2
    assert [len(result.history) for result in whole] == [3, 4]
    for rung, result in zip(whole.report.rungs, whole, strict=True):
        assert result.report.float64 is not None and result.report.float64 < 1e-9
        assert rung.asked - 0.1 < rung.flops <= rung.asked and rung.metric == result.report.metrics.slim
        x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(result.slim.double()(x), result.model.double().eval()(x), rtol=1e-9, atol=1e-9)
    for before, after in pairwise(whole):
        assert all(set(units) <= set(before.plan.kept[name]) for name, units in after.plan.kept.items())
        assert after.report.metrics.before_training == pytest.approx(before.report.metrics.masked)
    assert repr(whole) == "<Ladder of TwoConvs: flops 0.7, 0.3>"


@pytest.mark.long
def test_the_baseline_is_trained_as_long_as_all_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def dense(model: nn.Module, task: Any, settings: TrainSettings, *rest: Any) -> DenseTrained:
        trained.append(settings.epochs)
        return dense_training(model, task, settings, *rest)

    monkeypatch.setattr(steps_module, "dense_training", dense)
    assert descend(epochs=4, flops=[0.7, 0.5], baseline=True).report.dense.metric is not None
    assert trained == [4]


def test_dense_and_slim_are_timed_in_one_go(whole: atograph.Ladder) -> None:
    report = whole.report
    assert (report.batch, report.threads, report.notes) == (1, 1, []) and report.dense.ms
    for rung in report.rungs:
        assert rung.ms and rung.spread is not None and rung.latency == rung.ms / report.dense.ms
    assert any("latency" in each.pareto for each in report.rungs) and "flops" in report.rungs[-1].pareto


QUICK = {"method": "magnitude", "epochs": 0, "flops": [0.7, 0.5]}


@pytest.mark.parametrize(
    ("options", "timed", "drawn"),
    [({"targets": ["pt2"]}, False, 1), ({"val_data": None}, True, 0), ({"batch": 3}, True, 2)],
)
@pytest.mark.long
def test_what_cannot_be_measured_is_not_there(tmp_path: Path, options: dict[str, Any], timed: bool, drawn: int) -> None:
    """ONNX is no target, there is no validation data, or the network takes one batch size only."""
    report = descend(tmp_path / "run", **QUICK, **options).report
    assert [rung.ms is not None for rung in (report.dense, *report.rungs)] == [timed] * 3 and report.notes == []
    assert report.batch == (options.get("batch", 1) if timed else None)
    assert (tmp_path / "run" / "report.html").read_text().count('role="img" aria-label') == drawn


class Second(Alone):
    """The second of two processes."""

    rank = 1

    def __init__(self) -> None:
        self.waited = 0

    def wait(self) -> None:
        self.waited += 1


def test_only_the_first_process_times_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Second()
    monkeypatch.setattr(descend_module, "join", lambda device: second)
    report = descend(tmp_path / "run", **QUICK).report
    assert report.dense.ms is None and second.waited == 1 and not (tmp_path / "run" / "ladder.json").exists()


def test_a_ladder_outlives_a_failure_of_its_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_args: object, **_options: object) -> None:
        raise UserError("ONNX Runtime has died.")

    monkeypatch.setattr(summary, "time_in_turns", fails)
    report = descend(tmp_path / "run", **QUICK).report
    note = "the networks could not be timed in one go: ONNX Runtime has died."
    assert report.notes == [note] and f"warning: {note}" in capsys.readouterr().err
    assert report.dense.ms is None and all(rung.latency for rung in report.rungs), "as each run has measured it"
    assert LadderReport.load(tmp_path / "run" / "ladder.json") == report
    assert f"<p>T{note[1:]}</p>" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.long
def test_a_ladder_that_is_stopped_while_it_is_timed_is_timed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) as stopped:
        patched.setattr(summary, "time_in_turns", stops)
        descend(tmp_path / "run", **QUICK)
    told = "All runs are finished, and their folders complete. To time them in one go: the same call with resume=True."
    assert stopped.value.__notes__ == [told] and not (tmp_path / "run" / "ladder.json").exists()
    monkeypatch.setattr(descend_module, "run", None)  # nothing is trained again
    assert descend(tmp_path / "run", resume=True, **QUICK).report.dense.ms


def test_a_ladder_that_ends_early_names_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on with that only: not with another teacher, and not without its folder."""
    out, made, begun, taught = tmp_path / "run", descend_module.run, list[None](), TwoConvs()

    def stops(*args: Any, **options: Any) -> Any:
        begun.append(None)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return made(*args, **options)

    monkeypatch.setattr(descend_module, "run", stops)
    with pytest.raises(KeyboardInterrupt) as stopped:
        descend(out, teacher=taught, **QUICK)
    told = f"flops-0.7 is finished, and stays in {out}. To go on with the next one: the same call with resume=True."
    assert stopped.value.__notes__ == [told]
    with pytest.raises(UserError, match="of another run: the digest of the teacher's weights was "):
        descend(out, teacher=TwoConvs(12), resume=True, **QUICK)
    (out / "flops-0.7").rename(tmp_path / "aside")
    with pytest.raises(UserError, match=r"flops-0\.7: this budget was finished, and its folder is not there any more"):
        descend(out, teacher=taught, resume=True, **QUICK)


def same(first: atograph.Ladder, second: atograph.Ladder) -> None:
    for one, other in zip(first, second, strict=True):
        state = other.model.state_dict()
        assert one.plan == other.plan
        assert all(torch.equal(value, state[name]) for name, value in one.model.float().state_dict().items())


@pytest.mark.parametrize(("stop_at", "finished"), [(8, 0), (16, 1), (26, 1)])
@pytest.mark.long
def test_a_ladder_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, whole: atograph.Ladder, stop_at: int, finished: int
) -> None:
    """Within each rung, and before its first step; those that are finished are not trained again."""
    out = tmp_path / "run"
    with pytest.raises(UserError) as stopped:
        descend(out, stop_at, checkpoint_seconds=0)
    stays = f"flops-0.7 is finished, and stays in {out}."
    assert [note for note in stopped.value.__notes__ if "finished" in note] == [stays] * finished
    done = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.exists() else []
    with pytest.raises(UserError, match="--resume"):
        descend(out)
    resumed = descend(out, resume=True, checkpoint_seconds=0)
    same(whole, resumed)
    assert len(done) == finished
    found = LadderReport.load(out / "ladder.json")
    assert found == resumed.report and [rung.folder for rung in found.rungs] == ["flops-0.7", "flops-0.3"]
    names = sorted(path.name for path in out.iterdir())
    assert names == ["flops-0.3", "flops-0.7", "ladder.json", "report.html"]
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"
    for rung in found.rungs:
        slim = atograph.load(out / rung.folder)
        assert slim(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.long
def test_a_ladder_is_not_written_over(tmp_path: Path) -> None:
    descend(tmp_path / "run", flops=[0.7, 0.5], epochs=2)
    with pytest.raises(UserError, match="a run is there already"):
        descend(tmp_path / "run", flops=[0.9, 0.5], epochs=2, stop_at=1)
    before = (tmp_path / "run" / "flops-0.7" / "slim.onnx").read_bytes()
    for shares in ([0.7, 0.5], [0.7, 0.4], [0.9, 0.8]):
        with pytest.raises(UserError, match=r"is there already\. Replace it with --force"):
            descend(tmp_path / "run", flops=shares, epochs=2, resume=True, stop_at=1)
    assert (tmp_path / "run" / "flops-0.7" / "slim.onnx").read_bytes() == before
    assert descend(tmp_path / "run", flops=[0.7, 0.5], epochs=2, force=True).folder == tmp_path / "run"


def test_a_ladder_goes_on_with_what_it_was_started_with(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        descend(tmp_path / "run", stop_at=18, checkpoint_seconds=0)
    with pytest.raises(UserError, match=r"of another run: the epochs of each was \[3, 4\] there, and is \[4, 5\]"):
        descend(tmp_path / "run", epochs=9, resume=True)
    with pytest.raises(UserError, match=r"of another run: the setting lr was null there, and is 0.5"):
        descend(tmp_path / "run", lr=0.5, resume=True)


@pytest.mark.long
def test_what_a_ladder_left_that_was_begun_anew_is_not_gone_on_with(tmp_path: Path, whole: atograph.Ladder) -> None:
    """A checkpoint of the second budget descends from a network that is no more."""
    with pytest.raises(UserError):
        descend(tmp_path / "run", stop_at=18, checkpoint_seconds=0, val_data=blobs(2, seed=9), lr=0.03)
    with pytest.raises(UserError):
        descend(tmp_path / "run", stop_at=8, checkpoint_seconds=0, force=True)
    assert not list((tmp_path / "run").glob(".flops-0.3*")), "the checkpoint of the ladder before"
    same(whole, descend(tmp_path / "run", resume=True, checkpoint_seconds=0))


@pytest.mark.long
def test_a_run_that_was_to_replace_another_goes_on(tmp_path: Path) -> None:
    descend(tmp_path / "run", flops=[0.7, 0.5], epochs=2)
    with pytest.raises(UserError):
        descend(tmp_path / "run", flops=[0.7, 0.5], epochs=4, stop_at=8, checkpoint_seconds=0, force=True)
    again = descend(tmp_path / "run", flops=[0.7, 0.5], epochs=4, checkpoint_seconds=0, resume=True)
    assert [len(result.history) for result in again] == [2, 2]


@pytest.mark.long
def test_budgets_that_look_alike_have_folders_of_their_own(tmp_path: Path) -> None:
    found = descend(tmp_path / "run", flops=[0.5, 0.4999999], epochs=0, method="magnitude")
    assert [rung.folder for rung in found.report.rungs] == ["flops-0.5", "flops-0.4999999"]


@pytest.mark.long
def test_the_folder_of_a_ladder_names_its_runs(tmp_path: Path) -> None:
    descend(tmp_path / "run", flops=[0.7, 0.5], epochs=2)
    told = CliRunner().invoke(app, ["verify", str(tmp_path / "run")])
    assert told.exit_code == 2 and "Name one of them: flops-0.5, flops-0.7" in " ".join(told.output.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1}, "1 epoch cannot be divided among 2 budgets"),
        ({"method": "ato"}, "the method 'ato' is for one budget, and there are 2"),
        ({"params": [0.5, 0.4]}, "one budget at a time goes down a ladder, and --flops and --params have several"),
        ({"flops": [0.5, 0.5]}, "flops names a budget twice"),
        ({"flops": [0.5, 2]}, "flops 2 is out of range"),
        ({"flops": [0.5, 0.001]}, "the budget of 0.1 % of the flops is out of reach"),
    ],
)
def test_what_is_no_ladder_is_said_before_any_step(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        descend(stop_at=1, **options)


@pytest.mark.long
def test_all_budgets_have_the_same_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model as it came, and not the pruned one of the budget before."""
    teachers: list[float] = []
    made = fit_module.teacher_of

    def noted(model: nn.Module, *rest: Any) -> Any:
        teachers.append(float(sum(each.abs().sum() for each in model.parameters())))
        return made(model, *rest)

    monkeypatch.setattr(fit_module, "teacher_of", noted)
    found = descend(distill=True)
    assert len(teachers) > 1 and len({*teachers}) == 1
    assert found.report.dense.metric == found[0].report.metrics.before_training is not None, "it came trained"
    assert found[1].report.metrics.dense is None


def test_by_a_criterion_and_without_any_training() -> None:
    found = descend(method="magnitude", epochs=0)
    assert [result.history for result in found] == [[], []]
    for before, after in pairwise(found):
        assert all(set(units) <= set(before.plan.kept[name]) for name, units in after.plan.kept.items())


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ("0.3", (0.3,)), ("0,3", (0.3,)), ("30%", (0.3,)), ("30,5%", (0.305,)), ("0.7,0.5", (0.7, 0.5)),
        ("70%,50%", (0.7, 0.5)),
        ("0.7, 0.5, 0.3", (0.7, 0.5, 0.3)), ([0.7, "50%"], (0.7, 0.5)), (0.4, (0.4,)), ("1,0.5", (1.0, 0.5)),
    ],
)  # fmt: skip
def test_budgets_as_people_write_them(given: Any, shares: tuple[float, ...]) -> None:
    assert shares_of(given, "--flops") == pytest.approx(shares)


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def model():\n    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))\n"
        "def train_data():\n    g = torch.Generator().manual_seed(0)\n    x = torch.randn(64, 8, generator=g)\n"
        "    return list(zip(x.split(16), x[:, :3].argmax(1).split(16)))\nval_data = train_data\nteacher = model\n"
    )
    told = CliRunner().invoke(app, ["compress", "net.py", "--flops", "0.6,0.3", "--epochs", "2", "--set", "device=cpu"])
    assert told.exit_code == 0, told.output
    assert "teacher() of the file is left aside: --distill learns from it" in told.output
    assert "budget 2 of 2: flops-0.3" in told.output and "written to runs/net: flops-0.6, flops-0.3" in told.output
    table = told.output[told.output.index("ORT ms") :]
    assert [line.split()[0] for line in table.splitlines()[2:5]] == ["dense", "0.6", "0.3"]
    report = json.loads((tmp_path / "runs" / "net" / "flops-0.3" / "report.json").read_text())
    assert report["settings"]["method"] == "progressive" and report["settings"]["flops"] == 0.3
