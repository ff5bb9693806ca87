"""A training that stops in the user's code: it is saved before, the error comes first, and then how one goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import nn
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.passes.errors import UserError
from atograph.train import Task, TrainSettings
from atograph.train.fit import Fit
from atograph.train.loop import dense_training
from atograph.train.progress import Silent
from atograph.train.saved.checkpoints import Checkpoints, NotWritten, newest
from atograph.train.saved.held_signals import held_signals
from atograph.values.user_code import UserCodeError

SPEC = """
    import atograph, torch
    from pathlib import Path
    from torch import nn

    def broken(what):
        return Path("broken").exists() and Path("broken").read_text() == what

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.steps = nn.Linear(8, 16), nn.Linear(16, 4), 0
        def forward(self, x):
            self.steps += self.training
            if self.training and self.steps > 6 and broken("forward"):
                raise ValueError("the forward")
            return self.b(torch.relu(self.a(x)))

    def model():
        torch.manual_seed(0)
        return Net()

    class Data:
        def __init__(self):
            torch.manual_seed(1)
            self.batches, self.epochs = [(torch.randn(8, 8), torch.randint(4, (8,))) for _ in range(4)], 0
        def __len__(self):
            return 4
        def __iter__(self):
            for number, batch in enumerate(self.batches):
                if STEPS[0] > 5 and number == 3 and broken("data"):
                    raise ValueError("the reader")
                yield batch

    STEPS = [0]

    def train_data():
        return Data()

    def val_data():
        return Data().batches[:1]

    def loss(model, batch):
        STEPS[0] += model.training
        if model.training and STEPS[0] == 9 and broken("interrupt"):
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metric(model, batch):
        if STEPS[0] >= 8 and broken("metric"):
            raise ValueError("the metric")
        return (model(batch[0]).argmax(1) == batch[1]).float().mean()
"""
COMPRESS = ["compress", "net.py", "--flops", "0.6", "--epochs", "3", "--out", "run", "--method", "magnitude"]
COMPRESS += ["--target", "pt2"]  # in half the time
GO_ON = "To go on from there: the same command with --resume."


def compress(*options: str) -> Any:
    return CliRunner().invoke(app, [*COMPRESS, *options])


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(dedent(SPEC))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("fault", "what", "place", "code"), [
    ("forward", "ValueError was raised while calling loss()", "epoch 2, step 2", 2),
    ("data", "ValueError was raised while reading a batch of train_data()", "epoch 2, step 3", 2),
    ("metric", "ValueError was raised while calling metric()", "epoch 2, step 4", 2),
    ("interrupt", "interrupted (training, epoch 2 of 3, step 2): ", "epoch 2, step 2", 130),
])  # fmt: skip
def test_it_is_saved_and_told_in_this_order(net: Path, fault: str, what: str, place: str, code: int) -> None:
    (net / "broken").write_text(fault)
    stopped = compress()
    told = stopped.stderr
    assert stopped.exit_code == code, (told, stopped.exception)
    assert "othing was written" not in told
    assert told.index(what) < told.index(f"What was trained is kept up to {place}, in .run") < told.index(GO_ON)
    assert "--resume" not in stopped.stdout
    if fault != "metric":
        return
    (net / "broken").unlink()
    again = compress("--resume")
    assert again.exit_code == 0, again.stderr
    assert sorted(path.name for path in net.iterdir() if path.name[0] == ".") == []


def test_where_nothing_was_trained_nothing_was_written(net: Path) -> None:
    (net / "net.py").write_text("def model():\n    raise ValueError('no')\ndef train_data():\n    return []\n")
    told = compress().stderr
    assert told.endswith("error: net.py: ValueError was raised while calling model().\nNothing was written.\n")


def test_python_is_told_as_well(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, seen = TwoConvs(), list[int]()

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        if model.training:
            seen.append(1)
        if len(seen) == 5:  # the slim module and the dense one were tried before
            raise ValueError("no")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(UserError, match="rejects this batch") as raised:
        atograph.compress(model, blobs(2), loss=loss, flops=0.6, epochs=3, method="magnitude", out=tmp_path / "run")
    (note,) = raised.value.__notes__
    assert "up to the end of epoch 1, in" in note and note.endswith("the same call with resume=True.")


class Fails:
    """Data that fail after two batches of the second epoch."""

    epoch = 0

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        yield from blobs(2)
        if self.epoch == 3:  # the first batch is looked at before
            raise OSError("gone")


@pytest.mark.parametrize(("seconds", "torn", "place"), [
    (3600.0, False, (1, 2)),
    (float("inf"), False, None),
    (3600.0, True, None),
])  # fmt: skip
def test_what_cannot_be_saved_is_not(tmp_path: Path, seconds: float, torn: bool, place: Any) -> None:
    """Not where there are to be no checkpoints, nor in the midst of a step."""
    optimizers = list[torch.optim.Optimizer]()

    class Sometimes(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            self.steps += 1
            if torn and self.steps == 4:
                raise OSError("gone")
            return super().step(closure)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        optimizers.append(Sometimes(parameters, 0.1))
        return optimizers[0]

    task = Task(blobs(2) if torn else Fails(), optimizer=optimizer)
    settings = TrainSettings(flops=0.5, epochs=3, device="cpu")
    with pytest.raises((OSError, UserCodeError)) as caught:  # what an optimiser raises is told as the user's own
        dense_training(TwoConvs(), task, settings, checkpoints=Checkpoints(tmp_path / "saved", {}, seconds))
    assert "gone" in str(caught.value.__cause__ if torn else caught.value)
    assert newest(tmp_path / "saved") == place


def test_a_disk_that_is_full_is_told_beside_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise NotWritten("the disk is full.")

    monkeypatch.setattr(Checkpoints, "save", full)
    settings = TrainSettings(flops=0.5, epochs=3, device="cpu")
    with pytest.raises(OSError, match="gone") as raised:
        dense_training(TwoConvs(), Task(Fails()), settings, checkpoints=Checkpoints(tmp_path / "saved", {}, 3600.0))
    assert raised.value.__notes__ == ["The last steps could not be saved: the disk is full."]


def test_targets_are_refused_before_anything_is_told_of_their_metric(capsys: pytest.CaptureFixture[str]) -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(8, 8)
    data = [(x, torch.randn(8, 4))]
    with pytest.raises(UserError, match="mse_loss"):
        atograph.compress(model, data, val_data=data, flops=0.6, epochs=1, quiet=False)
    captured = capsys.readouterr()
    assert "warning" not in captured.err and "budget" not in captured.out


def test_buffers_that_nobody_writes_are_copied_once() -> None:
    """Large ones: a mask of a thousand by a thousand costs nothing at each step."""
    model = TwoConvs()
    model.register_buffer("table", torch.zeros(256, 256))
    settings = TrainSettings(flops=0.5, device="cpu")
    fit = Fit(model, Task(blobs(1)), settings, Silent(), Checkpoints(Path("no"), {}, 1.0))
    with fit.whole.forward(model):
        first = fit.whole._copies["table"][2]
    with pytest.raises(ValueError), fit.whole.forward(model):
        assert fit.whole._copies["table"][2] is first
        model.table.add_(1.0)  # type: ignore[operator]
        raise ValueError
    assert float(model.table.sum()) == 0.0  # type: ignore[operator]


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), held_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it was held back")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_to_resume_is_said_at_once(net: Path) -> None:
    (net / "net.py").write_text("def model():\n    raise ValueError('no')\ndef train_data():\n    return []\n")
    nothing = "warning: there is nothing to resume at run: no checkpoint and no unfinished run. The training starts"
    assert compress("--resume", "--quiet").stderr.startswith(nothing)
    (net / ".run.checkpoints").mkdir()  # of a run that was stopped before its first one
    assert compress("--resume").stderr.startswith(nothing)
    assert "nothing to resume" not in compress("--force").stderr
