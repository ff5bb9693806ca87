"""The table of ONNX ops: a row each, with what the row has to know of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from atograph.from_onnx.known import Known

Value: TypeAlias = Any
"""What is passed between ops: a tensor, a `Known`, a list of either (a sequence), or None for what is left out."""

Layout: TypeAlias = "Callable[..., list[torch.Tensor]]"
"""How torch's op takes a weight of the file: elements in another order, in one tensor or several; ``layout(op, w)``."""


@dataclass(frozen=True)
class Row:
    """What is known of one ONNX op.

    Attributes:
        compute: ``compute(op, *inputs)``, a value, or a tuple of one for each output.
        known: positions of inputs that have to be numbers (`Known`): axes, shapes, scales.
        weights: positions of inputs that are weights, even where they hold one number only.
        buffers: positions of inputs that are statistics, which nothing trains.
        layouts: position of a weight → its layout.
    """

    compute: Callable[..., Any]
    known: Sequence[int] = ()
    weights: Sequence[int] = ()
    buffers: Sequence[int] = ()
    layouts: Mapping[int, Layout] = field(default_factory=dict)


ROWS: dict[tuple[str, str], Row] = {}
"""Domain (empty: ONNX's own) and op → its row."""


def row(
    *names: str,
    domain: str = "",
    known: Sequence[int] = (),
    weights: Sequence[int] = (),
    buffers: Sequence[int] = (),
    layouts: Mapping[int, Layout] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a function as the row of some ops; see `Row`."""

    def add(compute: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if (domain, name) in ROWS:
                raise ValueError(f"the ONNX op {name} has a row already.")
            ROWS[domain, name] = Row(compute, known, weights, buffers, layouts or {})
        return compute

    return add


def is_known(*values: Value) -> bool:
    """Whether all of some values are numbers."""
    return all(isinstance(value, Known) for value in values)
