"""Damaged, swapped or edited files, ops that ONNX does not have, a full disk: one paragraph, and nothing changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SPEC, command, make_run
from safetensors.torch import load_file, save_file

import atograph
from atograph.files.plan_file import read_plan
from atograph.program.model import program_child
from atograph.spec.spec import load_spec

WIDER = SPEC.replace("(1, 16", "(1, 20").replace("(16", "(20")

EIGEN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(torch.linalg.eigvalsh(x.unsqueeze(2) * x.unsqueeze(1)))))

def model():
    return Net()

def train_data():
    return [(torch.randn(4, 4), torch.tensor([0, 1, 0, 1]))]
"""


def save_dense(spec: Path, file: Path) -> None:
    save_file(load_spec(str(spec)).model().state_dict(), file)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, what ``atograph apply`` makes of its plan, the same of a wider model, and a program without ONNX."""
    folder = tmp_path_factory.mktemp("bad")
    make_run(folder)
    (folder / "wider.py").write_text(WIDER)
    (folder / "eigen.py").write_text(EIGEN)
    pruning = ("--flops", 0.5, "--method", "magnitude", "--epochs", 0, "-q")
    for spec, out in (("wider.py", "wider"), ("net.py", "twin")):
        code, output = command("compress", folder / spec, *pruning, "--out", folder / out)
        assert code == 0, output
    for spec, run in (("net", "run"), ("wider", "wider")):
        save_dense(folder / f"{spec}.py", folder / f"{spec}.safetensors")
        plan, weights, out = folder / run / "plan.json", folder / f"{spec}.safetensors", folder / f"applied-{spec}"
        code, output = command("apply", plan, folder / f"{spec}.py", "--weights", weights, "--out", out)
        assert code == 0, output
    spec = load_spec(str(folder / "eigen.py"))
    graph = atograph.trace(spec.model().eval(), torch.randn(4, 4))
    atograph.slim(graph, graph.plan(flops=0.5)).save(folder / "eigen")
    of_run, plan = (folder / "run" / "report.json").read_text(), read_plan(folder / "run" / "plan.json")
    (folder / "eigen" / "report.json").write_text(of_run.replace(plan.digest, graph.plan(flops=0.5).digest))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(made, tmp_path / "place", ignore=shutil.ignore_patterns("__pycache__")))
    for report in copy.glob("*/report.json"):
        report.write_text(report.read_text().replace(str(made), str(copy)))
    monkeypatch.chdir(copy)
    return copy


def files(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def refused(place: Path, arguments: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    code, output = command(*arguments.split())
    assert code == 2 and message in output, output
    assert output.count("error: ") == 1 and "Traceback" not in output
    assert not any(capfd.readouterr())  # torch and ONNX Runtime write past Python
    assert files(place) == before


def swap(source: str, target: str) -> Callable[[], Any]:
    return lambda: shutil.copy(source, target)


def cut(name: str, size: int) -> Callable[[], Any]:
    return lambda: Path(name).write_bytes(Path(name).read_bytes()[:size])


def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[], Any]:
    def edited() -> None:
        content = json.loads(Path(name).read_text())
        change(content)
        Path(name).write_text(json.dumps(content))

    return edited


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[], Any]:
    def changed() -> None:
        state = load_file(name)
        change(state)
        save_file(state, name)

    return changed


def nothing() -> None:
    """The command itself is wrong."""


def drop_unit(plan: dict[str, Any]) -> None:
    plan["kept"]["g0"].pop()


def beyond(plan: dict[str, Any]) -> None:
    plan["kept"]["g0"][-1] = 99


VERIFY, BENCH, EXPORT = "verify run --trust-spec", "bench run --trust-spec --seconds 0.01", "export run"
APPLY = "apply run/plan.json net.py --weights net.safetensors --out out/slim"

CASES: list[tuple[Callable[[], Any], list[str], str]] = [
    # plan.json
    (cut("run/plan.json", 100), [VERIFY, BENCH, EXPORT, APPLY], "run/plan.json: this is not a valid plan: "),
    (cut("run/plan.json", 0), [VERIFY, BENCH, EXPORT, APPLY], "run/plan.json: this is not a valid plan: "),
    (edit("run/plan.json", beyond), [VERIFY, BENCH, EXPORT, APPLY], "the units of group g0 are not increasing indices"),
    (edit("run/plan.json", drop_unit), [VERIFY, BENCH, EXPORT], "do not belong together: slim.pt2 is of the plan "),
    (lambda: Path("run/plan.json").unlink(), [VERIFY, BENCH, EXPORT, APPLY], "run/plan.json: cannot read the plan: No"),
    (swap("wider/plan.json", "run/plan.json"), [EXPORT], "do not belong together: slim.pt2 is of the plan "),
    (swap("wider/plan.json", "run/plan.json"), [VERIFY, BENCH, APPLY], "The first difference is group g0: `20 units"),
    # slim.pt2
    (cut("run/slim.pt2", 5000), [VERIFY, BENCH, EXPORT], "slim.pt2: not a program that torch.export can load: "),
    (cut("run/slim.pt2", 0), [VERIFY, BENCH, EXPORT], "It is cut off or damaged; copy it again, or make it again."),
    (swap("twin/slim.pt2", "run/slim.pt2"), [VERIFY, BENCH, EXPORT], "do not belong together: slim.pt2 is of the plan"),
    (swap("eigen/slim.pt2", "run/slim.pt2"), [VERIFY, BENCH], "slim.pt2: the example inputs in it are not for this"),
    (lambda: Path("run/slim.pt2").unlink(), [VERIFY, BENCH, EXPORT], "run: there is no slim.pt2 in this folder."),
    # weights
    (swap("wider/slim.safetensors", "run/slim.safetensors"), [VERIFY], "run/slim.safetensors: the weights do not fit"),
    (tensors("run/slim.safetensors", lambda state: state.pop("5.bias")), [VERIFY], "fit slim.pt2: 1 missing: 5.bias."),
    (
        tensors("run/slim.safetensors", lambda state: state.update(more=torch.ones(1))), [VERIFY],
        "fit slim.pt2: 1 unexpected: more.",
    ),
    (
        tensors("run/slim.safetensors", lambda state: state.update({"5.bias": state["5.bias"].double()})), [VERIFY],
        "1 of another type: 5.bias (slim.safetensors float64, slim.pt2 float32)",
    ),
    (
        tensors("applied-net/model.safetensors", lambda state: state.pop("5.bias")),
        ["verify applied-net --trust-spec", "bench applied-net --trust-spec", "export applied-net"],
        "applied-net/model.safetensors: the weights do not fit slim.pt2: 1 missing: 5.bias.",
    ),
    (
        tensors("applied-net/model.safetensors", lambda state: state.update({"0.weight": torch.ones(3, 1, 3, 3)})),
        ["export applied-net"], "1 of another shape: 0.weight (there [3, 1, 3, 3], slim.pt2 [",
    ),
    (
        swap("wider/slim.safetensors", "applied-net/model.safetensors"), ["export applied-net"],
        "applied-net/model.safetensors: the weights do not fit slim.pt2: ",
    ),
    (cut("applied-net/model.safetensors", 300), ["export applied-net"], "model.safetensors: "),
    (swap("wider.safetensors", "net.safetensors"), [APPLY], "net.safetensors: the weights do not fit the model: "),
    (cut("net.safetensors", 900), [APPLY], "net.safetensors: the file is cut off: it ends in the middle of "),
    # slim.onnx
    (swap("twin/slim.onnx", "run/slim.onnx"), [VERIFY, BENCH], "do not belong together: slim.onnx is of the plan "),
    (cut("run/slim.onnx", 500), [VERIFY, BENCH], "run/slim.onnx: this ONNX file cannot be loaded: "),
    # report.json
    (
        cut("run/report.json", 200), [VERIFY, BENCH, EXPORT, "export run --int8"],
        "run/report.json: not a report of atograph: it is no JSON",
    ),
    (lambda: Path("run/report.json").unlink(), [VERIFY, BENCH], "run: there is no report.json in this folder."),
    (swap("twin/report.json", "run/report.json"), [EXPORT], "do not belong together: report.json is of the plan "),
    # the wrong data, or the wrong place
    (nothing, ["verify net.py", "bench net.py", "export net.py"], "net.py: is a file, not the folder of a run."),
    (nothing, ["export run --int8 --spec eigen.py"], "batch 1 of the training data: the model takes input as "),
    (nothing, ["verify run --spec eigen.py"], "slim.pt2: the example inputs in it are not for this model: "),
    (nothing, ["verify ."], ".: there is no report.json in this folder. Name a folder that `atograph compress`"),
    (nothing, ["export eigen --out made/for/it/slim.onnx"], "torch.onnx cannot export this program: it has nothing"),
    (nothing, ["export run --out net.py/slim.onnx"], "net.py/slim.onnx: cannot write there: "),
    (
        lambda: Path("mine.onnx.data").write_text("mine"), ["export run --external-data --out mine.onnx"],
        "mine.onnx.data: the file is there already.",
    ),
    (
        nothing, [f"compress net.py --flops 0.5 {option}" for option in ("--latency-batch 8", "--latency-table x")],
        "says how latency is measured, and neither latency nor round_to=auto asks for it.",
    ),
    (nothing, ["compress net.py --flops 0.5 --depth-share 0.8"], "and depth is off: give --depth, too."),
    # what ONNX has no op for is known before the training
    (nothing, ["compress eigen.py --flops 0.5 --epochs 1 --out out/eigen"], "nothing to write aten._linalg_eigh with."),
    (nothing, ["compress eigen.py --flops 0.5 --epochs 1 --opset 21 --out wider --force"], "nothing to write aten"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [(prepare, arguments, message) for prepare, every, message in CASES for arguments in every],
)
def test_it_is_refused_in_one_paragraph(
    place: Path, prepare: Callable[[], Any], arguments: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare()
    refused(place, arguments, message, capfd)


def test_a_program_that_was_not_written_says_why(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("applied-net/slim.pt2").unlink()
    edit("applied-net/report.json", lambda report: report.update(program="not written: no values"))()
    for arguments in ("export applied-net", "bench applied-net --trust-spec", "verify applied-net --trust-spec"):
        refused(place, arguments, "there is no slim.pt2 in this folder: it was not written: no values.", capfd)


def test_what_apply_wrote_can_be_exported_verified_and_measured(place: Path) -> None:
    for arguments in (
        "export applied-net",
        "verify applied-net --trust-spec",
        "bench applied-net --trust-spec --seconds 0.01",
        "export applied-net --int8 --even-if-worse --trust-spec",
    ):
        code, output = command(*arguments.split())
        assert code == 0 and "NOT" not in output, output


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """As a full disk, at any byte: the same error from the system, by another name. It holds for this process, and for
    that of slim programs, which may have begun before."""
    resource = pytest.importorskip("resource")
    processes = [0, program_child()._process.pid]
    before = [resource.prlimit(process, resource.RLIMIT_FSIZE) for process in processes]
    for process, (_soft, hard) in zip(processes, before, strict=True):
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        for process, limits in zip(processes, before, strict=True):
            resource.prlimit(process, resource.RLIMIT_FSIZE, limits)


COMPRESS = "compress net.py --flops 0.5 --epochs 1 --out run --force"


@pytest.mark.parametrize(
    ("arguments", "size", "where"),
    [
        (COMPRESS, 1000, "dense.onnx: "),
        (APPLY, 500, "out/slim: "),
        (APPLY, 20_000, "out/slim: "),
        (f"{APPLY.replace('out/slim', 'applied-net')} --force", 20_000, "applied-net: "),
        (EXPORT, 1000, "run/slim.onnx: "),
        ("export run --external-data", 500, "run/slim.onnx: "),
        ("export run --fp16", 1000, "run/slim.fp16.onnx: "),
        ("export run --int8 --even-if-worse --trust-spec --out new/slim.onnx", 4000, "new/slim.onnx: "),
    ],
)  # fmt: skip
def test_a_full_disk(place: Path, arguments: str, size: int, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    with no_file_longer_than(size):
        code, output = command(*arguments.split())
    assert code == 2 and where in output and "File too large" in output, output
    assert output.count("error: ") == 1 and "Traceback" not in output
    assert files(place) == before


@pytest.mark.parametrize(("arguments", "size", "where"), [
    (f"{COMPRESS} --set checkpoint_seconds=inf", 20_000, "run: "),
    (COMPRESS.replace("out run", "out new/run"), 4000, "the checkpoint cannot be written"),
])  # fmt: skip
def test_a_disk_that_is_full_after_the_training(
    place: Path, arguments: str, size: int, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The weights and the plan are small, and stay."""
    with no_file_longer_than(size):
        code, output = command(*arguments.split())
    assert code == 2 and where in output and "File too large" in output, output
    assert output.count("error: ") == 1 and "Traceback" not in output
    run = Path("new/run" if "new/run" in arguments else "run")
    assert {"trained.safetensors", "plan.json", "report.json"} <= {path.name for path in run.iterdir()}


@pytest.mark.parametrize(("name", "value", "said", "example"), [
    ("lr", "abc", "expected a number, got 'abc'.", "--set lr="),
    ("epochs", "1.5", "expected a whole number, got '1.5'.", "--set epochs=10, in Python epochs=10."),
    ("controller", "maybe", "expected true or false or 'auto', got 'maybe'.", "--set controller=true, in Python "),
    ("batch", 0, "expected a value greater than or equal to 1, got 0.", "--set batch=10"),
    ("latency_batch", -1, "expected a value greater than or equal to 1, got -1.", "--set latency_batch=1"),
    ("round_to", "x", "expected a whole number or 'fit' or 'auto', got 'x'.", "--set round_to=auto"),
    ("metric_mode", "up", "expected 'max' or 'min', got 'up'.", "--set metric_mode=min"),
    ("freeze_layers", 3, "expected a list of names, got 3.", "freeze_layers="),
])  # fmt: skip
def test_a_wrong_setting_says_what_it_takes(name: str, value: object, said: str, example: str) -> None:
    from atograph.train.settings import settings_of

    with pytest.raises(atograph.UserError) as raised:
        settings_of({name: value})
    text = str(raised.value)
    assert text.startswith(f"training setting {name}: {said}") and example in text and "Input" not in text
