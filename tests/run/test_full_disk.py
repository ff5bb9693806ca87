"""A disk that is full, a process that was killed, files of other people: one paragraph, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import atograph
from atograph.cli.runner import write_text
from atograph.files.writing import CannotWrite, replacing
from atograph.latency import table
from atograph.run.unfinished.resumption import check, checkpoints_beside
from atograph.spec.init_weights import load_init
from atograph.terminal.console import Console
from atograph.train.saved.checkpoints import Checkpoints


def full(*_args: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save_table(folder: Path) -> None:
    record = table.LatencyRecord(fingerprint="x", runtime="1", batch=1, threads=1)
    record.save(folder / "latency.json")


def save_slim(folder: Path) -> None:
    graph = atograph.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))
    atograph.slim(graph, graph.plan(flops=0.5)).save(folder / "slim")


WAYS: dict[str, Callable[[Path], object]] = {
    "a latency table": save_table,
    "inspect --out": lambda folder: write_text("text", folder / "out.txt", Console(quiet=True)),
    "slim.save": save_slim,
}


@pytest.mark.parametrize("name", ["write_text", "mkdir", "chmod", "rename"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "slim").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, name, full)
        with pytest.raises(CannotWrite, match=r"cannot write there: No space left on device\."):
            WAYS[way](tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["slim"]


def test_whatever_the_block_raises_of_the_disk_is_told(tmp_path: Path) -> None:
    told = pytest.raises(CannotWrite, match=r"x\.bin: cannot write there: Input/output error\.")
    with told, replacing(tmp_path, where=tmp_path / "x.bin"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(ZeroDivisionError), replacing(tmp_path, where=tmp_path / "x.bin"):
        raise ZeroDivisionError
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="locks of a folder are those of Unix")
def test_what_a_killed_process_left_is_tidied(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from atograph.files.writing import replacing\n"
        "with replacing(Path(sys.argv[1]), where=Path('x')) as place:\n"
        "    (place / 'half').touch(); print('there', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"there\n"
    (hidden,) = tmp_path.iterdir()

    def write() -> set[str]:
        os.utime(hidden, (0, 0))
        with replacing(tmp_path, where=tmp_path) as place:
            (place / "file").touch()
        return {path.name for path in tmp_path.iterdir()}

    assert write() == {"file", hidden.name}  # someone writes it
    process.kill()
    process.wait()
    assert write() == {"file"}


def twice_in_safetensors(path: Path) -> Path:
    save_file({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, path / "w.safetensors")
    content = (path / "w.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].strip()
    header = header[:-1] + b',"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    (path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return path / "w.safetensors"


def twice_in_the_dict(path: Path) -> Path:
    torch.save(
        {"weight": torch.zeros(2, 2), "bias": torch.zeros(2), 1: torch.zeros(1), "1": torch.ones(1)}, path / "w.pt"
    )
    return path / "w.pt"


def twice_in_the_archive(path: Path) -> Path:
    torch.save({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, path / "w.pt")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path / "w.pt", "a") as archive:
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data/0")), b"\1" * 16)
    return path / "w.pt"


@pytest.mark.parametrize("make", [twice_in_safetensors, twice_in_the_dict, twice_in_the_archive])
def test_two_tensors_of_one_name(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(atograph.UserError, match=r"twice|same name"):
        load_init(model, make(tmp_path))
    assert torch.equal(model.weight, before)


def checkpoint(folder: Path) -> Checkpoints:
    made = Checkpoints(checkpoints_beside(folder / "run") / "training", {"a": 1}, 0)
    made.save(0, 1, {"x": torch.ones(2)})
    return made


def link_folder(parts: list[Path]) -> None:
    parts[0].rename(parts[0].with_name("elsewhere"))
    parts[0].symlink_to(parts[0].with_name("elsewhere"), target_is_directory=True)


def link_state(parts: list[Path]) -> None:
    state = parts[2] / "state.json"
    state.rename(parts[0].with_name("elsewhere.json"))
    state.symlink_to(parts[0].with_name("elsewhere.json"))


@pytest.mark.parametrize("change", [link_folder, link_state])
def test_a_checkpoint_that_is_a_link_is_not_resumed(tmp_path: Path, change: Callable[[list[Path]], None]) -> None:
    made = checkpoint(tmp_path)
    assert made.load() is not None
    change([made.folder.parent, made.folder, next(made.folder.iterdir())])
    with pytest.raises(atograph.UserError, match=r"is a link, or belongs to another user\. Copy it"):
        check(tmp_path / "run", resume=True, force=False)
        made.load()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner there")
def test_a_checkpoint_of_someone_else_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkpoint(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for read in (made.load, lambda: check(tmp_path / "run", resume=True, force=False)):
        with pytest.raises(atograph.UserError, match="belongs to another user"):
            read()
