"""Run a document: its Python blocks in one namespace, its `atograph` commands, and compare what they print.

`python doc_blocks.py FILE` works in the current folder. A ```python block that starts with ``# name.py`` is written to
that file instead of being run. A ```text block right behind a ```python block is what that one prints. In a ```console
block, lines that start with ``$ `` are commands and the others their output; ``...`` stands for anything. Of a training
run, of a sensitivity and of a sweep, only the wording is compared, not its figures.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_IMPORTS_TORCHVISION = re.compile(r"^(?:from|import) (?:torchvision|transformers|timm|ultralytics)\b", re.MULTILINE)
_FILE = re.compile(r"# ([\w-]+\.py)\n")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the number of its first line, and whether only blank lines lie between
    it and the block before."""

    language: str
    text: str
    line: int
    follows: bool


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found, end = [], 0
    for match in _FENCE.finditer(document):
        line = document.count("\n", 0, match.start(2)) + 1
        found.append(Block(match[1], match[2], line, not document[end : match.start()].strip()))
        end = match.end()
    return found


def commands(block: Block) -> list[tuple[list[str], str]]:
    """The `atograph` commands of a console block (all that start with ``$``) or a shell block, with their output."""
    if block.language == "sh":
        lines = [line for line in block.text.splitlines() if line.startswith("atograph ")]
        return [(shlex.split(line, comments=True)[1:], "") for line in lines]
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    pairs = [part.partition("\n") for part in parts]
    return [(shlex.split(command)[1:], output) for command, _, output in pairs if command.startswith("atograph ")]


def run(path: Path) -> None:
    """Run all of a document in the current folder.

    Raises:
        AssertionError: something printed another text than the document says.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(path.read_text(encoding="utf-8")):
        where = f"{path.name}:{block.line}"
        if block.language == "python" and (file := _FILE.match(block.text)):
            Path(file[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec", dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, namespace)
            printed = out.getvalue()
            continue
        elif block.language == "text" and block.follows and printed:
            _compare(where, block.text, printed)
        elif block.language == "console":
            for arguments, output in commands(block):
                _compare(f"{where}: atograph {shlex.join(arguments)}", output, *_command(arguments))
        printed = ""


def _command(arguments: list[str]) -> tuple[str, bool]:
    """What a command prints (on standard error, where it fails), and whether there are measured figures in it."""
    from typer.testing import CliRunner

    from atograph.cli.app import app

    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    measured = arguments[0] in ("compress", "sensitivity", "sweep")
    return (result.stdout, measured) if result.exit_code == 0 else (result.stderr, False)


def _compare(where: str, wanted: str, got: str, measured: bool = False) -> None:
    plain = _wording if measured else _plain
    if not doctest.OutputChecker().check_output(plain(wanted), plain(got), doctest.ELLIPSIS):
        raise AssertionError(f"{where} says\n{wanted}\nbut it is\n{got}")


def _plain(text: str) -> str:
    """Without blank lines, and blanks at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


def _wording(text: str) -> str:
    """The same without figures and the widths of columns, however two times compare, and whatever is on the front."""
    text = re.sub(r"(> )?\d[\d.,:]*(e[-+]\d+)?( ms| s)?( [KMG](?=\s))?", "#", text)
    text = re.sub(r"│.*", "│", text)
    text = re.sub(r"(?m)(# {2,})(FLOPs, ms|FLOPs|ms|-)(( +g#.*)?)$", r"\1#\3", text)
    text = re.sub(r"as fast as the dense network|# × (faster|slower)", "# × as fast", text)
    return _plain(re.sub(r"─+", "─", re.sub(r"[^\S\n]+", " ", text)))


def write_project(first_run: Path) -> None:
    """What a reader of README.md brings: ``mine.py``, the file of the first run, and ``trained.pt``, its weights."""
    Path("mine.py").write_text(blocks(first_run.read_text(encoding="utf-8"))[0].text, encoding="utf-8")
    import mine  # type: ignore[import-not-found]
    import torch

    torch.manual_seed(0)
    net = mine.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for images, labels in 5 * mine.train_data():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    torch.save(net.state_dict(), "trained.pt")


def run_alone(path: str) -> None:
    """`run` in a process of its own, where what a document has written into the folder can be imported."""
    sys.path.insert(0, "")
    if Path(path).name == "README.md":
        write_project(Path(path).parent / "docs" / "command-line.md")
    if _IMPORTS_TORCHVISION.search(Path(path).read_text(encoding="utf-8")):  # of any build, beside a CPU torch too
        import benchmarks.models.torchvision_models  # noqa: F401
    run(Path(path))
