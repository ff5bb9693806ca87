"""What a SPEC names, looked up and not run: the files that importing it would run are known before."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Literal

from atograph.passes.errors import UserError
from atograph.spec.programs import FORMS, INSTEAD, folder_refused, form_of, instead_of

LIBRARIES = ("timm", "torchvision", "transformers")
"""Packages whose models have names."""


@dataclass(frozen=True)
class Target:
    """Something that can be loaded.

    Attributes:
        kind: a model of another package by its name, a program (a file or a folder), a Python file, or a module.
        text: as it was given.
        name: the file, module or ``library:model``, without the factory.
        factory: the maker of the model; None where none is named.
        path: the file or folder that is named; None for what is not on this disk.
        root: the folder that it is found in: of a file its own, of a module the one to import from; None for what is
            installed.
        files: what importing it runs or reads, the packages around a module first.
    """

    kind: Literal["library", "program", "file", "module"]
    text: str
    name: str
    factory: str | None
    path: Path | None
    root: Path | None
    files: tuple[Path, ...] = ()

    @property
    def within(self) -> str:
        """The text of it for someone who stands in ``root``: ``net.py:small``."""
        name = self.name
        if self.kind == "library" and self.path is not None:
            name = f"{name.partition(':')[0]}:./{self.path.name}"
        elif self.kind in ("file", "program") and self.path is not None:
            name = self.path.name
        return name if self.factory is None else f"{name}:{self.factory}"

    @property
    def shown(self) -> str:
        """How a person is told what would run: the whole path."""
        if self.path is None:
            return self.text
        return str(self.path) if self.factory is None else f"{self.path}:{self.factory}"


def target_of(text: str, folder: Path | None = None) -> Target:
    """Look up what a text names. Nothing is imported, not even the packages around a module.

    Args:
        text: a SPEC.
        folder: where it stands; the working directory unless given.

    Raises:
        UserError: there is no such file or module.
    """
    here = Path.cwd() if folder is None else folder
    library, colon, model = text.partition(":")
    if colon and library in LIBRARIES and model:
        path = _absolute(here, str(Path(model).expanduser())) if library == "transformers" else None
        path = path if path is not None and path.exists() else None
        return Target("library", text, text, None, path, None if path is None else path.parent, (path,) if path else ())
    name, factory = _split(text)
    try:
        whole = _absolute(here, str(Path(text).expanduser()))
        if form_of(whole) is not None or (whole.suffix.lower() in FORMS and not whole.is_dir()):
            _check_there(whole, text)
            return Target("program", text, text, None, whole, whole.parent, (whole,))
        if _is_file(name, here):
            path = _absolute(here, name)
            _check_file(path, name)
            return Target("file", text, name, factory, path, path.parent, (path,))
    except (OSError, ValueError) as error:  # a name that no file can have
        raise UserError(f"the file cannot be looked for: {error}.", where=ascii(name[:100])) from error
    of_module_s_form = all(part.isidentifier() for part in name.split("."))
    for place in (here, None) if of_module_s_form else ():
        of_module = _files_of(name, place)
        if of_module is not None:
            return Target("module", text, name, factory, of_module[-1] if of_module else None, place, of_module)
    if (here / name).is_dir():
        raise folder_refused(here / name, name)
    if Path(name).suffix.lower() in INSTEAD:
        raise UserError("no such file.", where=name)
    if not of_module_s_form:
        raise UserError("neither a file nor the name of a module.", where=name)
    hint = f"Did you mean {name}.py?" if (here / f"{name}.py").exists() else _of_library(name)
    raise UserError("no module of this name.", where=name, hint=hint)


def _of_library(name: str) -> str | None:
    """How a model is named that an installed library has a function of this name for; none of them is imported."""
    if "." in name:
        return None
    having = [f"{library}:{name}" for library in ("torchvision", "timm") if _has_model(library, name)]
    if having:
        return f"Models of libraries go by both names: {' or '.join(having)}."
    known = "timm:resnet18, torchvision:resnet18, transformers:FOLDER"
    return f"Models of libraries go by both names: {known}. A file ends in .py."


def _has_model(library: str, name: str) -> bool:
    found = _find(library, None)
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        for path in Path(place, "models").rglob("*.py"):
            if f"\ndef {name}(" in path.read_text(encoding="utf-8", errors="replace"):
                return True
    return False


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file is in a folder, by any name: links, mounts and the case of letters make others."""
    for form in (_absolute(Path.cwd(), path), path.resolve()):
        for parent in (form, *form.parents):
            try:
                if parent.samefile(folder):
                    return True
            except (OSError, ValueError):
                continue
    return False


def off_the_import_path(run: Path) -> None:
    """Take a run's folder, by any name, off the path of imports: what is in it is data.

    The Python that runs, and its packages, stay, wherever they are.
    """
    installed = (Path(sys.prefix), Path(sys.base_prefix))

    def stays(entry: Path) -> bool:
        return any(entry.is_relative_to(prefix) for prefix in installed) or not lies_in(entry, run)

    sys.path[:] = [entry for entry in sys.path if stays(Path(entry or Path.cwd()))]


def _absolute(folder: Path, name: str | Path) -> Path:
    return Path(os.path.normpath(folder / name))


def _split(text: str) -> tuple[str, str | None]:
    target, colon, factory = text.rpartition(":")
    if colon and target and all(part.isidentifier() for part in factory.split(".")):
        return target, factory
    return text, None


def _is_file(name: str, folder: Path) -> bool:
    return name.endswith(".py") or "/" in name or "\\" in name or (folder / name).is_file() or name in (".", "..")


def _check_there(path: Path, name: str) -> None:
    if not path.exists():
        raise UserError("no such file.", where=name)


def _check_file(path: Path, name: str) -> None:
    _check_there(path, name)
    if path.is_dir():
        raise folder_refused(path, name)
    if not path.is_file() or path.suffix != ".py":
        hint = instead_of(path) or "Give a file that defines model() and train_data()."
        raise UserError("not a Python file (.py).", where=name, hint=hint)


def _files_of(name: str, root: Path | None) -> tuple[Path, ...] | None:
    """The files of a module and the packages around it, the outermost first; None where there is no such module."""
    parts, files = name.split("."), []
    places: Sequence[str] | None = None if root is None else [str(root)]
    for count in range(1, len(parts) + 1):
        found = None if places == [] else _find(".".join(parts[:count]), places)
        if found is None:
            return None
        places = [str(place) for place in found.submodule_search_locations or ()]
        if found.has_location and found.origin is not None:
            files.append(Path(found.origin))
        files += [] if found.has_location else [Path(place) for place in places]
    return tuple(files)


def _find(name: str, places: Sequence[str] | None) -> ModuleSpec | None:
    """What an import of ``name`` finds. `importlib.util.find_spec` would import the packages around it."""
    for finder in sys.meta_path:
        # A package without a file asks for the module around it, which is not imported: it is told the last part only.
        known = name.rpartition(".")[2] if places is not None and finder is PathFinder else name
        found = finder.find_spec(known, places)
        if found is not None:
            return found
    return None
