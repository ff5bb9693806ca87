"""Targets: the table, what the certificate says of each, and runs for others than ONNX Runtime."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from runs import SPEC, command
from torch import Tensor, nn
from torch.export import ExportedProgram

import atograph
from atograph.cli import options
from atograph.passes.errors import InternalError, UserError
from atograph.proof.certificate import certify
from atograph.report.run import Comparison, Report
from atograph.run.rehearse import deploy
from atograph.run.verify import targets_of_run
from atograph.slimming.masking import zero_
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import Inputs
from atograph.targets import TARGETS, Target, onnx_runtime, target
from atograph.targets.deployed import export, load
from atograph.targets.table import targets_of
from atograph.terminal.console import as_text
from atograph.terminal.tables import certificate_table, closing_table


class Plain(Target):
    """A program as torch writes and reads it."""

    name: ClassVar[str] = "plain"
    title: ClassVar[str] = "Plain"
    file: ClassVar[str] = "slim.plain.pt2"

    def export(self, program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
        torch.export.save(program, path)

    def load(self, path: Path, program: ExportedProgram) -> Callable[..., Any]:
        return torch.export.load(path).module()


class Changing(Plain):
    """It computes something else of some programs."""

    name: ClassVar[str] = "changing"
    title: ClassVar[str] = "A runtime"

    def load(self, path: Path, program: ExportedProgram) -> Callable[..., Any]:
        run = super().load(path, program)
        return lambda x: self.changed(run(x), program)

    def changed(self, value: Tensor, program: ExportedProgram) -> Tensor:
        return value


def is_slim(program: ExportedProgram) -> bool:
    return program.state_dict["0.weight"].shape[0] < 32


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """What a test registers is gone after it."""
    rows = dict(TARGETS._loaders)
    yield
    TARGETS._loaders.clear()
    TARGETS._loaders.update(rows)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, Slim]:
    """A masked network, and what was made of it."""
    model = network()
    graph = atograph.trace(model, X)
    plan = graph.plan(flops=0.5)
    zero_(model, plan)
    return model, atograph.slim(graph, plan)


def proved(made: tuple[nn.Module, Slim], row: Target, folder: Path) -> list[Comparison]:
    model, slim = made
    path = export(row, slim.program, folder / row.file)
    return certify(model, slim, [load(row, path, slim.program)], Inputs((X,), {}))


def test_what_is_equal_holds(made: tuple[nn.Module, Slim], tmp_path: Path) -> None:
    entries = proved(made, Plain(), tmp_path)
    assert [entry.batch for entry in entries] == [1, 5]
    for entry in entries:
        assert entry.holds and entry.targets["plain"].difference < 1e-6 and not entry.faults
        assert entry.slim_onnx is None and entry.runtime is None


class WrongOfSlim(Changing):
    def changed(self, value: Tensor, program: ExportedProgram) -> Tensor:
        return 1.01 * value if is_slim(program) else value


class AnotherShape(Changing):
    def changed(self, value: Tensor, program: ExportedProgram) -> Tensor:
        return value[:, :2]


class NotANumber(Changing):
    def changed(self, value: Tensor, program: ExportedProgram) -> Tensor:
        return torch.where(value > 0, value, torch.nan) if is_slim(program) else value


class WrongOfBothAndSlim(Changing):
    """One value is its own fault, another one is not."""

    def changed(self, value: Tensor, program: ExportedProgram) -> Tensor:
        return value + torch.tensor([1.0, float(is_slim(program)), 0.0, 0.0])


@pytest.mark.parametrize("row", [WrongOfSlim, AnotherShape, NotANumber, WrongOfBothAndSlim])
def test_a_target_that_computes_something_else_is_named(
    made: tuple[nn.Module, Slim], row: type[Target], tmp_path: Path
) -> None:
    with pytest.raises(InternalError, match=r"slim and A runtime by \S+, allowed.* bug in test_targets"):
        proved(made, row(), tmp_path)


def test_what_a_runtime_gets_wrong_by_itself_is_its_own_fault(made: tuple[nn.Module, Slim], tmp_path: Path) -> None:
    class Wrong(Changing):
        def changed(self, value: Tensor, program: ExportedProgram) -> Tensor:
            return value + torch.tensor([1.0, 0.0, 0.0, 0.0])

    entries = proved(made, Wrong(), tmp_path)
    for entry in entries:
        (fault,) = entry.faults
        assert entry.holds and fault.compared == 0.75 and entry.targets["changing"].difference < 1e-6
        assert str(fault).startswith("A runtime computes this model wrong, dense as it is")
    shown = as_text(certificate_table([("batch of 5", entries[-1])]))
    assert "slim = A runtime" in shown and "equal *" in shown and "* in what A runtime gets right" in shown


def test_a_tolerance_of_its_own(made: tuple[nn.Module, Slim], tmp_path: Path) -> None:
    class Coarse(WrongOfSlim):
        tolerance = 0.02

    entry = proved(made, Coarse(), tmp_path)[-1]
    assert entry.holds and not entry.faults and entry.targets["changing"].difference > 1e-3
    assert "(of 2.0e-02)" in as_text(certificate_table([("batch of 5", entry)]))


@pytest.mark.parametrize("what", ["export", "load", "run"])
def test_what_a_target_raises_is_told_in_its_name(
    what: str, made: tuple[nn.Module, Slim], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise KeyError("no kernel")

    if what == "run":
        monkeypatch.setattr(Changing, "changed", broken)
    else:
        monkeypatch.setattr(Changing, what, broken)
    with pytest.raises(UserError, match=rf"A runtime cannot {what} .*KeyError: 'no kernel'.* 'changing' is of test_t"):
        proved(made, Changing(), tmp_path)


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By decorator, and by the entry point of an installed package; a name that is taken raises."""
    assert target(Plain) is Plain and TARGETS.get("plain") is Plain
    with pytest.raises(UserError, match="two targets are called 'plain'"):
        target(type("Another", (Plain,), {}))
    (tmp_path / "elsewhere.py").write_text(
        "from test_targets import Plain\nclass Elsewhere(Plain):\n    name = 'elsewhere'\n    file = 'else.where'\n"
    )
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[atograph.targets]\nelsewhere = elsewhere:Elsewhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(TARGETS, "_looked_around", False)
    assert list(TARGETS) == ["executorch", "onnx", "openvino", "pt2", "plain", "elsewhere"]
    assert "elsewhere" not in sys.modules
    (row,) = targets_of(["elsewhere"])
    assert row.file == "else.where" and row.label == "Plain"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["onxn"],
            "there is no target 'onxn'. Perhaps onnx? "
            "Known targets: executorch, onnx, openvino, pt2, plain, thief, report; "
            "one of yours is known once it is registered.",
        ),
        ([], "a run needs a target"),
        (["onnx", "plain", "onnx"], "the target 'onnx' is named twice"),
        (["plain", "thief"], "the target 'thief' writes slim.plain.pt2, as the target 'plain' does"),
        (["report"], "the target 'report' writes report.json, as a run itself does"),
    ],
)
def test_names_that_make_no_run(names: list[str], message: str, tmp_path: Path) -> None:
    target(Plain)
    target(type("Thief", (Plain,), {"name": "thief"}))
    target(type("Reports", (Plain,), {"name": "report", "file": "report.json"}))
    training = Training()
    with pytest.raises(UserError, match=message.replace(".", r"\.").replace("?", r"\?")):
        training.compress(out=tmp_path / "run", targets=names)
    assert not training.steps and not (tmp_path / "run").exists()


def test_options_go_to_those_that_have_them() -> None:
    onnx, pt2 = targets_of(["onnx", "pt2"], {"opset": 20})
    assert onnx.opset == 20 and not hasattr(pt2, "opset")  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="opset is no option of the target pt2"):
        targets_of(["pt2"], {"opset": 20})


class Training:
    """A small training that counts its steps."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model, self.steps = network() if model is None else model, 0

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.steps += model.training
        return model(batch).square().mean()

    def compress(self, **options: Any) -> atograph.Result:
        options = {"flops": 0.5, "epochs": 1, "loss": self.loss, **options}
        return atograph.compress(self.model, [X, X], example_inputs=X, **options)


@pytest.mark.parametrize("what", ["export", "load", "changed"])
def test_before_the_training_each_target_is_tried(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise NotImplementedError("aten.linear")

    monkeypatch.setattr(Changing, what, broken)
    target(Changing)
    training = Training()
    with pytest.raises(UserError, match=r"A runtime cannot .* NotImplementedError: aten\.linear") as caught:
        training.compress(targets=["pt2", "changing"])
    assert not training.steps and not isinstance(caught.value, atograph.NotProved)


def test_a_fault_of_a_runtime_is_told_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    class Wrong(Changing):
        def changed(self, value: Tensor, program: ExportedProgram) -> Tensor:
            return value + torch.tensor([1.0, 0.0, 0.0, 0.0])

    target(Wrong)
    report = Training().compress(targets=["changing"]).report
    assert [len(entry.faults) for entry in report.certificate] == [1, 1]
    assert capsys.readouterr().err.count("warning: A runtime computes this model wrong, dense as it is") == 2


def test_after_the_training_nothing_is_lost(tmp_path: Path) -> None:
    target(WrongOfSlim)
    training = Training()
    with pytest.raises(atograph.NotProved, match="slim and A runtime by") as caught:
        training.compress(targets="changing", out=tmp_path / "run")
    assert training.steps and caught.value.complete and (tmp_path / "run" / "trained.safetensors").is_file()


class Bessel(nn.Module):
    """It has an op that ONNX has none for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.special.i0e(self.first(x)) - 1)  # type: ignore[no-any-return]


def test_a_model_that_onnx_refuses_is_proved_without_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torch\.onnx cannot export this program: .* do without ONNX: --target pt2"):
        Training(Bessel()).compress()
    report = Training(Bessel()).compress(targets=["pt2"], out=tmp_path / "run").report
    assert not report.latency_ms and report.metrics.onnx is None and report.dense.bytes == 0
    assert "ONNX" not in as_text(closing_table(report)) and targets_of_run(tmp_path / "run") == ("pt2",)
    assert str(report).endswith("masked = slim = pt2") and "ONNX" not in str(report)
    assert not (tmp_path / "run" / "slim.onnx").exists()
    assert Report.load(tmp_path / "run" / "report.json").certificate == report.certificate


BEFORE = {"batch": 2, "masked_slim": 3e-7, "slim_onnx": 4e-7, "tolerance": 1e-4, "moved": 0.5}
FAULT = {"dense": 0.5, "slim": None, "compared": 0.875}


@pytest.mark.parametrize("fault", [None, FAULT])
def test_reports_of_runs_before_there_were_targets(fault: dict[str, Any] | None) -> None:
    entry = Comparison.model_validate(BEFORE | ({} if fault is None else {"runtime": fault}))
    assert entry.holds and entry.slim_onnx == 4e-7 == entry.targets["onnx"].difference
    assert (entry.runtime is not None) == (fault is not None)
    written = json.loads(entry.model_dump_json())
    assert written["slim_onnx"] == 4e-7 and Comparison.model_validate(written) == entry
    shown = as_text(certificate_table([("batch of 2", entry)]))
    assert "slim = ONNX" in shown and ("ONNX Runtime gets right" in shown) == (fault is not None)
    with pytest.raises(ValueError, match="targets"):
        Comparison.model_validate({name: value for name, value in BEFORE.items() if name != "slim_onnx"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a SPEC that brings its target."""
    folder = tmp_path_factory.mktemp("targets")
    (folder / "net.py").write_text(f"{BRINGS}\n{SPEC}")
    options = ("--flops", "0.5", "--epochs", "1", "--target", "pt2", "--target", "brought", "-q")
    code, output = command("compress", folder / "net.py", *options, "--out", folder / "run")
    assert code == 0 and "slim = pt2 slim = Plain tolerance" in output, output
    del TARGETS._loaders["brought"]
    return folder / "run"


BRINGS = """
from atograph.targets import target
from test_targets import Plain

@target
class Brought(Plain):
    name, file = "brought", "slim.brought"
"""


def test_the_help_names_each_target_of_ours() -> None:
    (option,) = options.Targets.__metadata__  # type: ignore[attr-defined]
    assert all(f" {name}" in option.help for name in ("executorch", "onnx", "openvino", "pt2"))
    assert not [
        name for name in TARGETS if TARGETS.get(name).__module__.startswith("atograph.") and name not in option.help
    ]


def test_a_run_proves_itself_again_in_its_targets(run: Path) -> None:
    files = {path.name for path in run.iterdir()}
    assert {"slim.pt2", "slim.brought"} <= files and "slim.onnx" not in files
    spec = ("--spec", run.parent / "net.py")
    code, output = command("verify", run, *spec)
    assert code == 2 and "slim.brought: loading it in Plain may run code that is in it." in output, output
    del TARGETS._loaders["brought"]
    code, output = command("verify", run, *spec, "--target", "brought", "--target", "pt2")
    assert code == 0 and "slim = Plain slim = pt2" in output and output.count(" equal") == 6, output
    del TARGETS._loaders["brought"]
    code, output = command("verify", run, "--spec", bare(run), "--target", "pt2")
    assert code == 0 and "slim = pt2 tolerance" in output
    code, output = command("verify", run, "--spec", bare(run))
    assert code == 2 and "is for the target 'brought', which is not known here" in output
    assert "--target pt2" in output


def bare(run: Path) -> Path:
    path = run.parent / "bare.py"
    path.write_text(SPEC)
    return path


def test_a_file_is_exported_again(run: Path, tmp_path: Path) -> None:
    for arguments, message in {
        ("--target", "pt2"): "this is what the slim program is read from",
        ("--target", "pt2", "--fp16"): "--fp16 is for ONNX files, and not for the target 'pt2'",
        ("--target", "brought"): "there is no target 'brought'",
    }.items():
        code, output = command("export", run, *arguments)
        assert code == 2 and message in output, output
    code, output = command("export", run, "--target", "pt2", "--out", tmp_path / "copy.pt2")
    assert code == 0 and "pt2 and the slim program differ by 0.0e+00" in output
    assert (tmp_path / "copy.pt2").is_file()
    code, output = command(
        "export", run, "--target", "brought", "--spec", run.parent / "net.py", "--out", tmp_path / "again"
    )
    assert code == 0 and (tmp_path / "again").is_file(), output


def test_what_torch_alone_reads_is_what_the_run_wrote(made: tuple[nn.Module, Slim], tmp_path: Path) -> None:
    _model, slim = made
    (row,) = targets_of(["pt2"])
    path = export(row, slim.program, tmp_path / "slim.pt2", slim.metadata)
    slim.save(tmp_path / "saved")
    assert path.read_bytes() == (tmp_path / "saved" / "slim.pt2").read_bytes()


def test_a_file_that_was_loaded_to_look_at_it_is_not_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    own = onnx_runtime.OnnxModel

    def counted(path: Path, *rest: Any, **options: Any) -> Any:
        loaded.append(path)
        return own(path, *rest, **options)

    monkeypatch.setattr(onnx_runtime, "OnnxModel", counted)
    graph = atograph.trace(network(), X)
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    (file,) = deploy(slim, [onnx_runtime.OnnxRuntime()], tmp_path, amended_for=Inputs((X,), {}))
    assert loaded == [tmp_path / "slim.onnx"]
    torch.testing.assert_close(file(X), slim(X), rtol=1e-5, atol=1e-5)


class OfFew(Plain):
    """It has memory for three samples."""

    name: ClassVar[str] = "few"

    def load(self, path: Path, program: ExportedProgram) -> Callable[..., Any]:
        run = super().load(path, program)

        def of_few(x: Tensor) -> Any:
            if len(x) > 3:
                raise ValueError("too many samples")
            return run(x)

        of_few.most = 3  # type: ignore[attr-defined]
        return of_few


def test_the_certificate_is_of_as_many_samples_as_a_file_has_memory_for(tmp_path: Path) -> None:
    model = network()
    graph = atograph.trace(model, X)
    plan = graph.plan(flops=0.5)
    zero_(model, plan)
    slim = atograph.slim(graph, plan)
    file = load(OfFew(), export(OfFew(), slim.program, tmp_path / OfFew.file), slim.program)
    assert [entry.batch for entry in certify(model, slim, [file], Inputs((X,), {}))] == [1, 3]
