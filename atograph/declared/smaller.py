"""The smaller model of a declared change: made from its configuration with another number, with the rows that stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from atograph.declared.counted import Counted, counted
from atograph.declared.special import with_tokens
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.repair.config import configured, empty_with

_REMEMBERED = "_atograph_declared"
"""Attribute of a model with its changes, as plain text: who unpickles it needs no atograph."""

_CHANGES = TypeAdapter(tuple[Declared, ...])


def declared_of(model: nn.Module | None) -> tuple[Declared, ...]:
    """The changes that a model has gone through, in order."""
    text = None if model is None else vars(model).get(_REMEMBERED)
    return () if text is None else _CHANGES.validate_json(text)


@public("atograph")
def as_declared(model: nn.Module, plan: Plan) -> nn.Module:
    """A dense model without the experts and tokens that the model of a plan has no more; itself where there are none.

    Args:
        model: as it was before; it is left as it is. On the meta device, too.
        plan: made for it without them.

    Raises:
        UserError: it is another model than they were declared for.
    """
    return after(model, plan.declared)


def after(model: nn.Module, changes: Sequence[Declared]) -> nn.Module:
    """A model after some changes, in order; itself where there are none, or it has gone through them.

    Raises:
        UserError: it is another model than they were declared for.
    """
    if declared_of(model) == tuple(changes):
        return model
    for change in changes:
        model = smaller(model, change)
    return model


def smaller(model: nn.Module, change: Declared) -> nn.Module:
    """A new model of what stays, in which every tensor is a copy. It remembers the change.

    Args:
        model: the dense one, which is left as it is; with or without values.
        change: what stays.

    Raises:
        UserError: it is another model than the change is for.
    """
    try:
        part = model.get_submodule(change.part)
    except AttributeError:
        raise _other(change, f"it has no module {change.part}") from None
    found = counted_for(part, change)
    made = _made(part, change, found)
    result = made
    if part is not model:  # what is tied to it stays tied
        dense, own = part.state_dict(keep_vars=True), made.state_dict(keep_vars=True)
        tied = {id(dense[origin]): own[name] for name, origin, _rows in found.origins(list(own), change.kept)}
        result = copy.deepcopy(model, {id(part): made, **tied})
    text = _CHANGES.dump_json((*declared_of(model), change)).decode()
    vars(result)[_REMEMBERED] = text
    return result


def counted_for(part: nn.Module, change: Declared) -> Counted:
    """What a declared change is about, in a module with a configuration.

    Raises:
        UserError: it is another model than the change is for.
    """
    found: Counted | str = "it is not made from a configuration"
    if configured(part) is not None:
        found = counted(part, change.field, change.size, change.count)
    if isinstance(found, str):
        raise _other(change, found or f"{change.field} of its configuration counts nothing of the kind")
    if change.kind == "experts" and set(found.blocks()) != set(change.kept):
        raise _other(change, f"its mixtures are {', '.join(found.blocks())}")
    sizes = part.state_dict()
    if any(sizes[name].shape[found.dims.get(name, 0)] != change.size * each for name, each in found.rows.items()):
        raise _other(change, f"{change.field} is another number here")
    return found


def _other(change: Declared, why: str) -> UserError:
    return UserError(f"this is another model than the one of which {change} were kept: {why}.")


def _made(part: nn.Module, change: Declared, found: Counted) -> nn.Module:
    """The module with a configuration, anew."""
    numbers: dict[str, Any] = {change.field: change.count}
    if change.kind == "tokens":
        numbers |= with_tokens(vars(part)["config"], change.kept[""])
    made = empty_with(type(part), vars(part)["config"], numbers)
    _take_values(part, made, found, change.kept)
    _take_the_rest(part, made)
    generation = getattr(part, "generation_config", None)
    if generation is not None:
        own = copy.deepcopy(generation)
        for name, value in with_tokens(own, change.kept[""]).items() if change.kind == "tokens" else ():
            setattr(own, name, value)
        vars(made)["generation_config"] = own
    return made


def _take_values(part: nn.Module, made: nn.Module, found: Counted, kept: Mapping[str, Sequence[int]]) -> None:
    """Copy parameters and buffers, the rows that stay; tied ones stay tied."""
    dense = part.state_dict(keep_vars=True)
    cut: dict[tuple[int, tuple[int, ...] | None], torch.Tensor] = {}
    state = {}
    for name, origin, rows in found.origins(list(made.state_dict()), kept):
        tensor = dense[origin]
        key = (id(tensor), None if rows is None else tuple(rows.tolist()))
        if key not in cut:
            value = tensor.detach()
            dim = found.dims.get(origin, 0)
            value = value.clone() if rows is None else value.index_select(dim, rows.to(value.device))
            is_parameter = isinstance(tensor, nn.Parameter)
            cut[key] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
        state[name] = cut[key]
    trained = {name: tensor.requires_grad for name, tensor in state.items()}
    made.load_state_dict(state, assign=True)
    for name, tensor in made.state_dict(keep_vars=True).items():
        tensor.requires_grad_(trained[name])


def _take_the_rest(part: nn.Module, made: nn.Module) -> None:
    """Copy what no file of weights holds: buffers that are computed, tensors in attributes, who trains."""
    theirs = dict(part.named_modules())
    saved = made.state_dict(keep_vars=True)
    held = {id(tensor) for tensor in saved.values()}
    for name, module in made.named_modules():
        other = theirs.get(name)
        if other is None:
            continue
        module.training = other.training
        for values, own in ((vars(module)["_buffers"], vars(other)["_buffers"]), (vars(module), vars(other))):
            for attribute, value in values.items():
                before = own.get(attribute)
                if isinstance(value, torch.Tensor) and id(value) not in held and isinstance(before, torch.Tensor):
                    if value.shape != before.shape:
                        where = f"{name}.{attribute}" if name else attribute
                        raise UserError(f"{where} changes with the configuration, and no file of weights holds it.")
                    values[attribute] = before.detach().clone()
