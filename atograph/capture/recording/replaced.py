"""Other tensors in the places of a model's own, for one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from atograph.capture.recording.recorder import NotTraced


@contextmanager
def replaced(model: nn.Module, old: list[torch.Tensor], new: list[torch.Tensor]) -> Iterator[None]:
    """Within it, the model holds other tensors, wherever one of the old ones stands."""
    replacement = {id(before): after for before, after in zip(old, new, strict=True)}
    places = []
    with ExitStack() as restored:
        for module in model.modules():
            for table in (module._parameters, module._buffers, vars(module)):
                for name, tensor in list(table.items()):
                    if isinstance(tensor, torch.Tensor):
                        made = replacement.get(id(tensor), tensor)
                        if made is not tensor:
                            places.append((table, name, made))
                            # by assignment: a recurrent layer keeps its weights in a list as well, and watches for this
                            setattr(module, name, made)
                            restored.callback(setattr, module, name, tensor)
        yield
        for table, name, made in places:
            if type(table) is dict and not _remade(made, table.get(name)):
                raise NotTraced(f"its code puts another tensor in the place of {name}")


def _remade(made: torch.Tensor, after: object) -> bool:
    """Whether a tensor is still there after a call, or a table of another size, made because it was needed."""
    if after is made or isinstance(made, nn.Parameter):
        return after is made
    return isinstance(after, torch.Tensor) and after.shape != made.shape


def held(model: nn.Module) -> set[int]:
    """The tensors that a model's modules have for plain attributes."""
    return {id(value) for module in model.modules() for value in vars(module).values()}
