"""A log of a model's calls to torch, with the numbers that went in and the sizes that came out, to compare two runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from atograph.passes.sizes import BATCH, substitute

_LIKE_THEIR_INPUT = {functional.batch_norm, torch.batch_norm, functional.layer_norm, functional.group_norm}


class Call(NamedTuple):
    """One call: the function, the numbers among its arguments, and the sizes of the tensors that it gave."""

    function: Any
    numbers: tuple[Any, ...]
    sizes: tuple[int, ...]


class Calls(TorchFunctionMode):
    """While it is entered, ``log`` gets each call to torch but for those that only look at a tensor's properties."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.call(func, args, kwargs or {})
        if getattr(func, "__name__", "") != "__get__":
            self.log.append(Call(func, tuple(_numbers((args, kwargs))), tuple(_sizes(result))))
        return result

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run the function; for the sizes alone, a norm need not run."""
        if func in _LIKE_THEIR_INPUT:
            return torch.empty_like(args[0])
        return func(*args, **kwargs)


def first_difference(recorded: Sequence[Call], other: Sequence[Call], batch: int) -> str:
    """Where a run for a batch of ``batch`` does something else than one for `sizes.BATCH`; empty if nowhere."""
    for one, two in zip(recorded, other, strict=False):
        name = getattr(two.function, "__name__", str(two.function))
        if one.function is not two.function:
            return f"{name} is called instead of {getattr(one.function, '__name__', one.function)}"
        for a, b in ((one.numbers, two.numbers), (one.sizes, two.sizes)):
            if len(a) != len(b) or not all(_follows(x, y, batch) for x, y in zip(a, b, strict=True)):
                return f"what {name} gets or gives does not follow the batch"
    return "" if len(recorded) == len(other) else "the number of calls is another one"


def _follows(number: Any, other: Any, batch: int) -> bool:
    if number == other or number != number:
        return True
    multiple = type(number) in (int, float) and number % BATCH == 0
    return multiple and bool(substitute(int(number), lambda _prime: batch) == other)


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, (bool, int, float)):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        yield from _numbers(list(value.values()))
    elif isinstance(value, slice):
        yield from _numbers((value.start, value.stop, value.step))


def _sizes(value: Any) -> Iterator[int]:
    if isinstance(value, torch.Tensor):
        yield from value.shape
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _sizes(item)
