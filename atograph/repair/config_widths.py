"""Which widths a configuration has a number for: tried on models without data, before anything is trained.

A model of transformers is made again from its configuration, so a slim one has to be what some numbers of that say.
They are found by trying, not by the names of models: a kind of groups (the same in every layer) is cut, and numbers are
looked for that give a model of these shapes (`config.numbers_for`). Where one number stands for several kinds (encoder
and decoder), these are cut together. What has none stays whole, and so does what a model that was made with the new
number would compute otherwise: a norm counts the units that it sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from atograph.passes.analysis.attention import attention_parts
from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.properties.kinds import Kind, kinds_of
from atograph.passes.axes.dims import Axis
from atograph.passes.cost.widths import Widths
from atograph.passes.ir.polynomial import Polynomial, value_at
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason, module_of
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.kept import Kept
from atograph.passes.rewrite.slim import recomputed
from atograph.repair.config import (
    Shapes,
    configured,
    configured_parts,
    factors_with,
    left_to_code,
    numbers_for,
    shapes_of,
    shapes_with,
)
from atograph.repair.config_fields import changed, fields_of
from atograph.repair.fewer_layers import fewer_of_each

_TRIED = 128
"""Where not any count is possible, groups up to this size are tried at each, larger ones at divisors."""


class Sayable(NamedTuple):
    """What a configuration can say.

    Attributes:
        kinds: groups that have one number there.
        reasons: name of a group → why it has to stay whole.
    """

    kinds: tuple[Kind, ...]
    reasons: Mapping[str, Reason]


def sayable(model: nn.Module, program: Program, groups: Groups) -> Sayable | None:
    """The kinds of groups that a model's configuration can say the widths of; None where it has no configuration.

    Of a model with parts that are made from one, each says its own widths; groups of none of them are free.

    Args:
        model: as it was traced; on the meta device or not.
        program: of it.
        groups: with the user's wishes.
    """
    tries = (_Tried.of(part, program, groups) for _path, part in configured_parts(model))
    parts = [tried for tried in tries if tried is not None]
    if not parts:
        return None
    kinds = [kind.groups for kind in kinds_of(group for group in groups if group.free)]
    holding = {kind: [tried for tried in parts if not tried.held.isdisjoint(kind)] for kind in kinds}
    found = [Kind(kind) for kind, held in holding.items() if not held and groups[kind[0]].frozen is None]
    shared = [name for kind, held in holding.items() if len(held) > 1 for name in kind]
    reasons = dict.fromkeys(shared, Reason(_SHARED, wish=True))
    for tried in parts:
        said = _of_part(tried, program, groups, [kind for kind in kinds if holding[kind] == [tried]])
        found += said.kinds
        reasons |= said.reasons
    return Sayable(tuple(found), reasons)


_SHARED = "uniform widths: two configurations would have to say how many these are"


def _of_part(tried: _Tried, program: Program, groups: Groups, kinds: list[tuple[str, ...]]) -> Sayable:
    """The kinds of groups of one part that its configuration can say the widths of."""
    reasons = dict(_whole_by_wish(groups, kinds))
    kinds = [kind for kind in kinds if all(groups[name].frozen is None for name in kind)]
    reasons |= _computed_otherwise(program, groups, kinds)
    left = [kind for kind in kinds if kind[0] not in reasons]
    found = list[_Said]()
    while left:
        kind = left.pop(0)
        said = next((each for each in tried.ways(kind, left) if tried.goes_with(each, found)), None)
        if said is None:
            reasons |= dict.fromkeys(kind, Reason(_NONE.format(type(tried.config).__name__), wish=True))
            continue
        left = [each for each in left if each[0] not in said.groups]
        found.append(said)
    return Sayable(tuple(Kind(said.groups, tried.counts(said)) for said in found), reasons)


def numbers_of(model: nn.Module, program: Program, plan: Plan) -> dict[str, int] | str:
    """What a configuration says of a plan, told from shapes alone; or in words, why it cannot.

    Args:
        model: the dense one, on the meta device or not.
        program: of it.
        plan: which units stay.
    """
    groups = program.fact(Groups)
    if any(not units for units in plan.kept.values()):
        return "branches are gone"
    parts = attention_parts(program, groups)
    if any(parts.get(name) == "head_dim" and count < plan.sizes[name] for name, count in plan.counts.items()):
        return "heads are less wide, and attention keeps its scale"
    node = next((node for node, _axes in recomputed(program, Kept.by(plan, program))), None)
    if node is not None:
        return f"{_op(node)} in {module_of(node) or 'the model'} goes on counting what is gone"
    tried = _Tried.of(model, program, groups, whole=True)
    if tried is None:
        return "it is made without a configuration"
    ratios = {Fraction(count, plan.sizes[name]) for name, count in plan.counts.items()}
    shapes = tried.shapes(plan.counts)
    for numbers in numbers_for(tried.kind, tried.config, tried.dense, shapes, tried.made, ratios):
        if tried.same_factors(numbers):
            return {**tried.said, **numbers}
    return "no numbers of it give these widths; with uniform=True, plans keep what some do"


_NONE = "uniform widths: no number of {} says how many these are"


def _whole_by_wish(groups: Groups, kinds: Iterable[Sequence[str]]) -> Iterator[tuple[str, Reason]]:
    """The groups of kinds of which one stays whole."""
    for kind in kinds:
        whole = next((name for name in kind if groups[name].frozen is not None), None)
        if whole is not None:
            why = Reason(f"uniform widths: {whole}, which is alike, stays whole", wish=True)
            yield from ((name, why) for name in kind if name != whole)


def _computed_otherwise(program: Program, groups: Groups, kinds: Sequence[Sequence[str]]) -> dict[str, Reason]:
    """The groups of kinds that an op counts, so that a model of other widths is another one."""
    reasons: dict[str, Reason] = {}
    by_axis, whole = groups.by_axis(), {name: kind for kind in kinds for name in kind}
    while True:
        cut = {name for name in whole if name not in reasons and groups[name].size > 1}
        kept = {groups[name].axis: np.arange(_fewer(groups[name].size)) for name in cut}
        counted: dict[Axis, str] = {}
        for node, axes in recomputed(program, Kept(kept, groups.axes)):
            counted |= dict.fromkeys(axes, f"{_op(node)} in {module_of(node) or 'the model'}")
        if not counted:
            return reasons
        for axis, place in counted.items():
            why = Reason(f"uniform widths: {place} counts these, so a model made with fewer is another one", wish=True)
            reasons |= dict.fromkeys(whole[by_axis[axis].name], why)


def _op(node: Any) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _fewer(size: int) -> int:
    """The largest proper divisor: a number of heads may have to divide what it was."""
    return size // next(n for n in range(2, size + 1) if size % n == 0)


@dataclass(frozen=True)
class _Said:
    """Groups of one size that numbers of a configuration stand for.

    Attributes:
        groups: their names.
        numbers: field → what it is where they have ``_fewer`` units.
    """

    groups: tuple[str, ...]
    numbers: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class _Tried:
    """A model's class with its configuration, of as few layers as show all kinds, and the shapes to be reached.

    Attributes:
        kind, config: what to make models of, all that it leaves to its code spelt out.
        dense: the shapes that it makes.
        sized: name of a tensor → its shape in counts of groups; of those alone that hold a group.
        groups: of the whole model.
        said: what of the configuration was left to the code.
        made: the shapes of models that were made, by their numbers.
    """

    kind: type[nn.Module]
    config: Any
    dense: Shapes
    sized: Mapping[str, tuple[Polynomial | int, ...]]
    groups: Groups
    said: Mapping[str, int]
    made: dict[frozenset[tuple[str, int]], Shapes | None] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, program: Program, groups: Groups, *, whole: bool = False) -> _Tried | None:
        kind = configured(model)
        if kind is None:
            return None
        config: Any = model.config
        names = {id(tensor): name for name, tensor in program.state.items()}
        nodes = {name: node for node, name in program.state_nodes()}
        sizes = Widths(_all_free(groups))
        sized = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            if own := names.get(id(tensor)):
                sized[name] = sizes(groups.axes.shape(nodes[own]))
        for each in (config,) if whole else (fewer_of_each(model), config):
            dense = shapes_with(kind, each, {})
            if dense is None:
                continue
            said = left_to_code(kind, each)
            found = cls(kind, changed(each, said), dense, sized, groups, said)
            if dense.keys() <= shapes_of(model).keys() and found._shows_all:
                return found
        return None

    @cached_property
    def held(self) -> frozenset[str]:
        """The groups that a tensor of the part holds."""
        return frozenset(_names_in(self.sized.values()))

    @property
    def _shows_all(self) -> bool:
        """Whether each kind of the part has a group in one of the tensors that are made."""
        seen = {*_names_in(self.sized.get(tensor, ()) for tensor in self.dense)}
        kinds = (kind.groups for kind in kinds_of(group for group in self.groups if group.free))
        return all(not seen.isdisjoint(kind) for kind in kinds if not self.held.isdisjoint(kind))

    def ways(self, kind: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> Iterator[_Said]:
        """The numbers that stand for a kind: for it alone, or for it and others of its size."""
        size = self.groups[kind[0]].size
        if size == 1:
            return
        alone = self.shapes(dict.fromkeys(kind, _fewer(size)))
        for numbers in numbers_for(self.kind, self.config, self.dense, alone, self.made):
            if self.same_factors(numbers):
                yield _Said(kind, numbers)
        for field_name, value in fields_of(self.config).items():
            if type(value) is int and value > 1 and value * _fewer(size) % size == 0:
                numbers = {field_name: value * _fewer(size) // size}
                made = self._made(numbers)
                if made is None or not any(made[name] != self.dense[name] for name in self.dense if name in made):
                    continue
                together = (*kind, *(name for other in self._moved(made, others, size) for name in other))
                if made == self.shapes(dict.fromkeys(together, _fewer(size))) and self.same_factors(numbers):
                    yield _Said(together, numbers)

    def _moved(self, made: Shapes, others: Iterable[tuple[str, ...]], size: int) -> Iterator[tuple[str, ...]]:
        """The kinds of a size that have a tensor whose shape is another one."""
        moved = {name for name in self.dense if made.get(name) != self.dense[name]}
        for other in others:
            if self.groups[other[0]].size == size:
                fewer = self.shapes(dict.fromkeys(other, _fewer(size)))
                if any(fewer[name] == made.get(name) for name in moved if fewer[name] != self.dense[name]):
                    yield other

    def goes_with(self, said: _Said, found: Sequence[_Said]) -> bool:
        """Whether numbers of several kinds say all of these at once."""
        if not found:
            return True
        return self._made(self._numbers([*found, said])) == self.shapes(
            {name: _fewer(self.groups[name].size) for each in (*found, said) for name in each.groups}
        )

    def counts(self, said: _Said) -> tuple[int, ...]:
        """The counts that a model can be made with, without that of all units; empty: any."""
        size = self.groups[said.groups[0]].size
        if all(self._can_be(said, count) for count in {size - 1, max(1, size - 2)}):
            return ()
        tried = range(1, size) if size <= _TRIED else (count for count in range(1, size) if size % count == 0)
        return tuple(count for count in tried if self._can_be(said, count))

    def _can_be(self, said: _Said, count: int) -> bool:
        size = self.groups[said.groups[0]].size
        dense = fields_of(self.config)
        if any(dense[name] * count % size for name in said.numbers):
            return False
        numbers = {name: dense[name] * count // size for name in said.numbers}
        return self._made(numbers) == self.shapes(dict.fromkeys(said.groups, count))

    def _numbers(self, found: Iterable[_Said]) -> dict[str, int]:
        """The numbers of several kinds: what stands in several changes by all of them."""
        dense = fields_of(self.config)
        numbers: dict[str, int] = {}
        for each in found:
            for name, value in each.numbers.items():
                numbers[name] = numbers.get(name, dense[name]) * value // dense[name]
        return numbers

    def shapes(self, counts: Mapping[str, int]) -> Shapes:
        """The shapes at some counts; groups that are not named are whole."""
        full = {**self._sizes, **counts}
        return {
            name: tuple(value_at(size, full) for size in self.sized[name]) if name in self.sized else shape
            for name, shape in self.dense.items()
        }

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {group.name: group.size for group in self.groups}

    def _made(self, numbers: Mapping[str, int]) -> Shapes | None:
        key = frozenset(numbers.items())
        if key not in self.made:
            self.made[key] = shapes_with(self.kind, self.config, numbers)
        return self.made[key]

    def same_factors(self, numbers: Mapping[str, int]) -> bool:
        """Whether no factor of the model (a scale of attention) is another one with these numbers."""
        return factors_with(self.kind, self.config, numbers) == factors_with(self.kind, self.config, {})


def _names_in(shapes: Iterable[Sequence[Polynomial | int]]) -> Iterator[str]:
    """The groups that shapes count."""
    for shape in shapes:
        for size in shape:
            if isinstance(size, Polynomial):
                yield from (name for names in size.terms for name in names)


def _all_free(groups: Groups) -> Groups:
    """The same groups, those that stay whole by a wish among the prunable ones."""
    return replace(groups, listed=tuple(replace(group, frozen=None) if group.free else group for group in groups))
