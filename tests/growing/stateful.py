"""Random networks with a state: some of what they compute is mixed with what the call before has left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from growing.grow import head, networks, widened
from growing.network import Draw, Grown, Step

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A value and its state → the value that is read from then on, and the next state."""


def _same(mixed: Tensor) -> tuple[Tensor, Tensor]:
    return mixed, mixed


MIXES: dict[str, Mix] = {
    "decay": lambda x, state: _same(0.5 * state + x),
    "gate": lambda x, state: _same(torch.sigmoid(x) * state + (1 - torch.sigmoid(x)) * torch.tanh(x)),
    "largest": lambda x, state: _same(torch.maximum(x, state)),
    "delay": lambda x, state: (state, x),
    "product": lambda x, state: (x * torch.tanh(state), x + state),
}


class Stateful(Grown):
    """A network of steps that takes inputs and a state, and returns outputs and the next state.

    Args:
        parts, steps, outputs: as of `Grown`.
        carried: index of a value → how it is mixed with its state.
    """

    def __init__(
        self, parts: Sequence[nn.Module], steps: Sequence[Step], outputs: Sequence[int], carried: dict[int, str]
    ) -> None:
        super().__init__(parts, steps, outputs)
        self.carried = carried

    def forward(self, inputs: tuple[Tensor, ...], state: tuple[Tensor, ...]) -> tuple[object, tuple[Tensor, ...]]:
        values, before, after = list(inputs), dict(zip(self.carried, state, strict=True)), list[Tensor]()
        for step in self.steps:
            made = self.parts[step.part](*(values[index] for index in step.reads))
            for value in made if isinstance(made, (tuple, list)) else [made]:
                if len(values) in before:
                    mixed, left = MIXES[self.carried[len(values)]](value, before[len(values)])
                    values.append(mixed)
                    after.append(left)
                else:
                    values.append(value)
        return self.chosen(values), tuple(after)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, carried={self.carried}"


@st.composite
def streams(draw: Draw) -> tuple[Stateful, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A network with one or two states, inputs of two samples, and a first state of zeros.

    One is mixed with what a layer makes that is there for it, and another layer reads; one may be anywhere.
    """
    model, inputs = draw(networks(8))
    with torch.no_grad():
        values = model.values(inputs)
    start, place = draw(st.integers(0, len(values) - 1)), len(values)
    shape = tuple(values[start].shape[1:])
    into, (wide,) = widened(draw, shape)
    out, _ = head(wide)
    count = len(model.parts)
    steps = [*model.steps, Step((start,), count), Step((place,), count + 1)]
    carried = {place: draw(st.sampled_from(sorted(MIXES)))}
    state = [torch.zeros(2, *wide)]
    if draw(st.booleans()):
        other = draw(st.integers(len(inputs), len(values) - 1))
        carried = {other: draw(st.sampled_from(sorted(MIXES))), **carried}
        state = [torch.zeros_like(values[other]), *state]
    grown = Stateful([*model.parts, into, out], steps, [*model.outputs, place + 1], carried)
    return grown.eval(), inputs, tuple(state)
