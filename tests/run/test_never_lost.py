"""A finished training is never lost, whatever fails after it: its files stay, and a later run goes on from them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import atograph
from atograph.cli.runner import Killed
from atograph.files.run_folder import RunFolder
from atograph.passes.errors import InternalError, UserError
from atograph.passes.plan.plan import Plan
from atograph.process.child_process import ChildDied
from atograph.report.run import Report
from atograph.run import steps
from atograph.run.job import Job, Outcome, Prepared
from atograph.run.rehearse import DenseFile, Deployment, deployment
from atograph.spec.example_inputs import Inputs
from atograph.terminal.console import Console
from atograph.train.loop import Trained
from atograph.train.settings import settings_of
from atograph.train.task import Task

FULL = OSError(errno.ENOSPC, "No space left on device")
BUG = InternalError("something is broken.")
FAULTS: dict[str, tuple[str, BaseException]] = {
    "zeroing": ("atograph.run.steps.zero_", RuntimeError("out of memory")),
    "slimming": ("atograph.run.steps.slim", BUG),
    "export": ("atograph.targets.onnx_runtime.export_onnx", UserError("torch.onnx cannot export this program.")),
    "loading": ("atograph.targets.onnx_runtime.OnnxRuntime.load", UserError("this ONNX file cannot be loaded.")),
    "certificate": ("atograph.run.measure.certify", BUG),
    "float64": ("atograph.run.measure.exactness", BUG),
    "cost": ("atograph.run.measure._check_flops", BUG),
    "latency": ("atograph.run.measure.measure_latency", RuntimeError("the session died")),
    "interrupt": ("atograph.run.measure.measure_latency", KeyboardInterrupt()),
    "page": ("atograph.run.steps.page", FULL),
    "program": ("atograph.program.pt2_file.program_bytes", RuntimeError("torch.export.save failed")),
    "converter": ("torch.onnx.export", KeyboardInterrupt()),
    "runtime": ("atograph.process.child_process.Child.call", ChildDied("it ends the process by the signal SIGKILL")),
    "killed": ("atograph.run.steps.measure", Killed(15)),
    "exit": ("atograph.run.measure.certify", SystemExit(3)),
    "data": ("atograph.run.measure._real_inputs", RuntimeError("the data is gone")),
    "files": ("atograph.slimming.slim.Slim.save", FULL),
    "log": ("atograph.run.steps.write_log", FULL),
}


class Training:
    """A small model, its data, and a loss that counts its steps."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        x = torch.randn(32, 8)
        self.data = list(zip(x.split(16), x[:, :4].argmax(1).split(16), strict=True))
        self.steps = 0

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.steps += model.training
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def compress(self, out: Path | None, **options: Any) -> atograph.Result:
        options = {"val_data": self.data, "epochs": 2, "flops": 0.5, "loss": self.loss, **options}
        return atograph.compress(self.model, self.data, out=out, **options)


@pytest.fixture
def break_after_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a site fail once a model was trained."""
    trained = list[object]()

    def train(*args: Any, **options: Any) -> Any:
        trained.append(true_train(*args, **options))
        return trained[-1]

    true_train = steps.auto_train_once
    monkeypatch.setattr(steps, "auto_train_once", train)
    return lambda site: break_(site, monkeypatch, only_if=trained)


def break_(site: str, monkeypatch: pytest.MonkeyPatch, *, only_if: Sequence[object] = (1,)) -> None:
    """Let the function of a site raise."""
    name, error = FAULTS[site]
    place, _, leaf = name.rpartition(".")
    holder: Any = resolve_name(place)
    true = getattr(holder, leaf)

    def broken(*args: Any, **options: Any) -> Any:
        if only_if:
            raise error
        return true(*args, **options)

    monkeypatch.setattr(holder, leaf, broken)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Trained[Plan], Deployment, Path]:
    """A training, and the file of the dense model."""
    training, aside = Training(), tmp_path_factory.mktemp("aside")
    settings = settings_of({"flops": 0.5, "epochs": 2})
    task = Task(training.data, training.data, loss=training.loss)
    inputs = Inputs((training.data[0][0],), {})
    job = Job("net", "the model", training.model, inputs, task, settings, baseline=False, opset=None)
    run = steps.Run(None, None, False, Console(quiet=True))
    prepared = run.prepare(job)
    return prepared, run.train(prepared).trained, deployment(prepared, aside), aside


@pytest.mark.parametrize("site", FAULTS)
def test_what_fails_after_the_training_leaves_its_weights(
    site: str, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_(site, monkeypatch)
    (prepared, trained, dense, aside), out = finished, tmp_path / "run"
    run = steps.Run(out, RunFolder(out), False, Console(quiet=True))
    error = FAULTS[site][1]
    with pytest.raises(atograph.NotProved if isinstance(error, Exception) else type(error)) as caught:
        run.hand_over(Outcome(prepared, trained), dense, aside)
    told = str(caught.value) if isinstance(error, Exception) else "".join(caught.value.__notes__)
    assert told.startswith(f"{out}: the training is finished, but what came of it is not proved: ")
    assert "To go on without training again: the same call with resume=True" in told
    weights, own = load_file(out / "trained.safetensors"), prepared.job.model.state_dict()
    assert weights.keys() == own.keys() and all(torch.equal(weights[name], own[name]) for name in own)
    report = Report.load(out / "report.json")
    assert Plan.from_json((out / "plan.json").read_bytes()) == trained.plan
    assert report.not_proved and not report.certificate and len(report.curves) == 2
    if isinstance(caught.value, atograph.NotProved):
        assert caught.value.folder == out and caught.value.plan == trained.plan and caught.value.__cause__ is not None
        assert caught.value.model is prepared.job.model and len(caught.value.history) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("site", "options"), [
    ("slimming", {}), ("interrupt", {"checkpoint_seconds": float("inf")}), ("report", {}),
])  # fmt: skip
def test_a_run_that_goes_on_does_not_train_again(
    site: str, options: dict[str, Any], tmp_path: Path, break_after_training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        if site == "report":  # even that of a run that is not proved cannot be written: the checkpoint tells the same
            broken.setattr(Report, "save", lambda *args: (_ for _ in ()).throw(FULL))
        else:
            break_after_training(site)
        first, out = Training(), tmp_path / "run"
        with pytest.raises((KeyboardInterrupt, atograph.NotProved)):
            first.compress(out, **options)
    monkeypatch.undo()
    again = Training()
    with pytest.raises(UserError, match="a run is there already"):
        again.compress(out, **options)
    if site == "slimming":
        with pytest.raises(UserError, match="the setting seed was 0 there, and is 1 now"):
            again.compress(out, resume=True, seed=1)
        with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt) as stopped:
            broken.setattr(steps.Run, "prepare", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
            again.compress(out, resume=True, **options)
        how = "To go on from there: the same call with resume=True."
        assert stopped.value.__notes__ == [f"The training is finished, and stays in {out}. {how}"]
    result = again.compress(out, resume=True, **options)
    assert first.steps and not again.steps
    assert result.report.certificate and not result.report.not_proved and len(result.history) == 2
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
    assert {path.name for path in out.iterdir()} == {
        "log.csv", "plan.json", "report.html", "report.json", "slim.onnx", "slim.pt2", "slim.safetensors",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("baseline", [False, True])
def test_other_settings_are_refused_before_anything_is_rehearsed(
    baseline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, out = Training(), tmp_path / "run"

    def stops(model: nn.Module, batch: Any) -> Tensor:
        if training.steps == 3:
            raise KeyboardInterrupt
        return training.loss(model, batch)

    options = {"loss": stops, "checkpoint_seconds": 0, "baseline": baseline, "targets": ["pt2"]}
    with pytest.raises(KeyboardInterrupt):
        training.compress(out, **options)
    monkeypatch.setattr(steps, "rehearse", lambda *_args: pytest.fail("it is another run"))
    with pytest.raises(UserError, match=r"the setting lr was null there, and is 0\.02 now"):
        Training().compress(out, resume=True, lr=0.02, **options)


Finished = tuple[Prepared, Trained[Plan], Deployment, Path]


def handed_over(finished: Finished, out: Path) -> atograph.Result:
    prepared, trained, dense, aside = finished
    run = steps.Run(out, RunFolder(out), False, Console(quiet=True))
    return run.hand_over(Outcome(prepared, trained), dense, aside)


def test_a_page_that_cannot_be_drawn_takes_nothing_from_the_proof(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn(*_args: object) -> str:
        raise LookupError("no such colour")

    monkeypatch.setattr(steps, "page", drawn)
    result = handed_over(finished, tmp_path / "run")
    told = "report.html could not be drawn: LookupError: no such colour."
    assert told in capsys.readouterr().err and Report.load(tmp_path / "run" / "report.json").notes == [told]
    assert result.report.certificate and not (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "slim.onnx").is_file()


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), MemoryError(), BUG])
def test_a_module_that_cannot_be_made_by_a_bug_takes_nothing_from_the_proof(
    error: Exception, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object) -> None:
        raise error

    monkeypatch.setattr("atograph.slimming.slim.slim_module", broken)
    result = handed_over(finished, tmp_path / "run")
    assert result.report.certificate and result.slim.module is None
    assert "a bug in atograph; please report it" in result.slim.why_no_module


def test_a_run_that_does_not_get_its_name_is_proved_and_once_there(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap(*_args: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(RunFolder, "_swap", swap)
    with pytest.raises(UserError, match=r"finished but could not be put in place .* It is complete in") as caught:
        handed_over(finished, tmp_path / "run")
    (folder,) = tmp_path.iterdir()
    assert not isinstance(caught.value, atograph.NotProved) and str(folder) in str(caught.value)
    assert Report.load(folder / "report.json").certificate


@pytest.mark.parametrize("checkpoint", [False, True])
def test_where_nothing_can_be_written_the_weights_go_elsewhere(
    checkpoint: bool, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint holds them as well."""

    def full(*_args: object) -> None:
        raise FULL

    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setattr("atograph.files.run_folder.sync", full)
    if checkpoint:
        (tmp_path / ".run.checkpoints").mkdir()
    with pytest.raises(atograph.NotProved, match=r"Nor could it be kept: .*No space left on device") as caught:
        handed_over(finished, tmp_path / "run")
    kept = [*place.glob("atograph-*/*")]
    assert {path.name for path in kept} == (set() if checkpoint else {"plan.json", "trained.safetensors"})
    assert all(str(path) in str(caught.value) for path in kept if path.suffix == ".safetensors")


def test_without_a_folder_the_error_holds_the_plan(break_after_training: Any) -> None:
    break_after_training("certificate")
    training = Training()
    with pytest.raises(atograph.NotProved, match="this error the plan") as caught:
        training.compress(None)
    error = caught.value
    slim = atograph.slim(atograph.trace(error.model, training.data[0][0]), error.plan)
    assert error.folder is None and error.slim is not None
    torch.testing.assert_close(slim(training.data[0][0]), error.model(training.data[0][0]))


def test_data_of_sizes_that_the_program_does_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The slim module is measured on them, and it is told; a file that takes none of them has no metric."""

    class Pools(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(20, 8), nn.Linear(8, 24), nn.Linear(24, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(torch.relu(self.mix(self.embed(ids))).mean(1))  # type: ignore[no-any-return]

    def batches(*lengths: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.randint(0, 20, (8, length)), torch.randint(0, 3, (8,))) for length in lengths]

    for name, lengths, some in (("some", (7, 10, 13), True), ("none", (7,), False)):
        result = atograph.compress(
            Pools(), batches(10, 13), val_data=batches(*lengths), epochs=1, flops=0.6, out=tmp_path / name
        )
        metrics = result.report.metrics
        assert result.report.certificate and (tmp_path / name / "slim.onnx").is_file()
        assert metrics.slim == (metrics.masked if some else None)
        assert "validation batches were measured with the slim module in place of the slim program" in " ".join(
            result.report.notes
        )
        assert "warning: " in capsys.readouterr().err


def test_what_fails_after_the_last_step_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The metric of the last epoch, and those after it: there is none, and the proof holds all the same."""
    training = Training()

    def metric(model: nn.Module, batch: Any) -> float:
        if training.steps >= 4:
            raise ValueError("the labels are gone")
        return 0.5

    result = training.compress(tmp_path / "run", metric=metric, method="magnitude", slim_at="never")
    assert result.report.certificate and result.report.metrics.slim is None
    assert any("could not be measured" in note and "the labels are gone" in note for note in result.report.notes)
    assert "the training is finished, though at its end something failed" in capsys.readouterr().err


class Locked(nn.Module):
    """What it keeps from its first call cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.lock = nn.Linear(8, 16), nn.Linear(16, 4), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]


def refuses_late(model: nn.Module, batch: Any) -> float:
    if bool((batch[1] == 3).any()):
        raise ValueError("no such label")
    return 0.5


@pytest.mark.parametrize(("options", "message"), [
    ({"model": Locked()}, "lock: the model cannot be copied"),
    ({"metric": refuses_late}, "validation, batch 2: .*no such label"),
    ({"opset": 7}, "opset 7 cannot be written"),
    ({"loss": None, "targets": "floats"}, "mse_loss"),
])  # fmt: skip
def test_what_would_fail_later_fails_before_the_first_step(options: dict[str, Any], message: str) -> None:
    training = Training()
    training.model = options.pop("model", training.model)
    first = (training.data[0][0], training.data[0][1].clamp(max=2))
    training.data = [first, (training.data[1][0], torch.full((16,), 3))]
    if options.pop("targets", ""):
        training.data = [(x, x[:, :4]) for x, _y in training.data]
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        training.compress(None, **options)
    assert not training.steps
    assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())


def test_the_dense_model_is_exported_after_the_training_and_takes_nothing_from_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, steps_done = Training(), list[int]()
    model = DenseFile.model

    def late(file: DenseFile) -> Any:
        steps_done.append(training.steps)
        assert not file.path.is_file()  # nobody has needed it so far
        return model(file)

    monkeypatch.setattr(DenseFile, "model", late)
    report = training.compress(tmp_path / "run").report
    assert steps_done == [training.steps] and training.steps and report.latency_ms and report.dense.bytes

    def failing(_file: DenseFile) -> Any:
        raise UserError("torch.onnx cannot export this program.")

    monkeypatch.setattr(DenseFile, "model", failing)
    report = Training().compress(tmp_path / "other").report
    assert not report.not_proved and report.metrics.onnx is not None and not report.latency_ms
    assert "the dense model could not be timed in ONNX Runtime: torch.onnx cannot" in report.notes[0]
