"""What branches leave behind whose units are all gone: constants that are no larger than they have to be.

A bias of C channels stands for a tensor [N, C, H, W] as [1, C, 1, 1]: it is thin. Elementwise ops take it as it is,
since it broadcasts, and give something thin again or, beside a whole tensor, something whole. A zero that is added to
a whole tensor leaves that tensor. For all other ops it is expanded.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.analysis.branches import Rest
from atograph.passes.analysis.infer_axes import Axes
from atograph.passes.axes.dims import Dim
from atograph.passes.axes.flow import Keep, Map, Operand
from atograph.passes.ir.reason import ORIGIN

aten = torch.ops.aten

_SUMS = (aten.add.Tensor, aten.sub.Tensor)
_ONTO_THEMSELVES = (aten.dropout.default, aten.clone.default)


class Leftovers:
    """Lays down what is left, for a rewrite that copies node by node.

    Args:
        axes: of the program that is rewritten.
        rest: what is left of it.
        graph: the new graph.
        nodes: old node → new one, as far as the rewrite has come; those that were expanded are added.
        size: what stands for a dim in the new graph: its size, or a node.
        constant: makes a constant.
    """

    def __init__(
        self,
        axes: Axes,
        rest: Rest,
        graph: fx.Graph,
        nodes: dict[fx.Node, fx.Node],
        size: Callable[[Dim], Any],
        constant: Callable[[torch.Tensor, str], fx.Node],
    ) -> None:
        self._axes, self._rest, self._graph, self._nodes = axes, rest, graph, nodes
        self._size, self._constant = size, constant
        self._thin: dict[fx.Node, fx.Node] = {}
        self._narrow: dict[
            fx.Node, tuple[bool, ...]
        ] = {}  # of each dim of a thin value: is it 1 where it should not be
        self._zeros: dict[tuple[object, ...], fx.Node] = {}

    def lay(self, node: fx.Node, copy: Callable[[Mapping[fx.Node, fx.Node]], fx.Node]) -> bool:
        """Give a node its place in the new graph, if it is gone, a constant, or takes something thin as it is.

        Args:
            node: of the old graph.
            copy: copies it to the new one, given where to find its operands.

        Returns:
            Whether the node is done with; what it reads is whole if it is not.
        """
        rest, inputs = self._rest, node.all_input_nodes
        if node.op == "placeholder":
            return False
        if node in rest.gone:
            return True
        if node in rest.zeros or node in rest.left:
            if isinstance(node.meta["val"], torch.Tensor):
                self._lay_constant(node)
            return True
        if not all(each in self._nodes or each in self._thin for each in inputs):
            if node in rest.runs:
                self._do_without(node)
            return True
        if any(each in self._thin for each in node.all_input_nodes):
            if self._takes_thin(node):
                self._combine(node, copy)
                return True
            for each in inputs:
                self._widen(each)
        return False

    def _do_without(self, node: fx.Node) -> None:
        """Give what a node gives without operands that are gone: the others side by side, or a size of one."""
        if node.target is aten.sym_size.int:
            value, place = node.args
            self._nodes[node] = self._size(self._axes.shape(value)[place])  # type: ignore[arg-type, index]
            return
        parts = [each for each in node.args[0] if each not in self._rest.gone]  # type: ignore[union-attr]
        for each in parts:
            self._widen(each)  # type: ignore[arg-type]
        values = [self._nodes[each] for each in parts]  # type: ignore[index]
        # of one part, too: a new node, so that all that reads it gets its shape anew
        self._nodes[node] = self._call(node, node.target, values, *node.args[1:], **node.kwargs)

    def _lay_constant(self, node: fx.Node) -> None:
        rank = node.meta["val"].dim()
        shape = self._axes.shape(node)
        if node in self._rest.zeros:
            self._hold(node, self._zero(node.meta["val"]), [dim.size != 1 for dim in shape])
            return
        terms = [self._laid_out(operand, rank) for operand in self._rest.left[node]]
        value, held = terms[0]
        self._hold(node, value, [dim.size != 1 and not there for dim, there in zip(shape, held, strict=True)])

    def _zero(self, like: torch.Tensor) -> fx.Node:
        key = (like.dim(), like.dtype, like.device)
        if key not in self._zeros:
            zero = torch.zeros([1] * like.dim(), dtype=like.dtype, device=like.device)
            self._zeros[key] = self._constant(zero, "zero")
        return self._zeros[key]

    def _laid_out(self, operand: Operand, rank: int) -> tuple[fx.Node, list[bool]]:
        """An operand with a dim for each of the result's, and which of these it fills."""
        self._widen(operand.node)
        value = self._nodes[operand.node]
        sources = {link.target: link.source for link in operand.links}
        sizes = self._axes.shape(operand.node)
        for place in range(rank):
            if place not in sources:
                value = self._call(operand.node, aten.unsqueeze.default, value, place)
        return value, [place in sources and sizes[sources[place]].size != 1 for place in range(rank)]

    def _takes_thin(self, node: fx.Node) -> bool:
        effect = self._axes.effects.get(node)
        if effect is None or effect.lower is not None or len(effect.outs) != 1:
            return False
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return False
        if node.target is aten.batch_norm.default:
            return node.args[0] in self._thin
        rank = len(effect.outs[0])
        return isinstance(effect.flow, (Map, Keep)) and (
            node.target in _ONTO_THEMSELVES
            or (isinstance(effect.flow, Map) and all(
                link.target - link.source == rank - len(self._axes.shape(operand.node))
                for operand in effect.flow.operands for link in operand.links
            ))
        )  # fmt: skip

    def _combine(self, node: fx.Node, copy: Callable[[Mapping[fx.Node, fx.Node]], fx.Node]) -> None:
        if node.target is aten.batch_norm.default:
            self._normalise(node, copy)
            return
        operands = [each for each in node.all_input_nodes if self._axes.shapes.get(each)]
        narrow = [all(each) for each in zip(*(self._narrow_for(node, operand) for operand in operands), strict=True)]
        same = self._unchanged_by_zero(node)
        self._hold(node, self._copied(copy) if same is None else same, narrow)

    def _narrow_for(self, node: fx.Node, operand: fx.Node) -> list[bool]:
        """Of each dim of a result: is it 1 in an operand, or not there, where it should not be."""
        shape, own = self._axes.shape(node), self._axes.shape(operand)
        missing, narrow = len(shape) - len(own), self._narrow.get(operand, (False,) * len(own))
        return [
            dim.size != 1 and (d < missing or own[d - missing].size == 1 or narrow[d - missing])
            for d, dim in enumerate(shape)
        ]

    def _copied(self, copy: Callable[[Mapping[fx.Node, fx.Node]], fx.Node]) -> fx.Node:
        value = copy(ChainMap(self._thin, self._nodes))
        value.meta.pop("val", None)  # its shape is another one
        return value

    def _normalise(self, node: fx.Node, copy: Callable[[Mapping[fx.Node, fx.Node]], fx.Node]) -> None:
        """A batch norm needs all channels, and no more."""
        source: fx.Node = node.args[0]  # type: ignore[assignment]
        narrow = list(self._narrow[source])
        if narrow[1]:
            sizes = [self._size(dim) if d == 1 else -1 for d, dim in enumerate(self._axes.shape(source))]
            narrow[1] = False
            self._hold(source, self._call(source, aten.expand.default, self._thin[source], sizes), narrow)
        self._hold(node, self._copied(copy), narrow)

    def _unchanged_by_zero(self, node: fx.Node) -> fx.Node | None:
        """The whole tensor that a zero is added to, or subtracted from; None if it is another op."""
        if node.target not in _SUMS or node.kwargs.get("alpha", 1) != 1:
            return None
        first, second = node.args[:2]
        pairs = [(first, second), (second, first)] if node.target is aten.add.Tensor else [(first, second)]
        for whole, zero in pairs:
            if not isinstance(whole, fx.Node) or not isinstance(zero, fx.Node) or zero not in self._rest.zeros:
                continue
            value, result = whole.meta["val"], node.meta["val"]
            if whole not in self._thin and value.shape == result.shape and value.dtype == result.dtype:
                return self._nodes[whole]
        return None

    def _hold(self, node: fx.Node, value: fx.Node, narrow: Sequence[bool]) -> None:
        if any(narrow):
            self._thin[node], self._narrow[node] = value, tuple(narrow)
        else:
            self._nodes[node] = value

    def _widen(self, node: fx.Node) -> None:
        """Expand what is thin."""
        if node not in self._thin or node in self._nodes:
            return
        sizes = [
            self._size(dim) if narrow else -1
            for dim, narrow in zip(self._axes.shape(node), self._narrow[node], strict=True)
        ]
        self._nodes[node] = self._call(node, aten.expand.default, self._thin[node], sizes)

    def _call(self, origin: fx.Node, target: Any, *args: Argument, **kwargs: Argument) -> fx.Node:
        new = self._graph.call_function(target, args, kwargs)
        new.meta = {key: value for key, value in origin.meta.items() if key in ORIGIN}
        return new
