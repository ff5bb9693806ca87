"""The site: references of docstrings lead somewhere, every document and every public name has its place in it.

`make docs` builds it strictly, in about a minute; this holds what most often breaks, without Sphinx.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main
from website.links import broken
from website.names import PACKAGES, groups_of, parts_of, public_things, references, resolve
from website.reference import TABLES, DoesNotResolve, fields_of, linked, pages, plain, what
from website.sources import ROOT, contents, documents

import atograph
from atograph.cli.app import app
from atograph.train.settings import TrainSettings


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    """The pages that are made from the code, by their file."""
    return dict(pages())


def test_references_of_docstrings_lead_somewhere() -> None:
    docstrings = {
        name: part for thing in public_things().items() for name, part in [thing, *parts_of(thing[1]).items()]
    }
    lost = {
        name: unknown
        for name, part in docstrings.items()
        if (unknown := [text for text in references(inspect.getdoc(part) or "") if resolve(text, part) is None])
    }
    assert lost == {} and len(docstrings) > 100


@pytest.mark.parametrize(
    ("text", "thing", "full"),
    [
        ("trace", atograph.slim, "atograph.trace"),
        ("save", atograph.Slim, "atograph.Slim.save"),
        ("Group.step", atograph.Graph.plan, "atograph.Group.step"),
        ("rewritten", atograph.passes.Program.new_constant, "atograph.passes.Program.rewritten"),  # a method beside it
        ("sizes.BATCH", atograph.passes.Program, "atograph.passes.ir.sizes.BATCH"),
        ("search_end()", TrainSettings, "atograph.train.TrainSettings.search_end"),
        ("torch.utils.flop_counter", atograph.Graph, "torch.utils.flop_counter"),
        ("Group.no_such", atograph.Graph, None),
        ("no_such", atograph.Graph, None),
        ("train.no_such", atograph.compress, None),
    ],
)
def test_what_a_name_refers_to(text: str, thing: Any, full: str | None) -> None:
    assert resolve(text, thing) == full


def test_references_become_links_and_the_rest_code() -> None:
    text = "As `trace` and `cost.memory`, ``code`` and `a + b`."
    shown = "As :py:obj:`trace <atograph.trace>` and ``cost.memory``, ``code`` and ``a + b``."
    assert linked(text, atograph.Graph) == shown
    with pytest.raises(DoesNotResolve, match=r"`no_such` in a docstring of atograph\.Graph"):
        linked("See `no_such`.", atograph.Graph)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_its_page(package: str, written: dict[str, str]) -> None:
    names = [name for group in groups_of(package).values() for name in group]
    assert Counter(names) == Counter(import_module(package).__all__)
    shown = re.findall(r"^\.\. (?:auto\w+|py:class|py:data):: ([\w.]+)$", "".join(written.values()), re.MULTILINE)
    for full, thing in public_things().items():
        by_hand = thing is TrainSettings or not (isinstance(thing, type) or inspect.isfunction(thing))
        assert shown.count(full.rpartition(".")[2] if by_hand else full) == 1, full


def test_every_document_stands_in_the_contents_once() -> None:
    listed = re.findall(r"^([\w./-]+)$", contents(), re.MULTILINE)
    pages = [str(path.with_suffix("")) for path in documents() if path.name != "README.md"]
    assert Counter(listed) == Counter([*pages, "reference/index"])
    assert Path(ROOT, "docs", "website").is_dir()


def test_settings_have_default_type_and_text(written: dict[str, str]) -> None:
    shown = re.findall(
        r"^   \.\. py:attribute:: (\w+)\n      :value: (.*)\n\n      \*(.+?)\.\*", written["settings.rst"], re.M
    )
    assert [name for name, _, _ in shown] == list(TrainSettings.model_fields)
    assert all(value == repr(TrainSettings.model_fields[name].default) for name, value, _ in shown)
    assert [name for name, _, text in fields_of(TrainSettings) if not text] == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "integer at least 1"),
        ({"type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0}, "number above 0 and at most 1"),
        ({"enum": ["max", "min"], "type": "string"}, '"max" or "min"'),
        ({"anyOf": [{"const": "auto", "type": "string"}, {"type": "null"}]}, '"auto", or none'),
        ({"type": "array", "items": {"type": "string"}}, "list of texts"),
        ({"type": "array", "items": {"prefixItems": [], "type": "array"}}, "list of pairs"),
    ],
)
def test_types_in_words(schema: dict[str, Any], words: str) -> None:
    assert what(schema) == words


def test_every_option_of_every_command_is_there(written: dict[str, str]) -> None:
    page = written["commands.rst"]
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        section = page.partition(f".. program:: atograph {name}\n")[2].partition(".. program::")[0]
        for option in command.params:
            assert (
                f".. option:: {option.metavar if option.param_type_name == 'argument' else option.opts[0]}" in section
            )
            assert plain(option.help) in section


def test_every_row_of_every_table_is_there(written: dict[str, str]) -> None:
    assert len(TABLES) >= 2
    for title, guide, table in TABLES:
        assert (ROOT / "docs" / f"{guide}.md").is_file()
        section = written["tables.rst"].partition(f"{title}\n---")[2].partition("\n---")[0]
        assert all(f"``{name}``" in section for name in table)


def test_links_within_a_site_are_followed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.html").write_text("<h1 id='top'>b</h1><a href='../a.html#here'></a>", encoding="utf-8")
    body = "<p id='here'><a href='sub/b.html#top'></a><a href='#here'></a><a href='https://x.org/no'></a>"
    (tmp_path / "a.html").write_text(body, encoding="utf-8")
    assert broken(tmp_path) == []
    (tmp_path / "a.html").write_text(f"{body}<img src='no.png'><a href='sub/b.html#gone'>", encoding="utf-8")
    assert broken(tmp_path) == ["a.html: no.png", "a.html: sub/b.html#gone"]
