"""``slim``: remove the units that a plan drops. Shapes are derived again from the axes, never patched."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.analysis.groups import Groups
from atograph.passes.axes.dims import Axis, Dim, axes_of, dim_of, evaluate
from atograph.passes.base import RewritePass
from atograph.passes.cleanup.cse import share_sizes
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.decisions import drop_checks
from atograph.passes.ir.express import build
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.interface import Example
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program, copy_node
from atograph.passes.ir.propagate import mode_of, propagate
from atograph.passes.ir.randomness import drop_dead_code
from atograph.passes.ir.reason import ORIGIN
from atograph.passes.ir.regions.control import Control
from atograph.passes.ir.regions.regions import Regions
from atograph.passes.ir.sizes import is_dynamic, text
from atograph.passes.ir.state import carried
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.arguments import Slot, argument_at, set_argument, slot_of
from atograph.passes.rewrite.cut_state import with_cut_state
from atograph.passes.rewrite.kept import Kept
from atograph.passes.rewrite.leftovers import Leftovers
from atograph.passes.rewrite.scopes import Scope
from atograph.passes.torch_private import pytree

aten = torch.ops.aten


@dataclass(frozen=True)
class SlimProgram(RewritePass):
    """Slice every parameter and buffer, and print every argument that restates a size again.

    Options:
        plan: the plan to carry out; without it, the plan that an earlier pass left on the program.
    """

    name = "slim"
    compares_shapes = True
    plan: Plan | None = None

    def rewrite(self, program: Program) -> Program:
        """The program without the units that the plan drops.

        Raises:
            UserError: the plan does not fit the program.
        """
        kept = Kept.by(self._plan_for(program), program)
        return slimmed_by(program, kept) if kept else program

    def equivalent(self, given: Program) -> Program:
        """The program with the units that go at zero, which carries no state of them."""
        plan, state = self._plan_for(given), dict(given.state)
        for name, slices in plan.zeroing.items():
            units = plan.mask(name)
            for part in () if bool(units.all()) else slices:
                tensor = state[part.parameter]
                along = part.mask(units).to(tensor.device).reshape([-1, *[1] * (tensor.dim() - part.dim - 1)])
                state[part.parameter] = tensor.detach().masked_fill(along == 0, 0.0)
        if not carried(given):
            return given.rewritten(given.graph, state)
        kept = Kept.by(plan, given)
        return with_cut_state(given, state, lambda node: kept.cuts(kept.axes.shape(node)))

    def broken(self, given: Program, result: Program) -> Iterator[str]:
        """No parameter has an old size, and what the plan leaves alone is the very same tensor."""
        groups, plan = given.fact(Groups), self._plan_for(given)
        dropped = {
            group.axis: group.size - len(plan.kept[group.name]) for group in groups.prunable if group.name in plan.kept
        }
        for node, name in given.state_nodes():
            before, after = given.state[name], result.state.get(name)
            if after is None:
                continue
            sizes = [evaluate(dim, lambda axis: axis.size - dropped.get(axis, 0)) for dim in groups.axes.shape(node)]
            if list(after.shape) != sizes:
                yield f"{name} has the shape {tuple(after.shape)}, and the plan leaves {tuple(sizes)}"
            elif after.shape == before.shape and after is not before:
                yield f"{name}, which keeps all its units, is another tensor"

    def _plan_for(self, program: Program) -> Plan:
        plan = self.plan or program.facts.get(Plan)
        if plan is None:
            raise UserError("the pass 'slim' has no plan.", hint="Write slim{plan=plan.json}.")
        return plan


def slimmed_by(program: Program, kept: Kept, state: Mapping[str, torch.Tensor] | None = None) -> Program:
    """A program, whose axes have been inferred, without the units that do not stay; ``state``: other values of it."""
    return _Rewrite(program, kept, state).run()


def recomputed(program: Program, kept: Kept) -> Iterator[tuple[fx.Node, set[Axis]]]:
    """The nodes of a program that a rewrite computes otherwise than with other sizes, with the axes that shrink there.

    A layer norm that goes on dividing by its old width is one, and attention that keeps the scale of its old one: the
    same model made with the new widths would compute something else.
    """
    rewrite = _Rewrite(program, kept)
    rewrite.place_all()
    for node in rewrite.lowered:
        if not rewrite.does_the_same(node):
            yield node, rewrite.shrunken(node)


class _Lowering:
    """Writes nodes for a rule: `rules.table.Lowering`."""

    def __init__(self, node: fx.Node, rewrite: _Rewrite) -> None:
        self.node, self._rewrite = node, rewrite

    def value(self, old: fx.Node) -> fx.Node:
        return self._rewrite.nodes[old]

    def size(self, dim: Dim) -> Any:
        return self._rewrite.printed(self._rewrite.kept.size(dim))

    def share(self, dim: Dim) -> float:
        return self._rewrite.kept.size(dim) / dim.size

    def constants(self) -> list[float]:
        known = self._rewrite.program.fact(Groups).zero_sets.constants.get(self.node, {})
        return sorted({value for axis, value in known.items() if self._rewrite.kept.shrinks(dim_of(axis))})

    def order(self, source: Dim, dim: Dim, order: torch.Tensor) -> torch.Tensor:
        kept = self._rewrite.kept
        chosen = order.numpy()[kept.indices(dim)]
        return torch.from_numpy(np.searchsorted(kept.indices(source), chosen))

    def constant(self, value: torch.Tensor, name: str) -> fx.Node:
        return self._rewrite.constant(value, name)

    def call(self, target: Any, *args: Argument, **kwargs: Argument) -> fx.Node:
        nodes = self._rewrite.nodes
        mapped = fx.map_arg((args, kwargs), lambda n: nodes.get(n, n))
        made = self._rewrite.graph.call_function(target, *mapped)
        made.meta = {k: v for k, v in self.node.meta.items() if k in ORIGIN}
        return made

    def unchanged(self) -> fx.Node:
        return self._rewrite.copy(self.node)


class _Rewrite:
    def __init__(self, program: Program, kept: Kept, state: Mapping[str, torch.Tensor] | None = None) -> None:
        self.program, self.axes, self.kept = program, kept.axes, kept
        self._state = program.state if state is None else state
        self._scopes = [Scope(program.input_nodes(), program)]
        self.nodes: dict[fx.Node, fx.Node] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self._parts: dict[Any, tuple[fx.Node, ...]] = {}  # old nodes of several outputs → what gives each of these
        self.lowered: list[fx.Node] = []  # old nodes whose rules have rewritten them
        self._shrunk: set[fx.Node] = set()  # numbers of the new graph that are less than they were
        self._leftovers: Leftovers | None = None
        if kept.rest is not None:
            self._leftovers = Leftovers(
                self.axes, kept.rest, self.graph, self.nodes,
                lambda dim: self.printed(self.kept.size(dim)), self.constant,
            )  # fmt: skip

    @property
    def graph(self) -> fx.Graph:
        """The graph that is being made just now."""
        return self._scopes[-1].graph

    def run(self) -> Program:
        state = {
            name: self.kept.slice(self._state[name], self.axes.shape(node)) for node, name in self.program.state_nodes()
        }
        self.place_all()
        (own,) = self._scopes
        root = own.complete()
        same = share_sizes(self.graph)
        self.nodes = {old: same.get(new, new) for old, new in self.nodes.items()}
        self._note_origins()
        if not self.program.interface.checked:
            drop_checks(self.graph)
        drop_dead_code(self.graph, root)
        names = self.program.state_names()
        propagate(self.graph, {placeholder: state[name] for placeholder, name in names.items()} | self._inputs(), root)
        self._check_shapes()
        program = self.program.rewritten(self.graph, state | self.constants, root)
        program.interface = replace(program.interface, example=self._example())
        return program

    def place_all(self) -> None:
        """Give all nodes their places in the new graph."""
        for node in self.program.graph.nodes:
            if self._leftovers is None or not self._leftovers.lay(node, partial(self.copy, node)):
                self._place(node)
            elif isinstance(new := self.nodes.get(node), fx.Node):
                self._note_sizes(node, new)

    def does_the_same(self, node: fx.Node) -> bool:
        """Whether what a rule has written for a node is the same op, of equal pieces where it gives several."""
        new, pieces = self.nodes.get(node), self.axes.shapes[node]
        if new is None or len(pieces) > 1:
            before = {tuple(dim.size for dim in piece) for piece in pieces}
            return len({tuple(map(self.kept.size, piece)) for piece in pieces}) <= len(before)
        same = new.target in (node.target, aten.reshape.default)
        return same and new.kwargs.keys() == node.kwargs.keys() and len(new.args) == len(node.args)

    def shrunken(self, node: fx.Node) -> set[Axis]:
        """The axes that lose units and stand in what a node takes or gives."""
        shapes = [shape for each in (node, *node.all_input_nodes) for shape in self.axes.shapes.get(each, ())]
        axes = {axis for shape in shapes for dim in shape for axis in axes_of(self.axes.resolve(dim))}
        return {axis for axis in axes if self.kept.shrinks(dim_of(axis))}

    def _place(self, node: fx.Node) -> None:
        """Give a node its place in the new graph."""
        effect = self.axes.effects.get(node)
        if node.target is operator.getitem and node.args[0] in self._parts:
            self.nodes[node] = self._parts[node.args[0]][node.args[1]]  # type: ignore[index]
        elif (control := self.axes.regions.controls.get(node)) is not None:
            self.nodes[node] = self._copy_control(control)
        elif effect is not None and effect.lower is not None and self._touched(node):
            self.lowered.append(node)
            lowered = effect.lower(_Lowering(node, self))
            if not isinstance(lowered, fx.Node):
                self._parts[node] = tuple(lowered)
                return
            self.nodes[node] = lowered
        else:
            self.nodes[node] = self.copy(node)
        self._note_sizes(node, self.nodes[node])

    def _copy_control(self, control: Control) -> fx.Node:
        """An op of control flow with new regions, which take in what is new in them."""
        made: list[Scope] = []
        for region in control.regions:
            made.append(Scope(list(region.takes), region.module))
            self._scopes.append(made[-1])
            for node in region.module.graph.nodes:
                self._place(node)
            self._scopes.pop()
        lifted = list(dict.fromkeys(value for scope in made for value in scope.lifted))
        for region, scope in zip(control.regions, made, strict=True):
            self._scopes[-1].put(region.name, scope.finished(lifted))
        copied = self.copy(control.node)
        *others, operands = copied.args
        copied.args = (*others, (*operands, *lifted))  # type: ignore[misc]
        return copied

    def _lift(self, value: fx.Node, depth: int = 0) -> fx.Node:
        """A value of the graph so many scopes deep in the one that is being made."""
        for scope in self._scopes[depth + 1 :]:
            value = scope.lift(value)
        return value

    def _inputs(self) -> dict[str, torch.Tensor]:
        """The inputs that shrink, which are state, without data."""
        mode, inputs = mode_of(self.program.graph), dict[str, torch.Tensor]()
        for node in carried(self.program):
            shape, value = self.axes.shape(node), node.meta["val"]
            if any(map(self.kept.shrinks, shape)):
                sizes = [int(self.kept.size(dim)) for dim in shape]
                inputs[node.name] = empty(mode, sizes, value.dtype, value.device)
        return inputs

    def _example(self) -> Example | None:
        """The example inputs, state without the units that go."""
        interface = self.program.interface
        shapes = {node.name: self.axes.shape(node) for node in carried(self.program)}
        leaves, structure = pytree.tree_flatten(interface.example)
        if interface.example is None or not shapes:
            return interface.example
        cut = [
            self.kept.slice(leaf, shapes[name]) if name in shapes else leaf
            for name, leaf in zip(interface.inputs, leaves, strict=True)
        ]
        example: Example = pytree.tree_unflatten(cut, structure)
        return example

    def _note_origins(self) -> None:
        """Note at each node of the new graph the names of the old ones whose value it gives now."""
        for new in self.graph.nodes:
            new.meta["gives"] = ()
        for node, new in self.nodes.items():
            new.meta["gives"] = (*new.meta.get("gives", ()), node.name)

    def _touched(self, node: fx.Node) -> bool:
        involved = [node, *node.all_input_nodes]
        return any(self.kept.shrinks(dim) for n in involved for shape in self.axes.shapes.get(n, ()) for dim in shape)

    def constant(self, value: torch.Tensor, name: str) -> fx.Node:
        """A new constant of the program."""
        made = self.program.new_constant(self._scopes[0].graph, value, name)
        self.constants[made.name] = value
        return self._lift(made)

    def copy(self, node: fx.Node, nodes: Mapping[fx.Node, fx.Node] | None = None) -> fx.Node:
        """A node of the new graph like an old one, with its sizes printed again; ``nodes``: where its operands are."""
        copied = copy_node(self.graph, node, self.nodes if nodes is None else nodes)
        if copied.target is torch.ops.aten.view.default:  # over other sizes, memory may lie in another order
            copied.target = torch.ops.aten.reshape.default
        effect = self.axes.effects.get(node)
        if effect is None:
            return copied
        for name, dims in effect.sizes.items():
            self._print_size(copied, slot_of(node, name), dims)
        for name, before in effect.positions.items():
            slot = slot_of(node, name)
            index = argument_at(copied, slot)
            from_the_end = isinstance(index, int) and index < 0 and self._cut_dim_shrinks(node)
            if from_the_end or self.kept.shrinks(before):
                set_argument(copied, slot, self.printed(self.kept.size(before), copied))
        return copied

    def _cut_dim_shrinks(self, node: fx.Node) -> bool:
        """Whether a dim that a node takes a part of shrinks."""
        x, dim = node.args[0], argument_at(node, slot_of(node, "dim"))
        return self.kept.shrinks(self.axes.shape(x)[dim or 0])  # type: ignore[arg-type]

    def _print_size(self, copied: fx.Node, slot: Slot, dims: Dim | Sequence[Dim | None]) -> None:
        """Print one argument again, where a dim in it shrinks."""
        each = [dims] if isinstance(dims, Dim) else list(dims)
        old = argument_at(copied, slot)
        before_each = old if isinstance(old, (list, tuple)) else [old]
        new: list[Argument] = [
            self.printed(self.kept.size(dim), copied) if dim is not None and self._is_stale(before, dim) else before
            for before, dim in zip(before_each, each, strict=True)
        ]
        if all(before is after for before, after in zip(before_each, new, strict=True)):
            return
        set_argument(copied, slot, new[0] if isinstance(dims, Dim) else new)

    def _is_stale(self, argument: object, dim: Dim) -> bool:
        """Whether an argument, copied from the old graph, is not the size that the dim has now."""
        return argument != -1 and (self.kept.shrinks(dim) or argument in self._shrunk)

    def printed(self, size: int, before: fx.Node | None = None) -> int | fx.Node:
        """A size as an argument: an int, or arithmetic on dynamic sizes put before a node."""
        if not is_dynamic(size):
            return size
        part = self._scopes[-1].holders.express(size, before)
        if part is None:
            raise InternalError(f"no sizes of the program tell the size {size!r}.")
        with self.graph.inserting_before(before) if before is not None else self.graph.inserting_after():
            result: fx.Node = build(part, lambda known: fx.Proxy(self._symbol(known))).node
        return result

    def _note_sizes(self, node: fx.Node, new: fx.Node) -> None:
        """Remember what a node of the new graph tells: numbers, and sizes that are others at other points."""
        if type(node.meta.get("val")) is int:
            if self._tells_less(node):
                self._shrunk.add(new)
            else:
                self._scopes[-1].holders.add(self.axes.points.size(node), new)
        elif self.axes.points and isinstance(node.meta.get("val"), torch.Tensor) and node in self.axes.shapes:
            for index, dim in enumerate(self.axes.shape(node)):
                if not self.kept.shrinks(dim):
                    self._scopes[-1].holders.add(dim.size, new, index)

    def _tells_less(self, node: fx.Node) -> bool:
        """Whether a number of the old graph is the size of a dim that shrinks, or computed from one."""
        if node.target is aten.sym_size.int:
            x, index = node.args
            return self.kept.shrinks(self.axes.shape(x)[index])  # type: ignore[arg-type, index]
        return any(self.nodes.get(each) in self._shrunk for each in node.all_input_nodes)

    def _symbol(self, known: int) -> fx.Node:
        """A node of the new graph that holds a dynamic size."""
        holders = self._scopes[-1].holders
        if known in holders:
            node, index = holders[known]
            return node if index is None else self.graph.call_function(aten.sym_size.int, (node, index))
        for depth, scope in reversed(list(enumerate(self._scopes))):
            for node in scope.inputs:
                for index, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
                    if size == known:
                        held = scope.graph.call_function(aten.sym_size.int, (self.nodes[node], index))
                        return self._lift(held, depth)
        raise InternalError(f"no value of the program holds the dynamic size {text(known)}.")

    def _check_shapes(self) -> None:
        """Every value's shape must be the one that its axes give."""
        root = self._scopes[0].root
        alive = set(Regions(self.graph, root).order)
        points = Points(self.graph, self.program.interface.dynamic, root)
        for node, new in self.nodes.items():
            if new not in alive or node not in self.axes.shapes:
                continue
            values = new.meta["val"] if isinstance(new.meta["val"], (tuple, list)) else [new.meta["val"]]
            for output, (value, shape) in enumerate(zip(values, self.axes.shapes[node], strict=False)):
                if not isinstance(value, torch.Tensor) or shape == ():
                    continue
                found = points.shape(new, output)
                wanted = tuple(self.kept.size(dim) for dim in shape)
                if found != wanted:
                    raise InternalError(f"slim node {new.name} has shape {found}, its axes say {wanted}.")
