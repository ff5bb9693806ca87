"""``atograph export``: ONNX files from the folder of a run, in any precision, complete or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from runs import command, make_run
from torch import nn
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app
from atograph.run.export import export_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("export"))


def invoke(*arguments: object) -> tuple[int, str]:
    return command("export", *arguments)


def said(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def test_it_is_the_file_of_the_run(run: Path, tmp_path: Path) -> None:
    code, output = invoke(run, "--out", tmp_path / "again.onnx")
    assert code == 0 and "differ by" in output and "again.onnx (" in output
    one, other = onnx.load(run / "slim.onnx"), onnx.load(tmp_path / "again.onnx")
    assert said(run / "slim.onnx") == said(tmp_path / "again.onnx")
    assert said(run / "slim.onnx")["atograph.budgets"] == "flops=0.5"
    assert one.graph.input == other.graph.input and one.graph.output == other.graph.output
    assert [n.op_type for n in one.graph.node] == [n.op_type for n in other.graph.node]
    assert [*one.graph.initializer] == [*other.graph.initializer]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("external_data", [False, True], ids=["one file", "two files"])
def test_precisions(run: Path, precision: Any, external_data: bool, tmp_path: Path) -> None:
    from atograph.spec.spec import load_spec
    from atograph.train.task import Task

    spec = load_spec(str(run.parent / "net.py"))
    task = Task(spec.train_data(), spec.val_data())
    path = tmp_path / "out" / "slim.onnx"
    done = export_run(run, path, precision=precision, external_data=external_data, task=task, even_if_worse=True)
    files = ["slim.onnx", "slim.onnx.data"] if external_data else ["slim.onnx"]
    assert sorted(file.name for file in path.parent.iterdir()) == files
    assert done.bytes == sum(file.stat().st_size for file in path.parent.iterdir())
    limit = {"float32": 1e-6, "float16": 5e-3, "int8": 0.1}[precision]
    assert done.difference is not None and done.difference < limit
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[
        precision
    ] in kinds
    model = onnx.load(path)
    onnx.checker.check_model(str(path), full_check=True)
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [1, 1]
    assert (done.metric is not None) == (done.metric_before is not None) == (precision == "int8")
    assert said(path) == said(run / "slim.onnx")


def test_the_command_uses_the_file_of_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = invoke(run, "--int8", "--even-if-worse", "--trust-spec")
    assert code == 0 and "in float32" in output and "in int8" in output and (run / "slim.int8.onnx").exists()
    code, output = invoke(run, "--fp16", "--quiet")
    assert (code, output) == (0, "") and (run / "slim.fp16.onnx").exists()


def test_int8_for_other_targets(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an extra")
    arguments = ("--int8", "--even-if-worse", "--trust-spec", "--target")
    code, output = invoke(run, *arguments, "openvino", "--out", tmp_path / "made" / "net.xml")
    assert code == 0 and "OpenVINO (" in output and "in ONNX Runtime" in output, output
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == ["net.bin", "net.xml"]
    assert "i8" in (tmp_path / "made" / "net.xml").read_text()
    code, output = invoke(run, *arguments, "tensorrt", "--out", tmp_path / "net.onnx")
    assert code == 0 and "not timed here" in output, output
    assert said(tmp_path / "net.onnx") == said(run / "slim.onnx")


def test_int8_that_is_no_gain_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import atograph.int8.choose as choosing

    monkeypatch.setattr(choosing, "FARTHEST", 0.0)
    code, output = invoke(run, "--int8", "--trust-spec", "--out", tmp_path / "net.onnx")
    assert code == 2 and "int8 is no gain" in output and "--even-if-worse" in output, output
    assert not list(tmp_path.iterdir())


def test_weights_of_a_former_file_do_not_stay(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "slim.onnx"
    export_run(run, path, external_data=True)
    done = export_run(run, path)
    assert [file.name for file in tmp_path.iterdir()] == ["slim.onnx"] and done.bytes == path.stat().st_size


def test_a_run_of_python_needs_a_spec(run: Path, tmp_path: Path) -> None:
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    report = (run / "report.json").read_text()
    (tmp_path / "report.json").write_text(report.replace(str(run.parent / "net.py"), "the model"))
    code, output = invoke(tmp_path, "--int8")
    assert code == 2 and "this run was not made from a file. Name a file with its model: --spec SPEC." in output


def test_weights_of_apply(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(3)
    state = {name: torch.rand_like(value.float()) + 0.5 for name, value in dense().state_dict().items()}
    state["1.num_batches_tracked"] = torch.tensor(0)
    save_file(state, tmp_path / "dense.safetensors")
    done = CliRunner().invoke(
        app,
        ["apply", str(run / "plan.json"), str(run.parent / "net.py"), "--weights", str(tmp_path / "dense.safetensors"),
         "--out", str(tmp_path / "applied")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = export_run(tmp_path / "applied")
    assert made.difference is not None and made.difference < 1e-6
    assert said(made.path)["atograph.plan"] == said(run / "slim.onnx")["atograph.plan"]


def dense() -> nn.Module:
    model: nn.Module = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip
    return model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere: there is no such folder. Name that of a run: runs/net."),
        (["RUN", "--fp16", "--int8"], "error: choose one of --fp16 and --int8."),
        (["RUN", "--even-if-worse"], "error: --even-if-worse is for --int8."),
        (["RUN", "--int8", "--trust-spec", "--target", "pt2"], "there is no int8 for the target 'pt2'"),
        (["RUN", "--int8", "--target", "openvino", "--out", "RUN/a.onnx"], "a file of OpenVINO ends in .xml"),
        (["RUN", "--target", "openvino", "--out", "RUN/a.onnx"], "a file of OpenVINO ends in .xml"),
        (["RUN", "--int8", "--target", "openvino", "--external-data"], "--external-data is for ONNX files"),
        (["RUN", "--out", "RUN"], "is a folder, not a file to write"),
        (["RUN", "--out", "RUN/slim.onnx"], "the file is there already. Replace it with --force."),
        (["RUN", "--out", "RUN/plan.json", "--force"], "a file of ONNX ends in .onnx"),
        (["RUN", "--opset", "4"], "error: ONNX opset 4 cannot be written"),
        (["RUN", "--int8", "--spec", "missing.py"], "missing.py"),
        (["RUN/.."], "there is no slim.pt2 in this folder"),
    ],
)
def test_what_cannot_be_done_is_said(run: Path, arguments: list[str], message: str) -> None:
    before = {file: file.read_bytes() for file in run.iterdir()}
    code, output = invoke(*[text.replace("RUN", str(run)) for text in arguments])
    assert code == 2 and message.replace("RUN", str(run)) in output
    assert {file: file.read_bytes() for file in run.iterdir()} == before


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged("slim.pt2", lambda content: content[:1000]), "not a program that torch.export can load"),
        (damaged("plan.json", lambda content: content[:100]), "this is not a valid plan"),
        (damaged("report.json", lambda content: b"{}"), "not a report of atograph: dense: Field required"),
        (lambda folder: (folder / "plan.json").unlink(), "cannot read"),
    ],
    ids=["program", "plan", "report", "no plan"],
)
def test_a_damaged_run_is_refused_and_the_old_file_stays(
    run: Path, damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(atograph.UserError, match=message):
        export_run(tmp_path)
    assert (tmp_path / "slim.onnx").read_bytes() == (run / "slim.onnx").read_bytes()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_full_disk_leaves_the_old_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import atograph.files.writing as writing

    before = {file: file.read_bytes() for file in run.iterdir()}

    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "sync_folder", full)
    for options in ([], ["--external-data"]):
        code, output = invoke(run, *options)
        assert code == 2 and "slim.onnx: cannot write there: No space left on device." in output
        assert {file: file.read_bytes() for file in run.iterdir()} == before
    code, output = invoke(run, "--out", run.parent / "new" / "one" / "slim.onnx")
    assert code == 2 and not (run.parent / "new").exists()


class OfFour(nn.Module):
    """It takes batches of four only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("place", torch.randn(4, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.relu(self.first(x) + self.place))
        return result


def test_a_model_of_one_batch_size_goes_all_the_way(tmp_path: Path) -> None:
    from atograph.run.bench import bench_run
    from atograph.run.verify import verify_run

    torch.manual_seed(0)
    data = [(torch.randn(4, 6), torch.randint(3, (4,))) for _ in range(6)]
    model = OfFour()
    result = atograph.compress(model, data, val_data=data, flops=0.5, epochs=2, out=tmp_path / "run", quiet=True)
    assert [entry.batch for entry in result.report.certificate] == [4] and result.report.certificate[0].holds
    assert [entry.batch for entry in result.report.latency_ms] == [4]
    assert result.report.metrics.masked == result.report.metrics.onnx
    (shape,) = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.load(tmp_path / "run" / "slim.onnx").graph.input
    ]
    assert shape == [4, 6]
    made = export_run(tmp_path / "run")
    assert made.difference is not None and made.difference < 1e-6
    other = OfFour()
    other.place.copy_(model.place)
    entries = verify_run(tmp_path / "run", other)
    assert [name for name, _ in entries] == ["example inputs, batch of 4", "random inputs, batch of 4"]
    assert all(entry.holds for _, entry in entries)
    found = bench_run(tmp_path / "run", other, batches=(1, 8), seconds=0.01)
    assert [latency.batch for latency in found.latencies] == [4]
