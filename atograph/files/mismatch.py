"""Whether tensors in a file are those that a model or a program has; where not, the first differences in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch

_SHOWN = 3


class Typed(Protocol):
    """A tensor, or what a file says of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its values."""


def misfits(
    stored: Mapping[str, Typed],
    own: Mapping[str, Typed],
    *,
    missing: Collection[str],
    unexpected: Collection[str],
    sides: tuple[str, str],
    types: bool = True,
) -> list[str]:
    """What does not fit: ``1 missing: head.bias``, ``1 of another shape: a.weight (checkpoint [3], model [4])``.

    Args:
        stored: the tensors in the file.
        own: those that they are to be.
        missing: names that the file ought to hold and does not; ties make that more than a difference of sets.
        unexpected: names that it holds and nothing knows.
        sides: what to call the two.
        types: whether their types have to be the same.
    """
    both = [name for name in stored if name in own]
    shapes = [name for name in both if tuple(stored[name].shape) != tuple(own[name].shape)]
    others = [name for name in both if types and stored[name].dtype != own[name].dtype]
    one, other = sides
    complaints = {
        "missing": [*missing],
        "unexpected": [*unexpected],
        "of another shape": [
            f"{name} ({one} {list(stored[name].shape)}, {other} {list(own[name].shape)})" for name in shapes
        ],
        "of another type": [
            f"{name} ({one} {type_name(stored[name].dtype)}, {other} {type_name(own[name].dtype)})" for name in others
        ],
    }
    return [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in complaints.items()
        if names
    ]


def type_name(dtype: torch.dtype) -> str:
    """``bfloat16``."""
    return str(dtype).removeprefix("torch.")
