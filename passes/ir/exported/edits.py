"""The same exported program with something changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace

import torch
from torch.export import ExportedProgram

from atograph.passes.torch_private import pytree


def with_plain_outputs(exported: ExportedProgram) -> ExportedProgram:
    """The same program with dicts for the dataclasses and named tuples that it returns: no class is needed to load it.

    What it returns in a container of another kind stays as it is.
    """
    entry = exported.module_call_graph[0]
    if entry.signature is None or entry.signature.out_spec is None:
        return exported
    out_spec = entry.signature.out_spec
    places = list(range(out_spec.num_leaves))
    plain, spec = pytree.tree_flatten(_plain(pytree.tree_unflatten(places, out_spec)))
    if plain != places or spec == out_spec:
        return exported
    calls = [replace(entry, signature=replace(entry.signature, out_spec=spec)), *exported.module_call_graph[1:]]
    return rebuilt(exported, module_call_graph=calls)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: _plain(item) for name, item in zip(value._fields, value, strict=True)}
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: getattr(value, each.name) for each in fields(value)}
        return {name: _plain(item) for name, item in held.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def with_state(exported: ExportedProgram, state: Mapping[str, torch.Tensor], example: object) -> ExportedProgram:
    """The same program with other tensors in the place of some of its own, and other example inputs."""
    return rebuilt(
        exported,
        state_dict={**exported.state_dict, **_only(state, exported.state_dict)},
        constants={**exported.constants, **_only(state, exported.constants)},
        example_inputs=example,
    )


def rebuilt(exported: ExportedProgram, **changed: object) -> ExportedProgram:
    """The same program with some of what its constructor takes changed."""
    same = {
        "root": exported.graph_module,
        "graph": exported.graph,
        "graph_signature": exported.graph_signature,
        "state_dict": exported.state_dict,
        "range_constraints": exported.range_constraints,
        "module_call_graph": exported.module_call_graph,
        "example_inputs": exported.example_inputs,
        "constants": exported.constants,
        "verifiers": exported.verifiers,
    }
    return ExportedProgram(**{**same, **changed})


def _only(values: Mapping[str, torch.Tensor], names: Collection[str]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in values.items() if name in names}
