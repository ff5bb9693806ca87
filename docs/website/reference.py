"""Pages of the reference that are made from the code: public names, settings, commands, tables."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, get_args

import typer.main
from pydantic import BaseModel

from atograph.cli.app import app
from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.pipeline.registry import PASSES
from atograph.passes.registry import Registry
from atograph.passes.rules import name_of, rule_for, targets
from atograph.targets import TARGETS
from atograph.train.settings import TrainSettings
from atograph.train.settings.method_table import METHODS
from website.names import (
    IN_BACKTICKS,
    PACKAGES,
    REFERENCE,
    code_of,
    groups_of,
    home,
    parts_of,
    public_name,
    public_things,
    resolve,
)


def rows(registry: Registry[Any]) -> dict[str, Any]:
    """Name → class, of a table that other packages may add to."""
    return {name: registry.get(name) for name in registry}


TABLES: list[tuple[str, str, Mapping[str, Any]]] = [
    ("Passes", "write-a-pass", rows(PASSES)),
    ("Criteria", "write-a-criterion", rows(CRITERIA)),
    ("Methods", "write-a-method", rows(METHODS)),
    ("Budgets", "write-a-budget", rows(BUDGETS)),
    ("Targets", "write-a-target", rows(TARGETS)),
    ("Rules of ops", "write-an-op-rule", {name_of(target): rule_for(target) for target in targets()}),
]
"""Title, the guide that shows how to add a row, and name → class or function."""

INTEGRATIONS = {
    "Lightning": "atograph.integrations.lightning.AutoTrainOnceCallback",
    "transformers": "atograph.integrations.transformers.AutoTrainOnceCallback",
}


class DoesNotResolve(Exception):
    """A docstring refers to what is not there."""


def linked(text: str, thing: Any) -> str:
    """A docstring with its references as links, where the site documents them, and everything else as code."""

    def link(match: Any) -> str:
        name = match[1]
        if not REFERENCE.fullmatch(name):
            return f"``{name}``"
        full = resolve(name, thing)
        if full is None:
            raise DoesNotResolve(f"`{name}` in a docstring of {public_name(code_of(thing))} is the name of nothing")
        return f":py:obj:`{name} <{full}>`" if full in _documented() else f"``{name}``"

    return IN_BACKTICKS.sub(link, text)


@cache
def _documented() -> set[str]:
    """The full names that have a place on the site."""
    things = public_things()
    parts = {name for thing in things.values() for name in parts_of(thing)}
    return {*things, *parts, *(f"{public_name(TrainSettings)}.{field}" for field in TrainSettings.model_fields)}


def pages() -> Iterator[tuple[str, str]]:
    """File below ``reference/`` and text, of every page."""
    files = []
    for package in PACKAGES:
        for title, names in groups_of(package).items():
            if names == ["__version__"]:
                continue
            file = f"{package}-{title}".replace(".", "-").replace(" ", "-")
            files.append((package, title, file, names))
            yield f"{file}.rst", _group(package, title, names)
    yield "integrations.rst", _integrations()
    yield "settings.rst", _settings(TrainSettings)
    yield "commands.rst", _commands()
    yield "tables.rst", _tables()
    yield "index.rst", _index(files)


def _heading(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}\n"


def _toctree(files: Iterable[str], **options: str) -> str:
    lines = [".. toctree::", *(f"   :{name}: {value}".rstrip() for name, value in options.items()), ""]
    return "\n".join([*lines, *(f"   {file}" for file in files), "", ""])


def _index(files: list[tuple[str, str, str, list[str]]]) -> str:
    parts = [_heading("Reference")]
    for package, text in PACKAGES.items():
        ours = [(title, file, names) for owner, title, file, names in files if owner == package]
        parts += [_heading(package, "-"), f".. py:module:: {package}\n", text, ""]
        for title, file, names in ours:
            links = ", ".join(f":py:obj:`{name} <{home(package, name)}>`" for name in names)
            parts.append(f"- :doc:`{_title(package, title)} <{file}>`: {links}")
        parts += ["", _toctree([file for _, file, _ in ours], hidden="")]
    parts += [
        _heading("Everything else", "-"),
        _toctree(["integrations", "settings", "commands", "tables"], maxdepth="1"),
    ]
    return "\n".join(parts)


def _title(package: str, group: str) -> str:
    return package if group == "names" else f"{package}: {group}"


def _group(package: str, title: str, names: list[str]) -> str:
    parts = [_heading(_title(package, title)), f".. py:currentmodule:: {package}\n"]
    for name in names:
        thing = getattr(import_module(package), name)
        full = home(package, name)
        if full != f"{package}.{name}":
            parts.append(f"``{name}`` is :py:obj:`{full}`.\n")
        elif thing is TrainSettings:
            parts.append(f":py:obj:`{full}`: {first_line(thing)} :doc:`settings` lists them.\n")
        else:
            parts.append(_autodoc(thing, full))
    return "\n".join(parts)


def _autodoc(thing: Any, name: str) -> str:
    if inspect.isfunction(thing):
        return f".. autofunction:: {name}\n"
    if not isinstance(thing, type):
        return f".. py:data:: {name.rpartition('.')[2]}\n\n   {first_line(thing)}\n"
    kind = "autoexception" if issubclass(thing, Exception) else "autoclass"
    lines = [f".. {kind}:: {name}", ""]
    for part in parts_of(thing):  # one by one, in the order of the code
        is_property = isinstance(inspect.getattr_static(thing, part.rpartition(".")[2]), property)
        lines += [f"   .. {'autoproperty' if is_property else 'automethod'}:: {part}", ""]
    return "\n".join(lines) + "\n"


def _integrations() -> str:
    parts = [
        _heading("Other trainers"),
        ":doc:`../docs/integrations` shows how they are used. A loop of one's own: :py:obj:`atograph.AutoTrainOnce`.\n",
    ]
    for title, name in INTEGRATIONS.items():
        parts += [_heading(title, "-"), f".. autoclass:: {name}\n\n   .. autoproperty:: {name}.ato\n"]
    return "\n".join(parts)


def first_line(thing: Any) -> str:
    """The first sentence of a docstring, in one line."""
    text = inspect.getdoc(thing) or ""
    return linked(text.partition("\n\n")[0].replace("\n", " ").replace("::", "."), thing)


def _settings(kind: type[BaseModel]) -> str:
    properties = kind.model_json_schema()["properties"]
    name = public_name(kind).rpartition(".")[2]
    parts = [
        _heading("Settings"),
        "A keyword of :py:obj:`atograph.compress` and of the callbacks, or ``--set KEY=VALUE`` on the command line.\n",
        f".. py:currentmodule:: {public_name(kind).rpartition('.')[0]}\n",
        f".. py:class:: {name}\n",
        textwrap.indent(linked(inspect.getdoc(kind) or "", kind), "   ") + "\n",
    ]
    for field, title, text in fields_of(kind):
        if title:
            parts.append(f"   .. rubric:: {title}\n")
        parts.append(f"   .. py:attribute:: {field}\n      :value: {kind.model_fields[field].default!r}\n")
        body = f"*{what(properties[field])}.* {linked(inspect.cleandoc(text), kind)}".strip()
        parts.append(textwrap.indent(body, "      ") + "\n")
    return "\n".join(parts)


def fields_of(kind: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """Field, the comment that begins a group of fields if it is the first of one, and its docstring."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines, body = source.splitlines(), ast.parse(source).body[0].body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        above = lines[node.lineno - 2].strip()
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        yield (
            node.target.id,
            above.removeprefix("#").strip(" .") if above.startswith("#") else "",
            str(after.value.value) if is_text else "",
        )


def what(schema: Mapping[str, Any]) -> str:
    """``number above 0, or none``: a field's type in words, from its JSON schema."""
    if "anyOf" in schema:
        return ", or ".join(what(each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        items = schema.get("items", {})
        return "list of pairs" if "prefixItems" in items else f"list of {what(items)}s" if items else "list"
    words = {"null": "none", "boolean": "true or false", "string": "text"}
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{word} {schema[key]:g}" for key, word in bounds.items() if key in schema]
    return " ".join([words.get(schema["type"], schema["type"]), " and ".join(limits)]).strip()


def _commands() -> str:
    main = typer.main.get_command(app)
    parts = [_heading("Commands"), f"{main.help}\n", "``atograph COMMAND --help`` prints the same.\n"]
    for name, command in main.commands.items():  # type: ignore[attr-defined]
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option"]
        usage = " ".join(["atograph", name, *(each.metavar for each in arguments), "[OPTIONS]"])
        parts += [_heading(name, "-"), f".. program:: atograph {name}\n", f".. code-block:: text\n\n   {usage}\n"]
        parts.append(plain(inspect.cleandoc(command.help)) + "\n")
        for each in arguments:
            parts.append(f".. option:: {each.metavar}\n\n   {plain(each.help)}\n")
        for each in options:
            value = "" if each.is_flag else f" {each.metavar or kind_of(each)}"
            shown = each.default is not None and each.default is not False and not callable(each.default)
            default = f" Default: ``{each.default}``." if shown else ""
            parts.append(f".. option:: {', '.join(option + value for option in each.opts)}\n")
            parts.append(f"   {plain(each.help)}{default}\n")
    return "\n".join(parts)


def kind_of(option: Any) -> str:
    """``INT``: the type of an option's values."""
    annotation = getattr(getattr(option, "type_descriptor", None), "annotation", str)
    (kind, *_) = get_args(annotation) or (annotation,)
    return str(kind.__name__).upper()


def plain(text: str) -> str:
    """A text of the command line, in which only backticks mean something."""
    pieces = text.split("`")
    for index, piece in enumerate(pieces):
        escaped = piece.replace("\\", "\\\\").replace("*", "\\*").replace("|", "\\|").replace("_", "\\_")
        pieces[index] = f"``{piece}``" if index % 2 else escaped
    return "".join(pieces)


def _tables() -> str:
    parts = [_heading("Tables"), "What stands in the code by name. Each has a guide that adds a row.\n"]
    for title, guide, table in TABLES:
        names: dict[Any, list[str]] = {}
        for name, thing in table.items():
            names.setdefault(thing, []).append(name)
        parts += [_heading(title, "-"), f":doc:`../docs/{guide}` shows how to add one.\n"]
        parts += [".. list-table::", "   :header-rows: 1", "   :widths: 35 65", "", "   * - name", "     - what it is"]
        for thing, listed in names.items():
            parts += [f"   * - {', '.join(f'``{name}``' for name in listed)}", f"     - {first_line(thing)}"]
        parts.append("")
    return "\n".join(parts)
