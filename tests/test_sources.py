"""What the sources may not do: unpickle, evaluate text, or hand a line to a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from parsed import parsed

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "atograph").rglob("*.py"), *(ROOT / "passes").rglob("*.py")])

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "subprocess", "pty"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv", "sympify"}
LOADERS = {"torch.load", "torch.jit.load", "torch.export.load", "torch.package.PackageImporter", "torch.hub.load",
           "np.load", "numpy.load", "joblib.load", "pickle.load", "pickle.loads"}  # fmt: skip

ALLOWED = {
    ("atograph/process/child_process.py", "import subprocess"): "to start this Python with a module of atograph's own",
    ("atograph/files/pickled.py", "import pickle"): "for the error that torch.load raises; nothing is loaded by it",
    ("atograph/files/pickled.py", "torch.load"): "with weights_only=True: tensors and plain containers, no classes",
    ("atograph/spec/program_data.py", "np.load"): "with allow_pickle=False: arrays only",
    ("atograph/from_onnx/network.py", "exec"): "a signature of names that were checked, as namedtuple makes one",
    ("atograph/targets/pt2.py", "torch.export.load"): "of a file that this process has just written, as users will",
}
"""File and what it does → why it may."""


def name_of(node: ast.expr) -> str:
    """``torch.load``; empty for what is no name."""
    if isinstance(node, ast.Attribute) and (before := name_of(node.value)):
        return f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def found_in(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((f"import {each.name}", node) for each in node.names if each.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"import {node.module}", node
        elif isinstance(node, ast.Call):
            if (name := name_of(node.func)) in CALLS | LOADERS:
                yield name, node
            if any(word.arg == "shell" for word in node.keywords):
                yield "shell", node
            if any(word.arg == "trust_remote_code" and ast.unparse(word.value) != "False" for word in node.keywords):
                yield "trust_remote_code", node
            if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords):
                yield "allow_pickle", node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_comes_from_a_file(path: Path) -> None:
    for what, node in found_in(parsed(path)):
        assert (str(path.relative_to(ROOT)), what) in ALLOWED, f"line {node.lineno}: {what}"  # type: ignore[attr-defined]
        if what == "torch.load":
            assert isinstance(node, ast.Call)
            assert "True" in [ast.unparse(word.value) for word in node.keywords if word.arg == "weights_only"]


def test_what_is_allowed_is_there() -> None:
    found = {(str(path.relative_to(ROOT)), what) for path in SOURCES for what, _node in found_in(parsed(path))}
    assert found == set(ALLOWED)


def test_the_check_finds_what_it_looks_for() -> None:
    text = "import pickle\neval('1')\nrun('ls', shell=True)\ntorch.load(f)\nos.system('x')\nfrom yaml import load"
    assert sorted(what for what, _node in found_in(ast.parse(text))) == [
        "eval", "import pickle", "import yaml", "os.system", "shell", "torch.load",
    ]  # fmt: skip


def test_json_of_others_is_read_by_one_reader() -> None:
    """``json.loads`` elsewhere reads what atograph itself has just made."""
    own = {
        f"atograph/{name}.py"
        for name in (
            "files/reading",
            "process/child_process",
            "ort/worker",
            "train/saved/checkpoints",
        )
    } | {"passes/pipeline/option_values.py", "passes/text/scanner.py"}  # one text in quotes each
    for path in SOURCES:
        nodes = ast.walk(parsed(path))
        if any(isinstance(node, ast.Call) and name_of(node.func) in ("json.load", "json.loads") for node in nodes):
            assert str(path.relative_to(ROOT)) in own
