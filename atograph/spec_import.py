"""Import the user's file or module: under a free name, beside its neighbours, its errors shown as its own."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from atograph.passes.errors import UserError
from atograph.user_code import user_code


def import_file(path: Path) -> ModuleType:
    """Run a Python file as a module; its folder stays on ``sys.path``, as for a script.

    The module has the file's own name where that is free, so that worker processes can import it, too.

    Raises:
        UserError: there is no such file, or it is no Python file.
        UserCodeError: the file raised.
    """
    where = str(path)
    if not path.exists():
        raise UserError("no such file.", where=where)
    if not path.is_file() or path.suffix != ".py":
        raise UserError(
            "not a Python file (.py).", where=where, hint="Give a file that defines model() and train_data()."
        )
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # its functions may import neighbours later on, so it stays
        sys.path.insert(0, folder)
    name = _free_name(path.resolve())
    loader = SourceFileLoader(name, str(path.resolve()))
    found = importlib.util.spec_from_file_location(name, path.resolve(), loader=loader)
    assert found is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        with user_code("importing the file", where):
            loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _free_name(path: Path) -> str:
    """The file's own name, or another one: ``random.py`` must not take the place of a module of that name."""
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
    found = importlib.machinery.PathFinder.find_spec(path.stem)
    return found is not None and found.origin is not None and Path(found.origin).resolve() == path


def import_module(target: str) -> ModuleType:
    """Import ``package.module``, from the working directory too.

    Raises:
        UserError: there is no such module.
        UserCodeError: the module raised.
    """
    if not all(part.isidentifier() for part in target.split(".")):
        raise UserError("neither a file nor the name of a module.", where=target)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with user_code("importing the module", target):
        try:
            return importlib.import_module(target)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{target}.".startswith(f"{error.name}."):
                raise  # the module is there, what it imports is not
            hint = f"Did you mean {target}.py?" if Path(f"{target}.py").exists() else None
            raise UserError("no module of this name.", where=target, hint=hint) from error
