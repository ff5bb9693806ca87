"""The blocks of a network by their names, and which units stand where in what they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

import numpy as np
from torch import Tensor, fx, nn

from atograph.passes.analysis.groups import Groups
from atograph.passes.axes.dims import Indices, Shape, axes_of
from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.passes.rewrite.kept import Kept

Cuts = tuple[Indices | None, ...]
"""For each dimension of a tensor the indices that stay; None where all of them do."""


class Plan(Protocol):
    """Which units stay (`train.interfaces.Plan`, which cannot be imported here: it knows tasks, and they teachers)."""

    @property
    def kept(self) -> Mapping[str, tuple[int, ...]]:
        """Unit indices per group; a group that is missing keeps all of them."""


_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks_of(model: nn.Module, wanted: Sequence[str] = ()) -> list[str]:
    """The names of the modules whose outputs are a network's hidden states.

    Those are the items of lists of modules (``Sequential``, ``ModuleList``, ``ModuleDict``) that have modules of their
    own, but not what is within such an item: the blocks of a ResNet, the layers of a transformer. In a network without
    such lists it is each layer with parameters, but for the last one, which gives the outputs.

    Args:
        model: the network.
        wanted: names or globs of others; none: as above.

    Raises:
        UserError: there is no module of a name, or no hidden state.
    """
    names = [name for name, _module in model.named_modules() if name]
    if wanted:
        missing = [glob for glob in wanted if not any(fnmatchcase(name, glob) for name in names)]
        if missing:
            raise UserError(
                f"the teacher has no module {missing[0]!r}, whose outputs were to be compared.",
                where="distill_layers",
                hint="Give names of modules as named_modules() tells them, or globs: layer3.*",
            )
        return [name for name in names if any(fnmatchcase(name, glob) for glob in wanted)]
    found = list(_items(model, ""))
    while len(found) == 1:  # a backbone beside a head, say
        within = list(_items(model.get_submodule(found[0]), f"{found[0]}."))
        if not within:
            break
        found = within
    if found:
        return found
    layers = [
        name
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]
    if len(layers) < 2:
        raise UserError(
            "the teacher has no hidden states to compare: it is one layer.", hint="Leave distill_hidden out."
        )
    return layers[:-1]


def _items(module: nn.Module, prefix: str) -> Iterator[str]:
    """The outermost items of lists that have modules of their own."""
    for name, child in module.named_children():
        if isinstance(module, _LISTS) and next(child.children(), None) is not None:
            yield prefix + name
        else:
            yield from _items(child, f"{prefix}{name}.")


class Outputs:
    """Which units stand where in the outputs of modules.

    Args:
        program: of the dense model.
    """

    def __init__(self, program: Program) -> None:
        self._axes = program.fact(Groups).axes
        self._axis_of = {group.name: group.axis for group in program.fact(Groups).prunable}
        self._axes_with_units = set(self._axis_of.values())
        self._leaving = _leaving(program)

    def cuts(self, sizes: Mapping[str, Sequence[int]], plan: Plan | None) -> dict[str, Cuts]:
        """What a plan keeps of each module's output; modules are missing of which the program does not tell.

        Args:
            sizes: module → sizes of its output in the dense network.
            plan: None: all units stay.
        """
        units = {} if plan is None else {self._axis_of[name]: np.asarray(each) for name, each in plan.kept.items()}
        kept = Kept(units, self._axes)
        found = {}
        for name, size in sizes.items():
            shapes = [self._axes.shape(node) for node in self._leaving.get(name, ())]
            cuts = [kept.cuts(shape) for shape in shapes if self._may_be(shape, size)]
            if cuts and all(_same(cuts[0], other) for other in cuts):
                found[name] = cuts[0]
        return found

    def _may_be(self, shape: Shape, sizes: Sequence[int]) -> bool:
        """Whether an output of these sizes may be a value of that shape: what holds no units may be of any size."""
        return len(shape) == len(sizes) and all(
            dim.size == size or not any(axis in self._axes_with_units for axis in axes_of(dim))
            for dim, size in zip(shape, sizes, strict=True)
        )


def _leaving(program: Program) -> Mapping[str, Sequence[fx.Node]]:
    """Module → the tensors of numbers that are made within it and read outside of it."""
    shapes, found = program.fact(Groups).axes.shapes, dict[str, list[fx.Node]]()
    modules = {node: _modules(node) for node in program.graph.nodes}
    for node, within in modules.items():
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_floating_point() and len(shapes.get(node, ())) == 1:
            for name in within:
                if any(name not in modules[user] for user in node.users):
                    found.setdefault(name, []).append(node)
    return found


def _modules(node: fx.Node) -> set[str]:
    """The modules whose ``forward`` issued a node, from the outermost to the innermost."""
    stack = node.meta.get("nn_module_stack") or {}
    return {str(name).partition("@")[0] for name, _kind in stack.values()}


def _same(one: Cuts, other: Cuts) -> bool:
    return len(one) == len(other) and all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
        for a, b in zip(one, other, strict=True)
    )
