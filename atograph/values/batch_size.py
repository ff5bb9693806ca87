"""The batch of example inputs: how many samples there are, and the same inputs with more or fewer."""

from __future__ import annotations

from typing import TypeVar

import torch

from atograph.passes.ir.interface import Interface
from atograph.passes.ir.program import Program
from atograph.passes.torch_private import pytree

V = TypeVar("V")
"""A structure of tensors and other values: what comes back has the same."""


def tensors_among(inputs: object) -> list[torch.Tensor]:
    """The tensors of some inputs, in order."""
    """The tensors of some inputs, in order."""
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def batch_of(inputs: object) -> int | None:
    """The batch size of some inputs: the first dimension of their first tensor; None where there is none."""
    return next((int(t.shape[0]) for t in tensors_among(inputs) if t.dim()), None)


def with_batch(inputs: V, size: int, interface: Interface | None = None) -> V:
    """The same inputs with another batch size, by repeating or dropping samples.

    Args:
        inputs: of the structure that the program takes.
        size: so many samples.
        interface: of the program, which knows where the batch is not the first dim; None: it is.
    """
    batch = batch_of(inputs)
    leaves, structure = pytree.tree_flatten(inputs)
    dims = {
        position: 0
        for position, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == batch
    }
    if interface is not None and interface.batch is not None:
        dims = {interface.inputs.index(place.placeholder): place.dim for place in interface.batch.places}
    for position, dim in dims.items():
        leaf = leaves[position]
        leaves[position] = leaf.index_select(dim, torch.arange(size, device=leaf.device) % leaf.shape[dim])
    result: V = pytree.tree_unflatten(leaves, structure)
    return result


def batch_sizes(inputs: object, program: Program) -> list[int]:
    """What a program can be tried at with some inputs: a batch of one and theirs, or theirs alone where it is fixed."""
    own, interface = batch_of(inputs) or 1, program.interface
    if interface.batch is not None:
        place = interface.batch.places[0]
        own = int(pytree.tree_leaves(inputs)[interface.inputs.index(place.placeholder)].shape[place.dim])
        return sorted({interface.batch.least, own})
    return [own] if interface.fixed else sorted({1, own})


def repeat_single(inputs: V) -> V:
    """A batch of one sample made two; anything else as it is."""
    return with_batch(inputs, 2) if batch_of(inputs) == 1 else inputs
