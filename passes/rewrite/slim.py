"""``slim``: remove the units that a plan drops. Shapes are derived again from the axes, never patched."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.analysis.branches import Branches
from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Axis, Dim, Indices, axes_of, dim_of, evaluate, kept_indices
from atograph.passes.base import RewritePass
from atograph.passes.cleanup.cse import share_sizes
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.decisions import drop_checks
from atograph.passes.ir.express import Holders, build
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.interface import Example
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program, copy_node
from atograph.passes.ir.propagate import mode_of, propagate
from atograph.passes.ir.randomness import drop_dead_code
from atograph.passes.ir.reason import ORIGIN
from atograph.passes.ir.sizes import is_dynamic, text
from atograph.passes.ir.state import carried
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.leftovers import Leftovers
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
        """The program with the units that go at zero."""
        plan, state = self._plan_for(given), dict(given.state)
        for name, slices in plan.zeroing.items():
            units = plan.mask(name)
            for part in () if bool(units.all()) else slices:
                tensor = state[part.parameter]
                along = part.mask(units).to(tensor.device).reshape([-1, *[1] * (tensor.dim() - part.dim - 1)])
                state[part.parameter] = tensor.detach().masked_fill(along == 0, 0.0)
        return given.rewritten(given.graph, state)

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
    for node in program.graph.nodes:
        if rewrite.lay(node) and not rewrite.does_the_same(node):
            yield node, rewrite.shrunken(node)


class Kept:
    """Which units of each axis stay, and what follows for dims.

    Args:
        kept: the units of each axis that loses some.
        axes: of the program.
        branches: of the program; without it, none may lose all of its units.

    Attributes:
        rest: what is left where axes lose all of their units; None where none does.
    """

    def __init__(self, kept: dict[Axis, Indices], axes: Axes, branches: Branches | None = None) -> None:
        self._kept, self.axes = kept, axes
        emptied = [axis for axis, units in kept.items() if not len(units)]
        self.rest = branches.without(emptied) if branches is not None and emptied else None

    @classmethod
    def by(cls, plan: Plan, program: Program) -> Kept:
        """What a plan keeps of a program.

        Raises:
            UserError: the plan does not fit the program.
        """
        groups = program.fact(Groups)
        plan.check(groups)
        kept = {
            group.axis: np.asarray(plan.kept[group.name], dtype=np.int64)
            for group in groups.prunable
            if len(plan.kept.get(group.name, range(group.size))) < group.size
        }
        return cls(kept, groups.axes, groups.branches)

    def __bool__(self) -> bool:
        """Whether any unit goes."""
        return bool(self._kept)

    def shrinks(self, dim: Dim) -> bool:
        """Whether the dim loses any index."""
        return any(axis in self._kept for axis in axes_of(self.axes.resolve(dim)))

    def size(self, dim: Dim) -> int:
        """The dim's new size."""
        return evaluate(self.axes.resolve(dim), lambda a: len(self._kept[a]) if a in self._kept else a.size)

    def indices(self, dim: Dim) -> Indices:
        """The indices along the dim that stay."""
        resolved = self.axes.resolve(dim)
        return kept_indices(resolved, lambda a: self._kept[a] if a in self._kept else np.arange(a.size))

    def cuts(self, shape: Sequence[Dim]) -> tuple[Indices | None, ...]:
        """For each dim the indices that stay; None where all of them do."""
        return tuple(self.indices(dim) if self.shrinks(dim) else None for dim in shape)

    def state_cuts(self, program: Program) -> dict[str, tuple[Indices | None, ...]]:
        """The `cuts` of each state tensor of a program whose axes have been inferred, by name."""
        return {name: self.cuts(self.axes.shape(node)) for node, name in program.state_nodes()}

    def slice(self, tensor: torch.Tensor, shape: Sequence[Dim]) -> torch.Tensor:
        """The part of a state tensor that stays; a parameter stays a parameter."""
        sliced = tensor.detach()
        for index, kept in enumerate(self.cuts(shape)):
            if kept is not None:
                sliced = sliced.index_select(index, torch.from_numpy(kept).to(tensor.device))
        if sliced is tensor or sliced.shape == tensor.shape:
            return tensor
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        return torch.nn.Parameter(sliced, requires_grad=tensor.requires_grad) if is_parameter else sliced


Slot: TypeAlias = int | str
"""Of an argument of a node: its position, or its keyword."""


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
        self.graph = fx.Graph()
        self.nodes: dict[fx.Node, fx.Node] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self._parts: dict[Any, tuple[fx.Node, ...]] = {}  # old nodes of several outputs → what gives each of these
        self._holders = Holders()
        self._shrunk: set[fx.Node] = set()  # numbers of the new graph that are less than they were
        self._leftovers: Leftovers | None = None
        if kept.rest is not None:
            self._leftovers = Leftovers(
                self.axes, kept.rest, self.graph, self.nodes,
                lambda dim: self.printed(self.kept.size(dim)), self.constant,
            )  # fmt: skip

    def run(self) -> Program:
        state = {
            name: self.kept.slice(self._state[name], self.axes.shape(node)) for node, name in self.program.state_nodes()
        }
        for node in self.program.graph.nodes:
            self.lay(node)
        same = share_sizes(self.graph)
        self.nodes = {old: same.get(new, new) for old, new in self.nodes.items()}
        self._note_origins()
        if not self.program.interface.checked:
            drop_checks(self.graph)
        drop_dead_code(self.graph)
        names = self.program.state_names()
        propagate(self.graph, {placeholder: state[name] for placeholder, name in names.items()} | self._inputs())
        self._check_shapes()
        program = self.program.rewritten(self.graph, state | self.constants)
        program.interface = replace(program.interface, example=self._example())
        return program

    def lay(self, node: fx.Node) -> bool:
        """Write what is to stand for one node of the old graph, after all nodes before it.

        Returns:
            Whether its rule was asked for it: it is not simply the same op with its sizes printed again.
        """
        if self._leftovers is not None and self._leftovers.lay(node, partial(self.copy, node)):
            if isinstance(new := self.nodes.get(node), fx.Node):
                self._note_sizes(node, new)
            return False
        effect = self.axes.effects.get(node)
        if node.target is operator.getitem and node.args[0] in self._parts:
            self.nodes[node] = self._parts[node.args[0]][node.args[1]]
        elif effect is not None and effect.lower is not None and self._touched(node):
            lowered = effect.lower(_Lowering(node, self))
            if not isinstance(lowered, fx.Node):
                self._parts[node] = tuple(lowered)
                return True
            self.nodes[node] = lowered
            self._note_sizes(node, lowered)
            return True
        else:
            self.nodes[node] = self.copy(node)
        self._note_sizes(node, self.nodes[node])
        return False

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
            new.meta["gives"] = (*new.meta["gives"], node.name)

    def _touched(self, node: fx.Node) -> bool:
        involved = [node, *node.all_input_nodes]
        return any(self.kept.shrinks(dim) for n in involved for shape in self.axes.shapes.get(n, ()) for dim in shape)

    def constant(self, value: torch.Tensor, name: str) -> fx.Node:
        """A new constant of the program."""
        made = self.program.new_constant(self.graph, value, name)
        self.constants[made.name] = value
        return made

    def copy(self, node: fx.Node, nodes: Mapping[fx.Node, fx.Node] | None = None) -> fx.Node:
        """A node of the new graph like an old one, with its sizes printed again; ``nodes``: where its operands are."""
        copied = copy_node(self.graph, node, self.nodes if nodes is None else nodes)
        if copied.target is torch.ops.aten.view.default:  # over other sizes, memory may lie in another order
            copied.target = torch.ops.aten.reshape.default
        effect = self.axes.effects.get(node)
        if effect is None:
            return copied
        for name, dims in effect.sizes.items():
            self._print_size(copied, _slot(node, name), dims)
        for name, before in effect.positions.items():
            slot = _slot(node, name)
            index = _argument(copied, slot)
            from_the_end = isinstance(index, int) and index < 0 and self._cut_dim_shrinks(node)
            if from_the_end or self.kept.shrinks(before):
                _set_argument(copied, slot, self.printed(self.kept.size(before), copied))
        return copied

    def _cut_dim_shrinks(self, node: fx.Node) -> bool:
        """Whether a dim that a node takes a part of shrinks."""
        x, dim = node.args[0], _argument(node, _slot(node, "dim"))
        return self.kept.shrinks(self.axes.shape(x)[dim or 0])  # type: ignore[arg-type]

    def _print_size(self, copied: fx.Node, slot: Slot, dims: Dim | Sequence[Dim | None]) -> None:
        """Print one argument again, where a dim in it shrinks."""
        each = [dims] if isinstance(dims, Dim) else list(dims)
        old = _argument(copied, slot)
        before_each = old if isinstance(old, (list, tuple)) else [old]
        new: list[Argument] = [
            self.printed(self.kept.size(dim), copied) if dim is not None and self._is_stale(before, dim) else before
            for before, dim in zip(before_each, each, strict=True)
        ]
        if all(before is after for before, after in zip(before_each, new, strict=True)):
            return
        _set_argument(copied, slot, new[0] if isinstance(dims, Dim) else new)

    def _is_stale(self, argument: object, dim: Dim) -> bool:
        """Whether an argument, copied from the old graph, is not the size that the dim has now."""
        return argument != -1 and (self.kept.shrinks(dim) or argument in self._shrunk)

    def printed(self, size: int, before: fx.Node | None = None) -> int | fx.Node:
        """A size as an argument: an int, or arithmetic on dynamic sizes put before a node."""
        if not is_dynamic(size):
            return size
        part = self._holders.express(size, before)
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
                self._holders.add(self.axes.points.size(node), new)
        elif self.axes.points and isinstance(node.meta.get("val"), torch.Tensor) and node in self.axes.shapes:
            for index, dim in enumerate(self.axes.shape(node)):
                if not self.kept.shrinks(dim):
                    self._holders.add(dim.size, new, index)

    def _tells_less(self, node: fx.Node) -> bool:
        """Whether a number of the old graph is the size of a dim that shrinks, or computed from one."""
        if node.target is aten.sym_size.int:
            x, index = node.args
            return self.kept.shrinks(self.axes.shape(x)[index])  # type: ignore[arg-type, index]
        return any(self.nodes.get(each) in self._shrunk for each in node.all_input_nodes)

    def _symbol(self, known: int) -> fx.Node:
        """A node of the new graph that holds a dynamic size."""
        if known in self._holders:
            node, index = self._holders[known]
            return node if index is None else self.graph.call_function(aten.sym_size.int, (node, index))
        for node in self.program.input_nodes():
            for index, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
                if size == known:
                    return self.graph.call_function(aten.sym_size.int, (self.nodes[node], index))
        raise InternalError(f"no value of the program holds the dynamic size {text(known)}.")

    def _check_shapes(self) -> None:
        """Every value's shape must be the one that its axes give."""
        alive, points = set(self.graph.nodes), Points(self.graph, self.program.interface.dynamic)
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


def _slot(node: fx.Node, name: str) -> Slot:
    """Where an argument of a name in the schema stands."""
    arguments = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    position = arguments.index(name)
    return position if position < len(node.args) else name


def _argument(node: fx.Node, slot: Slot) -> Any:
    """The argument at a slot; None where it is not given."""
    return node.args[slot] if isinstance(slot, int) else node.kwargs.get(slot)


def _set_argument(node: fx.Node, slot: Slot, value: Argument) -> None:
    node.meta.pop("val", None)  # to be derived anew, whatever its inputs are
    if isinstance(slot, int):
        node.update_arg(slot, value)
    else:
        node.update_kwarg(slot, value)
