"""What is installed: every package by its hash, no torch that nobody has tried, and a wheel that holds everything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILDS = {"torch", "torchvision"}
"""They come in many builds, for which there is no one hash."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(name: str) -> dict[str, str]:
    """Package → version, with what stands after it in the same entry."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {normal(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def test_every_package_has_its_hashes() -> None:
    constraints, locked = pinned("constraints.txt"), pinned("requirements.lock")
    assert constraints.keys() - locked.keys() == BUILDS and locked.keys() < constraints.keys()
    for name, entry in locked.items():
        assert entry.split()[0] == constraints[name], f"{name}: run `make lock`"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name


def test_the_makefile_asks_for_them() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in text.splitlines() if "install -q" in line and "torch" not in line]
    assert any("--require-hashes --no-deps -r requirements.lock" in line for line in installs)
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation -e ." in line for line in installs)


def test_private_parts_of_torch_have_an_upper_bound() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (torch,) = [each for each in asked if re.match(r"torch\b", each)]
    assert re.fullmatch(r"torch>=[\d.]+,<[\d.]+", torch)
    assert {normal(re.split(r"[<>=\[]", each)[0]) for each in asked} <= pinned("constraints.txt").keys()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build needs of the repository, in a folder that it may write into."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("atograph", "passes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def built(source: Path, kind: str) -> Path:
    """A wheel or a source distribution, made in a process of its own."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(source)], cwd=source, capture_output=True, text=True, check=True
    )
    return source / done.stdout.splitlines()[-1]


def files_of_the_tree() -> set[str]:
    """Every file of both folders, by the path that it is installed at."""
    trees = {"atograph": ROOT / "atograph", "atograph/passes": ROOT / "passes"}
    return {
        f"{place}/{path.relative_to(folder).as_posix()}"
        for place, folder in trees.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_the_wheel_holds_every_file_and_works_alone(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built(source, "wheel")) as wheel:
        assert {name for name in wheel.namelist() if ".dist-info/" not in name} == files_of_the_tree()
        (metadata,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        assert "Description-Content-Type: text/markdown" in wheel.read(metadata).decode()
        wheel.extractall(tmp_path)
    code = (
        "import atograph, atograph.passes, torch; from atograph.cli import main; "
        "print(atograph.__file__, atograph.passes.__file__); "
        "g = atograph.trace(torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)), torch.randn(2, 4)); "
        "print(atograph.slim(g, g.plan(flops=0.5)).flops < g.flops)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert 'atograph = "atograph.cli:main"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    places, smaller = done.stdout.splitlines()
    assert all(str(tmp_path) in place for place in places.split()) and smaller == "True"


def test_the_source_distribution_holds_every_module(source: Path) -> None:
    with tarfile.open(built(source, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {path.replace("atograph/passes/", "passes/", 1) for path in files_of_the_tree()}
    assert needed | {"pyproject.toml", "README.md", "LICENSE"} <= names
