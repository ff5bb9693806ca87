"""What a random network is made of: steps, and the table of their kinds.

A value is an image (channels, height, width), a sequence (length, channels) or a vector (channels), besides the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Made = tuple[nn.Module, Sequence[Shape]]
"""What a kind of step gives: a module that takes the values which it reads, and the shapes of what it makes."""

Make = Callable[[Draw, Shape], Made | None]
"""Makes a step that reads a value of some shape; None where the shape does not allow it."""

WIDTHS = st.sampled_from([2, 3, 4, 6, 8])
IMAGE, SEQUENCE, VECTOR = 3, 2, 1


class Apply(nn.Module):
    """A function of some values, and of modules and parameters of its own."""

    def __init__(self, title: str, function: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.title, self.function = title, function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *values: Tensor) -> Any:
        return self.function(self, *values)

    def extra_repr(self) -> str:
        return self.title


class Own(nn.Module):
    """A function of a value and of the step itself, which holds the weights and layers that the function asks for.

    They are made in the first run.
    """

    def __init__(self, title: str, function: Callable[[Tensor, Own], Any]) -> None:
        super().__init__()
        self.title, self.function = title, function

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self)

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self._parameters:
            self.register_parameter(name, nn.Parameter(torch.randn(shape) / shape[-1] ** 0.5))
        return getattr(self, name)

    def constant(self, name: str, value: Tensor) -> Tensor:
        if name not in self._buffers:
            self.register_buffer(name, value.clone())
        return getattr(self, name)

    def layer(self, kind: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
        if kind.__name__ not in self._modules:
            self.add_module(kind.__name__, kind(*args, **kwargs).eval())
        return getattr(self, kind.__name__)

    def extra_repr(self) -> str:
        return self.title


@dataclass(frozen=True)
class Step:
    reads: tuple[int, ...]
    part: int


class Grown(nn.Module):
    """A network of steps."""

    def __init__(self, parts: Sequence[nn.Module], steps: Sequence[Step], outputs: Sequence[int]) -> None:
        super().__init__()
        self.parts, self.steps, self.outputs = nn.ModuleList(parts), tuple(steps), tuple(outputs)

    def forward(self, *inputs: Tensor) -> Any:
        return self.chosen(self.values(inputs))

    def values(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """All that it computes on the way, the inputs first."""
        values = list(inputs)
        for step in self.steps:
            made = self.parts[step.part](*(values[index] for index in step.reads))
            values.extend(made if isinstance(made, (tuple, list)) else [made])
        return values

    def chosen(self, values: Sequence[Tensor]) -> Any:
        """What of it is returned."""
        found = tuple(values[index] for index in self.outputs)
        return found[0] if len(found) == 1 else found

    def extra_repr(self) -> str:
        return f"steps={[(step.part, step.reads) for step in self.steps]}, outputs={self.outputs}"


KINDS: dict[str, tuple[int, Make]] = {}
"""Name → the rank of what is read (0: any), and what makes the step."""


def kind(rank: int) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        assert make.__name__ not in KINDS
        KINDS[make.__name__] = (rank, make)
        return make

    return register


def divisors(number: int) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, number + 1) if number % n == 0])
