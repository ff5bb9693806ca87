"""A model that is sharded over two processes ends with the masks and the weights of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from forked import completed
from safetensors.torch import load_file
from sharded_run import KINDS, train
from torch import nn

from atograph.passes.errors import UserError
from atograph.train import TrainSettings
from atograph.train.processes.replicas import Alone
from atograph.train.processes.shards import blocks, check_shardable

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sharded")
    command = [*LAUNCH, str(ROOT / "tests" / "sharded_run.py"), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.long
def test_sharded_ends_as_one_process(folder: Path, kind: str) -> None:
    first, second = (load_file(folder / f"{kind}.{rank}.safetensors") for rank in (0, 1))
    told = [json.loads((folder / f"{kind}.{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    weights, alone = train(kind, shard=False)
    assert {name: list(units) for name, units in alone["kept"].items()} == told[0]["kept"]
    assert any(len(units) < 9 for units in told[0]["kept"].values())
    for name, value in weights.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, atol=1e-10, rtol=1e-9)
        assert torch.equal(first[name] == 0, value == 0)
    for row, other in zip(alone["rows"], told[0]["rows"], strict=True):
        assert row == pytest.approx(other, rel=1e-6)
    assert alone["best"] == told[0]["best"]


STOPPED = """
    import os, signal, torch
    from torch import nn

    steps = 0

    def model():
        return nn.Sequential(nn.Linear(6, 17), nn.BatchNorm1d(17), nn.ReLU(), nn.Dropout(0.1), nn.Linear(17, 3))

    def train_data():
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(5))
        return [(part, (part[:, 0] > 0).long()) for part in x.split(16)]

    def val_data():
        return train_data()[:1]

    def loss(model, batch):
        global steps
        steps += model.training
        if steps == int(os.environ.get("KILL_AT", -1)) and os.environ["RANK"] == "1":
            if os.environ["HOW"] == "refuse":
                raise ValueError("this process has had enough")
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])
"""


def compressed(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["compress", "net.py", "--flops", "0.5", "--epochs", "4", "--device", "cpu", "--shard", "--out", "run"]
    return completed(folder, *command, "--set", "checkpoint_seconds=0", *options, processes=2)


@pytest.mark.long
def test_a_sharded_run_goes_on_from_the_parts_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "net.py").write_text(dedent(STOPPED))
    done = compressed(whole)
    assert done.returncode == 0, done.stderr
    assert json.loads((whole / "run" / "report.json").read_text())["float64"] < 1e-9
    with monkeypatch.context() as patch:
        patch.setenv("KILL_AT", "7")
        patch.setenv("HOW", "kill")
        assert compressed(killed).returncode != 0
    newest = max((killed / ".run.checkpoints" / "training").iterdir())
    parts = [load_file(path / "tensors.safetensors") for path in sorted(newest.glob("part-*"))]
    rows = [{value.shape for value in part.values()} for part in parts]
    assert torch.Size([9, 6]) in rows[0] and torch.Size([8, 6]) in rows[1]  # 17 rows of a weight
    done = compressed(killed, "--resume")
    assert done.returncode == 0, done.stderr
    for name in ("slim.safetensors", "plan.json"):
        assert (killed / "run" / name).read_bytes() == (whole / "run" / name).read_bytes(), name


def test_a_process_that_refuses_something_ends_the_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits within the model, for the other's part of a parameter."""
    (tmp_path / "net.py").write_text(dedent(STOPPED))
    monkeypatch.setenv("KILL_AT", "7")
    monkeypatch.setenv("HOW", "refuse")
    done = compressed(tmp_path)
    assert done.returncode != 0
    assert "error: process 1 of this training has ended: " in done.stderr, done.stderr
    assert done.stderr.count("this process has had enough") == 2


class Two(Alone):
    """Two processes, as far as settings are concerned."""

    count = 2


@pytest.mark.parametrize("setting", [{"precision": "float16"}, {"compile": True}, {"distill": True}])
def test_what_does_not_go_with_shards(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(UserError, match=f"^{name}=.* does not go with shard: .*Leave out {name} or shard"):
        check_shardable(TrainSettings(shard=True, **setting), Two())


def test_one_process_has_nothing_to_share() -> None:
    with pytest.raises(UserError, match="torchrun"):
        check_shardable(TrainSettings(shard=True), Alone())


def test_blocks_share_no_parameter_with_what_is_outside() -> None:
    first, tied, last, out = (nn.Linear(4, 4) for _ in range(4))
    out.weight = tied.weight
    layers = nn.ModuleList([nn.Sequential(first, nn.ReLU()), nn.Sequential(tied), last])
    model = nn.ModuleDict({"layers": layers, "out": out})
    assert list(blocks(model)) == [first, last]
