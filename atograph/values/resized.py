"""Example inputs at other sizes: longer and shorter sequences, larger and smaller images, of the same values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch

from atograph.passes.ir.interface import Interface, broken
from atograph.passes.torch_private import pytree
from atograph.values.batch_size import batch_of, with_batch

V = TypeVar("V")
"""A structure of tensors and other values: what comes back has the same."""

_STRIDE = 32
"""Of the coarsest feature maps that are usual."""


def resized(inputs: V, interface: Interface, sizes: Mapping[str, int]) -> V:
    """The same inputs with other dynamic sizes, by repeating what there is from the beginning, or by dropping the rest.

    Where there is nothing (an empty cache), zeros come in.

    Args:
        inputs: of the structure that the program takes, with sizes of any call.
        interface: of the program.
        sizes: name of a dynamic size → its value; one that is not named stays as it is, and sums follow.
    """
    sizes = {**sizes, **interface.sums(sizes)}
    leaves, structure = pytree.tree_flatten(inputs)
    wanted = {
        (place.placeholder, place.dim): place.multiple * sizes[size.name]
        for size in interface.dynamic
        for place in size.places
        if size.name in sizes
    }
    for position, name in enumerate(interface.inputs):
        for (placeholder, dim), size in wanted.items():
            if placeholder == name:
                leaves[position] = _repeated(leaves[position], dim, size)
    result: V = pytree.tree_unflatten(leaves, structure)
    return result


def _repeated(leaf: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """A tensor of another size along a dim; zeros where there is nothing to repeat, as in an empty cache."""
    if not leaf.shape[dim]:
        return leaf.new_zeros(*leaf.shape[:dim], size, *leaf.shape[dim + 1 :])
    return leaf.index_select(dim, torch.arange(size, device=leaf.device) % leaf.shape[dim])


def less_of(inputs: V) -> Iterator[V]:
    """The same inputs with less in them, for a run that is to be short: images of about a quarter of their height and
    width, which not every model takes, and one sample."""
    leaves, structure = pytree.tree_flatten(inputs)
    sizes = {
        position: [min(size, -(-size // (4 * _STRIDE)) * _STRIDE) for size in leaf.shape[-2:]]
        for position, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dim() > 3
    }
    if any(list(leaves[position].shape[-2:]) != size for position, size in sizes.items()):
        for position, (height, width) in sizes.items():
            leaves[position] = leaves[position][..., :height, :width].contiguous()
        yield pytree.tree_unflatten(leaves, structure)
    if (batch_of(inputs) or 1) > 1:
        yield with_batch(inputs, 1)


def around(interface: Interface) -> list[dict[str, int]]:
    """Sizes to try a program at beside the example's: all dynamic ones smaller, 0 where that may be, or larger.

    Larger ones are left out where the program was recorded at none.
    """
    alone = [size for size in interface.dynamic if not size.parts and size is not interface.batch]
    smaller = {size.name: size.least and max(size.least, size.values[0] * 2 // 3) for size in alone}
    larger = {size.name: min(size.values[0] * 3 // 2 + 1, size.most or 2**62) for size in alone}
    takes_larger = all(max(size.values) > size.values[0] for size in alone)
    chosen = [smaller, larger] if takes_larger and alone else [smaller] if alone else []
    return [near for sizes in chosen if (near := _taken(interface, sizes)) is not None]


def _taken(interface: Interface, sizes: dict[str, int]) -> dict[str, int] | None:
    """The nearest sizes of which the program's conditions hold; None if there are none near."""
    limits = {size.name: (size.least, size.most or 2**62) for size in interface.dynamic}
    for offset in (0, 1, -1, 2, -2, 3, -3, 4, -4):
        near = {name: size + offset for name, size in sizes.items()}
        within = all(limits[name][0] <= size <= limits[name][1] for name, size in near.items())
        if within and broken(interface.ways, near | interface.sums(near)) is None:
            return near
    return None
