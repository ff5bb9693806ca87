"""``python -m website.sources FOLDER``: the sources of the site, from the documents of the repository and the code."""

from __future__ import annotations

import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from website.reference import pages

ROOT = Path(__file__).resolve().parents[2]

CONTENTS = {
    "First": ["docs/command-line", "docs/python", "docs/settings", "docs/glossary", "docs/faq", "docs/pages"],
    "Guides": [
        *("docs/inspect", "docs/sensitivity", "docs/sweep", "docs/training", "docs/integrations", "docs/slim-module"),
        *("docs/transformers", "docs/depth", "docs/sizes", "docs/deploy", "docs/onnx", "docs/programs", "docs/*"),
    ],
    "Recipes": ["docs/recipes", "docs/recipes/*"],
    "Extending": ["docs/write-*", "docs/pipelines"],
    "Reference": ["reference/index"],
    "Results": ["docs/coverage", "docs/results/*"],
    "The project": ["ARCHITECTURE", "docs/decisions", "docs/reliability", "SECURITY", "CONTRIBUTING", "CHANGELOG", "*"],
}
"""What stands at the side of each page, in this order; a pattern stands for what nothing else names."""

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
    """The table of contents, in which every page stands once."""
    names = [str(path.with_suffix("")) for path in documents() if path.name != FIRST] + ["reference/index"]
    patterns = [pattern for part in CONTENTS.values() for pattern in part]
    patterns.sort(key=lambda pattern: ("*" in pattern, -len(pattern)))  # the one that says most goes first
    place = {page: next(pattern for pattern in patterns if fnmatch(page, pattern)) for page in names}
    trees = []
    for caption, part in CONTENTS.items():
        listed = [page for pattern in part for page in names if place[page] == pattern]
        trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *listed, "```", ""]))
    return "\n" + "\n".join(trees)


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
