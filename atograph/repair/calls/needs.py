"""What each call of the dense model to torch has to become in the slim one: one program laid beside the other."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import Target

from atograph.passes.ir.program import Program
from atograph.passes.ir.reason import module_in, source_of
from atograph.passes.ir.sizes import at
from atograph.passes.rewrite.gather_shuffles import ABSORBED
from atograph.passes.torch_private import ConvNd
from atograph.repair.calls.composites import COMPOSITES
from atograph.repair.calls.constants import Constants, held_by, numbers_of
from atograph.repair.observe.arguments import plain_leaves
from atograph.repair.observe.call_watch import CallSite
from atograph.repair.observe.traced_ints import Remembered, Slot, Wish

_ATEN = torch.ops.aten
_TO_THE_END = 2**63 - 1  # of a slice that nobody gave an end
_PAIRS = {"var_mean", "std_mean"}
"""Calls that the program takes apart into two ops."""
_ALIKE: dict[Target, Target] = {_ATEN.view.default: _ATEN.reshape.default}  # the rewrite turns the one into the other


@dataclass(frozen=True)
class Need:
    """One call of the dense model, and what the slim program does in its place.

    Attributes:
        number: of the call, in the order of the run.
        line: ``file:line`` of it.
        old: arguments of the recorded ops that are no tensors, in order.
        new: the same in the slim program; empty where that has other ops there.
        keywords: arguments that came to it.
        ops: what the slim program does where it has other ops; takes the tensors that the call reads.
        function: what is called in its place with the same arguments, if anything (`composites`).
        impossible: why the call cannot be made to do what the slim program does; empty if it can.
        single: whether it is one op, so that the call's result is that of the op.
        constant: whether it makes a tensor of numbers, which are ``old`` and ``new``.
        held: constants of the program that no call has made and that it takes, the same in both programs.
    """

    number: int
    line: str
    old: tuple[Any, ...]
    new: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    ops: fx.GraphModule | None = None
    function: Callable[..., object] | None = None
    impossible: str = ""
    single: bool = True
    constant: bool = False
    held: tuple[torch.Tensor, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the dense call would not do."""
        return bool(self.ops or self.keywords or self.function or self.impossible) or self.old != self.new


def needs_of(dense: Program, slim: Program) -> dict[CallSite, list[Need]]:
    """For each place in a module's code what its calls have to become, in the order in which they are made.

    Args:
        dense, slim: the program before and after the rewrite, whose sizes are given as they stand there (`for_batch`).
    """
    before, after = _by_number(_alive(dense)), _by_number(_alive(slim))
    found: dict[CallSite, list[Need]] = defaultdict(list)
    programs = dense.constants(), slim.constants()
    for number, nodes in sorted(before.items()):
        slim_nodes = after.get(number, [])
        need = _constant(number, nodes, slim_nodes, programs) or _need(number, nodes, slim_nodes, slim)
        found[_site(nodes[0].meta)].append(replace(need, held=held_by(nodes, slim_nodes, *programs)))
        for meta in _absorbed(nodes, slim_nodes):
            found[_site(meta)].append(Need(meta["call"][1], source_of(nodes[0]), (), ops=_NOTHING))
    return {site: sorted(each, key=lambda need: need.number) for site, each in found.items()}


def for_batch(needs: Mapping[CallSite, Sequence[Need]], batch: int) -> dict[CallSite, list[Need]]:
    """The same needs with the sizes for another batch."""
    return {
        site: [
            need if need.constant else replace(need, old=_sizes(need.old, batch), new=_sizes(need.new, batch))
            for need in each
        ]
        for site, each in needs.items()
    }


COUNTS = {ConvNd: "groups", nn.GroupNorm: "num_groups"}
"""Layers of torch → what in them only their one call reads."""


def count_of_layer(model: nn.Module, site: CallSite, need: Need) -> Wish | None:
    """What the number in a layer of torch has to be that its call takes, where a call differs in nothing else."""
    part = model.get_submodule(site[0])
    changed = [(old, new) for old, new in zip(need.old, need.new, strict=True) if old != new]
    for kind, attribute in COUNTS.items():
        if isinstance(part, kind) and len(changed) == 1 and vars(part).get(attribute) == changed[0][0]:
            return Remembered.in_slot(Slot(site[0], part, (attribute,))), changed[0][1]
    return None


def _site(meta: Mapping[str, Any]) -> CallSite:
    return module_in(meta), meta["call"][0]


def _absorbed(dense: Sequence[fx.Node], slim: Sequence[fx.Node]) -> list[Mapping[str, Any]]:
    """The calls before a gather that the slim module leaves out, because it makes another gather of them."""
    if ABSORBED not in dense[-1].meta or (slim and slim[-1].meta["val"].shape == dense[-1].meta["val"].shape):
        return []
    return [meta for meta in dense[-1].meta[ABSORBED] if "call" in meta]


def _nothing() -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.placeholder("tensor_0"))
    return fx.GraphModule(nn.Module(), graph)


_NOTHING = _nothing()
"""What gives back what it takes."""


def _alive(program: Program) -> list[fx.Node]:
    """The nodes that the result depends on, in order: not what is only asserted."""
    alive: set[fx.Node] = {program.output_node}
    for node in reversed(program.graph.nodes):
        if node in alive:
            alive.update(node.all_input_nodes)
    return [node for node in program.graph.nodes if node in alive]


def _by_number(nodes: Iterable[fx.Node]) -> dict[int, list[fx.Node]]:
    found: dict[int, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        if "call" in node.meta and node.target is not operator.getitem:
            found[node.meta["call"][1]].append(node)
    return found


def _constant(
    number: int, dense: Sequence[fx.Node], slim: Sequence[fx.Node], constants: tuple[Constants, Constants]
) -> Need | None:
    """What a call that makes a tensor of numbers has to become; None for any other call."""
    old, new = numbers_of(dense, constants[0]), numbers_of(slim, constants[1])
    if old is None or new is None or len(old) != len(new):
        return None
    return Need(number, source_of(dense[0]), old, new, constant=True)


def _need(number: int, dense: Sequence[fx.Node], slim: Sequence[fx.Node], program: Program) -> Need:
    line, single = source_of(dense[0]), len(dense) == 1
    composite = COMPOSITES.get(dense[0].meta["call"][0][-1])
    if composite is not None and slim:
        return Need(number, line, single=False, **composite(dense, slim)._asdict())
    if _absorbed(dense, slim) or not _same_form(dense, slim):
        old = [value for node in dense for value in _arguments(node, node.kwargs)]
        ops, impossible = _piece(dense, slim, program)
        return Need(number, line, tuple(old), ops=ops, impossible=impossible, single=single)
    old, new, keywords = [], [], {}
    for a, b in zip(dense, slim, strict=True):
        before, after = _arguments(a, a.kwargs, len(b.args)), _arguments(b, a.kwargs, len(a.args))
        old += before
        new += [x if x == _TO_THE_END else y for x, y in zip(before, after, strict=True)]
        defaults = _defaults(b)
        keywords.update(
            {k: v for k, v in b.kwargs.items() if k not in a.kwargs and not (k in defaults and defaults[k] == v)}
        )
    return Need(number, line, tuple(old), tuple(new), keywords, single=single)


def _same_form(dense: Sequence[fx.Node], slim: Sequence[fx.Node]) -> bool:
    """Whether the same ops take as many plain arguments: a list of them may have grown or shrunk."""
    return _targets(dense) == _targets(slim) and all(
        len(_arguments(a, a.kwargs, len(b.args))) == len(_arguments(b, a.kwargs, len(a.args)))
        for a, b in zip(dense, slim, strict=True)
    )


def _targets(nodes: Sequence[fx.Node]) -> list[Target]:
    return [_ALIKE.get(node.target, node.target) for node in nodes]


def _arguments(node: fx.Node, keywords: Iterable[str], least: int = 0) -> list[object]:
    """The plain arguments of a node, numbers that nodes compute among them; so many by position, defaults included."""
    args, defaults = node.args, _defaults(node)
    if len(args) < least:
        args = (*args, *(node.kwargs.get(name, value) for name, value in list(defaults.items())[len(args) : least]))
    given = (args, [node.kwargs.get(name, defaults.get(name)) for name in keywords])
    values = [leaf.meta.get("val") if isinstance(leaf, fx.Node) else leaf for leaf in plain_leaves(given)]
    return [value for value in values if not isinstance(value, (torch.Tensor, tuple, list))]


def _defaults(node: fx.Node) -> dict[str, Any]:
    """The arguments that an op takes, in order, with what they are where nobody says anything."""
    schema = getattr(node.target, "_schema", None)
    return {} if schema is None else {argument.name: argument.default_value for argument in schema.arguments}


def _sizes(values: Iterable[object], batch: int) -> tuple[object, ...]:
    return tuple(at(value, batch) if type(value) is int and value != _TO_THE_END else value for value in values)


def _piece(dense: Sequence[fx.Node], slim: Sequence[fx.Node], program: Program) -> tuple[fx.GraphModule | None, str]:
    """Some ops of the slim program as a function of the tensors that the dense ones read; or why there is none."""
    if not slim and ABSORBED in dense[-1].meta:
        return _NOTHING, ""
    reads = [node for node in dict.fromkeys(i for n in dense for i in n.all_input_nodes) if node not in dense]
    outside = [node for node in dict.fromkeys(i for n in slim for i in n.all_input_nodes) if node not in slim]
    pair = dense[0].meta["call"][0][-1] in _PAIRS
    results = [node for old in dense for node in slim if old.name in node.meta["gives"]]
    if len(results) != len(dense) or (len(dense) > 1 and not pair):
        return None, "the slim program has no counterpart of it"
    graph, copies, held, constants = fx.Graph(), dict[fx.Node, fx.Node](), nn.Module(), program.constants()
    for number, node in enumerate(node for node in reads if not _is_order(node, dense)):
        placeholder = graph.placeholder(f"tensor_{number}")
        copies.update({new: placeholder for new in outside if node.name in new.meta["gives"]})
    for node in outside:
        if node in constants and copies:
            held.register_buffer(node.name, constants[node], persistent=False)
            copies[node] = graph.call_function(beside, (graph.get_attr(node.name), next(iter(copies.values()))))
    if missing := [node.name for node in outside if node not in copies]:
        return None, f"it would need {missing[0]}, which the call does not have"
    for node in slim:
        args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
        copies[node] = graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
    each = tuple(copies[node] for node in results)
    graph.output((each[0], each[-1]) if pair else each[0])  # one of a pair that nobody reads may be any tensor
    return fx.GraphModule(held, graph), ""


def _is_order(node: fx.Node, dense: Sequence[fx.Node]) -> bool:
    """Whether a node is the order of a gather, which no call takes."""
    return ABSORBED in dense[-1].meta and node is dense[-1].args[2]


def beside(constant: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A constant on the device of a tensor."""
    return constant.to(tensor.device)
