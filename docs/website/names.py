"""What a name in backticks in a docstring means: an object of the code, by the path that a user imports it from."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module, util
from typing import Any

PACKAGES = {
    "atograph": "What most people need: ``import atograph``.",
    "atograph.passes": "The compiler, for passes and op rules of one's own.",
    "atograph.train": "The training by itself, without what surrounds it.",
    "atograph.targets": "What a slim model is deployed to.",
}
"""What is public stands in the ``__all__`` of one of them."""

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?")
IN_BACKTICKS = re.compile(r"(?<![`\w:\\])`([^`\n]+)`(?![`_])")


def references(docstring: str) -> list[str]:
    """The texts in single backticks that look like names; what stands in double ones is code and refers to nothing."""
    return [text for text in IN_BACKTICKS.findall(docstring) if REFERENCE.fullmatch(text)]


def resolve(text: str, thing: Any) -> str | None:
    """The full public name of what a docstring of ``thing`` refers to; None if there is no such thing.

    It is looked for as Python would: among the parts of its class, in its module, in the folders above, in torch.
    """
    text, thing = text.removesuffix("()"), code_of(thing)
    for kind in _classes_of(thing):
        if text in _parts(kind):
            return f"{public_name(kind)}.{text}"
    for root in _roots(module_of(thing)):
        name = _below(root, text)
        if name is not None:
            return name
    return None


def code_of(thing: Any) -> Any:
    """The class or the function whose docstring an object has."""
    thing = getattr(thing, "__func__", thing)
    return thing if isinstance(thing, type) or inspect.isfunction(thing) else type(thing)


def module_of(thing: Any) -> str:
    """The module whose code it is."""
    if isinstance(thing, type):
        return str(vars(sys.modules[thing.__module__])["__name__"])
    return str(inspect.unwrap(thing).__globals__["__name__"])


def public_name(thing: Any) -> str:
    """``atograph.Plan``: the path that a thing is imported from, where it is public; of a module its name."""
    if inspect.ismodule(thing):
        return thing.__name__
    for package in PACKAGES:
        module = import_module(package)
        if thing.__qualname__ in module.__all__ and getattr(module, thing.__qualname__) is thing:
            return f"{package}.{thing.__qualname__}"
    return f"{thing.__module__}.{thing.__qualname__}"


def _classes_of(thing: Any) -> list[type]:
    """A class, or the one that a method is of, with its bases."""
    if isinstance(thing, type):
        return [kind for kind in thing.__mro__ if kind is not object]
    owner, dot, _ = thing.__qualname__.rpartition(".")
    kind = getattr(import_module(module_of(thing)), owner, None) if dot else None
    return _classes_of(kind) if isinstance(kind, type) else []


def _parts(kind: type) -> set[str]:
    """Methods, fields, and attributes that its methods set."""
    names = {*vars(kind), *vars(kind).get("__annotations__", {})}
    try:
        code = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return names
    stored = (node for node in ast.walk(code) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return names | {node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == "self"}


def _roots(module: str) -> Iterator[Any]:
    """The module, then every folder above it, then the compiler and torch."""
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        yield import_module(".".join(parts[:count]))
    yield from map(import_module, ("atograph.passes", "torch", "builtins"))


def _below(root: Any, text: str) -> str | None:
    """The full name of ``text`` as a module below ``root``, or as something in it."""
    first, _, rest = text.partition(".")
    if isinstance(root, type):
        known = not rest and any(first in _parts(kind) for kind in _classes_of(root))
        return f"{public_name(root)}.{first}" if known else None
    if first == root.__name__:
        return _below(root, rest) if rest else first
    thing = getattr(root, first, None)
    if thing is None and hasattr(root, "__path__") and util.find_spec(f"{root.__name__}.{first}"):
        thing = import_module(f"{root.__name__}.{first}")
    if thing is None:
        return None
    if rest:
        return _below(thing, rest) if inspect.ismodule(thing) or isinstance(thing, type) else None
    named = inspect.ismodule(thing) or isinstance(thing, type) or inspect.isfunction(thing)
    return public_name(thing) if named else f"{root.__name__}.{first}"


def groups_of(package: str) -> dict[str, list[str]]:
    """Group → names, as comments in the ``__all__`` of a package name them; without any, all are one group."""
    source = inspect.getsource(import_module(package))
    lines = source.splitlines()
    groups: dict[str, list[str]] = {}
    for name in _all_of(source).elts:
        above = [line.strip() for line in lines[: name.lineno - 1]]
        comment = next((line for line in reversed(above) if line.startswith(("#", "__all__"))), "__all__")
        title = comment.removeprefix("#").strip() if comment.startswith("#") else "names"
        groups.setdefault(title, []).append(ast.literal_eval(name))
    return groups


def _all_of(source: str) -> ast.List:
    """The list in ``__all__ = [...]``."""
    for node in ast.parse(source).body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__all__"
            and isinstance(node.value, ast.List)
        ):
            return node.value
    raise ValueError("there is no __all__")


def home(package: str, name: str) -> str:
    """The full name of a public name: where it is in two packages, that of the first."""
    thing = getattr(import_module(package), name)
    return public_name(thing) if isinstance(thing, type) or inspect.isfunction(thing) else f"{package}.{name}"


def public_things() -> dict[str, Any]:
    """Full name → object, of everything that is public."""
    groups = [(package, names) for package in PACKAGES for names in groups_of(package).values()]
    pairs = [(package, name) for package, names in groups for name in names if not name.startswith("__")]
    return {home(package, name): getattr(import_module(package), name) for package, name in pairs}


def _own(kind: type) -> dict[str, Any]:
    """What a class defines, and what it has of bases of ours that are not public themselves."""
    public = {id(thing) for thing in public_things().values()}
    bases = [
        base for base in _classes_of(kind)[1:] if base.__module__.startswith("atograph.") and id(base) not in public
    ]
    return {name: part for each in (*reversed(bases), kind) for name, part in vars(each).items()}


def parts_of(thing: Any) -> dict[str, Any]:
    """Full name → function, of the methods and properties of a public class that have docstrings."""
    parts = {}
    for name, part in _own(thing).items() if isinstance(thing, type) else ():
        code = part.fget if isinstance(part, property) else getattr(part, "__func__", part)
        if not name.startswith("_") and inspect.isfunction(code) and code.__doc__:
            parts[f"{public_name(thing)}.{name}"] = code
    return parts
