"""Every recipe of docs/recipes runs from its page, in a process and a folder of its own."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from doc_blocks import run_alone
from forked import completed

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "recipes"


RECIPES = sorted(path.stem for path in PAGES.glob("*.md"))


def packages(name: str) -> list[str]:
    """What a page says to install beside atograph, in its one line of pip."""
    lines = re.findall(r"^pip install (.+)$", (PAGES / f"{name}.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) <= 1, f"{name}.md has {len(lines)} lines of pip"
    return lines[0].split() if lines else []


def missing(name: str) -> str:
    """What of it is not installed, in words."""
    absent = []
    for package in packages(name):
        try:
            distribution(package)
        except PackageNotFoundError:
            absent.append(package)
    return f"not installed: {', '.join(absent)} (make recipes installs it)" if absent else ""


@pytest.mark.long
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_from_its_page(name: str, tmp_path: Path) -> None:
    if reason := missing(name):
        pytest.skip(reason)
    found = completed(tmp_path, str(PAGES / f"{name}.md"), function=run_alone, seconds=3600)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_page_has_a_line_in_the_contents() -> None:
    listed = re.findall(r"\(recipes/([\w-]+)\.md\)", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"))
    assert sorted(listed) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_page_says_what_to_install_and_how_long_it_takes(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert packages(name) or "nothing but atograph" in text
    assert re.search(r"takes (about )?\d+ (seconds|minutes)", text)
