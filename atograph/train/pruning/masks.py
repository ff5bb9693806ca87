"""Masks on the parameters of a module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atograph.passes.criteria.units import Group, Units
from atograph.passes.public import public
from atograph.train.interfaces import Plan


@public("atograph.train")
class UnitMap(Units):
    """The units of all prunable groups, in the parameters of a module.

    Attributes:
        parameters: those in which there are units, of tied ones under the first name.
    """

    def __init__(self, groups: Iterable[Group], model: nn.Module, device: torch.device) -> None:
        known = dict(model.named_parameters(remove_duplicate=False))
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        super().__init__(groups, known, device, {name: first[id(parameter)] for name, parameter in known.items()})
        self.parameters: dict[str, nn.Parameter] = {name: known[name] for name in self.indices}

    def mask_of(self, plan: Plan) -> Tensor:
        """The plan as a flat mask ``[total]`` of 0. and 1."""
        mask = torch.ones(self.total)
        for name, part in self.split(mask).items():
            if name in plan.kept:
                part.zero_()
                part[list(plan.kept[name])] = 1.0
        return mask.to(self.family.device)

    def masked(self, mask: Tensor, *, changed: bool = False) -> dict[str, Tensor]:
        """Every parameter of the zeroing sets times its mask; differentiable in ``mask`` only.

        Args:
            mask: ``[total]``.
            changed: only the parameters in which the mask is not 1 everywhere.
        """
        mask = _padded(mask, 1.0)
        return {
            name: self._times(value.detach(), name, mask)
            for name, value in self.tensors.items()
            if not changed or any(bool((mask[at.index] != 1).any()) for at in self.indices[name])
        }

    @torch.no_grad()
    def scale_(self, factor: Tensor) -> None:
        """Multiply every unit's slices in place by its factor, ``[total]``."""
        if not self._row:
            return
        along = torch.split(_padded(factor, 1.0)[self._index], self._lengths)
        parameters = [self.tensors[name] for name, _at in self._row]
        factors = [
            _shaped(each, at.dim, parameter.ndim).to(parameter.dtype)
            for each, parameter, (_name, at) in zip(along, parameters, self._row, strict=True)
        ]
        torch._foreach_mul_(parameters, factors)

    @torch.no_grad()
    def hide_(self, factor: Tensor) -> list[Tensor]:
        """`scale_`, and what that took away: added to the scaled parameters it gives them back, bit for bit where
        factors are 0 or 1."""
        parameters: list[Tensor] = [*self.tensors.values()]
        taken = [parameter.detach().clone() for parameter in parameters]
        self.scale_(factor)
        torch._foreach_sub_(taken, parameters)
        return taken

    @torch.no_grad()
    def show_(self, taken: list[Tensor], factor: Tensor) -> None:
        """Give back what `hide_` took at the same factors; the rest may have changed in between."""
        self.scale_(factor)
        torch._foreach_add_([*self.tensors.values()], taken)

    def _times(self, value: Tensor, name: str, mask: Tensor) -> Tensor:
        for at in self.indices[name]:
            value = value * _shaped(mask[at.index], at.dim, value.ndim).to(value.dtype)
        return value


@dataclass(frozen=True)
class UnderMask:
    """The units that a mask keeps, as a plan tells them (`train.interfaces.Plan`)."""

    kept: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, units: UnitMap, mask: Tensor) -> UnderMask:
        """Of a flat mask ``[total]`` of 0 and 1."""
        parts = units.split(mask.cpu()).items()
        return cls({name: tuple(part.nonzero().flatten().tolist()) for name, part in parts})


def _padded(flat: Tensor, value: float) -> Tensor:
    return torch.cat([flat, flat.new_full((1,), value)])


def _shaped(vector: Tensor, dim: int, ndim: int) -> Tensor:
    """``[n]`` as ``[1, .., n, .., 1]`` with n at ``dim``."""
    return vector.reshape([-1 if axis == dim else 1 for axis in range(ndim)])
