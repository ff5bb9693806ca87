"""The commands on an ONNX file: no source code, data as arrays or as a Python file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_files import network, noise
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app

SOME = ("--flops", "0.5", "--quiet")


def run(*args: object) -> tuple[int, str]:
    """Exit code, and what was printed."""
    done = CliRunner().invoke(app, [*map(str, args)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, " ".join(done.output.split())


def test_a_file_in_a_file_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The issue's own command; ``verify`` proves the run again, the two files included."""
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "net.onnx")
    assert run("compress", "net.onnx", *SOME, "--method", "magnitude", "--out", "slim.onnx")[0] == 0
    assert [value.name for value in onnx.load("slim.onnx").graph.input] == ["input.1"]
    report = json.loads((tmp_path / "slim" / "report.json").read_text())
    assert report["slim"]["flops"] <= 0.5 * report["dense"]["flops"]
    for entry in report["certificate"]:
        assert entry["source"]["label"] == "masked file"
        assert entry["source"]["difference"] <= 1e-4
    assert run("verify", "slim", "--trust-spec")[0] == 0


@pytest.mark.long
def test_arrays_are_what_taylor_scores_are_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **{"input.1": noise(40, 3, 9, 9), "labels": np.arange(40) % 5})
    assert run("compress", "net.onnx", *SOME, "--method", "taylor", "--data", "data.npz", "--out", "with")[0] == 0
    np.savez(tmp_path / "bare.npz", **{"input.1": noise(40, 3, 9, 9)})
    assert run("compress", "net.onnx", *SOME, "--method", "taylor", "--data", "bare.npz", "--out", "without")[0] == 0
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("with", "without")]
    assert plans[0] != plans[1]
    code, told = run("compress", "net.onnx", *SOME, "--method", "taylor", "--out", "none")
    assert code == 2
    assert "a program brings no data" in told
    assert run("compress", "net.onnx", *SOME, "--method", "magnitude", "--data", "net.onnx", "--out", "none")[0] == 2


@pytest.mark.long
def test_a_python_file_gives_data_and_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "net.onnx")
    (tmp_path / "data.py").write_text(
        "import torch\n"
        "def train_data():\n"
        "    for seed in range(3):\n"
        "        yield {'input.1': torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(seed))}\n"
        "def loss(model, batch):\n"
        "    return model(**batch)['495'].abs().mean()\n"
    )
    given = ("--method", "taylor", "--data", "data.py", "--out", "run")
    assert run("compress", "net.onnx", *SOME, *given)[0] == 0
    assert (tmp_path / "run" / "slim.onnx").exists()


def test_inspect_and_compress_in_python(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    assert "72 units" in run("inspect", path)[1]
    done = atograph.compress(path, flops=0.5, method="magnitude", epochs=0)
    assert all(entry.source is not None and entry.holds for entry in done.report.certificate)
