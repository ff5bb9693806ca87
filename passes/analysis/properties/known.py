"""All that is known of one group besides its zeroing set, found out when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from torch import fx

from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.analysis.properties.orders import why_ordered
from atograph.passes.analysis.properties.roles import Role, Roles, roles_of
from atograph.passes.analysis.properties.scaling import Scaling
from atograph.passes.analysis.properties.sums import why_no_sum
from atograph.passes.analysis.slices import Slice
from atograph.passes.axes.dims import Axis
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason
from atograph.passes.public import public

Member: TypeAlias = tuple[str, int]
"""A parameter or buffer by its name in the user's model, and one of its dimensions."""


@public("atograph")
@dataclass(frozen=True)
class Property:
    """Whether something holds of a group; true or false as it stands.

    Attributes:
        name: what.
        reason: why it does not hold, or why nobody knows that it does; None where it holds.
    """

    name: str
    reason: Reason | None = None

    def __bool__(self) -> bool:
        return self.reason is None

    def __str__(self) -> str:
        return self.name if self.reason is None else f"not {self.name}: {self.reason}"


class Shared:
    """What all groups of a program have in common.

    Args:
        program: with its axes inferred.
        axes: these, without what the proof of zeros froze.
    """

    def __init__(self, program: Program, axes: Axes) -> None:
        self.program, self.axes = program, axes

    @cached_property
    def roles(self) -> Roles:
        """The roles of all members of all groups."""
        return roles_of(self.program, self.axes)


class Known:
    """What is known of one group.

    Args:
        shared: of its program.
        axis: of the group.
        sites: its members and buffers, by name and dim, in order.
        buffers: those that are no parameters.
        slices_at: gives the slices of some of them.
        zeroing: gives the zeroing set.
    """

    def __init__(
        self,
        shared: Shared,
        axis: Axis,
        sites: Mapping[Member, tuple[fx.Node, int]],
        buffers: tuple[Member, ...],
        slices_at: Callable[[Axis, tuple[tuple[fx.Node, int], ...]], tuple[Slice, ...]],
        zeroing: Callable[[], tuple[Slice, ...]],
    ) -> None:
        self.zeroing, self.buffers = zeroing, buffers
        self._shared, self._axis, self._sites, self._slices_at = shared, axis, sites, slices_at

    def __contains__(self, member: object) -> bool:
        return member in self._sites

    def slices(self, member: Member) -> tuple[Slice, ...]:
        """Where the units lie in a member."""
        return self._slices_at(self._axis, (self._sites[member],))

    def roles(self, member: Member) -> frozenset[Role]:
        """What a member does with the units."""
        return frozenset(self._shared.roles.get(self._axis, {}).get(self._sites[member], {"unknown"}))

    @cached_property
    def why_ordered(self) -> Reason | None:
        """Why its units have an order."""
        return why_ordered(self._shared.program, self._shared.axes, self._axis)

    @cached_property
    def why_no_sum(self) -> Reason | None:
        """Why the outputs are no sums over them."""
        return why_no_sum(self._shared.program, self._shared.axes, self._axis)

    @cached_property
    def _scaling(self) -> Scaling:
        sites = [site for member, site in self._sites.items() if member not in self.buffers]
        return Scaling(self._shared.program, self._shared.axes, self._axis, sites)

    def powers(self, fixed: Mapping[Member, int]) -> dict[Member, float] | Reason:
        """The powers of s by which parameters are scaled where some are given; why there are none."""
        found = self._scaling.powers({self._sites[member]: power for member, power in fixed.items()})
        if isinstance(found, Reason):
            return found
        return {member: float(found[site]) for member, site in self._sites.items() if site in found}
