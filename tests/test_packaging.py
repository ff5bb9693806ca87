"""What is installed: every package by its hash, and no torch that nobody has tried."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

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
