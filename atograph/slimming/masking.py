"""Masking: the dense model with a plan's zeroing sets at zero, the reference that a slim model must equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from atograph.capture.model_state import current_state
from atograph.capture.standing_in import stand_in, standing_in
from atograph.files.mapped import tensors_aside
from atograph.passes.errors import UserError
from atograph.passes.ir.values import require_values
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.values.eval_mode import copy_of
from atograph.values.user_code import kind_of

M = TypeVar("M", bound=nn.Module)


@public("atograph")
def mask(model: M, plan: Plan) -> M:
    """A copy of the model in which every slice that the plan drops is zero.

    Args:
        model: the model that the plan was made for; it is left as it is.
        plan: which units stay.

    Raises:
        UserError: the model has no such parameters, or they are on the meta device.
    """
    if not isinstance(model, nn.Module) or not isinstance(plan, Plan):
        raise UserError(f"mask takes a model and a plan, not {kind_of(model)} and {kind_of(plan)}.")
    masked = copy_of(model)
    zero_(masked, plan)
    return masked


class Masked(nn.Module):
    """A model that runs with every slice that a plan drops at zero: it shares with the model all but these parameters.

    Args:
        model: the model that the plan was made for; it is left as it is.
        plan: which units stay.

    Raises:
        UserError: as `mask`.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.model = model
        parameters = current_state(model)
        names = {part.parameter for slices in plan.zeroing.values() for part in slices}
        copies = {id(parameters[name]): parameters[name].detach().clone() for name in names if name in parameters}
        self._own = {name: copies[id(parameters[name])] for name in names if name in parameters}
        _zero(parameters | self._own, plan)

    def forward(self, *args: object, **kwargs: object) -> object:
        """What the masked model gives."""
        return torch.func.functional_call(self.model, self._own, args, kwargs)


@contextmanager
def masked_aside(model: nn.Module, plan: Plan) -> Iterator[None]:
    """The model itself with every slice that a plan drops at zero while the block runs, in a temporary file and not in
    memory (`tensors_aside`).

    Args:
        model: the model that the plan was made for; in the end it has its own parameters again.
        plan: which units stay.

    Raises:
        UserError: as `mask`; or the disk has no room for such a file.
    """
    parameters = current_state(model)
    names = {part.parameter for slices in plan.zeroing.values() for part in slices if part.parameter in parameters}
    first = {id(parameters[name]): name for name in names}  # of tied ones
    aside = tensors_aside({name: parameters[name] for name in first.values()})
    with torch.no_grad():
        for name, value in aside.items():
            value.copy_(parameters[name])
    _zero(parameters | {name: aside[first[id(parameters[name])]] for name in names}, plan)
    others = {own: stand_in(parameters[name], aside[name]) for own, name in first.items()}
    with standing_in(model, others):
        yield


def zero_(model: nn.Module, plan: Plan) -> None:
    """Set every slice that the plan drops to zero, in place; nothing changes if the plan does not fit the model.

    Raises:
        UserError: the model has no such parameters, or they are on the meta device.
    """
    _zero(current_state(model), plan)


@torch.no_grad()
def _zero(parameters: Mapping[str, torch.Tensor], plan: Plan) -> None:
    for part in (part for slices in plan.zeroing.values() for part in slices):
        found = parameters.get(part.parameter)
        if found is None:
            raise UserError(f"the plan is for another model: there is no parameter {part.parameter} here.")
        if found.dim() <= part.dim or found.shape[part.dim] != part.length:
            raise UserError(
                f"the plan is for another model: {part.parameter} has shape {tuple(found.shape)}, the plan has "
                f"{part.length} at dimension {part.dim}."
            )
    require_values(parameters, "masking sets weights to zero and needs their values")
    parts = [(part, plan.mask(name)) for name, slices in plan.zeroing.items() for part in slices]
    for part, units in parts:
        if not bool(units.all()):
            parameter = parameters[part.parameter]
            shape = [-1 if d == part.dim else 1 for d in range(parameter.dim())]
            along = part.mask(units).to(parameter.device).reshape(shape)
            parameter.masked_fill_(along == 0, 0.0)
