"""Programs that a SPEC may name: files of one suffix each, and folders of runs. Reading one runs no code of it.

Each is a row here, and becomes a `ProgramModule`: a module with the program's own weights and example inputs, which
every command and `trace` take like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from zipfile import BadZipFile, ZipFile

from atograph.files.reading import read_json
from atograph.passes.errors import UserError
from atograph.passes.registry import Registry
from atograph.values.user_code import kind_of

if TYPE_CHECKING:
    from torch import nn

    from atograph.passes.ir.interface import Example
    from atograph.passes.ir.run import ProgramModule


class ProgramForm(ABC):
    """A kind of file, or of folder, that holds a program.

    Attributes:
        name: the suffix of such files, with the dot.
        words: what it is, after the suffix: "as torch.export.save writes it".
    """

    name: ClassVar[str]
    words: ClassVar[str]

    @staticmethod
    @abstractmethod
    def read(path: Path, example: Example | None) -> ProgramModule:
        """The program of a file, as a module that has its weights, its example inputs and its dynamic sizes.

        Args:
            path: the file.
            example: arguments of one call, ``(args, kwargs)``, where the user gives them; None: the file's own, or
                such as its shapes allow.

        Raises:
            UserError: it cannot be read.
        """


FORMS = Registry[ProgramForm](
    "kind of program file",
    "kinds of program files",
    group="atograph.programs",
    base="atograph.spec.programs:ProgramForm",
    ours={
        ".onnx": "atograph.from_onnx.incoming:Onnx",
        ".pt2": "atograph.program.incoming:Exported",
        ".txt": "atograph.program.incoming:Text",
        "run": "atograph.program.incoming:Run",
    },
)
"""Suffix → what a file of that kind is; ``run`` is the folder of a run."""


def form_of(path: Path) -> str | None:
    """The row of what kind of program a file or folder holds; None for anything else."""
    if path.is_dir():
        return "run" if (path / "slim.pt2").exists() else None
    suffix = path.suffix.lower()
    return suffix if suffix in FORMS else None


def read_program(path: str | Path, example: Example | None = None) -> ProgramModule:
    """The program of a file or of a run's folder, as a module.

    Args:
        path: it.
        example: arguments of one call, ``(args, kwargs)``; those that the file holds, unless given.

    Raises:
        UserError: there is no such file, or it holds no program that can be read.
    """
    place = Path(path)
    if not place.exists():
        raise UserError(
            "no such file.", where=str(path), hint="A program is a .pt2 or .onnx file; a model is given as it is."
        )
    form = form_of(place)
    if form is None:
        told = ", ".join(f"{suffix} ({FORMS.get(suffix).words})" for suffix in FORMS if suffix.startswith("."))
        raise UserError(
            "this file is not of a kind that holds a program.",
            where=str(path),
            hint=instead_of(place) or f"A program is a file {told}, or the folder of a run.",
        )
    return FORMS.get(form).read(place, example)


def as_module(given: object, example: Example | None = None) -> nn.Module:
    """What `trace` and `compress` take for a model, as a module.

    Args:
        given: a module, an exported program, or the path of a program.
        example: arguments of one call, where the user gives them.

    Raises:
        UserError: it is none of them.
    """
    import torch
    from torch import nn
    from torch.export import ExportedProgram

    if isinstance(given, (str, Path)):
        return read_program(given, example)
    if isinstance(given, ExportedProgram):
        from atograph.capture.given.programs import program_module

        return program_module(given, example)
    if isinstance(given, torch.jit.ScriptFunction):
        raise UserError(f"this is a function of TorchScript ({type(given).__name__}), and no module.",
                        hint=_NO_SCRIPT)  # fmt: skip
    if not isinstance(given, nn.Module):
        hint = "Call it: model(), not model." if callable(given) else None
        if isinstance(given, Mapping):
            hint = "Weights alone are no model: net.load_state_dict(weights) puts them into one, and give net."
        raise UserError(f"a model is a torch.nn.Module, a torch.export.ExportedProgram or the path of a program, not "
                        f"{kind_of(given)}.", hint=hint)  # fmt: skip
    return given


_NO_SCRIPT = "Give the torch.nn.Module that it was made from, or torch.export.export(module, args) of that."
_WEIGHTS = (
    "Weights alone are no program: give the model's code as SPEC, and this file with --init; in Python the model that "
    "net.load_state_dict(torch.load(FILE)) has filled. A whole program is a file of torch.export.save (.pt2)."
)
INSTEAD: Mapping[str, str] = {
    ".py": "This is code, which the command takes. In Python: from mine import model, and give model().",
    ".pt": _WEIGHTS, ".pth": _WEIGHTS, ".bin": _WEIGHTS,
    ".ckpt": _WEIGHTS, ".safetensors": _WEIGHTS, ".ts": _NO_SCRIPT,
}  # fmt: skip
"""Suffix of what holds no program → what to do instead."""


def instead_of(path: Path) -> str | None:
    """What to do instead with a file that holds no program; None where nothing is known of its kind.

    What torch.jit.save writes often ends as weights do, and is known by its list of contents.
    """
    hint = INSTEAD.get(path.suffix.lower())
    if hint != _WEIGHTS:
        return hint
    try:
        with ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, BadZipFile, ValueError):
        return hint
    return f"This file is of TorchScript. {_NO_SCRIPT}" if scripted else hint


def folder_refused(folder: Path, where: str) -> UserError:
    """What is wrong with a folder that is given for a SPEC and is no run's: it has no code.

    Args:
        folder: it; of a saved model of transformers the error tells how to load it.
        where: as the error names it.
    """
    try:
        config = read_json(folder / "config.json", "not a configuration", finite=False)
    except (OSError, UserError):
        config = None
    if not isinstance(config, dict) or "model_type" not in config:
        return UserError("this is a folder, neither a file nor that of a run.", where=where,
                         hint="Give a file that defines model() and train_data().")  # fmt: skip
    named = config.get("architectures")
    kind = str(named[0]) if isinstance(named, list) and named and str(named[0]).isidentifier() else "AutoModel"
    kind, recipe = (
        ("AutoModelForCausalLM", "recipes/llama.md") if kind.endswith("ForCausalLM") else (kind, "recipes.md")
    )
    return UserError(
        "this is the folder of a saved model of transformers, and training takes code.", where=where,
        hint=f'Write a file whose model() returns {kind}.from_pretrained("{where}") and whose train_data() gives '
        f"batches, and name that: docs/{recipe}. `atograph inspect transformers:{where}` shows what can go.",
    )  # fmt: skip
