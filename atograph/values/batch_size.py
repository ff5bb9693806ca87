"""The batch of example inputs: how many samples there are, and the same inputs with more or fewer."""

from __future__ import annotations

from typing import Any

import torch

from atograph.passes.ir.program import Program
from atograph.passes.torch_private import pytree


def tensors_among(inputs: Any) -> list[torch.Tensor]:
    """The tensors of some inputs, in order."""
    """The tensors of some inputs, in order."""
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def batch_of(inputs: Any) -> int | None:
    """The batch size of some inputs: the first dimension of their first tensor; None where there is none."""
    return next((int(t.shape[0]) for t in tensors_among(inputs) if t.dim()), None)


def with_batch(inputs: Any, size: int) -> Any:
    """The same inputs with another batch size, by repeating or dropping samples."""
    batch = batch_of(inputs)

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.dim() or leaf.shape[0] != batch:
            return leaf
        return leaf[torch.arange(size, device=leaf.device) % leaf.shape[0]]

    return pytree.tree_map(resize, inputs)


def batch_sizes(inputs: Any, program: Program) -> list[int]:
    """What a program can be tried at with some inputs: a batch of one and theirs, or theirs alone where it is fixed."""
    own = batch_of(inputs) or 1
    return [own] if program.interface.fixed else sorted({1, own})


def repeat_single(inputs: Any) -> Any:
    """A batch of one sample made two; anything else as it is."""
    return with_batch(inputs, 2) if batch_of(inputs) == 1 else inputs
