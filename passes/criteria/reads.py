"""What ops read of the units of groups, while a program runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, fx

from atograph.passes.analysis.groups import Groups
from atograph.passes.analysis.slices import Slice
from atograph.passes.axes.dims import axes_of
from atograph.passes.axes.flow import Affine
from atograph.passes.axes.placements import placements
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule


class Reads:
    """Runs a program and tells, for each op that sums over units, what it reads of them.

    Args:
        program: with its axes and groups.
        tensors: parameters and buffers by name where they are others than those that the program holds.
        device: where to run it.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self._program, self._called = program, ProgramModule(program)
        self._state = {
            node.name: tensors.get(name, program.state[name]).detach().to(device)
            for node, name in program.state_nodes()
        }
        self._reads = {node: list(_reads_of(program, node)) for node in program.graph.nodes}

    @torch.no_grad()
    def run(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], tell: Callable[[Mapping[str, Tensor]], None]
    ) -> None:
        """Run the program on one call's arguments.

        Args:
            args, kwargs: what the model was called with.
            tell: called with group → ``[size, n]`` once for each op that reads units.

        Raises:
            UserError: the arguments are not of the structure or the sizes that the program was captured with.
        """
        values = {**self._state, **self._called.inputs_of(args, kwargs)}
        inputs = [values[node.name] for node in self._program.graph.nodes if node.op == "placeholder"]
        _Reading(self._program, self._reads, tell).run(*inputs)


class _Read(NamedTuple):
    """One dimension of a value that a node reads, and the unit of a group that each of its indices belongs to."""

    source: fx.Node
    dim: int
    group: str
    size: int
    units: Tensor


def _reads_of(program: Program, node: fx.Node) -> Iterator[_Read]:
    """What a node sums over, of values that are no state."""
    found = program.fact(Groups)
    axes, groups = found.axes, found.by_axis()
    effect = axes.effects.get(node)
    flow = effect.flow if effect is not None else None
    for contraction in flow.contractions if isinstance(flow, Affine) else ():
        summed = set(axes_of(axes.resolve(contraction.over)))
        for source, dim in contraction.sites:
            if source.op == "placeholder" and source.name in program.state_names():
                continue
            along = axes.shape(source)[dim]
            for axis, places in placements(along).items():
                if axis in summed and axis in groups and groups[axis].frozen is None:
                    for place in places:
                        part = Slice(
                            parameter=source.name, dim=dim, length=along.size, size=axis.size, **place._asdict()
                        )
                        yield _Read(source, dim, groups[axis].name, axis.size, part.units)


class _Reading(fx.Interpreter):
    """Runs a program node by node, and looks at what is about to be read."""

    def __init__(
        self,
        program: Program,
        reads: Mapping[fx.Node, list[_Read]],
        tell: Callable[[Mapping[str, Tensor]], None],
    ) -> None:
        super().__init__(program)
        self._reads, self._tell = reads, tell

    def run_node(self, n: fx.Node) -> object:
        """Run one node."""
        for read in self._reads[n]:
            value = self.env[read.source]
            if isinstance(value, Tensor) and value.numel():
                order = torch.argsort(read.units, stable=True)[int((read.units < 0).sum()) :]
                rows = value.movedim(read.dim, 0)[order.to(value.device)]
                self._tell({read.group: rows.reshape(read.size, -1)})
        return super().run_node(n)
