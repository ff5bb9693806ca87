"""Which part of a parameter belongs to which unit of a group: data that a plan file can carry."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]


class Slice(BaseModel):
    """The indices of one parameter dimension that belong to a group.

    Unit ``u`` of the group lies at ``offset + o * stride + p * inner + i`` for every ``o < outer`` and ``i < inner``,
    where ``p`` is ``positions[u]``, or ``u`` itself where there are no positions.

    Attributes:
        parameter: its name in the user's model.
        dim: the dimension that carries the group's axis.
        length: size of that dimension.
        size: number of units of the group.
        offset, outer, stride, inner, positions: where the units lie, see above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    parameter: str
    dim: _Count
    length: _Positive
    size: _Positive
    offset: _Count = 0
    outer: _Positive = 1
    stride: _Positive
    inner: _Positive = 1
    positions: tuple[_Count, ...] | None = None

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.positions is not None and len(self.positions) != self.size:
            raise ValueError("not one position for each unit")
        if self.positions is not None and len(set(self.positions)) != self.size:
            raise ValueError("units overlap")
        block = (self.size if self.positions is None else max(self.positions) + 1) * self.inner
        if self.outer > 1 and self.stride < block:
            raise ValueError("units overlap")
        if self.offset + (self.outer - 1) * self.stride + block > self.length:
            raise ValueError("units lie outside of the dimension")
        return self

    @model_serializer(mode="wrap")
    def _without_positions(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = serialise(self)
        if self.positions is None:  # nearly always
            del fields["positions"]
        return fields

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        for name, value in super().__repr_args__():
            if name != "positions" or value is not None:  # the fingerprint of a plan is made of this
                yield name, value

    @property
    def units(self) -> torch.Tensor:
        """int64 ``[length]``: the unit that each index belongs to, -1 for none; never to be written to."""
        return _units(self.length, self.size, self.offset, self.outer, self.stride, self.inner, self.positions)

    @property
    def indices(self) -> torch.Tensor:
        """int64 ``[size, outer · inner]``: where each unit lies along the dimension."""
        placed = self.units.argsort(stable=True)
        return placed[self.length - self.size * self.outer * self.inner :].view(self.size, -1)

    def mask(self, units: torch.Tensor) -> torch.Tensor:
        """Spread a mask over units (shape ``[size]``) along the dimension (shape ``[length]``)."""
        return torch.cat([units, units.new_ones(1)])[self.units]


def norms_along(value: torch.Tensor, dim: int) -> torch.Tensor:
    """``[n]``: the 2-norm over all dimensions but ``dim``, in float32 or what is more precise."""
    others = [d for d in range(value.dim()) if d != dim]
    precise = torch.promote_types(value.dtype, torch.float32)
    if not value.is_floating_point() and not value.is_complex():  # quantised weights
        value = value.to(precise)
    return torch.linalg.vector_norm(value, dim=others, dtype=precise) if others else value.abs().to(precise)


@lru_cache(maxsize=1024)
def _units(
    length: int, size: int, offset: int, outer: int, stride: int, inner: int, positions: tuple[int, ...] | None
) -> torch.Tensor:
    # beside the slice, not in it: pydantic compares all that a model keeps, and a tensor has no one truth value
    units = torch.full((length,), -1)
    o, u, i = torch.meshgrid(torch.arange(outer), torch.arange(size), torch.arange(inner), indexing="ij")
    place = u if positions is None else torch.tensor(positions)[u]
    units[(offset + o * stride + place * inner + i).reshape(-1)] = u.reshape(-1)
    return units
