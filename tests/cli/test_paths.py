"""What was typed and where one stands: a run goes on working after a move, and files run as a script would."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from runs import SPEC, command
from torch import nn

import atograph
from atograph.spec.spec import load_spec


@pytest.fixture(autouse=True)
def _restore_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


DATA = SPEC.replace("def train_data():", "def train_data(data):\n    assert (data / 'here').exists()").replace(
    "return train_data()", "return []"
)


def compress(*arguments: object) -> None:
    code, output = command("compress", *arguments, "--flops", "0.5", "--method", "magnitude", "--epochs", 0, "-q")
    assert code == 0, output


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in a folder, data beside it, and a run by names from the working directory."""
    place = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "path", list(sys.path))
        for name in ("models", "set"):
            (place / name).mkdir()
        (place / "set" / "here").touch()
        (place / "models" / "net_of_paths.py").write_text(DATA)
        compress("models/net_of_paths.py:model", "--data", "set", "--out", "runs/file")
        compress("models.net_of_paths", "--data", "set", "--out", "runs/module")
    return place


@pytest.mark.parametrize("run", ["file", "module"])
@pytest.mark.parametrize("move", ["nothing", "the run", "the project"])
def test_a_run_is_verified_from_anywhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, move: str
) -> None:
    place = project / "runs" / run
    if move == "the run":
        place = Path(shutil.copytree(place, tmp_path / "elsewhere" / "run"))
    elif move == "the project":
        place = Path(shutil.copytree(project, tmp_path / "moved")) / "runs" / run
        report = json.loads((place / "report.json").read_text())
        (place / "report.json").write_text(json.dumps(report).replace(str(project), "/nowhere"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, output = command("verify", place, "--trust-spec")
    assert code == 0 and "real inputs" not in output, output  # val_data is empty
    assert command("export", place, "--int8", "--even-if-worse", "--trust-spec", "--out", "here.onnx")[0] == 0


def test_the_folder_of_save_is_taken_by_every_command(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPEC)
    spec = load_spec(str(tmp_path / "net.py"))
    graph = atograph.trace(spec.model(), *spec.inputs())
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    saved = slim.save(tmp_path / "saved")
    for arguments in (
        ["verify", saved, "--spec", tmp_path / "net.py"],
        ["bench", saved, "--spec", tmp_path / "net.py", "--seconds", 0.01],
    ):
        code, output = command(*arguments)
        assert code == 0 and "there is no slim.onnx, so one is made" in output, output
    assert command("export", saved, "--int8", "--even-if-worse", "--spec", tmp_path / "net.py")[0] == 0
    assert command("export", saved)[0] == 0 and (saved / "slim.onnx").is_file()
    from safetensors.torch import save_file

    save_file(spec.model().state_dict(), tmp_path / "dense.safetensors")
    weights = ["--weights", tmp_path / "dense.safetensors", "--out", tmp_path / "applied", "-q"]
    assert command("apply", saved, tmp_path / "net.py", *weights)[0] == 0
    x = spec.inputs().args[0]
    torch.testing.assert_close(atograph.load(saved)(x), slim(x))
    code, output = command("verify", saved)
    assert code == 2 and "was not made from a file" in output
    code, output = command("compress", tmp_path / "net.py", "--flops", 0.5, "--out", saved, "--force")
    assert code == 2 and "holds no run of atograph" in output  # what else is in it is the user's


def test_saving_over_a_run_keeps_what_was_measured(project: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(project / "runs" / "file", tmp_path / "run"))
    before = (run / "report.json").read_text()
    spec = load_spec(str(project / "models" / "net_of_paths.py"), data=project / "set")
    graph = atograph.trace(spec.model(), *spec.inputs())
    atograph.slim(graph, atograph.Plan.from_json((run / "plan.json").read_bytes())).save(run)
    assert (run / "report.json").read_text() == before
    other = atograph.slim(graph, graph.plan(random=0, keep=0.9))
    other.save(run)
    assert json.loads((run / "report.json").read_text())["plan"] == other.plan.digest


PARSING = """
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=7)
    {before}arguments = parser.parse_args()
    from torch import nn
    def model():
        {inside}arguments = parser.parse_args()
        return nn.Linear(arguments.width, 2)
    """


@pytest.mark.parametrize(("before", "inside"), [("", "pass;"), ("pass;", "")])
def test_arguments_are_those_of_a_script_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, inside: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["atograph", "compress", "net.py", "--flops", "0.5"])
    text = dedent(PARSING).format(before=before, inside=inside).replace("pass;arguments = parser.parse_args()", "pass")
    (tmp_path / "net.py").write_text(text)
    assert load_spec(str(tmp_path / "net.py")).model().get_parameter("weight").shape == (2, 7)
    assert sys.argv[1:] == ["compress", "net.py", "--flops", "0.5"]


@pytest.mark.parametrize(
    ("file", "text", "beside"),
    [
        ("pack/net.py", "from .layers import WIDTH", {"pack/layers.py": "WIDTH = 5", "pack/__init__.py": ""}),
        ("pack/net.py", "from . import layers\nWIDTH = layers.WIDTH", {"pack/layers.py": "WIDTH = 5"}),
        (
            "pack/sub/net.py", "from ..layers import WIDTH\nimport near",
            {"pack/layers.py": "from .w import WIDTH", "pack/w.py": "WIDTH = 5", "pack/sub/near.py": ""},
        ),
        ("v1.0 of it/net.py", "from .layers import WIDTH", {"v1.0 of it/layers.py": "WIDTH = 5"}),
        ("json/net.py", "from .layers import WIDTH", {"json/layers.py": "WIDTH = 5", "json/__init__.py": ""}),
    ],
)  # fmt: skip
def test_relative_imports(tmp_path: Path, file: str, text: str, beside: dict[str, str]) -> None:
    model = "\nfrom torch import nn\ndef model(): return nn.Linear(WIDTH, 2)\n"
    for name, content in {file: text + model, **beside}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    first, again = (load_spec(str(tmp_path / file)) for _ in range(2))
    assert first.model().get_parameter("weight").shape == again.model().get_parameter("weight").shape == (2, 5)
    assert json.dumps("is that of Python") and sys.modules["json"] is json


@pytest.mark.parametrize("text", ["0.3", "30%", "30 %", "0,3", "30,0%", " .3"])
def test_shares_as_people_write_them(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from atograph.run import compress as compression

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SPEC)
    seen: dict[str, Any] = {}

    def stop(*_args: object, **options: Any) -> None:
        seen.update(options)
        raise atograph.UserError("enough.")

    monkeypatch.setattr(compression, "compress_spec", stop)
    for arguments in (["--flops", text, "--floor", "5%"], ["--set", f"flops={text}", "--set", "floor=0,05"]):
        code, output = command("compress", "net.py", *arguments)
        assert code == 2 and "enough" in output
        assert seen["settings"].flops == pytest.approx(0.3) and seen["settings"].floor == 0.05


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (50, r"flops 50 is out of range: it is the share to keep, above 0 and at most 1\. 50 % is 0\.5: flops="),
        ("150%", r"flops 150% is out of range"),
        (0, r"flops 0 is out of range"),
        ("half", r"flops half is no number: it is the share to keep"),
        ("1.000,5", r"is no number"),
        (True, r"is no number"),
    ],
)
def test_a_share_that_is_none_is_told_in_python(share: Any, message: str) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(2, 4)
    with pytest.raises(atograph.UserError, match=message):
        atograph.trace(net, x).plan(flops=share)
    with pytest.raises(atograph.UserError, match=message):
        atograph.compress(net, example_inputs=x, flops=share, method="magnitude", epochs=0)
