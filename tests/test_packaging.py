"""What is installed: every package by its hash, no torch that nobody has tried, and a wheel that holds everything."""

from __future__ import annotations

import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

BUILDS = {"torch", "torchvision"}
"""They come in many builds, for which there is no one hash."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(name: str) -> dict[str, str]:
    """Package → version, with what stands after it in the same entry."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {normal(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def test_every_package_has_its_hashes() -> None:
    constraints, locked = pinned("constraints.txt"), pinned("requirements.lock")
    assert constraints.keys() - locked.keys() == BUILDS and locked.keys() < constraints.keys()
    for name, entry in locked.items():
        assert entry.split()[0] == constraints[name], f"{name}: run `make lock`"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name


def test_so_has_what_makes_the_site_and_the_wheel() -> None:
    """`make docs` and `make dist` install it beside the rest, of which it repeats nothing."""
    constraints, locked = (pinned(f"docs/website/{name}") for name in ("constraints.txt", "requirements.lock"))
    assert constraints.keys() == locked.keys() and not constraints.keys() & pinned("constraints.txt").keys()
    for name, entry in locked.items():
        assert entry.split()[0] == constraints[name], f"{name}: run `make lock`"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
    extras = PYPROJECT["project"]["optional-dependencies"]
    asked = [normal(re.split(r"[<>=]", each)[0]) for extra in ("docs", "dist") for each in extras[extra]]
    assert set(asked) <= constraints.keys()


def test_so_has_what_the_recipes_say_to_install() -> None:
    """`make recipes` installs it beside the rest, of which it repeats nothing; torch is what is there."""
    constraints, locked = (pinned(f"docs/recipes/{name}") for name in ("constraints.txt", "requirements.lock"))
    rest, site = pinned("constraints.txt"), pinned("docs/website/constraints.txt")
    assert constraints.keys() == locked.keys() and not constraints.keys() & rest.keys()
    for name, entry in locked.items():
        assert entry.split()[0] == constraints[name] == site.get(name, constraints[name]), f"{name}: run `make lock`"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name
    lines = [line for page in (ROOT / "docs" / "recipes").glob("*.md") for line in page.read_text("utf-8").splitlines()]
    asked = [normal(name) for line in lines if line.startswith("pip install ") for name in line.split()[2:]]
    assert asked and set(asked) <= constraints.keys() | rest.keys()


def test_the_makefile_asks_for_them() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    builds = re.compile(r"\b(torch|torchvision|torch-pruning==[\d.]+)$")
    installs = [line for line in text.splitlines() if "install -q" in line and not builds.search(line)]
    for lock in ("requirements.lock", "docs/website/requirements.lock", "docs/recipes/requirements.lock"):
        assert any(line.endswith(f"--require-hashes --no-deps -r {lock}") for line in installs)
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation -e ." in line for line in installs)


def test_private_parts_of_torch_have_an_upper_bound() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (torch,) = [each for each in asked if re.match(r"torch\b", each)]
    assert re.fullmatch(r"torch>=[\d.]+,<[\d.]+", torch)
    assert {normal(re.split(r"[<>=\[]", each)[0]) for each in asked} <= pinned("constraints.txt").keys()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build needs of the repository, in a folder that it may write into."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("atograph", "passes", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "CITATION.cff"):
        shutil.copy(ROOT / name, folder / name)
    for path in ROOT.glob("*.md"):
        shutil.copy(path, folder / path.name)
    return folder


def built(source: Path, kind: str) -> Path:
    """A wheel or a source distribution, made in a process of its own."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(source)], cwd=source, capture_output=True, text=True, check=True
    )
    return source / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return built(source, "wheel")


@pytest.fixture(scope="module")
def sdist(source: Path) -> Path:
    return built(source, "sdist")


def files_of_the_tree() -> set[str]:
    """Every file of both folders, by the path that it is installed at."""
    trees = {"atograph": ROOT / "atograph", "atograph/passes": ROOT / "passes"}
    return {
        f"{place}/{path.relative_to(folder).as_posix()}"
        for place, folder in trees.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.long
def test_the_wheel_holds_every_file_and_works_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == files_of_the_tree()
        archive.extractall(tmp_path)
    code = (
        "import atograph, atograph.passes, torch; from atograph.cli import main; "
        "print(atograph.__file__, atograph.passes.__file__); "
        "g = atograph.trace(torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)), torch.randn(2, 4)); "
        "print(atograph.slim(g, g.plan(flops=0.5)).flops < g.flops)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert 'atograph = "atograph.cli:main"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    places, smaller = done.stdout.splitlines()
    assert all(str(tmp_path) in place for place in places.split()) and smaller == "True"


def test_the_source_distribution_holds_every_module_and_document(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {path.replace("atograph/passes/", "passes/", 1) for path in files_of_the_tree()}
    assert needed | {"pyproject.toml", "setup.py", "README.md", "LICENSE", "CITATION.cff"} <= names
    links = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 20 and {link.partition("#")[0] for link in links if "://" not in link} - {""} <= names


LINK = re.compile(r"\]\(([^)\s]+)\)")

SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    project = PYPROJECT["project"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Author"] == project["authors"][0]["name"] and metadata["License-Expression"] == project["license"]
    assert metadata["Keywords"] == ",".join(project["keywords"])
    assert set(metadata.get_all("Classifier")) == set(project["classifiers"])
    assert metadata.get_all("Project-URL", []) == [
        f"{title}, {url}" for title, url in SETUP["urls"](repository()).items()
    ]
    text = metadata.get_payload()
    assert text.startswith("# atograph\n")
    assert all("://" in link or link.startswith("#") for link in LINK.findall(text))


def repository() -> str:
    return str(SETUP["repository"]())


def test_one_line_says_where_the_repository_is() -> None:
    """`[tool.atograph] repository`: nothing else names an address of its own."""
    assert re.fullmatch(r"(https://[\w.-]+/[\w./-]*[\w-])?", repository())
    assert not {"readme", "urls"} & PYPROJECT["project"].keys()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said = re.findall(r'^repository-code: "?([^"\n]*)"?$', citation, re.MULTILINE)
    assert said == [repository()] * bool(repository()), (
        "repository-code of CITATION.cff is another than pyproject.toml's"
    )


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = PYPROJECT["project"]
    entries = {"title": project["name"], "version": project["version"], "license": project["license"]}
    assert all(f"\n{key}: {value}\n" in citation for key, value in entries.items())
    assert f"  - name: {project['authors'][0]['name']}\n" in citation


@pytest.mark.parametrize(
    ("text", "nowhere", "somewhere"),
    [
        ("[docs/a.md](docs/a.md)", "docs/a.md", "[docs/a.md](https://x.org/a/blob/HEAD/docs/a.md)"),
        ("[`b.py`](b.py)", "`b.py`", "[`b.py`](https://x.org/a/blob/HEAD/b.py)"),
        ("[a.md](docs/a.md#b-c)", "docs/a.md", "[a.md](https://x.org/a/blob/HEAD/docs/a.md#b-c)"),
        ("[how](docs/a.md#b-c)", "how (docs/a.md)", "[how](https://x.org/a/blob/HEAD/docs/a.md#b-c)"),
        ("[below](#not-yet)", "[below](#not-yet)", "[below](#not-yet)"),
        ("[far](https://y.org/z)", "[far](https://y.org/z)", "[far](https://y.org/z)"),
    ],
)
def test_links_of_the_readme_on_an_index(text: str, nowhere: str, somewhere: str) -> None:
    document = "# head\n\nText.\n\n{}\n"
    assert SETUP["readme"](document.format(text), "").endswith(f"Text.\n\n{nowhere}\n")
    assert SETUP["readme"](document.format(text), "https://x.org/a") == document.format(somewhere)


def test_addresses_follow_from_it() -> None:
    addresses = SETUP["urls"]("https://x.org/a")
    assert addresses["Repository"] == "https://x.org/a" and addresses["Issues"] == "https://x.org/a/issues"
    paths = [url.partition("/HEAD/")[2] for url in addresses.values() if "/HEAD/" in url]
    assert len(paths) == 3 and all((ROOT / path).exists() for path in paths)


def test_an_index_would_take_both(wheel: Path, sdist: Path) -> None:
    """`make dist` has the tools."""
    pytest.importorskip("twine", reason="twine is not installed: make dist")
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr
