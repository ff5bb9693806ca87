"""The house: which folder may import which, no circles at any level, and no folder that one cannot look over.

Every import counts, within functions and under TYPE_CHECKING too. `import-linter` and `grimp` read one folder tree, and
``passes/`` installs as ``atograph.passes`` from another, so this reads the files itself.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest
from parsed import parsed

ROOT = Path(__file__).parents[1]

ORDER = {
    "atograph": (
        "__main__ cli integrations run proof slimming graph declared inspection int8 latency targets openvino "
        "executorch from_onnx ort program sessions onnx repair terminal process report spec capture train files "
        "values passes version"
    ),
    "atograph.passes": (
        "pipeline text rewrite cleanup patterns plan criteria budgets cost analysis base rules axes ir torch_private "
        "registry identifiers lazy authors declared errors public"
    ),
}
"""From top to bottom: a folder imports those after it only."""

MOST_MODULES = 15

LONGER = {"atograph.passes.rules": "one file for each kind of op"}


def paths() -> dict[str, Path]:
    """Every module by its name."""
    modules = {}
    for folder, package in ((ROOT / "atograph", ("atograph",)), (ROOT / "passes", ("atograph", "passes"))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*package, *path.relative_to(folder).with_suffix("").parts)
            modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


MODULES = paths()


def imported(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, anywhere in it; all imports are absolute."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "atograph":
                while name not in MODULES:
                    name = name.rpartition(".")[0]
                yield name


@cache
def arrows() -> dict[str, nx.DiGraph]:
    """For each package, which of its own modules and folders imports which."""
    levels: dict[str, nx.DiGraph] = {}
    for name, path in MODULES.items():
        for other in imported(path):
            ours, theirs = name.split("."), other.split(".")
            depth = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            if depth is not None:
                package = ".".join(ours[:depth])
                levels.setdefault(package, nx.DiGraph()).add_edge(ours[depth], theirs[depth], at=f"{name} → {other}")
    return levels


PACKAGES = sorted({name.rpartition(".")[0] for name in MODULES} - {""})


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circles(package: str) -> None:
    assert list(nx.simple_cycles(arrows().get(package, nx.DiGraph()))) == []


@pytest.mark.parametrize("package", ORDER)
def test_arrows_go_down(package: str) -> None:
    order = ORDER[package].split()
    assert set(arrows()[package]) <= set(order)
    wrong = [at for a, b, at in arrows()[package].edges(data="at") if order.index(a) > order.index(b)]
    assert wrong == []


def test_every_folder_can_be_looked_over() -> None:
    folders = {path.parent for path in MODULES.values()}
    for folder in folders:
        modules = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        name = next(name for name, path in MODULES.items() if path == folder / "__init__.py")
        assert len(modules) <= MOST_MODULES or name in LONGER, f"{name}: {len(modules)} modules"


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name, path in MODULES.items() if not ast.get_docstring(parsed(path))] == []


def test_the_compiler_imports_neither_the_product_nor_what_it_needs() -> None:
    for name, path in MODULES.items():
        if name.startswith("atograph.passes"):
            assert all(other.startswith("atograph.passes") for other in imported(path)), name
            tree = parsed(path)
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {other.split(".")[0] for other in names} & {"onnx", "onnxruntime", "typer", "rich"}, name


PRIVATE = re.compile(r"^\s*(from torch\S*\._\S* import|from torch\S* import .*\b_|import torch\S*\._)", re.MULTILINE)


def test_private_parts_of_torch_have_one_place() -> None:
    named = [name for name, path in MODULES.items() if PRIVATE.search(path.read_text(encoding="utf-8"))]
    assert named == ["atograph.passes.torch_private"]


def test_files_of_tests_have_names_of_their_own() -> None:
    """Folders of tests are no packages, so pytest takes two files of one name for the same module."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, times in names.items() if times > 1] == []
