"""The last whole step of a training: what a step that fails, or is interrupted, has changed already is put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from torch import Tensor, nn

from atograph.train.saved.held_signals import held_signals
from atograph.train.saved.seeding import held_generators, random_state
from atograph.train.saved.weights import set_weights

T = TypeVar("T")

_SMALL = 2**15
"""Elements of a buffer up to which it is copied at every step."""


class WholeStep:
    """Where a training may be saved although it stopped in the midst of a step.

    A batch that is drawn changes generators, and a forward changes buffers: those are kept until the step is done.
    Parameters, masks and the optimiser change within `changing` only, where signals wait.

    Attributes:
        torn: whether something has changed of which there is no copy.
        random: the state of the generators before the last batch was drawn; None: no step is begun.

    Args:
        kept: whether anything is to be kept at all.
    """

    def __init__(self, *, kept: bool) -> None:
        self.kept, self.torn = kept, False
        self.random: dict[str, Any] | None = None
        self._copies: dict[str, tuple[Tensor, int, Tensor]] = {}

    def before_each(self, items: Iterable[T], data: object) -> Iterator[T]:
        """The items, which are made of ``data``; before each the state of the generators is noted."""
        if not self.kept:
            yield from items
            return
        iterator, held = iter(items), held_generators(data)
        while True:
            self.random = random_state(data, held)
            try:
                item = next(iterator)
            except StopIteration:
                return
            yield item

    @contextmanager
    def forward(self, model: nn.Module) -> Iterator[None]:
        """Compute with a model; its buffers are as they were if that fails."""
        self._copy_buffers(model)
        try:
            yield
        except BaseException:
            own = dict(model.named_buffers())
            changed = {
                name: copy
                for name, (buffer, version, copy) in self._copies.items()
                if name in own and not (own[name] is buffer and _known(buffer, version))
            }
            set_weights(model, changed)
            raise

    @contextmanager
    def changing(self, *, but_for: type[BaseException] | tuple[()] = ()) -> Iterator[None]:
        """Change what is not kept; an exception leaves it torn, but for those that come before any change."""
        with held_signals() if self.kept else nullcontext():
            self.torn = True
            try:
                yield
            except but_for:
                self.torn = False
                raise
            self.torn = False

    def done(self) -> None:
        """The step is done: generators and buffers are as they have to be."""
        self.random = None

    def _copy_buffers(self, model: nn.Module) -> None:
        """Copy those buffers that are not the tensors, or not the values, that they were a step ago."""
        if not self.kept:
            return
        before, self._copies = self._copies, {}
        for name, buffer in model.named_buffers():
            old = before.get(name)
            if old is not None and old[0] is buffer and _known(buffer, old[1]):
                self._copies[name] = old
            else:
                self._copies[name] = buffer, _version(buffer), buffer.detach().clone()


def _known(buffer: Tensor, version: int) -> bool:
    """Whether a buffer is surely as it was in a version: batch norms write theirs, which are small, uncounted."""
    return buffer.numel() > _SMALL and _version(buffer) == version


def _version(tensor: Tensor) -> int:
    """How often a tensor was written."""
    return -1 if tensor.is_inference() else tensor._version
