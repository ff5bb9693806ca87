"""Import the user's file or module: under a free name, beside its neighbours, its errors shown as its own."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from zlib import crc32

from atograph.passes.errors import UserError
from atograph.spec.lookup import lies_in
from atograph.spec.programs import folder_refused
from atograph.values.user_code import user_code


@contextmanager
def as_script(path: Path | None) -> Iterator[None]:
    """Show the user's code the arguments of a script that was started without any: it may read them."""
    before = sys.argv
    sys.argv = [str(path or "")]
    try:
        yield
    finally:
        sys.argv = before


def import_file(path: Path, where: str, outside: Path | None = None) -> ModuleType:
    """Run a Python file as a module; its folder stays on ``sys.path``, as for a script.

    The module has the file's own name where that is free, so that worker processes can import it, too. Where it imports
    relatively (``from . import layers``), it is a module of the package that its folder is.

    Args:
        path: of the file.
        where: as error messages name it.
        outside: a folder that stays off ``sys.path``.

    Raises:
        UserCodeError: the file raised.
    """
    path = path.resolve()
    levels = _relative_levels(path)
    name = _name_in_package(path, levels, outside) if levels else _free_name(path, outside)
    loader = SourceFileLoader(name, str(path))
    found = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert found is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        with user_code("importing the file", where), as_script(path):
            loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _on_path(folder: Path, outside: Path | None) -> None:
    """Let a file import its neighbours: now, and when its functions run."""
    if str(folder) not in sys.path and (outside is None or not lies_in(folder, outside)):
        sys.path.insert(0, str(folder))


def _relative_levels(path: Path) -> int:
    """How many packages a file's relative imports reach up to: 1 for ``from .layers import Block``."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # told when it is imported
        return 0
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _name_in_package(path: Path, levels: int, outside: Path | None) -> str:
    """The name of a file in the package around it, which can be imported from now on."""
    top = path.parent
    while levels > 1 or (top.parent / "__init__.py").is_file():
        top, levels = top.parent, levels - 1
    parts = path.parent.relative_to(top.parent).parts
    _on_path(top.parent, outside)
    _on_path(path.parent, outside)
    there = sys.modules.get(top.name)
    if there is None:
        found = PathFinder.find_spec(top.name) if top.name.isidentifier() else None
        places = () if found is None else found.submodule_search_locations or ()
    else:
        places = getattr(there, "__path__", ())
    if str(top) not in list(places):  # another package has this name, or no package can have it
        parts = (f"user_{crc32(str(top).encode())}", *parts[1:])
        package = ModuleType(parts[0])
        package.__path__ = [str(top)]
        sys.modules[parts[0]] = package
    return ".".join((*parts, path.stem))


def _free_name(path: Path, outside: Path | None) -> str:
    """The file's own name, or another one: ``random.py`` must not take the place of a module of that name."""
    _on_path(path.parent, outside)
    if path.stem.isidentifier() and path.stem not in sys.modules and _is_found(path):
        return path.stem
    base = name = "user_" + re.sub(r"\W", "_", path.stem)
    count = 1
    while name in sys.modules:
        count += 1
        name = f"{base}_{count}"
    return name


def _is_found(path: Path) -> bool:
    """Whether an import of the file's name finds this file, and no installed package."""
    found = PathFinder.find_spec(path.stem)
    return found is not None and found.origin is not None and Path(found.origin).resolve() == path


def import_module(target: str, root: Path | None, outside: Path | None = None) -> ModuleType:
    """Import ``package.module``.

    Args:
        target: its name.
        root: the folder to import it from; None: it is installed.
        outside: a folder that stays off ``sys.path``.

    Raises:
        UserError: there is no such module, or it is a folder that has no code of its own.
        UserCodeError: the module raised.
    """
    if root is not None:
        _on_path(root, outside)
    with user_code("importing the module", target), as_script(Path(target)):
        try:
            module = importlib.import_module(target)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{target}.".startswith(f"{error.name}."):
                raise  # the module is there, what it imports is not
            raise UserError("no module of this name.", where=target) from error
    if getattr(module, "__file__", None) is None and (folders := list(getattr(module, "__path__", ()))):
        raise folder_refused(Path(folders[0]), target.replace(".", "/"))
    return module
