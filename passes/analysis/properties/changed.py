"""Tensors of a program with the units of a group in another order, or on another scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from atograph.passes.analysis.properties.group import Group
from atograph.passes.analysis.properties.known import Member
from atograph.passes.errors import UserError
from atograph.passes.public import public

State = Mapping[str, torch.Tensor]
"""Tensors by their names in the user's model."""


@public("atograph")
def reordered(group: Group, state: State, order: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a state that hold the units of a group, with these in another order: unit ``u`` is then what unit
    ``order[u]`` was.

    Args:
        group: whose units.
        state: parameters and buffers.
        order: int64 ``[group.size]``, each unit once.

    Returns:
        new tensors, for ``model.load_state_dict(..., strict=False)``.

    Raises:
        UserError: the group is not permutable, or that is no order of its units.
    """
    if not group.permutable:
        raise UserError(f"the units of group {group.name} cannot be reordered: {group.permutable.reason}.")
    if order.dtype != torch.int64 or not torch.equal(order.sort().values.cpu(), torch.arange(group.size)):
        raise UserError(f"an order of group {group.name} holds each of the units 0 to {group.size - 1} once.")
    changed: dict[str, torch.Tensor] = {}
    for name, dim in (*group.members, *group.buffers):
        value, order = changed.get(name, state[name]), order.to(state[name].device)
        index = torch.arange(value.shape[dim], device=value.device)
        for part in group.slices((name, dim)):
            places = part.indices.to(value.device)
            index[places] = places[order]
        changed[name] = value.detach().index_select(dim, index)
    return changed


@public("atograph")
def scaled(group: Group, state: State, factors: torch.Tensor, member: Member | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a state that are scaled along the units of a group so that no output changes.

    Args:
        group: whose units.
        state: parameters.
        factors: ``[group.size]``, the positive s of each unit.
        member: what is scaled by s (`Group.scaling`); None: what makes the units, and its readers by 1/s.

    Returns:
        new tensors, for ``model.load_state_dict(..., strict=False)``.

    Raises:
        UserError: no such scales are known, or a factor is not positive and finite.
    """
    if tuple(factors.shape) != (group.size,) or not bool(((factors > 0) & factors.isfinite()).all()):
        raise UserError(f"the scales of group {group.name} are {group.size} positive finite numbers.")
    changed: dict[str, torch.Tensor] = {}
    for (name, dim), power in group.scaling(member).items():
        value = changed.get(name, state[name]).detach()
        along = torch.ones(value.shape[dim], dtype=value.dtype, device=value.device)
        for part in group.slices((name, dim)):
            along *= part.mask(factors.to(along) ** power)
        shape = [-1 if each == dim else 1 for each in range(value.dim())]
        changed[name] = value * along.view(shape)
    return changed
