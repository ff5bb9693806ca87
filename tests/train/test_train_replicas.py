"""Training in several processes: all end with the same masks and weights, and those are one process's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from forked import completed
from replicas_run import train
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from atograph.passes.errors import UserError
from atograph.train.processes.parts import Parts
from atograph.train.processes.replicas import Alone, Several, join

# `accelerate launch` hands several processes without a GPU to mpirun; torchrun is what it hands those with GPUs to
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("two")
    command = [*LAUNCH, str(Path(__file__).parents[1].joinpath("replicas_run.py")), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize("kind", ["list", "loader", "accumulate"])
@pytest.mark.long
def test_two_processes_end_as_one(folder: Path, kind: str) -> None:
    first, second = (load_file(folder / f"{kind}.{rank}.safetensors") for rank in (0, 1))
    told = [json.loads((folder / f"{kind}.{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1] and told[0]["slim_from"] is not None
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    weights, alone = train(kind)
    assert {name: list(units) for name, units in alone["kept"].items()} == told[0]["kept"]
    for name, value in weights.items():
        torch.testing.assert_close(first[name], value, atol=2e-5, rtol=1e-3)
    for (loss, metric, flops), (loss_two, metric_two, flops_two) in zip(alone["rows"], told[0]["rows"], strict=True):
        assert loss == pytest.approx(loss_two, rel=1e-4) and (metric, flops) == (pytest.approx(metric_two), flops_two)


@pytest.mark.long
def test_gradients_are_averaged_while_they_come(folder: Path) -> None:
    """What only one process has counts as zero in the other, and what comes late travels once more."""
    expected = {"first": 10 + 1.5, "one": 0.5, "twice": (1 + 2 + 4) / 2, "last": 1.5}
    for rank in (0, 1):
        gradients = load_file(folder / f"averaged.{rank}.safetensors")
        assert {name: value.unique().tolist() for name, value in gradients.items()} == {
            name: [value] for name, value in expected.items()
        }


def test_the_command_in_two_processes(uninterrupted: Path) -> None:
    """One folder, one closing table."""
    printed = (uninterrupted.parent / "printed").read_text()
    assert printed.count("written to") == printed.count("certificate") == 1
    report = json.loads((uninterrupted / "report.json").read_text())
    assert report["budgets"][0]["reached"] <= 0.5 and report["float64"] < 1e-9
    assert {path.name for path in uninterrupted.parent.iterdir()} - {"__pycache__"} == {"net.py", "printed", "run"}


def test_a_mistake_in_two_processes_ends_both(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(dedent(KILLED))
    done = completed(tmp_path, "compress", "net.py", "--flops", "0.0001", "--out", "run", processes=2)
    assert done.returncode != 0 and "is out of reach" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"net.py"}


class Two:
    """Process ``rank`` of two, without the other one."""

    def __init__(self, rank: int) -> None:
        self.rank, self.count = rank, 2

    def from_first(self, tensors: Any) -> None:
        """As if it were the first one."""


def parts(batches: list[Any], rank: int, even: bool = True) -> list[Any]:
    return list(Parts(batches, Two(rank), even))  # type: ignore[arg-type]


def test_parts_of_batches() -> None:
    batch = (torch.arange(5), {"weight": torch.ones(3), "x": torch.arange(10).reshape(5, 2)}, "text")
    (first,), (second,) = parts([batch], 0), parts([batch], 1)
    assert first[0].tolist() == [0, 2, 4] and second[0].tolist() == [1, 3]
    assert second[1]["x"].tolist() == [[2, 3], [6, 7]] and second[1]["weight"].shape == (3,) and second[2] == "text"
    alone = [(torch.tensor([7]),)]  # fewer examples than processes
    assert parts(alone, 1)[0][0].tolist() == [7] and parts(alone, 1, even=False) == []
    assert len(Parts([batch], Two(0), True)) == 1  # type: ignore[arg-type]


def test_alone() -> None:
    assert isinstance(join(), Alone) and join().part_of([1], even=True) == [1] and join().total(2.0) == 2.0


def test_batches_that_cannot_be_shared() -> None:
    several: Any = object.__new__(Several)
    several.rank, several.count = 0, 2
    with pytest.raises(UserError, match="cannot be shared between 2 processes"):
        several.part_of(DataLoader(torch.zeros(9, 1), batch_size=3), even=True)


def test_several_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match="pip install accelerate"):
        join.__wrapped__()


def test_the_loader_of_a_file_is_shared_by_the_loader(tmp_path: Path) -> None:
    """Each process loads its part only, other ones in each epoch, and each example once."""
    (tmp_path / "net.py").write_text(
        dedent("""
            import os, torch
            from torch import nn
            from torch.utils.data import DataLoader, Dataset

            class Noted(Dataset):
                def __len__(self):
                    return 96

                def __getitem__(self, index):
                    with open(f"seen{os.environ['RANK']}", "a") as file:
                        file.write(f"{index} ")
                    return torch.randn(8, generator=torch.Generator().manual_seed(index)), index % 3

            def model():
                return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))

            def train_data():
                return DataLoader(Noted(), batch_size=16, shuffle=True)

            def example_inputs():
                return torch.randn(2, 8)
        """)
    )
    command = ("compress", "net.py", "--flops", "0.5", "--epochs", "2", "--device", "cpu")
    done = completed(tmp_path, *command, processes=2)
    assert done.returncode == 0, done.stderr
    seen = [[int(index) for index in (tmp_path / f"seen{rank}").read_text().split()] for rank in (0, 1)]
    last = [each[-64:-16] for each in seen]  # the last epoch; a batch for the certificate comes after it
    assert sorted(last[0] + last[1]) == list(range(96)) and max(map(len, seen)) < 2 * 96


KILLED = """
    import os, signal, torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    steps = 0

    class Noisy(Dataset):
        def __len__(self):
            return 96

        def __getitem__(self, index):
            x = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(index))
            return x + 0.1 * torch.randn(1, 6, 6), index % 3  # noise of the process's own generator

    def model():
        return nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
                             nn.Dropout(0.1), nn.Linear(256, 3))

    def train_data():
        return DataLoader(Noisy(), batch_size=16, shuffle=True)

    def val_data():
        return [(torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(7)), torch.arange(16) % 3)]

    def loss(model, batch):
        global steps
        steps += model.training
        if steps == int(os.environ.get("KILL_AT", -1)) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second process was killed while the controller learns."""
    folder = tmp_path_factory.mktemp("killed")
    kill(folder, 9)
    return folder


def kill(folder: Path, step: int) -> None:
    (folder / "net.py").write_text(dedent(KILLED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILL_AT", str(step))
        assert compressed(folder).returncode != 0


@pytest.mark.parametrize("killed_at", [9, 22], ids=["the controller learns", "the slim module is trained"])
@pytest.mark.long
def test_killed_and_resumed_in_two_processes(killed_at: int, killed: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """Each process goes on with its own generators, batches set aside, and batch-norm statistics."""
    if killed_at == 9:
        shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    else:
        kill(tmp_path, killed_at)
    done = compressed(tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    for name in ("slim.onnx", "slim.safetensors", "plan.json"):
        assert (tmp_path / "run" / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    one, other = (json.loads((folder / "report.json").read_text()) for folder in (tmp_path / "run", uninterrupted))
    for row, expected in zip(one["curves"], other["curves"], strict=True):
        assert row | {"seconds": 0} == expected | {"seconds": 0}


@pytest.mark.long
def test_a_checkpoint_of_two_processes_is_not_for_one(tmp_path: Path, killed: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    done = compressed(tmp_path, "--resume", processes=1)
    assert done.returncode == 2
    assert "it was one of 2 processes, and now there are 1. Resume with what the run was started with" in done.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, beside what was printed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "net.py").write_text(dedent(KILLED))
    done = compressed(folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder / "run"


def compressed(folder: Path, *options: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = ["compress", "net.py", "--flops", "0.5", "--epochs", "5", "--device", "cpu", "--out", "run"]
    command += ["--set", "checkpoint_seconds=0", "--set", "controller_min_steps=8", *options]
    return completed(folder, *command, processes=processes)


def test_each_validation_example_counts_once() -> None:
    """A loader over a data set without a length would complete its last batch."""

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(torch.arange(19))

    loader = DataLoader(Stream(), batch_size=4)
    seen = []
    for rank in (0, 1):
        several: Any = object.__new__(Several)
        several.rank, several.count = rank, 2
        several.from_first = lambda tensors: None
        seen += [int(value) for batch in several.part_of(loader, even=False) for value in batch]
    assert sorted(seen) == list(range(19))
