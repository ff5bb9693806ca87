"""Tensors that a model keeps from an earlier call in plain attributes, such as the tables of a rotary embedding.

A program has such a tensor as a constant, and cuts it as it cuts a buffer; the slim module gets what the slim program
has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from atograph.passes.ir.program import Program
from atograph.repair.observe.problem import Problem
from atograph.repair.observe.traced_ints import Slot, may_hold
from atograph.repair.tensors import named_state

_OF_MODULES = set(vars(nn.Module()))
_MOST = 4
"""How many of them are named."""

AGAIN = "trace a model that was not called before"


def kept_tensors(model: nn.Module) -> list[tuple[Slot, torch.Tensor]]:
    """The tensors in attributes of modules, of objects that they hold, and in lists, tuples and dicts there.

    Parameters and buffers are none of them.
    """
    own = {id(value) for _name, value in named_state(model)}
    seen: set[int] = set()
    kept: list[tuple[Slot, torch.Tensor]] = []
    for name, module in model.named_modules():
        for holder in (module, *filter(may_hold, vars(module).values())):
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            for attribute, value in vars(holder).items():
                if attribute not in _OF_MODULES:
                    kept += _within(value, Slot(name, holder, (attribute,)))
    return [(slot, tensor) for slot, tensor in kept if id(tensor) not in own]


def _within(value: object, slot: Slot) -> Iterator[tuple[Slot, torch.Tensor]]:
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        yield slot, value
    if isinstance(value, (list, tuple, dict)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _within(item, Slot(slot.owner, slot.holder, (*slot.path, key)))


def cut_constants(model: nn.Module, programs: Sequence[tuple[Program, Program]]) -> list[torch.Tensor]:
    """The tensors that a model keeps and of which a slim program has another form.

    Args:
        model: the dense module.
        programs: dense and slim, for each path of its code.
    """
    return [tensor for _slot, tensor in kept_tensors(model) if _slim_form(tensor, programs) is not None]


def replace_kept(module: nn.Module, programs: Sequence[tuple[Program, Program]]) -> list[str]:
    """Put the slim forms in the place of tensors that a copy of the dense module shares with it; in words, which."""
    words = []
    for slot, tensor in kept_tensors(module):
        slim = _slim_form(tensor, programs)
        if slim is not None:
            slot.write(slim.detach().clone())
            sizes = f"{_shape(tensor)} → {_shape(slim)}"
            words.append(
                f"{slot}: a tensor kept from an earlier call, {sizes}; what goes there later was not looked at"
            )
    return words


def old_widths(module: nn.Module, dense: Program, slim: Program) -> list[Problem]:
    """The tensors that a module keeps of a width that is none any more, which may be what does not fit."""
    old = {
        before
        for name, value in slim.state.items()
        if name in dense.state and dense.state[name].ndim == value.ndim
        for before, after in zip(dense.state[name].shape, value.shape, strict=True)
        if before != after
    }
    return [
        Problem(f"{slot} {_shape(tensor)}, kept from an earlier call, may be what does not fit: {AGAIN}", slot.owner)
        for slot, tensor in kept_tensors(module)
        if not old.isdisjoint(tensor.shape)
    ][:_MOST]


def _slim_form(tensor: torch.Tensor, programs: Sequence[tuple[Program, Program]]) -> torch.Tensor | None:
    for dense, slim in programs:
        for name, value in dense.state.items():
            new = slim.state.get(name) if value is tensor else None
            if new is not None and new.shape != tensor.shape:
                return new
    return None


def _shape(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))
