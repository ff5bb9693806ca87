"""Corrected calls: what a slim module does where its code keeps a width that no attribute holds.

A layer norm goes on counting the removed zeros; attention keeps the scale of its old width; a view gets the width
that its code takes from somewhere else. Such a module's ``forward`` runs under a `TorchFunctionMode`, which changes the
arguments of single calls, found by their place in the code, or makes them as the slim program does. The rest of the
user's code runs as it stands, in training too.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import isclose
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from atograph.capture.recording.origins import CallInSource, call_in_source
from atograph.passes.torch_private import pytree
from atograph.repair.observe.arguments import tensor_leaves, with_leaves, with_tensors
from atograph.repair.own_forward import OwnForward


@dataclass(frozen=True, eq=False)
class Scaled:
    """A number that becomes another one, and in proportion where it follows the batch or the length of a sequence."""

    before: float
    after: float

    def __call__(self, given: float) -> float:
        """What a number becomes; of an integer another one."""
        if isinstance(given, int) and isinstance(self.after, int) and isinstance(self.before, int):
            return int(given * Fraction(self.after, self.before))
        return given * (self.after / self.before)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scaled) and isclose(
            self.after * other.before, other.after * self.before, rel_tol=1e-12
        )

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return f": {self.before:.6g} → {self.after:.6g}"


@dataclass(frozen=True, eq=False)
class Correction:
    """What becomes of one call.

    Attributes:
        arguments: number of an argument that is no tensor → its value, or how it is scaled.
        keywords: arguments that are added.
        ops: what is done instead; it takes the call's tensors, each once.
        function: what is called instead, with the same arguments.
        tensors: number of an argument that is a tensor → a constant in its place.
    """

    arguments: Mapping[int, object] = field(default_factory=dict)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    ops: fx.GraphModule | None = None
    function: Callable[..., object] | None = None
    tensors: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Whether both do the same; a module that is called twice has the same ops at the same place."""
        return isinstance(other, Correction) and self._key == other._key

    def __hash__(self) -> int:
        return hash(repr(self._key))

    @property
    def _key(self) -> tuple[object, ...]:
        tensors = {number: value.tolist() for number, value in self.tensors.items()}
        ops = None if self.ops is None else self.ops.code
        return dict(self.arguments), dict(self.keywords), ops, self.function, tensors

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return bool(self.arguments or self.keywords or self.function or self.tensors or self.ops is not None)

    @property
    def only_sizes(self) -> bool:
        """Whether the call stays what it is, with other integers."""
        values = [value.after if isinstance(value, Scaled) else value for value in self.arguments.values()]
        others = self.keywords or self.function or self.tensors or self.ops is not None
        return not others and all(type(value) is int for value in values)

    def __call__(self, func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """Call ``func``, or do what takes its place."""
        if self.ops is not None:
            tensors = list(dict.fromkeys(tensor_leaves((args, kwargs))))
            narrow = tensors[0].dtype
            if narrow not in (torch.float16, torch.bfloat16):
                return _named(func, self.ops(*tensors))
            wide = self.ops(*(x.float() if x.is_floating_point() else x for x in tensors))  # as torch's own norms do
            return _named(func, pytree.tree_map(lambda x: _narrowed(x, narrow), wide))
        args, kwargs = with_leaves((args, kwargs), self._changed)
        if self.tensors:
            numbers = itertools.count()
            args, kwargs = with_tensors((args, kwargs), lambda given: self._constant(next(numbers), given))
        return (self.function or func)(*args, **{**kwargs, **self.keywords})

    def needless(self, func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
        """Whether the call as it stands does the same: ``x.chunk(2)`` halves any width.

        Both are tried on other numbers, because those that the call has may be zeros, and on negative ones, because a
        bound may hold for all others.
        """
        return all(self._does_nothing(func, args, kwargs, sign) for sign in (1, -1))

    def _does_nothing(
        self, func: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], sign: int
    ) -> bool:
        outcomes = []
        for correction in (Correction(), self):
            tried = {tensor: _probe(tensor, sign) for tensor in dict.fromkeys(tensor_leaves((args, kwargs)))}
            own_args, own_kwargs = with_tensors((args, kwargs), tried.__getitem__)
            try:
                result = correction(func, own_args, own_kwargs)
            except Exception:
                return False
            outcomes.append(
                [*tensor_leaves(result if isinstance(result, (tuple, list)) else (result,)), *tried.values()]
            )
        first, second = outcomes
        return len(first) == len(second) and all(map(torch.equal, first, second))

    def _constant(self, number: int, given: torch.Tensor) -> torch.Tensor:
        return self.tensors[number].to(given.device) if number in self.tensors else given

    def _changed(self, number: int, given: Any) -> object:
        value = self.arguments.get(number, given)
        return value(given) if isinstance(value, Scaled) else value

    def __str__(self) -> str:
        if self.ops is not None:
            return "as the slim program does it"
        changes = [f"argument {number + 1}{_change(value)}" for number, value in self.arguments.items()]
        changes += [f"tensor {number + 1} as in the dense model" for number in self.tensors]
        return ", ".join([*changes, *(f"{name}={value:.6g}" for name, value in self.keywords.items())])


def _narrowed(value: object, dtype: torch.dtype) -> object:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _named(func: object, result: object) -> object:
    """Several results under the names that a function of torch gives them (``values`` and ``indices``)."""
    kind = getattr(torch.return_types, getattr(func, "__name__", ""), None)
    return kind(result) if kind is not None and type(result) is tuple else result


def _probe(tensor: torch.Tensor, sign: int) -> torch.Tensor:
    """A tensor of the same shape with other numbers of one sign, the same ones each time."""
    if not tensor.is_floating_point():
        return tensor.clone()
    numbers = torch.arange(tensor.numel(), device=tensor.device).mul(0.6180339887).frac().add(0.5).mul(sign)
    return torch.empty_like(tensor).copy_(numbers.to(tensor.dtype).view(tensor.shape))


def _change(value: object) -> str:
    return str(value) if isinstance(value, Scaled) else f" = {value}"


Corrections = Mapping[CallInSource, tuple[Correction, ...]]
"""What becomes of a call, by where it stands: the one thing each time, or of each time in a run of ``forward``."""


def correct_calls(module: nn.Module, calls: Corrections) -> None:
    """Have the ``forward`` of a module make some of its calls to torch in another way from now on."""
    module.forward = _Forward(module, dict(calls))
    module.register_forward_pre_hook(_no_fast_path)


def is_corrected(module: nn.Module) -> bool:
    """Whether some of a module's calls are made in another way."""
    return isinstance(vars(module).get("forward"), _Forward)


def _no_fast_path(_module: nn.Module, _args: object) -> None:
    """torch's transformer layers run as one op in eval mode, with the widths as they were, unless there are hooks."""


class _Forward(OwnForward):
    """The ``forward`` of a module with corrected calls: in compiled code, calls to torch have no place."""

    def __init__(self, module: nn.Module, calls: Corrections) -> None:
        super().__init__(module)
        self.calls = calls

    def run(self, *args: object, **kwargs: object) -> object:
        """With its calls corrected."""
        with _Correcting(self.calls) as correcting:
            result = self.__wrapped__(*args, **kwargs)
        if correcting.other or (not correcting.made and not self.module.training):
            raise RuntimeError(
                f"a {type(self.module).__name__} does not make the calls that atograph corrects in it: it was made "
                "slim with other code (of the model, or of Python), or runs in another way than in the run that it was "
                "checked with. Make it slim again with this code, from its plan: atograph.slim(graph, plan).module."
            )
        return result


def _refuse_checkpoint() -> None:
    """What runs under `torch.utils.checkpoint` within a ``forward`` runs again in the backward pass, uncorrected.

    Raises:
        RuntimeError: the call that is being made is in such a part.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code is not _Forward.run.__code__:
        if frame.f_code.co_filename.endswith(_CHECKPOINT):
            raise RuntimeError(
                "torch.utils.checkpoint is used within a forward whose calls atograph corrects, and would run that "
                "part again without the corrections. Checkpoint whole modules, or none here."
            )
        frame = frame.f_back


_CHECKPOINT = ("torch/utils/checkpoint.py", "torch\\utils\\checkpoint.py")


class _Correcting(TorchFunctionMode):
    """Corrects calls while one ``forward`` runs.

    Attributes:
        made: how often each of them was made.
        other: whether one was made more often, or less often, than there are corrections for.
    """

    def __init__(self, calls: Corrections) -> None:
        super().__init__()
        self._calls = calls
        self._names = {place[-1] for place in calls}
        self.made: Counter[CallInSource] = Counter()

    @property
    def other(self) -> bool:
        """See above."""
        return any(1 < len(each) != self.made[place] > 0 for place, each in self._calls.items())

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if getattr(func, "__name__", str(func)) in self._names and (place := call_in_source(func)) in self._calls:
            each, time = self._calls[place], self.made[place]
            self.made[place] += 1
            if torch.is_grad_enabled():
                _refuse_checkpoint()
            return each[min(time, len(each) - 1)](func, args, kwargs or {})
        return func(*args, **(kwargs or {}))
