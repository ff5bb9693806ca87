"""What pyproject.toml cannot say: addresses, and the links of README.md, follow from its one line on the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([\w./-]+)(#[\w-]+)?\)")
_NOTE = "The files that are named here come with the source distribution."


def repository() -> str:
    """The public address of the repository; empty as long as there is none."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["atograph"]["repository"]
    return str(address).rstrip("/")


def urls(address: str) -> dict[str, str]:
    """The addresses that a package index shows."""
    if not address:
        return {}
    return {
        "Repository": address,
        "Documentation": f"{address}/tree/HEAD/docs",
        "Issues": f"{address}/issues",
        "Changelog": f"{address}/blob/HEAD/CHANGELOG.md",
        "Security": f"{address}/blob/HEAD/SECURITY.md",
    }


def readme(text: str, address: str) -> str:
    """README.md for a package index, beside which no files lie: their links are addresses, or else their names."""

    def link(match: re.Match[str]) -> str:
        picture, title, path, anchor = match[1], match[2], match[3], match[4] or ""
        if picture:
            return f"![{title}]({address}/raw/HEAD/{path})" if address else f"*{title}*"
        if address:
            return f"[{title}]({address}/blob/HEAD/{path}{anchor})"
        if title.strip("`") == path:
            return title
        return path if path.endswith(f"/{title}") else f"{title} ({path})"

    text = _LINK.sub(link, text)
    heading, blank, rest = text.partition("\n\n")
    return text if address else f"{heading}{blank}{_NOTE}{blank}{rest}"


if __name__ == "__main__":
    setup(
        long_description=readme((ROOT / "README.md").read_text(encoding="utf-8"), repository()),
        long_description_content_type="text/markdown",
        project_urls=urls(repository()),
    )
