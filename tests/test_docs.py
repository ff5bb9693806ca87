"""The documents: their code runs, their commands exist, their links resolve, and ARCHITECTURE.md fits the tree."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import typer.main
from doc_blocks import blocks, commands, run_alone
from forked import completed
from website.sources import documents

from atograph.cli.app import app
from atograph.passes.base import Pass
from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.pipeline.registry import PASSES
from atograph.train.settings import TrainSettings
from atograph.train.settings.method_table import DEFAULT_METHOD
from atograph.train.settings.progressive import ProgressiveSettings
from benchmarks.common.below import check_below
from benchmarks.zoo.table import COLUMNS, MARKER, ONNX, PEER

ROOT = Path(__file__).resolve().parent.parent
EXECUTED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))  # executed by tests/recipes
DOCUMENTS = [*EXECUTED, *RECIPES, *(ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"))]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", EXECUTED, ids=name)
def test_the_code_runs_and_prints_what_it_says(path: Path, tmp_path: Path) -> None:
    """In a process of its own: a document registers ops, rules and passes, which cannot be taken back."""
    found = completed(tmp_path, str(path), function=run_alone)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_every_command_line_parses(path: Path) -> None:
    main = typer.main.get_command(app)
    for block in blocks(path.read_text(encoding="utf-8")):
        for arguments, _output in commands(block) if block.language in ("sh", "console") else ():
            command = main.commands[arguments[0]]  # type: ignore[attr-defined]
            command.make_context(arguments[0], list(arguments[1:]))  # raises for an option that is not there


OTHERS = {
    "--multi_gpu",
    "--num_processes",
    "--nproc-per-node",
    "--update-golden",
    "--onnx",
    "--save",
    "--min",
    "--opt",
    "--max",
    "--no",
    "--no-deps",
}
"""Options of `pip`, `accelerate launch`, `torchrun`, our tests, and `trtexec` (up to their first capital)."""


def test_every_option_in_running_text_exists() -> None:
    main = typer.main.get_command(app)
    known = {option for command in main.commands.values() for p in command.params for option in p.opts}  # type: ignore[attr-defined]
    for path in (ROOT / "benchmarks").rglob("*.py"):  # commands of their own
        known |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', path.read_text(encoding="utf-8")))
    for path in DOCUMENTS:
        named = re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", path.read_text(encoding="utf-8"))
        assert set(named) <= known | {"--help"} | OTHERS, path.name


@pytest.mark.parametrize("path", [ROOT / path for path in documents()], ids=name)
def test_every_relative_link_resolves(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in _LINK.findall(text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        there = path.parent / target if target else path
        assert there.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


def test_the_zoo_table_has_its_place() -> None:
    check_below(ROOT / "docs" / "coverage.md", MARKER)
    by_hand = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8").partition(MARKER)[0]
    explained = {cell.strip() for cell in re.findall(r"^\| ([^|]+) \|", by_hand, re.MULTILINE)}
    names = {name for cell in explained for name in cell.split(", ")}
    for column in (*COLUMNS, *ONNX, *PEER):
        header = column.header.split(": ")[-1]
        assert header in ("model", *names) or header in explained, header


def test_files_that_are_named_exist() -> None:
    for document in ("ARCHITECTURE.md", "docs/decisions.md"):
        named = set(re.findall(r"`([\w./-]+/[\w.-]*)`", (ROOT / document).read_text(encoding="utf-8")))
        assert len(named) > 15
        assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_architecture_is_short_and_shows_every_folder() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 160
    shown: dict[str, set[str]] = {"atograph": set(), "passes": set()}
    top = ""
    for indent, folder in re.findall(r"^( *)(\w+)/ ", text.partition("## The tree")[2], re.MULTILINE):
        if indent and top in shown:
            shown[top].add(folder)
        elif not indent:
            top = folder
    for top, folders in shown.items():
        assert folders == {path.parent.name for path in (ROOT / top).glob("*/__init__.py")}


def test_architecture_shows_the_groups_as_they_are_printed() -> None:
    code, printed = _worked_model()
    namespace: dict[str, object] = {}
    exec("import torch\nfrom torch import nn\n" + code, namespace)
    import torch

    import atograph

    model: type[torch.nn.Module] = namespace["Net"]  # type: ignore[assignment]
    assert str(atograph.trace(model(), torch.randn(2, 3, 8, 8))) + "\n" == printed
    assert len([line for line in code.splitlines() if line.strip()]) <= 12


def _worked_model() -> tuple[str, str]:
    found = blocks((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    at = next(index for index, block in enumerate(found) if block.language == "python")
    return found[at].text, found[at + 1].text


def test_every_built_in_pass_and_option_is_listed() -> None:
    text = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(" `"): cells for cells in (line.split("|") for line in text.splitlines()) if len(cells) > 4}
    for each in PASSES:
        found: type[Pass] = PASSES.get(each)
        options = {field.name.replace("_", "-") for field in dataclasses.fields(found)}
        assert set(re.findall(r"`([a-z-]+)(?:=[^`]*)?`", rows[each][4])) == options, each


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_what_the_readme_says_was_measured_stands_in_the_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What it is worth")[2].partition("\n## ")[0]
    parts = re.split(r"(?=^Latency )", text, flags=re.MULTILINE)
    for part, name in zip(parts, ("accuracy", "latency"), strict=True):
        rows = "".join(line for line in part.splitlines() if line.startswith("|") and "---" not in line)
        figures = set(re.findall(r"\d+\.\d+", rows))
        there = set(re.findall(r"\d+\.\d+", (ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")))
        assert len(figures) > 6 and figures <= there


def test_every_page_is_in_the_list_of_all_pages() -> None:
    linked = set(_LINK.findall((ROOT / "docs" / "pages.md").read_text(encoding="utf-8")))
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").glob("*.md")]
    assert {str(path.relative_to(ROOT / "docs")) for path in pages} <= linked | {"pages.md"}


def test_every_setting_in_the_table_exists_with_its_default() -> None:
    path = ROOT / "docs" / "settings.md"
    text = path.read_text(encoding="utf-8").partition("## Settings that matter")[2].partition("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:3]] for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for setting, default in rows:
        if setting in BUDGETS:
            continue
        actual = {**TrainSettings.model_fields, **ProgressiveSettings.model_fields}[setting].default
        actual = DEFAULT_METHOD if setting == "method" else actual
        assert default == str(actual).lower() or actual is None, setting
