"""Other tensors in the place of a module's own, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@contextmanager
def standing_in(model: nn.Module, others: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """Put tensors in the place of a module's own while the block runs.

    Args:
        model: has its own again in the end.
        others: id of a parameter, a buffer or a plain tensor attribute → what stands there meanwhile, wherever it does.
    """
    with ExitStack() as restored:
        for owner, name, tensor in held_tensors(model):
            if id(tensor) in others:
                # by assignment: a recurrent layer keeps its weights in a list as well, and watches for this
                setattr(owner, name, others[id(tensor)])
                restored.callback(setattr, owner, name, tensor)
        yield


def stand_in(own: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A value that may stand in the place of a module's own tensor: a parameter in that of one."""
    return nn.Parameter(value, requires_grad=own.requires_grad) if isinstance(own, nn.Parameter) else value


def held_tensors(model: nn.Module) -> list[tuple[nn.Module, str, torch.Tensor]]:
    """Each parameter, buffer and plain tensor attribute with the module that holds it."""
    return [
        (module, name, tensor)
        for module in model.modules()
        for table in (module._parameters, module._buffers, vars(module))
        for name, tensor in table.items()
        if isinstance(tensor, torch.Tensor) and not is_lazy(tensor)
    ]
