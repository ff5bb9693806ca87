"""A plan: the units that each group keeps. Data only; it is written as JSON and read back with validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.slices import Slice
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
from atograph.passes.plan.by_layer import Row, rows
from atograph.passes.plan.html_table import html_table
from atograph.passes.public import public

Unit = Annotated[int, Field(ge=0)]

HINT = "A plan is the plan.json that `atograph compress` writes."
"""What to do about a file that is none."""


@public("atograph")
class Plan(BaseModel):
    """Which units of which group stay.

    Attributes:
        kept: group name → sorted unit indices that stay; a group that is not listed stays whole.
        sizes: group name → number of units of the dense model, for the same groups.
        zeroing: group name → the parameter slices that are zero where a unit is dropped.
        groups: group name → its units and members in words, frozen groups too; tells how another model differs.
        coupled: pairs of groups that were made one before (the pass ``couple-groups``), by their names without that.
        outputs: names of the outputs that are read, where others of the model are left out; empty where none is.
        dynamic: what is dynamic besides the batch, a text a dim (``ids:1=sequence``): how the model is traced.
        state: what is declared to be state, ``output=input`` each: how the model is traced.
        passes: what the program goes through before its groups are found, as the text of a pipeline.
        declared: experts and tokens that the model had before: the groups are of what it is without them.
        carried: group name → the slices of inputs that are state which a removed unit is cut from; they are called by
            their placeholders.
        fingerprint: identifies the groups of the model that the plan was made for.
        program: identifies its parameters by names and shapes, what is in no group as well, as kernel sizes; empty in a
            plan of an older version.
        version: of this file format.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int = Field(default=1, ge=1, le=1)
    fingerprint: str
    program: str = ""
    sizes: dict[str, Annotated[int, Field(ge=1)]]
    kept: dict[str, tuple[Unit, ...]]
    zeroing: dict[str, tuple[Slice, ...]]
    groups: dict[str, str] = Field(default_factory=dict)
    coupled: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    passes: str = ""
    declared: tuple[Declared, ...] = ()
    carried: dict[str, tuple[Slice, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kept.keys() == self.sizes.keys() == self.zeroing.keys():
            raise ValueError("'kept', 'sizes' and 'zeroing' name different groups")
        if not self.carried.keys() <= self.kept.keys():
            raise ValueError("'carried' names groups that 'kept' does not")
        for name, units in self.kept.items():
            if list(units) != sorted(set(units)) or (units and units[-1] >= self.sizes[name]):
                raise ValueError(f"the units of group {name} are not increasing indices below {self.sizes[name]}")
            for part in (*self.zeroing[name], *self.carried.get(name, ())):
                if part.size != self.sizes[name]:
                    raise ValueError(f"a slice of {part.parameter} does not fit group {name}")
        return self

    @property
    def counts(self) -> dict[str, int]:
        """Group name → number of units that stay: what the cost model takes."""
        return {name: len(units) for name, units in self.kept.items()}

    @property
    def emptied(self) -> list[str]:
        """The groups of which no unit stays."""
        return [name for name, units in self.kept.items() if not units]

    @property
    def digest(self) -> str:
        """Identifies the plan: 16 hexadecimal digits, of its model, of what is kept, and of what is read of it."""
        outputs = "".join(f" {each}" for each in (self.outputs, self.state, self.passes, self.declared) if each)
        return hashlib.sha256(f"{self.fingerprint} {sorted(self.kept.items())}{outputs}".encode()).hexdigest()[:16]

    def mask(self, group: str) -> torch.Tensor:
        """1.0 for each unit of a listed group that stays, else 0.0; shape ``[size]``."""
        mask = torch.zeros(self.sizes[group])
        mask[list(self.kept[group])] = 1.0
        return mask

    def by_layer(self) -> list[Row]:
        """The groups as rows, those of repeated blocks in one: how many units of which layers stay."""
        return rows(self.sizes, self.counts, self.groups)

    def _head(self) -> str:
        return f"plan {self.digest}: {sum(self.counts.values()):,} of {sum(self.sizes.values()):,} units stay"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        cells = [(row.title, f"{row.size:,}", row.counts, row.sides) for row in self.by_layer()]
        return html_table(self._head(), ("group", "units", "kept", "made by → read by"), cells, right=(1, 2))

    def __repr__(self) -> str:
        """In one line; `str` has the layers."""
        return f"<{self._head()}>"

    def __str__(self) -> str:
        """A line for each width, those of repeated blocks in one: ``g0  keeps 24 of 32  conv1, bn1 → conv2``."""
        return "\n".join(
            f"{row.title}  keeps {row.counts} of {row.size:,}  {row.sides}".rstrip() for row in self.by_layer()
        )

    def to_json(self) -> str:
        """The plan as JSON text."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read a plan back.

        Raises:
            UserError: the text is no plan.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"this is not a valid plan: {where + ': ' if where else ''}{first['msg']}.",
                hint=HINT,
            ) from None

    def check(self, groups: Groups) -> None:
        """Make sure that the plan fits a program.

        Raises:
            UserError: naming the first group that differs.
        """
        if self.outputs != groups.outputs:
            theirs, ours = (", ".join(each) or "all" for each in (self.outputs, groups.outputs))
            raise UserError(
                f"the plan is for a model of whose outputs {theirs} are read, and here {ours} are.",
                hint="Choose them in the same way: trace(model, ..., outputs=plan.outputs).",
            )
        if self.state != groups.state:
            theirs, ours = (", ".join(each) or "none" for each in (self.state, groups.state))
            raise UserError(
                f"the plan is for a model with the state {theirs}, and here it is {ours}.",
                hint="Declare it in the same way: trace(model, ..., state=plan.state).",
            )
        if self.passes != groups.passes:
            theirs, ours = (each or "none" for each in (self.passes, groups.passes))
            raise UserError(
                f"the plan is for a program that went through the passes {theirs}, and here it is {ours}.",
                hint="Let it go through the same ones: trace(model, ..., passes=plan.passes).",
            )
        if self.declared != groups.declared:
            theirs, ours = (" and ".join(map(str, each)) or "all" for each in (self.declared, groups.declared))
            raise UserError(
                f"the plan is for a model that keeps {theirs}, and here it is {ours}"
                f"{', others' if theirs == ours else ''}.",
                hint="Make that model first: atograph.as_declared(model, plan).",
            )
        if self.coupled != groups.coupled:
            pairs = ", ".join(f"{first} with {second}" for first, second in self.coupled or groups.coupled)
            raise UserError(
                f"the plan is for groups that are {'coupled' if self.coupled else 'not coupled'} ({pairs}).",
                hint="Couple them first: graph.for_plan(plan).",
            )
        here = {group.name: group.description for group in groups}
        for name in {**self.groups, **here} if self.groups else ():
            theirs, ours = self.groups.get(name, "no such group"), here.get(name, "no such group")
            if theirs != ours:
                theirs, ours = _where_they_differ(theirs, ours)
                raise UserError(
                    f"the plan is for another model. The first difference is group {name}: {theirs} in the plan, "
                    f"{ours} here."
                )
        for name, size in self.sizes.items():
            group = groups[name]
            if group.size != size:
                raise UserError(f"the plan is for another model: its group {name} has {size} units, here it has "
                                f"{group.size} ({group}).")  # fmt: skip
            if group.frozen is not None and len(self.kept[name]) < size:
                raise UserError(f"the plan removes units of group {name}, which is frozen here: {group.frozen}.")
        groups.check_without(self.emptied)
        same_zeroing = all(slices == groups[name].zeroing for name, slices in self.zeroing.items())
        if self.fingerprint != fingerprint(groups) or not same_zeroing:
            raise UserError("the plan is for another model: the groups have the same sizes but other members.")
        if self.program and self.program != groups.program:
            raise UserError(
                "the plan is for another model: the groups are the same, but there are other parameters besides, or "
                "dimensions in no group, as kernel sizes, are others."
            )


def _where_they_differ(a: str, b: str, shown: int = 100) -> tuple[str, str]:
    """Two descriptions of groups, quoted; long ones from the first member that differs."""
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = a.rfind(" ", 0, common) + 1 if common > shown // 2 else 0

    def quoted(text: str) -> str:
        part = text[start : start + shown]
        return f"`{'... ' * (start > 0)}{part}{' ...' * (start + shown < len(text))}`"

    return quoted(a), quoted(b)


def fingerprint(groups: Groups) -> str:
    """A digest of the groups: names, sizes, members, zeroing sets, and which of them the model freezes."""
    lines = (f"{g.name} {g.size} {g.members} {g.free} {g.zeroing}" for g in groups)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def plan_of(groups: Groups, kept: Mapping[str, Iterable[int]]) -> Plan:
    """A plan that keeps the given units; prunable groups that are not mentioned stay whole, unless they are dropped.

    Raises:
        UserError: a group does not exist or is frozen, or a unit is out of range or no whole number.
    """
    chosen = {group.name: tuple(range(0 if group.dropped else group.size)) for group in groups.prunable}
    for name, units in kept.items():
        group, given = groups[name], list(units)
        if any(
            isinstance(unit, bool) or int(unit) != unit or getattr(unit, "dtype", None) == torch.bool for unit in given
        ):
            raise UserError(
                f"the units of group {name} that stay are whole numbers, not a mask or fractions.",
                hint="Of a mask, give the indices: mask.nonzero().flatten().",
            )
        listed = tuple(sorted({int(unit) for unit in given}))
        if group.frozen is not None and len(listed) < group.size:
            raise UserError(f"group {name} cannot be pruned: {group.frozen}.")
        if listed and (listed[0] < 0 or listed[-1] >= group.size):
            raise UserError(f"group {name} has the units 0 to {group.size - 1}.")
        if group.frozen is None:
            chosen[name] = listed
    groups.check_without([name for name, units in chosen.items() if not units])
    return Plan(
        fingerprint=fingerprint(groups),
        program=groups.program,
        sizes={group.name: group.size for group in groups.prunable},
        kept=chosen,
        zeroing={group.name: group.zeroing for group in groups.prunable},
        groups={group.name: group.description for group in groups},
        coupled=groups.coupled,
        outputs=groups.outputs,
        dynamic=groups.dynamic,
        state=groups.state,
        passes=groups.passes,
        declared=groups.declared,
        carried={group.name: group.state for group in groups.prunable if group.state},
    )
