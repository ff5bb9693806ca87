"""What code is told that looks at values while it is recorded on tensors without data: the example's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from atograph.capture.known_values import KnownValues, Unknown
from atograph.capture.raises import Reading, reading
from atograph.passes.ir.decisions import Decision

_INTEGRAL = (torch.Tensor.__int__, torch.Tensor.__index__)


class NoAnswer(Exception):
    """Nobody can say what code would see; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What an op that looks at values gives.

    Attributes:
        op: the op, or ``Tensor.__int__``.
        place: where the code asks.
        value: what it gives for the example.
        decision: what that decides; None where it can only raise.
    """

    op: Any
    place: Reading
    value: Any
    decision: Decision | None


class Answers:
    """The answers of a first recording, computed from the example; later recordings, at other sizes, get the same.

    Args:
        state: for each placeholder of the model's state its tensor, as a recording has them.
        inputs: the example's tensors.
        batch: how many samples the example has; None where the batch is not dynamic.

    Attributes:
        asked_by: tells which function of torch looks at a value.
    """

    def __init__(self, state: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], batch: int | None) -> None:
        copied = [each if isinstance(each, nn.Parameter) else each.detach().clone() for each in (*state, *inputs)]
        self._values = {f"input_{index}": value for index, value in enumerate(copied)}
        self._weights = {f"input_{index}" for index in range(len(state))}
        self.asked_by: Callable[[], Any] = lambda: None
        self._batch = batch
        self._first: fx.Graph | None = None
        self._known: KnownValues
        self._log: list[Answer] = []
        self._again: tuple[fx.Graph, int] | None = None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was decided, once for each place and value."""
        return tuple(dict.fromkeys(answer.decision for answer in self._log if answer.decision is not None))

    def to(self, op: Any, args: Any, kwargs: Any, graph: fx.Graph, constants: Mapping[str, torch.Tensor]) -> Answer:
        """What an op gives that a recording asks for.

        Args:
            op: it looks at values.
            args, kwargs: written with nodes.
            graph: of the recording, as it is so far.
            constants: of the recording.

        Raises:
            NoAnswer: chance decides, or the code looks at something else than in the first recording.
        """
        if self._first is None:
            self._first = graph
            self._known = KnownValues(graph, constants, self._values, self._batch, whole=True)
        if graph is not self._first:
            return self._repeated(op, graph)
        try:
            value = self._known.call(op, args, kwargs)
        except Unknown as unknown:
            raise NoAnswer(
                "its code looks at a value that the example does not tell: chance decides, or it is of no sample of it"
            ) from unknown
        if self.asked_by() in _INTEGRAL:
            op, value = torch.Tensor.__int__, int(value)
        place = reading()
        behind = self._known.behind((args, kwargs))
        decision = Decision(place.text or str(op), value, place.source, bool(behind & self._weights))
        self._log.append(Answer(op, place, value, None if place.only_raises else decision))
        return self._log[-1]

    def _repeated(self, op: Any, graph: fx.Graph) -> Answer:
        op = torch.Tensor.__int__ if self.asked_by() in _INTEGRAL else op
        before, index = self._again or (None, 0)
        index = index if before is graph else 0
        answer = self._log[index] if index < len(self._log) else None
        self._again = (graph, index + 1)
        if answer is None or answer.op is not op or answer.place != reading():
            raise NoAnswer("at other sizes its code looks at other values")
        return answer
