"""A moving average of the weights, which is measured and handed over in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from atograph.train.saved.weights import local, set_weights, weights_of

_WARM_UP = 10
"""The average of few steps forgets faster: after n of them (1 + n) / (10 + n) at most is kept of it."""


class Average:
    """The exponential moving average of a model's parameters and statistics (`torch.optim.swa_utils`).

    It begins where the network is the one that comes out: what is masked is zero. It begins anew with another module.

    Args:
        decay: share of the average that a step keeps; None: there is no average, and nothing happens.
    """

    def __init__(self, decay: float | None) -> None:
        self._decay, self._steps = decay, 0
        self._values: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, model: nn.Module, *, settled: bool) -> None:
        """A step was made."""
        if self._decay is None:
            return
        now = weights_of(model)
        if not settled or not self._is_of(model):
            self._values = {name: value.clone() for name, value in now.items()} if settled else {}
            self._steps = 0
            return
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (_WARM_UP + self._steps))
        mixed = [
            name for name, value in now.items() if value.is_floating_point() and value.shape == self._values[name].shape
        ]
        mix: Callable[[list[Tensor], list[Tensor], int], None]
        mix = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        mix([self._values[name] for name in mixed], [now[name] for name in mixed], self._steps)
        self._values |= {name: now[name].clone() for name in now.keys() - {*mixed}}

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the average's weights, where there is one of it."""
        if not self._is_of(model):
            yield
            return
        own = {name: value.clone() for name, value in weights_of(model).items()}
        set_weights(model, self._values)
        try:
            yield
        finally:
            set_weights(model, own)

    def hand_over(self, model: nn.Module) -> None:
        """Give the model the average's weights for good."""
        if self._is_of(model):
            set_weights(model, self._values)
        self._values = {}

    def drop(self) -> None:
        """Forget it: the model has the weights that it is to have."""
        self._values = {}

    def state(self) -> dict[str, object]:
        """What a checkpoint holds of it."""
        return {"values": self._values, "steps": self._steps}

    def load(self, state: Mapping[str, object], device: torch.device) -> None:
        """Go on from such a state."""
        values, steps = state["values"], state["steps"]
        assert isinstance(values, dict) and isinstance(steps, int), "state() gave these"
        self._values, self._steps = {name: value.to(device) for name, value in values.items()}, steps

    def _is_of(self, model: nn.Module) -> bool:
        """Whether the average is one of this module's parameters; buffers may have another shape at each step."""
        names = {name for name, _value in (*model.named_parameters(), *model.named_buffers())}
        return names == self._values.keys() and all(
            local(value).shape == self._values[name].shape for name, value in model.named_parameters()
        )
