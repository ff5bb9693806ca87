"""What there is to see of a graph, as plain data: every view (text, JSON, HTML, ...) is made of this record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import fx

from atograph.inspection.costs.left import Left, left_by
from atograph.inspection.costs.stops import Stop, stops
from atograph.inspection.inputs import InputView, inputs_of
from atograph.inspection.interfaces import Traced
from atograph.passes.analysis.couplings import joins
from atograph.passes.analysis.groups import Group
from atograph.passes.analysis.slices import Slice
from atograph.passes.axes.dims import axes_of
from atograph.passes.cost.cost import CostModel, flops_by_node, params_with
from atograph.passes.cost.widths import Widths
from atograph.passes.ir.polynomial import Polynomial, added, value_at
from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import Reason, module_of, source_of
from atograph.passes.plan.least import least_kept
from atograph.passes.plan.plan import Plan
from atograph.passes.rules import name_of


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceOp(_Record):
    """An op of the model."""

    op: str
    """As ATen calls it: ``add``."""
    module: str
    """Qualified name of the module whose ``forward`` calls it; empty for the model itself."""
    source: str
    """``file:line`` of the call; empty where unknown."""


class Why(_Record):
    """Why a group stays whole."""

    text: str
    module: str
    source: str
    wish: bool
    """Whether it is the user's own wish."""


class Member(_Record):
    """One dimension of one parameter that holds the units of a group. A tied weight may stand there in both roles."""

    parameter: str
    dim: int
    role: Literal["makes", "reads"]
    """Output or input units, for the parameter."""
    zeroed: bool
    """Whether its slice has to be zero before a unit can go."""
    reads: tuple[SourceOp, ...]
    """The ops that take the parameter."""


class WholeView(_Record):
    """What is saved where a group loses all of its units: its branch goes."""

    params: int
    flops: int


class GroupView(_Record):
    """One group."""

    name: str
    units: int
    least: int
    """Units that stay at least, whatever the budget."""
    kept: int | None
    """Units that a plan keeps; None where there is no plan."""
    prunable: bool
    why: Why | None
    params: int
    """Parameters that have a dimension along the group: they shrink with it."""
    flops: int
    """The same of FLOPs."""
    members: tuple[Member, ...]
    slices: tuple[Slice, ...]
    """Of the parameters, what has to be zero."""
    joins: tuple[SourceOp, ...]
    """Ops that lay one computed tensor's units upon another's, and so tie those who made them."""
    wished: tuple[str, ...]
    """Groups that became one with it because the user wants it so, by their names before that."""
    whole: WholeView | None
    """What goes along if it loses all of its units; None where the model does not allow that."""
    why_not_whole: Why | None
    """Why it keeps one unit at least; None where it may lose all."""


class ParameterView(_Record):
    """One parameter."""

    name: str
    module: str
    shape: tuple[int, ...]
    kept: tuple[int, ...] | None
    """Its sizes by a plan; None where there is no plan, or nothing of it stays."""
    groups: tuple[tuple[str, ...], ...]
    """For each dimension the groups whose units it holds; none where it is structural, as kernel sizes are."""


class ModuleView(_Record):
    """One module that runs, or holds a parameter that is read."""

    name: str
    type: str
    flops: int
    """Of its own ops and of all modules in it, for a batch of one."""
    params: int
    """The same of parameters; shared ones count where they are held first."""
    kept_flops: int | None
    kept_params: int | None
    """The same of both as a plan leaves them; None where there is no plan."""
    source: str
    """The line of the first call that it makes; empty for one that makes none."""


class Overview(_Record):
    """A graph, to look at."""

    format: Literal["atograph overview 1"] = "atograph overview 1"
    name: str
    note: str
    coupled: tuple[tuple[str, str], ...]
    """Pairs of groups that became one because the user wants it so; they have the name of the first."""
    floor: float
    """Share of each group's units that stays at least."""
    flops: int
    params: int
    bytes: int
    kept_flops: int | None
    kept_params: int | None
    """FLOPs and parameters that a plan leaves; None where there is no plan."""
    inputs: tuple[InputView, ...]
    """What the network is called with; none where that is more than tensors."""
    stops: tuple[Stop, ...]
    """Why groups stay, reason by reason."""
    modules: tuple[ModuleView, ...]
    """In the order in which they run, each before those in it."""
    parameters: tuple[ParameterView, ...]
    groups: tuple[GroupView, ...]

    @property
    def prunable(self) -> tuple[GroupView, ...]:
        """The groups that are not frozen."""
        return tuple(group for group in self.groups if group.prunable)


def overview(graph: Traced, plan: Plan | None = None, *, name: str = "", floor: float = 0.0) -> Overview:
    """Look at a graph.

    Args:
        graph: as `atograph.trace` gives it; its weights are not read.
        plan: tells how many units each group keeps.
        name: of the model; the name of its class unless given.
        floor: share of each group's units that stays at least.

    Raises:
        UserError: the plan is for another model.
    """
    if plan is not None:
        plan.check(graph.groups)
    program = graph.program
    counts = Widths(replace(graph.groups, listed=tuple(replace(group, frozen=None) for group in graph.groups)))
    by_node = flops_by_node(graph.groups.axes, counts)
    flops, params = (
        _hanging(added(by_node.values()), counts.sizes),
        _hanging(params_with(program, counts), counts.sizes),
    )
    left = None if plan is None else left_by(graph, plan)
    dense = {node: value_at(cost, counts.sizes) for node, cost in by_node.items()}
    modules = tuple(_modules(graph, dense, left))
    readers, joined = dict(_readers(program)), joins(graph.groups.axes)
    return Overview(
        name=name or ("program" if graph.model is None else type(graph.model).__name__),
        note=" ".join(graph.notes),
        coupled=graph.groups.coupled,
        floor=floor,
        flops=graph.flops,
        params=graph.params,
        bytes=graph.bytes,
        kept_flops=modules[0].kept_flops,
        kept_params=modules[0].kept_params,
        inputs=inputs_of(program),
        stops=stops(graph),
        modules=modules,
        parameters=tuple(_parameters(graph, left)),
        groups=tuple(
            GroupView(
                name=group.name,
                units=group.size,
                least=0 if group.least == 0 else least_kept(group, floor),
                kept=None if plan is None else len(plan.kept.get(group.name, range(group.size))),
                prunable=group.frozen is None,
                why=why(group.frozen),
                params=params.get(group.name, 0),
                flops=flops.get(group.name, 0),
                members=tuple(_members(group, readers)),
                slices=group.zeroing,
                joins=tuple(map(source_op_of, joined.get(group.axis, ()))),
                wished=tuple(old for old, new in graph.groups.aliases.items() if new == group.name),
                whole=_whole(graph, group),
                why_not_whole=why(graph.groups.why_not_without([group.name])),
            )
            for group in graph.groups
        ),
    )


def _whole(graph: Traced, group: Group) -> WholeView | None:
    if graph.groups.why_not_without([group.name]) is not None:
        return None
    cost = graph.program.fact(CostModel)
    without = {group.name: 0}
    return WholeView(params=graph.params - int(cost.params(without)), flops=graph.flops - int(cost.flops(without)))


def source_op_of(node: fx.Node) -> SourceOp:
    """Where an op stands in the user's code."""
    packet = getattr(node.target, "overloadpacket", None)  # an op without its overload
    name = name_of(node.target) if packet is None else packet.__name__
    return SourceOp(op=name, module=module_of(node), source=source_of(node))


def why(reason: Reason | None) -> Why | None:
    """A reason as data."""
    if reason is None:
        return None
    return Why(text=reason.text, module=reason.module or reason.node, source=reason.source, wish=reason.wish)


def _hanging(cost: Polynomial, sizes: Mapping[str, int]) -> dict[str, int]:
    """Group → the part of a cost that would be gone with all of its units."""
    found: dict[str, int] = {}
    for names, factor in cost.terms.items():
        value = value_at(Polynomial({names: factor}), sizes)
        for name in sizes.keys() & set(names):
            found[name] = found.get(name, 0) + value
    return found


def _readers(program: Program) -> Iterator[tuple[str, tuple[SourceOp, ...]]]:
    for node, name in program.state_nodes():
        yield name, tuple(dict.fromkeys(source_op_of(user) for user in node.users if user.op == "call_function"))


def _members(group: Group, readers: Mapping[str, tuple[SourceOp, ...]]) -> Iterator[Member]:
    zeroed = {(part.parameter, part.dim) for part in group.zeroing}
    sides: tuple[tuple[Literal["makes", "reads"], frozenset[tuple[str, int]]], ...] = (
        ("makes", group.makers), ("reads", group.readers)
    )  # fmt: skip
    for member in group.members:
        parameter, dim = member
        for role in [role for role, side in sides if member in side] or ["makes"]:
            yield Member(
                parameter=parameter, dim=dim, role=role, zeroed=member in zeroed, reads=readers.get(parameter, ())
            )


def _parameters(graph: Traced, left: Left | None) -> Iterator[ParameterView]:
    axes, by_axis = graph.groups.axes, graph.groups.by_axis()
    names = graph.program.parameter_names()
    for node, name in graph.program.state_nodes():
        if name in names:
            held = (dict.fromkeys(by_axis[axis].name for axis in axes_of(dim) if axis in by_axis)
                    for dim in axes.shape(node))  # fmt: skip
            yield ParameterView(
                name=name,
                module=name.rpartition(".")[0],
                shape=tuple(graph.program.state[name].shape),
                kept=None if left is None else left.shapes[name],
                groups=tuple(map(tuple, held)),
            )


@dataclass
class _Own:
    """What one module computes and holds by itself, before and after."""

    flops: int = 0
    params: int = 0
    kept_flops: int = 0
    kept_params: int = 0
    line: str = ""


def _modules(graph: Traced, flops: Mapping[fx.Node, int], left: Left | None) -> Iterator[ModuleView]:
    """Every module that runs or holds a parameter, in the order in which they first do, each before what is in it."""
    own: dict[str, _Own] = {"": _Own()}
    for node in graph.groups.axes.regions.order:
        if node.op == "call_function":
            here = own.setdefault(module_of(node), _Own())
            here.flops += flops.get(node, 0)
            here.kept_flops += 0 if left is None else left.flops.get(node, 0)
            here.line = here.line or source_of(node)
    for parameter in _parameters(graph, left):
        here = own.setdefault(parameter.module, _Own())
        here.params += prod(parameter.shape)
        here.kept_params += 0 if left is None else left.params(parameter.name)
    for name in _as_a_tree(own):
        below = [each for other, each in own.items() if not name or other == name or other.startswith(f"{name}.")]
        yield ModuleView(
            name=name,
            type=_type_of(graph, name),
            flops=sum(each.flops for each in below),
            params=sum(each.params for each in below),
            kept_flops=None if left is None else sum(each.kept_flops for each in below),
            kept_params=None if left is None else sum(each.kept_params for each in below),
            source=own[name].line if name in own else "",
        )


def _as_a_tree(names: Iterable[str]) -> Iterator[str]:
    """Names and those of all that they are in, depth first, siblings in the order of their first mention."""
    children: dict[str, dict[str, None]] = {}
    for name in names:
        parts = name.split(".") if name else []
        for depth, part in enumerate(parts):
            parent = ".".join(parts[:depth])
            children.setdefault(parent, {})[f"{parent}.{part}" if parent else part] = None
    waiting = [""]
    while waiting:
        name = waiting.pop()
        yield name
        waiting.extend(reversed(children.get(name, {})))


def _type_of(graph: Traced, name: str) -> str:
    if graph.model is None:
        return ""
    try:
        return type(graph.model.get_submodule(name)).__name__
    except AttributeError:  # a parameter in a dict of parameters: what holds it is no module
        return ""
