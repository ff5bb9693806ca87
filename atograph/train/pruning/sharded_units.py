"""Units of a module whose parameters are sharded over processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atograph.passes.criteria.units import Group, Slice, UnitIndex, Units
from atograph.passes.errors import UserError
from atograph.train.processes.replicas import Replicas
from atograph.train.pruning.masks import UnitMap
from atograph.train.saved.weights import is_sharded, local


def units_in(groups: Iterable[Group], model: nn.Module, device: torch.device, replicas: Replicas) -> UnitMap:
    """The units of some groups in a module, whole or sharded."""
    if any(is_sharded(parameter) for parameter in model.parameters()):
        return ShardedUnits(groups, model, device, replicas)
    return UnitMap(groups, model, device)


class ShardedUnits(UnitMap):
    """The units in the parts that this process holds; norms and sums are those over all processes.

    ``tensors`` are these parts, and `masked` gives parts. All processes have to ask at the same time.

    Args:
        groups, device: as for `UnitMap`.
        model: with parameters that are split along one dimension each (`torch.distributed.fsdp.fully_shard`).
        replicas: the processes.
    """

    def __init__(self, groups: Iterable[Group], model: nn.Module, device: torch.device, replicas: Replicas) -> None:
        self._replicas = replicas
        known = dict(model.named_parameters(remove_duplicate=False))
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        places = {name: _Place.of(parameter) for name, parameter in known.items()}
        here = [_Here(each.name, each.size, [_part(one, places) for one in each.zeroing]) for each in groups]
        parts = {name: local(parameter.detach()) for name, parameter in known.items()}
        Units.__init__(self, here, parts, device, {name: first[id(parameter)] for name, parameter in known.items()})
        self._split_along = {name: place.dim for name, place in places.items()}
        self.parameters = {name: known[name] for name in self.indices}

    def everywhere(self, sums: Tensor) -> Tensor:
        """Sums over all processes."""
        self._replicas.sum_(sums)
        return sums

    def rows(self, group: str) -> Iterator[Tensor]:
        """They are nowhere as a whole.

        Raises:
            UserError: always.
        """
        raise UserError(
            "this criterion compares whole units with each other, whose parts are in several processes.",
            hint="Leave out --shard, or use another criterion: magnitude, taylor, lamp.",
        )

    def _counted(self, name: str, at: UnitIndex) -> bool:
        return at.dim == self._split_along[name] or not self._replicas.rank


@dataclass(frozen=True)
class _Place:
    """The indices from ``start`` to ``stop`` along a dimension are in this process; None: all of it is."""

    dim: int | None = None
    start: int = 0
    stop: int = 0

    @classmethod
    def of(cls, parameter: Tensor) -> _Place:
        """As `torch.chunk` splits."""
        if not is_sharded(parameter):
            return cls()
        sharded: Any = parameter
        mesh, (placement,) = sharded.device_mesh, sharded.placements
        length = parameter.shape[placement.dim]
        chunk = -(-length // mesh.size())
        start = min(mesh.get_local_rank() * chunk, length)
        return cls(placement.dim, start, min(start + chunk, length))


@dataclass(frozen=True)
class _Here:
    """A group, as far as it is in this process."""

    name: str
    size: int
    zeroing: Sequence[Slice]


@dataclass(frozen=True)
class _Part:
    """A slice, as far as it is in this process."""

    parameter: str
    dim: int
    units: Tensor


def _part(whole: Slice, places: dict[str, _Place]) -> Slice:
    place = places[whole.parameter]
    units = whole.units[place.start : place.stop] if place.dim == whole.dim else whole.units
    return _Part(whole.parameter, whole.dim, units)
