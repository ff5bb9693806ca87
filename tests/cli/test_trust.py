"""Code that a file names is shown, and runs where the user says so alone; a run is never on the path of imports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import SPEC, command, make_run

COMMANDS = (["verify"], ["bench", "--seconds", "0.01"], ["export", "--int8", "--even-if-worse"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to stand in, with ``net.py`` and its ``run``."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "run")
    shutil.copy(made.parent / "net.py", "net.py")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def says(run: Path, spec: str, **source: Any) -> None:
    """Let a report name another SPEC, in the old way, or with where it lies."""
    report = json.loads((run / "report.json").read_text())
    told = {"spec": spec, **source} if source else None
    (run / "report.json").write_text(json.dumps(report | {"spec": spec, "source": told}))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_run_of_one_s_own_is_shown_first(place: Path, arguments: list[str]) -> None:
    (place / "net.py").write_text("open('was run', 'w')\n" + SPEC)
    code, output = command(*arguments, "run")
    assert code == 2 and str(place / "net.py") in output and "--trust-spec" in output and "--spec SPEC" in output
    assert not (place / "was run").exists()
    code, output = command(*arguments, "run", "--trust-spec")
    assert code == 0 and f"made from {place / 'net.py'}" in output, output
    assert (place / "was run").exists()


MARK = "open({!r}, 'w')\n"


def module_of_the_run(place: Path, run: str) -> str:
    return f"{run}.evil"


def linked(place: Path, run: str) -> str:
    (place / "other.py").symlink_to(place / run / "evil.py")
    return "other.py"


def linked_folder(place: Path, run: str) -> str:
    (place / "package").symlink_to(place / run, target_is_directory=True)
    return "package.evil:model"


def link_in_the_run(place: Path, run: str) -> str:
    (place / "elsewhere.py").write_text((place / run / "evil.py").read_text())
    (place / run / "link.py").symlink_to(place / "elsewhere.py")
    return f"{run}/link.py"


def package_of_the_run(place: Path, run: str) -> str:
    (place / run / "__init__.py").write_text((place / run / "evil.py").read_text())
    (place / run / "deeper").mkdir()
    (place / run / "deeper" / "net.py").write_text(SPEC)
    return f"{run}.deeper.net"


HOSTILE = [module_of_the_run, linked, linked_folder, link_in_the_run, package_of_the_run]


@pytest.mark.parametrize("trust", [[], ["--trust-spec"]])
@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name.__name__)
def test_a_run_does_not_bring_its_code(place: Path, name: Callable[[Path, str], str], trust: list[str]) -> None:
    mark = place / "was run"
    (place / "run" / "evil.py").write_text(MARK.format(str(mark)) + SPEC)
    says(place / "run", name(place, "run"))
    code, output = command("verify", "run", *trust)
    assert code == 2 and "said to lie in it" in output and not mark.exists(), output


@pytest.mark.parametrize("spec", ["antigravity", "transformers:evil/model", "os:abort", "no.such.module", "a\0.py"])
def test_nothing_is_imported_to_find_it(place: Path, spec: str) -> None:
    says(place / "run", spec)
    code, output = command("verify", "run")
    assert code == 2 and output.count("error: ") == 1
    assert "antigravity" not in sys.modules


def test_the_packages_around_a_module_are_looked_at_and_not_run(place: Path) -> None:
    mark = place / "was run"
    (place / "pack_around").mkdir()
    (place / "pack_around" / "__init__.py").write_text(MARK.format(str(mark)))
    (place / "pack_around" / "net.py").write_text(SPEC)
    says(place / "run", "pack_around.net")
    code, output = command("verify", "run")
    assert code == 2 and str(place / "pack_around" / "net.py") in output and not mark.exists()
    assert command("verify", "run", "--trust-spec")[0] == 0 and mark.exists()


def test_the_hub_is_not_asked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    asked: list[dict[str, Any]] = []

    def config(*_args: object, **options: Any) -> None:
        asked.append(options)
        raise OSError("not there")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", config)
    says(place / "run", "transformers:evil/model")
    assert command("verify", "run")[0] == 2 and not asked
    assert command("verify", "run", "--trust-spec")[0] == 2
    assert [options["local_files_only"] for options in asked] == [True]


def test_data_in_a_run_is_not_handed_to_code(place: Path) -> None:
    (place / "net.py").write_text(SPEC + "\ndef example_inputs(data=None): open(data)\n")
    (place / "run" / "data").mkdir()
    here = {"from_run": "..", "absolute": str(place)}
    says(place / "run", "net.py", folder=here, data={"from_run": "data", "absolute": "/nowhere"})
    code, output = command("verify", "run", "--trust-spec")
    assert code == 2 and "said to lie in it" in output


@pytest.mark.long
def test_a_run_that_one_stands_in_is_not_on_the_path_of_imports(place: Path) -> None:
    mark = place / "was run"
    for name in ("safetensors", "networkx", "net_of_mine"):
        (place / "run" / f"{name}.py").write_text(MARK.format(str(mark)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place / "run"), *sys.path[1:]])}
    arguments = ["verify", ".", "--spec", "../net.py"]
    done = subprocess.run(
        [sys.executable, "-m", "atograph", *arguments],
        cwd=place / "run",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
