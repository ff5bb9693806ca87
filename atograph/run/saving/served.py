"""What makes a folder of slim weights one that transformers loads: its configuration, and files beside the weights.

A run writes it beside its own files, a plan that is applied to a checkpoint into the folder of the slim weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atograph.declared.smaller import declared_of
from atograph.declared.special import with_tokens
from atograph.declared.stored import with_changes
from atograph.declared.tokenizer import is_of_tokenizer, write_tokenizer
from atograph.files.checkpoint import Checkpoint
from atograph.files.loaded_from import CONFIG, loaded_from
from atograph.files.reading import read_json
from atograph.graph.graph import Graph
from atograph.passes.declared import Declared
from atograph.passes.plan.plan import Plan
from atograph.process.quiet import quiet
from atograph.repair.config import configured_parts
from atograph.repair.config_widths import numbers_of
from atograph.repair.saving import why_unsaved
from atograph.slimming.slim import Slim
from atograph.values.user_code import in_one_line

PRETRAINED = "pretrained"
"""The folder in that of a run; of its own, for inference engines read all weights that lie beside a configuration."""

_BESIDE = (".json", ".txt", ".model", ".jinja")
"""Endings of tokenizers, vocabularies, templates, and how to generate."""

_OURS = ("plan.json", "report.json")


def write_beside(graph: Graph, plan: Plan, checkpoint: Checkpoint, folder: Path) -> tuple[str, str]:
    """Write the configuration of slim weights, and copy what lies beside the dense ones.

    Args:
        graph: of the dense model, on the meta device or not.
        plan: what it keeps.
        checkpoint: its weights.
        folder: of the slim weights.

    Returns:
        Why there is no configuration, in words; empty where there is one, or the dense model has none. And why there is
        no tokenizer of a vocabulary that became smaller; empty where there is one, or none is due.
    """
    source = checkpoint.files[0].parent / CONFIG
    if graph.model is None or not source.is_file():
        return "", ""
    numbers = numbers_of(graph.model, graph.program, plan)
    if isinstance(numbers, str):
        return numbers, ""
    config = read_json(source, "not a configuration of transformers")
    aliases = getattr(getattr(graph.model, "config", None), "attribute_map", {})
    for change in declared_of(graph.model):
        config = with_changes(config, change, aliases)
    for name, number in numbers.items():
        _set(config, name.split("."), number)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    fewer = fewer_tokens(graph.model)
    for path in _beside(source.parent):
        if fewer is None:
            shutil.copyfile(path, folder / path.name)
        elif path.name == "generation_config.json":
            said = read_json(path, "not a configuration of generation")
            said |= with_tokens(said, fewer.kept[""])
            (folder / path.name).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        elif not is_of_tokenizer(path.name):
            shutil.copyfile(path, folder / path.name)
    return "", "" if fewer is None else write_tokenizer(source.parent, fewer, folder)


def _set(config: dict[str, Any], path: list[str], number: int) -> None:
    """Set a number that a file of a configuration says, or leaves to its defaults."""
    *outer, name = path
    for each in outer:
        config = config.setdefault(each, {})
    config[name] = number


@dataclass(frozen=True)
class Folder:
    """A folder that a model's library loads, or why there is none.

    Attributes:
        kind: the class that would load it.
        part: the module that it holds; empty for the whole model.
        name: of the folder, in that of the run.
        why_not: in words; empty where it is there.
        why_no_tokenizer: in words, of a vocabulary that became smaller; empty where the tokenizer is there.
    """

    kind: str
    part: str
    name: str
    why_not: str
    why_no_tokenizer: str = ""


def save_pretrained(slimmed: Slim, dense: nn.Module, folder: Path) -> list[Folder]:
    """Write a slim module as `PRETRAINED`, with what lies beside the weights of the dense model, and load it again.

    Of a model that is none of a library but holds some, each of these is written: one as `PRETRAINED`, of several each
    into a folder in it that is called as the part.

    Args:
        slimmed: with a slim module; where there is none, nothing is written.
        dense: the module that it was made of, which knows where it was loaded from.
        folder: of the run.

    Returns:
        What was written, and what was not; empty for models that are not saved like this.

    Raises:
        OSError: the disk is full, say.
    """
    parts = saved_parts(dense if slimmed.module is None else slimmed.module)
    found = []
    for path, part in parts:
        name = PRETRAINED if len(parts) == 1 else f"{PRETRAINED}/{path}"
        why_not = _save_part(part, folder / name) if slimmed.module is not None else slimmed.why_no_module
        why_no_tokenizer = "" if why_not else _copy_beside(dense, path, folder / name)
        found.append(Folder(type(part).__name__, path, name, why_not, why_no_tokenizer))
    return found


def saved_parts(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts of a model that write folders and read them: itself, or the outermost ones that are made from a
    configuration."""
    if saves_itself(module):
        return [("", module)]
    return [(path, part) for path, part in configured_parts(module) if saves_itself(part)]


def _save_part(module: nn.Module, target: Path) -> str:
    """Write a part of a slim model, and load it again; why it cannot be, in words, or empty."""
    if why := why_unsaved(module):
        return why
    own: Any = module
    target.parent.mkdir(exist_ok=True)
    try:
        with quiet("transformers"), redirect_stderr(StringIO()):  # bars of progress
            own.save_pretrained(target)
            again: nn.Module = type(own).from_pretrained(target)
        wrong = _unlike(module, again)
    except OSError:
        raise
    except Exception as error:  # it is the library's, and takes nothing from what is proved
        wrong = in_one_line(error)
    if wrong:
        shutil.rmtree(target, ignore_errors=True)
        return f"what its save_pretrained writes does not come back: {wrong}"
    return ""


def _copy_beside(dense: nn.Module, path: str, target: Path) -> str:
    """Copy what lies beside the weights of a part of the dense model; why there is no tokenizer, where one is due."""
    source = loaded_from(dense.get_submodule(path))
    fewer = fewer_tokens(dense, path)
    for beside in [] if source is None else _beside(source):
        if not (target / beside.name).exists() and not (fewer and is_of_tokenizer(beside.name)):
            shutil.copyfile(beside, target / beside.name)
    return "" if fewer is None else write_tokenizer(source, fewer, target)


def fewer_tokens(model: nn.Module | None, part: str | None = None) -> Declared | None:
    """Which tokens stay of a model's vocabulary, or of one of its parts; None: all."""
    changes = (change for change in declared_of(model) if change.kind == "tokens")
    return next((change for change in changes if part is None or change.part == part), None)


def saves_itself(module: nn.Module) -> bool:
    """Whether a module is of a class that writes folders and reads them."""
    return callable(getattr(module, "save_pretrained", None)) and callable(getattr(module, "from_pretrained", None))


def _unlike(module: nn.Module, again: nn.Module) -> str:
    """What another module has otherwise; empty where it is the same."""
    ours, theirs = module.state_dict(), again.state_dict()
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs:
            return f"{name} is in one of both only"
        if not torch.equal(ours[name].cpu(), theirs[name].to("cpu", ours[name].dtype)):
            return f"{name} has other values"
    return ""


def _beside(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        index = path.name.endswith(".index.json")
        if path.is_file() and path.suffix in _BESIDE and not index and path.name not in (CONFIG, *_OURS):
            yield path
