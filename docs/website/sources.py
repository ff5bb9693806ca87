"""``python -m website.sources FOLDER``: the sources of the site, from the documents of the repository and the code."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from website.reference import pages

ROOT = Path(__file__).resolve().parents[2]

GUIDES = ["inspect", "training", "integrations", "slim-module", "deploy", "large-models"]
EXTENDING = ["write-an-op-rule", "write-a-pass", "pipelines"]
INSIDE = ["ARCHITECTURE", "docs/decisions", "docs/reliability", "SECURITY", "CONTRIBUTING", "CHANGELOG"]
FIRST = "README.md"

_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")


def documents() -> list[Path]:
    """Every document of the repository, as paths below it."""
    names = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(path.relative_to(ROOT) for path in names)


def write(folder: Path) -> None:
    """Write all pages; links between them stay as they are, and what else they link to comes with them."""
    for path in documents():
        text = (ROOT / path).read_text(encoding="utf-8")
        for link in {link for link in _LINK.findall(text) if "://" not in link}:
            there = (ROOT / path.parent / link).resolve()
            if there.is_file() and there.suffix != ".md":
                _copy(there, folder / there.relative_to(ROOT))
        text = _LINK.sub(lambda match: re.sub(r"(^|/)README\.md$", r"\1index.md", match[1]), text)
        if path.name == FIRST:
            text += contents()
        place = folder / ("index.md" if path.name == FIRST else path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    (folder / "reference").mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (folder / "reference" / name).write_text(text, encoding="utf-8")


def contents() -> str:
    """The table of contents, which stands at the side of each page."""
    results = [f"docs/{path.relative_to(ROOT / 'docs').with_suffix('')}" for path in _results()]
    parts = {
        "Guides": [f"docs/{name}" for name in GUIDES],
        "Extending": [f"docs/{name}" for name in EXTENDING],
        "Reference": ["reference/index"],
        "Results": ["docs/coverage", *results],
        "The project": INSIDE,
    }
    trees = [
        "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])
        for caption, pages in parts.items()
    ]
    return "\n" + "\n".join(trees)


def _results() -> list[Path]:
    return sorted((ROOT / "docs" / "results").glob("*.md"))


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
