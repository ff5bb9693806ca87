"""Golden files: a network, commands, and what they print, to the letter; one file of ``tests/golden`` each."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from doc_blocks import Block, blocks
from networks import GOLDEN, NETWORKS, build
from typer.testing import CliRunner

from atograph.cli.app import app
from benchmarks.exact import compare


def answered(block: Block) -> str:
    """The text of a console block with what its command prints now."""
    command = block.text.partition("\n")[0]
    result = CliRunner().invoke(app, shlex.split(command)[2:], env={"COLUMNS": "110"}, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    lines = [line.rstrip() for line in result.stdout.strip("\n").splitlines()]
    return "\n".join([command, *lines, ""])


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.md")), ids=lambda path: path.stem)
def test_commands_print_what_the_file_says(
    path: Path, update_golden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = expected = path.read_text(encoding="utf-8")
    for block in blocks(text):
        if block.language == "python":
            Path(f"{path.stem}.py").write_text(block.text, encoding="utf-8")
        else:
            text = text.replace(block.text, answered(block))
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert update_golden or text == expected, f"run pytest --update-golden, and read the diff of {path.name}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_slim_is_exact(name: str, seed: int) -> None:
    model, inputs = build(name)
    found = compare(model, (inputs,), seed=seed, keep=0.6)
    assert found.difference <= 1e-12
    assert found.moved > 1e-3 and found.alive > 1e-6
    assert found.slim.module is not None or name == "grouped", found.slim.why_no_module
