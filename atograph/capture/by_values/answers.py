"""What code is told that looks at values while it is recorded on tensors without data: the example's."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import Argument

from atograph.capture.by_values.known_values import KnownValues, Unknown
from atograph.capture.by_values.raises import Reading, reading
from atograph.passes.ir.decisions import Decision, add_check, comparing, holding
from atograph.passes.torch_private import OpOverload, disable_current_modes, pytree

_ITEM = torch.ops.aten.item.default
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
    value: float
    decision: Decision | None


class Answers:
    """The answers of a first recording, computed from the example; later recordings, at other sizes, get the same.

    Args:
        state: for each placeholder of the model's state its tensor, as a recording has them.
        inputs: the example's tensors.
        batch: how many samples the example has; None where the batch is not dynamic.

        numbers: whether what ``Tensor.item`` gives may be a `Number`, of which a comparison decides its outcome only.

    Attributes:
        asked_by: tells which function of torch looks at a value.
        node_of: gives the node of a tensor in the recording that is under way.
    """

    def __init__(
        self, state: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], batch: int | None, *, numbers: bool
    ) -> None:
        self._numbers = numbers
        self._read: torch.Tensor | None = None
        copied = [each if isinstance(each, nn.Parameter) else each.detach().clone() for each in (*state, *inputs)]
        self._values = {f"input_{index}": value for index, value in enumerate(copied)}
        self._weights = {f"input_{index}" for index in range(len(state))}
        self.asked_by: Callable[[], object] = lambda: None
        self.node_of: Mapping[torch.Tensor, fx.Node] = {}
        self._batch = batch
        self._first: fx.Graph | None = None
        self._known: KnownValues
        self._log: list[Answer] = []
        self._again: tuple[fx.Graph, int] | None = None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was decided, once for each place and value."""
        return tuple(dict.fromkeys(answer.decision for answer in self._log if answer.decision is not None))

    def to(
        self,
        op: Callable[..., object],
        args: Sequence[Argument],
        kwargs: Mapping[str, Argument],
        graph: fx.Graph,
        constants: Mapping[str, torch.Tensor],
        what: str = "",
        read: torch.Tensor | None = None,
    ) -> Answer:
        """What an op gives that a recording asks for.

        Args:
            op: it looks at values.
            args, kwargs: written with nodes.
            graph: of the recording, as it is so far.
            constants: of the recording.
            what: of the expression at the place is decided, in words.
            read: the tensor that the op looks at.

        Raises:
            NoAnswer: chance decides, or the code looks at something else than in the first recording.
        """
        if self._first is None:
            self._first = graph
            self._known = KnownValues(graph, constants, self._values, self._batch, whole=True)
        later = self._numbers and self.asked_by() is torch.Tensor.item
        if graph is not self._first:
            answer = self._repeated(op, graph)
        else:
            try:
                value = self._known.call(op, args, kwargs)
            except Unknown as unknown:
                raise NoAnswer(
                    "its code looks at a value that the example does not tell: chance decides, or it is of no sample "
                    "of it"
                ) from unknown
            if self.asked_by() in _INTEGRAL:
                op, value = torch.Tensor.__int__, int(value)
            answer = self._answered(
                op, value, (args, kwargs), listed=not later or type(value) not in (int, float), what=what
            )
        self._read = read if later and type(answer.value) in (int, float) else None
        return answer

    def example(self, op: OpOverload, args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> torch.Tensor:
        """What an op gives for the example.

        Raises:
            NoAnswer: nobody knows, or this is not the first recording.
        """
        try:
            result: torch.Tensor = self._known.call(op, args, kwargs)
        except Exception as unknown:
            raise NoAnswer("the example does not tell how large a result is") from unknown
        return result

    def number(self, value: float) -> float | Number:
        """What ``Tensor.item`` is to give, after it was answered."""
        read, self._read = self._read, None
        return value if read is None else Number(value, read, self)

    def decide(
        self, number: torch.Tensor, op: Callable[..., object] | None, other: float | None, value: float
    ) -> float:
        """Take down what code makes of a number: a comparison, or (without ``op``) all of it."""
        read = self.node_of[number]
        graph, asked = read.graph, (op, other)
        answer = self._repeated(asked, graph) if graph is not self._first else self._answered(asked, value, read)
        if answer.decision is not None:
            with disable_current_modes(), torch._C._DisablePythonDispatcher():
                if op is None or other is None:
                    holds = holding(graph, _ITEM, (read,), {}, value)
                else:
                    holds = comparing(graph, read, op, other, bool(value))
            assert holds is not None
            add_check(graph, holds, str(answer.decision))
        return answer.value

    def _answered(self, op: object, value: float, written: object, *, listed: bool = True, what: str = "") -> Answer:
        place = reading()
        decision = Decision(
            what + (place.text or str(op)), value, place.source, bool(self._known.behind(written) & self._weights)
        )
        self._log.append(Answer(op, place, value, decision if listed and not place.only_raises else None))
        return self._log[-1]

    def _repeated(self, op: object, graph: fx.Graph) -> Answer:
        op = torch.Tensor.__int__ if op is _ITEM and self.asked_by() in _INTEGRAL else op
        before, index = self._again or (None, 0)
        index = index if before is graph else 0
        answer = self._log[index] if index < len(self._log) else None
        self._again = (graph, index + 1)
        if answer is None or answer.op != op or answer.place != reading():
            raise NoAnswer("at other sizes its code looks at other values")
        return answer


class Number:
    """A number of the example.

    Compared with a plain one, the outcome is decided. Computed with, it is computed anew for each input. Anything else
    takes it as it is, which decides all of it.

    Args:
        value: for the example.
        read: the tensor of one element that holds it.
        decides: takes down what is decided.
    """

    def __init__(self, value: float, read: torch.Tensor, decides: Answers) -> None:
        self._value, self._read, self._decides = value, read, decides

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._value)

    @classmethod
    def __torch_function__(cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").strip("_") in _COMPUTES and len(args) == 2 and not kwargs:
            args = [_as_operand(each, args[1 - place]) for place, each in enumerate(args)]
        plain = lambda leaf: leaf._plain() if type(leaf) is Number else leaf  # noqa: E731
        args, kwargs = pytree.tree_map(plain, (tuple(args), kwargs))
        return func(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain(), name)

    def _plain(self) -> float:
        return self._decides.decide(self._read, None, None, self._value)

    def _compared(self, op: Callable[..., bool], other: Any) -> float:
        if type(other) not in (int, float):
            return op(self._plain(), other._plain() if type(other) is Number else other)
        return self._decides.decide(self._read, op, other, op(self._value, other))

    def _computed(self, op: Callable[..., Any], other: object) -> Any:
        """The result as Python computes it: in 64 bits."""
        value, read = (other._value, other._wide()) if type(other) is Number else (other, other)
        if type(self._value) is float or type(value) is float:
            return Number(op(self._value, value), op(self._wide(), read), self._decides)
        return op(self._plain(), other._plain() if type(other) is Number else other)

    def _wide(self) -> torch.Tensor:
        return self._read.reshape(()).to(torch.float64)


def _as_operand(value: object, other: object) -> object:
    """What stands for a number beside a tensor: one of no dims, where the type of the result is the same with it."""
    if type(value) is not Number or not isinstance(other, torch.Tensor) or not other.is_floating_point():
        return value
    single = value._read.reshape(()) if value._read.dim() else value._read
    return single if other.dim() else single.to(other.dtype)


_COMPUTES = ("add", "radd", "sub", "rsub", "mul", "rmul", "div", "rdiv", "truediv", "true_divide")
"""Functions of torch of a tensor and a number that take a tensor for the number."""


def _comparison(op: Callable[..., bool]) -> Callable[[Number, object], object]:
    return lambda self, other: self._compared(op, other)


def _computation(op: Callable[..., object], *, turned: bool) -> Callable[[Number, object], object]:
    def method(self: Number, other: object) -> object:
        if isinstance(other, torch.Tensor) or not isinstance(other, (int, float)):
            return NotImplemented
        return self._computed((lambda a, b: op(b, a)) if turned else op, other)

    return method


def _on_plain(name: str) -> Callable[..., object]:
    def method(self: Number, *args: object) -> object:
        plain = [each._plain() if type(each) is Number else each for each in args]
        return getattr(self._plain(), name)(*plain)

    return method


for _op in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
    setattr(Number, f"__{_op.__name__}__", _comparison(_op))
for _op in (operator.add, operator.sub, operator.mul, operator.truediv):
    setattr(Number, f"__{_op.__name__}__", _computation(_op, turned=False))
    setattr(Number, f"__r{_op.__name__}__", _computation(_op, turned=True))
for _name in (
    "floordiv", "rfloordiv", "mod", "rmod", "divmod", "rdivmod", "pow", "rpow", "neg", "pos", "abs", "round", "trunc",
    "floor", "ceil", "int", "float", "bool", "hash", "repr", "str", "format", "and", "rand", "or", "ror", "xor", "rxor",
    "lshift", "rlshift", "rshift", "rrshift", "invert",
):  # fmt: skip
    setattr(Number, f"__{_name}__", _on_plain(f"__{_name}__"))


def _index(self: Number) -> int:
    return operator.index(self._plain())  # type: ignore[arg-type]


Number.__index__ = _index  # type: ignore[attr-defined]
