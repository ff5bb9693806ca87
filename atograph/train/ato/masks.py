"""Masks on parameters: all units of all families as one flat vector, and where each of them sits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atograph.passes.analysis.slices import norms_along
from atograph.passes.errors import InternalError
from atograph.train.interfaces import Group, Plan


@dataclass(frozen=True)
class Site:
    """One dimension of a parameter; ``index`` LongTensor[shape[dim]], the flat unit or ``total`` for none."""

    dim: int
    index: Tensor


class UnitMap:
    """The units of all prunable groups, numbered through from 0 to ``total`` - 1 in the groups' order.

    Attributes:
        names, sizes: the groups'; ``sized`` has both.
        total: number of units.
        family: LongTensor[total], the group (by position) of each unit.
        sites: where the units are, per parameter name: the union of the zeroing sets.
    """

    def __init__(self, groups: Iterable[Group], model: nn.Module, device: torch.device) -> None:
        groups = list(groups)
        self.names = tuple(group.name for group in groups)
        self.sizes = tuple(group.size for group in groups)
        self.sized = dict(zip(self.names, self.sizes, strict=True))
        self.total = sum(self.sizes)
        self.family = torch.repeat_interleave(torch.tensor(self.sizes, dtype=torch.long)).to(device)
        known = dict(model.named_parameters(remove_duplicate=False))
        first = {id(parameter): name for name, parameter in model.named_parameters()}  # one name for tied weights
        found: dict[tuple[str, int], list[Tensor]] = {}
        offset = 0
        for group in groups:
            for piece in group.zeroing:
                shape = known[piece.parameter].shape if piece.parameter in known else torch.Size()
                if piece.dim >= len(shape) or len(piece.units) != shape[piece.dim]:
                    raise InternalError(
                        f"{group.name}: no dimension {piece.dim} of {len(piece.units)} indices in {piece.parameter}."
                    )
                units = piece.units.cpu()
                index = torch.where(units >= 0, units + offset, self.total)
                name = first[id(known[piece.parameter])]
                _merge(found.setdefault((name, piece.dim), []), index, self.total)
            offset += group.size
        self.sites: dict[str, list[Site]] = {}
        for (parameter, dim), indices in found.items():
            self.sites.setdefault(parameter, []).extend(Site(dim, index.to(device)) for index in indices)
        self.parameters: dict[str, nn.Parameter] = {name: known[name] for name in self.sites}
        # all sites in a row, so that a few operations serve all of them
        self._row = [(self.parameters[name], site) for name, sites in self.sites.items() for site in sites]
        self._lengths = [len(site.index) for _parameter, site in self._row]
        self._index = torch.cat([site.index for _parameter, site in self._row]) if self._row else self.family

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat vector [total], cut into one of [size] per group."""
        return dict(zip(self.names, torch.split(flat, list(self.sizes)), strict=True))

    def mask_of(self, plan: Plan) -> Tensor:
        """The plan as a flat mask [total] of 0. and 1."""
        mask = torch.ones(self.total)
        for name, part in self.split(mask).items():
            if name in plan.kept:
                part.zero_()
                part[list(plan.kept[name])] = 1.0
        return mask.to(self.family.device)

    def masked(self, mask: Tensor) -> dict[str, Tensor]:
        """Every parameter of the zeroing sets times its mask; differentiable in ``mask`` only."""
        return {
            name: self._times(parameter.detach(), name, _padded(mask, 1.0))
            for name, parameter in self.parameters.items()
        }

    @torch.no_grad()
    def scale_(self, factor: Tensor) -> None:
        """Multiply every unit's slices in place by its factor, [total]."""
        if not self._row:
            return
        along = torch.split(_padded(factor, 1.0)[self._index], self._lengths)
        torch._foreach_mul_(
            [parameter for parameter, _site in self._row],
            [
                _shaped(each, site.dim, parameter.ndim).to(parameter.dtype)
                for each, (parameter, site) in zip(along, self._row, strict=True)
            ],
        )

    @torch.no_grad()
    def squared_norms(self) -> Tensor:
        """Tensor[total]: the sum of squares over all of a unit's slices (‖x_g‖² of its ZIG)."""
        sums = torch.zeros(self.total + 1, device=self.family.device)
        if self._row:
            norms = [norms_along(parameter, site.dim).float() for parameter, site in self._row]
            sums.index_add_(0, self._index, torch.cat(norms).square())
        return sums[:-1]

    @torch.no_grad()
    def products(self) -> tuple[Tensor, Tensor]:
        """Tensor[total]: Σ w · ∂L/∂w over all of a unit's slices whose parameters have a gradient; whether any has."""
        sums, known = torch.zeros((2, self.total + 1), device=self.family.device)
        if self._row:
            found = [_products(parameter, site.dim) for parameter, site in self._row]
            sums.index_add_(0, self._index, torch.cat(found))
            has = [float(parameter.grad is not None) for parameter, _site in self._row]
            lengths = torch.tensor(self._lengths, device=sums.device)
            known.index_add_(0, self._index, torch.repeat_interleave(torch.tensor(has, device=sums.device), lengths))
        return sums[:-1], known[:-1] > 0

    def _times(self, value: Tensor, name: str, mask: Tensor) -> Tensor:
        for site in self.sites[name]:
            value = value * _shaped(mask[site.index], site.dim, value.ndim).to(value.dtype)
        return value


def _merge(indices: list[Tensor], new: Tensor, none: int) -> None:
    """Put ``new`` into a stored index that it does not overlap with, or else store it beside them."""
    for position, old in enumerate(indices):
        if not ((old != none) & (new != none)).any():
            indices[position] = torch.where(new != none, new, old)
            return
    indices.append(new)


def _padded(flat: Tensor, value: float) -> Tensor:
    return torch.cat([flat, flat.new_full((1,), value)])


def _shaped(vector: Tensor, dim: int, ndim: int) -> Tensor:
    """[n] as [1, .., n, .., 1] with n at ``dim``."""
    return vector.reshape([-1 if axis == dim else 1 for axis in range(ndim)])


def _products(parameter: nn.Parameter, dim: int) -> Tensor:
    """float32 [n]: the sum of w · ∂L/∂w over all dimensions but ``dim``."""
    if parameter.grad is None:
        return torch.zeros(parameter.shape[dim], device=parameter.device)
    products = parameter * parameter.grad
    others = [axis for axis in range(parameter.ndim) if axis != dim]
    return (products.sum(dim=others) if others else products).float()
