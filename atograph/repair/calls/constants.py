"""Constants of a program that a module's code makes of numbers: ``torch.tensor(x.shape[-1])``.

A width that becomes a tensor is recorded as a constant, so the slim program keeps its old value. A call that makes such
a tensor gets that value; where no call to torch makes it (``torch.Tensor([8])``, NumPy), the calls that take it do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from numbers import Integral, Real

import torch
from torch import fx

_ATEN = torch.ops.aten
_LIFTED = (_ATEN.lift_fresh_copy.default, _ATEN.lift_fresh.default)
_SAME = (_ATEN.detach.default, _ATEN.detach_.default, _ATEN.alias.default)
_ROUNDING = 0.01

Constants = Mapping[fx.Node, torch.Tensor]
"""The placeholders of a program's constants with their values."""


def number_of(value: object) -> int | float | None:
    """A number of Python's for one of Python's, of NumPy's, or one that is remembered; None for all else."""
    if isinstance(value, (bool, torch.SymInt, torch.SymFloat)) or not isinstance(value, Real):
        return None
    return int(value) if isinstance(value, Integral) else float(value)


def numbers_of(nodes: Sequence[fx.Node], constants: Constants) -> tuple[int | float, ...] | None:
    """The numbers that a call makes a tensor of; None where it does something else."""
    if not nodes or nodes[0].target not in _LIFTED or any(node.target not in _SAME for node in nodes[1:]):
        return None
    value = constants.get(nodes[0].all_input_nodes[0])
    if value is None or value.is_complex() or value.dtype == torch.bool:
        return None
    return tuple(value.flatten().tolist())


def positions(given: Sequence[object], recorded: Sequence[int | float]) -> dict[int, int]:
    """Which arguments of a call that makes a tensor are which of its numbers: the first ones, in order.

    Some are rounded to the tensor's type; another number is the batch that the model was traced with.
    """
    numbers = [number_of(value) for value in given[: len(recorded)]]
    if len(numbers) < len(recorded):
        return {}
    pairs = enumerate(zip(numbers, recorded, strict=True))
    return {i: i for i, (own, known) in pairs if own is not None and isclose(own, known, rel_tol=_ROUNDING)}


def held_by(
    dense: Sequence[fx.Node], slim: Sequence[fx.Node], before: Constants, after: Constants
) -> tuple[torch.Tensor, ...]:
    """The constants that a call takes and that none has made, if they are the same in both programs."""
    old, new = list(_held(dense, before)), list(_held(slim, after))
    return tuple(old) if len(old) == len(new) and all(map(_same, old, new)) else ()


def _held(nodes: Sequence[fx.Node], constants: Constants) -> Iterator[torch.Tensor]:
    for node in dict.fromkeys(read for each in nodes for read in each.all_input_nodes):
        source = node.all_input_nodes[0] if node.target in _LIFTED and "call" not in node.meta else node
        if source in constants and nodes[0].target not in _LIFTED:
            yield constants[source]


def places_of(held: Sequence[torch.Tensor], tensors: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Which tensors of a call are which constants: those of the same value."""
    return {i: value for i, tensor in enumerate(tensors) for value in held if _same(tensor, value)}


def unlike(held: Mapping[int, torch.Tensor], tensors: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """The constants that a call of the slim module takes with another value."""
    return {
        i: value
        for i, value in held.items()
        if i < len(tensors) and tensors[i].shape == value.shape and not _same(tensors[i], value)
    }


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.detach().cpu(), b.detach().cpu())
