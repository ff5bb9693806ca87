"""A Markdown file that is written by hand down to a marker line, and by a command below it."""

from __future__ import annotations

from pathlib import Path


def check_below(file: Path, marker: str) -> None:
    """Make sure that a file can be written, before hours of measuring.

    Raises:
        ValueError: it is there without the marker line.
    """
    if file.exists() and marker not in file.read_text(encoding="utf-8").splitlines():
        raise ValueError(f"{file} has no line '{marker}': what stands above it is kept, what follows is replaced.")


def write_below(file: Path, marker: str, text: str) -> None:
    """Write what follows the marker line of a file, which is made if it is not there.

    Raises:
        ValueError: as `check_below`.
    """
    check_below(file, marker)
    above: list[str] = []
    if file.exists():
        lines = file.read_text(encoding="utf-8").splitlines()
        above = lines[: lines.index(marker)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*above, marker, "", text]), encoding="utf-8")
