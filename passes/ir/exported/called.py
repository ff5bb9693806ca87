"""An exported program as a module that runs, whatever the parts of the model are called.

torch writes names into Python code (``self.parts.in.weight``), on a module that has names of its own (``code``).
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature

from atograph.passes.ir.exported.edits import rebuilt


def module_of(exported: ExportedProgram) -> nn.Module:
    """``exported.module(check_guards=False)``, for all names.

    A part that cannot be called as it is gets ``_`` behind its name: ``parts.in_.weight``. In ``state_dict()``, and for
    ``load_state_dict``, it has the model's own.
    """
    names = unwritable(exported)
    if not names:
        return exported.module(check_guards=False)
    signature = exported.graph_signature
    renamed = rebuilt(
        exported,
        graph_signature=ExportGraphSignature(
            [replace(spec, target=names.get(spec.target, spec.target)) for spec in signature.input_specs],
            [replace(spec, target=names.get(spec.target, spec.target)) for spec in signature.output_specs],
        ),
        state_dict={names.get(name, name): value for name, value in exported.state_dict.items()},
        constants={names.get(name, name): value for name, value in exported.constants.items()},
    )
    module: nn.Module = renamed.module(check_guards=False)
    back = {new: old for old, new in names.items()}
    hooks: Any = module  # torch has no types for them
    hooks.register_state_dict_post_hook(lambda _module, state, prefix, _metadata: _rename(state, prefix, back))
    hooks.register_load_state_dict_pre_hook(lambda _module, state, prefix, *_: _rename(state, prefix, names))
    return module


def unwritable(exported: ExportedProgram) -> dict[str, str]:
    """Each name of a tensor that torch cannot write, and one like it that it can."""
    known = [*exported.state_dict, *exported.constants]
    parts_known = {part for name in known for part in name.split(".")}
    ending = next(
        end for end in ("_" * count for count in range(1, 100)) if not any(p.endswith(end) for p in parts_known)
    )
    names: dict[str, str] = {}
    for name in known:
        parts = name.split(".")
        if any(_is_taken(part, at) for at, part in enumerate(parts)):
            names[name] = ".".join(f"{part}{ending}" if _is_taken(part, at) else part for at, part in enumerate(parts))
    return names


def _is_taken(part: str, at: int) -> bool:
    return keyword.iskeyword(part) or (at == 0 and part in _own_names())


@cache
def _own_names() -> frozenset[str]:
    """What a graph module has, so that no part of it can be called so."""
    return frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def _rename(state: Any, prefix: str, names: Mapping[str, str]) -> None:
    found = {prefix + old: prefix + new for old, new in names.items()}
    for name in [name for name in state if name in found]:
        value: torch.Tensor = state.pop(name)
        state[found[name]] = value
