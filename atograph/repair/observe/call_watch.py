"""The calls to torch that a model makes while it runs: module, place, and arguments that are no tensors."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from atograph.capture.recording.origins import CallInSource, call_in_source
from atograph.values.eval_mode import eval_mode, same_buffers

CallSite = tuple[str, CallInSource]
"""A module by name, and a place in the code that its ``forward`` runs."""

Handler = Callable[[CallSite, int, Callable[..., object], Sequence[object], Mapping[str, object]], object]
"""Takes site, function, args and kwargs of a call, and makes it; second, which run of the module this is."""

Left = Callable[[str, int, object], None]
"""Takes the name of a module that has run, which run that was, and what it gave."""


def run_watched(model: nn.Module, run: Callable[[], object], handler: Handler, left: Left | None = None) -> object:
    """Run a model, in eval mode and without gradients, with each of its calls to torch made by ``handler``.

    Args:
        model: the model.
        run: calls it.
        handler: makes its calls.
        left: is told what modules give.
    """
    with (
        eval_mode(model),
        same_buffers(model),
        torch.no_grad(),
        _modules_entered(model, left) as stack,
        _Watching(stack, handler),
    ):
        return run()


def failed_in(error: BaseException) -> str:
    """The name of the innermost module whose ``forward`` raised an error in a watched run."""
    return str(getattr(error, _WHERE, ""))


_WHERE = "_atograph_module"


@contextmanager
def _modules_entered(model: nn.Module, left: Left | None) -> Iterator[list[tuple[str, int]]]:
    """The names of the modules whose ``forward`` runs, and which run of each it is, innermost last."""
    names = {id(module): name for name, module in reversed(list(model.named_modules()))}
    stack: list[tuple[str, int]] = []
    runs: Counter[str] = Counter()

    def enter(module: nn.Module, _args: object) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        name = names.get(id(module), "")
        runs[name] += 1
        stack.append((name, runs[name]))

    def leave(_module: nn.Module, _args: object, result: object) -> None:
        if torch.compiler.is_dynamo_compiling():
            return
        (name, run), error = stack.pop(), sys.exc_info()[1]
        if error is not None and not hasattr(error, _WHERE):
            setattr(error, _WHERE, name)
        if error is None and left is not None:
            left(name, run, result)

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield stack
    finally:
        for hook in hooks:
            hook.remove()


class _Watching(TorchFunctionMode):
    def __init__(self, stack: list[tuple[str, int]], handler: Handler) -> None:
        super().__init__()
        self._stack, self._handler = stack, handler

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if torch.compiler.is_dynamo_compiling():  # it traces the body of a region, and would trace this
            return func(*args, **(kwargs or {}))
        module, run = self._stack[-1] if self._stack else ("", 0)
        return self._handler((module, call_in_source(func)), run, func, args, kwargs or {})
