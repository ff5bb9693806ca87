"""What may go wrong around a run: kills, a second run, data that fail, signals, disks. Nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from forked import OUT, completed, start
from killed_run import killed_at
from safetensors.torch import save_file

SPEC = dedent("""
    import os
    import time
    from pathlib import Path

    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset


    def model():
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(32, 4),
        )


    class Samples(Dataset):
        def __init__(self, count, fault="none"):
            self.count, self.fault = count, fault

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            if index == self.count // 2:
                getattr(self, self.fault)()
            x = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(index))
            if self.fault == "nan" and index == self.count // 2:
                x[0, 0, 0] = float("nan")
            return x, index % 4

        def none(self):
            pass

        nan = none

        def raises(self):
            raise ValueError("this sample is broken")

        def dies(self):
            os.kill(os.getpid(), 9)

        def leaves(self):
            os._exit(3)


    def train_data():
        return DataLoader(Samples(64), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))


    def val_data():
        return DataLoader(Samples(16), batch_size=8)
""")

FILES = {"log.csv", "plan.json", "report.html", "report.json", "slim.onnx", "slim.pt2", "slim.safetensors"}
COMPRESS = ("compress", "net.py", "--flops", "0.4", "--set", "checkpoint_seconds=0", "--out", "run")
WITHOUT_ONNX = (*COMPRESS, "--target", "pt2")
"""In half the time."""


def finish(folder: Path, *arguments: str, spec: str | None = None) -> tuple[int, str]:
    """Exit code and output of a whole command."""
    if spec is not None:
        (folder / "net.py").write_text(SPEC + dedent(spec))
    done = completed(folder, *arguments)
    return done.returncode, done.stdout + done.stderr


def left(folder: Path) -> set[str]:
    """What there is besides the test's own files."""
    return {path.name for path in folder.iterdir()} - {"net.py", OUT, "__pycache__"}


@pytest.mark.long
def test_killed_twenty_times(tmp_path: Path) -> None:
    """Whenever it is killed, ``--resume`` goes on, and what comes out is what an undisturbed run gives."""
    (tmp_path / "net.py").write_text(SPEC)
    arguments = (*WITHOUT_ONNX, "--epochs", "3")
    whole = completed(tmp_path, "0", *arguments, function=killed_at)
    assert whole.returncode == 0, whole.stderr
    changes = int(whole.stdout.splitlines()[-1])
    (tmp_path / "run").rename(tmp_path / "undisturbed")
    chance = random.Random(5)
    killed = 0
    for _ in range(20):
        change = str(chance.randint(1, changes))
        done = completed(tmp_path, change, *arguments, "--resume", "--force", function=killed_at)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        killed += done.returncode != 0
        if (tmp_path / "run").exists():
            assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"slim.onnx"}
    assert killed >= 10
    code, output = finish(tmp_path, *arguments, "--resume", "--force")
    assert code == 0, output
    assert left(tmp_path) == {"run", "undisturbed"}
    for name in ("plan.json", "slim.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


SLOW = """
    def train_data():
        Path("begun").touch()
        time.sleep(100)
"""


def begun(folder: Path, name: str = "begun") -> None:
    """Wait until a file is there."""
    for _ in range(600):
        if (folder / name).exists():
            (folder / name).unlink()
            return
        time.sleep(0.1)
    raise AssertionError(f"there is no {name}: {(folder / 'output.txt').read_text()}")


@pytest.mark.parametrize(("sent", "code", "how"), [
    (signal.SIGTERM, 143, "ended by SIGTERM"),
    (signal.SIGHUP, 129, "ended by SIGHUP"),
    (signal.SIGINT, 130, "interrupted"),
])  # fmt: skip
def test_one_run_at_a_time_and_a_polite_kill(tmp_path: Path, sent: signal.Signals, code: int, how: str) -> None:
    """A second run into the folder is refused while the first one lives; a signal in the user's code leaves nothing."""
    (tmp_path / "net.py").write_text(SPEC + dedent(SLOW))
    first = start(tmp_path, *COMPRESS, "--out", "new/run")
    begun(tmp_path)
    assert left(tmp_path) == {"new"}
    second, output = finish(tmp_path, *COMPRESS, "--out", "new/run", "--force")
    assert second == 2
    assert f"error: new/run: another run is writing into this folder (process {first.pid} on " in output
    assert first.pid is not None and first.is_alive()
    os.kill(first.pid, sent)
    first.join(60)
    output = (tmp_path / OUT).read_text()
    assert first.exitcode == code and f"{how} (making the model): nothing was written" in output, output
    assert "Traceback" not in output
    assert left(tmp_path) == set()


def test_a_killed_run_does_not_lock_the_folder_and_leaves_the_former_one(tmp_path: Path) -> None:
    """The lock dies with its process; hidden folders go, and a run that was just being replaced has its name again."""
    (tmp_path / "net.py").write_text(SPEC + dedent(SLOW))
    former = tmp_path / ".run.0123abcd.tmp.replaced"
    former.mkdir()
    (former / "report.json").write_text('{"format": "atograph report 2"}')
    (tmp_path / ".run.0123abcd.tmp").mkdir()
    (tmp_path / ".run.other").mkdir()
    code, output = finish(tmp_path, *COMPRESS)
    assert code == 2 and "run: a run is there already." in output
    assert left(tmp_path) == {"run", ".run.other"}
    process = start(tmp_path, *COMPRESS, "--force")
    begun(tmp_path)
    process.kill()
    process.join()
    assert left(tmp_path) == {"run", ".run.lock", ".run.other"}
    process = start(tmp_path, *COMPRESS, "--force")
    begun(tmp_path)
    process.terminate()
    process.join()
    assert left(tmp_path) == {"run", ".run.other"}


WORKERS = """
    def train_data():
        return DataLoader(Samples(64, "{fault}"), batch_size=8, num_workers={workers})
"""
SPAWNED = WORKERS.replace("num", "multiprocessing_context='spawn', persistent_workers=True, num")
VALIDATION = """
    def val_data():
        return DataLoader(Samples(16, "{fault}"), batch_size=8, num_workers={workers})
"""


@pytest.mark.parametrize(("data", "fault", "workers", "message"), [
    (WORKERS, "raises", 0, "net.py: ValueError was raised while reading a batch of train_data().\nWhat was"),
    (WORKERS, "raises", 2, "net.py: ValueError was raised while reading a batch of train_data().\nWhat was"),
    (SPAWNED, "raises", 1, "net.py: ValueError was raised while reading a batch of train_data().\nWhat was"),
    (WORKERS, "dies", 2, "a process that reads the data died: DataLoader worker (pid"),
    (WORKERS, "leaves", 2, "a process that reads the data died: DataLoader worker (pid"),
    (WORKERS, "nan", 0, "diverged with a loss of nan (this batch holds values that are not finite); the model"),
    (VALIDATION, "raises", 0, "net.py: ValueError was raised while reading a batch of val_data().\nNothing was"),
    (VALIDATION, "dies", 2, "a process that reads the data died: DataLoader worker (pid"),
])  # fmt: skip
def test_data_that_fail(tmp_path: Path, data: str, fault: str, workers: int, message: str) -> None:
    """The data are named, not whatever ran when it was noticed."""
    code, output = finish(tmp_path, *WITHOUT_ONNX, "--epochs", "1", spec=data.format(fault=fault, workers=workers))
    assert code == 2 and message in output, output
    assert output.count("error: ") == 1
    assert not (tmp_path / "run").exists() and not (tmp_path / ".run.lock").exists()


def test_data_that_fail_late_cost_nothing(tmp_path: Path) -> None:
    """A reader that fails in the third epoch: with the data mended, the run goes on from its checkpoint."""
    spec = """
        class Once(DataLoader):
            def __iter__(self):
                if Path("broken").exists() and any(Path(".run.checkpoints/training").glob("000002-*")):
                    raise OSError(5, "Input/output error")
                return super().__iter__()

        def train_data():
            return Once(Samples(64), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))
    """
    (tmp_path / "broken").touch()
    code, output = finish(tmp_path, *WITHOUT_ONNX, "--epochs", "6", spec=spec)
    assert code == 2 and "OSError was raised while reading a batch of train_data()" in output
    assert "To go on from there: the same command with --resume." in output
    (tmp_path / "broken").unlink()
    code, output = finish(tmp_path, *WITHOUT_ONNX, "--epochs", "6", "--resume")
    assert code == 0 and "going on from the last checkpoint" in output, output
    (tmp_path / "run").rename(tmp_path / "resumed")
    code, output = finish(tmp_path, *WITHOUT_ONNX, "--epochs", "6")
    assert (tmp_path / "run/plan.json").read_bytes() == (tmp_path / "resumed/plan.json").read_bytes()


def test_validation_data_with_nan_still_end_in_a_proof(tmp_path: Path) -> None:
    spec = """
        def val_data():
            return DataLoader(Samples(2, "nan"), batch_size=2)
    """
    code, output = finish(tmp_path, *COMPRESS, "--epochs", "1", spec=spec)
    assert code == 0, output
    assert "the first batch of data gives outputs that are NaN, so the proof is by the example inputs." in output


def test_other_initial_weights_do_not_go_on(tmp_path: Path) -> None:
    """``--resume`` with another ``--init`` would be ignored in silence."""
    spec = """
        def val_data():
            if any(Path(".run.checkpoints").glob("training/*")):
                raise RuntimeError("later")
            yield torch.randn(2, 1, 4, 4), torch.tensor([0, 1])
    """
    scope: dict[str, Any] = {}
    exec(SPEC, scope)
    for name in ("one", "two"):
        save_file(scope["model"]().state_dict(), tmp_path / f"{name}.safetensors")
    assert finish(tmp_path, *WITHOUT_ONNX, "--epochs", "2", "--init", "one.safetensors", spec=spec)[0] == 2
    assert (tmp_path / ".run.checkpoints").exists()
    for init in (["--init", "two.safetensors"], []):
        code, output = finish(tmp_path, *WITHOUT_ONNX, "--epochs", "2", "--resume", *init)
        assert code == 2 and "this checkpoint is of another run: the digest of the initial weights was" in output


@pytest.mark.parametrize("option", ["--out", "--tensorboard", "--latency-table"])
@pytest.mark.parametrize("place", ["a file/below", "/proc/below"])
def test_a_place_that_cannot_be_written(tmp_path: Path, option: str, place: str) -> None:
    """It is said in one line, before the training, and nothing is left."""
    (tmp_path / "a file").touch()
    budget = ["--latency", "0.5"] if option == "--latency-table" else []
    code, output = finish(tmp_path, *COMPRESS, "--epochs", "1", *budget, option, place, spec="")
    assert code == 2 and "Traceback" not in output and output.count("error: ") == 1, output
    assert f"error: {place}: " in output and "training  epoch" not in output
    assert left(tmp_path) == {"a file"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 256 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk takes the right to mount one (test_bad_input.py limits files instead)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("seconds", ["0", "inf"])
def test_a_disk_that_is_full(small_disk: Path, seconds: str) -> None:
    """By the checkpoints, or by the run's own files: the error says so, and nothing is left but what can be resumed."""
    (small_disk / "net.py").write_text(SPEC)
    (small_disk / "filler").write_bytes(b"0" * 150_000)
    arguments = [*COMPRESS, "--epochs", "2", "--set", f"checkpoint_seconds={seconds}"]
    del arguments[4:6]
    code, output = finish(small_disk, *arguments)
    assert code == 2 and "No space left on device" in output and "Traceback" not in output, output
    assert left(small_disk) <= {"filler", ".run.checkpoints", "run"}  # a run that is not proved, where that much fits
    (small_disk / "filler").unlink()
