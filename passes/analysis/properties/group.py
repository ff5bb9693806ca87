"""One axis of a program and all that is known of it: who holds it, what may go, and what else holds of its units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from atograph.passes.analysis.properties.known import Known, Member, Property
from atograph.passes.analysis.properties.roles import Role
from atograph.passes.analysis.slices import Slice
from atograph.passes.axes.dims import Axis
from atograph.passes.errors import UserError
from atograph.passes.ir.reason import Reason
from atograph.passes.public import public


@public("atograph")
@dataclass(frozen=True, eq=False)
class Group:
    """One axis of the program: a family of ZIGs, one for each of its units.

    Attributes:
        name: ``g0``, ``g1``, ... in the order of the parameters.
        size: number of units.
        members: every parameter dimension that holds the axis.
        consumers: the members that are summed over along the axis (input channels); the others produce it.
        frozen: why no unit of it may go; None for a prunable group.
        axis: the axis itself.
        outer: whether every parameter dimension that holds it is a product with other axes to its right (heads × head
            dim): then those are what can make a width a multiple of something.
        least: units that the user wants to stay at least; 0: it may lose all of them (`Groups.emptying`).
        most: units that the user wants to stay at most; None: all of them may.
        makers: the members that give a tensor its units (output channels).
        readers: those that are summed over with one (input channels); a tied weight may be both.
        dropped: whether the user wants all of its units to go.
        state: the slices of the inputs that are state which hold it, by their placeholders.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    consumers: frozenset[Member]
    _known: Known = field(repr=False)
    frozen: Reason | None
    axis: Axis
    outer: bool = False
    least: int = 1
    most: int | None = None
    makers: frozenset[Member] = frozenset()
    readers: frozenset[Member] = frozenset()
    dropped: bool = False
    state: tuple[Slice, ...] = ()

    @cached_property
    def zeroing(self) -> tuple[Slice, ...]:
        """The parameter slices which, once zero, make a unit removable (empty for a frozen group); made on first use:
        where all layers read all others, they are as many as pairs of layers."""
        return self._known.zeroing()

    @property
    def buffers(self) -> tuple[Member, ...]:
        """The dimensions of buffers that hold the axis (statistics of a batch norm); they are cut along with it."""
        return self._known.buffers

    def slices(self, member: Member) -> tuple[Slice, ...]:
        """Where the units lie in a member or a buffer, whatever it does with them; several slices where they lie in
        several runs.

        Args:
            member: its name and the dimension: ``("mid.weight", 1)``.

        Raises:
            UserError: it is neither.
        """
        self._check(member)
        return self._known.slices(member)

    def roles(self, member: Member) -> frozenset[Role]:
        """What a member or a buffer does with the units, by the ops that read it.

        It ``makes`` them (a weight's output channels), ``reads`` them (its input channels, which are summed over),
        ``scales`` a tensor unit by unit, or ``shifts`` it, that is, it is added; several where several ops read it.
        ``unknown``: the rule of an op does not say what it does with them.

        Raises:
            UserError: it is no member and no buffer of the group.
        """
        self._check(member)
        return self._known.roles(member)

    def _check(self, member: Member) -> None:
        if member not in self._known:
            listed = ", ".join(f"{name}[{dim}]" for name, dim in (*self.members, *self.buffers)[:8])
            raise UserError(
                f"{member!r} is no dimension that holds the units of group {self.name}.",
                hint=f"A member is a pair of a name and a dimension; there are {listed}.",
            )

    @property
    def zero_provable(self) -> Property:
        """Whether its units may go: with the zeroing set at zero, masked is slim."""
        return Property("zero-provable", self.frozen)

    @property
    def permutable(self) -> Property:
        """Whether its units may be put into any other order, in all members and buffers at once (`reordered`)."""
        return Property("permutable", self._known.why_ordered)

    @property
    def additive(self) -> Property:
        """Whether the program's outputs are a constant plus what each unit adds, for inputs as they are.

        Of two plans that share the units of the group between them, the slim programs add up to the dense one, when
        what is there without any unit (a bias, a residual) is counted once.
        """
        frozen = None if self.free else self.frozen
        return Property("additive", frozen or self._known.why_no_sum)

    @property
    def homogeneous(self) -> Property:
        """Whether units may be scaled by s > 0 where they are made and by 1/s wherever they are read (`scaling`)."""
        found = self._powers()
        return Property("homogeneous", found if isinstance(found, Reason) else None)

    def scaling(self, member: Member | None = None) -> Mapping[Member, float]:
        """By which powers of s > 0 parameters may be scaled along each unit so that no output changes.

        Args:
            member: it is scaled by s, and the others as has to be; of those that may stay, the first ones do. None: all
                that only read the units are scaled by 1/s.

        Returns:
            member → power, without those that stay.

        Raises:
            UserError: no such scales are known, and why.
        """
        if member is not None:
            self._check(member)
        found = self._powers(member)
        if isinstance(found, Reason):
            raise UserError(f"the units of group {self.name} cannot be scaled: {found}.")
        return found

    def _powers(self, member: Member | None = None) -> Mapping[Member, float] | Reason:
        if member is not None:
            return Reason("a buffer stays as it is") if member in self.buffers else self._known.powers({member: 1})
        readers = [each for each in self.members if self.roles(each) == {"reads"}]
        return self._known.powers(dict.fromkeys(readers, -1) if readers else {self.members[0]: 1})

    def step(self, round_to: int) -> int:
        """In which steps units may go where widths are to be multiples of ``round_to``.

        One at a time for an outer factor of a product. A group of fewer units than ``round_to`` is taken in halves of
        it, or halves of those, down to half of the group, so that rounding leaves it a choice.
        """
        if self.outer:
            return 1
        if self.size < round_to:
            while round_to > 1 and 2 * round_to > self.size:
                round_to //= 2
        return round_to

    def __repr__(self) -> str:
        """In one line."""
        return f"<{self}>"

    def __str__(self) -> str:
        """``g0  64 units  producers → consumers``, and why it is frozen."""
        text = f"{self.name}  {self.description}"
        return text if self.frozen is None else f"{text}: {self.frozen}"

    @property
    def description(self) -> str:
        """``64 units  producers → consumers``, then ``frozen`` where the model does not allow that units go.

        A consumer that has to be zero as well is marked with ``*``.
        """
        zeroed = {(part.parameter, part.dim) for part in self.zeroing}
        sides: tuple[list[str], list[str]] = ([], [])
        for parameter, dim in self.members:
            consumes = (parameter, dim) in self.consumers
            mark = "*" if consumes and (parameter, dim) in zeroed else ""
            sides[consumes].append(f"{parameter}[{dim}]{mark}")
        text = f"{self.size} units  " + " → ".join(", ".join(side) for side in sides if side)
        return text if self.free else f"{text}  frozen"

    @property
    def free(self) -> bool:
        """Whether the model allows that units of it go, whatever the user wishes."""
        return self.frozen is None or self.frozen.wish
