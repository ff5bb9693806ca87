"""All units of all prunable groups in a row, and where each of them sits in tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from atograph.passes.analysis.slices import norms_along
from atograph.passes.errors import InternalError
from atograph.passes.public import public


class Slice(Protocol):
    """One parameter dimension of a group's zeroing set (`passes.analysis.slices.Slice`)."""

    @property
    def parameter(self) -> str:
        """Its fully qualified name."""

    @property
    def dim(self) -> int:
        """The dimension that the units lie along."""

    @property
    def units(self) -> Tensor:
        """int64 ``[shape[dim]]``: the unit that each index belongs to, -1 where it belongs to none."""


class Group(Protocol):
    """A family of zero-invariant groups: the units of one axis (`passes.analysis.properties.group.Group`)."""

    @property
    def name(self) -> str:
        """Short and unique within the graph."""

    @property
    def size(self) -> int:
        """How many units."""

    @property
    def zeroing(self) -> Sequence[Slice]:
        """The parameter slices that are zero when a unit is removed."""


@dataclass(frozen=True)
class UnitIndex:
    """One dimension of a tensor; ``index`` int64 ``[shape[dim]]``, the flat unit or ``total`` for none."""

    dim: int
    index: Tensor


@public("atograph.passes")
class Units:
    """The units of some groups, numbered through from 0 to ``total`` - 1 in the groups' order.

    Attributes:
        names, sizes: the groups'; ``sized`` has both.
        total: number of units.
        family: int64 ``[total]``, the group (by position) of each unit.
        indices: where the units are, per tensor: the union of the zeroing sets.
        tensors: name → tensor, of those in which there are units; of tied ones under one name.

    Args:
        groups: prunable ones.
        tensors: parameters by name; each that is needed is looked up once.
        device: where sums and indices are to be.
        aliases: of tied parameters, each name → the one that it goes by.
    """

    def __init__(
        self,
        groups: Iterable[Group],
        tensors: Mapping[str, Tensor],
        device: torch.device,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        groups = list(groups)
        self.names = tuple(group.name for group in groups)
        self.sizes = tuple(group.size for group in groups)
        self.sized = dict(zip(self.names, self.sizes, strict=True))
        self.total = sum(self.sizes)
        self.family = torch.repeat_interleave(torch.tensor(self.sizes, dtype=torch.long)).to(device)
        aliases = aliases or {}
        self.tensors: dict[str, Tensor] = {}
        indices: dict[tuple[str, int], list[Tensor]] = {}
        self._slices: dict[str, list[tuple[str, int, Tensor]]] = {}
        offset = 0
        for group in groups:
            for part in group.zeroing:
                name = aliases.get(part.parameter, part.parameter)
                if name not in self.tensors:
                    with suppress(KeyError):
                        self.tensors[name] = tensors[name]
                shape = self.tensors[name].shape if name in self.tensors else torch.Size()
                if part.dim >= len(shape) or len(part.units) != shape[part.dim]:
                    raise InternalError(
                        f"{group.name}: no dimension {part.dim} of {len(part.units)} indices in {part.parameter}."
                    )
                units = part.units.cpu()
                self._slices.setdefault(group.name, []).append((name, part.dim, units))
                index = torch.where(units >= 0, units + offset, self.total)
                _merge(indices.setdefault((name, part.dim), []), index, self.total)
            offset += group.size
        self.indices: dict[str, list[UnitIndex]] = {}
        for (name, dim), several in indices.items():
            self.indices.setdefault(name, []).extend(UnitIndex(dim, index.to(device)) for index in several)
        # all indices in a row, so that a few operations serve all of them
        self._row = [(name, at) for name, indices in self.indices.items() for at in indices]
        self._lengths = [len(at.index) for _name, at in self._row]
        self._index = torch.cat([at.index for _name, at in self._row]) if self._row else self.family

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat vector ``[total]``, cut into one of ``[size]`` per group."""
        return dict(zip(self.names, torch.split(flat, list(self.sizes)), strict=True))

    def everywhere(self, sums: Tensor) -> Tensor:
        """Sums over what is here, made sums over all that there is: over other processes' parts of sharded tensors."""
        return sums

    def _counted(self, name: str, at: UnitIndex) -> bool:
        """Whether a tensor's dimension that is here is counted here."""
        return True

    @torch.no_grad()
    def squared_norms(self) -> Tensor:
        """``[total]``: the sum of squares over all of a unit's slices, ‖x_g‖² of its zero-invariant group."""
        norms = [norms_along(self.tensors[name], at.dim) for name, at in self._row]
        return self._added(norms, square=True)

    @torch.no_grad()
    def sums(self, of: Callable[[str, Tensor], Tensor | None]) -> tuple[Tensor, Tensor]:
        """Elementwise values of the tensors, summed over each unit's slices.

        Args:
            of: takes a tensor's name and the tensor, in float32 where its own type is less precise; gives values of the
                same shape, or None for a tensor that has none, which then counts as zero.

        Returns:
            The sums, ``[total]``; how many slices of each unit had values, int64 ``[total]``.
        """
        along: list[Tensor] = []
        has: list[int] = []
        for name, indices in self.indices.items():  # one at a time: the values of a large model are as large as it is
            values = of(name, _precise(self.tensors[name]))
            for at in indices:
                along.append(_summed(values, at.dim, len(at.index)))
                has.append(int(values is not None and self._counted(name, at)))
        counts = self.family.new_zeros(self.total + 1)
        if self._row:
            device = self.family.device
            spread = torch.repeat_interleave(torch.tensor(has, device=device), torch.tensor(self._lengths).to(device))
            counts.index_add_(0, self._index, spread)
        return self._added(along), self.everywhere(counts)[:-1]

    def rows(self, group: str) -> Iterator[Tensor]:
        """Each slice of a group as ``[size, n]``: a row for each unit, with all that belongs to it there."""
        for name, dim, units in self._slices.get(group, ()):
            order = torch.argsort(units, stable=True)[int((units < 0).sum()) :]
            values = self.tensors[name].detach().movedim(dim, 0)
            rows = values[order.to(values.device)].reshape(self.sized[group], -1)
            yield rows.to(self.family.device)

    def relative(self, values: Tensor) -> Tensor:
        """Values over the mean of their group, so that groups of different make can be compared; ``[total]``.

        Source: the normalisation of DepGraph (Fang et al., CVPR 2023, arXiv 2301.12900), by the mean.
        """
        sums = values.new_zeros(len(self.sizes)).index_add_(0, self.family, values)
        means = sums / torch.tensor(self.sizes, dtype=values.dtype, device=values.device).clamp(min=1)
        return values / means.clamp(min=torch.finfo(values.dtype).tiny)[self.family]

    @property
    def _precise(self) -> torch.dtype:
        return torch.float32 if self.family.device.type == "mps" else torch.float64

    def _added(self, along: Sequence[Tensor], *, square: bool = False) -> Tensor:
        """Values along each index of the row, added up by unit."""
        sums = torch.zeros(self.total + 1, dtype=self._precise, device=self.family.device)
        if along:
            values = torch.cat([each.to(sums) for each in along])
            sums.index_add_(0, self._index, values.square() if square else values)
        return self.everywhere(sums)[:-1]


def _precise(value: Tensor) -> Tensor:
    """A tensor of floating point in float32, or in what is more precise."""
    return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value


def _summed(values: Tensor | None, dim: int, length: int) -> Tensor:
    """``[length]``: the sum over all dimensions but ``dim``."""
    if values is None:
        return torch.zeros(length)
    others = [axis for axis in range(values.ndim) if axis != dim]
    return values.sum(dim=others) if others else values


def _merge(indices: list[Tensor], new: Tensor, none: int) -> None:
    """Put ``new`` into a stored index that it does not overlap with, or else store it beside them."""
    for position, old in enumerate(indices):
        if not ((old != none) & (new != none)).any():
            indices[position] = torch.where(new != none, new, old)
            return
    indices.append(new)
