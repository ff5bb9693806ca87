"""The user's model put into eval mode for a while, and copies of it; either way the model stays as it is."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy

from atograph.passes.errors import UserError
from atograph.snapshot import Snapshot

M = TypeVar("M", bound=nn.Module)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode and without what it keeps from earlier runs; afterwards all is as before.

    Some modules compute a table from their weights once and keep it (LeViT's attention biases); by convention
    ``train()`` makes them forget it. One kept while tensors are fake, or from before a mask, would be wrong.
    """
    flags = [(module, module.training) for module in model.modules()]
    with unchanged(model), _same_values(model):
        model.train()
        model.eval()
        try:
            yield
        finally:
            for module, training in flags:
                if module.training != training:  # of a ScriptModule it is no attribute like others
                    module.training = training


@contextmanager
def forward_within(
    model: nn.Module, around: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
) -> Iterator[None]:
    """Within it, the model's ``forward`` is ``around(forward, args, kwargs)``."""
    forward, own = model.forward, "forward" in vars(model)

    @wraps(forward)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return around(forward, args, kwargs)

    model.forward = replaced
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Afterwards the model's modules, and the files that define them, hold what they held before.

    Within it nothing is compiled: `torch.compile` would leave its own in these files, and compile for modes and tensors
    that no training has.
    """
    before = Snapshot(model)
    with uncompiled():
        try:
            yield
        finally:
            before.restore()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within it, what `torch.compile` was asked to compile runs as it is written."""
    if "torch._dynamo" not in sys.modules:  # nobody has asked, and to import it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _same_values(model: nn.Module) -> Iterator[None]:
    """Undo what modules do to their tensors when they change mode (some merge weights for evaluation)."""
    own = {
        id(tensor): tensor
        for module in model.modules()
        if type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval
        for tensor in (*module.parameters(), *module.buffers())
        if not is_lazy(tensor) and not tensor.is_meta and not isinstance(tensor, FakeTensor)
    }
    before = [(tensor, tensor.detach().clone()) for tensor in own.values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                if not torch.equal(tensor, values):
                    tensor.data.copy_(values)


def copy_of(model: M, shared: Iterable[torch.Tensor] = ()) -> M:
    """A deep copy of a model, without what its modules keep from earlier runs.

    Args:
        model: left as it is.
        shared: tensors that are not copied, because the caller puts others in their place.

    Raises:
        UserError: the model holds something that cannot be copied.
    """
    flags = [module.training for module in model.modules()]
    try:
        with eval_mode(model):
            copied = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    except Exception as error:
        raise UserError(
            f"the model cannot be copied: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
            hint="A common cause is the old torch.nn.utils.weight_norm; torch.nn.utils.parametrizations has a new one.",
        ) from error
    for module, training in zip(copied.modules(), flags, strict=True):
        module.training = training
    return copied
